"""Logits and labels in, an :class:`Evaluation` out.

Every way of training is judged here, so that its numbers can be set side by side. Takes arrays
only: how the logits came about, and from which files, is none of its business. Draws nothing.
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
        count: Images.
        right: How many of them are right.
        confidence: Their mean.
        accuracy: ``right / count``.
        accuracy_ci95: (low, high) of :func:`wilson_interval`.
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
    names = _checked_classes(classes, scores.shape[1])
    predictions = scores.argmax(axis=1)
    right = predictions == truths
    _, hits, sums = _binned(softmax(scores).max(axis=1), right)
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
    counts, hits, sums = _binned(softmax(scores).max(axis=1), right)
    return [
        CalibrationBin(
            low=i / _BINS,
            high=(i + 1) / _BINS,
            count=int(counts[i]),
            right=int(hits[i]),
            confidence=float(sums[i] / counts[i]),
            accuracy=float(hits[i] / counts[i]),
            accuracy_ci95=wilson_interval(int(hits[i]), int(counts[i])),
        )
        for i in np.flatnonzero(counts).tolist()
    ]


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
        raise OptionError(
            "successes of n",
            expected="0 <= successes <= n and n >= 1",
            found=f"{successes} of {n}",
            remedy="count the images that are right and all images",
        )
    share, z2 = successes / n, _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Exact ends where none or all succeed: rounding would leave 1e-17 or 1 - 1e-16.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def _cross_entropy(scores: NDArray[np.float64], truths: NDArray[np.int64]) -> float:
    # From the logits: a log loss of probabilities clips at the smallest one, and so saturates.
    shifted = scores - scores.max(axis=1, keepdims=True)
    true = np.take_along_axis(shifted, truths[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - true))


def _binned(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Images, right ones and summed confidence of each bin."""
    # Guo et al.'s bins are closed on the right: ((m - 1) / M, m / M].
    edges = np.linspace(0, 1, _BINS + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    counts = np.bincount(bins, minlength=_BINS)
    hits = np.bincount(bins, weights=right, minlength=_BINS)
    return counts, hits, np.bincount(bins, weights=confidence, minlength=_BINS)


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
        raise DataError(
            "logits",
            expected="real numbers of shape (N, C), N >= 1 and C >= 1",
            found=f"{scores.dtype} {scores.shape}",
            remedy="give one row an image and one column a class",
        )
    bad = ~(np.abs(scores) <= np.finfo(np.float32).max)  # NaN, infinite, or near float64's end
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"logits, row {row}, column {column}",
            expected="finite float32 numbers",
            found=str(scores[row, column]),
            remedy="a model gives such logits when its training diverged: lower the learning rate",
        )
    return scores.astype(np.float64)


def checked_labels(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Labels as int64.

    Args:
        shape: (N, C) of their logits.

    Raises:
        DataError: If they are not N integers in 0..C-1.
    """
    truths, (n, count) = np.asarray(labels), shape
    if truths.shape != (n,) or truths.dtype.kind not in "iu":
        raise DataError(
            "labels",
            expected=f"{n} integers, one a row of the logits",
            found=f"{truths.dtype} {truths.shape}",
            remedy="give logits and labels of the same images",
        )
    wrong = np.flatnonzero((truths < 0) | (truths >= count))
    if len(wrong):
        raise DataError(
            f"labels, row {wrong[0]}",
            expected=f"a class number from 0 to {count - 1}",
            found=str(truths[wrong[0]]),
            remedy="evaluate on data of the classes that the model was trained on",
        )
    return truths.astype(np.int64)


def _checked_classes(classes: Sequence[str], count: int) -> tuple[str, ...]:
    names = tuple(str(name) for name in classes)
    if len(names) != count or len(set(names)) != count:
        raise DataError(
            "classes",
            expected=f"{count} different names, one a column of the logits",
            found=f"{len(names)}, {len(set(names))} of them different",
            remedy="give the classes that the model was trained on",
        )
    return names
