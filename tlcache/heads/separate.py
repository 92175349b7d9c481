"""One head for each of many choices of rows, side by side in threads: folds, episodes.

Nothing is chosen but by the recipe: a head is that of the last epoch, and the rows that it is to be
judged on never come near its training. Heads on the same rows: ``train.train_heads``.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.core.machine import usable_cpus
from tlcache.core.progress import Tick
from tlcache.heads.model import Head
from tlcache.heads.recipe import Recipe
from tlcache.heads.rows import Array, Labels
from tlcache.heads.steps import can_compile
from tlcache.heads.train import (
    WORTH_SECONDS,
    T,
    divergence,
    in_threads,
    numpy_seconds,
    train_heads,
)

Rows = NDArray[np.integer]


def train_separately(
    features: Array,
    labels: Labels,
    choices: Sequence[Rows],
    recipes: Sequence[Recipe],
    *,
    classes: int,
    judge: Callable[[int, Head], T],
    progress: Tick | None = None,
) -> list[T]:
    """Train a head on each choice of rows, and judge it.

    Args:
        features: (N, D), or (V, N, D) for V views: epoch e takes view e mod V.
        labels: (N,) in [0, classes).
        choices: Which rows each head trains on; a row may come more than once.
        recipes: One a head.
        classes: C.
        judge: Called with a head's index and the head, from several threads; the heads themselves
            are not kept.
        progress: Called with how many heads are done, and of how many.

    Returns:
        What ``judge`` made of each, in the order of the choices, whatever the number of threads.

    Raises:
        DataError: If the arrays do not fit together, or a loss is no longer finite.
    """
    dim, work = features.shape[-1], zip(choices, recipes, strict=True)
    seconds = sum(numpy_seconds(len(rows), dim, classes, [recipe]) for rows, recipe in work)
    compiled = can_compile() and seconds > WORTH_SECONDS  # of all: it must not hang on threads
    stop = threading.Event()

    def check(*_: object) -> None:
        if stop.is_set():
            raise concurrent.futures.CancelledError

    def one(i: int) -> T:
        check()
        mine, truths = np.take(features, choices[i], axis=-2), labels[choices[i]]
        # Training wants rows to judge each epoch on: one of its own, and nobody looks at that.
        judged = mine.reshape(-1, dim)[:1], truths[:1]
        (trained,) = train_heads(
            mine,
            truths,
            *judged,
            [recipes[i]],
            classes=classes,
            on_epoch=check,
            compiled=compiled,
        )
        if trained.diverged:
            raise divergence(trained.history[-1])
        return judge(i, trained.last)

    return in_threads(one, len(choices), usable_cpus() if compiled else 1, stop, progress)


def reseeded(recipe: Recipe, *key: int) -> Recipe:
    """The recipe with a seed made of its own and a key: another one, the same everywhere.

    Args:
        key: Whole numbers, two at least, lest the seed be made as an epoch's order is.
    """
    drawn = np.random.SeedSequence(recipe.seed, spawn_key=key).generate_state(1, np.uint64)
    return dataclasses.replace(recipe, seed=int(drawn[0] >> np.uint64(1)))
