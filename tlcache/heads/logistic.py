"""Multinomial logistic regression by L-BFGS, along a path of penalties.

The loss is scikit-learn's: ``C`` times the summed cross-entropy plus half the squared weights, of
which two classes share one vector; the bias is free. Takes arrays; trains by no epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError
from tlcache.core.machine import blas_for, physical_memory
from tlcache.core.progress import Tick
from tlcache.heads.model import Head
from tlcache.heads.rows import Array, Labels

_TOLERANCE = 1e-7  # of the loss
_MOST_ITERATIONS = 5_000

Exact = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class LogisticFit:
    """A head at the least of its loss, and L-BFGS's iterations; converged: within 1e-7, relative.

    The head's rows sum to 0 over the classes, as the penalty wants them.
    """

    head: Head
    converged: bool
    iterations: int


def logistic_path(
    features: Array,
    labels: Labels,
    strengths: Sequence[float],
    *,
    classes: int,
    progress: Tick | None = None,
) -> list[LogisticFit]:
    """A head for each ``C``, the strongest penalty first, each from where the one before ended.

    Liu and Nocedal, "On the limited memory BFGS method for large scale optimization",
    Mathematical Programming 1989. The rows are centred, which the free bias undoes, and which
    makes the way several times shorter.

    Args:
        features: (N, D).
        labels: (N,) in [0, classes).
        strengths: Each ``C``, over 0.
        progress: Told how many heads are done, and of how many.

    Returns:
        One a strength, in the order given.

    Raises:
        DataError: If the rows do not fit into the memory as float64.
    """
    size, memory = 8 * features.size, physical_memory()
    if size > 0.5 * memory:
        expected = f"training rows that fit into half of {memory / 1e9:.1f} GB"
        found = f"{size / 1e9:.1f} GB as float64"
        raise DataError("L-BFGS", expected, found, "leave --solver lbfgs out")
    centre = features.mean(axis=0, dtype=np.float64)
    rows, wanted = features - centre, sorted(set(strengths))
    theta = np.zeros((classes, rows.shape[1] + 1))
    fits: dict[float, LogisticFit] = {}
    for strength in wanted:
        theta, converged, iterations = _fit(rows, labels, strength, theta)
        bias = theta[:, -1] - theta[:, :-1] @ centre
        with np.errstate(over="ignore"):
            head = Head(theta[:, :-1].astype(np.float32), bias.astype(np.float32))
        fits[strength] = LogisticFit(head, converged, iterations)
        if progress is not None:
            progress(len(fits), len(wanted))
    return [fits[strength] for strength in strengths]


def _fit(rows: Exact, labels: Labels, strength: float, start: Exact) -> tuple[Exact, bool, int]:
    """The least loss for one C, from a start: (C, D + 1) weights, the bias the last column.

    Scikit-learn's ``LogisticRegression`` takes the same steps, but ends by the largest number of
    the gradient, which bounds no loss: as tight as the largest C asks for, it takes longer
    (``scripts/bench_sweep.py``).
    """
    from scipy.optimize import minimize

    penalty = (2 if len(start) == 2 else 1) / (strength * len(rows))
    least = False

    def loss(theta: Exact) -> tuple[float, Exact]:
        nonlocal least
        value, gradient, above = _loss(rows, labels, penalty, theta.reshape(start.shape))
        least = above <= _TOLERANCE * value
        return value, gradient.ravel()

    def stop(intermediate_result: object) -> None:
        if least:
            raise StopIteration

    limits = {"maxiter": _MOST_ITERATIONS, "maxfun": 2 * _MOST_ITERATIONS, "ftol": 0, "gtol": 0}
    flops = 2 * rows.size * len(start)
    # A step too far is taken back.
    with np.errstate(over="ignore", invalid="ignore"), blas_for(flops):
        how = {"method": "L-BFGS-B", "callback": stop, "options": limits}
        found = minimize(loss, start.ravel(), jac=True, **how)
        loss(found.x)
    return found.x.reshape(start.shape), least, int(found.nit)


def _loss(rows: Exact, labels: Labels, penalty: float, theta: Exact) -> tuple[float, Exact, float]:
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
