"""Many heads from one cache: each setting judged, the best one chosen, fitted again, scored once.

What chooses is never the result. With a val split, val chooses, by the mean over a setting's seeds;
where there is a test split too, the setting is then fitted to train and val together, and test is
left to score it; where there is none, the head that val chose is kept as it is. Without val, or
with ``folds``, cross-validation on train chooses, the setting is fitted to all of train, and every
other split is left to score it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, OptionError
from tlcache.core.progress import Tick, part_of
from tlcache.data.folders import ImageDataset
from tlcache.data.splits import draw_folds
from tlcache.evaluation.metrics import evaluate, wilson_interval
from tlcache.features.read import Features
from tlcache.heads.logistic import logistic_path
from tlcache.heads.model import Head
from tlcache.heads.recipe import EpochRecord
from tlcache.heads.rows import HeadData, Labels, Scaling, head_data, scaling_of
from tlcache.heads.train import train_heads
from tlcache.networks.scoring import Scored, score_splits
from tlcache.studies.settings import Setting

FOLDS = 5
"""By which cross-validation chooses where nothing else is said."""
_NUMBERS_AT_ONCE = 1 << 25  # weights of heads side by side, of which there are six copies

_Tell = Callable[[int, object], None]
"""Is told that one more epoch, or head, is done, whatever it is given."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting and how it did.

    Attributes:
        index: Among the settings.
        setting: What was tried.
        seeds: Of its heads.
        accuracies, losses: Of each seed's head, on the images that choose; NaN where training
            failed. In cross-validation, over all folds.
        n: Images that choose.
    """

    index: int
    setting: Setting
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    losses: tuple[float, ...]
    n: int

    @property
    def failed(self) -> bool:
        """Whether the training of one of its heads did not end well."""
        return any(map(math.isnan, self.accuracies))

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def loss(self) -> float:
        """Mean over the seeds, of cross-entropies in nats."""
        return statistics.fmean(self.losses)

    @property
    def accuracy_ci95(self) -> tuple[float, float]:
        """Wilson's, of the mean over the seeds on so many images."""
        return wilson_interval(self.accuracy * self.n, self.n)

    def describe(self) -> dict[str, Any]:
        """As plain JSON values; no numbers where training failed."""
        good = not self.failed
        return {
            "index": self.index,
            **self.setting.describe(),
            "accuracy": self.accuracy if good else None,
            "accuracy_ci95": list(self.accuracy_ci95) if good else None,
            "loss": self.loss if good else None,
            "n": self.n,
            "failed": self.failed,
            "seeds": list(self.seeds) if self.setting.recipe else [],
            "accuracies": [None if math.isnan(a) else a for a in self.accuracies],
        }


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        candidates: In the order of the settings.
        ranked: Their indices, the best first: higher accuracy, then lower loss, then lower index.
        selected_on: What chose.
        fitted_on: The splits that the head was trained on.
        head: Of the best setting and its first seed, on features as they are.
        history: Of that head; empty for L-BFGS. Where the setting was fitted again to train and
            val, of the head that val chose.
        seconds: Of ``sweep``, and of ``refit``.
    """

    candidates: list[Candidate]
    ranked: list[int]
    selected_on: str
    fitted_on: tuple[str, ...]
    head: Head
    history: list[EpochRecord]
    seconds: dict[str, float]

    @property
    def best(self) -> Candidate:
        """The one that was chosen."""
        return self.candidates[self.ranked[0]]

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        settings = [candidate.describe() for candidate in self.candidates]
        return {"best": self.best.index, "ranked": self.ranked, "settings": settings}


def sweep_heads(
    features: Features,
    settings: Sequence[Setting],
    *,
    seeds: int = 1,
    folds: int = 0,
    fold_seed: int = 0,
    progress: Tick | None = None,
) -> Sweep:
    """Train the heads of all settings side by side, choose one, and fit it for use.

    Args:
        features: With a train split of two classes or more.
        settings: See :mod:`tlcache.studies.settings`.
        seeds: Heads of SGD a setting; they differ in their first weights and the order of rows.
        folds: Choose by so many folds of train; by default val chooses, or 5 folds without val.
        fold_seed: Of the choice of folds.
        progress: Called with how many epochs of heads are done, and of how many; from threads.

    Raises:
        DataError: If train has one class only, fewer images of a class than folds, or no setting
            trains well.
        OptionError: If there is no setting.
    """
    if not settings:
        raise OptionError("settings", "one or more", "none", "name some")
    started, numbered = time.perf_counter(), dict(enumerate(settings))
    splits = features.present_splits()
    folds = _folds_that_choose(features.split("train")[1], features.classes, splits, folds)
    by_val, count = not folds, folds or 1
    parts = iter([_rows(features, "val")]) if by_val else _folds(features, count, fold_seed)
    candidates, kept = _candidates(numbered, parts, count, seeds, progress)
    ranked = sorted(candidates, key=lambda i: _rank(candidates[i]))
    if kept is None or candidates[ranked[0]].failed:
        raise _none_good(f"none among {len(candidates)} settings")
    chosen, again = time.perf_counter(), _again(features, by_val)
    fit = kept if again is None else next(fit_settings({0: settings[ranked[0]]}, again))
    if fit.head is None:
        raise _none_good("the chosen setting failed when it was fitted to more images")
    return Sweep(
        candidates=[candidates[i] for i in sorted(candidates)],
        ranked=ranked,
        selected_on="val" if by_val else f"{folds}-fold cross-validation on train",
        fitted_on=("train", "val") if by_val and again is not None else ("train",),
        head=fit.head,
        history=kept.history if by_val else fit.history if "val" in splits else [],
        seconds={"sweep": chosen - started, "refit": time.perf_counter() - chosen},
    )


def scored_splits(features: Features, swept: Sweep) -> dict[str, Scored]:
    """What the kept head says of train, and of each split that it was not trained on."""
    unseen = [s for s in features.present_splits() if s == "train" or s not in swept.fitted_on]
    return score_splits(swept.head, features, unseen)


def check_dataset(dataset: ImageDataset, folds: int) -> None:
    """Refuse images that nothing can be chosen on, before they are embedded.

    Raises:
        DataError: If all of train are of one class, or a class has fewer images than folds.
        OptionError: If there are fewer than two folds.
    """
    labels = dataset.labels[dataset.indices("train")]
    _folds_that_choose(labels, dataset.classes, dataset.present_splits(), folds)


def _folds_that_choose(
    labels: Labels, classes: Sequence[str], splits: Sequence[str], folds: int
) -> int:
    """How many folds of train choose, if so many are asked for: 0 where val chooses."""
    present = [classes[label] for label in np.unique(labels)]
    if len(present) < 2:
        found = f"only {present[0]}" if present else "no image"
        remedy = "add images of another class to train"
        raise DataError("the training images", "images of two classes or more", found, remedy)
    folds = folds or (0 if "val" in splits else FOLDS)
    if folds:
        draw_folds(labels, folds, 0, classes=classes)
    return folds


def _again(features: Features, by_val: bool) -> HeadData | None:
    """The rows to fit the chosen setting to; None where the head that val chose is kept."""
    splits = features.present_splits()
    if by_val:
        return _with_val(features) if "test" in splits else None
    return _rows(features, next((split for split in splits if split != "train"), "train"))


def _candidates(
    settings: Mapping[int, Setting],
    parts: Iterable[HeadData],
    count: int,
    seeds: int,
    progress: Tick | None,
) -> tuple[dict[int, Candidate], Fit | None]:
    """How each setting did over so many parts; of the best, the first seed's fit to the last."""
    sums: dict[int, NDArray[np.float64]] = {}
    candidates: dict[int, Candidate] = {}
    kept, judged, each = None, 0, ticks(settings, seeds)
    for done, part in enumerate(parts):
        n, least = len(part.val_labels), None
        judged += n
        tell = part_of(progress, done * each, count * each)
        fits = fit_settings(settings, part, seeds=seeds, progress=tell)
        for i, group in itertools.groupby(fits, key=lambda fit: fit.setting):
            mine = list(group)
            hits = np.rint([fit.accuracy * n for fit in mine])  # whole, so that ties are ties
            losses = np.array([fit.loss * n for fit in mine])
            sums[i] = sums.get(i, 0) + np.stack([hits, losses])
            accuracies, means = (sums[i] / judged).tolist()
            drawn = tuple(fit.seed for fit in mine)
            found = Candidate(i, settings[i], drawn, tuple(accuracies), tuple(means), judged)
            candidates[i] = found
            if least is None or _rank(found) < least:
                least, kept = _rank(found), mine[0]
    return candidates, kept


def _rank(candidate: Candidate) -> tuple[bool, float, float, int]:
    failed, i = candidate.failed, candidate.index
    return (True, 0.0, 0.0, i) if failed else (False, -candidate.accuracy, candidate.loss, i)


def _rows(features: Features, judge: str) -> HeadData:
    """All of train to train on, and a split to judge on."""
    labels, count = features.split("train")[1], len(features.classes)
    return head_data(features.to_train_on(), labels, *features.split(judge), count)


def _with_val(features: Features) -> HeadData:
    """Train and val to train on; of an image without augmented views, each view is the image."""
    train = _rows(features, "val")
    val = np.broadcast_to(train.val, (len(train.views), *train.val.shape))
    labels = np.concatenate([train.labels, train.val_labels])
    return dataclasses.replace(train, views=np.concatenate([train.views, val], 1), labels=labels)


def _folds(features: Features, folds: int, seed: int) -> Iterator[HeadData]:
    """Train without each fold to train on, and the fold as it is to judge on."""
    whole = _rows(features, "train")
    chosen = draw_folds(whole.labels, folds, seed, classes=features.classes)
    for fold in range(folds):
        kept, held = chosen != fold, chosen == fold
        labels = whole.labels[kept], whole.labels[held]
        yield HeadData(whole.views[:, kept], labels[0], whole.val[held], labels[1], whole.classes)


def _none_good(found: str) -> DataError:
    remedy = "try lower learning rates (--lr), or a smaller --c"
    return DataError("the sweep", "a head that trains to a finite loss", found, remedy)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A head of a setting.

    Attributes:
        setting: Its number.
        seed: Of SGD; 0 for L-BFGS, which draws nothing.
        head: On features as they are; None where training did not end well: the loss was no longer
            finite, or L-BFGS did not get to its least.
        history: One record an epoch of SGD.
        accuracy, loss: On the rows that judge; NaN where there is no head.
    """

    setting: int
    seed: int
    head: Head | None
    history: list[EpochRecord]
    accuracy: float = float("nan")
    loss: float = float("nan")


def fit_settings(
    settings: Mapping[int, Setting],
    data: HeadData,
    *,
    seeds: int = 1,
    progress: Tick | None = None,
) -> Iterator[Fit]:
    """Train heads of settings and judge each on val, in one batched computation a kind of features.

    Each head ends as it would if it were trained alone. All seeds, of which only SGD has several,
    of a setting come together. ``progress`` is told how many of :func:`ticks` are done, the epochs
    of each head of SGD and the heads of L-BFGS; from several threads.
    """
    done, total = itertools.count(1), ticks(settings, seeds)

    def tell(*_: object) -> None:
        if progress is not None:
            progress(next(done), total)

    for way in dict.fromkeys(setting.features for setting in settings.values()):
        mine = {i: setting for i, setting in settings.items() if setting.features == way}
        scaling = scaling_of(way, data.views)
        views, val = scaling.scaled(data.views), scaling.scaled(data.val)
        scaled = dataclasses.replace(data, views=views, val=val)
        fits = _by_sgd(mine, scaled, seeds, tell), _by_lbfgs(mine, scaled, tell)
        yield from (_judged(fit, data, scaling) for fit in itertools.chain(*fits))


def ticks(settings: Mapping[int, Setting], seeds: int) -> int:
    """How often :func:`fit_settings` ticks, where no head diverges."""
    recipes = [s.recipe for s in settings.values()]
    return sum(1 if recipe is None else seeds * recipe.epochs for recipe in recipes)


def _by_sgd(
    settings: Mapping[int, Setting], data: HeadData, seeds: int, tell: _Tell
) -> Iterator[Fit]:
    recipes = {i: s.recipe for i, s in settings.items() if s.recipe is not None}
    jobs = [(i, recipe.seed + k) for i, recipe in recipes.items() for k in range(seeds)]
    numbers = data.classes * (data.views.shape[2] + 1)
    at_once = max(1, _NUMBERS_AT_ONCE // (numbers * seeds)) * seeds
    for start in range(0, len(jobs), at_once):
        part = jobs[start : start + at_once]
        arrays = data.views, data.labels, data.val, data.val_labels
        seeded = [dataclasses.replace(recipes[i], seed=seed) for i, seed in part]
        trained = train_heads(*arrays, seeded, classes=data.classes, on_epoch=tell)
        for (i, seed), one in zip(part, trained, strict=True):
            yield Fit(i, seed, None if one.diverged else one.last, one.history)


def _by_lbfgs(settings: Mapping[int, Setting], data: HeadData, tell: _Tell) -> Iterator[Fit]:
    """All views are rows, and count as their image does once."""
    strengths = {i: s.c for i, s in settings.items() if s.c is not None}
    if not strengths:
        return
    count, _, dim = data.views.shape
    rows, labels = data.views.reshape(-1, dim), np.tile(data.labels, count)
    shares = [c / count for c in strengths.values()]
    path = logistic_path(rows, labels, shares, classes=data.classes, progress=tell)
    for i, fit in zip(strengths, path, strict=True):
        yield Fit(i, 0, fit.head if fit.converged else None, [])


def _judged(fit: Fit, data: HeadData, scaling: Scaling) -> Fit:
    """With its head on features as they are, and what that makes of the rows that judge."""
    if fit.head is None:
        return fit
    head = scaling.on_raw_rows(fit.head)
    names = [str(label) for label in range(data.classes)]
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = evaluate(head.logits(data.val), data.val_labels, names)
    except DataError:  # logits that are not finite, of huge weights
        return dataclasses.replace(fit, head=None)
    return dataclasses.replace(fit, head=head, accuracy=found.accuracy, loss=found.loss)
