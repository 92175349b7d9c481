"""Processes that read and write one cache at the same time, and what they should find."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from isolated import Running
from numpy.typing import NDArray
from PIL import Image
from small_trunk import DIM, small_trunk

import tlcache.cache.snapshots
import tlcache.features.embed
import tlcache.features.missing
from tlcache.cache.gc import collect_garbage
from tlcache.cache.identity import read_identity
from tlcache.cache.shards import Rows, read_shard
from tlcache.cache.store import FeatureStore
from tlcache.data.folders import scan
from tlcache.features.read import Features, open_snapshot

LIMIT = 60.0

_WHOLE = re.compile(
    r"small-\w+-(eval|train)-[0-9a-f]{8}/"
    r"(identity\.json|snapshots/data2?-[0-9a-f]{8}\.h5|shards/[0-9a-f]{64}\.h5)"
)


@dataclasses.dataclass(frozen=True)
class Writer:
    """What one process is to embed, and how.

    Attributes:
        data: The folder of images.
        seed: Of the trunk's weights.
        views: Augmented views.
        rows: How many it makes before it commits.
    """

    data: Path
    seed: int = 0
    views: int = 0
    rows: int = 3


@dataclasses.dataclass(frozen=True)
class Wrote:
    """What a writer did.

    Attributes:
        features: That it read back in the end.
        said: What it reported.
        shards: That it committed.
        times: When each commit began and ended, in order; all processes have one clock.
    """

    features: Features
    said: list[str]
    shards: list[Path]
    times: list[float]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a reader saw.

    Attributes:
        reads: How often it read a snapshot's rows.
        partial: How often some of them were there and others were not.
        wrong: Rows that were not right to the bit.
        lost: Rows that were there at one time and not at a later one.
        said: What it reported.
    """

    reads: int
    partial: int
    wrong: int
    lost: int
    said: list[str]


@dataclasses.dataclass(frozen=True)
class Swept:
    """What a process did that cleaned up again and again.

    Attributes:
        rewritten: How often it made fewer shards of several.
        said: What it reported.
    """

    rewritten: int
    said: list[str]


class Ended(NamedTuple):
    """What came of it: of each writer, of the reader if there was one, and of each clean-up."""

    wrote: list[Wrote]
    seen: Seen | None
    swept: list[Swept]


def images(folder: Path, numbers: Sequence[int]) -> Path:
    """An image of each number in each of two classes, the last third for validation."""
    for cls, name in enumerate(("ants", "bees")):
        for at, number in enumerate(numbers):
            path = folder / ("val" if at >= len(numbers) * 2 // 3 else "train") / name
            path.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng((cls, number)).integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(path / f"{at}.png")
    return folder


def check_complete(
    folder: Path, alone: Sequence[Features], wrote: Sequence[Wrote], swept: bool = False
) -> None:
    """Everybody read what it would have read alone; every file is whole, and there is no other."""
    for one, expected in zip(wrote, alone, strict=True):
        # Whether another identity was there already is a matter of chance.
        assert [line for line in one.said if not line.startswith("new identity ")] == []
        _check_same(one.features, expected)
    cache = folder / "cache"
    files = [path for path in cache.rglob("*") if not path.is_dir()]
    assert [path for path in files if not _WHOLE.fullmatch(str(path.relative_to(cache)))] == []
    shards = sorted(path for path in files if path.parent.name == "shards")
    assert swept or shards == sorted({path for one in wrote for path in one.shards})
    for shard in shards:
        read_shard(shard, read_identity(shard.parents[1]))
    for path in cache.glob("*/snapshots/*"):
        read = open_snapshot(path).read()
        assert any(np.array_equal(read.features, expected.features) for expected in alone)


def _check_same(features: Features, expected: Features) -> None:
    assert features.paths == expected.paths
    np.testing.assert_array_equal(features.features, expected.features)
    np.testing.assert_array_equal(features.labels, expected.labels)
    if expected.train_views is None:
        assert features.train_views is None
    else:
        np.testing.assert_array_equal(features.train_views, expected.train_views)


def check_overlapped(wrote: Sequence[Wrote]) -> None:
    """Everybody had begun to commit before anybody had ended, and committed several shards."""
    assert max(one.times[0] for one in wrote) < min(one.times[-1] for one in wrote)
    assert all(len(one.shards) > 2 for one in wrote)


def reference(writer: Writer, tmp_path: Path) -> Features:
    """What a writer reads if it has a cache of its own."""
    folder = tmp_path / f"alone-{writer.data.name}-{writer.seed}-{writer.views}-{writer.rows}"
    return at_once(folder, [writer]).wrote[0].features


def at_once(
    folder: Path,
    writers: Sequence[Writer],
    expected: NDArray[np.float32] | None = None,
    held: bool = True,
    sweepers: int = 0,
) -> Ended:
    """Let all of the writers go at the same time; all must end well.

    Args:
        folder: Is made; the cache will be in it.
        writers: One process each.
        expected: Of every snapshot; there is a reader if it is given.
        held: Nobody commits its first shard before all have one to commit.
        sweepers: Processes that clean up until the writers have ended.
    """
    folder.mkdir()
    n = len(writers)
    running = [Running(_write, each, folder, at, n, held) for at, each in enumerate(writers)]
    reader = None if expected is None else Running(_read, folder, expected)
    sweeping = [Running(_sweep, folder) for _ in range(sweepers)]
    wrote = [_value(process) for process in running]
    (folder / "over").touch()
    seen = None if reader is None else _value(reader)
    return Ended(wrote, seen, [_value(process) for process in sweeping])


def _value(process: Running) -> Any:
    ended = process.end(LIMIT)
    assert ended.code == 0, f"{ended.code}: {ended.error}"
    return ended.value


def _write(writer: Writer, folder: Path, me: int, count: int, held: bool) -> Wrote:
    torch.set_num_threads(1)
    tlcache.features.missing.COMMIT_BYTES = writer.rows * 4 * DIM - 1
    tlcache.cache.snapshots.KEEP_SECONDS = 0.0  # drafts as well
    commit, shards, times, said = FeatureStore.commit, list[Path](), list[float](), list[str]()

    def watched(self: FeatureStore, rows: Rows) -> Path:
        if held and not shards:
            _meet(folder / "commit", me, count)
        times.append(time.monotonic())
        shards.append(commit(self, rows))
        times.append(time.monotonic())
        return shards[-1]

    FeatureStore.commit = watched  # type: ignore[method-assign]
    dataset, trunk = scan(writer.data), small_trunk(seed=writer.seed)
    _meet(folder / "start", me, count)
    done = tlcache.features.embed.embed(
        dataset,
        trunk,
        cache=folder / "cache",
        views=writer.views,
        workers=1,
        batch_size=1,
        report=said.append,
    )
    return Wrote(done.read(), said, shards, times)


def _meet(place: Path, me: int, count: int) -> None:
    """Wait for the others."""
    place.mkdir(exist_ok=True)
    (place / str(me)).touch()
    while len(list(place.iterdir())) < count:
        time.sleep(0.0005)


def _read(folder: Path, expected: NDArray[np.float32]) -> Seen:
    """Read the rows of every snapshot until all others are done, and once more."""
    said: list[str] = []
    reads = partial = wrong = lost = 0
    before = np.zeros(len(expected), bool)
    over = False
    while not over:
        over = (folder / "over").exists()
        for path in (folder / "cache").glob("*/snapshots/*.h5"):
            there = open_snapshot(path, report=said.append)
            digests = there.snapshot.digests
            features, found = there.stores[0].gather(digests, np.zeros(len(digests), np.int32))
            reads += 1
            partial += bool(found.any() and not found.all())
            wrong += int((features[found] != expected[found]).any(axis=1).sum())
            lost += int((before & ~found).sum())
            before |= found
    return Seen(reads, partial, wrong, lost, said)


def _sweep(folder: Path) -> Swept:
    said: list[str] = []
    rewritten = 0
    while not (folder / "over").exists():
        done = collect_garbage(folder / "cache", report=said.append)
        rewritten += sum(
            one.shards.shards_after < one.shards.shards_before for one in done.identities
        )
    return Swept(rewritten, said)
