from __future__ import annotations

import itertools
import os
from collections import Counter

import numpy as np
import pytest

from tlcache.core.errors import OptionError
from tlcache.data.splits import check_shares, divide, sample

NAMES = [f"ants/{i}.jpg" for i in range(10)]


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
