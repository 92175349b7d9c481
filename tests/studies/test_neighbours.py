"""Nearest rows and near pairs: equal to naive ways, to the last bit, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tlcache.core.errors import DataError, OptionError
from tlcache.studies.neighbours import TOLERANCE, nearest, pairs_over, unit_rows

Floats = NDArray[np.float32]
TINY, SMALL = 4_000, 40_000
"""Bytes that force blocks of a few rows, and of some."""


def drawn(count: int, dim: int = 16, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, dim), np.float32)


def cosines(a: Floats, b: Floats) -> NDArray[np.float64]:
    """By the definition, in float64."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    return np.divide(left @ right.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def found(*arguments: Any, **how: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and similarities of all queries."""
    parts = list(nearest(*arguments, **how))
    starts = [part.start for part in parts]
    assert starts == np.cumsum([0, *(len(part.indices) for part in parts[:-1])]).tolist()
    return np.vstack([p.indices for p in parts]), np.vstack([p.similarities for p in parts])


def naive(similarities: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k largest of each row, of equals the first."""
    return np.argsort(-similarities, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("memory", [TINY, SMALL, 1 << 28])
def test_the_nearest_are_those_of_the_whole_matrix_sorted(k: int, memory: int) -> None:
    queries, rows = drawn(90, seed=1), drawn(300)
    indices, similarities = found(queries, rows, k, memory=memory)
    whole = unit_rows(queries, slice(0, 90)) @ unit_rows(rows, slice(0, 300)).T
    assert np.array_equal(indices, naive(whole, k))
    assert np.array_equal(similarities, np.take_along_axis(whole, indices, 1))
    expected = -np.sort(-cosines(queries, rows), axis=1)[:, :k]
    assert np.abs(similarities - expected).max() < TOLERANCE


def test_the_nearest_are_scikit_learn_s_brute_force_neighbours() -> None:
    from sklearn.neighbors import NearestNeighbors

    queries, rows = drawn(50, 64, seed=1), drawn(500, 64)
    indices, similarities = found(queries, rows, 20, memory=SMALL)
    brute = NearestNeighbors(n_neighbors=20, algorithm="brute", metric="cosine").fit(rows)
    distances, expected = brute.kneighbors(queries)
    assert np.array_equal(indices, expected)
    assert np.abs(1 - distances - similarities).max() < TOLERANCE


def test_equal_rows_tie_and_the_lower_index_comes_first_whatever_the_blocks() -> None:
    # 40 different rows, each ten times: every similarity comes ten times.
    rows = np.tile(drawn(40, 33), (10, 1))
    results = [found(drawn(70, 33, 1), rows, 25, memory=m) for m in (1, TINY, SMALL, 1 << 28)]
    indices, similarities = results[0]
    assert (similarities[:, :10] == similarities[:, :1]).all()
    assert (np.diff(indices[:, :10], axis=1) == 40).all()
    assert (np.diff(indices[:, 20:], axis=1) == 40).all()  # the third row's, cut at five of ten
    for others in results[1:]:
        assert np.array_equal(indices, others[0])
        assert np.array_equal(similarities, others[1])


def test_rows_that_are_all_equal_are_taken_in_their_order() -> None:
    rows = np.ones((500, 3), np.float32)
    indices, similarities = found(rows[:5], rows, 60, memory=SMALL)
    assert (indices == np.arange(60)).all()
    assert np.abs(similarities - 1).max() < TOLERANCE


def test_a_similarity_does_not_depend_on_how_sums_are_added_up() -> None:
    rows = unit_rows(np.abs(drawn(200, 700)), slice(0, 200))
    order = np.random.default_rng(3).permutation(700)
    assert np.array_equal(rows @ rows.T, rows[:, order] @ rows[:, order].T)


def test_a_row_is_no_neighbour_of_a_query_with_its_id() -> None:
    rows, ids = drawn(120), np.arange(120) // 3
    indices, _ = found(rows, rows, 10, ids=(ids, ids), memory=SMALL)
    expected = np.where(ids[:, None] == ids, -np.inf, cosines(rows, rows))
    assert np.array_equal(indices, naive(expected, 10))


def test_where_there_are_too_few_rows_the_rest_is_said_to_be_none() -> None:
    rows, ids = drawn(4), np.array([0, 0, 1, 2])
    indices, similarities = found(rows[:1], rows, 6, ids=(ids[:1], ids))
    assert indices[0, 2:].tolist() == [-1] * 4 and set(indices[0, :2]) == {2, 3}
    assert np.isneginf(similarities[0, 2:]).all() and np.isfinite(similarities[0, :2]).all()


def test_a_row_of_zeros_is_as_near_to_all_as_a_right_angle() -> None:
    rows = np.array([[-1, 0], [0, 0], [1, 0]], np.float32)
    indices, similarities = found(np.array([[1, 0], [0, 0]], np.float32), rows, 3)
    assert indices.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert similarities.tolist() == [[1, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 3e38])
def test_a_row_s_length_does_not_matter_however_small_or_large(scale: float) -> None:
    rows = (np.array([[1, 0], [1, 1], [0, 1]]) * scale).astype(np.float32)
    _, similarities = found(np.array([[1, 0]], np.float32), rows, 3)
    assert similarities == pytest.approx(np.array([[1, 0.5**0.5, 0]]), abs=TOLERANCE)


def test_progress_ends_at_the_number_of_similarities() -> None:
    told: list[tuple[int, int]] = []
    found(drawn(30), drawn(100), 3, memory=SMALL, progress=lambda *at: told.append(at))
    assert told == sorted(told) and len(told) > 3
    assert told[-1] == (3000, 3000)


@pytest.mark.parametrize("memory", [TINY, SMALL, 1 << 28])
def test_pairs_are_those_of_the_whole_matrix_over_the_threshold(memory: int) -> None:
    a, b = drawn(80, 4), drawn(120, 4, 1)
    pairs = pairs_over(a, b, 0.9, memory=memory)
    expected = cosines(a, b)
    assert pairs.total == len(pairs.rows) == (expected >= 0.9).sum() > 100
    assert np.abs(expected[tuple(pairs.rows.T)] - pairs.similarities).max() < TOLERANCE
    assert (np.diff(pairs.similarities) <= 0).all()
    assert len({tuple(pair) for pair in pairs.rows.tolist()}) == pairs.total


@pytest.mark.parametrize("memory", [TINY, SMALL, 1 << 28])
def test_pairs_among_rows_come_once_and_never_with_themselves(memory: int) -> None:
    rows = drawn(150, 4)
    pairs = pairs_over(rows, None, 0.9, memory=memory)
    expected = np.triu(cosines(rows, rows) >= 0.9, 1)
    assert (pairs.rows[:, 0] < pairs.rows[:, 1]).all()
    assert pairs.total == len(pairs.rows) == expected.sum() > 100
    assert expected[tuple(pairs.rows.T)].all()


def test_the_most_similar_pairs_are_kept_and_all_are_counted() -> None:
    rows = np.repeat(drawn(50, 4), 2, axis=0)
    everything = pairs_over(rows, None, 0.5, most=10**6)
    assert everything.total == len(everything.rows) > 500
    for memory in (TINY, SMALL, 1 << 28):
        few = pairs_over(rows, None, 0.5, most=20, memory=memory)
        assert few.total == everything.total
        assert np.array_equal(few.similarities, everything.similarities[:20])
        assert np.array_equal(few.rows, everything.rows[:20])


def test_pairs_of_equal_similarity_are_kept_in_the_order_of_their_indices() -> None:
    rows = np.ones((30, 2), np.float32)
    for memory in (1, TINY, SMALL):
        pairs = pairs_over(rows, None, 1.0, most=5, memory=memory)
        assert pairs.rows.tolist() == [[0, 1], [0, 2], [0, 3], [0, 4], [0, 5]]
        assert pairs.total == 30 * 29 // 2


def test_rows_with_the_same_id_are_no_pair() -> None:
    rows, ids = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    assert pairs_over(rows, None, 0.9, ids=(ids, ids)).rows.tolist() == [
        *([0, 1], [0, 3], [1, 2], [2, 3])
    ]


def test_rows_of_zeros_are_no_pair() -> None:
    assert pairs_over(np.zeros((5, 3), np.float32), None, 1e-5).total == 0


def test_a_threshold_of_one_finds_rows_of_one_direction() -> None:
    rows = np.vstack([drawn(20, 300), 2 * drawn(20, 300)])
    pairs = pairs_over(rows, None, 1.0)
    assert sorted(map(tuple, pairs.rows.tolist())) == [(i, i + 20) for i in range(20)]


@pytest.mark.parametrize(
    "search",
    [
        lambda rows: list(nearest(rows[:500], rows, 50, memory=8 << 20)),
        lambda rows: pairs_over(rows[:500], rows, 0.9, memory=8 << 20),
        lambda rows: list(nearest(np.ones_like(rows[:500]), np.ones_like(rows[0:1]), 1)) and None,
    ],
    ids=["nearest", "pairs", "one row"],
)
def test_a_search_keeps_to_its_memory(search: Callable[[Floats], object]) -> None:
    # The whole matrix would take 80 MB, the scaled rows 5 MB more.
    rows = drawn(20_000, 32)
    tracemalloc.start()
    try:
        search(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_ties_everywhere_keep_to_the_memory_too() -> None:
    rows = np.ones((20_000, 32), np.float32)
    tracemalloc.start()
    try:
        list(nearest(rows[:500], rows, 50, memory=8 << 20))
        pairs_over(rows[:500], rows, 0.9, memory=8 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_row(value: float) -> None:
    rows = drawn(50)
    rows[37, 3] = value
    with pytest.raises(DataError, match=r"rows, row 37: expected finite numbers, found a NaN or"):
        list(nearest(drawn(3), rows, 1, memory=SMALL))
    with pytest.raises(DataError, match="queries, row 37"):
        list(nearest(rows, drawn(3), 1))
    with pytest.raises(DataError, match="row 37"):
        pairs_over(rows, None, 0.9)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (drawn(3, 4), drawn(3, 5)),
        (drawn(3)[0], drawn(3)),
        (drawn(3), drawn(3)[:0]),
        (drawn(3).astype(complex), drawn(3)),
    ],
    ids=["lengths", "one row", "no row", "complex"],
)
def test_arrays_that_do_not_fit_are_refused(a: Floats, b: Floats) -> None:
    for search in (lambda: list(nearest(a, b, 1)), lambda: pairs_over(a, b, 0.9)):
        with pytest.raises(DataError, match="expected two arrays of real numbers"):
            search()


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.0001, float("nan"), float("inf")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(OptionError, match="over 0 and up to 1, found"):
        pairs_over(drawn(3), None, threshold)


def test_no_neighbours_are_not_asked_for() -> None:
    with pytest.raises(OptionError, match="expected 1 or more, found 0"):
        list(nearest(drawn(3), drawn(3), 0))
