"""Rows of features beside their labels, paths and splits, as other libraries take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import OptionError
from tlcache.data.folders import SPLITS

Array = TypeVar("Array")
EVERY = "all"


class LabelledRows(NamedTuple, Generic[Array]):
    """Features and what belongs to them, row by row.

    Attributes:
        X: (n, D) float32.
        y: (n,) int64: the number of each image's class.
        paths: (n,) str objects, in numpy: of the images, as they lie in the data set's folder.
        splits: (n,) str, in numpy: ``train``, ``val`` or ``test``.
    """

    X: Array
    y: Array
    paths: NDArray[np.object_]
    splits: NDArray[np.str_]


def labelled_rows(
    features: NDArray[np.float32],
    labels: NDArray[np.integer],
    splits: NDArray[np.integer],
    paths: Sequence[str],
    on: str = EVERY,
) -> LabelledRows[NDArray[Any]]:
    """Rows in numpy; the features are not copied.

    Args:
        features: (N, D).
        labels: (N,).
        splits: (N,), indices into ``SPLITS``, ascending.
        paths: Of the N images.
        on: A split, or ``all``.

    Raises:
        OptionError: If there is no split of that name.
    """
    check_on(on)
    at = slice(0, len(paths))
    if on != EVERY:
        start, end = np.searchsorted(splits, [SPLITS.index(on), SPLITS.index(on) + 1])
        at = slice(int(start), int(end))
    named = np.empty(at.stop - at.start, object)
    named[:] = paths[at]
    return LabelledRows(
        features[at], labels[at].astype(np.int64), named, np.array(SPLITS)[splits[at]]
    )


def check_on(on: str) -> None:
    """Refuse what is neither a split nor ``all``.

    Raises:
        OptionError: If it is neither.
    """
    if on not in (*SPLITS, EVERY):
        raise OptionError(
            "--on", expected=f"{', '.join(SPLITS)} or {EVERY}", found=on, remedy="name one of them"
        )


def in_torch(rows: LabelledRows[NDArray[Any]]) -> LabelledRows[Any]:
    """The same with ``X`` and ``y`` as tensors, which share the arrays' memory."""
    import torch

    x, y = (torch.from_numpy(np.require(a, requirements=("C", "W"))) for a in (rows.X, rows.y))
    return LabelledRows(x, y, rows.paths, rows.splits)
