"""Shares, samples and folds: seeded, stratified, and the same everywhere."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import numpy as np
import pytest

from tlcache.core.errors import OptionError, TlcacheError
from tlcache.data.splits import _check_trained, check_shares, divide, draw_folds, sample

NAMES = [f"ants/{i}.jpg" for i in range(10)]
CLASSES = ("ants", "bees")


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.7, 0.15, 0.15), (0.1, 0.2, 0.7)])
def test_shares_that_make_sense(shares: tuple[float, ...]) -> None:
    check_shares(shares)


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ((1.0,), "1"),
        ((), ""),
        ((0.8, 0.1), "0.8,0.1"),
        ((1.2, -0.2), "1.2,-0.2"),
        ((1.0, 0.0), "1,0"),
        ((80, 20), "80,20"),
        ((0.25, 0.25, 0.25, 0.25), "0.25,0.25,0.25,0.25"),
        ((float("nan"), 0.5), "nan,0.5"),
        ((float("inf"), 0.5), "inf,0.5"),
    ],
)
def test_shares_that_make_none(shares: tuple[float, ...], found: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_shares(shares)
    assert str(caught.value) == (
        f"--split: expected two or three shares over 0 that sum to 1, found {found}; "
        "pass for example --split 0.8,0.2 or --split 0.7,0.15,0.15"
    )


def test_a_division_never_changes() -> None:
    train, val, test = divide(NAMES, (0.6, 0.2, 0.2), 0)
    assert [int(name[5]) for name in train] == [3, 9, 2, 4, 0, 6]
    assert [int(name[5]) for name in val] == [1, 7]
    assert [int(name[5]) for name in test] == [8, 5]


def test_a_division_does_not_depend_on_the_order_of_names() -> None:
    assert divide(NAMES[::-1], (0.5, 0.5), 3) == divide(NAMES, (0.5, 0.5), 3)
    assert divide(NAMES, (0.5, 0.5), 4) != divide(NAMES, (0.5, 0.5), 3)


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (10, (0.8, 0.2), [8, 2]),
        (10, (0.7, 0.15, 0.15), [6, 2, 2]),
        (7, (0.8, 0.2), [6, 1]),
        (2, (0.8, 0.2), [1, 1]),
        (3, (0.8, 0.1, 0.1), [1, 1, 1]),
        (4, (0.1, 0.9), [1, 3]),
        (4, (0.01, 0.5, 0.49), [1, 1, 2]),
        (100, (0.98, 0.01, 0.01), [98, 1, 1]),
        (20, (0.99, 0.01), [19, 1]),
    ],
)
def test_sizes_are_rounded_and_no_part_is_empty(
    count: int, shares: tuple[float, ...], sizes: list[int]
) -> None:
    names = [str(i) for i in range(count)]
    parts = divide(names, shares, 0)
    assert [len(part) for part in parts] == sizes
    assert sorted(name for part in parts for name in part) == sorted(names)


def test_names_that_are_not_utf8() -> None:
    names = [os.fsdecode(b"\xff%d" % i) for i in range(4)]
    assert sorted(divide(names, (0.5, 0.5), 0)[0]) != sorted(names)
    assert len(sample(names, np.zeros(4, int), 2, 0)) == 2


def test_a_sample_never_changes() -> None:
    assert sample(NAMES, np.arange(10) % 2, 4, 0).tolist() == [2, 3, 4, 9]
    assert sample(NAMES, np.arange(10) % 2, 4, 1).tolist() == [0, 3, 6, 7]


def test_classes_keep_their_shares_in_a_sample() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    names = [str(i) for i in range(1000)]
    for count in (10, 100, 500, 999):
        counts = Counter(labels[sample(names, labels, count, 0)].tolist())
        assert counts.total() == count
        for label, share in ((0, 0.6), (1, 0.3), (2, 0.1)):
            assert abs(counts[label] - count * share) <= 1


def test_every_class_is_in_a_sample_even_if_that_makes_more() -> None:
    labels = np.repeat([0, 1, 5], [997, 2, 1])
    names = [str(i) for i in range(1000)]
    assert sorted(labels[sample(names, labels, 1, 0)]) == [0, 1, 5]
    assert set(labels[sample(names, labels, 10, 0)]) == {0, 1, 5}
    assert len(sample(names, labels, 10, 0)) == 10


def test_a_sample_of_all_and_more_is_all() -> None:
    for count in (10, 11, 10**9):
        assert sample(NAMES, np.arange(10) % 2, count, 0).tolist() == list(range(10))


def test_a_larger_sample_holds_the_smaller() -> None:
    labels = np.arange(10) % 3
    samples = [set(sample(NAMES, labels, count, 0).tolist()) for count in range(3, 11)]
    assert all(small < large for small, large in itertools.pairwise(samples))


def test_a_sample_of_nothing_is_nothing() -> None:
    assert sample([], np.zeros(0, int), 5, 0).tolist() == []


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
