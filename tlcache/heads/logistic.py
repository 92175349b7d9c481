"""Multinomial logistic regression by L-BFGS, along a path of penalties.

The loss is scikit-learn's: ``C`` times the summed cross-entropy plus half the squared weights, of
which two classes share one vector; the bias is free. Takes arrays; trains by no epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError
from tlcache.core.machine import physical_memory
from tlcache.heads.model import Head, unit_rows

WAYS = ("raw", "standardised", "l2")
"""As they are; by the mean and deviation of the training rows; each row scaled to length 1."""

_ROWS_AT_ONCE = 1 << 14
_NOISE = 1e-6  # of a mean: what float32 makes of a number that is always the same

Array_of_scaling = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Scaling:
    """One of ``WAYS``, with what it took from the training rows.

    Attributes:
        way: ``raw``, ``standardised`` or ``l2``.
        mean, deviation: (D,) of the training rows; the deviation of what never changes is 1.
    """

    way: str
    mean: Array_of_scaling
    deviation: Array_of_scaling

    def scaled(self, rows: Array_of_scaling) -> Array_of_scaling:
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


def scaling_of(way: str, rows: Array_of_scaling) -> Scaling:
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


_TOLERANCE = 1e-7  # of the loss
_MOST_ITERATIONS = 5_000

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class LogisticFit:
    """A head at the least of its loss.

    Attributes:
        head: Its rows sum to 0 over the classes, as the penalty wants them.
        converged: Whether its loss is within 1e-7 of the least, relative.
        iterations: Of L-BFGS.
    """

    head: Head
    converged: bool
    iterations: int


def logistic_path(
    features: NDArray[np.float32],
    labels: NDArray[np.integer],
    strengths: Sequence[float],
    *,
    classes: int,
    tick: Callable[[], None] | None = None,
) -> list[LogisticFit]:
    """A head for each ``C``, the strongest penalty first, each from where the one before ended.

    Liu and Nocedal, "On the limited memory BFGS method for large scale optimization",
    Mathematical Programming 1989. The rows are centred, which the free bias undoes, and which
    makes the way several times shorter.

    Args:
        features: (N, D).
        labels: (N,) in [0, classes).
        strengths: Each ``C``, over 0.
        tick: Called when a head is done.

    Returns:
        One a strength, in the order given.

    Raises:
        DataError: If the rows do not fit into the memory as float64.
    """
    _check_memory(features)
    centre = features.mean(axis=0, dtype=np.float64)
    rows = features - centre
    theta = np.zeros(classes * (rows.shape[1] + 1))
    fits: dict[float, LogisticFit] = {}
    for strength in sorted(set(strengths)):
        theta, converged, iterations = _fit(rows, labels, strength, classes, theta)
        joined = theta.reshape(classes, -1)
        bias = joined[:, -1] - joined[:, :-1] @ centre
        with np.errstate(over="ignore"):
            head = Head(joined[:, :-1].astype(np.float32), bias.astype(np.float32))
        fits[strength] = LogisticFit(head, converged, iterations)
        if tick is not None:
            tick()
    return [fits[strength] for strength in strengths]


def _fit(
    rows: Array, labels: NDArray[np.integer], strength: float, classes: int, start: Array
) -> tuple[Array, bool, int]:
    """The least loss for one C, from a start: weights with the bias as last column, flat."""
    from scipy.optimize import minimize

    penalty = (2 if classes == 2 else 1) / (strength * len(rows))
    least = False

    def loss(theta: Array) -> tuple[float, Array]:
        nonlocal least
        value, gradient, above = _loss(rows, labels, penalty, theta.reshape(classes, -1))
        least = above <= _TOLERANCE * value
        return value, gradient.ravel()

    def stop(intermediate_result: object) -> None:
        if least:
            raise StopIteration

    limits = {"maxiter": _MOST_ITERATIONS, "maxfun": 2 * _MOST_ITERATIONS, "ftol": 0, "gtol": 0}
    with np.errstate(over="ignore", invalid="ignore"):  # a step too far is taken back
        how = {"method": "L-BFGS-B", "callback": stop, "options": limits}
        found = minimize(loss, start, jac=True, **how)
        loss(found.x)
    return found.x, least, int(found.nit)


def _loss(
    rows: Array, labels: NDArray[np.integer], penalty: float, theta: Array
) -> tuple[float, Array, float]:
    """Mean cross-entropy in nats with its penalty, its gradient, and how far it is above its least.

    That is half the gradient's square over the curvature: of the weights at least the penalty, of
    the biases about the variance of the shares.
    """
    weight, at = theta[:, :-1], np.arange(len(rows))
    error = rows @ weight.T + theta[:, -1]
    error -= error.max(axis=1, keepdims=True)
    true = error[at, labels]
    np.exp(error, out=error)
    totals = error.sum(axis=1)
    value = float((np.log(totals) - true).mean() + penalty / 2 * (weight**2).sum())
    error /= totals[:, None]
    curvature = (error * (1 - error)).mean(axis=0) + np.finfo(np.float64).tiny
    error[at, labels] -= 1
    error /= len(rows)
    gradient = np.empty_like(theta)
    gradient[:, :-1] = error.T @ rows + penalty * weight
    gradient[:, -1] = error.sum(axis=0)
    squares = gradient**2
    above = (squares[:, :-1].sum() / penalty + (squares[:, -1] / curvature).sum()) / 2
    return value, gradient, float(above)


def _check_memory(features: NDArray[np.float32]) -> None:
    size = 8 * features.size
    if size > 0.5 * physical_memory():
        raise DataError(
            "L-BFGS",
            expected=f"training rows that fit into half of {physical_memory() / 1e9:.1f} GB",
            found=f"{size / 1e9:.1f} GB as float64",
            remedy="leave --solver lbfgs out",
        )
