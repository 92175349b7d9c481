"""Nearest rows and near pairs by cosine similarity: exact, block by block, in bounded memory.

Rows are scaled to length 1 and rounded to a grid of 2⁻²⁶. Products of such numbers are multiples of
2⁻⁵², and their sums stay near 1, so that float64 holds every partial sum exactly: a similarity is
the same to the last bit whatever the blocks, the threads and the machine's way to add, equal rows
are equally near, and ties go to the lower index. It is within 1e-6 of the cosine. A row of zeros
has no direction: its similarity to every row is 0. Knows no files and no labels.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, OptionError
from tlcache.core.progress import Tick

MEMORY = 256 << 20
"""Bytes that a search may take beside its rows and its result."""
TOLERANCE = 1e-6
"""How far a similarity may be from the cosine, at most."""
MOST_PAIRS = 1000

_GRID = 2.0**26
_JOINED_AT_ONCE = 64
_QUERIES_AT_ONCE = 2048  # so many that to scale a block of rows costs little beside its products

Rows = NDArray[np.floating[Any]]
Ids = NDArray[np.integer[Any]]


class Nearest(NamedTuple):
    """The nearest rows of some queries.

    Attributes:
        start: Number of the first of the b queries.
        indices: (b, k) int64, the nearest first, of equals the lower index; -1 where there are
            fewer than k rows.
        similarities: (b, k) float64 in [-1, 1]; -inf there.
    """

    start: int
    indices: NDArray[np.int64]
    similarities: NDArray[np.float64]


class Pairs(NamedTuple):
    """Pairs of rows.

    Attributes:
        rows: (m, 2) int64, the most similar pair first.
        similarities: (m,) float64.
        total: How many there are in all; m of them are kept.
        counts: (n,) or, of pairs with others, (n + m,): how many of all pairs a row is in.
        groups: (the same,) numbers, equal for rows that a chain of any pairs connects.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float64]
    total: int
    counts: NDArray[np.int64] = np.empty(0, np.int64)
    groups: NDArray[np.int32] = np.empty(0, np.int32)


def nearest(
    queries: Rows,
    rows: Rows,
    k: int,
    *,
    ids: tuple[Ids, Ids] | None = None,
    memory: int = MEMORY,
    progress: Tick | None = None,
) -> Iterator[Nearest]:
    """The k nearest rows of each query, some queries at a time, in their order.

    Args:
        queries: (q, D), real and finite.
        rows: (n, D), real and finite; may lie in a file.
        k: How many; 1 or more.
        ids: (q,) and (n,) integers: a row is no neighbour of a query with its id.
        memory: Bytes to take, about; the result does not depend on it.
        progress: Told how many of the q * n similarities are known.

    Raises:
        DataError: If the shapes do not fit, or a number is not finite.
        OptionError: If k is below 1.
    """
    _check_shapes(queries, rows)
    if k < 1:
        raise OptionError("k", expected="1 or more", found=str(k), remedy="ask for a neighbour")
    (q, dim), n = queries.shape, len(rows)
    tall = _between(memory // 4 // (24 * dim + 100 * k), min(q, _QUERIES_AT_ONCE))
    wide = _between(memory * 3 // 4 // (24 * tall + 24 * dim), n)
    for start in range(0, q, tall):
        asked = slice(start, min(start + tall, q))
        vectors, best = unit_rows(queries, asked, "queries"), _none(asked.stop - start, k)
        for first in range(0, n, wide):
            block = slice(first, min(first + wide, n))
            found = _cosines(vectors, unit_rows(rows, block))
            if ids is not None:
                found[ids[0][asked, None] == ids[1][block]] = -np.inf
            best = _merged(best, found, first)
            if progress is not None:
                progress(start * n + (asked.stop - start) * block.stop, q * n)
        yield Nearest(start, *best)


def pairs_over(
    rows: Rows,
    others: Rows | None,
    threshold: float,
    *,
    ids: tuple[Ids, Ids] | None = None,
    most: int = MOST_PAIRS,
    memory: int = MEMORY,
    progress: Tick | None = None,
) -> Pairs:
    """Pairs that are at least so similar, up to :data:`TOLERANCE`.

    Args:
        rows: (n, D), real and finite.
        others: (m, D), for pairs of a row and another; None: pairs among the rows, each once.
        threshold: Of their similarity, over 0 and up to 1.
        ids: (n,) and (m,) integers: rows with the same id are no pair.
        most: So many of the most similar pairs are kept, of equals those with lower indices.
        memory, progress: As for :func:`nearest`.

    Raises:
        DataError: If the shapes do not fit, or a number is not finite.
        OptionError: If the threshold is out of (0, 1].
    """
    among, others = others is None, rows if others is None else others
    _check_shapes(rows, others)
    check_threshold(threshold)
    (n, dim), m = rows.shape, len(others)
    tall = _between(memory // 4 // (24 * dim), min(n, _QUERIES_AT_ONCE))
    wide = _between(memory // 2 // (48 * tall + 24 * dim), m)
    kept: list[tuple[float, int, int]] = []  # a heap of (similarity, -row, -other)
    after = 0 if among else n
    counts, groups = np.zeros(after + m, np.int64), np.arange(after + m, dtype=np.int32)
    for start in range(0, n, tall):
        asked = slice(start, min(start + tall, n))
        vectors = unit_rows(rows, asked)
        for first in range(start if among else 0, m, wide):
            block = slice(first, min(first + wide, m))
            found = _cosines(vectors, unit_rows(others, block))
            good = found >= threshold - TOLERANCE
            if among:  # below the diagonal are the same pairs again
                good &= np.arange(start, asked.stop)[:, None] < np.arange(first, block.stop)
            if ids is not None:
                good &= ids[0][asked, None] != ids[1][block]
            counts[asked] += np.count_nonzero(good, axis=1)
            counts[after + first : after + block.stop] += np.count_nonzero(good, axis=0)
            groups = _joined(groups, good, (start, after + first))
            _keep(kept, found, good, (start, first), most)
            if progress is not None:
                progress(start * m + (asked.stop - start) * block.stop, n * m)
    kept.sort(reverse=True)
    numbers = np.array([(-a, -b) for _, a, b in kept], np.int64).reshape(-1, 2)
    similarities = np.array([s for s, _, _ in kept], np.float64)
    return Pairs(numbers, similarities, int(counts.sum()) // 2, counts, groups)


def unit_rows(rows: Rows, part: slice, name: str = "rows") -> NDArray[np.float64]:
    """Some rows, scaled to length 1 and rounded to the grid; rows of zeros stay.

    Raises:
        DataError: If a number is not finite.
    """
    vectors = rows[part].astype(np.float64)
    largest = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
    bad = np.flatnonzero(~np.isfinite(largest))
    if len(bad):
        remedy = "embed the image again, or leave the row out"
        where = f"{name}, row {part.start + int(bad[0])}"
        raise DataError(where, "finite numbers", "a NaN or an infinite one", remedy)
    vectors /= np.where(largest > 0, largest, 1)[:, None]  # whose squares neither vanish nor end
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    vectors *= (_GRID / np.maximum(lengths, 1))[:, None]
    np.rint(vectors, out=vectors)
    vectors /= _GRID
    return vectors


def check_threshold(threshold: float, name: str = "threshold") -> None:
    """Raise an OptionError for a cosine similarity out of (0, 1], to count as near."""
    if not 0 < threshold <= 1:
        remedy = "pass for example 0.97; 1 finds equal features only"
        raise OptionError(name, "a cosine similarity over 0 and up to 1", str(threshold), remedy)


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    found = a @ b.T
    return np.clip(found, -1, 1, out=found)


def _none(count: int, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.full((count, k), -1), np.full((count, k), -np.inf)


def _merged(
    best: tuple[NDArray[np.int64], NDArray[np.float64]], found: NDArray[np.float64], first: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best so far, with those that a block of later rows has to add."""
    count, k = best[0].shape
    better = found > best[1][:, -1:]  # an equal one has a higher index
    many = np.flatnonzero(np.count_nonzero(better, axis=1) > k)
    if len(many):
        _leave_k(better, found, many, k)
    per_query = np.count_nonzero(better, axis=1)
    if not per_query.any():
        return best
    queries, columns = np.nonzero(better)
    places = np.arange(len(queries)) - np.repeat(np.cumsum(per_query) - per_query, per_query)
    new = _none(count, int(per_query.max()))
    new[0][queries, places] = columns + first
    new[1][queries, places] = found[queries, columns]
    indices, similarities = (np.hstack(both) for both in zip(best, new, strict=True))
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]  # stable: by index among equals
    return np.take_along_axis(indices, order, 1), np.take_along_axis(similarities, order, 1)


def _leave_k(
    better: NDArray[np.bool_], found: NDArray[np.float64], many: NDArray[np.int64], k: int
) -> None:
    """Of queries that have more, leave the k best candidates, the first ones among equals."""
    values = found if len(many) == len(found) else found[many]
    least = np.partition(values, values.shape[1] - k, axis=1)[:, -k, None]
    above, ties = values > least, values == least
    room = k - np.count_nonzero(above, axis=1)
    crowded = np.flatnonzero(np.count_nonzero(ties, axis=1) > room)
    if len(crowded):
        places = np.cumsum(ties[crowded], axis=1, dtype=np.int32)
        ties[crowded] &= places <= room[crowded, None]
    better[many] = above | ties


def _keep(
    kept: list[tuple[float, int, int]],
    found: NDArray[np.float64],
    good: NDArray[np.bool_],
    corner: tuple[int, int],
    most: int,
) -> None:
    """Add a block's pairs to the heap of the most similar ones."""
    if len(kept) >= most:
        least, row = kept[0][0], -kept[0][1]
        later = max(0, row + 1 - corner[0])
        good[:later] &= found[:later] >= least
        good[later:] &= found[later:] > least  # an equal pair loses by its higher row
    at, values = np.flatnonzero(good), found[good]
    if len(at) > most:  # those that equal the last of them compete by their indices
        least = np.partition(values, len(values) - most)[-most]
        at, values = at[values >= least], values[values >= least]
        order = np.argsort(-values, kind="stable")[:most]
        at, values = at[order], values[order]
    for place, value in zip(at.tolist(), values.tolist(), strict=True):
        row, column = divmod(place, found.shape[1])
        entry = value, -(corner[0] + row), -(corner[1] + column)
        if len(kept) < most:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)


def _joined(
    groups: NDArray[np.int32], good: NDArray[np.bool_], corner: tuple[int, int]
) -> NDArray[np.int32]:
    """The groups, with those made one that a block's pairs connect."""
    for start in range(0, len(good), _JOINED_AT_ONCE):  # after some, few pairs connect anything new
        part = good[start : start + _JOINED_AT_ONCE]
        if part.any():
            at = corner[0] + start
            a = groups[at : at + len(part)]
            b = groups[corner[1] : corner[1] + part.shape[1]]
            rows, columns = np.nonzero(part & (a[:, None] != b))
            if len(rows):
                groups = connected(len(groups), a[rows], b[columns])[groups]
    return groups


def connected(count: int, a: Ids, b: Ids) -> NDArray[np.int32]:
    """(count,) numbers that are equal where a chain of links from each ``a`` to its ``b`` leads."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(a)), (a, b)), shape=(count, count))
    labels: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return labels


def _between(wanted: int, most: int) -> int:
    return max(1, min(wanted, most))


def _check_shapes(a: Rows, b: Rows) -> None:
    flat = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] and 0 not in a.shape + b.shape
    if not (flat and a.dtype.kind in "fiu" and b.dtype.kind in "fiu"):
        expected = "two arrays of real numbers, (n, D) and (m, D), none empty"
        found = f"{a.dtype} {a.shape} and {b.dtype} {b.shape}"
        raise DataError("rows", expected, found, "compare features of one network")
