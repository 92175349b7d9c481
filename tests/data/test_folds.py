from __future__ import annotations

import numpy as np
import pytest

from tlcache.core.errors import TlcacheError
from tlcache.data.splits import _check_trained, draw_folds

CLASSES = ("ants", "bees")


def labels_of(ants: int, bees: int) -> np.ndarray:
    return np.repeat([0, 1], [ants, bees])


def test_each_fold_keeps_the_shares_of_the_classes() -> None:
    labels = labels_of(20, 10)
    of = draw_folds(labels, 5, 0, classes=CLASSES)
    for fold in range(5):
        assert np.bincount(labels[of == fold]).tolist() == [4, 2]


def test_folds_are_the_same_everywhere() -> None:
    of = draw_folds(labels_of(6, 6), 3, 7, classes=CLASSES)
    assert of.tolist() == [2, 1, 1, 0, 2, 0, 2, 1, 0, 0, 2, 1]


def test_another_seed_and_another_repeat_give_other_folds() -> None:
    labels = labels_of(20, 20)
    drawn = [
        draw_folds(labels, 5, seed, classes=CLASSES, repeat=repeat).tolist()
        for seed, repeat in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2))
    ]
    assert len({tuple(of) for of in drawn}) == 6


def test_a_group_is_in_one_fold_and_classes_keep_about_their_shares() -> None:
    random = np.random.default_rng(0)
    labels, groups = labels_of(60, 40), [f"series {i}" for i in random.integers(0, 30, 100)]
    of = draw_folds(labels, 5, 0, classes=CLASSES, groups=groups)
    for group in set(groups):
        assert len({int(f) for f, g in zip(of, groups, strict=True) if g == group}) == 1
    counts = np.array([np.bincount(labels[of == fold], minlength=2) for fold in range(5)])
    assert np.abs(counts - [12, 8]).max() <= 5


def test_groups_are_shuffled_by_seed_and_repeat() -> None:
    labels = np.arange(40) % 2
    groups = [str(i // 2) for i in range(40)]
    drawn = {
        tuple(draw_folds(labels, 4, seed, classes=CLASSES, groups=groups, repeat=repeat))
        for seed, repeat in ((0, 0), (0, 1), (1, 0))
    }
    assert len(drawn) == 3


def refused(labels: np.ndarray, folds: int, *words: str, groups: list[str] | None = None) -> None:
    with pytest.raises(TlcacheError) as caught:
        draw_folds(labels, folds, 0, classes=CLASSES, groups=groups)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("folds", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(folds: int) -> None:
    refused(labels_of(5, 5), folds, "--folds: expected a whole number of at least 2", str(folds))


def test_more_folds_than_images_of_a_class_are_refused() -> None:
    refused(
        labels_of(9, 3), 5, "at least 5 images of each class", "3 of bees", "pass --folds 3 or less"
    )


def test_a_class_with_one_image_is_refused_with_the_reason() -> None:
    refused(
        labels_of(9, 1), 2, "1 of bees", "one image cannot be both trained on and held out", "add"
    )


def test_more_folds_than_groups_are_refused() -> None:
    groups = [str(i % 3) for i in range(20)]
    refused(
        labels_of(10, 10), 4, "at least 4 groups", "found 3;", "--folds 3 or less", groups=groups
    )


def test_one_group_is_refused_without_advice_of_fewer_folds() -> None:
    with pytest.raises(TlcacheError) as caught:
        draw_folds(labels_of(10, 10), 2, 0, classes=CLASSES, groups=["a"] * 20)
    assert "found 1; make finer groups" in str(caught.value)


def test_a_class_in_one_group_alone_is_refused() -> None:
    groups = ["a", "b"] * 5 + ["c"] * 10
    refused(labels_of(10, 10), 2, "all of bees in one group", "finer", groups=groups)


def test_groups_that_leave_a_class_untrained_are_refused() -> None:
    groups = ["a"] * 6 + ["b"] * 5 + ["a"] * 11 + ["c"] * 6
    refused(
        labels_of(11, 17), 2, "groups that make 2 folds", "all images of bees in one", groups=groups
    )


def test_a_fold_without_an_image_is_refused() -> None:
    with pytest.raises(TlcacheError, match=r"a fold without an image.* or pass fewer --folds"):
        _check_trained(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), 3, CLASSES)
