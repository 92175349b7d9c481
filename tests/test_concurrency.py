"""Several processes on one cache at the same time: no lock, and nothing goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from at_once import Writer, at_once, check_complete, check_overlapped, images, reference
from small_cache import IDENTITY, rows
from small_trunk import small_trunk

import tlcache.cache.snapshots
import tlcache.cache.store
from tlcache.cache.gc import collect_garbage
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, read_shard
from tlcache.cache.snapshots import Snapshot, load_snapshot, save_snapshot
from tlcache.cache.store import FeatureStore
from tlcache.data.folders import scan
from tlcache.features.embed import embed

RUNS = 20
FEW = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 tiny images."""
    return images(tmp_path_factory.mktemp("data") / "data", range(12))


@pytest.mark.parametrize("count", [2, 4])
def test_embeds_of_one_data_set_at_once_fill_one_cache(
    count: int, data: Path, tmp_path: Path
) -> None:
    alone = reference(Writer(data), tmp_path)
    for run in range(RUNS):
        # In every second run all have the same shards to write, under the same names; and in two
        # of four they come as they come, so that one may find what another has just committed.
        writers = [Writer(data, rows=3 + at * (run % 2)) for at in range(count)]
        held = run % 4 < 2
        wrote = at_once(tmp_path / f"{run}", writers, held=held).wrote
        check_complete(tmp_path / f"{run}", [alone] * count, wrote)
        if held:
            check_overlapped(wrote)


def test_embeds_with_and_without_views_at_once(data: Path, tmp_path: Path) -> None:
    _check_at_once(
        tmp_path, [Writer(data, views=2), Writer(data, views=2, rows=5), Writer(data, rows=4)]
    )
    for run in range(FEW):
        assert len(list((tmp_path / f"{run}" / "cache").iterdir())) == 2


def test_embeds_of_two_data_sets_that_share_images_at_once(data: Path, tmp_path: Path) -> None:
    other = images(tmp_path / "data2", range(6, 18))
    _check_at_once(tmp_path, [Writer(data), Writer(other, rows=4)])
    for run in range(FEW):
        assert len(list((tmp_path / f"{run}" / "cache").glob("*/snapshots/*"))) == 2


def test_embeds_under_two_identities_at_once(data: Path, tmp_path: Path) -> None:
    _check_at_once(tmp_path, [Writer(data), Writer(data, seed=1)])
    for run in range(FEW):
        assert len(list((tmp_path / f"{run}" / "cache").iterdir())) == 2


def test_a_reader_beside_embeds_never_sees_a_part_of_a_row(data: Path, tmp_path: Path) -> None:
    writers = [Writer(data), Writer(data, rows=4)]
    alone = reference(writers[0], tmp_path)
    partial = 0
    for run in range(RUNS // 2):
        wrote, seen, _ = at_once(tmp_path / f"{run}", writers, alone.features)
        check_complete(tmp_path / f"{run}", [alone] * 2, wrote)
        check_overlapped(wrote)
        assert seen is not None and (seen.wrong, seen.lost, seen.said) == (0, 0, [])
        partial += seen.partial
    assert partial > 0  # it did read in the middle of things


def test_clean_ups_beside_embeds_and_a_reader_lose_no_row(data: Path, tmp_path: Path) -> None:
    writers = [Writer(data), Writer(data, rows=4)]
    alone = reference(writers[0], tmp_path)
    rewritten = 0
    for run in range(RUNS // 2):
        cache = tmp_path / f"{run}" / "cache"
        ended = at_once(tmp_path / f"{run}", writers, alone.features, sweepers=2)
        check_complete(cache.parent, [alone] * 2, ended.wrote, swept=True)
        assert ended.seen is not None
        assert (ended.seen.wrong, ended.seen.lost, ended.seen.said) == (0, 0, [])
        assert [swept.said for swept in ended.swept] == [[], []]
        rewritten += sum(swept.rewritten for swept in ended.swept)
        (last,) = collect_garbage(cache).identities
        assert (last.shards.shards_after, last.shards.unnamed) == (1, 0)
        check_complete(cache.parent, [alone] * 2, ended.wrote, swept=True)
    assert rewritten > 0


def test_a_shard_that_is_away_for_a_moment_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(tmp_path / f"cache-{IDENTITY.key[:8]}", IDENTITY)
    committed = rows(9)
    shard = store.commit(committed)
    (shard.parent / f"{'0' * 64}.h5").symlink_to("nowhere")  # and one that is never there
    away = shard.with_name(".away")

    def hidden_at_first(path: Path, identity: Identity) -> Rows:
        if path != shard or away in asked:
            return read_shard(path, identity)
        asked.append(away)
        shard.rename(away)
        try:
            return read_shard(path, identity)
        finally:
            away.rename(shard)

    asked: list[Path] = []
    monkeypatch.setattr(tlcache.cache.store, "read_shard", hidden_at_first)
    features, found = store.gather(committed.images, committed.views)
    assert asked and found.all()
    np.testing.assert_array_equal(features, committed.features)


def test_a_draft_that_goes_as_it_is_about_to_be_read_is_no_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = embed(scan(data), small_trunk(), cache=tmp_path)
    draft = done.stores[0].draft_path(done.snapshot.dataset.name)
    save_snapshot(draft, done.snapshot)

    def late(path: Path) -> Snapshot:
        if path == draft:
            draft.unlink()  # as the run does whose draft it was
        return load_snapshot(path)

    monkeypatch.setattr(tlcache.cache.store, "load_snapshot", late)
    assert embed(scan(data), small_trunk(), cache=tmp_path).embedded == 0
    assert not draft.exists()


def test_no_draft_stays_where_all_is_as_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.cache.snapshots, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(tlcache.cache.snapshots, "KEEP_SECONDS", 0.0)
    for _ in range(2):
        done = embed(scan(data), small_trunk(), cache=tmp_path, rehash=True)
        (kept,) = done.stores[0].snapshots.iterdir()
        assert kept == done.stores[0].snapshot_path(done.snapshot.dataset.name)


def _check_at_once(tmp_path: Path, writers: Sequence[Writer]) -> None:
    """Run different writers at once, a few times."""
    alone = [reference(writer, tmp_path) for writer in writers]
    for run in range(FEW):
        wrote = at_once(tmp_path / f"{run}", writers).wrote
        check_complete(tmp_path / f"{run}", alone, wrote)
        check_overlapped(wrote)
