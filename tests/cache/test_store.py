from __future__ import annotations

import dataclasses
import errno
import hashlib
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from small_cache import DIM, IDENTITY, files, flip, joined, rows

import tlcache.cache.shards
import tlcache.cache.store
import tlcache.core.files
from tlcache.cache.gc import collect_garbage
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, pack_shard, read_shard
from tlcache.cache.store import FeatureStore, open_store
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import list_folder, read_capped

ON_A_GPU, PATCHED, NEWER = (
    dataclasses.replace(IDENTITY, versions=(("torch", version),))
    for version in ("2.9.1+cu130", "2.9.2", "2.10")
)
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
from small_cache import IDENTITY, rows
from tlcache.cache.store import open_store

store = open_store(Path(sys.argv[1]), IDENTITY, "imagenet1k")
for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    store.commit(rows(3, seed))
"""


# --- damage, and disks that fail


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
def test_a_shard_of_another_identity_is_passed_over_and_keeps_its_name(
    stray: Identity, words: str, store: FeatureStore, said: list[str]
) -> None:
    kept = rows(1)
    store.commit(kept)
    name, data = pack_shard(rows(2, 5, stray.dim), stray)
    (store.folder / "shards" / name).write_bytes(data)
    assert not store.has(rows(2, 5).images, rows(2, 5).views).any()
    assert store.has(kept.images, kept.views).all()
    assert name in files(store)
    assert len(said) == 1 and said[0].startswith("passed over: ") and words in said[0]


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


def test_the_same_features_under_another_wheel_s_name_are_read_and_added_to(
    tmp_path: Path, said: list[str]
) -> None:
    old = open_store(tmp_path, ON_A_GPU, "imagenet1k")
    old.commit(rows(3))
    store = open_store(tmp_path, PATCHED, "imagenet1k", said.append)
    assert (store.folder, store.identity) == (old.folder, ON_A_GPU)
    assert store.has(rows(3).images, rows(3).views).all()
    store.commit(rows(2, 1))
    assert open_store(tmp_path, ON_A_GPU, "x").has(rows(2, 1).images, rows(2, 1).views).all()
    assert said == [] and len(list(tmp_path.iterdir())) == 1
    newer = open_store(tmp_path, NEWER, "imagenet1k")
    assert not newer.has(rows(3).images, rows(3).views).any()


@pytest.mark.parametrize("writable", [True, False])
def test_rows_that_two_wheels_have_made_apart_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    parts = rows(3), rows(3, 1), rows(3, 2)
    stores = [
        open_store(tmp_path / str(i), each, "x") for i, each in enumerate((PATCHED, ON_A_GPU))
    ]
    for store, part in zip(stores, parts, strict=False):
        store.commit(part)
        store.folder.rename(tmp_path / store.folder.name)
    first, second = sorted(tmp_path.glob("resnet18-*"))
    store, every = open_store(tmp_path, IDENTITY, "x"), joined(*parts)
    assert store.folder == first
    before = {path: path.read_bytes() for path in second.rglob("*.*")}
    if not writable:

        def refuse(*_: object) -> None:
            raise CacheError(first, "a folder that can be written", "none", "choose another")

        monkeypatch.setattr(tlcache.cache.store, "write_atomically", refuse)
    features, found = store.gather(every.images, every.views)
    assert found.tolist() == [True] * 6 + [False] * 3
    np.testing.assert_array_equal(features[:6], every.features[:6])
    assert store.has(every.images, every.views).tolist() == found.tolist()
    assert store.has_views(every.images, 2)[:, 0].tolist() == found.tolist()
    own = FeatureStore(first, store.identity)  # as who opens this folder alone
    assert own.has(every.images, every.views).sum() == (6 if writable else 3)
    assert {path: path.read_bytes() for path in second.rglob("*.*")} == before
    assert len(files(store)) == (2 if writable else 1)


def test_views_lie_beside_the_features_that_they_belong_to(tmp_path: Path) -> None:
    """Whatever words another folder has for the same versions."""
    old = open_store(tmp_path, ON_A_GPU, "x")
    old.commit(rows(3))
    open_store(tmp_path, PATCHED.as_train(), "x").commit(rows(2))
    known = open_store(tmp_path, IDENTITY, "x").identity.as_train()
    views = open_store(tmp_path, IDENTITY.as_train(), "x", known=known)
    assert views.identity == ON_A_GPU.as_train()
    assert views.has_views(rows(2).images, 2).tolist() == [[True, False]] * 2
    assert FeatureStore(views.folder, views.identity).has(rows(2).images, rows(2).views).all()


def test_many_small_shards_are_said_to_be_slow_and_what_merges_them(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.cache.store, "MANY_SHARDS", 3)
    for seed in range(3):
        assert said == [] and len(list(store.rows())) == seed
        store.commit(rows(2, seed))
    assert store.has(rows(2, 1).images, rows(2, 1).views).all()
    gc = f"tlcache cache gc --cache-dir {store.folder.parent}"
    assert said == [f"3 small shards of 6 rows are slow to read: `{gc}` merges them"]
    collect_garbage(store.folder.parent)
    said.clear()
    assert len(list(store.rows())) == 1 and said == []
    monkeypatch.setattr(tlcache.cache.store, "MANY_SHARDS", 1)
    monkeypatch.setattr(tlcache.cache.store, "SMALL_BYTES", 1)
    assert len(list(store.rows())) == 1 and said == []


def test_one_bad_read_costs_nobody_a_shard(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that is flipped on the way from the disk is on no disk."""
    kept = rows(3)
    path = store.commit(kept)
    read, reads = read_capped, list[Path]()

    def flipped_in_memory(path: Path, cap: int, *, anew: bool = False) -> bytes:
        data = bytearray(read(path, cap, anew=anew))
        data[-1] ^= not anew
        reads.append(path)
        return bytes(data)

    monkeypatch.setattr(tlcache.cache.shards, "read_capped", flipped_in_memory)
    assert store.has(kept.images, kept.views).all()
    assert (files(store), said, reads) == ([path.name], [], [path, path])


def test_a_shard_that_hdf5_refuses_keeps_its_name_while_its_bytes_are_those_of_its_name(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = rows(3)
    path = store.commit(kept)
    with monkeypatch.context() as patch:

        def refuse(data: bytes, layout: object, where: object) -> NoReturn:
            raise DamageError(where, "a file of HDF5", "something else", "do something")

        patch.setattr(tlcache.cache.shards, "unpack", refuse)
        assert not store.has(kept.images, kept.views).any()
    assert files(store) == [path.name]
    assert said == [f"passed over: {path}: expected a file of HDF5, found something else; "
                    "do something"]  # fmt: skip
    assert store.has(kept.images, kept.views).all()


def test_a_shard_that_a_stale_folder_still_lists_is_waited_for(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS may: a clean-up on another machine has put its rows into a shard not listed yet."""
    kept = rows(3)
    path, slept = store.commit(kept), list[float]()
    heir = path.with_name("heir")
    path.rename(heir)
    listed = list_folder

    def stale(folder: Path, suffix: str = "") -> list[Path]:
        return [path] if sum(slept) < 15 else listed(folder, suffix)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) >= 15 and heir.exists():
            heir.rename(path)

    monkeypatch.setattr(tlcache.cache.store, "list_folder", stale)
    monkeypatch.setattr(tlcache.core.files, "time", types.SimpleNamespace(sleep=sleep))
    assert store.has(kept.images, kept.views).all()
    assert [seconds for seconds in slept if seconds] == [0.1, 1.0, 4.0, 15.0]


def test_a_stale_handle_is_opened_again(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ESTALE is a server's word for a file that was replaced since it was opened."""
    kept = rows(3)
    store.commit(kept)
    opened, failed = tlcache.core.files._open_at_once, list[str]()

    def stale_once(path: str, flags: int) -> int:
        if path.endswith(".h5") and not failed:
            failed.append(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(path, flags)

    monkeypatch.setattr(tlcache.core.files, "_open_at_once", stale_once)
    monkeypatch.setattr(tlcache.core.files, "PAUSES", (0.0,))
    assert store.has(kept.images, kept.views).all() and len(failed) == 1 and said == []
