"""Heads of many settings on the same rows, side by side, each judged on others.

Nothing is chosen here: a head is that of its last epoch. Takes arrays (``HeadData``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tlcache.core.errors import DataError
from tlcache.evaluation.metrics import evaluate
from tlcache.heads.logistic import logistic_path
from tlcache.heads.model import Head
from tlcache.heads.recipe import EpochRecord
from tlcache.heads.rows import HeadData
from tlcache.heads.scaling import scaling_of
from tlcache.heads.train import train_heads
from tlcache.studies.settings import Setting

_NUMBERS_AT_ONCE = 1 << 25  # weights of heads side by side, of which there are six copies

Tick = Callable[[], None]


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
    settings: Mapping[int, Setting], data: HeadData, *, seeds: int = 1, tick: Tick | None = None
) -> Iterator[Fit]:
    """Train the heads of settings and judge each: one batched computation for one kind of features.

    Each head ends as it would if it were trained alone. All seeds of a setting come together.

    Args:
        settings: By number.
        data: Rows to train on, and ``val``: those that judge.
        seeds: How many heads of SGD a setting has.
        tick: Called for each epoch of a head of SGD, and for each head of L-BFGS; from several
            threads.
    """
    tell = tick or (lambda: None)
    for way in dict.fromkeys(setting.features for setting in settings.values()):
        mine = {i: setting for i, setting in settings.items() if setting.features == way}
        scaling = scaling_of(way, data.views)
        views, val = scaling.scaled(data.views), scaling.scaled(data.val)
        scaled = dataclasses.replace(data, views=views, val=val)
        for by in (_by_sgd(mine, scaled, seeds, tell), _by_lbfgs(mine, scaled, tell)):
            for fit in by:
                yield _judged(
                    fit, data, None if fit.head is None else scaling.on_raw_rows(fit.head)
                )


def ticks(settings: Mapping[int, Setting], seeds: int) -> int:
    """How often :func:`fit_settings` ticks, where no head diverges."""
    recipes = [s.recipe for s in settings.values()]
    return sum(1 if recipe is None else seeds * recipe.epochs for recipe in recipes)


def _by_sgd(
    settings: Mapping[int, Setting], data: HeadData, seeds: int, tick: Tick
) -> Iterator[Fit]:
    recipes = {i: s.recipe for i, s in settings.items() if s.recipe is not None}
    jobs = [(i, recipe.seed + k) for i, recipe in recipes.items() for k in range(seeds)]
    numbers = data.classes * (data.views.shape[2] + 1)
    at_once = max(1, _NUMBERS_AT_ONCE // (numbers * seeds)) * seeds
    for start in range(0, len(jobs), at_once):
        part = jobs[start : start + at_once]
        trained = train_heads(
            data.views,
            data.labels,
            data.val,
            data.val_labels,
            [dataclasses.replace(recipes[i], seed=seed) for i, seed in part],
            classes=data.classes,
            on_epoch=lambda *_: tick(),
        )
        for (i, seed), one in zip(part, trained, strict=True):
            yield Fit(i, seed, None if one.diverged else one.last, one.history)


def _by_lbfgs(settings: Mapping[int, Setting], data: HeadData, tick: Tick) -> Iterator[Fit]:
    """All views are rows, and count as their image does once."""
    strengths = {i: s.c for i, s in settings.items() if s.c is not None}
    if not strengths:
        return
    count, _, dim = data.views.shape
    path = logistic_path(
        data.views.reshape(-1, dim),
        np.tile(data.labels, count),
        [c / count for c in strengths.values()],
        classes=data.classes,
        tick=tick,
    )
    for i, fit in zip(strengths, path, strict=True):
        yield Fit(i, 0, fit.head if fit.converged else None, [])


def _judged(fit: Fit, data: HeadData, head: Head | None) -> Fit:
    """With its head on features as they are, and what that makes of the rows that judge."""
    if head is None:
        return fit
    names = [str(label) for label in range(data.classes)]
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = evaluate(head.logits(data.val), data.val_labels, names)
    except DataError:  # logits that are not finite, of huge weights
        return dataclasses.replace(fit, head=None)
    return dataclasses.replace(fit, head=head, accuracy=found.accuracy, loss=found.loss)
