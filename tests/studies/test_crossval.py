from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tlcache.core.errors import OptionError
from tlcache.data.splits import draw_folds
from tlcache.evaluation.metrics import corrected_resampled_interval, wilson_interval
from tlcache.heads.recipe import Recipe, reseeded
from tlcache.heads.train import train_head
from tlcache.studies.crossval import BY_GROUPS, CORRECTED, WILSON, CrossValidation, cross_validate

CLASSES = ("ants", "bees")
RECIPE = Recipe(epochs=6, lr=0.02, seed=3)


def rows_of(n: int, apart: float, dim: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n rows of two classes whose means are so far apart."""
    random = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.int32)
    rows = random.normal(size=(n, dim))
    rows[:, 0] += apart * (labels - 0.5)
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def validated() -> CrossValidation:
    rows, labels = rows_of(61, 2.0)
    return cross_validate(rows, labels, classes=CLASSES, folds=4, repeats=3, recipe=RECIPE)


def test_every_image_is_held_out_once_a_repeat(validated: CrossValidation) -> None:
    assert [(f.repeat, f.fold) for f in validated.folds] == [
        (repeat, fold) for repeat in (1, 2, 3) for fold in (1, 2, 3, 4)
    ]
    for repeat in range(3):
        folds = validated.folds[4 * repeat : 4 * repeat + 4]
        assert sum(fold.held_out for fold in folds) == 61
        assert all(fold.trained_on + fold.held_out == 61 for fold in folds)
        right = sum(fold.right for fold in folds)
        assert validated.repeats[repeat].n == 61
        assert validated.repeats[repeat].accuracy == pytest.approx(right / 61)


def test_spreads_over_folds_and_over_repeats_are_told_apart(validated: CrossValidation) -> None:
    accuracies = np.array([fold.accuracy for fold in validated.folds]).reshape(3, 4)
    assert validated.accuracy == pytest.approx(accuracies.mean())
    inside = [np.var(row, ddof=1) for row in accuracies]
    assert validated.sd_folds == pytest.approx(math.sqrt(np.mean(inside)))
    assert validated.sd_repeats == pytest.approx(np.std(accuracies.mean(axis=1), ddof=1))
    assert validated.accuracy_ci95 == corrected_resampled_interval(accuracies, 1 / 3)
    assert validated.interval == CORRECTED


def test_images_judged_in_each_repeat_count_once(validated: CrossValidation) -> None:
    right = sum(fold.right for fold in validated.folds) / 3
    assert validated.out_of_fold == pytest.approx(right / 61)
    assert validated.out_of_fold_ci95 == pytest.approx(wilson_interval(right, 61))
    assert validated.out_of_fold_interval == WILSON


def test_a_fold_is_judged_by_the_last_epoch_of_a_head_trained_beside_it(
    validated: CrossValidation,
) -> None:
    rows, labels = rows_of(61, 2.0)
    out = draw_folds(labels, 4, 3, classes=CLASSES, repeat=1) == 2
    head = train_head(
        rows[~out], labels[~out], rows[:1], labels[:1], reseeded(RECIPE, 1, 1), classes=2
    ).last
    fold = validated.folds[4 + 2]
    assert fold.right == (head.logits(rows[out]).argmax(axis=1) == labels[out]).sum()
    assert fold.held_out == out.sum()


def test_one_repeat_has_no_spread_between_repeats() -> None:
    rows, labels = rows_of(20, 2.0)
    found = cross_validate(rows, labels, classes=CLASSES, folds=2, repeats=1, recipe=RECIPE)
    assert found.sd_repeats is None
    assert found.describe()["sd_repeats"] is None


def test_labels_without_meaning_are_guessed_by_chance() -> None:
    rows, _ = rows_of(80, 0.0, dim=200)
    labels = np.random.default_rng(5).integers(0, 2, 80).astype(np.int32)
    found = cross_validate(rows, labels, classes=CLASSES, repeats=2, recipe=RECIPE)
    assert 0.35 < found.accuracy < 0.65


def test_copies_in_other_folds_flatter_and_groups_prevent_it() -> None:
    """Labels without meaning, on five copies of each image."""
    rows, _ = rows_of(30, 0.0, dim=100)
    labels = np.random.default_rng(5).integers(0, 2, 30).astype(np.int32)
    rows, labels = np.repeat(rows, 5, axis=0), np.repeat(labels, 5)
    how: dict[str, Any] = {"classes": CLASSES, "repeats": 2, "recipe": RECIPE}
    alone = cross_validate(rows, labels, **how)
    groups = [str(i // 5) for i in range(150)]
    grouped = cross_validate(rows, labels, groups=groups, **how)
    assert alone.accuracy > 0.9
    assert grouped.accuracy < 0.65
    assert grouped.groups == 30
    assert grouped.out_of_fold_interval == BY_GROUPS
    low, high = grouped.out_of_fold_ci95
    narrow = wilson_interval(grouped.out_of_fold * 150, 150)
    assert high - low > 1.5 * (narrow[1] - narrow[0])


def test_folds_that_are_all_right_leave_a_doubt() -> None:
    rows, labels = rows_of(40, 50.0)
    found = cross_validate(rows, labels, classes=CLASSES, folds=4, repeats=2, recipe=RECIPE)
    assert found.accuracy == 1
    assert found.accuracy_ci95 == wilson_interval(40, 40)
    assert found.interval == WILSON


def test_folds_that_are_alike_by_chance_tell_no_more_than_their_images() -> None:
    rows, labels = rows_of(48, 3.0)
    how: dict[str, Any] = {"classes": CLASSES, "folds": 2, "repeats": 1}
    for seed in range(40):
        recipe = Recipe(epochs=6, lr=0.02, seed=seed)
        found = cross_validate(rows, labels, recipe=recipe, **how)
        low, high = found.accuracy_ci95
        least = wilson_interval(found.out_of_fold * 48, 48)
        assert high - low >= least[1] - least[0] - 1e-9
        if found.interval == WILSON and found.folds[0].right == found.folds[1].right < 24:
            return
    pytest.fail("no two folds were alike")


def test_the_description_says_that_nothing_was_chosen(validated: CrossValidation) -> None:
    values = validated.describe()
    assert values["selected_on"] == "none"
    assert values["images"] == 61
    assert values["groups"] is None
    assert len(values["folds"]) == 12 and len(values["repeats"]) == 3
    assert values["out_of_fold"]["accuracy"] == validated.out_of_fold


@pytest.mark.parametrize("repeats", [0, -1, 1001])
def test_repeats_that_make_no_sense_are_refused(repeats: int) -> None:
    rows, labels = rows_of(20, 2.0)
    with pytest.raises(OptionError, match=r"--repeats: expected a whole number from 1 to 1000"):
        cross_validate(rows, labels, classes=CLASSES, repeats=repeats)
