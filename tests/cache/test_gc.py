"""Which rows snapshots name, and which files are left over."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_cache import (
    IDENTITY,
    check_held,
    files,
    flip,
    joined,
    name_rows,
    part,
    rows,
    small_shards,
    store_in,
    sweep,
)

import tlcache
from tlcache.cache.gc import LeftOver, Sweep, collect_garbage
from tlcache.cache.shards import Rows
from tlcache.cache.snapshots import load_snapshot, save_snapshot
from tlcache.cache.store import FeatureStore
from tlcache.data.transforms import Transform

TRAIN = dataclasses.replace(IDENTITY, transform=Transform().as_train())
OTHER_SIZE = dataclasses.replace(IDENTITY, transform=Transform(resize=255))
OTHER_CROP = dataclasses.replace(IDENTITY, transform=Transform(crop=192))


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return store_in(tmp_path)


def of_identity(store: FeatureStore) -> Sweep:
    found = collect_garbage(store.folder.parent).identities
    return next(sweep for sweep in found if sweep.folder == store.folder)


def viewed(views: int, count: int = 3) -> Rows:
    """Views of the same images."""
    one = rows(count)
    parts = [dataclasses.replace(one, views=np.full(count, v, np.int32)) for v in range(views)]
    return joined(*parts)


def test_what_any_snapshot_of_the_folder_names_is_kept(store: FeatureStore) -> None:
    parts = [rows(4, seed) for seed in range(3)]
    for each in parts:
        store.commit(each)
    name_rows(store, parts[0].images, "ants")
    name_rows(store, parts[2].images[1:], "bees")
    assert sweep(store).shards.unnamed == 5
    check_held(store, joined(parts[0], part(parts[2], slice(1, None))))


def test_images_that_cannot_be_read_name_no_row(store: FeatureStore) -> None:
    kept = rows(4)
    store.commit(kept)
    path = name_rows(store, kept.images)
    named, reasons = load_snapshot(path), ["", "Input/output error", "", ""]
    digests = named.digests * np.array([[1], [0], [1], [1]], np.uint8)
    save_snapshot(path, dataclasses.replace(named, digests=digests, reasons=reasons))
    assert sweep(store).shards.unnamed == 1
    check_held(store, part(kept, np.array([0, 2, 3])))


def test_an_eval_transform_has_view_0_only(store: FeatureStore) -> None:
    store.commit(viewed(3))
    name_rows(store, rows(3).images)
    assert sweep(store).shards.unnamed == 6
    check_held(store, viewed(1))


def test_views_are_named_by_the_snapshots_of_every_eval_sibling(store: FeatureStore) -> None:
    augmented = store_in(store.folder.parent, TRAIN)
    made, others = viewed(3), [rows(2, seed) for seed in (7, 8, 9)]
    augmented.commit(joined(made, *others))
    name_rows(store, made.images[:3])
    name_rows(store_in(store.folder.parent, OTHER_SIZE), others[0].images)
    name_rows(store_in(store.folder.parent, OTHER_CROP), others[1].images)  # no sibling
    name_rows(augmented, others[2].images)  # nor is it its own
    assert of_identity(augmented).shards.unnamed == 4
    check_held(augmented, joined(made, others[0]))


def test_without_a_snapshot_all_rows_are_kept_and_copies_still_go(store: FeatureStore) -> None:
    store.commit(joined(rows(5), rows(5)))
    done = sweep(store)
    assert (done.shards.unnamed, done.shards.duplicate) == (0, 5)
    assert done.kept_because == "no snapshot names a row of it"
    check_held(store, rows(5))


def test_a_damaged_snapshot_keeps_all_rows(store: FeatureStore) -> None:
    store.commit(rows(5))
    name_rows(store, rows(2, 1).images, "ants")
    path = name_rows(store, rows(2, 2).images, "bees")
    flip(path)
    done = sweep(store)
    assert done.shards.unnamed == 0
    assert done.kept_because.startswith(f"{path}: expected a snapshot that tlcache wrote, found")
    path.unlink()
    assert (sweep(store).shards.unnamed, sweep(store).kept_because) == (5, "")


@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_a_snapshot_in_a_folder_that_cannot_be_used_may_name_views(
    damage: str, store: FeatureStore
) -> None:
    augmented = store_in(store.folder.parent, TRAIN)
    augmented.commit(viewed(2))
    name_rows(store, rows(2, 1).images)
    beside = store_in(store.folder.parent, OTHER_SIZE)
    name_rows(beside, rows(3).images)
    about = beside.folder / "identity.json"
    if damage == "lost":
        about.unlink()
    else:
        flip(about)
    done = of_identity(augmented)
    assert done.shards.unnamed == 0 and done.kept_because.startswith(f"{about}: expected")
    check_held(augmented, viewed(2))
    about.write_bytes(OTHER_CROP.to_json())
    beside.folder.rename(beside.folder.with_name(f"x-{OTHER_CROP.key[:8]}"))
    assert of_identity(augmented).shards.unnamed == 6


def test_only_the_identities_that_are_asked_for_are_changed(store: FeatureStore) -> None:
    other = store_in(store.folder.parent, OTHER_CROP)
    for each in (store, other):
        each.commit(rows(3))
        name_rows(each, rows(1, 1).images)
    done = collect_garbage(store.folder.parent, [other.folder])
    assert [sweep.folder for sweep in done.identities] == [other.folder]
    assert files(other) == [] and len(files(store)) == 1


def left_over(store: FeatureStore) -> tuple[list[Path], list[Path]]:
    """Files that must go, and files that must stay."""
    store.commit(rows(5))
    name_rows(store, rows(5).images)
    weights = store.folder.parent / "weights"
    weights.mkdir()
    old, young = ".0123456789abcdef.tmp", ".fedcba9876543210.tmp"
    go, stay = [], []
    for folder in (store.folder, store.folder / "shards", store.folder / "snapshots", weights):
        go += [folder / old, folder / "damaged.h5.bad"]
        stay += [folder / young, folder / "visible.tmp", folder / "notes.txt"]
    for path in (*go, *stay):
        path.write_bytes(b"12345")
        hours = 0.9 if path.name == young else 1.1
        os.utime(path, (time.time() - hours * 3600,) * 2)
    folder = store.folder / "shards" / "folder.bad"
    folder.mkdir()
    return go, [*stay, folder]


def test_left_over_files_go_and_those_of_running_writers_stay(store: FeatureStore) -> None:
    go, stay = left_over(store)
    foretold = collect_garbage(store.folder.parent, dry_run=True)
    assert all(path.exists() for path in go)
    done = collect_garbage(store.folder.parent)
    assert not any(path.exists() for path in go) and all(path.exists() for path in stay)
    assert done.weights == foretold.weights == LeftOver(1, 1, 10)
    assert done.identities == foretold.identities
    assert done.identities[0].files == LeftOver(3, 3, 30)
    described = done.describe()["identities"][0]
    assert described["bytes_before"] - described["bytes_after"] == 30
    check_held(store, rows(5))


def test_a_cache_that_is_not_there_holds_no_garbage(tmp_path: Path) -> None:
    done = tlcache.collect_garbage(tmp_path / "none")
    assert done.describe() == {
        "dry_run": False,
        "identities": [],
        "weights": {"set_aside": 0, "temporary": 0, "bytes": 0},
    }
    assert not (tmp_path / "none").exists()


def test_embed_names_its_rows_before_it_looks_for_them(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finds may be about to go: only a snapshot that is there by then keeps it."""
    looked: list[int] = []
    rows = FeatureStore.rows

    def look(store: FeatureStore) -> Any:
        looked.append(len(list(tmp_path.glob("cache/*/snapshots/*.h5"))))
        return rows(store)

    monkeypatch.setattr(FeatureStore, "rows", look)
    dataset = tlcache.scan(tiny_data)
    tlcache.embed(dataset, "mobilenet_v3_small", "random", cache=tmp_path / "cache", views=2)
    assert looked == [1, 1]
