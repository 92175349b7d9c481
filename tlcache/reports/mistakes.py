"""What a model got wrong and how sure it was: mistakes, confusions, classes.

Takes arrays and evaluations; draws nothing and reads no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.evaluation.metrics import Evaluation, softmax, wilson_interval
from tlcache.networks.scoring import Scored


@dataclasses.dataclass(frozen=True)
class Judged:
    """One image: the class that it is of, and the one that the model takes it for."""

    path: str  # relative to the data's folder
    truth: str
    prediction: str
    probability: float  # of the prediction
    true_probability: float

    @property
    def right(self) -> bool:
        """Whether the prediction is the truth."""
        return self.truth == self.prediction


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """How one class fares; ``interval`` is that of the recall, None where it has no image."""

    name: str
    support: int
    recall: float
    interval: tuple[float, float] | None
    precision: float
    f1: float


def judged(scored: Scored, classes: Sequence[str]) -> list[Judged]:
    """Each image of a split, in order."""
    probabilities = softmax(scored.logits)
    found = probabilities.argmax(axis=1)
    rows = np.arange(len(found))
    return [
        Judged(path, classes[truth], classes[prediction], float(p), float(q))
        for path, truth, prediction, p, q in zip(
            scored.paths,
            scored.labels,
            found,
            probabilities[rows, found],
            probabilities[rows, scored.labels],
            strict=True,
        )
    ]


def worst_first(images: Sequence[Judged]) -> list[Judged]:
    """The mistakes, the surest first."""
    wrong = [image for image in images if not image.right]
    return sorted(wrong, key=lambda image: (-image.probability, image.path))


def class_rows(evaluation: Evaluation, most: int) -> list[ClassRow]:
    """The classes in their order; where there are more than ``most``, those of the lowest F1."""
    rows = []
    for i, name in enumerate(evaluation.classes):
        values = evaluation.per_class[name]
        support = sum(evaluation.confusion[i])
        bounds = wilson_interval(evaluation.confusion[i][i], support) if support else None
        numbers = values["recall"], bounds, values["precision"], values["f1"]
        rows.append(ClassRow(name, support, *numbers))
    if len(rows) <= most:
        return rows
    with_images = [row for row in rows if row.support] or rows
    return sorted(with_images, key=lambda row: (row.f1, row.name))[:most]


def confusions(evaluation: Evaluation, most: int) -> list[tuple[str, str, int, int]]:
    """(truth, prediction, how often, images of the truth) of the most frequent mistakes."""
    counts = np.array(evaluation.confusion)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    names = evaluation.classes
    pairs = [divmod(int(flat), len(names)) for flat in order]
    return [
        (names[i], names[j], int(counts[i, j]), int(totals[i])) for i, j in pairs if counts[i, j]
    ]


def spread(images: Sequence[Judged], most: int) -> NDArray[np.int64]:
    """(m,) rising rows of at most so many images: the worst mistakes, half of it at most, and
    others evenly."""
    if len(images) <= most:
        return np.arange(len(images))
    sure = np.array([image.probability for image in images])
    wrong = np.flatnonzero([not image.right for image in images])
    first = wrong[np.argsort(-sure[wrong], kind="stable")][: most // 2]
    rest = np.setdiff1d(np.arange(len(images)), first)
    even = rest[np.linspace(0, len(rest) - 1, most - len(first)).astype(int)]
    return np.sort(np.concatenate([first, even]))
