from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tlcache.errors import CacheError
from tlcache.feature_store import FeatureStore, Rows, open_store, what_is_new
from tlcache.identity import Identity
from tlcache.transforms import Transform

DIM = 5
IDENTITY = Identity("resnet18", "ab" * 32, DIM, Transform(), (("torch", "2.9"),))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> FeatureStore:
    return open_store(tmp_path, IDENTITY, "imagenet1k", said.append)


def rows(count: int, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    return Rows(
        random.normal(size=(count, DIM)).astype(np.float32),
        random.integers(0, 256, (count, 32), dtype=np.uint8),
        np.zeros(count, np.int32),
    )


def test_rows_come_back_in_the_order_they_are_asked_for(store: FeatureStore) -> None:
    parts = [rows(4, seed) for seed in range(3)]
    for part in parts:
        store.commit(part)
    images = np.concatenate([part.images for part in parts])[::-1]
    features, found = store.gather(images, np.zeros(12, np.int32))
    assert found.all()
    np.testing.assert_array_equal(features[::-1], np.concatenate([p.features for p in parts]))


def test_a_row_is_named_by_all_of_its_digest_and_its_view(store: FeatureStore) -> None:
    kept = rows(2)
    store.commit(kept)
    twin = kept.images.copy()
    twin[:, 31] ^= 1  # the same first 31 bytes
    assert not store.has(twin, kept.views).any()
    assert not store.has(kept.images, kept.views + 1).any()
    assert store.has(kept.images, kept.views).all()


def test_one_row_may_be_asked_for_twice(store: FeatureStore) -> None:
    kept = rows(1)
    store.commit(kept)
    features, found = store.gather(np.repeat(kept.images, 3, axis=0), np.zeros(3, np.int32))
    assert found.all()
    np.testing.assert_array_equal(features, np.repeat(kept.features, 3, axis=0))


def test_of_equal_rows_the_first_shard_by_name_wins(store: FeatureStore) -> None:
    one = rows(1)
    other = dataclasses.replace(one, features=one.features + 1)
    shards = {store.commit(r).name: r.features for r in (one, other)}
    features, _ = store.gather(one.images, one.views)
    np.testing.assert_array_equal(features, shards[min(shards)])


def test_a_shards_name_is_its_checksum_and_plain_h5py_reads_it(store: FeatureStore) -> None:
    kept = rows(3)
    path = store.commit(kept)
    assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
    with h5py.File(path) as file:
        assert sorted(file) == ["features", "identity", "images", "views"]
        np.testing.assert_array_equal(file["features"], kept.features)
        assert file["identity"][:].tobytes() == IDENTITY.digest


def test_a_shard_that_plain_h5py_wrote_by_the_books_is_read(store: FeatureStore) -> None:
    kept = rows(3)
    shards = store.commit(rows(1, seed=9)).parent
    with h5py.File(shards / "new", "w") as file:
        file["features"] = kept.features
        file["images"] = kept.images
        file["views"] = kept.views
        file["identity"] = np.frombuffer(IDENTITY.digest, np.uint8)
    digest = hashlib.sha256((shards / "new").read_bytes()).hexdigest()
    (shards / "new").rename(shards / f"{digest}.h5")
    assert store.has(kept.images, kept.views).all()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [flip, truncate, append])
def test_a_damaged_shard_is_set_aside_by_name_and_the_others_are_read(
    damage: object, store: FeatureStore, said: list[str]
) -> None:
    good, bad = rows(2, 0), rows(2, 1)
    store.commit(good)
    path = store.commit(bad)
    damage(path)  # type: ignore[operator]
    assert store.has(good.images, good.views).all()
    assert not store.has(bad.images, bad.views).any()
    assert path.with_name(f"{path.name}.bad").exists() and not path.exists()
    assert len(said) == 1 and path.name in said[0] and "SHA-256" in said[0]


def test_a_shard_of_another_identity_is_set_aside(
    store: FeatureStore, tmp_path: Path, said: list[str]
) -> None:
    store.commit(rows(1))
    other = open_store(tmp_path, dataclasses.replace(IDENTITY, weights="cd" * 32), "x")
    stray = other.commit(rows(2, 5))
    target = next(store.folder.glob("shards/*.h5")).with_name(stray.name)
    target.write_bytes(stray.read_bytes())
    assert not store.has(rows(2, 5).images, rows(2, 5).views).any()
    assert "rows of identity" in said[0]


def test_a_feature_that_is_not_finite_is_never_kept(store: FeatureStore) -> None:
    bad = rows(2)
    bad.features[1, 2] = np.nan
    with pytest.raises(CacheError, match="expected finite features"):
        store.commit(bad)
    assert not store.folder.exists()


def test_a_lost_or_damaged_identity_is_written_again(store: FeatureStore, tmp_path: Path) -> None:
    kept = rows(1)
    store.commit(kept)
    about = store.folder / "identity.json"
    for damage in (about.unlink, lambda: about.write_bytes(b"{}")):
        damage()
        again = open_store(tmp_path, IDENTITY, "imagenet1k")
        again.commit(rows(1, 7))
        assert about.read_bytes() == IDENTITY.to_json()
        assert again.has(kept.images, kept.views).all()


def test_appending_under_another_identity_never_happens(store: FeatureStore) -> None:
    store.commit(rows(1))
    other = dataclasses.replace(IDENTITY, weights="cd" * 32)
    impostor = FeatureStore(store.folder, other)
    with pytest.raises(CacheError, match="found another identity's"):
        impostor.commit(rows(1, 1))


def test_what_is_new_is_said_against_the_nearest(store: FeatureStore, tmp_path: Path) -> None:
    store.commit(rows(1))
    far = dataclasses.replace(IDENTITY, weights="cd" * 32, trunk="resnet34")
    open_store(tmp_path, far, "x").commit(rows(1))
    new = dataclasses.replace(IDENTITY, versions=(("torch", "2.10"),))
    assert what_is_new(tmp_path, new) == ["torch 2.9 → 2.10"]


def test_the_label_does_not_part_an_identity_in_two(store: FeatureStore, tmp_path: Path) -> None:
    store.commit(rows(1))
    assert open_store(tmp_path, IDENTITY, "renamed").folder == store.folder
