"""The arrays that heads train and are judged on, checked.

Covers no training (``head_training``).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError
from tlcache.heads.model import Head

Array = NDArray[np.float32]
Labels = NDArray[np.integer]


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
    views, val = _float32(features), _float32(val_features)
    views = views if views.ndim == 3 else views[None]
    _check("training", views, labels, classes)
    _check("val", val[None], val_labels, classes)
    return HeadData(views, labels, val, val_labels, classes)


def check_widths(data: HeadData, head: Head) -> None:
    """Refuse a head that does not fit the rows, and val rows that do not fit the training rows.

    Raises:
        DataError: If they do not fit.
    """
    dim, val_dim, classes = data.views.shape[2], data.val.shape[1], data.classes
    if val_dim != dim or head.weight.shape != (classes, dim) or head.bias.shape != (classes,):
        raise DataError(
            "val features and head",
            expected=f"(M, {dim}) features, a ({classes}, {dim}) head with ({classes},) biases",
            found=f"(M, {val_dim}), {head.weight.shape} with {head.bias.shape}",
            remedy="take all of them from one trunk and one data set",
        )


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
    # By parts: an array of truths would take a quarter of the memory once more.
    rows = views.reshape(-1, views.shape[2])
    if not all(np.isfinite(rows[at : at + 65536]).all() for at in range(0, len(rows), 65536)):
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
