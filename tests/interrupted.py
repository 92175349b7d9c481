"""Passes that may be cut short at any point, and what must be true of the cache afterwards.

The network is a small one that ``embed`` loads by name, so that a memo is written as well. Rows are
committed every few hundred bytes: a pass over a dozen images writes every kind of file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_trunk import load_small

import tlcache.cache.snapshots
import tlcache.features.missing
import tlcache.trunks.load
from tlcache.cache.identity import read_identity
from tlcache.cache.shards import read_shard
from tlcache.cache.snapshots import load_snapshot
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.features.read import Features
from tlcache.trunks.info import read_memo

Name = tuple[str, bytes, int]
"""Of a row: identity folder, digest, view."""
Committed = dict[Name, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a pass that reached its end.

    Attributes:
        embedded: Images of which rows were made.
        said: The lines that were reported.
        features: As they are read back.
    """

    embedded: int
    said: list[str]
    features: Features


@contextlib.contextmanager
def small_steps() -> Iterator[None]:
    """The small network by whatever name; many commits, and a draft while files are read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tlcache.trunks.load, "load_trunk", load_small)
        patch.setattr(tlcache.features.missing, "COMMIT_BYTES", 800)
        patch.setattr(tlcache.cache.snapshots, "time", _Clock)
        yield


def run_pass(data: Path, cache: Path, views: int) -> Outcome:
    """Embed the images by the small network, in small steps.

    One crop at a time: the last bits of a feature may depend on what shares its batch.
    """
    with small_steps():
        return outcome(data, cache, "small", "random", views=views, workers=1, batch_size=1)


def outcome(data: Path, cache: Path, trunk: str, weights: str, **how: object) -> Outcome:
    """Embed the images, and read their features back."""
    said: list[str] = []
    with_report = {"cache": cache, "report": said.append, **how}
    done = embed(scan(data), trunk, weights, **with_report)  # type: ignore[arg-type]
    return Outcome(done.embedded, said, done.read())


def committed(cache: Path) -> Committed:
    """Every row of a cache, each shard of which must be sound, as must be all other files.

    A row that was made twice, or a file that nobody should have written, is an error.
    """
    rows: Committed = {}
    for path in sorted(path for path in cache.rglob("*") if path.is_file()):
        folder = path.parents[1]
        if path.parent.name == "shards" and path.suffix == ".h5":
            shard = read_shard(path, read_identity(folder))
            for feature, image, view in zip(shard.features, shard.images, shard.views, strict=True):
                name = folder.name, image.tobytes(), int(view)
                assert name not in rows, f"made twice: {name}"
                rows[name] = feature
        elif path.parent.name == "snapshots" and path.suffix == ".h5":
            load_snapshot(path)
        elif path.name == "identity.json":
            read_identity(path.parent)
        elif path.parent.name == "weights" and path.suffix == ".json":
            read_memo(path)
        else:  # what a killed process was writing, which nobody takes for a file of the cache
            assert path.suffix == ".tmp" and path.name.startswith("."), path
    return rows


def images_of(names: Iterable[Name]) -> set[bytes]:
    """Digests of the images that have rows."""
    return {digest for _, digest, _ in names}


def check_same(one: Features, other: Features) -> None:
    """Two runs came to the same, bit for bit."""
    assert one.paths == other.paths
    np.testing.assert_array_equal(one.features, other.features)
    assert (one.train_views is None) == (other.train_views is None)
    if one.train_views is not None and other.train_views is not None:
        np.testing.assert_array_equal(one.train_views, other.train_views)


class _Clock:
    """Half a second passes each time that somebody looks: a draft of the snapshot becomes due."""

    ticks = itertools.count()

    @staticmethod
    def monotonic() -> float:
        return next(_Clock.ticks) / 2

    @staticmethod
    def time_ns() -> int:
        return 10**18
