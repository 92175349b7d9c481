"""What a report says of a model's answers, on arrays."""

from __future__ import annotations

import numpy as np
import pytest
from written_runs import answers

from tlcache.evaluation.metrics import evaluate, softmax, wilson_interval
from tlcache.networks.scoring import Scored
from tlcache.reports.mistakes import (
    class_rows,
    confusions,
    judged,
    spread,
    worst_first,
)

CLASSES = ("ants", "bees", "cats")


def scored(rows: list[list[float]], labels: list[int]) -> Scored:
    paths = [f"{i}.jpg" for i in range(len(labels))]
    return Scored(np.log(np.array(rows, np.float32)), np.array(labels, np.int32), paths)


def test_each_image_has_its_truth_prediction_and_probabilities() -> None:
    (one,) = judged(scored([[0.1, 0.7, 0.2]], [2]), CLASSES)
    assert (one.path, one.truth, one.prediction, one.right) == ("0.jpg", "cats", "bees", False)
    assert one.probability == pytest.approx(0.7)
    assert one.true_probability == pytest.approx(0.2)


def test_mistakes_come_surest_first_and_nothing_right_is_among_them() -> None:
    rows = [[0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.95, 0.04, 0.01], [0.2, 0.3, 0.5]]
    found = worst_first(judged(scored(rows, [1, 2, 0, 1]), CLASSES))
    assert [image.path for image in found] == ["1.jpg", "0.jpg", "3.jpg"]


def test_a_class_has_its_recall_with_an_interval_and_one_without_images_has_none() -> None:
    found = evaluate(np.eye(3)[[0, 0, 1, 1]], [0, 0, 1, 0], CLASSES)
    ants, bees, cats = class_rows(found, 3)
    assert ants.support == 3 and ants.recall == pytest.approx(2 / 3)
    assert ants.interval == wilson_interval(2, 3)
    assert (bees.precision, bees.recall) == (0.5, 1.0)
    assert (cats.support, cats.interval) == (0, None)


def test_of_too_many_classes_those_of_the_lowest_f1_are_kept() -> None:
    found = evaluate(np.eye(3)[[0, 0, 1, 1]], [0, 0, 1, 0], CLASSES)
    assert [row.name for row in class_rows(found, 2)] == ["bees", "ants"]
    assert [row.name for row in class_rows(found, 1)] == ["bees"]


def test_confusions_are_the_most_frequent_mistakes() -> None:
    found = evaluate(np.eye(3)[[1, 1, 2, 0, 1]], [0, 0, 0, 0, 2], CLASSES)
    assert confusions(found, 2) == [("ants", "bees", 2, 4), ("ants", "cats", 1, 4)]
    perfect = evaluate(np.eye(3), [0, 1, 2], CLASSES)
    assert confusions(perfect, 2) == []


def test_a_map_takes_the_worst_mistakes_and_others_evenly() -> None:
    images = judged(answers(100, 3, wrong=30), CLASSES)
    rows = spread(images, 20)
    wrong = [row for row in rows if not images[row].right]
    assert len(rows) == 20 and (np.diff(rows) > 0).all()
    surest = worst_first(images)[:10]
    assert {image.path for image in surest} <= {images[row].path for row in wrong}
    assert spread(images, 100).tolist() == list(range(100))


def test_probabilities_are_those_of_the_softmax() -> None:
    said = answers(10, 3, wrong=2)
    most = softmax(said.logits).max(axis=1)
    assert [image.probability for image in judged(said, CLASSES)] == most.tolist()
