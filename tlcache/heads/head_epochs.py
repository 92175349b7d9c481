"""One epoch of heads that are trained side by side, and their judging: bounded memory.

Covers no schedule and no choice of the best epoch (``head_training``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tlcache.heads.recipe import Recipe
from tlcache.heads.rows import Array, HeadData, Labels
from tlcache.heads.steps import Steps

_NUMBERS_AT_ONCE = 1 << 24  # of rows, and of logits: bounds the memory whatever there is of them


def train_epoch(
    weight: Array,
    velocity: Array,
    data: HeadData,
    epoch: int,
    recipe: Recipe,
    take: Steps,
    rates: tuple[Array, Array, Array],
) -> list[tuple[float, float]]:
    """One pass of SGD over the training rows: each head's running loss and accuracy.

    Args:
        weight, velocity: (G, C, D + 1), changed in place; the bias is the last column.
        epoch: From 0.
        recipe: Whose order and batch size the heads share.
        take: What takes the steps.
        rates: Learning rate, momentum and weight decay, (G,) each.
    """
    view, n = data.views[epoch % len(data.views)], len(data.labels)
    order = recipe.epoch_order(epoch, n)
    sums = np.zeros((2, len(weight)))
    for part in _parts(n, weight, recipe.batch_size):
        rows, labels = _with_ones(view[order[part]]), data.labels[order[part]]
        logits = take(weight, velocity, rows, labels, recipe.batch_size, *rates)
        sums += _loss_and_hits(logits, labels)
    return [(float(loss), float(hits)) for loss, hits in (sums / n).T]


def judge(weight: Array, data: HeadData) -> list[tuple[float, float]]:
    """Loss and accuracy of each head on val."""
    count, classes, width = weight.shape
    flat, n = weight.reshape(count * classes, width), len(data.val_labels)
    sums = np.zeros((2, count))
    for part in _parts(n, weight, 1):
        logits = (_with_ones(data.val[part]) @ flat.T).reshape(-1, count, classes)
        sums += _loss_and_hits(logits, data.val_labels[part])
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
    shifted = np.moveaxis(logits, 2, 0).astype(
        np.float64, order="C"
    )  # classes first: sums are fast
    hits = shifted.argmax(axis=0) == labels[:, None]
    shifted -= shifted.max(axis=0)
    losses = np.log(np.exp(shifted).sum(axis=0)) - shifted[labels, np.arange(len(labels))]
    return np.stack([losses.sum(axis=0), hits.sum(axis=0)])
