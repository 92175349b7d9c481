from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
from small_cache import (
    IDENTITY,
    IMAGES,
    TRAINED,
    VIEWS,
    digests,
    files,
    flip,
    named,
    small_cache,
    snapshot,
)

import tlcache.core.files
from tlcache.cache.contents import IdentityFolder, open_folder
from tlcache.cache.rows import (
    Asked,
    Held,
    inspect,
    look_up,
    named_images,
    named_rows,
    read_names,
    row_names,
)
from tlcache.cache.snapshots import save_snapshot
from tlcache.cache.store import FeatureStore

Stores = tuple[FeatureStore, FeatureStore]


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return small_cache(tmp_path)


def held(store: FeatureStore) -> Held:
    return read_names(open_folder(store.folder), store.identity)


def test_each_name_is_held_once_and_rows_are_counted(stores: Stores) -> None:
    stores[0].commit(named(digests()[:3], seed=9))
    found = held(stores[0])
    assert (found.rows, len(found.names), found.images(), found.shards) == (13, 10, 10, 3)
    assert held(stores[1]).images() == TRAINED
    assert len(held(stores[1]).names) == TRAINED * VIEWS


def test_an_empty_folder_holds_nothing(stores: Stores) -> None:
    for name in files(stores[0]):
        (stores[0].folder / "shards" / name).unlink()
    found = held(stores[0])
    assert (found.rows, found.images(), found.shards, found.faults) == (0, 0, 0, [])
    assert look_up(snapshot(views=0), found, None) == Asked(IMAGES, IMAGES, "train/cats/0.jpg")


def test_names_that_end_in_zero_bytes_are_told_apart() -> None:
    images = np.zeros((3, 32), np.uint8)
    images[:, 0], images[1, 31] = 7, 1
    names = row_names(images, np.array([0, 0, 256], np.int32))
    assert len(np.unique(names)) == 3
    assert Held(np.unique(names), 3, 1, []).images() == 2
    zeros = dataclasses.replace(snapshot(count=1), digests=images[:1])
    named = named_images([zeros])
    assert named_rows(names, named, augmented=False).tolist() == [True, False, False]
    assert named_rows(names, named, augmented=True).tolist() == [True, False, True]


def test_a_damaged_shard_is_a_fault_and_stays_where_it_is(stores: Stores) -> None:
    name = files(stores[0])[0]
    flip(stores[0].folder / "shards" / name)
    found = held(stores[0])
    assert (found.shards, len(found.faults)) == (2, 1)
    assert found.faults[0].where.endswith(name)
    assert name in files(stores[0])


def test_a_shard_that_was_merged_into_a_new_one_meanwhile_is_no_fault(stores: Stores) -> None:
    folder = open_folder(stores[0].folder)
    stores[0].commit(named(digests()))
    for path in folder.shards:
        path.unlink()
    found = read_names(folder, IDENTITY)
    assert (found.rows, found.shards, found.faults) == (IMAGES, 1, [])


def test_a_link_to_nowhere_is_a_fault(stores: Stores, tmp_path: Path) -> None:
    (stores[0].folder / "shards" / "0.h5").symlink_to(tmp_path / "nowhere")
    assert "0.h5" in held(stores[0]).faults[0].where


def test_all_rows_that_a_snapshot_names_are_found(stores: Stores) -> None:
    own, augmented = held(stores[0]), held(stores[1])
    assert look_up(snapshot(), own, augmented) == Asked(IMAGES + TRAINED * VIEWS, 0)
    images = named_images([snapshot()])
    assert named_rows(own.names, images, augmented=False).all()
    assert named_rows(augmented.names, images, augmented=True).all()


def test_rows_that_no_snapshot_names_are_told(stores: Stores) -> None:
    images = named_images([snapshot(views=0, count=7)])
    assert named_rows(held(stores[0]).names, images, augmented=False).sum() == 7
    # Any view of an image is named with it, asked for this time or not.
    found = named_rows(held(stores[1]).names, images, augmented=True)
    assert found.sum() == VIEWS * min(7, TRAINED)


def test_missing_rows_are_counted_with_an_example(stores: Stores) -> None:
    own, augmented = held(stores[0]), held(stores[1])
    assert look_up(snapshot(count=12), own, augmented) == Asked(24, 2, "val/cats/10.jpg")
    assert look_up(snapshot(views=3), own, augmented) == Asked(28, 6, "train/cats/0.jpg")
    assert look_up(snapshot(), own, None) == Asked(22, 12, "train/cats/0.jpg")


def test_a_row_that_is_missing_in_one_view_only_is_missed(stores: Stores) -> None:
    for name in files(stores[1]):
        (stores[1].folder / "shards" / name).unlink()
    stores[1].commit(named(digests()[:TRAINED], 0))
    stores[1].commit(named(digests()[: TRAINED - 1], 1))
    asked = look_up(snapshot(), held(stores[0]), held(stores[1]))
    assert asked == Asked(22, 1, f"train/cats/{TRAINED - 1}.jpg")


def test_images_that_cannot_be_read_and_equal_images_ask_for_no_more(stores: Stores) -> None:
    taken = snapshot(views=0, count=12)
    taken.reasons[10] = taken.reasons[11] = "truncated"
    images = taken.digests.copy()
    images[1] = images[0]
    taken = dataclasses.replace(taken, digests=images)
    assert look_up(taken, held(stores[0]), None) == Asked(9, 0)


def test_a_snapshot_that_asks_for_endless_views_is_answered_at_once(stores: Stores) -> None:
    asked = look_up(snapshot(views=10**30), held(stores[0]), held(stores[1]))
    assert asked.missing == TRAINED * (10**30 - VIEWS)


def test_a_folder_is_inspected_with_its_views_and_snapshots(stores: Stores) -> None:
    save_snapshot(stores[0].snapshot_path("more"), snapshot("more", views=0, count=12))
    stores[0].snapshot_path("junk").write_bytes(b"junk")
    ticks: list[None] = []
    own, summaries, faults = inspect(
        open_folder(stores[0].folder), IDENTITY, lambda: ticks.append(None)
    )
    assert own.rows == IMAGES and len(ticks) == 4
    more, pets = summaries
    assert (more.dataset, more.asked.missing, more.views) == ("more", 2, 0)
    assert (pets.images, pets.classes) == ({"train": 6, "val": 4}, ("cats", "dogs"))
    assert pets.asked == Asked(22, 0) and pets.root == Path("/data/pets")
    assert [Path(fault.where).name for fault in faults] == ["junk.h5"]


def test_a_shard_that_a_stale_folder_still_lists_is_waited_for(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS may: else a clean-up on another machine looked like rows that are missing."""
    stale, slept = open_folder(stores[0].folder), list[float]()
    heir = stores[0].commit(named(digests()))
    for path in set(stale.shards) - {heir}:
        path.unlink()

    def as_listed(path: Path) -> IdentityFolder:
        return stale if sum(slept) < 15 else open_folder(path)

    monkeypatch.setattr("tlcache.cache.rows.open_folder", as_listed)
    monkeypatch.setattr(tlcache.core.files, "time", types.SimpleNamespace(sleep=slept.append))
    found = held(stores[0])
    assert (found.rows, found.shards, found.faults) == (IMAGES, 1, [])
