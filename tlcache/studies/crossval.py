"""Cross-validation of a recipe on arrays of features: how well its heads do on new images.

Every image is held out once a repeat. Nothing is chosen on a fold that is held out: its head is
that of the recipe's last epoch. The study takes arrays; what a data set needs before it and beside
it, groups and a look for copies, follows it. Draws nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import copies
from tlcache.cache.snapshots import Snapshot
from tlcache.core.errors import OptionError
from tlcache.core.progress import Tick
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.groups import below_classes, groups_from_csv, groups_from_pattern
from tlcache.data.splits import check_folds, draw_folds
from tlcache.evaluation.metrics import (
    Evaluation,
    corrected_resampled_interval,
    evaluate,
    share_interval,
    variance_by_groups,
    wilson_interval,
)
from tlcache.features.read import Features
from tlcache.heads.recipe import Recipe, reseeded
from tlcache.heads.rows import Array, Labels
from tlcache.heads.train import train_separately

MOST_REPEATS = 1000
CORRECTED = "corrected resampled t (Nadeau and Bengio 2003)"
WILSON, BY_GROUPS = "Wilson", "Wilson, of as many images as the groups are worth"


@dataclasses.dataclass(frozen=True)
class Fold:
    """One head: on how many images it was trained, and how many of those held out it gets right.

    Repeat and fold are counted from 1.
    """

    repeat: int
    fold: int
    trained_on: int
    held_out: int
    right: int

    @property
    def accuracy(self) -> float:
        """Share of the held-out images."""
        return self.right / self.held_out

    def describe(self) -> dict[str, Any]:
        """Plain JSON values."""
        interval = list(wilson_interval(self.right, self.held_out))
        return dataclasses.asdict(self) | {"accuracy": self.accuracy, "accuracy_ci95": interval}


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """How a recipe did.

    Attributes:
        folds: K · R heads, those of a repeat together.
        repeats: R evaluations, each of all images by the heads that were not trained on them.
        accuracy: Mean over all folds.
        accuracy_ci95: (low, high), of other images and other training sets of the size.
        interval: How that interval was made: corrected for training sets that overlap, unless
            that of the images out of fold is wider, as folds that are alike by chance make it.
        sd_folds: Standard deviation over the folds of a repeat: other images held out.
        sd_repeats: Of the repeats' means: other folds, other first heads and orders, the same
            images. None with one repeat.
        out_of_fold: Share of images that heads not trained on them get right, all repeats pooled.
        out_of_fold_ci95: (low, high), of other images judged by these heads.
        out_of_fold_interval: How that was made.
        groups: How many there are; None without.
        seconds: Of folds, training and judging.
    """

    folds: list[Fold]
    repeats: list[Evaluation]
    accuracy: float
    accuracy_ci95: tuple[float, float]
    interval: str
    sd_folds: float
    sd_repeats: float | None
    out_of_fold: float
    out_of_fold_ci95: tuple[float, float]
    out_of_fold_interval: str
    groups: int | None
    seconds: float

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        return {
            "images": self.repeats[0].n,
            "groups": self.groups,
            "classes": list(self.repeats[0].classes),
            "selected_on": "none",
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "interval": self.interval,
            "sd_folds": self.sd_folds,
            "sd_repeats": self.sd_repeats,
            "out_of_fold": {
                "accuracy": self.out_of_fold,
                "accuracy_ci95": list(self.out_of_fold_ci95),
                "interval": self.out_of_fold_interval,
            },
            "folds": [fold.describe() for fold in self.folds],
            "repeats": [evaluation.to_dict() for evaluation in self.repeats],
        }


def cross_validate(
    features: Array,
    labels: Labels,
    *,
    classes: Sequence[str],
    folds: int = 5,
    repeats: int = 3,
    groups: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    progress: Tick | None = None,
) -> CrossValidation:
    """Train a head beside each fold of each repeat, and judge it on the fold.

    Args:
        features: (N, D).
        labels: (N,), indices into ``classes``.
        classes: Their names.
        folds: K.
        repeats: R; each has folds, first heads and orders of its own.
        groups: Of each of the N images; those of a group stay in one fold.
        recipe: The tutorial's by default; its seed is that of everything.
        progress: Called with how many heads are done, and of how many.

    Raises:
        OptionError: If the folds or repeats make no sense.
        DataError: If a class has too few images or groups, or a loss is no longer finite.
    """
    started, recipe = time.perf_counter(), recipe or Recipe()
    check_plan(folds, repeats)
    fold_of = [
        draw_folds(labels, folds, recipe.seed, repeat=repeat, classes=classes, groups=groups)
        for repeat in range(repeats)
    ]
    held_out = [np.flatnonzero(of == k) for of in fold_of for k in range(folds)]
    logits = train_separately(
        features,
        labels,
        [np.flatnonzero(of != k) for of in fold_of for k in range(folds)],
        [reseeded(recipe, i // folds, 1) for i in range(len(held_out))],
        classes=len(classes),
        judge=lambda i, head: head.logits(features[held_out[i]]),
        progress=progress,
    )
    said = np.empty((repeats, len(labels), len(classes)), np.float32)
    for i, rows in enumerate(held_out):
        said[i // folds, rows] = logits[i]
    return _summed_up(said, held_out, labels, classes, groups, started)


def _summed_up(
    said: Array,
    held_out: Sequence[Labels],
    labels: Labels,
    classes: Sequence[str],
    groups: Sequence[str] | None,
    started: float,
) -> CrossValidation:
    """Of (R, N, C) logits, those of each image by the head of a repeat not trained on it."""
    repeats, n, folds = len(said), len(labels), len(held_out) // len(said)
    right = said.argmax(axis=2) == labels
    judged = []
    for i, rows in enumerate(held_out):
        repeat, fold = divmod(i, folds)
        hit = int(right[repeat, rows].sum())
        judged.append(Fold(repeat + 1, fold + 1, n - len(rows), len(rows), hit))
    hits, count = right.mean(axis=0), None if groups is None else len(set(groups))
    accuracies = np.array([fold.accuracy for fold in judged]).reshape(repeats, folds)
    pooled, means = _pooled(hits, groups), accuracies.mean(axis=1)
    interval = corrected_resampled_interval(accuracies, 1 / (folds - 1))
    by_images = WILSON if count is None else BY_GROUPS
    # Folds may be alike by chance, all right say: that tells no more than so many images can.
    wide = interval[1] - interval[0] > pooled[1] - pooled[0]
    return CrossValidation(
        folds=judged,
        repeats=[evaluate(logits, labels, classes) for logits in said],
        accuracy=float(accuracies.mean()),
        accuracy_ci95=interval if wide else pooled,
        interval=CORRECTED if wide else by_images,
        sd_folds=math.sqrt(accuracies.var(axis=1, ddof=1).mean()),
        sd_repeats=float(means.std(ddof=1)) if repeats > 1 else None,
        out_of_fold=float(hits.mean()),
        out_of_fold_ci95=pooled,
        out_of_fold_interval=by_images,
        groups=count,
        seconds=time.perf_counter() - started,
    )


def _pooled(hits: NDArray[np.float64], groups: Sequence[str] | None) -> tuple[float, float]:
    """Of other images. An image that is judged in each repeat is still one image."""
    share, n = min(float(hits.mean()), 1.0), len(hits)
    if groups is None:
        return share_interval(share, n, [])
    _, of_group = np.unique(np.asarray(groups, object), return_inverse=True)
    count = int(of_group.max()) + 1
    return share_interval(share, n, [(variance_by_groups(hits, of_group), count - 1)], count)


def check_plan(folds: int, repeats: int) -> None:
    """Raise an OptionError for folds or repeats that make no sense, whatever the data."""
    check_folds(folds)
    if not 1 <= repeats <= MOST_REPEATS:
        expected = f"a whole number from 1 to {MOST_REPEATS}"
        remedy = "correct it, or leave it out for the default"
        raise OptionError("--repeats", expected, str(repeats), remedy)


@dataclasses.dataclass(frozen=True)
class Grouping:
    """A CSV or a pattern (``data.groups``) that says which images belong together; or neither.

    Raises:
        OptionError: If both are given.
    """

    table: Path | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.table is not None and self.pattern is not None:
            raise OptionError(
                "--groups and --group-pattern", "one of them", "both", "leave one out"
            )

    def of(self, paths: Sequence[str], classes: Sequence[str]) -> list[str] | None:
        """Each image's group, (n,) of n paths; None where nothing is said of groups.

        Raises:
            TlcacheError: If an image has no group.
        """
        if self.table is not None:
            return groups_from_csv(self.table, paths)
        if self.pattern is not None:
            return groups_from_pattern(self.pattern, below_classes(paths, classes))
        return None


def check_dataset(dataset: ImageDataset, folds: int, seed: int, grouping: Grouping) -> None:
    """Refuse images that cannot be divided into folds, before they are embedded.

    Raises:
        TlcacheError: If a class has too few images or groups, or an image has no group.
    """
    pool = np.flatnonzero(dataset.splits != SPLITS.index("test"))
    groups = grouping.of([dataset.paths[i] for i in pool], dataset.classes)
    draw_folds(dataset.labels[pool], folds, seed, classes=dataset.classes, groups=groups)


def pooled(features: Features) -> Features:
    """Train and val, which are one pool to cross-validation, without test."""
    count = int(np.searchsorted(features.splits, SPLITS.index("test")))
    rows = {name: getattr(features, name)[:count] for name in ("features", "labels", "splits")}
    return dataclasses.replace(features, **rows, paths=features.paths[:count])


def copies_apart(
    snapshot: Snapshot, paths: Sequence[str], groups: Sequence[str] | None = None
) -> int:
    """How many images have copies that may come into another fold, so that the numbers flatter.

    The paths are of the images that are divided into folds, and the groups of each of them.
    """
    places = dict(zip(paths, groups or paths, strict=True))
    names = snapshot.dataset.paths
    alike = ([p for row in rows if (p := names[row]) in places] for rows in copies(snapshot))
    return sum(len(same) for same in alike if len({places[path] for path in same}) > 1)
