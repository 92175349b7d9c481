"""The arrays that heads train and are judged on: checked, and scaled.

Covers no training (``train``, ``logistic``).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError
from tlcache.heads.model import Head, unit_rows

Array = NDArray[np.float32]
Labels = NDArray[np.integer]

WAYS = ("raw", "standardised", "l2")
"""As they are; by the mean and deviation of the training rows; each row scaled to length 1."""

_ROWS_AT_ONCE = 1 << 14
_NOISE = 1e-6  # of a mean: what float32 makes of a number that is always the same


@dataclasses.dataclass(frozen=True)
class HeadData:
    """Rows to train and to judge heads on.

    Attributes:
        views: (V, N, D): V views of N training rows.
        labels: (N,) in [0, classes).
        val: (M, D).
        val_labels: (M,).
        classes: C.
    """

    views: Array
    labels: Labels
    val: Array
    val_labels: Labels
    classes: int


def head_data(
    features: Array, labels: Labels, val_features: Array, val_labels: Labels, classes: int
) -> HeadData:
    """The arrays, once they are known to fit together.

    Args:
        features: (N, D), or (V, N, D) for V views.

    Raises:
        DataError: If they do not.
    """
    with np.errstate(over="ignore"):  # what does not fit is refused as not finite
        views, val = np.asarray(features, np.float32), np.asarray(val_features, np.float32)
    views = views if views.ndim == 3 else views[None]
    _check("training", views, labels, classes)
    _check("val", val[None], val_labels, classes)
    return HeadData(views, labels, val, val_labels, classes)


def check_widths(data: HeadData, head: Head) -> None:
    """A DataError of a head that does not fit the rows, or of val rows of another width."""
    dim, val_dim, classes = data.views.shape[2], data.val.shape[1], data.classes
    if val_dim != dim or head.weight.shape != (classes, dim) or head.bias.shape != (classes,):
        expected = f"(M, {dim}) features, a ({classes}, {dim}) head with ({classes},) biases"
        found = f"(M, {val_dim}), {head.weight.shape} with {head.bias.shape}"
        remedy = "take all of them from one trunk and one data set"
        raise DataError("val features and head", expected, found, remedy)


def _check(name: str, views: Array, labels: Labels, classes: int) -> None:
    if views.ndim != 3 or labels.shape != (views.shape[1],) or views.size == 0:
        expected = "(N, D) features with (N,) labels, N at least 1"
        found = f"{views.shape[1:]} with {labels.shape}"
        raise DataError(f"{name} features", expected, found, "pass one label a row")
    # By parts: an array of truths would take a quarter of the memory once more.
    rows = views.reshape(-1, views.shape[2])
    if not all(np.isfinite(rows[at : at + 65536]).all() for at in range(0, len(rows), 65536)):
        remedy = "correct or leave out those rows"
        raise DataError(f"{name} features", "finite numbers", "NaN or Inf", remedy)
    whole = labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}" if whole else f"{labels.dtype} numbers"
        remedy = "correct the labels or the number of classes"
        raise DataError(f"{name} labels", f"labels from 0 to {classes - 1}", found, remedy)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """One of ``WAYS``, with what it took from the training rows.

    Attributes:
        way: ``raw``, ``standardised`` or ``l2``.
        mean, deviation: (D,) of the training rows; the deviation of what never changes is 1.
    """

    way: str
    mean: Array
    deviation: Array

    def scaled(self, rows: Array) -> Array:
        """Rows (…, D), as a head is trained on them."""
        if self.way == "standardised":
            return (rows - self.mean) / self.deviation
        return unit_rows(rows) if self.way == "l2" else rows

    def on_raw_rows(self, head: Head) -> Head:
        """The head that says of rows as they are what this one says of scaled ones.

        Standardisation is linear, so it goes into the weights; the length of a row is not, so
        ``Head.normalise`` remembers it.
        """
        if self.way == "standardised":
            weight = head.weight.astype(np.float64) / self.deviation
            bias = head.bias - weight @ self.mean
            return Head(weight.astype(np.float32), bias.astype(np.float32))
        return dataclasses.replace(head, normalise=self.way == "l2")


def scaling_of(way: str, rows: Array) -> Scaling:
    """What one of ``WAYS`` takes from training rows (…, D)."""
    flat = rows.reshape(-1, rows.shape[-1])
    mean, deviation = np.zeros(flat.shape[1]), np.ones(flat.shape[1])
    if way == "standardised":
        mean = flat.mean(axis=0, dtype=np.float64)
        squares = np.zeros_like(mean)
        for start in range(0, len(flat), _ROWS_AT_ONCE):
            squares += ((flat[start : start + _ROWS_AT_ONCE] - mean) ** 2).sum(axis=0)
        spread = np.sqrt(squares / len(flat))
        deviation = np.where(spread > _NOISE * np.abs(mean), spread, 1.0)
    return Scaling(way, mean.astype(np.float32), deviation.astype(np.float32))
