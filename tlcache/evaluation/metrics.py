"""Logits and labels in, an :class:`Evaluation` out.

Every way of training is judged here, so that its numbers can be set side by side. Takes arrays
only: how the logits came about, and from which files, is none of its business. Draws nothing. The
95% intervals are here too, also of means of many heads, for which a plain one is too narrow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.core.errors import DataError, OptionError
from tlcache.core.notebook import evaluation_html

_Z_95 = 1.959963984540054  # two-sided 95% point of the normal distribution
_BINS = 15


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a model does on one split.

    A class without an image in the split (support 0) has a precision, recall and F1 of 0.0 in
    ``per_class`` and is left out of ``macro_f1``; images wrongly put into it still cost their own
    class its recall.

    Attributes:
        n: Images.
        accuracy: Share of images whose largest logit is that of their class.
        accuracy_ci95: (low, high) of :func:`wilson_interval`.
        loss: Mean cross-entropy (log loss) in nats.
        macro_f1: Unweighted mean of F1 over the classes that have images.
        ece: Expected calibration error over 15 confidence bins of equal width: Guo et al., "On
            Calibration of Modern Neural Networks", ICML 2017.
        classes: Class names, in the order of the logits.
        per_class: ``precision``, ``recall``, ``f1`` and ``support`` (images) of each class.
        confusion: (C, C) counts; rows are truths, columns predictions.
    """

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    loss: float
    macro_f1: float
    ece: float
    classes: tuple[str, ...]
    per_class: dict[str, dict[str, float]]
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in tlcache's JSON."""
        plain = dataclasses.asdict(self)
        return plain | {k: list(plain[k]) for k in ("accuracy_ci95", "classes")}

    def summary(self) -> str:
        """The evaluation in one line, for people."""
        low, high = self.accuracy_ci95
        return (
            f"accuracy {self.accuracy:.3f} (95% {low:.3f}-{high:.3f}, n={self.n}), "
            f"loss {self.loss:.3f}, macro-F1 {self.macro_f1:.3f}, ECE {self.ece:.3f}"
        )

    def _repr_html_(self) -> str:
        return evaluation_html(self.to_dict(), self.summary())


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """Images whose confidence, the probability of the prediction, lies in (low, high].

    Attributes:
        count, right: Images, and how many of them are right.
        confidence: Their mean.
        accuracy, accuracy_ci95: ``right / count``, and :func:`wilson_interval` of it.
    """

    low: float
    high: float
    count: int
    right: int
    confidence: float
    accuracy: float
    accuracy_ci95: tuple[float, float]


def evaluate(logits: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Evaluation:
    """Judge logits by labels.

    Args:
        logits: (N, C) finite scores before the softmax; the (first) largest is the prediction.
        labels: (N,) integers in 0..C-1, the true classes.
        classes: The C class names.

    Raises:
        DataError: If there is no image, a shape does not fit, a logit is not finite, a label is
            no class, or two classes share a name.
    """
    scores = checked_logits(logits)
    truths = checked_labels(labels, scores.shape)
    names, count = tuple(map(str, classes)), scores.shape[1]
    if len(names) != count or len(set(names)) != count:
        expected = f"{count} different names, one a column of the logits"
        found = f"{len(names)}, {len(set(names))} of them different"
        raise DataError(
            "classes", expected, found, "give the classes that the model was trained on"
        )
    predictions = scores.argmax(axis=1)
    right = predictions == truths
    _, hits, sums = _binned(scores, right)
    pairs = np.bincount(truths * len(names) + predictions, minlength=len(names) ** 2)
    confusion = pairs.reshape(len(names), len(names))
    per_class = _per_class(confusion, names)
    return Evaluation(
        n=len(truths),
        accuracy=float(right.mean()),
        accuracy_ci95=wilson_interval(int(right.sum()), len(truths)),
        loss=_cross_entropy(scores, truths),
        macro_f1=float(np.mean([c["f1"] for c in per_class.values() if c["support"] > 0])),
        ece=float(np.abs(hits - sums).sum() / len(right)),
        classes=names,
        per_class=per_class,
        confusion=confusion.tolist(),
    )


def calibration_bins(logits: ArrayLike, labels: ArrayLike) -> list[CalibrationBin]:
    """The bins of ``ece`` that hold any image, by rising confidence.

    Args:
        logits: (N, C) finite scores before the softmax.
        labels: (N,) integers in 0..C-1, the true classes.

    Raises:
        DataError: For any reason :func:`evaluate` has.
    """
    scores = checked_logits(logits)
    right = scores.argmax(axis=1) == checked_labels(labels, scores.shape)
    counts, hits, sums = _binned(scores, right)
    bins = []
    for i in np.flatnonzero(counts).tolist():
        n, hit, confidence = int(counts[i]), int(hits[i]), float(sums[i] / counts[i])
        bounds, interval = (i / _BINS, (i + 1) / _BINS), wilson_interval(hit, n)
        bins.append(CalibrationBin(*bounds, n, hit, confidence, hit / n, interval))
    return bins


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C); no logit is too large for it.

    Raises:
        DataError: If the logits are not (N, C), or not finite.
    """
    scores = checked_logits(logits)
    powers: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """The 95% score interval (low, high) of a share, within 0 and 1: ``successes`` of ``n``.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Raises:
        OptionError: Unless 0 <= successes <= n and n >= 1.
    """
    if not (n >= 1 and 0 <= successes <= n):
        remedy = "count the images that are right and all images"
        wanted = "0 <= successes <= n and n >= 1"
        raise OptionError("successes of n", wanted, f"{successes} of {n}", remedy)
    share, z2 = successes / n, _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Exact ends where none or all succeed: rounding would leave 1e-17 or 1 - 1e-16.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


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


def _cross_entropy(scores: NDArray[np.float64], truths: NDArray[np.int64]) -> float:
    # From the logits: a log loss of probabilities clips at the smallest one, and so saturates.
    shifted = scores - scores.max(axis=1, keepdims=True)
    true = np.take_along_axis(shifted, truths[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - true))


def _binned(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> list[NDArray[Any]]:
    """Images, right ones and summed confidence of each bin."""
    confidence = softmax(scores).max(axis=1)
    # Guo et al.'s bins are closed on the right: ((m - 1) / M, m / M].
    bins = np.digitize(confidence, np.linspace(0, 1, _BINS + 1)[1:-1], right=True)
    return [np.bincount(bins, weights, _BINS) for weights in (None, right, confidence)]


def _per_class(confusion: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    # In numpy: loading scikit-learn takes longer than embedding fifty images.
    hits, truths, predictions = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)

    def share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float]:
        return list((part / np.maximum(whole, 1)).tolist())  # 0.0 of nothing

    columns = share(hits, predictions), share(hits, truths), share(2 * hits, truths + predictions)
    rows = zip(*columns, truths.tolist(), strict=True)
    measures = ("precision", "recall", "f1", "support")
    return {
        name: dict(zip(measures, row, strict=True)) for name, row in zip(names, rows, strict=True)
    }


def checked_logits(logits: ArrayLike) -> NDArray[np.float64]:
    """Logits as float64.

    Raises:
        DataError: If they are not (N, C), N and C at least 1, or not finite.
    """
    scores = np.asarray(logits)
    if scores.ndim != 2 or 0 in scores.shape or scores.dtype.kind not in "fiu":
        expected = "real numbers of shape (N, C), N >= 1 and C >= 1"
        remedy = "give one row an image and one column a class"
        raise DataError("logits", expected, f"{scores.dtype} {scores.shape}", remedy)
    bad = ~(np.abs(scores) <= np.finfo(np.float32).max)  # NaN, infinite, or near float64's end
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        where, found = f"logits, row {row}, column {column}", str(scores[row, column])
        remedy = "a model gives such logits when its training diverged: lower the learning rate"
        raise DataError(where, "finite float32 numbers", found, remedy)
    return scores.astype(np.float64)


def checked_labels(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Labels as int64, for logits of shape (N, C).

    Raises:
        DataError: If they are not N integers in 0..C-1.
    """
    truths, (n, count) = np.asarray(labels), shape
    if truths.shape != (n,) or truths.dtype.kind not in "iu":
        expected, found = f"{n} integers, one a row of the logits", f"{truths.dtype} {truths.shape}"
        raise DataError("labels", expected, found, "give logits and labels of the same images")
    wrong = np.flatnonzero((truths < 0) | (truths >= count))
    if len(wrong):
        expected = f"a class number from 0 to {count - 1}"
        remedy = "evaluate on data of the classes that the model was trained on"
        raise DataError(f"labels, row {wrong[0]}", expected, str(truths[wrong[0]]), remedy)
    return truths.astype(np.int64)
