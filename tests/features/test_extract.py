"""Features of files one by one: their order, what the cache gives and takes, bounded memory."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from small_cache import DIM, IDENTITY, joined
from small_trunk import load_small, small_trunk

import tlcache.cache.shards
import tlcache.core.files
import tlcache.features.extract
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows
from tlcache.cache.store import FeatureStore, open_store
from tlcache.core.errors import CacheError
from tlcache.features.extract import FileFeature, extract, features_of
from tlcache.features.stores import FeatureSpec
from tlcache.trunks.forward_pass import Job, Made
from tlcache.trunks.info import remember


def feature(path: str | Path, dim: int = DIM) -> np.ndarray:
    """(1, D): what the fake pass makes of a file."""
    digest = hashlib.sha256(Path(path).read_bytes()).digest()
    return np.frombuffer(digest[:dim], np.uint8).astype(np.float32)[None] / 7


class Pass:
    """Makes features without images, and counts."""

    def __init__(self) -> None:
        self.jobs: list[Path] = []
        self.blocks = 0

    def __call__(self, jobs: Iterable[Job]) -> Generator[Made, None, None]:
        self.blocks += 1
        for job in jobs:
            assert isinstance(job.path, Path)
            self.jobs.append(job.path)
            if job.path.suffix == ".txt":
                yield Made(job, np.empty((0, 0), np.float32), "no image")
            else:
                yield Made(job, feature(job.path))


def store_in(folder: Path, identity: Identity = IDENTITY) -> FeatureStore:
    return open_store(folder / "cache", identity, "imagenet1k")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twelve files, of which every fourth is no image and one is a copy."""
    paths = [tmp_path / f"{i:02}.{'txt' if i % 4 == 3 else 'jpg'}" for i in range(12)]
    for i, path in enumerate(paths):
        path.write_bytes(b"%d" % (i if i != 6 else 5))
    return paths


def check(found: Sequence[FileFeature], files: Sequence[Path]) -> None:
    assert [made.path for made in found] == files
    for made in found:
        if str(made.path).endswith(".txt"):
            assert made.feature is None and made.reason == "no image"
        else:
            assert not made.reason
            np.testing.assert_array_equal(made.feature, feature(made.path)[0])


def test_features_come_in_the_order_of_the_files(files: list[Path]) -> None:
    check(list(features_of(files, Pass())), files)


def test_what_is_in_the_cache_is_not_made_again(files: list[Path], tmp_path: Path) -> None:
    first, second = Pass(), Pass()
    check(list(features_of(files[:7], first, store_in(tmp_path))), files[:7])
    check(list(features_of(files[::-1], second, store_in(tmp_path))), files[::-1])
    assert len(first.jobs) == 7
    unreadable = [files[i] for i in (11, 7, 3)]
    assert second.jobs == sorted({*files[7:], *unreadable}, reverse=True)


def test_a_full_cache_needs_no_pass(files: list[Path], tmp_path: Path) -> None:
    images = [file for file in files if file.suffix == ".jpg"]
    list(features_of(images, Pass(), store_in(tmp_path)))
    nobody = Pass()
    check(list(features_of(images, nobody, store_in(tmp_path))), images)
    assert nobody.blocks == 0


def test_half_precision_gives_the_same_feature_fresh_and_from_the_cache(
    files: list[Path], tmp_path: Path
) -> None:
    half = dataclasses.replace(IDENTITY, dtype="float16")
    fresh, kept = (
        [made.feature for made in features_of(files[:3], Pass(), store_in(tmp_path, half))]
        for _ in range(2)
    )
    np.testing.assert_array_equal(fresh, kept)
    exact = np.concatenate([feature(file) for file in files[:3]])
    assert not np.array_equal(np.stack(fresh), exact)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.stack(fresh), exact, rtol=1e-3)  # type: ignore[arg-type]


def test_files_that_cannot_be_opened_are_reported_in_their_place(
    files: list[Path], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    bad: list[str | Path] = [tmp_path / "gone", tmp_path, tmp_path / "pipe", "a\0b", "x" * 5000]
    reasons = ["No such file", "no regular file", "no regular file", "null byte", "too long"]
    for store in (None, store_in(tmp_path)):
        found = list(features_of([files[0], *bad, files[1]], Pass(), store))
        check([found[0], found[-1]], files[:2])
        assert [made.path for made in found[1:-1]] == bad
        for made, reason in zip(found[1:-1], reasons, strict=True):
            assert made.feature is None
            assert reason in made.reason


def test_a_pause_brings_out_everything_before_it(files: list[Path]) -> None:
    asked = list[int]()

    def paths() -> Iterator[Path | None]:
        for i, file in enumerate(files):
            asked.append(i)
            yield file
            if i in (0, 4):
                yield None

    found = features_of(paths(), Pass())
    assert next(found).path == files[0]
    assert asked == [0]
    assert [made.path for made in itertools.islice(found, 4)] == files[1:5]
    assert asked == [0, 1, 2, 3, 4]
    assert [made.path for made in found] == files[5:]


@pytest.mark.parametrize("cached", [False, True])
def test_few_files_are_in_hand_whatever_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setattr(tlcache.features.extract, "BLOCK", 64)
    image, taken = tmp_path / "image.jpg", 0
    image.write_bytes(b"image")

    def paths() -> Iterator[Path]:
        nonlocal taken
        while taken < 20_000:
            taken += 1
            yield image

    store = store_in(tmp_path) if cached else None
    for out, made in enumerate(features_of(paths(), Pass(), store)):
        assert made.feature is not None
        assert taken - out <= 64
    assert out == 19_999


def test_an_interruption_keeps_what_was_made_and_mixes_up_nothing(
    files: list[Path], tmp_path: Path
) -> None:
    images = [file for file in files if file.suffix == ".jpg"]

    def cut_short(jobs: Iterable[Job]) -> Generator[Made, None, None]:
        for i in (0, 1, 4):  # of which the pass was at two and had one ready
            yield Made(list(jobs)[i], feature(images[i]))
        raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):
        for made in features_of(images, cut_short, store_in(tmp_path)):
            found.append(made)
    check(found, [images[i] for i in (0, 1, 4)])
    again = Pass()
    check(list(features_of(images, again, store_in(tmp_path))), images)
    made_before = {images[i].read_bytes() for i in (0, 1, 4)}
    assert again.jobs == [i for i in images if i.read_bytes() not in made_before]


def test_who_stops_asking_keeps_what_was_made(files: list[Path], tmp_path: Path) -> None:
    found = features_of(files[:3], Pass(), store_in(tmp_path))
    next(found), next(found)
    found.close()
    again = Pass()
    list(features_of(files[:3], again, store_in(tmp_path)))
    assert again.jobs == files[2:3]


def test_rows_are_committed_while_it_goes_on(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.features.missing, "COMMIT_BYTES", 2 * 4 * DIM - 1)
    found = features_of(files[:3], Pass(), store_in(tmp_path))
    next(found), next(found)
    there = sum(len(rows.views) for rows in store_in(tmp_path).rows())
    found.close()
    assert there == 2


def test_a_cache_that_cannot_be_written_is_an_error(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CacheError, match="cache"):
        list(features_of(files, Pass(), store_in(tmp_path)))


def test_a_stale_memo_of_weights_heals(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlcache.trunks.load.load_trunk", load_small)
    images, cache = sorted(tiny_data.rglob("*.*"))[:3], tmp_path / "cache"
    remember(cache / "weights", dataclasses.replace(small_trunk(seed=1).info, weights="random:0"))
    found = extract(images, FeatureSpec("small", "random:0", cache))
    np.testing.assert_array_equal(found, extract(images, FeatureSpec(small_trunk(), cache=cache)))
    assert len(list(cache.glob("small*"))) == 1


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are read whole; blocks are of four files."""
    names, read = list[str](), tlcache.core.files.read_capped

    def counted(path: Path, cap: int, *, anew: bool = False) -> bytes:
        names.append(path.name)
        return read(path, cap, anew=anew)

    monkeypatch.setattr(tlcache.features.extract, "BLOCK", 4)
    monkeypatch.setattr(tlcache.cache.shards, "read_capped", counted)
    return names


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Forty files, each another."""
    paths = [tmp_path / f"{i:02}.jpg" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_bytes(b"image %d" % i)
    return paths


def kept_of(images: Sequence[Path], folder: Path, identity: Identity = IDENTITY) -> list[Path]:
    """Commits their features in shards of seven; the shards."""
    store, shards = store_in(folder, identity), []
    for start in range(0, len(images), 7):
        some = images[start : start + 7]
        digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in some)
        names = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        features = np.concatenate([feature(path) for path in some])
        shards.append(store.commit(Rows(features, names, np.zeros(len(some), np.int32))))
    return shards


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_shard_is_read_whole_once_for_however_many_blocks(
    images: list[Path], tmp_path: Path, whole: list[str], dtype: str
) -> None:
    identity = dataclasses.replace(IDENTITY, dtype=dtype)
    shards = kept_of(images[:35], tmp_path, identity)
    mixed = [images[i * 7 % 35] for i in range(35)]
    nobody, store = Pass(), store_in(tmp_path, identity)
    found = list(features_of([*mixed, mixed[0]], nobody, store))
    exact = np.concatenate([feature(path) for path in [*mixed, mixed[0]]])
    expected = exact.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal([made.feature for made in found], expected)
    assert nobody.jobs == []
    assert sorted(whole) == sorted(shard.name for shard in shards)


def test_what_is_committed_meanwhile_is_found_and_read_once(
    images: list[Path], tmp_path: Path, whole: list[str]
) -> None:
    mine, shards = Pass(), kept_of(images[:14], tmp_path)
    found = features_of([*images[:30], *images[:30]], mine, store_in(tmp_path))
    check(list(itertools.islice(found, 8)), images[:8])
    kept_of(images[20:30], tmp_path)  # by another process
    check(list(found), [*images[8:30], *images[:30]])
    assert mine.jobs == images[14:20]
    assert len(whole) == len(set(whole)) > len(shards)


def test_a_shard_that_is_damaged_between_two_blocks_is_set_aside(
    images: list[Path], tmp_path: Path, whole: list[str]
) -> None:
    (shard,) = kept_of(images[:7], tmp_path)
    said, mine = list[str](), Pass()
    store = open_store(tmp_path / "cache", IDENTITY, "imagenet1k", said.append)
    found = features_of(images[:7], mine, store)
    check(list(itertools.islice(found, 4)), images[:4])
    data = shard.read_bytes()
    at = data.index(feature(images[5]).tobytes())
    shard.write_bytes(data[: at + 1] + bytes([data[at + 1] ^ 1]) + data[at + 2 :])
    check(list(found), images[4:7])
    assert mine.jobs == images[4:7]
    assert [line.split(":")[0] for line in said] == [f"set aside as {shard.name}.bad"]


@pytest.mark.parametrize("heir", [True, False])
def test_rows_whose_shard_vanishes_between_two_blocks_are_found_in_its_heir_or_made(
    images: list[Path], tmp_path: Path, whole: list[str], heir: bool
) -> None:
    shards, mine = kept_of(images[:14], tmp_path), Pass()
    found = features_of(images[:14], mine, store_in(tmp_path))
    check(list(itertools.islice(found, 4)), images[:4])
    store = store_in(tmp_path)
    kept = joined(*store.rows())
    for shard in shards:
        shard.unlink()
    if heir:
        store.commit(kept)
    check(list(found), images[4:14])
    assert mine.jobs == ([] if heir else images[4:14])


def test_rows_of_another_store_are_found_once_and_taken_over(
    images: list[Path], tmp_path: Path, whole: list[str]
) -> None:
    shards, mine = kept_of(images[:14], tmp_path / "other"), Pass()
    others = [store_in(tmp_path / "other")]
    store = FeatureStore(tmp_path / "own", IDENTITY, others=others)
    check(list(features_of([*images[:18], images[3]], mine, store)), [*images[:18], images[3]])
    assert mine.jobs == images[14:18]
    assert {shard.name for shard in shards} < set(whole)
    assert len(whole) == len(set(whole))
    alone = FeatureStore(tmp_path / "own", IDENTITY)
    assert sum(len(rows.views) for rows in alone.rows()) == 18
