from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_cache import DIM, IDENTITY, files, rows

import tlcache.cache.store
from tlcache.cache.shards import Rows
from tlcache.cache.store import FeatureStore, open_store

OTHER = dataclasses.replace(IDENTITY, weights="cd" * 32)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> FeatureStore:
    return open_store(tmp_path, IDENTITY, "imagenet1k", said.append)


def test_nothing_is_written_before_the_first_commit(store: FeatureStore, tmp_path: Path) -> None:
    features, found = store.gather(rows(3).images, rows(3).views)
    assert features.shape == (3, DIM) and not features.any() and not found.any()
    assert not store.has(rows(3).images, rows(3).views).any()
    assert list(store.rows()) == [] and list(tmp_path.iterdir()) == []


def test_a_commit_makes_one_shard_in_a_folder_that_describes_itself(
    store: FeatureStore, tmp_path: Path
) -> None:
    path = store.commit(rows(3))
    assert store.folder == tmp_path / f"resnet18-imagenet1k-eval-{IDENTITY.key[:8]}"
    assert (store.folder / "identity.json").read_bytes() == IDENTITY.to_json()
    assert files(store) == [path.name]
    assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
    assert store.commit(rows(3)) == path and files(store) == [path.name]


def test_rows_come_back_in_the_order_they_are_asked_for(store: FeatureStore) -> None:
    parts = [rows(7, seed) for seed in range(20)]
    for part in parts:
        store.commit(part)
    features = np.concatenate([part.features for part in parts])
    images = np.concatenate([part.images for part in parts])
    order = np.random.default_rng(1).permutation(140)
    gathered, found = store.gather(images[order], np.zeros(140, np.int32))
    assert found.all()
    np.testing.assert_array_equal(gathered, features[order])


def test_more_rows_than_are_copied_at_once_come_back(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.cache.store, "_ROWS_AT_ONCE", 3)
    kept = rows(10)
    store.commit(kept)
    np.testing.assert_array_equal(store.gather(kept.images, kept.views)[0], kept.features)


def test_only_what_is_missing_is_said_to_be_missing(store: FeatureStore) -> None:
    kept, lacking = rows(3, 0), rows(2, 1)
    store.commit(kept)
    images = np.concatenate([lacking.images[:1], kept.images, lacking.images[1:]])
    features, found = store.gather(images, np.zeros(5, np.int32))
    assert found.tolist() == [False, True, True, True, False]
    assert store.has(images, np.zeros(5, np.int32)).tolist() == found.tolist()
    np.testing.assert_array_equal(features[1:4], kept.features)
    assert not features[[0, 4]].any()


def test_a_row_is_named_by_all_of_its_digest_and_its_view(store: FeatureStore) -> None:
    kept = rows(2)
    store.commit(kept)
    for at in (0, 8, 31):
        twin = kept.images.copy()
        twin[:, at] ^= 1
        assert not store.has(twin, kept.views).any()
    assert not store.has(kept.images, kept.views + 1).any()
    assert store.has(kept.images, kept.views).all()


def test_digests_that_start_alike_are_told_apart(store: FeatureStore) -> None:
    kept = rows(6)
    kept.images[:, :8] = 7
    store.commit(Rows(kept.features[:4], kept.images[:4], kept.views[:4]))
    features, found = store.gather(kept.images[::-1], kept.views)
    assert found.tolist() == [False, False, True, True, True, True]
    np.testing.assert_array_equal(features[2:], kept.features[3::-1])


def test_names_whose_64_bits_collide_are_told_apart(store: FeatureStore) -> None:
    kept = rows(2)
    step = 0x9E3779B97F4A7C15  # what one view more adds to the 64 bits that are searched for
    head = int.from_bytes(kept.images[0, :8].tobytes(), "little")
    kept.images[1, :8] = np.frombuffer(((head - step) % 2**64).to_bytes(8, "little"), np.uint8)
    kept.views[1] = 1
    store.commit(Rows(kept.features[:1], kept.images[:1], kept.views[:1]))
    features, found = store.gather(kept.images, kept.views)
    assert found.tolist() == [True, False]
    np.testing.assert_array_equal(features[0], kept.features[0])


def test_views_of_one_image_are_rows_of_their_own(store: FeatureStore) -> None:
    kept = rows(4)
    kept.images[:] = kept.images[0]
    kept.views[:] = [3, 0, 2, 1]
    store.commit(kept)
    features, found = store.gather(kept.images, np.arange(4, dtype=np.int32))
    assert found.all()
    np.testing.assert_array_equal(features, kept.features[[1, 3, 2, 0]])


def test_one_row_may_be_asked_for_many_times(store: FeatureStore) -> None:
    kept = rows(2)
    store.commit(kept)
    features, found = store.gather(kept.images[[0, 1, 0, 0]], np.zeros(4, np.int32))
    assert found.all()
    np.testing.assert_array_equal(features, kept.features[[0, 1, 0, 0]])


def test_of_equal_rows_the_first_shard_by_name_wins(store: FeatureStore) -> None:
    one = rows(3)
    made = [dataclasses.replace(one, features=one.features + step) for step in range(8)]
    by_name = {store.commit(r).name: r.features for r in made}
    features, _ = store.gather(one.images, one.views)
    np.testing.assert_array_equal(features, by_name[min(by_name)])


def test_of_equal_rows_in_one_shard_the_first_wins(store: FeatureStore) -> None:
    kept = rows(6)
    kept.images[3:] = kept.images[:3]
    store.commit(kept)
    features, _ = store.gather(kept.images[:3], kept.views[:3])
    np.testing.assert_array_equal(features, kept.features[:3])


def test_two_identities_live_side_by_side(store: FeatureStore, tmp_path: Path) -> None:
    other = open_store(tmp_path, OTHER, "imagenet1k")
    kept = rows(2)
    store.commit(kept)
    assert not other.has(kept.images, kept.views).any()
    other.commit(dataclasses.replace(kept, features=kept.features + 1))
    assert store.folder != other.folder
    for identity, features in ((IDENTITY, kept.features), (OTHER, kept.features + 1)):
        found = open_store(tmp_path, identity, "imagenet1k").gather(kept.images, kept.views)[0]
        np.testing.assert_array_equal(found, features)


def test_the_label_does_not_part_an_identity_in_two(store: FeatureStore, tmp_path: Path) -> None:
    store.commit(rows(1))
    assert open_store(tmp_path, IDENTITY, "renamed").folder == store.folder


def test_where_a_snapshot_goes(store: FeatureStore) -> None:
    assert store.snapshot_path("ants").relative_to(store.folder) == Path("snapshots/ants.h5")
    assert not store.folder.exists()
    assert store.prepare_snapshot("ants") == store.snapshot_path("ants")
    assert (store.folder / "snapshots").is_dir()


def test_two_processes_may_commit_at_once(store: FeatureStore, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", COMMITS, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, first], stderr=subprocess.PIPE, text=True)
        for first in ("0", "10")
    ]
    for process in processes:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    parts = [rows(3, seed) for seed in range(30)]
    for part in parts:
        features, found = store.gather(part.images, part.views)
        assert found.all()
        np.testing.assert_array_equal(features, part.features)
    assert len(files(store)) == 30


COMMITS = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tlcache.cache.store import open_store

store = open_store(Path(sys.argv[1]), IDENTITY, "imagenet1k")
for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    store.commit(rows(3, seed))
"""
