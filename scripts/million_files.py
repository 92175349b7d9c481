"""A folder of a million files, a million cached rows: seconds and peak memory of reading them.

Every step runs in a process of its own, whose peak memory is that step's. Linux only.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

import tlcache
from tlcache.cache.identity import Identity, folder_name
from tlcache.cache.shards import Rows
from tlcache.cache.snapshots import (
    SETTLED_NS,
    Snapshot,
    load_snapshot,
    save_snapshot,
    take_snapshot,
)
from tlcache.cache.store import FeatureStore
from tlcache.data.folders import ImageDataset, scan
from tlcache.data.transforms import Transform

CLASSES = 1000
SIZES = 4
"""Rows are read in this many numbers, each twice the one before."""

Measured = dict[str, float]


def main(
    files: Annotated[int, typer.Option(min=10 * CLASSES, help="How many to make.")] = 1_000_000,
    rows: Annotated[int, typer.Option(min=1000, help="The most to cache.")] = 1_000_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of a row.")] = 512,
    shard_mib: Annotated[int, typer.Option(min=1, help="Features in a shard.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="How often to read each cache.")] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="Where to work, in a new folder that is removed again.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure big folders and caches: needs 4 KiB of disk a file, then 2 KiB a row."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        of_files = measure_files(Path(work), files)
        of_rows = measure_rows(Path(work), rows, dim, shard_mib << 20, repeats)
    print_files(of_files)
    print_rows(of_rows)
    if json_file is not None:
        figures = {"cores": os.cpu_count(), "dim": dim, "files": of_files, "rows": of_rows}
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def measure_files(work: Path, count: int) -> dict[str, Measured]:
    """Make a folder of images, read it twice, and load its snapshot."""
    images, kept = work / "images", work / "snapshot.h5"
    steps = {"make": alone(make_files, images, count)}
    time.sleep(SETTLED_NS / 1e9)  # files that are younger are read again
    steps["first"] = alone(read_files, images, kept)
    steps["second"] = alone(read_files, images, kept)
    steps["load"] = alone(load, kept)
    shutil.rmtree(images)
    return steps


def measure_rows(work: Path, most: int, dim: int, shard_bytes: int, repeats: int) -> list[Measured]:
    """Fill caches of several sizes, and read each a few times: of every figure the least."""
    measured = []
    for count in (most >> halvings for halvings in reversed(range(SIZES))):
        filled = alone(fill, work / "cache", count, dim, shard_bytes)
        read = [alone(read_rows, work / "cache", shard_bytes) for _ in range(repeats)]
        least = {name: min(one[name] for one in read) for name in read[0]}
        measured.append(filled | least | {"wrong": max(one["wrong"] for one in read)})
        shutil.rmtree(work / "cache")
    return measured


def alone(step: Callable[..., Measured], *arguments: Any) -> Measured:
    """What a step measures in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(step, *arguments).result()


def make_files(folder: Path, count: int) -> Measured:
    """Different tiny PNGs: in each class, one of ten is for validation."""
    started = time.perf_counter()
    for split, name in itertools.product(("train", "val"), range(CLASSES)):
        (folder / split / f"{name:03d}").mkdir(parents=True)
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    for i in range(count):
        number, name = divmod(i, CLASSES)
        split = "val" if number % 10 == 9 else "train"
        # What follows the end of a PNG is not looked at.
        (folder / split / f"{name:03d}" / f"{number:04d}.png").write_bytes(
            png.getvalue() + i.to_bytes(8, "little")
        )
    return {"files": count, "seconds": time.perf_counter() - started}


def read_files(folder: Path, kept: Path) -> Measured:
    """Take a snapshot with what is known from the last time, and save it."""
    opened = count_opened(folder)
    before, started = peak_bytes(), time.perf_counter()
    known = [load_snapshot(kept)] if kept.exists() else []
    loaded = time.perf_counter()
    dataset = scan(folder)
    scanned = time.perf_counter()
    snapshot = take_snapshot(dataset, known)
    taken = time.perf_counter()
    opened_count, taken_peak = len(opened), peak_bytes()
    save_snapshot(kept, snapshot)
    saved, saved_peak = time.perf_counter(), peak_bytes()
    return {
        "files": len(dataset),
        "opened": opened_count,
        "load_seconds": loaded - started,
        "scan_seconds": scanned - loaded,
        "digest_seconds": taken - scanned,
        "save_seconds": saved - taken,
        "snapshot_bytes": kept.stat().st_size,
        "peak_bytes": taken_peak - before,
        "save_peak_bytes": saved_peak - before,
        "wrong": wrong_digests(snapshot),
    }


def load(kept: Path) -> Measured:
    """Open a snapshot."""
    before, started = peak_bytes(), time.perf_counter()
    count = len(load_snapshot(kept).dataset)
    seconds = time.perf_counter() - started
    return {"files": count, "seconds": seconds, "peak_bytes": peak_bytes() - before}


def fill(cache: Path, count: int, dim: int, shard_bytes: int) -> Measured:
    """Commit rows, and a snapshot that names them in another order."""
    identity = Identity("resnet18", "ab" * 32, dim, Transform(), (("torch", "2"),))
    store = FeatureStore(cache / folder_name(identity, "random"), identity)
    before, started, digests = peak_bytes(), time.perf_counter(), []
    for rows in blocks(count, dim, shard_bytes):
        store.commit(rows)
        digests.append(rows.images)
    seconds, peak = time.perf_counter() - started, peak_bytes() - before
    paths, labels = [f"train/a/{i:07d}.png" for i in range(count)], np.zeros(count, np.int32)
    splits, status = np.zeros(count, np.int8), np.ones((count, 4), np.uint64)
    dataset = ImageDataset("rows", cache, ("a", "b"), paths, labels, splits)
    named = np.concatenate(digests)[snapshot_order(count)]
    snapshot = Snapshot(dataset, status, named, [""] * count, time.time_ns())
    save_snapshot(store.prepare_snapshot("rows"), snapshot)
    return {"rows": count, "commit_seconds": seconds, "commit_peak_bytes": peak}


def read_rows(cache: Path, shard_bytes: int) -> Measured:
    """Open the snapshot, verify every shard, and gather its rows."""
    (path,) = cache.glob("*/snapshots/rows.h5")
    before, started = peak_bytes(), time.perf_counter()
    embedding = tlcache.open_snapshot(path)
    opened = time.perf_counter()
    count = sum(len(rows.views) for rows in embedding.stores[0].rows())
    verified, verify_peak = time.perf_counter(), peak_bytes()
    features = embedding.read().features
    gathered, gather_peak = time.perf_counter(), peak_bytes()
    return {
        "verified": count,
        "shards": len(list(path.parent.parent.glob("shards/*.h5"))),
        "open_seconds": opened - started,
        "verify_seconds": verified - opened,
        "gather_seconds": gathered - verified,
        "verify_peak_bytes": verify_peak - before,
        "gather_peak_bytes": gather_peak - before,
        "feature_bytes": features.nbytes,
        "wrong": wrong_rows(features, shard_bytes),
    }


def blocks(count: int, dim: int, shard_bytes: int) -> Iterator[Rows]:
    """The rows, a shard at a time; always the same ones."""
    step = shard_bytes // (4 * dim)
    for at in range(0, count, step):
        random, n = np.random.default_rng(at), min(step, count - at)
        yield Rows(
            random.standard_normal((n, dim), np.float32),
            random.integers(0, 256, (n, 32), np.uint8),
            np.zeros(n, np.int32),
        )


def wrong_rows(features: NDArray[np.float32], shard_bytes: int) -> int:
    """How many rows are not those that were committed."""
    count, dim = features.shape
    place = np.argsort(snapshot_order(count))
    wrong = at = 0
    for rows in blocks(count, dim, shard_bytes):
        here = features[place[at : at + len(rows.views)]]
        wrong += int((here != rows.features).any(axis=1).sum())
        at += len(rows.views)
    return wrong


def wrong_digests(snapshot: Snapshot) -> int:
    """How many files of a thousand have another digest; all, if any two have the same."""
    n = len(snapshot.dataset)
    if len(np.unique(snapshot.digests.view("S32"))) < n:
        return n
    some = np.random.default_rng(0).choice(n, 1000, replace=False)
    return sum(
        hashlib.sha256(snapshot.dataset.path(i).read_bytes()).digest()
        != snapshot.digests[i].tobytes()
        for i in some
    )


def snapshot_order(count: int) -> NDArray[np.int64]:
    """Where each file of the snapshot has its row among those that were committed."""
    return np.random.default_rng(0).permutation(count)


def count_opened(folder: Path) -> list[str]:
    """The files below a folder that this process opens from now on, one item each time."""
    opened: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(f"{folder}{os.sep}"):
            opened.append("")

    sys.addaudithook(hook)
    return opened


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    # Not getrusage: what it says of a new process may be its parent's.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def slope(rows: list[Measured], name: str) -> float:
    """Of the logarithms: 1 where a figure is proportional to the rows."""
    counts, figures = ([row[key] for row in rows] for key in ("rows", name))
    return float(np.polyfit(np.log(counts), np.log(figures), 1)[0])


def print_files(steps: dict[str, Measured]) -> None:
    """A line for each step."""
    print(f"{steps['make']['files']:,} files, made in {steps['make']['seconds']:.0f} s")
    for name in ("first", "second"):
        step = steps[name]
        print(
            f"{name} snapshot: {step['opened']:,} files opened, load {step['load_seconds']:.2f} s, "
            f"scan {step['scan_seconds']:.1f} s, look and digest {step['digest_seconds']:.1f} s, "
            f"peak {_each(step, 'peak_bytes')}; save {step['save_seconds']:.2f} s "
            f"({step['snapshot_bytes'] / 1e6:.0f} MB), peak {_each(step, 'save_peak_bytes')}; "
            f"{step['wrong']} wrong"
        )
    loaded = steps["load"]
    print(f"load: {loaded['seconds']:.2f} s, peak {_each(loaded, 'peak_bytes')}")


def print_rows(rows: list[Measured]) -> None:
    """A table of all sizes, and how time and memory grow."""
    columns = {
        f"{step}_seconds": (f"{step} s", 1.0) for step in ("commit", "open", "verify", "gather")
    }
    columns |= {
        f"{step}_peak_bytes": (f"{step} MB", 1e6) for step in ("commit", "verify", "gather")
    }
    columns["feature_bytes"] = ("features MB", 1e6)
    titles = ["rows", "shards", *(title for title, _ in columns.values()), "wrong"]
    print("".join(title.rjust(12) for title in titles))
    for row in rows:
        figures = [f"{row[name] / unit:.2f}".rjust(12) for name, (_, unit) in columns.items()]
        print(f"{row['rows']:12,}{row['shards']:12}{''.join(figures)}{row['wrong']:12}")
    slopes = [f"{slope(rows, name):.2f}".rjust(12) for name in columns]
    print(f"{'log-log slope':>24}{''.join(slopes)}")
    counts, peaks = ([row[name] for row in rows] for name in ("rows", "gather_peak_bytes"))
    each, fixed = np.polyfit(counts, peaks, 1)
    print(f"gather: {each:.0f} bytes a row, and {fixed / 1e6:.0f} MB whatever their number")


def _each(step: Measured, name: str) -> str:
    return f"{step[name] / 1e6:.0f} MB ({step[name] / step['files']:.0f} bytes a file)"


if __name__ == "__main__":
    typer.run(main)
