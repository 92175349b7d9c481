"""95% intervals for accuracies that are means of many heads', where a plain interval is too narrow.

Takes plain numbers. The interval of one head's accuracy is ``metrics.wilson_interval``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.evaluation.metrics import wilson_interval


def corrected_resampled_interval(accuracies: ArrayLike, ratio: float) -> tuple[float, float]:
    """The 95% interval (low, high) of a mean over folds, whose training sets overlap.

    Folds share most of their training images, so their accuracies are alike, and an interval that
    takes them for independent is too narrow: the variance of the mean is (1/J + ratio) times that
    of the J accuracies, not 1/J times. Nadeau and Bengio, "Inference for the generalization
    error", Machine Learning 2003; for repeated folds Bouckaert and Frank, "Evaluating the
    replicability of significance tests for comparing learning algorithms", PAKDD 2004.

    Args:
        accuracies: Of J folds, of all repeats, in any shape; J at least 2.
        ratio: Images held out for each image trained on: 1 / (k - 1) with k folds.
    """
    from scipy.special import stdtrit

    values = np.asarray(accuracies, np.float64).ravel()
    variance = (1 / len(values) + ratio) * values.var(ddof=1)
    half = float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance)
    mean = float(values.mean())
    return max(0.0, mean - half), min(1.0, mean + half)


def share_interval(
    share: float, images: int, parts: Sequence[tuple[float, int]], units: int | None = None
) -> tuple[float, float]:
    """The 95% interval (low, high) of a share whose images are not independent.

    Wilson's, of as many independent images as would make the share vary as it does; never narrower
    than Wilson's of the images there are. Korn and Graubard, "Confidence intervals for proportions
    with small expected number of positive counts estimated from survey data", Survey Methodology
    1998; the degrees of freedom of several parts are Satterthwaite's (1946).

    Args:
        share: Of images that are right.
        images: How many.
        parts: Independent parts of the share's variance, each with its degrees of freedom.
        units: What is independent at least, where nothing varies; the images by default.
    """
    from scipy.special import stdtrit

    variance = sum(part for part, _ in parts)
    effective = float(images if units is None else units)
    if variance > 0 and 0 < share < 1:
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts if part > 0)
        quantile = float(stdtrit(freedom, 0.975) / stdtrit(math.inf, 0.975))
        effective = share * (1 - share) / variance / quantile**2
    effective = min(max(effective, 1.0), images)
    return wilson_interval(min(share * effective, effective), effective)


def variance_by_groups(hits: NDArray[np.float64], groups: NDArray[np.integer]) -> float:
    """The variance of a mean over images that come in groups, as images of a group are alike.

    Args:
        hits: (n,) of each image.
        groups: (n,) in 0 .. G - 1, each of them there, G at least 2.
    """
    residuals = np.bincount(groups, weights=hits - hits.mean())
    count = len(residuals)
    return float((residuals**2).sum() / len(hits) ** 2 * count / (count - 1))
