from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_cache import IDENTITY, IMAGES, TRAIN, digests, flip, named, rows, small_cache, snapshot

from tlcache.cache.identity import FILE
from tlcache.cache.shards import Rows
from tlcache.cache.snapshots import save_snapshot
from tlcache.cache.store import open_store
from tlcache.cache.verify import Verification, verify_cache
from tlcache.core.errors import CacheError
from tlcache.core.hdf5 import pack
from tlcache.data.transforms import Transform
from tlcache.trunks.info import TrunkInfo, _canonical, _sha256, remember

EVAL_NAME = f"resnet18-imagenet1k-eval-{IDENTITY.key[:8]}"
TRAIN_NAME = f"resnet18-imagenet1k-train-{TRAIN.key[:8]}"
Change = Callable[[Path], None]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A sound cache with a weights memo."""
    folder = tmp_path / "cache"
    small_cache(folder)
    remember(
        folder / "weights",
        TrunkInfo(
            name="resnet18", weights="random", digest="ab" * 32, dim=5, transform=Transform()
        ),
    )
    return folder


def shards(cache: Path, name: str = EVAL_NAME) -> list[Path]:
    return sorted((cache / name / "shards").glob("*.h5"))


def pets(cache: Path) -> Path:
    return cache / EVAL_NAME / "snapshots" / "pets.h5"


def memo(cache: Path) -> Path:
    (path,) = (cache / "weights").iterdir()
    return path


def state(cache: Path) -> dict[str, tuple[int, bytes]]:
    """Names, times and bytes of all files."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in cache.rglob("*")
    }


def told(found: Verification, cache: Path) -> list[str]:
    """Each finding's file, relative to the cache."""
    return [str(Path(fault.where).relative_to(cache)) for fault in found.findings]


def test_a_sound_cache_is_sound_and_counted(cache: Path) -> None:
    before, ticks = state(cache), list[tuple[int, int]]()
    found = verify_cache(cache, progress=lambda done, total: ticks.append((done, total)))
    assert found.describe() == {
        "sound": True,
        "findings": [],
        "shards": 4,
        "rows": 22,
        "snapshots": 1,
        "notes": {
            "set_aside": 0,
            "temporary": 0,
            "other_files": 0,
            "duplicate_rows": 0,
            "unnamed_rows": 0,
        },
    }
    assert ticks == [(i, 6) for i in range(1, 7)]
    assert state(cache) == before


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = [
    flip,
    truncated,
    lambda path: path.write_bytes(b""),
    replaced_by_a_folder,
    replaced_by_a_pipe,
    replaced_by_a_link_to_nowhere,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", [pets, memo, lambda cache: cache / EVAL_NAME / FILE])
def test_a_damaged_file_is_one_finding(
    cache: Path, which: Callable[[Path], Path], damage: Change
) -> None:
    path = which(cache)
    damage(path)
    before = state(cache)
    found = verify_cache(cache)
    assert told(found, cache) == [str(path.relative_to(cache))]
    assert all((found.findings[0].expected, found.findings[0].found, found.findings[0].remedy))
    assert state(cache) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_found_and_so_are_the_rows_that_it_held(
    cache: Path, damage: Change
) -> None:
    path = shards(cache)[0]
    with h5py.File(path) as shard:
        held = len(shard["views"])
    damage(path)
    before = state(cache)
    found = verify_cache(cache)
    assert told(found, cache) == [str(p.relative_to(cache)) for p in (path, pets(cache))]
    assert f"{held} missing" in found.findings[1].found
    assert "tlcache embed /data/pets --views 2" in found.findings[1].remedy
    assert (found.shards, found.rows) == (4, 22 - held)
    assert state(cache) == before


def test_every_fault_of_a_cache_is_reported(cache: Path) -> None:
    for path in (shards(cache)[1], shards(cache, TRAIN_NAME)[0], memo(cache)):
        flip(path)
    (cache / EVAL_NAME / "snapshots" / "junk.h5").write_bytes(b"junk")
    assert sorted(told(verify_cache(cache), cache)) == sorted(
        str(path.relative_to(cache))
        for path in (
            shards(cache)[1],
            shards(cache, TRAIN_NAME)[0],
            memo(cache),
            cache / EVAL_NAME / "snapshots" / "junk.h5",
            pets(cache),
        )
    )


def hostile(columns: dict[str, np.ndarray], cache: Path) -> Path:
    """A shard that bears the checksum of its bytes as its name, whatever is in it."""
    data = pack(columns)
    path = cache / EVAL_NAME / "shards" / f"{hashlib.sha256(data).hexdigest()}.h5"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"features": np.full((2, 5), np.nan, "<f4")}, "NaN"),
        ({"features": np.zeros((2, 6), "<f4")}, "(2, 6)"),
        ({"features": np.zeros((2, 5), "<i4")}, "int32"),
        ({"views": np.zeros(3, "<i4")}, "(2, 5)"),
        ({"identity": np.zeros(32, "|u1")}, "another's"),
        ({"more": np.zeros(1, "|u1")}, "/more"),
    ],
)
def test_a_shard_that_is_whole_but_no_shard_of_this_identity_is_found(
    cache: Path, changes: dict[str, np.ndarray], word: str
) -> None:
    columns = {
        "identity": np.frombuffer(IDENTITY.digest, np.uint8),
        "features": np.zeros((2, 5), "<f4"),
        "images": np.zeros((2, 32), "|u1"),
        "views": np.zeros(2, "<i4"),
    }
    path = hostile(columns | changes, cache)
    (fault,) = verify_cache(cache).findings
    assert fault.where == str(path) and word in fault.found
    assert "sets the file aside" in fault.remedy


def test_a_shard_of_another_identity_is_found(cache: Path) -> None:
    stray = shards(cache, TRAIN_NAME)[0]
    shutil.copy(stray, cache / EVAL_NAME / "shards")
    (fault,) = verify_cache(cache).findings
    assert fault.where.endswith(f"{EVAL_NAME}/shards/{stray.name}")
    assert f"rows of identity {IDENTITY.key[:8]}" in fault.expected


def test_two_shards_with_each_others_names_are_both_found(cache: Path) -> None:
    a, b = shards(cache)
    aside = a.with_name("aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    assert {Path(f.where) for f in verify_cache(cache).findings} == {a, b, pets(cache)}


@pytest.mark.parametrize("kind", ["eval", "train"])
def test_each_deleted_shard_shows_as_missing_rows(cache: Path, kind: str) -> None:
    for path in shards(cache, EVAL_NAME if kind == "eval" else TRAIN_NAME):
        data = path.read_bytes()
        path.unlink()
        (fault,) = verify_cache(cache).findings
        assert fault.where == str(pets(cache)) and "missing (of " in fault.found
        path.write_bytes(data)
    assert verify_cache(cache).sound


def test_a_deleted_identity_is_found_and_the_shards_are_checked_even_so(cache: Path) -> None:
    (cache / EVAL_NAME / FILE).unlink()
    flip(shards(cache)[1])
    found = verify_cache(cache)
    identity, shard = found.findings
    assert identity.where == str(cache / EVAL_NAME / FILE) and identity.found == "no such file"
    assert shard.where == str(shards(cache)[1]) and shard.found == "other bytes"


def test_an_edited_identity_is_one_finding_and_its_shards_are_left_out_of_it(cache: Path) -> None:
    other = dataclasses.replace(IDENTITY, trunk="resnet34")
    (cache / EVAL_NAME / FILE).write_bytes(other.to_json())
    assert told(verify_cache(cache), cache) == [f"{EVAL_NAME}/{FILE}"]


def test_a_deleted_snapshot_is_found(cache: Path) -> None:
    pets(cache).unlink()
    (fault,) = verify_cache(cache).findings
    assert fault.where == str(cache / EVAL_NAME / "snapshots") and "10 rows" in fault.expected


def test_a_deleted_folder_of_views_shows_as_missing_rows(cache: Path) -> None:
    shutil.rmtree(cache / TRAIN_NAME)
    (fault,) = verify_cache(cache).findings
    assert "12 missing (of train/cats/0.jpg for one)" in fault.found


def test_views_under_another_resize_and_another_dtype_do_not_count(cache: Path) -> None:
    for changes in ({"transform": Transform(resize=300)}, {"dtype": "float16"}):
        store = open_store(cache, dataclasses.replace(IDENTITY, **changes), "w")
        store.commit(named(digests()))
        save_snapshot(store.prepare_snapshot("pets"), snapshot(views=2))
    (fault,) = verify_cache(cache).findings
    assert "12 missing" in fault.found  # a resize is no part of a train transform
    assert Path(fault.where).parents[1] == store.folder


def test_a_snapshot_under_another_name_is_found(cache: Path) -> None:
    pets(cache).rename(pets(cache).with_name("cars.h5"))
    (fault,) = verify_cache(cache).findings
    assert (fault.expected, fault.found) == (
        "the snapshot of the data set cars",
        "that of pets",
    )


def test_a_memo_under_another_name_is_found(cache: Path) -> None:
    memo(cache).rename(cache / "weights" / f"{'0' * 64}.json")
    (fault,) = verify_cache(cache).findings
    assert "another memo" in fault.found and "remove it" in fault.remedy


@pytest.mark.parametrize(
    "change", [{"digest": 5}, {"dim": "5"}, {"source": {"path": 1}}, {"transform": {}}]
)
def test_a_forged_memo_is_found(cache: Path, change: dict[str, object]) -> None:
    path = memo(cache)
    values = json.loads(path.read_bytes())
    values["value"] |= change
    values["sha256"] = _sha256([values["key"], values["value"]])
    path.write_bytes(_canonical(values))
    assert [f.where for f in verify_cache(cache).findings] == [str(path)]


def test_what_is_no_fault_is_noted(cache: Path) -> None:
    store = open_store(cache, IDENTITY, "w")
    store.commit(rows(3, seed=5))
    store.commit(named(digests()[:4], seed=6))
    (store.folder / "identity.json.bad").write_text("")
    (store.folder / "shards" / "notes.txt").write_text("")
    for folder in (store.folder / "shards", store.snapshots, cache / "weights"):
        (folder / ".0123456789abcdef.tmp").write_text("")
    found = verify_cache(cache)
    assert found.sound and found.rows == 29
    assert found.notes == {
        "set_aside": 1,
        "temporary": 3,
        "other_files": 1,
        "duplicate_rows": 4,
        "unnamed_rows": 3,
    }


def test_views_beyond_those_asked_for_are_named_with_their_images(cache: Path) -> None:
    save_snapshot(pets(cache), snapshot(views=1))
    found = verify_cache(cache)
    assert found.sound and found.notes["unnamed_rows"] == 0


def test_rows_of_two_data_sets_are_all_named(cache: Path) -> None:
    save_snapshot(pets(cache), snapshot(views=2, count=7))
    save_snapshot(pets(cache).with_name("more.h5"), snapshot("more", views=0))
    found = verify_cache(cache)
    assert (found.sound, found.snapshots, found.notes["unnamed_rows"]) == (True, 2, 0)


def test_only_the_named_identity_and_its_sibling_are_verified(cache: Path) -> None:
    other = open_store(cache, dataclasses.replace(IDENTITY, trunk="resnet34"), "w")
    flip(other.commit(rows(2)))
    flip(memo(cache))
    assert len(verify_cache(cache).findings) == 2
    for text in (IDENTITY.key[:8], TRAIN_NAME, str(cache / EVAL_NAME)):
        found = verify_cache(cache, [text])
        assert (found.sound, found.shards, found.rows, found.snapshots) == (True, 4, 22, 1)
    assert len(verify_cache(cache, [IDENTITY.key[:8], other.folder.name]).findings) == 1
    with pytest.raises(CacheError, match="none such"):
        verify_cache(cache, ["0123456789"])


def test_a_folder_of_another_cache_is_verified_by_its_path(cache: Path, tmp_path: Path) -> None:
    flip(shards(cache)[0])
    found = verify_cache(tmp_path / "nowhere", [str(cache / EVAL_NAME)])
    assert len(found.findings) == 2 and found.shards == 4


def test_float16_rows_are_verified(tmp_path: Path) -> None:
    store = open_store(tmp_path, dataclasses.replace(IDENTITY, dtype="float16"), "w")
    store.commit(named(digests()))
    save_snapshot(store.prepare_snapshot("pets"), snapshot(views=0))
    found = verify_cache(tmp_path)
    assert (found.sound, found.rows) == (True, IMAGES)


def test_an_empty_cache_is_sound(tmp_path: Path) -> None:
    (tmp_path / "begun" / "shards").mkdir(parents=True)
    assert verify_cache(tmp_path) == Verification()


def test_an_absent_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="nothing there"):
        verify_cache(tmp_path / "nowhere")


def test_a_weights_folder_that_is_none_is_found(cache: Path) -> None:
    shutil.rmtree(cache / "weights")
    (cache / "weights").write_text("")
    assert told(verify_cache(cache), cache) == ["weights"]


def test_no_flip_and_no_cut_anywhere_goes_unnoticed(cache: Path) -> None:
    random = np.random.default_rng(0)
    for path in (p for p in sorted(cache.rglob("*")) if p.is_file()):
        data = path.read_bytes()
        for at in random.integers(0, len(data), 12):
            changed = bytearray(data)
            changed[at] ^= 1 << int(random.integers(8))
            path.write_bytes(changed)
            assert str(path) in [f.where for f in verify_cache(cache).findings], (path.name, at)
            path.write_bytes(data[:at])
            assert str(path) in [f.where for f in verify_cache(cache).findings], (path.name, at)
        path.write_bytes(data)
    assert verify_cache(cache).sound


def test_names_of_negative_views_are_no_trouble(cache: Path) -> None:
    made = rows(2, seed=7)
    views = np.array([-1, np.iinfo(np.int32).max], np.int32)
    open_store(cache, TRAIN, "w").commit(Rows(made.features, digests()[:2], views))
    found = verify_cache(cache)
    assert found.sound and found.notes["unnamed_rows"] == 0
