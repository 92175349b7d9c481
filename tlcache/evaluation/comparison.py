"""Two models on the same images: who gets which right, and what chance has to do with it.

Takes arrays only. Draws nothing, and covers no single model (``metrics``).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tlcache.core.errors import DataError
from tlcache.core.notebook import comparison_html
from tlcache.evaluation.metrics import checked_labels, checked_logits

DRAWS = 10_000


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models, a and b, on the same images.

    Attributes:
        n: Images.
        both, only_a, only_b, neither: Images that both, one or none of the models got right.
        accuracy_a, accuracy_b: Share of images each got right.
        difference: ``accuracy_a - accuracy_b``.
        difference_ci95: (low, high) of :func:`bootstrap_interval`.
        p_value: Of :func:`mcnemar_p`.
    """

    n: int
    both: int
    only_a: int
    only_b: int
    neither: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    difference_ci95: tuple[float, float]
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in tlcache's JSON."""
        return dataclasses.asdict(self) | {"difference_ci95": list(self.difference_ci95)}

    def sentence(self, a: str = "A", b: str = "B") -> str:
        """The comparison in one English sentence; ``a`` and ``b`` name the models."""
        right_a, right_b = self.both + self.only_a, self.both + self.only_b
        low, high = self.difference_ci95
        rights = f"{a} gets {right_a} of {self.n} images right and {b} {right_b}"
        interval = f"95% {low:+.3f} to {high:+.3f}"
        if self.only_a + self.only_b == 0:
            return f"{rights}: the very same ones (difference 0, {interval})."
        verdict = "is unlikely to be" if self.p_value < 0.05 else "may well be"
        return (
            f"{rights} (difference {self.difference:+.3f}, {interval}; {self.only_a} only {a}, "
            f"{self.only_b} only {b}), which {verdict} chance (McNemar's exact test, "
            f"p = {self.p_value:.2g})."
        )

    def _repr_html_(self) -> str:
        return comparison_html(self.to_dict(), self.sentence())


def compare(
    logits_a: ArrayLike, logits_b: ArrayLike, labels: ArrayLike, *, seed: int = 0
) -> Comparison:
    """Set two models side by side on the same images, in the same order.

    Args:
        logits_a, logits_b: (N, C) scores of each model, finite.
        labels: (N,) integers in 0..C-1, the true classes.
        seed: Of the bootstrap.

    Raises:
        DataError: If the two are of different shapes, or for any reason
            :func:`tlcache.evaluate` has.
    """
    a, b = checked_logits(logits_a), checked_logits(logits_b)
    if a.shape != b.shape:
        expected = f"two models' logits of one shape, as {a.shape}"
        remedy = "compare two models on the same images and classes"
        raise DataError("logits", expected, str(b.shape), remedy)
    truths = checked_labels(labels, a.shape)
    right_a, right_b = a.argmax(axis=1) == truths, b.argmax(axis=1) == truths
    cells = right_a & right_b, right_a & ~right_b, ~right_a & right_b, ~right_a & ~right_b
    both, only_a, only_b, neither = (int(cell.sum()) for cell in cells)
    return Comparison(
        n=len(truths),
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=(only_a - only_b) / len(truths),
        difference_ci95=bootstrap_interval(both, only_a, only_b, neither, seed=seed),
        p_value=mcnemar_p(only_a, only_b),
    )


def mcnemar_p(only_a: int, only_b: int) -> float:
    """The two-sided p of an image that one model alone gets right being as likely a's as b's.

    McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 1947, by the exact binomial distribution: twice its smaller tail.

    Args:
        only_a, only_b: Images that a alone and b alone gets right.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def bootstrap_interval(
    both: int, only_a: int, only_b: int, neither: int, *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float]:
    """The paired bootstrap's 95% interval (low, high) of the difference in accuracy, a less b.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: the 2.5% and 97.5%
    points of the difference over resampled images. An image counts by the cell of the paired table
    that it lies in alone, so a resample is one multinomial draw of four counts.

    Each cell has half an image more than was seen, as Agresti and Min give it, "Simple improved
    confidence intervals for comparing matched proportions", Statistics in Medicine 2005. Without
    that, two models that differ on no image have an interval of no width, and where they differ on
    few, the interval covers far less than 95%; BCa (chapter 14) does no better there, because it
    takes its points from the same draws (``scripts/interval_coverage.py`` measures all three).

    Args:
        both, only_a, only_b, neither: Images that both, one or none of the models got right.
        seed: The same one gives the same interval; a and b exchanged give it mirrored.
        draws: Resamples.
    """
    if only_a < only_b:
        low, high = bootstrap_interval(both, only_b, only_a, neither, seed=seed, draws=draws)
        return -high, -low
    n = both + only_a + only_b + neither
    shares = (np.array([only_a, only_b, both, neither]) + 0.5) / (n + 2)
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    counts = random.multinomial(n, shares, size=draws)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)
