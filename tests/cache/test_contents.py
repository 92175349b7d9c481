from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_cache import IDENTITY, TRAIN, files, flip, rows, small_cache

from tlcache.cache.contents import (
    count_rows,
    find_folder,
    list_cache,
    open_folder,
    own_identity,
    train_sibling,
)
from tlcache.cache.identity import FILE
from tlcache.cache.store import open_store
from tlcache.core.errors import CacheError

EVAL_NAME = f"resnet18-imagenet1k-eval-{IDENTITY.key[:8]}"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A sound cache."""
    small_cache(tmp_path / "cache")
    return tmp_path / "cache"


def test_folders_are_listed_by_name_with_their_files(cache: Path) -> None:
    (cache / "weights").mkdir()
    (cache / "README.md").write_text("not a folder")
    (cache / "notes").mkdir()
    plain, augmented = list_cache(cache)
    assert (plain.path.name, plain.identity, plain.faults) == (EVAL_NAME, IDENTITY, ())
    assert augmented.identity == TRAIN
    assert (len(plain.shards), len(plain.snapshots), len(augmented.shards)) == (2, 1, 2)
    assert [p.name for p in plain.shards] == sorted(p.name for p in plain.shards)
    every = [p for p in plain.path.rglob("*") if p.is_file()]
    assert plain.size == sum(p.stat().st_size for p in every)
    os.utime(plain.shards[1], ns=(0, 4 * 10**18))
    assert open_folder(plain.path).changed_ns == 4 * 10**18


def test_files_are_told_apart_by_kind(cache: Path) -> None:
    folder = cache / EVAL_NAME
    kinds: dict[str, list[str]] = {
        "set_aside": ["identity.json.bad", "shards/00.h5.bad"],
        "temporary": [".0123456789abcdef.tmp", "snapshots/.0123456789abcdef.tmp"],
        "others": ["shards/.hidden.h5", "shards/notes.txt", "snapshots/x"],
    }
    for name in (name for names in kinds.values() for name in names):
        (folder / name).write_text("")
    found = open_folder(folder)
    for kind, names in kinds.items():
        assert sorted(str(p.relative_to(folder)) for p in getattr(found, kind)) == sorted(names)
    assert (len(found.shards), len(found.snapshots), found.faults) == (2, 1, ())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("counts", [(1,), (2, 3), (700, 57)])
def test_rows_are_counted_exactly(tmp_path: Path, counts: tuple[int, ...], dtype: str) -> None:
    store = open_store(tmp_path, dataclasses.replace(IDENTITY, dtype=dtype), "w")
    for seed, count in enumerate(counts):
        store.commit(rows(count, seed))
    assert count_rows(open_folder(store.folder)) == (sum(counts), 0)


def test_counting_reads_no_feature(cache: Path) -> None:
    folder = open_folder(cache / EVAL_NAME)
    with h5py.File(folder.shards[0]) as shard:
        place = shard["features"].id.get_offset()
    data = bytearray(folder.shards[0].read_bytes())
    data[place] ^= 1
    folder.shards[0].write_bytes(data)
    assert count_rows(folder) == (10, 0)


def test_a_shard_that_says_nothing_sensible_is_not_counted(cache: Path, tmp_path: Path) -> None:
    shards = cache / EVAL_NAME / "shards"
    (shards / "a.h5").write_bytes(b"no HDF5")
    (shards / "b.h5").mkdir()
    (shards / "c.h5").symlink_to(tmp_path / "nowhere")
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["views"] = np.zeros(1, "<i4")
    with h5py.File(shards / "d.h5", "w", libver="latest") as file:
        layout = h5py.VirtualLayout((1,), "<i4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "elsewhere.h5"), "views", (1,))
        file.create_virtual_dataset("views", layout)
    with h5py.File(shards / "e.h5", "w") as file:
        file["views"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "views")
    with h5py.File(shards / "f.h5", "w") as file:
        file["views"] = np.zeros((2, 2), "<i4")
    with h5py.File(shards / "g.h5", "w") as file:  # more rows than its bytes can hold
        file["views"] = np.zeros(1000, "<i4")
    with h5py.File(shards / "i.h5", "w") as file:
        file["others"] = np.zeros(1, "<i4")
        file["views"] = h5py.SoftLink("/others")
    os.mkfifo(shards / "h.h5")
    assert count_rows(open_folder(cache / EVAL_NAME)) == (10, 9)


def test_a_folder_that_lost_its_identity_is_listed_with_the_reason(cache: Path) -> None:
    (cache / EVAL_NAME / FILE).unlink()
    folder = list_cache(cache)[0]
    assert folder.identity is None and len(folder.shards) == 2
    (fault,) = folder.faults
    assert fault.where == str(cache / EVAL_NAME / FILE)
    assert "no such file" in fault.found and "tlcache embed" in fault.remedy
    assert count_rows(folder) == (0, 2)
    with pytest.raises(CacheError, match="no such file"):
        own_identity(folder)


def test_a_damaged_identity_is_a_fault(cache: Path) -> None:
    (cache / EVAL_NAME / FILE).write_bytes(IDENTITY.to_json()[:-1])
    folder = open_folder(cache / EVAL_NAME)
    assert folder.identity is None
    assert FILE in folder.faults[0].where


def test_a_folder_under_a_wrong_name_is_described_and_a_fault(cache: Path) -> None:
    (cache / EVAL_NAME).rename(cache / "mine")
    folder = find_folder(cache, "mine")
    assert folder.identity == IDENTITY
    assert "first 8 digits" in folder.faults[0].expected


def test_a_file_where_the_folder_of_shards_should_be_is_a_fault(cache: Path) -> None:
    shutil.rmtree(cache / EVAL_NAME / "shards")
    (cache / EVAL_NAME / "shards").write_text("")
    folder = open_folder(cache / EVAL_NAME)
    assert folder.shards == ()
    assert folder.faults[0].where == str(cache / EVAL_NAME / "shards")


def test_a_folder_that_a_run_only_began_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "begun" / "shards").mkdir(parents=True)
    (folder,) = list_cache(tmp_path)
    assert (folder.identity, folder.faults, folder.size) == (None, (), 0)
    with pytest.raises(CacheError, match="nothing was put into"):
        own_identity(folder)


def test_an_absent_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"nothing there; run `tlcache embed`"):
        list_cache(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="Not a directory"):
        list_cache(tmp_path / "file")


def test_the_folder_of_one_identity_is_no_cache(cache: Path) -> None:
    with pytest.raises(CacheError, match=f"that of one identity; pass --cache-dir {cache}"):
        list_cache(cache / EVAL_NAME)


@pytest.mark.parametrize("length", [4, 7, 8, 9, 64])
def test_a_folder_is_found_by_the_beginning_of_its_key(cache: Path, length: int) -> None:
    assert find_folder(cache, IDENTITY.key[:length]).identity == IDENTITY
    assert find_folder(cache, IDENTITY.key[:length].upper()).identity == IDENTITY


def test_a_folder_is_found_by_name_and_by_path(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_folder(cache, EVAL_NAME).identity == IDENTITY
    elsewhere = tmp_path / "elsewhere"
    for path in (cache / EVAL_NAME, f"{cache / EVAL_NAME}/"):
        assert find_folder(elsewhere, str(path)).identity == IDENTITY
    monkeypatch.chdir(cache / EVAL_NAME)
    here = find_folder(elsewhere, ".")
    assert (here.identity, here.faults) == (IDENTITY, ())


def test_a_folder_without_identity_is_found_by_the_digits_of_its_name(cache: Path) -> None:
    (cache / EVAL_NAME / FILE).unlink()
    assert find_folder(cache, IDENTITY.key[:8]).path.name == EVAL_NAME


@pytest.mark.parametrize("text", ["", "b38", "zzzz", f"{IDENTITY.key}0", "a\0b", "weights"])
def test_an_unknown_identity_is_refused(cache: Path, text: str) -> None:
    with pytest.raises(CacheError, match="none such"):
        find_folder(cache, text)


def test_the_nearest_names_are_offered(cache: Path) -> None:
    with pytest.raises(CacheError, match=f"did you mean {EVAL_NAME}"):
        find_folder(cache, EVAL_NAME.replace("resnet18", "resnet81"))


def test_a_beginning_of_two_keys_names_both(cache: Path) -> None:
    other = cache / EVAL_NAME.replace("imagenet1k", "mine")
    shutil.copytree(cache / EVAL_NAME, other)
    with pytest.raises(CacheError, match=f"that of 2: {EVAL_NAME}, {other.name}"):
        find_folder(cache, IDENTITY.key[:8])
    assert find_folder(cache, other.name).path == other


def test_the_folder_of_the_augmented_views_is_the_train_sibling(cache: Path) -> None:
    sibling = train_sibling(open_folder(cache / EVAL_NAME), IDENTITY)
    assert sibling is not None and sibling.identity == TRAIN
    shutil.rmtree(sibling.path)
    assert train_sibling(open_folder(cache / EVAL_NAME), IDENTITY) is None


def test_listing_changes_nothing(cache: Path) -> None:
    store = open_store(cache, IDENTITY, "w")
    flip(store.folder / "shards" / files(store)[0])
    before = files(store)
    for folder in list_cache(cache):
        count_rows(folder)
    assert files(store) == before
