from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_cache import (
    IDENTITY,
    check_held,
    files,
    flip,
    messy,
    name_rows,
    part,
    rows,
    small_shards,
    store_in,
    sweep,
)

from tlcache.cache.compaction import Named, Shard, Survey, retire
from tlcache.cache.gc import Sweep, collect_garbage
from tlcache.cache.shards import read_shard
from tlcache.cache.store import FeatureStore
from tlcache.core.errors import CacheError
from tlcache.core.files import write_atomically


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return store_in(tmp_path)


def counts(sweep: Sweep) -> tuple[int, int, int, int]:
    done = sweep.shards
    return done.unnamed, done.duplicate, done.shards_before, done.shards_after


def state(store: FeatureStore) -> dict[str, bytes]:
    paths = store.folder.rglob("*")
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


def test_rows_that_nobody_names_and_copies_go_and_small_shards_become_few(
    store: FeatureStore,
) -> None:
    kept = messy(store)
    assert counts(sweep(store)) == (3, 5, 7, 2)
    shards = [read_shard(path, IDENTITY) for path in (store.folder / "shards").iterdir()]
    assert sorted(len(shard.views) for shard in shards) == [4, 16]
    check_held(store, kept)
    assert not store.has(rows(2, 7).images, rows(2, 7).views).any()


def test_a_second_time_there_is_nothing_to_do(store: FeatureStore) -> None:
    messy(store)
    sweep(store)
    before = state(store)
    assert counts(sweep(store)) == (0, 0, 2, 2)
    assert state(store) == before


def test_a_dry_run_changes_nothing_and_says_to_the_byte_what_would_be_done(
    store: FeatureStore,
) -> None:
    messy(store)
    before = state(store)
    foretold = sweep(store, dry_run=True)
    assert state(store) == before
    done = sweep(store)
    assert foretold == done
    sizes = [path.stat().st_size for path in (store.folder / "shards").iterdir()]
    assert done.shards.bytes_after == sum(sizes) < done.shards.bytes_before


@pytest.mark.parametrize(
    ("sizes", "after"),
    [([1], 1), ([4, 4, 4], 3), ([1, 16], 2), ([3, 3], 1), ([1] * 33, 3), ([3, 9, 3], 2)],
)
def test_only_small_shards_are_merged_and_only_with_one_another(
    sizes: list[int], after: int, store: FeatureStore
) -> None:
    parts = [rows(size, seed) for seed, size in enumerate(sizes)]
    names = {store.commit(part).name: len(part.views) for part in parts}
    name_rows(store, np.concatenate([part.images for part in parts]))
    assert counts(sweep(store)) == (0, 0, len(sizes), after)
    large = {name for name, size in names.items() if size > 3}
    assert large <= set(files(store))
    for each in parts:
        check_held(store, each)


def test_a_shard_that_is_too_large_is_cut(store: FeatureStore) -> None:
    kept = rows(50)
    store.commit(kept)
    name_rows(store, kept.images[1:])
    assert counts(sweep(store)) == (1, 0, 1, 4)
    check_held(store, part(kept, slice(1, None)))


def test_where_no_row_is_kept_no_shard_is(store: FeatureStore) -> None:
    store.commit(rows(3))
    name_rows(store, rows(2, 1).images)
    assert counts(sweep(store)) == (3, 0, 1, 0)
    assert files(store) == []


def test_of_equal_rows_the_one_that_readers_take_is_kept(store: FeatureStore) -> None:
    one = rows(3)
    for step in range(6):
        store.commit(dataclasses.replace(one, features=one.features + step))
    first, _ = store.gather(one.images, one.views)
    name_rows(store, one.images)
    assert counts(sweep(store)) == (0, 15, 6, 1)
    check_held(store, dataclasses.replace(one, features=first))


def test_names_that_end_in_zeros_are_told_apart(store: FeatureStore) -> None:
    kept = rows(6)
    kept.images[:] = 0
    kept.images[1, 0] = kept.images[2, 1] = kept.images[3, 31] = kept.images[4, 30] = 1
    kept.images[5, 0] = 2
    for at in range(6):
        store.commit(part(kept, slice(at, at + 1)))
    name_rows(store, kept.images[1:])
    assert counts(sweep(store)) == (1, 0, 6, 1)
    check_held(store, part(kept, slice(1, None)))
    assert not store.has(kept.images[:1], kept.views[:1]).any()


def test_float16_rows_stay_what_they_are_to_the_bit(tmp_path: Path) -> None:
    store = store_in(tmp_path, dataclasses.replace(IDENTITY, dtype="float16"))
    parts = [rows(1, seed) for seed in range(5)]
    tiny = np.array([[6e-8, -6e-5, 65504, 1 / 3, 0]], np.float32)
    parts.append(dataclasses.replace(rows(1, 9), features=tiny))
    for each in parts:
        store.commit(each)
    images = np.concatenate([each.images for each in parts])
    before, _ = store.gather(images, np.zeros(6, np.int32))
    assert not np.array_equal(before[:1], parts[0].features)
    name_rows(store, images)
    assert counts(sweep(store)) == (0, 0, 6, 1)
    after, found = store.gather(images, np.zeros(6, np.int32))
    assert found.all()
    np.testing.assert_array_equal(before, after)


def test_damaged_shards_are_reported_and_left_alone(store: FeatureStore) -> None:
    kept = messy(store)
    path = store.commit(rows(4, 5))
    flip(path)
    damaged, said = path.read_bytes(), list[str]()
    garbage = collect_garbage(store.folder.parent, report=said.append)
    assert said == [
        f"left alone: {path}: expected bytes whose SHA-256 is its name, found other bytes; "
        "`tlcache embed` makes its rows again"
    ]
    assert path.read_bytes() == damaged
    assert counts(garbage.identities[0]) == (3, 5, 8, 3)
    check_held(store, kept)


def test_two_runs_make_no_two_shards_of_one_name(store: FeatureStore, tmp_path: Path) -> None:
    kept, names = rows(2), list[str]()
    for _ in range(3):
        for at in range(2):
            store.commit(part(kept, slice(at, at + 1)))
        name_rows(store, kept.images)
        sweep(store)
        names += files(store)
    assert len(names) == len(set(names)) == 3


def test_when_a_write_fails_what_is_safe_in_new_shards_makes_room(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = messy(store)
    before, writes = len(files(store)), 0

    def full(path: Path, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == 2:
            raise CacheError(path, expected="space", found="none", remedy="free some")
        write_atomically(path, data)

    monkeypatch.setattr("tlcache.cache.compaction.write_atomically", full)
    with pytest.raises(CacheError, match="expected space"):
        sweep(store)
    assert len(files(store)) < before
    check_held(store, kept)
    assert sweep(store).shards.shards_after <= 3
    check_held(store, kept)


def test_a_cache_that_cannot_be_written_is_one_clear_error_and_loses_nothing(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = messy(store)
    before = state(store)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tlcache.core.files._write", refuse)
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CacheError, match="can be written, found Read-only file system"):
        sweep(store)
    assert state(store) == before
    check_held(store, kept)


def test_a_shard_that_cannot_be_deleted_is_one_clear_error_and_stays(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.commit(rows(3))
    name_rows(store, rows(1, 1).images)

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CacheError) as refused:
        sweep(store)
    assert str(refused.value) == (
        f"{path}: expected a cache that can be written, found Permission denied; "
        "check its permissions; every row that a snapshot names is kept"
    )
    assert files(store) == [path.name]


def test_a_run_that_was_overtaken_deletes_nothing(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = rows(4)
    for at in range(4):
        store.commit(part(kept, slice(at, at + 1)))
    name_rows(store, kept.images)
    old = files(store)

    def overtaken(
        shards: list[Shard], made: list[Path], survey: Survey, named: Named
    ) -> list[Shard]:
        made[0].unlink()
        return retire(shards, made, survey, named)

    monkeypatch.setattr("tlcache.cache.compaction.retire", overtaken)
    assert counts(sweep(store)) == (0, 0, 4, 4)
    assert files(store) == old
