"""Weighted k-nearest-neighbour classification of features: what they are worth without training.

Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018,
and Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021: the k
training rows that are nearest by cosine vote for their classes with weights exp(similarity / T).
k is chosen by leave-one-out on the training rows, so that every other split is judged by what it
did not choose. Reads no file; draws nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import copy_ids, rows_of_features
from tlcache.cache.snapshots import Snapshot
from tlcache.core.errors import DataError, OptionError
from tlcache.core.progress import Tick, part_of
from tlcache.evaluation.metrics import wilson_interval
from tlcache.features.read import Features
from tlcache.studies.neighbours import MEMORY, Ids, Nearest, Rows, nearest

KS = (1, 2, 5, 10, 20, 50, 100, 200)
MOST_K = 1000
TEMPERATURE = 0.07
SELECTED_ON = "train (leave-one-out)"
MOST_LEFT_OUT = 10_000
"""So many training rows, drawn at random, choose k where there are more: to leave out each of a
million takes hours, and the accuracy of 10,000 is known to 0.01 (95%)."""

_VOTES_AT_ONCE = 1 << 21

Labelled = tuple[Rows, Ids]
"""(n, D) rows and their (n,) labels."""


@dataclasses.dataclass(frozen=True)
class Score:
    """How many of a split's n images the neighbours got right."""

    n: int
    right: int

    @property
    def accuracy(self) -> float:
        """Share of images that are right."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy, Wilson's."""
        return wilson_interval(self.right, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, named as an Evaluation's."""
        return {"n": self.n, "accuracy": self.accuracy, "accuracy_ci95": list(self.interval)}


@dataclasses.dataclass(frozen=True)
class KnnResult:
    """Accuracies by the number of neighbours.

    Attributes:
        ks: Numbers of neighbours, rising.
        k: The one that gets most of the left-out training images right; of equals the lowest.
        temperature: Of the votes.
        left_out: Of training images without their own vote, one score a k: what chose k.
        scores: Of each other split, one a k.
        capped: Whether a k that was asked for is larger than the number of training rows.
    """

    ks: tuple[int, ...]
    k: int
    temperature: float
    left_out: list[Score]
    scores: dict[str, list[Score]]
    capped: bool

    def chosen(self) -> dict[str, Score]:
        """Of each split that did not choose k, the score at the chosen one."""
        at = self.ks.index(self.k)
        return {split: scores[at] for split, scores in self.scores.items()}

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        columns = {"left_out": self.left_out, **self.scores}
        by_k: list[dict[str, Any]] = [
            {"k": k} | {name: scores[at].to_dict() for name, scores in columns.items()}
            for at, k in enumerate(self.ks)
        ]
        return {
            "k": self.k,
            "selected_on": SELECTED_ON,
            "temperature": self.temperature,
            "evaluation": {split: score.to_dict() for split, score in self.chosen().items()},
            "by_k": by_k,
        }


def knn_accuracy(
    train: Labelled,
    judged: Mapping[str, Labelled],
    classes: int,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    copies: Ids | None = None,
    most_left_out: int = MOST_LEFT_OUT,
    seed: int = 0,
    memory: int = MEMORY,
    progress: Tick | None = None,
) -> KnnResult:
    """Judge features by their neighbours' votes, with k chosen by leave-one-out on train.

    Args:
        train: (n, D) rows and (n,) labels in 0..classes-1, who vote.
        judged: (m, D) and (m,) of each other split.
        classes: How many classes there are.
        ks: Numbers of neighbours to try; those over n become n.
        temperature: Of the votes, exp(similarity / temperature).
        copies: (n,) integers, equal for copies of one image, which are left out together: else
            each would be given away by its copy. None: no row has a copy.
        most_left_out: So many training rows choose k, drawn by ``seed`` where there are more.
        memory: Bytes to take beside the rows, about.
        progress: Told how many of all similarities are known.

    Raises:
        OptionError: If a k, the temperature or the seed makes no sense.
        DataError: If train has fewer than two classes or distinct images, a split is empty, labels
            do not fit their rows, or a row is not finite.
    """
    wanted = check_votes(ks, temperature, seed)
    everything = {"train": train, **judged}
    for name, (split_rows, labels) in everything.items():
        _check_labels(name, split_rows, np.asarray(labels), classes)
    rows, labels = train[0], np.asarray(train[1])
    copies = np.arange(len(rows)) if copies is None else np.asarray(copies)
    _check_voters(labels, copies)
    tried = tuple(sorted({min(k, len(rows)) for k in wanted}))
    left_out = np.arange(len(rows))
    if len(rows) > most_left_out:
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        left_out = np.sort(random.choice(len(rows), most_left_out, replace=False))
    counts = [len(left_out), *(len(split_rows) for split_rows, _ in judged.values())]
    done = 0

    def score(asked: Rows, truths: Ids, ids: tuple[Ids, Ids] | None) -> list[Score]:
        nonlocal done
        tick = part_of(progress, done * len(rows), sum(counts) * len(rows))
        found = nearest(asked, rows, tried[-1], ids=ids, memory=memory, progress=tick)
        right = np.zeros(len(tried), np.int64)
        for near in found:
            some = np.asarray(truths)[near.start : near.start + len(near.indices)]
            guesses = predictions(near, labels, tried, classes, temperature)
            right += np.count_nonzero(guesses == some, axis=1)
        done += len(asked)
        return [Score(len(asked), int(count)) for count in right]

    alone = score(rows[left_out], labels[left_out], (copies[left_out], copies))
    best = tried[int(np.argmax([one.right for one in alone]))]
    scores = {name: score(*split, None) for name, split in judged.items()}
    return KnnResult(tried, best, temperature, alone, scores, wanted[-1] > len(rows))


def knn_of_features(
    features: Features,
    snapshot: Snapshot,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    progress: Tick | None = None,
) -> KnnResult:
    """:func:`knn_accuracy` of a data set: train votes, and every other split is judged.

    The features are of the snapshot's images; it says which of train's are copies of each other.

    Raises:
        DataError: If there is no image in train, or none in another split.
    """
    present = features.present_splits()
    if "train" not in present or len(present) < 2:
        expected = "images in train, which vote, and in val or test, which are judged"
        found = f"images in {' and '.join(present)} only"
        remedy = "add the other, or pass --split 0.8,0.2 for a folder of classes"
        raise DataError(snapshot.dataset.root, expected, found, remedy)
    train = features.split("train")
    return knn_accuracy(
        train,
        {name: features.split(name) for name in present if name != "train"},
        len(features.classes),
        ks=ks,
        temperature=temperature,
        copies=copy_ids(snapshot.digests[rows_of_features(snapshot)[: len(train[0])]]),
        seed=seed,
        progress=progress,
    )


def predictions(
    near: Nearest, labels: Ids, ks: Sequence[int], classes: int, temperature: float
) -> NDArray[np.int64]:
    """The class with the most votes of the k nearest, of equals the first: (len(ks), b).

    Takes the neighbours of b queries, at least max(ks) each, the (n,) labels of the rows, and
    rising ks.
    """
    guesses = np.empty((len(ks), len(near.indices)), np.int64)
    at_once = max(1, _VOTES_AT_ONCE // classes)
    for first in range(0, len(near.indices), at_once):
        some = slice(first, first + at_once)
        indices, similarities = near.indices[some], near.similarities[some]
        there = indices >= 0
        # Less the largest: the same shares, and no temperature is too low for exp.
        behind = np.where(there, similarities, 0) - np.where(there[:, :1], similarities[:, :1], 0)
        with np.errstate(over="ignore"):  # to -inf, which weighs nothing
            weights = np.where(there, np.exp(behind / temperature), 0)
        votes = np.zeros(len(indices) * classes)
        bins = np.arange(len(indices))[:, None] * classes + labels[indices]
        for at, (start, end) in enumerate(zip([0, *ks[:-1]], ks, strict=True)):
            part = np.s_[:, start:end]
            votes += np.bincount(bins[part].ravel(), weights[part].ravel(), len(votes))
            guesses[at, some] = votes.reshape(-1, classes).argmax(axis=1)
    return guesses


def check_votes(
    ks: Sequence[int], temperature: float, seed: int, dashes: str = ""
) -> tuple[int, ...]:
    """Numbers of neighbours, rising, each once; ``dashes`` go before the names of options.

    Raises:
        OptionError: If there is none, one is no whole number from 1 to ``MOST_K``, the temperature
            is not a finite number over 0, or the seed is below 0, for which numpy has no numbers.
    """
    wrong = [k for k in ks if not (isinstance(k, int | np.integer) and 1 <= k <= MOST_K)]
    if wrong or not len(ks):
        expected, found = f"whole numbers from 1 to {MOST_K}", str(wrong[0]) if wrong else "none"
        raise OptionError(f"{dashes}k", expected, found, "write it like 1,5,20")
    if not 0 < temperature < math.inf:
        where, remedy = f"{dashes}temperature", f"leave it out for {TEMPERATURE}"
        raise OptionError(where, "a finite number over 0", str(temperature), remedy)
    if seed < 0:
        raise OptionError(f"{dashes}seed", "0 or more", str(seed), "correct it")
    return tuple(sorted({int(k) for k in ks}))


def _check_labels(name: str, rows: Rows, labels: Ids, classes: int) -> None:
    if not len(rows):
        raise DataError(name, "at least one image", "none", "add images, or leave the split out")
    if labels.shape != (len(rows),) or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{name} labels", f"{len(rows)} integers", found, "give one a row")
    if labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}"
        raise DataError(f"{name} labels", f"classes from 0 to {classes - 1}", found, "correct them")


def _check_voters(labels: Ids, copies: Ids) -> None:
    if copies.shape != labels.shape:
        found = f"{copies.shape}"
        raise DataError("copies", f"{len(labels)} integers", found, "give one a training row")
    if (labels == labels[0]).all():
        remedy = "there is nothing to tell apart: add images of another class"
        raise DataError("train", "images of at least two classes", "one class only", remedy)
    if (copies == copies[0]).all():
        remedy = "add images: nobody is left to vote when one is left out"
        raise DataError("train", "at least two different images", "copies of one", remedy)
