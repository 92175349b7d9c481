"""Train a linear head on arrays of features: the tutorial's SGD in closed form, without autograd.

The gradient of the mean cross-entropy of softmax(X Wᵀ + b) is (softmax − onehot)ᵀ X / m, so a step
is two small matrix products. Takes arrays; knows no store, file or trunk, and needs no torch.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tlcache.errors import DataError
from tlcache.heads import Head, initial_head
from tlcache.recipe import EpochRecord, Recipe

Array = NDArray[np.float32]
Labels = NDArray[np.integer]


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A head and how it came about.

    Attributes:
        head: Of the best epoch.
        last: Of the last epoch.
        best_epoch: Counted from 1: the first with the highest val accuracy.
        history: One record an epoch.
        seconds: Of the whole training.
    """

    head: Head
    last: Head
    best_epoch: int
    history: list[EpochRecord]
    seconds: float


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
    recipe, started = recipe or Recipe(), time.perf_counter()
    views, val_features = _float32(features), _float32(val_features)
    views = views if views.ndim == 3 else views[None]
    _check("training", views, labels, classes)
    _check("val", val_features[None], val_labels, classes)
    head = head or initial_head(classes, views.shape[2], recipe.seed)
    _check_widths(views.shape[2], val_features.shape[1], head, classes)
    state, best, history = _State(head), head, list[EpochRecord]()
    for epoch in range(recipe.epochs):
        epoch_started, lr = time.perf_counter(), recipe.learning_rate(epoch)
        order = recipe.epoch_order(epoch, len(labels))
        with np.errstate(over="ignore", invalid="ignore"):  # what diverges is an error below
            logits = _epoch(state, views[epoch % len(views)][order], labels[order], recipe, lr)
            train = _loss_and_accuracy(logits, labels[order])
            val = _loss_and_accuracy(state.head().logits(val_features), val_labels)
        seconds = time.perf_counter() - epoch_started
        record = EpochRecord(epoch + 1, lr, *train, *val, seconds)
        if not np.isfinite([record.train_loss, record.val_loss]).all():
            raise _diverged(record)
        if all(record.val_accuracy > earlier.val_accuracy for earlier in history):
            best, best_epoch = state.head(), record.epoch
        history.append(record)
        if on_epoch is not None:
            on_epoch(record)
    return TrainedHead(best, state.head(), best_epoch, history, time.perf_counter() - started)


class _State:
    """Weights and momentum of one head, the bias as the last column: (C, D + 1)."""

    def __init__(self, head: Head) -> None:
        self.weight = np.column_stack([head.weight, head.bias]).astype(np.float32)
        self.momentum = np.zeros_like(self.weight)

    def head(self) -> Head:
        return Head(self.weight[:, :-1].copy(), self.weight[:, -1].copy())


def _epoch(state: _State, rows: Array, targets: Labels, recipe: Recipe, lr: float) -> Array:
    """One pass of SGD over ``rows``; the logits that each step saw, (N, C)."""
    n, classes = len(rows), len(state.weight)
    inputs = np.column_stack([rows, np.ones(n, np.float32)])
    onehot = np.eye(classes, dtype=np.float32)[targets]
    logits = np.empty((n, classes), np.float32)
    weight, momentum = state.weight, state.momentum
    for start in range(0, n, recipe.batch_size):
        batch = slice(start, start + recipe.batch_size)
        x = inputs[batch]
        error = np.matmul(x, weight.T, out=logits[batch]).copy()
        error -= error.max(axis=1, keepdims=True)
        np.exp(error, out=error)
        error /= error.sum(axis=1, keepdims=True)
        error -= onehot[batch]
        error /= np.float32(len(x))
        gradient = error.T @ x
        if recipe.weight_decay:
            gradient += np.float32(recipe.weight_decay) * weight
        momentum *= np.float32(recipe.momentum)
        momentum += gradient
        weight -= np.float32(lr) * momentum
    return logits


def _loss_and_accuracy(logits: Array, labels: Labels) -> tuple[float, float]:
    """Mean cross-entropy in nats and share of labels hit."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    loss = (log_sum - shifted[np.arange(len(labels)), labels]).mean()
    return float(loss), float((logits.argmax(axis=1) == labels).mean())


def _float32(features: Array) -> Array:
    with np.errstate(over="ignore"):  # what does not fit is refused as not finite
        return np.asarray(features, np.float32)


def _check(name: str, views: Array, labels: Labels, classes: int) -> None:
    fits = views.ndim == 3 and labels.shape == (views.shape[1],) and views.size > 0
    if not fits:
        raise DataError(
            f"{name} features",
            expected="(N, D) features with (N,) labels, N at least 1",
            found=f"{views.shape[1:]} with {labels.shape}",
            remedy="pass one label a row",
        )
    if not np.isfinite(views).all():
        raise DataError(
            f"{name} features",
            expected="finite numbers",
            found="NaN or Inf",
            remedy="correct or leave out those rows",
        )
    whole = labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{name} labels",
            expected=f"labels from 0 to {classes - 1}",
            found=f"{labels.min()} to {labels.max()}" if whole else f"{labels.dtype} numbers",
            remedy="correct the labels or the number of classes",
        )


def _check_widths(dim: int, val_dim: int, head: Head, classes: int) -> None:
    if val_dim != dim or head.weight.shape != (classes, dim) or head.bias.shape != (classes,):
        raise DataError(
            "val features and head",
            expected=f"(M, {dim}) features, a ({classes}, {dim}) head with ({classes},) biases",
            found=f"(M, {val_dim}), {head.weight.shape} with {head.bias.shape}",
            remedy="take all of them from one trunk and one data set",
        )


def _diverged(record: EpochRecord) -> DataError:
    return DataError(
        f"epoch {record.epoch}",
        expected="a finite loss",
        found=f"{record.train_loss} in training, {record.val_loss} on val",
        remedy=f"lower the learning rate (it was {record.learning_rate:g})",
    )
