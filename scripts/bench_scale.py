"""From a thousand cached rows to a million: how time and peak memory grow with their number.

No image is made: a snapshot of random digests stands for the files, random numbers for the pass
(``million_files.py`` measures real files). Every number of rows has processes of its own, whose
peak memory is theirs. Linux only.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bench_rounds import COLOURS, JsonFile, keep, new_figure, print_table, run, say, tidy
from million_files import Measured, alone, peak_bytes, slope

import tlcache
from tlcache.cache.identity import Identity
from tlcache.cache.snapshots import Snapshot
from tlcache.cache.store import FeatureStore, keep_snapshot, open_store
from tlcache.core.machine import describe_machine
from tlcache.data.folders import ImageDataset
from tlcache.data.transforms import Transform
from tlcache.features.missing import RowBuffer, missing_rows
from tlcache.heads.steps import can_compile
from tlcache.trunks.forward_pass import Job, Made

CLASSES = 7
POOL = 4096
"""So many different rows of features; row i of a data set has number i mod ``POOL``."""
STEPS = ("plan", "commit", "open", "has", "gather", "train")
WHAT = {
    "plan": "keep the snapshot, find what is missing",
    "commit": "hand rows from the pass to committed shards",
    "open": "open the snapshot",
    "has": "look up every row",
    "gather": "read all features",
    "train": "one epoch of a head",
}

Values = dict[str, Any]


def main(
    most: Annotated[int, typer.Option(min=10_000, help="Rows of the largest size.")] = 1_000_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of a row.")] = 512,
    folder: Annotated[
        Path | None, typer.Option(help="Where to work, in a new folder that is removed again.")
    ] = None,
    json_file: JsonFile = None,
    figure: Annotated[Path | None, typer.Option(help="A PNG of time and memory.")] = None,
) -> None:
    """Measure a thousandth, a hundredth, a tenth and all of the rows; needs 2 KiB of disk a row."""
    sizes = []
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for count in (most // 1000, most // 100, most // 10, most):
            say(f"{count:,} rows")
            cache = Path(work) / "cache"
            sizes.append(alone(fill, cache, count, dim) | alone(use, cache))
            shutil.rmtree(cache)
    values = {"dim": dim, **describe_machine(""), "sizes": sizes, "slopes": _slopes(sizes)}
    _print(values)
    keep(values, json_file, figure, _figure)


def fill(cache: Path, count: int, dim: int) -> Measured:
    """What ``embed`` does besides reading files and computing features."""
    snapshot = _snapshot(cache, count)
    identity = Identity("resnet18", "ab" * 32, dim, Transform(), (("torch", "2"),))
    pool = _pool(dim)
    store = open_store(cache, identity, "random")
    # Once with a row: what is imported on the way is not of the rows.
    warm = open_store(cache.parent / "warm", identity, "random")
    first = _made(Job(Path(), bytes(32), [(0, 0)]), pool, 0)
    _commit([first], warm)
    before, started = peak_bytes(), time.perf_counter()
    keep_snapshot(snapshot, store)
    missing = missing_rows(snapshot, [store], 0)
    planned, plan_peak = time.perf_counter(), peak_bytes()
    made = (_made(job, pool, at) for at, job in enumerate(missing.jobs(snapshot)))
    _commit(made, store)
    committed = time.perf_counter()
    return {
        "rows": count,
        "missing": len(missing.images),
        "plan_seconds": planned - started,
        "plan_peak_bytes": plan_peak - before,
        "commit_seconds": committed - planned,
        "commit_peak_bytes": peak_bytes() - before,
        "embed_peak_bytes": peak_bytes(),
    }


def use(cache: Path) -> Measured:
    """Open the cache, look up and read every row, and train a head on them."""
    (path,) = cache.glob("*/snapshots/*.h5")
    _warm_up_training()
    before, marks, peaks = peak_bytes(), [time.perf_counter()], []

    def mark() -> None:
        peaks.append(peak_bytes() - before)
        marks.append(time.perf_counter())

    opened = tlcache.open_snapshot(path)
    mark()
    digests = opened.snapshot.digests
    held = opened.stores[0].has(digests, np.zeros(len(digests), np.int32))
    mark()
    features = opened.read()
    mark()
    rows, labels = features.split("val")
    recipe = tlcache.Recipe(epochs=1)
    trained = tlcache.train_head(
        *features.split("train"), rows, labels, recipe, classes=len(features.classes)
    )
    mark()
    seconds = dict(zip(STEPS[2:], np.diff(marks).tolist(), strict=True))
    return {
        **{f"{step}_seconds": took for step, took in seconds.items()},
        **{f"{step}_peak_bytes": peak for step, peak in zip(STEPS[2:], peaks, strict=True)},
        "held": int(held.sum()),
        "wrong": _wrong(features.features),
        "val_loss": trained.history[-1].val_loss,
        "feature_bytes": features.features.nbytes,
        "shards": len(list(path.parent.parent.glob("shards/*.h5"))),
    }


def _snapshot(cache: Path, count: int) -> Snapshot:
    """Of files that are not there: nine of ten to train on."""
    random = np.random.default_rng(0)
    paths = [f"train/{i % CLASSES}/{i:07d}.jpg" for i in range(count)]
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    splits = (np.arange(count) >= count * 9 // 10).astype(np.int8)  # in order, as features are
    names = tuple(str(label) for label in range(CLASSES))
    dataset = ImageDataset("rows", cache, names, paths, labels, splits)
    status = random.integers(0, 1 << 40, (count, 4), np.uint64)
    digests = random.integers(0, 256, (count, 32), np.uint8)
    return Snapshot(dataset, status, digests, [""] * count, time.time_ns())


def _pool(dim: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((POOL, dim), np.float32)


def _made(job: Job, pool: np.ndarray, at: int) -> Made:
    """A row of the job's own, as the pass would make it."""
    return Made(job, pool[at % POOL][None].copy())


def _commit(made: Iterable[Made], store: FeatureStore) -> None:
    buffer = RowBuffer([store])
    for one in made:
        buffer.add(one)
    buffer.commit()


def _warm_up_training() -> None:
    """Load what training loads, so that it is in no number of rows."""
    rows, labels = np.ones((8, 4), np.float32), np.zeros(8, np.int32)
    recipes = [tlcache.Recipe(epochs=1)]
    tlcache.train_heads(
        rows, labels, rows, labels, recipes, classes=2, compiled=can_compile() or None
    )


def _wrong(features: np.ndarray) -> int:
    """How many rows are not those that were committed."""
    pool, wrong = _pool(features.shape[1]), 0
    for start in range(0, len(features), POOL):
        block = features[start : start + POOL]
        wrong += int((block != pool[: len(block)]).any(axis=1).sum())
    return wrong


def _slopes(sizes: list[Measured]) -> dict[str, Values]:
    """Over all sizes, and over the last tenfold: 1 where a figure is proportional to the rows.

    None where a step took no more memory than the steps before it.
    """

    def of(part: list[Measured], name: str) -> float | None:
        return slope(part, name) if all(one[name] > 0 for one in part) else None

    names = [f"{step}_{figure}" for figure in ("seconds", "peak_bytes") for step in STEPS]
    return {name: {"all": of(sizes, name), "last": of(sizes[-2:], name)} for name in names}


def _print(values: Values) -> None:
    sizes, slopes, machine = values["sizes"], values["slopes"], values["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores; rows of {values['dim']} numbers")
    counts = [f"{one['rows']:,}" for one in sizes]
    for figure, unit in (("seconds", 1.0), ("peak_bytes", 1e6)):
        title = "seconds" if figure == "seconds" else "peak MB above the start, so far"
        rows = []
        for step in STEPS:
            name = f"{step}_{figure}"
            cells = [f"{one[name] / unit:.3f}" for one in sizes]
            rows.append((f"{step}: {WHAT[step]}", *cells, *map(_slope, slopes[name].values())))
        if figure == "peak_bytes":
            cells = [f"{one['feature_bytes'] / 1e6:.3f}" for one in sizes]
            rows.append(("(the features themselves)", *cells, "", ""))
        print()
        print_table((title, *counts, "slope", "last tenfold"), rows)
    more = (sizes[-1]["embed_peak_bytes"] - sizes[0]["embed_peak_bytes"]) / 1e6
    print(f"\nembed: {counts[-1]} rows peak {more:.0f} MB above {counts[0]}; "
          f"{sum(one['wrong'] for one in sizes)} rows wrong")  # fmt: skip


def _slope(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _figure(values: Values) -> Any:
    figure = new_figure(10, 4.2)
    panels = ((("seconds", 1.0), "seconds"), (("peak_bytes", 1e6), "peak MB above the start"))
    counts = [one["rows"] for one in values["sizes"]]
    for axes, ((name, unit), title) in zip(figure.subplots(1, 2), panels, strict=True):
        tidy(axes, f"{title} (slope over the last tenfold)", "rows")
        axes.set(xscale="log", yscale="log")
        for colour, step in zip(COLOURS, STEPS, strict=False):
            key = f"{step}_{name}"
            figures = [max(one[key] / unit, 1e-3) for one in values["sizes"]]
            label = f"{step} {_slope(values['slopes'][key]['last'])}"
            axes.plot(counts, figures, "o-", color=colour, ms=4, lw=1.4, label=label)
        axes.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    run(main)
