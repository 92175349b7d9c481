"""Train linear heads on arrays of features: the tutorial's SGD in closed form, without autograd.

One head or many, by the same ``steps``: heads whose recipes take the same rows in the same order
are one group, and groups train in threads, as do heads that have rows of their own (folds,
episodes). Covers no L-BFGS (``logistic``) and no result: a head's accuracy on val chose its epoch.
Needs no torch on a CPU.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, UnmetError, to_install
from tlcache.core.machine import blas_for, resolve_device, usable_cpus
from tlcache.core.notebook import training_html
from tlcache.core.progress import Tick
from tlcache.heads.model import Head, initial_head
from tlcache.heads.recipe import EpochRecord, Recipe
from tlcache.heads.rows import Array, HeadData, Labels, check_widths, head_data
from tlcache.heads.steps import Rates, Steps, can_compile, compiled_steps, steps, steps_on

T = TypeVar("T")

_STEP_SECONDS = 3e-5  # of numpy's calls, about
_FLOPS = 1e10  # a second, about
WORTH_SECONDS = 0.7
"""Of numpy's time, from which on compiled steps pay: loading numba takes about 0.4."""
_NUMBERS_AT_ONCE = 1 << 24  # of rows, and of logits: bounds the memory whatever there is of them


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A head and how it came about.

    Attributes:
        head: Of the best epoch.
        last: Of the last epoch.
        best_epoch: Counted from 1: the first with the highest val accuracy.
        history: One record an epoch; the last one may hold a loss that is no longer finite.
        seconds: Of the whole training, shared with the heads that were trained beside it.
    """

    head: Head = dataclasses.field(repr=False)
    last: Head = dataclasses.field(repr=False)
    best_epoch: int
    history: list[EpochRecord] = dataclasses.field(repr=False)
    seconds: float

    @property
    def diverged(self) -> bool:
        """Whether training ended because a loss was no longer finite."""
        return not _finite(self.history[-1])

    def _repr_html_(self) -> str:
        return training_html(self.history, self.best_epoch, self.seconds)


def train_head(
    features: Array,
    labels: Labels,
    val_features: Array,
    val_labels: Labels,
    recipe: Recipe | None = None,
    *,
    classes: int,
    head: Head | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainedHead:
    """Train a softmax-regression head by SGD with momentum and a step schedule.

    Args:
        features: (N, D), or (V, N, D) for V views: epoch e takes view e mod V.
        labels: (N,) in [0, classes).
        val_features: (M, D).
        val_labels: (M,).
        recipe: The tutorial's by default.
        classes: C.
        head: To start from; a fresh one of the recipe's seed by default.
        on_epoch: Called with each epoch's record.

    Raises:
        DataError: If the arrays do not fit together, or the loss is no longer finite.
    """
    arrays = features, labels, val_features, val_labels
    (trained,) = train_heads(
        *arrays,
        [recipe or Recipe()],
        classes=classes,
        heads=None if head is None else [head],
        on_epoch=on_epoch and (lambda _, record: on_epoch(record)),
    )
    return _converged(trained)


def train_heads(
    features: Array,
    labels: Labels,
    val_features: Array,
    val_labels: Labels,
    recipes: Sequence[Recipe],
    *,
    classes: int,
    heads: Sequence[Head] | None = None,
    on_epoch: Callable[[int, EpochRecord], None] | None = None,
    compiled: bool | None = None,
    device: str = "cpu",
) -> list[TrainedHead]:
    """Train many heads on the same rows, side by side.

    On a CPU each ends with the very weights, and at the best epoch, that it would have alone by the
    same kind of steps (``compiled``). The other kind, and a GPU, add up in another order: as with
    another processor, weights differ in their last digits, at large rates in more of them, and
    another of two epochs that are as good as equal on val may be the best.

    Args:
        features, labels, val_features, val_labels, classes: As for :func:`train_head`.
        recipes: One a head.
        heads: To start from; fresh ones of the recipes' seeds by default.
        on_epoch: Called with a head's index and its epoch's record, from several threads.
        compiled: Whether numba's steps are taken, or numpy's; by default, numba's where it is
            installed and there is enough to do, which for many heads may be, and for one not.
        device: ``cpu``, or a GPU (``cuda`` or ``cuda:N``), which pays for many heads or large ones.

    Returns:
        One a recipe. Training a head ends early where its loss is no longer finite: see
        ``TrainedHead.diverged``.

    Raises:
        DataError: If the arrays do not fit together.
        OptionError: If compiled steps are asked for and numba is not installed, or a GPU and there
            is none.
    """
    data = head_data(features, labels, val_features, val_labels, classes)
    heads = heads or [initial_head(classes, data.views.shape[2], r.seed) for r in recipes]
    for head in heads:
        check_widths(data, head)
    take, threads = _steps_for(data, recipes, compiled, device)
    trained: dict[int, TrainedHead] = {}
    stop = threading.Event()

    def train(members: list[int]) -> None:
        def tell(at: int, record: EpochRecord) -> None:
            if stop.is_set():
                raise concurrent.futures.CancelledError
            if on_epoch is not None:
                on_epoch(members[at], record)

        mine = [heads[i] for i in members], [recipes[i] for i in members]
        trained.update(zip(members, _train_group(data, *mine, take, tell), strict=True))

    groups = _groups(recipes, threads)
    in_threads(lambda k: train(groups[k]), len(groups), threads, stop)
    return [trained[i] for i in range(len(recipes))]


def train_separately(
    features: Array,
    labels: Labels,
    choices: Sequence[NDArray[np.integer]],
    recipes: Sequence[Recipe],
    *,
    classes: int,
    judge: Callable[[int, Head], T],
    progress: Tick | None = None,
) -> list[T]:
    """Train a head on each choice of rows, side by side in threads, and judge it.

    Nothing is chosen but by the recipe: a head is that of the last epoch, and the rows that it is
    to be judged on never come near its training.

    Args:
        features, labels, classes: As for :func:`train_head`.
        choices: Which rows each head trains on; a row may come more than once.
        recipes: One a head.
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
        arrays = mine, truths, mine.reshape(-1, dim)[:1], truths[:1]
        (trained,) = train_heads(
            *arrays, [recipes[i]], classes=classes, on_epoch=check, compiled=compiled
        )
        return judge(i, _converged(trained).last)

    return in_threads(one, len(choices), usable_cpus() if compiled else 1, stop, progress)


def in_threads(
    work: Callable[[int], T],
    count: int,
    threads: int,
    stop: threading.Event,
    progress: Tick | None = None,
) -> list[T]:
    """What work makes of each number below ``count``, in order; one thread is this one.

    The first error in that order, and an interruption, end all: they set ``stop``, which work that
    takes long looks at.
    """
    done: list[T] = []
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for made in (pool.map if threads > 1 else map)(work, range(count)):
                done.append(made)
                if progress is not None:
                    progress(len(done), count)
        except BaseException:
            stop.set()  # those on their way end with their epoch; leaving the pool waits for them
            raise
    return done


def _steps_for(
    data: HeadData, recipes: Sequence[Recipe], compiled: bool | None, device: str
) -> tuple[Steps, int]:
    """What takes the steps, and by how many threads."""
    if device != "cpu":
        return steps_on(resolve_device(device)), 1
    if compiled is None:
        _, rows, dim = data.views.shape
        seconds = numpy_seconds(rows, dim, data.classes, recipes)
        compiled = can_compile() and seconds > WORTH_SECONDS
    elif compiled and not can_compile():
        raise UnmetError("compiled steps", "numba", "no such package", to_install("fast"))
    return (compiled_steps(), usable_cpus()) if compiled else (steps, 1)


def _groups(recipes: Sequence[Recipe], threads: int) -> list[list[int]]:
    """Indices of recipes that take the same rows in the same order; at least one a thread."""
    alike: dict[tuple[int, int, int, int], list[int]] = {}
    for i, recipe in enumerate(recipes):
        order = recipe.seed, recipe.batch_size, recipe.epochs, recipe.block
        alike.setdefault(order, []).append(i)
    parts = -(-threads // len(alike))
    return [part for group in alike.values() for k in range(parts) if (part := group[k::parts])]


def numpy_seconds(rows: int, dim: int, classes: int, recipes: Sequence[Recipe]) -> float:
    """About how long numpy would take for heads on (rows, dim) features."""
    seconds = 0.0
    for group in _groups(recipes, 1):
        recipe = recipes[group[0]]
        steps_an_epoch = -(-rows // recipe.batch_size)
        weights = len(group) * classes * dim
        # Two products of every row, and six passes over the weights in every step.
        work = (4 * rows + 6 * steps_an_epoch) * weights / _FLOPS
        seconds += recipe.epochs * (steps_an_epoch * _STEP_SECONDS + work)
    return seconds


def _train_group(
    data: HeadData,
    heads: Sequence[Head],
    recipes: Sequence[Recipe],
    take: Steps,
    tell: Callable[[int, EpochRecord], None],
) -> list[TrainedHead]:
    """Train G heads whose recipes share seed, batch size and number of epochs."""
    started, recipe = time.perf_counter(), recipes[0]
    joined = [np.column_stack([head.weight, head.bias]) for head in heads]
    weight = np.stack(joined).astype(np.float32)  # (G, C, D + 1), the bias the last column
    velocity, best = np.zeros_like(weight), weight.copy()
    best_epoch, best_accuracy = [0] * len(heads), [-1.0] * len(heads)
    history: list[list[EpochRecord]] = [[] for _ in heads]
    momentum = np.array([r.momentum for r in recipes], np.float32)
    decay = np.array([r.weight_decay for r in recipes], np.float32)
    going = list(range(len(heads)))
    for epoch in range(recipe.epochs):
        epoch_started = time.perf_counter()
        lrs = [r.learning_rate(epoch) for r in recipes]
        rates = Rates(np.array(lrs, np.float32), momentum, decay)
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges is recorded as such
            train = train_epoch(weight, velocity, data, epoch, recipe, take, rates)
            val = judge(weight, data)
        seconds = time.perf_counter() - epoch_started
        for g in going:
            record = EpochRecord(epoch + 1, lrs[g], *train[g], *val[g], seconds)
            history[g].append(record)
            if record.val_accuracy > best_accuracy[g] and _finite(record):
                best_accuracy[g], best_epoch[g] = record.val_accuracy, record.epoch
                best[g] = weight[g]
            tell(g, record)
        going = [g for g in going if _finite(history[g][-1])]
        if not going:
            break
    seconds = time.perf_counter() - started
    return [
        TrainedHead(_head(best[g]), _head(weight[g]), best_epoch[g], history[g], seconds)
        for g in range(len(heads))
    ]


def _head(joined: Array) -> Head:
    return Head(joined[:, :-1].copy(), joined[:, -1].copy())


def _finite(record: EpochRecord) -> bool:
    return math.isfinite(record.train_loss) and math.isfinite(record.val_loss)


def _converged(trained: TrainedHead) -> TrainedHead:
    if trained.diverged:
        last = trained.history[-1]
        found = f"{last.train_loss} in training, {last.val_loss} on val"
        remedy = f"lower the learning rate (it was {last.learning_rate:g})"
        raise DataError(f"epoch {last.epoch}", "a finite loss", found, remedy)
    return trained


def train_epoch(
    weight: Array,
    velocity: Array,
    data: HeadData,
    epoch: int,
    recipe: Recipe,
    take: Steps,
    rates: Rates,
) -> list[tuple[float, float]]:
    """One pass of SGD over the training rows: each head's running loss and accuracy.

    Weights and velocities, (G, C, D + 1) with the bias the last column, are changed in place.
    Epochs count from 0, and the heads share the recipe's order and batch size.
    """
    view, n = data.views[epoch % len(data.views)], len(data.labels)
    order = recipe.epoch_order(epoch, n)
    sums = np.zeros((2, len(weight)))
    for part in _parts(n, weight, recipe.batch_size):
        rows, labels = _with_ones(view[order[part]]), data.labels[order[part]]
        logits = take(weight, velocity, rows, labels, recipe.batch_size, rates)
        sums += _loss_and_hits(logits, labels)
    return [(float(loss), float(hits)) for loss, hits in (sums / n).T]


def judge(weight: Array, data: HeadData) -> list[tuple[float, float]]:
    """Loss and accuracy of each head on val."""
    count, classes, width = weight.shape
    n, sums = len(data.val_labels), np.zeros((2, count))
    # As many rows at once as for one head, and as many heads as then fit: each head's products are
    # those that it has alone, and so is the epoch that is its best.
    beside = max(1, width // classes)
    for part in _parts(n, weight[:1], 1):
        rows, labels = _with_ones(data.val[part]), data.val_labels[part]
        with blas_for(2 * len(rows) * classes * width):
            for g in range(0, count, beside):
                logits = np.matmul(rows, weight[g : g + beside].transpose(0, 2, 1))
                sums[:, g : g + beside] += _loss_and_hits(logits.transpose(1, 0, 2), labels)
    return [(float(loss), float(hits)) for loss, hits in (sums / n).T]


def _parts(n: int, weight: Array, batch_size: int) -> Iterator[slice]:
    """Rows to take at once: whole batches, and so many that they and their logits fit in memory."""
    count, classes, width = weight.shape
    largest = max(count * classes, width) * batch_size
    size = max(1, _NUMBERS_AT_ONCE // largest) * batch_size
    return (slice(start, start + size) for start in range(0, n, size))


def _with_ones(rows: Array) -> Array:
    return np.column_stack([rows, np.ones(len(rows), np.float32)])


def _loss_and_hits(logits: Array, labels: Labels) -> NDArray[np.float64]:
    """(2, G): summed cross-entropy in nats, and labels hit, of (n, G, C) logits."""
    # Classes first: sums are fast.
    shifted = np.moveaxis(logits, 2, 0).astype(np.float64, order="C")
    hits = shifted.argmax(axis=0) == labels[:, None]
    shifted -= shifted.max(axis=0)
    losses = np.log(np.exp(shifted).sum(axis=0)) - shifted[labels, np.arange(len(labels))]
    return np.stack([losses.sum(axis=0), hits.sum(axis=0)])
