"""Nearest neighbours of many rows: seconds and peak memory, and beside ways that hold everything.

Rows are drawn at random; no image is read. The large search runs in a process of its own, whose
peak memory is its own. The ways of the comparison answer the same queries, and are checked to give
the same classes. Linux only.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import numpy as np
import typer
from bench_rounds import JsonFile, alternated, keep, print_table, ratios, run, shown, spread
from million_files import alone, peak_bytes
from numpy.typing import NDArray

from tlcache.core.machine import describe_machine
from tlcache.studies.knn import TEMPERATURE, knn_accuracy, predictions
from tlcache.studies.neighbours import Nearest, nearest

CLASSES = 10

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Measured = dict[str, Any]


def main(
    rows: Annotated[int, typer.Option(min=10, help="Of the large search.")] = 1_000_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of a row.")] = 512,
    queries: Annotated[int, typer.Option(min=1, help="Of the large search.")] = 512,
    left_out: Annotated[int, typer.Option(min=1, help="Rows that choose k there.")] = 512,
    compared: Annotated[int, typer.Option(min=10, help="Rows of the comparison.")] = 20_000,
    asked: Annotated[int, typer.Option(min=1, help="Queries of the comparison.")] = 2_000,
    k: Annotated[int, typer.Option(min=1, help="Neighbours.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Of the comparison.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Measure a large search, and a smaller one beside numpy's and scikit-learn's ways."""
    large = alone(search, rows, dim, queries, left_out, k)
    values = {**describe_machine(""), "dim": dim, "k": k, "large": large}
    values["compared"] = compare(compared, dim, asked, min(k, compared), rounds)
    _print(values)
    keep(values, json_file)


def search(rows: int, dim: int, queries: int, left_out: int, k: int) -> Measured:
    """Accuracies of all k up to the largest, for the queries and the rows that are left out."""
    train, val = drawn(rows, dim, 0), drawn(queries, dim, 1)
    ks = [number for number in (1, 2, 5, 10, 20, 50, 100, 200) if number < k] + [k]
    knn_accuracy(*_few(train, val))  # once, for what is allocated on the way
    before, started = peak_bytes(), time.perf_counter()
    found = knn_accuracy(train, {"val": val}, CLASSES, ks=ks, most_left_out=left_out)
    seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "queries": queries,
        "left_out": found.left_out[0].n,
        "seconds": seconds,
        "similarities_per_second": rows * (queries + found.left_out[0].n) / seconds,
        "row_bytes": train[0].nbytes + val[0].nbytes,
        "more_bytes": peak_bytes() - before,
        "peak_bytes": peak_bytes(),
        "accuracy": found.chosen()["val"].accuracy,
    }


def compare(rows: int, dim: int, queries: int, k: int, rounds: int) -> Measured:
    """Seconds of each way to the classes of the queries, in alternated rounds."""
    train, val = drawn(rows, dim, 0), drawn(queries, dim, 1)
    ways = {
        "tlcache": lambda: _blocks(train, val[0], k),
        "numpy, all at once": lambda: _naive(train, val[0], k),
        "scikit-learn": lambda: _sklearn(train, val[0], k),
    }
    timed = alternated({name: lambda way=way: _timed(way) for name, way in ways.items()}, rounds)
    first = timed["tlcache"][0][1]
    seconds = {name: [took for took, _ in results] for name, results in timed.items()}
    return {
        "rows": rows,
        "queries": queries,
        "seconds": {name: spread(took) for name, took in seconds.items()},
        "ratio": {name: ratios(took, seconds["tlcache"]) for name, took in seconds.items()},
        "agree": {name: float((results[0][1] == first).mean()) for name, results in timed.items()},
        "full_matrix_bytes": 8 * rows * queries,
    }


def drawn(count: int, dim: int, seed: int) -> tuple[Floats, Labels]:
    """Rows around a centre for each class, as positive as a network's; always the same."""
    centres = np.random.default_rng(7).standard_normal((CLASSES, dim), np.float32)
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    rows = random.standard_normal((count, dim), np.float32)
    rows *= 4
    for start in range(0, count, 4096):  # as few copies as can be: they count as peak memory
        part = slice(start, start + 4096)
        rows[part] += centres[labels[part]]
    np.maximum(rows, 0, out=rows)
    return rows, labels


def _few(
    train: tuple[Floats, Labels], val: tuple[Floats, Labels]
) -> tuple[tuple[Floats, Labels], dict[str, tuple[Floats, Labels]], int]:
    return (train[0][:100], train[1][:100]), {"val": (val[0][:2], val[1][:2])}, CLASSES


def _blocks(train: tuple[Floats, Labels], queries: Floats, k: int) -> Labels:
    guesses = [
        predictions(near, train[1], [k], CLASSES, TEMPERATURE)[0]
        for near in nearest(queries, train[0], k)
    ]
    return np.concatenate(guesses)


def _naive(train: tuple[Floats, Labels], queries: Floats, k: int) -> Labels:
    """What a notebook does: the whole matrix, sorted."""
    rows = train[0] / np.linalg.norm(train[0], axis=1, keepdims=True)
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarities = (asked @ rows.T).astype(np.float64)
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    near = Nearest(0, best, np.take_along_axis(similarities, best, axis=1))
    return predictions(near, train[1], [k], CLASSES, TEMPERATURE)[0]


def _sklearn(train: tuple[Floats, Labels], queries: Floats, k: int) -> Labels:
    from sklearn.neighbors import KNeighborsClassifier

    def votes(distances: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.exp((1 - distances) / TEMPERATURE)

    classifier = KNeighborsClassifier(k, weights=votes, algorithm="brute", metric="cosine")
    guesses: Labels = classifier.fit(*train).predict(queries)
    return guesses


def _timed(way: object) -> tuple[float, Labels]:
    started = time.perf_counter()
    guesses = way()  # type: ignore[operator]
    return time.perf_counter() - started, guesses


def _print(values: Measured) -> None:
    large, small = values["large"], values["compared"]
    print(
        f"{large['rows']:,} rows of {values['dim']}, {large['queries']:,} queries and "
        f"{large['left_out']:,} rows left out, k up to {values['k']}: {large['seconds']:.1f} s, "
        f"{large['more_bytes'] / 1e6:,.0f} MB beside the rows' {large['row_bytes'] / 1e6:,.0f} MB"
    )
    matrix = small["full_matrix_bytes"] / 1e6
    print(f"{small['rows']:,} rows, {small['queries']:,} queries (full matrix: {matrix:,.0f} MB)")
    table = [
        [
            name,
            shown(took, ".3f"),
            shown(small["ratio"][name], ".2f"),
            f"{small['agree'][name]:.4f}",
        ]
        for name, took in small["seconds"].items()
    ]
    print_table(["", "seconds", "over tlcache's", "same classes"], table)


if __name__ == "__main__":
    run(main)
