from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_cache import DIM, IDENTITY, files, flip, rows

import tlcache.cache.store
import tlcache.core.files
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, pack_shard, read_shard
from tlcache.cache.store import FeatureStore, open_store
from tlcache.core.errors import CacheError

OTHER = dataclasses.replace(IDENTITY, weights="cd" * 32)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> FeatureStore:
    return open_store(tmp_path, IDENTITY, "imagenet1k", said.append)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, truncate, append, empty, become_a_folder])
def test_a_damaged_shard_is_set_aside_by_name_and_the_others_are_read(
    damage: Callable[[Path], None], store: FeatureStore, said: list[str]
) -> None:
    parts = [rows(2, seed) for seed in range(5)]
    paths = [store.commit(part) for part in parts]
    damage(paths[2])
    for at, part in enumerate(parts):
        assert store.has(part.images, part.views).all() == (at != 2)
    assert files(store) == sorted(
        [*(p.name for p in paths if p != paths[2]), f"{paths[2].name}.bad"]
    )
    assert len(said) == 1
    assert said[0].startswith(f"set aside as {paths[2].name}.bad: {paths[2]}: expected ")

    store.commit(parts[2])
    assert store.has(parts[2].images, parts[2].views).all() and len(said) == 1


def test_two_shards_that_swapped_names_are_both_set_aside(
    store: FeatureStore, said: list[str]
) -> None:
    one, two = store.commit(rows(1, 1)), store.commit(rows(1, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert list(store.rows()) == []
    assert files(store) == sorted([f"{one.name}.bad", f"{two.name}.bad"]) and len(said) == 2


@pytest.mark.parametrize(
    ("stray", "words"),
    [
        (OTHER, f"expected rows of identity {IDENTITY.key[:8]}, found another's"),
        (dataclasses.replace(IDENTITY, dim=DIM + 1), "found another's"),
    ],
)
def test_a_shard_of_another_identity_is_set_aside(
    stray: Identity, words: str, store: FeatureStore, said: list[str]
) -> None:
    kept = rows(1)
    store.commit(kept)
    name, data = pack_shard(rows(2, 5, stray.dim), stray)
    (store.folder / "shards" / name).write_bytes(data)
    assert not store.has(rows(2, 5).images, rows(2, 5).views).any()
    assert store.has(kept.images, kept.views).all()
    assert f"{name}.bad" in files(store)
    assert len(said) == 1 and words in said[0]


def test_other_files_in_the_folder_are_left_alone(store: FeatureStore, said: list[str]) -> None:
    kept = rows(1)
    folder = store.commit(kept).parent
    others = [".0123456789abcdef.tmp", ".hidden.h5", "README", "x.h5.bad"]
    for name in others:
        (folder / name).write_bytes(b"anything")
    assert store.has(kept.images, kept.views).all()
    assert said == [] and set(others) <= set(files(store))


def test_in_a_folder_that_is_only_to_be_read_a_damaged_shard_is_passed_over_and_said_once(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = rows(2)
    store.commit(kept)
    bad = store.commit(rows(1, 9))
    flip(bad)

    def refuse(path: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    for _ in range(2):
        assert store.gather(kept.images, kept.views)[1].all()
    assert said == [
        f"passed over: {bad}: expected bytes whose SHA-256 is its name, found other bytes; "
        "`tlcache embed` makes its rows again"
    ]
    assert bad.exists()


def test_when_a_shard_vanishes_its_heir_is_read(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [rows(2, seed) for seed in range(6)]
    doomed = [store.commit(part) for part in parts]
    merged = Rows(
        *(np.concatenate([getattr(p, f) for p in parts]) for f in ("features", "images", "views"))
    )

    def compact_first(path: Path, identity: Identity) -> Rows:
        if doomed and path == max(doomed):
            store.commit(merged)
            while doomed:
                doomed.pop().unlink()
        return read_shard(path, identity)

    monkeypatch.setattr(tlcache.cache.store, "read_shard", compact_first)
    features, found = store.gather(merged.images, merged.views)
    assert found.all() and not doomed and said == []
    np.testing.assert_array_equal(features, merged.features)


def test_when_a_shard_vanishes_without_an_heir_its_rows_are_missing(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = rows(2, 0), rows(2, 1)
    store.commit(kept)
    doomed = store.commit(lost)

    def vanish(path: Path, identity: Identity) -> Rows:
        doomed.unlink(missing_ok=True)
        return read_shard(path, identity)

    monkeypatch.setattr(tlcache.cache.store, "read_shard", vanish)
    assert not store.has(lost.images, lost.views).any()
    assert store.has(kept.images, kept.views).all() and said == []


def test_a_shard_that_cannot_be_read_is_an_error_and_stays(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.commit(rows(1))

    def refuse(path: str, flags: int) -> int:
        if path.endswith(".h5"):
            raise PermissionError(13, "Permission denied")
        return opens(path, flags)

    opens = tlcache.core.files._open_at_once
    monkeypatch.setattr("tlcache.core.files._open_at_once", refuse)
    with pytest.raises(CacheError, match=f"{path}: expected a readable file, found Permission"):
        store.has(rows(1).images, rows(1).views)
    assert path.exists()


def test_a_description_that_the_rows_gainsay_is_damaged(
    store: FeatureStore, tmp_path: Path, said: list[str]
) -> None:
    """One changed byte can make the description of another identity."""
    kept, about = rows(1), store.folder / "identity.json"
    store.commit(kept)
    about.write_bytes(OTHER.to_json())
    again = open_store(tmp_path, IDENTITY, "imagenet1k", said.append)
    assert again.has(kept.images, kept.views).all()
    again.prepare()
    assert about.read_bytes() == IDENTITY.to_json()
    assert about.with_name("identity.json.bad").read_bytes() == OTHER.to_json()
    assert said[1:] == [
        f"set aside as identity.json.bad: {about}: expected identity {IDENTITY.key[:8]}, as the "
        f"folder's name and rows say, found {OTHER.key[:8]}; `tlcache embed` writes it anew"
    ]


def test_a_folder_that_cannot_be_listed_is_named(store: FeatureStore) -> None:
    store.folder.mkdir()
    (store.folder / "shards").write_bytes(b"")
    with pytest.raises(CacheError) as refused:
        list(store.rows())
    assert str(refused.value) == (
        f"{store.folder / 'shards'}: expected a folder that can be read, found Not a directory; "
        "check its permissions or choose another --cache-dir"
    )


def test_a_cache_where_a_file_stands_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(CacheError, match="a folder that can be written, found Not a directory"):
        open_store(tmp_path / "cache", IDENTITY, "imagenet1k").commit(rows(1))


def test_a_feature_that_is_not_finite_is_never_kept(store: FeatureStore, tmp_path: Path) -> None:
    bad = rows(2)
    bad.features[1, 2] = np.nan
    with pytest.raises(CacheError, match="expected finite features"):
        store.commit(bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"{}", IDENTITY.to_json()[:-1]])
def test_a_lost_or_damaged_identity_is_written_again_and_its_rows_are_read(
    content: bytes | None, store: FeatureStore, tmp_path: Path, said: list[str]
) -> None:
    kept = rows(1)
    store.commit(kept)
    about = store.folder / "identity.json"
    if content is None:
        about.unlink()
    else:
        about.write_bytes(content)

    again = open_store(tmp_path, IDENTITY, "imagenet1k", said.append)
    assert again.has(kept.images, kept.views).all()
    again.commit(rows(1, 7))
    assert about.read_bytes() == IDENTITY.to_json()
    if content is not None:
        assert about.with_name("identity.json.bad").read_bytes() == content
        assert said[0].startswith(f"passed over: {about}: expected the identity of a cache")
        assert said[1].startswith(f"set aside as identity.json.bad: {about}: expected")
    assert len(said) == (0 if content is None else 2)


def test_a_folder_with_another_identity_is_neither_read_nor_written(
    store: FeatureStore, tmp_path: Path, said: list[str]
) -> None:
    kept = open_store(tmp_path, OTHER, "imagenet1k").commit(rows(1))
    kept.parents[1].rename(store.folder)
    again = open_store(tmp_path, IDENTITY, "imagenet1k", said.append)
    for use in (lambda: again.commit(rows(1, 1)), lambda: again.has(rows(1).images, rows(1).views)):
        with pytest.raises(CacheError) as refused:
            use()
        assert str(refused.value) == (
            f"{store.folder}: expected the cache of identity {IDENTITY.key[:8]}, "
            f"found that of {OTHER.key[:8]}; give the folder back its own name and identity.json, "
            "or use another --cache-dir"
        )
    assert files(store) == [kept.name]
