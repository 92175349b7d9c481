"""A real pass, real photos through a real network, that is killed at random moments."""

from __future__ import annotations

import pickle
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from interrupted import Committed, committed, images_of
from isolated import Running, isolated

import tlcache.features.missing
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.features.read import Features, open_snapshot
from tlcache.trunks.engines import BOUNDS
from tlcache.trunks.load import load_trunk

PHOTOS = {"train": 12, "val": 4}  # of each class
KILLS, SEEDS = 100, 4
COMMIT_BYTES = 3 * 1280 * 4  # two images, the one and its view

Ran = tuple[int, list[str], float]
Whole = tuple[Path, Features, int, float, int]


@pytest.fixture(scope="module")
def few_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first photos of each class."""
    folder = tmp_path_factory.mktemp("kills") / "photos"
    for split, count in PHOTOS.items():
        for name in ("ants", "bees"):
            (folder / split / name).mkdir(parents=True)
            for path in sorted((photos / split / name).glob("*.jpg"))[:count]:
                (folder / split / name / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def trunk(mobilenet_weights: Path) -> bytes:
    """Mobilenet, pickled: to be loaded in a moment."""
    return pickle.dumps(load_trunk("mobilenet_v2", str(mobilenet_weights)))


def run(data: Path, cache: Path, trunk: bytes) -> Ran:
    """Embed the photos: what was embedded, what was said, and the seconds."""
    tlcache.features.missing.COMMIT_BYTES = COMMIT_BYTES
    started = time.monotonic()
    said: list[str] = []
    done = embed(
        scan(data),
        pickle.loads(trunk),
        cache=cache,
        views=1,
        transform={"resize": 64, "crop": 56},  # so that a pass takes a second, a hundred a minute
        device="cpu",
        workers=2,
        report=said.append,
    )
    assert said.pop(0).startswith("transform: ")
    return done.embedded, said, time.monotonic() - started


@pytest.fixture(scope="module")
def whole(few_photos: Path, trunk: bytes, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The photos; features, rows, seconds and shards of a pass that nothing interrupts."""
    cache = tmp_path_factory.mktemp("whole")
    isolated(run, few_photos, cache / "first", trunk, limit=120)  # not timed
    ended = isolated(run, few_photos, cache / "timed", trunk, limit=120)
    assert ended.code == 0, ended.error
    embedded, said, seconds = ended.value
    rows = committed(cache / "timed")
    assert embedded == 32 and said == [] and len(rows) == 32 + 24
    return few_photos, _features(cache / "timed"), len(rows), seconds, _shards(cache / "timed")


def _when(rows: Committed, total: int) -> str:
    if not rows:
        return "before the first commit"
    return "between two commits" if len(rows) < total else "after the last commit"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_real_pass_that_is_killed_at_random_moments_loses_nothing(
    seed: int, whole: Whole, trunk: bytes, tmp_path: Path
) -> None:
    data, expected, total, seconds, shards = whole
    rng, kills, caches = random.Random(seed), Counter[str](), 0
    rows: Committed = {}
    for _ in range(KILLS):
        cache, before = tmp_path / f"{caches}", rows
        running = Running(run, data, cache, trunk)
        # A random moment between two random commits, whatever the machine's load at the time.
        left = max(1, shards * (total - len(before)) // total)
        commits = rng.randrange(left) if rng.random() < 0.8 else 0
        _wait_for_commits(running, cache, commits)
        pause = seconds / shards if commits else seconds / 4
        ended = running.end(120, signal.SIGKILL, after=rng.uniform(0, pause))
        rows = committed(cache)
        assert rows.keys() >= before.keys()
        if ended.value is not None:
            _check(ended.value, cache, before, expected)
            caches, rows = caches + 1, {}
            continue
        assert ended.code == -signal.SIGKILL, ended.error
        kills[_when(rows, total)] += 1
        if kills.total() == KILLS // SEEDS:
            break
    assert kills.total() == KILLS // SEEDS, kills
    assert kills["between two commits"] >= KILLS // SEEDS // 5, kills
    ended = isolated(run, data, cache, trunk, limit=120)
    _check(ended.value, cache, rows, expected)


def _wait_for_commits(running: Running, cache: Path, count: int) -> None:
    there = _shards(cache)
    while running.process.is_alive() and _shards(cache) < there + count:
        time.sleep(0.002)


def _shards(cache: Path) -> int:
    return len(list(cache.glob("*/shards/*.h5")))


def _features(cache: Path) -> Features:
    (snapshot,) = cache.glob("*/snapshots/*.h5")
    return open_snapshot(snapshot, views=1).read()


def _check(ran: Ran, cache: Path, before: Committed, expected: Features) -> None:
    """The last run made what was missing, and the result is that of an uninterrupted pass."""
    embedded, said, _ = ran
    assert said == []
    assert embedded == len(images_of(committed(cache).keys() - before.keys()))
    own = _features(cache)
    assert own.paths == expected.paths
    assert own.train_views is not None and expected.train_views is not None
    for ours, theirs in (
        (own.features, expected.features),
        (own.train_views, expected.train_views),
    ):
        # The last bits of a feature depend on the images that share its batch.
        bound = BOUNDS["fp32"] / 2 * np.linalg.norm(theirs, axis=-1)
        assert (np.linalg.norm(ours - theirs, axis=-1) <= bound).all()
