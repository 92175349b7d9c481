"""Which snapshot takes the place of which, and what becomes of the rows that only one names."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import weakref
from pathlib import Path

import numpy as np
import pytest
from small_cache import (
    Listed,
    flip,
    named,
    small_shards,
    snapshot_of,
    store_in,
    sweep,
)
from steps import Interrupt, Turns, call_before

import tlcache.cache.store
import tlcache.core.files
from tlcache.cache.snapshots import Snapshot, load_snapshot, save_snapshot
from tlcache.cache.store import FeatureStore, keep_snapshot, known_snapshots

HERE, THERE = "0" * 15 + "1", "0" * 15 + "2"


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> FeatureStore:
    made = store_in(tmp_path / "cache")
    made.note = said.append
    return made


def of(place: str, images: str, second: int) -> Snapshot:
    """Of a folder /data with one file for each letter, taken at a second of the clock."""
    taken = snapshot_of(*(Listed(f"train/ants/{name}.jpg", name) for name in images))
    dataset = dataclasses.replace(taken.dataset, root=Path("/data"))
    status = np.array([[1, ord(name), ord(name), int(place, 16)] for name in images], np.uint64)
    return dataclasses.replace(
        taken, dataset=dataset, status=status, place=place, taken_ns=(second + 10) * 10**9
    )


def keep(snapshot: Snapshot, store: FeatureStore) -> None:
    """What ``embed`` does: name the rows, look for them, make those that lack."""
    keep_snapshot(snapshot, store)
    wanted = named(snapshot.digests)
    lacking = ~store.has(wanted.images, wanted.views)
    if lacking.any():
        store.commit(named(snapshot.digests[lacking]))


def kept(store: FeatureStore) -> dict[str, str]:
    """Name of each snapshot, and the images in it."""
    loaded = {path.stem: load_snapshot(path).dataset.paths for path in store.snapshots.iterdir()}
    return {stem: "".join(Path(path).stem for path in paths) for stem, paths in loaded.items()}


def check_kept(store: FeatureStore, *snapshots: Snapshot) -> None:
    """A clean-up takes no row of theirs."""
    sweep(store)
    for snapshot in snapshots:
        wanted = named(snapshot.digests)
        assert store.has(wanted.images, wanted.views).all()


def test_folders_at_one_path_on_two_machines_keep_their_rows(
    store: FeatureStore, said: list[str]
) -> None:
    here, there = of(HERE, "abc", 1), of(THERE, "cde", 2)
    keep(here, store)
    keep(there, store)
    assert kept(store) == {"pets": "abc", f"pets-{THERE}": "cde"}
    check_kept(store, here, there)
    assert said == [
        f"the snapshot is {store.snapshots / f'pets-{THERE}.h5'}: "
        f"{store.snapshots / 'pets.h5'} is of other images at that path"
    ]
    keep(of(HERE, "ab", 3), store)
    keep(of(THERE, "d", 4), store)
    assert kept(store) == {"pets": "ab", f"pets-{THERE}": "d"} and len(said) == 1


def test_a_folder_that_grows_and_shrinks_keeps_one_snapshot(store: FeatureStore) -> None:
    for second, images in enumerate(["abc", "abcd", "b", "xyz"]):
        keep(of(HERE, images, second), store)
        assert kept(store) == {"pets": images}


def test_equal_and_grown_data_of_ever_new_machines_keep_one_snapshot(store: FeatureStore) -> None:
    """As of containers, each of which may call itself otherwise."""
    for second, images in enumerate(["abc", "abc", "abcd", "abcd"]):
        keep(of(f"{second:016x}", images, second), store)
        assert kept(store) == {"pets": images}


def test_one_of_several_snapshots_is_replaced_by_its_own_folders(store: FeatureStore) -> None:
    for second, (place, images) in enumerate([(HERE, "a"), (THERE, "b"), (HERE, "abc")]):
        keep(of(place, images, second), store)
    assert kept(store) == {"pets": "abc", f"pets-{THERE}": "b"}
    keep(of(THERE, "abc", 4), store)
    assert kept(store) == {"pets": "abc", f"pets-{THERE}": "abc"}


def test_a_snapshot_of_an_earlier_version_is_known_by_a_file_and_replaced(
    store: FeatureStore,
) -> None:
    before = dataclasses.replace(of(HERE, "abc", 1), place="")
    keep(before, store)
    keep(of(THERE, "x", 2), store)
    assert kept(store) == {"pets": "abc", f"pets-{THERE}": "x"}
    keep(of(HERE, "b", 3), store)
    assert kept(store) == {"pets": "b", f"pets-{THERE}": "x"}
    assert load_snapshot(store.snapshot_path("pets")).place == HERE


def test_an_image_whose_bytes_cannot_be_read_is_not_named(store: FeatureStore) -> None:
    here, there = of(HERE, "ab", 1), of(THERE, "ab", 2)
    keep(here, store)
    digests = there.digests * np.array([[1], [0]], np.uint8)
    keep(dataclasses.replace(there, digests=digests, reasons=["", "Input/output error"]), store)
    assert len(kept(store)) == 2
    check_kept(store, here)


def test_another_root_of_the_same_name_is_not_replaced(store: FeatureStore) -> None:
    """8 digits of a hash can be those of two paths."""
    one = of(HERE, "a", 1)
    other = dataclasses.replace(one.dataset, root=Path("/other"))
    keep(one, store)
    keep(dataclasses.replace(of(THERE, "a", 2), dataset=other), store)
    assert len(kept(store)) == 2


def test_the_later_snapshot_stays_and_takes_over_more_views(store: FeatureStore) -> None:
    older, newer = of(HERE, "abc", 1), of(HERE, "bcd", 2)
    keep(newer, store)
    keep(older, store)
    assert kept(store) == {"pets": "bcd"}
    keep(dataclasses.replace(older, digests=newer.digests, views=3), store)
    held = load_snapshot(store.snapshot_path("pets"))
    assert (held.views, held.taken_ns) == (3, newer.taken_ns)


def test_a_damaged_snapshot_is_replaced(store: FeatureStore) -> None:
    keep(of(HERE, "ab", 1), store)
    flip(store.snapshot_path("pets"))
    keep(of(THERE, "cd", 2), store)
    assert kept(store) == {"pets": "cd"}


# --- runs at once

_STEPS = (
    (tlcache.core.files, "_write"),
    (tlcache.core.files, "_rename"),
    (tlcache.core.files, "_fsync_folder"),
    (tlcache.cache.store, "load_snapshot"),
    (tlcache.cache.store, "list_folder"),
)


@pytest.mark.parametrize("before", ["", "abe"])
@pytest.mark.parametrize("outer", [1, 2])
@pytest.mark.parametrize("places", [(HERE, HERE), (HERE, THERE)])
def test_a_run_within_a_run_at_any_step_keeps_every_row_of_the_newer(
    before: str, outer: int, places: tuple[str, str], tmp_path: Path
) -> None:
    runs = of(places[0], "abc", 1), of(places[1], "bcd", 2)
    reached = True
    for at in itertools.count(1):
        store = store_in(tmp_path / str(at))
        if before:
            keep(of(HERE, before, 0), store)
        with pytest.MonkeyPatch.context() as patch:
            interrupt = Interrupt(at, functools.partial(keep, runs[2 - outer], store))
            call_before(_STEPS, patch, interrupt)
            keep_snapshot(runs[outer - 1], store)
        if not (reached := interrupt.count >= at):
            break
        keep(runs[outer - 1], store)
        check_kept(store, *(runs if places[0] != places[1] else runs[1:]))
        assert len(kept(store)) == len(set(places))
    assert not reached and at > 5


@pytest.mark.parametrize("seed", range(40))
def test_runs_that_take_turns_keep_every_row_of_each_folders_newest(
    seed: int, store: FeatureStore
) -> None:
    runs = [of(HERE, "abc", 1), of(HERE, "bcd", 2), of(HERE, "cde", 3), of(THERE, "cdx", 2)]
    turns = Turns([functools.partial(keep_snapshot, run, store) for run in runs], seed)
    with pytest.MonkeyPatch.context() as patch:
        call_before(_STEPS, patch, turns)
        turns.run()
    named_here = {tuple(load_snapshot(p).dataset.paths) for p in store.snapshots.glob("*.h5")}
    assert named_here == {tuple(run.dataset.paths) for run in runs[2:]}
    assert not list(store.snapshots.glob(".*"))


def test_a_run_that_is_cut_off_is_not_in_the_way(store: FeatureStore) -> None:
    store.prepare()
    left = store.snapshots / f".pets.{'0' * 16}.tmp"
    other = store.snapshots / f".pets-part.{'0' * 16}.tmp"
    for path in (left, other):
        path.touch()
    keep(of(HERE, "a", 1), store)
    assert not left.exists() and other.exists()


# --- what is known of files


def test_snapshots_to_take_digests_from_are_held_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, loaded = store_in(tmp_path), list[weakref.ref[Snapshot]]()
    for at in range(5):
        other = store.folder.with_name(f"other{at}-00000000") / "snapshots"
        other.mkdir(parents=True)
        save_snapshot(other / "pets.h5", of(THERE, "abc", at))

    def load(path: Path) -> Snapshot:
        assert [ref for ref in loaded if ref() is not None] == []
        snapshot = load_snapshot(path)
        loaded.append(weakref.ref(snapshot))
        return snapshot

    monkeypatch.setattr(tlcache.cache.store, "load_snapshot", load)
    for _ in known_snapshots(store, of(HERE, "abc", 1).dataset):
        del _
    assert len(loaded) == 5
