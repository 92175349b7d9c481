"""Features as heads are to be trained on them, and the heads put back onto features as they are.

Takes arrays. Knows of the rows that it is given only: those of training, never those of val.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tlcache.heads.model import Head, unit_rows

WAYS = ("raw", "standardised", "l2")
"""As they are; by the mean and deviation of the training rows; each row scaled to length 1."""

_ROWS_AT_ONCE = 1 << 14
_NOISE = 1e-6  # of a mean: what float32 makes of a number that is always the same

Array = NDArray[np.float32]


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
