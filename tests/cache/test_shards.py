from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import tlcache.cache.shards
from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, pack_shard, read_shard
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.hdf5 import pack
from tlcache.data.transforms import Transform

DIM = 3
IDENTITY = Identity("resnet18", "ab" * 32, DIM, Transform(), (("torch", "2.9"),))
Arrays = dict[str, np.ndarray]


def rows(count: int = 4) -> Rows:
    random = np.random.default_rng(0)
    return Rows(
        random.normal(size=(count, DIM)).astype(np.float32),
        random.integers(0, 256, (count, 32), dtype=np.uint8),
        np.arange(count, dtype=np.int32),
    )


def written(folder: Path, data: bytes) -> Path:
    path = folder / f"{hashlib.sha256(data).hexdigest()}.h5"
    path.write_bytes(data)
    return path


def arrays() -> Arrays:
    kept = rows()
    return {
        "identity": np.frombuffer(IDENTITY.digest, np.uint8),
        "features": kept.features,
        "images": kept.images,
        "views": kept.views,
    }


def assert_same(ours: Rows, theirs: Rows) -> None:
    for field in dataclasses.fields(Rows):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_rows_come_back_from_a_shard_that_is_named_by_its_checksum(tmp_path: Path) -> None:
    name, data = pack_shard(rows(), IDENTITY)
    assert name == f"{hashlib.sha256(data).hexdigest()}.h5"
    assert pack_shard(rows(), IDENTITY) == (name, data)
    assert_same(read_shard(written(tmp_path, data), IDENTITY), rows())


def test_plain_h5py_reads_a_shard(tmp_path: Path) -> None:
    with h5py.File(written(tmp_path, pack_shard(rows(), IDENTITY)[1])) as file:
        assert sorted(file) == ["features", "identity", "images", "views"]
        assert file["identity"][:].tobytes().hex() == IDENTITY.key
        assert_same(Rows(*(file[name][:] for name in ("features", "images", "views"))), rows())


def test_a_shard_that_plain_h5py_wrote_by_the_book_is_read(tmp_path: Path) -> None:
    """docs/cache-format.md alone is enough to write one."""
    with h5py.File(tmp_path / "new", "w") as file:
        file.create_dataset("identity", (32,), "u1", list(bytes.fromhex(IDENTITY.key)))
        file.create_dataset("features", (2, 3), "<f4", [[1, 2, 3], [4, 5, 6]])
        digests = [list(hashlib.sha256(photo).digest()) for photo in (b"one", b"two")]
        file.create_dataset("images", (2, 32), "u1", digests)
        file.create_dataset("views", (2,), "<i4", [0, 0])
    data = (tmp_path / "new").read_bytes()
    read = read_shard(written(tmp_path, data), IDENTITY)
    assert read.features.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read.images[1].tobytes() == hashlib.sha256(b"two").digest()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            lambda r: dataclasses.replace(r, features=r.features.astype("f8")),
            "expected float32 (4, 3), uint8 (4, 32), int32 (4,), "
            "found float64 (4, 3), uint8 (4, 32), int32 (4,); pass features, images and views so",
        ),
        (lambda r: dataclasses.replace(r, features=r.features[:, :2]), "found float32 (4, 2), "),
        (lambda r: dataclasses.replace(r, features=r.features[:3]), "found float32 (3, 3), "),
        (lambda r: dataclasses.replace(r, images=r.images[:, :31]), "uint8 (4, 31), int32 (4,)"),
        (lambda r: dataclasses.replace(r, images=r.images.astype("i8")), "int64 (4, 32), int32"),
        (lambda r: dataclasses.replace(r, views=r.views[:, None]), "int32 (4, 1)"),
        (lambda r: rows(0), "expected at least one row, found none; commit rows once there are"),
        (
            lambda r: dataclasses.replace(r, features=r.features * np.float32(np.nan)),
            "expected finite features, found a feature with NaN or Inf; "
            "check the weights; nothing of this batch was kept",
        ),
        (
            lambda r: dataclasses.replace(r, features=r.features + np.float32(np.inf)),
            "found a feature with NaN or Inf",
        ),
    ],
)
def test_rows_that_no_reader_would_accept_are_not_packed(
    bad: Callable[[Rows], Rows], words: str
) -> None:
    with pytest.raises(CacheError, match=r"^rows to commit: expected ") as refused:
        pack_shard(bad(rows()), IDENTITY)
    assert words in str(refused.value)


def test_a_shard_that_no_reader_would_read_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlcache.cache.shards, "MAX_BYTES", 1000)
    words = r"expected at most 1,000 bytes, found [\d,]+; commit fewer at a time"
    with pytest.raises(CacheError, match=words):
        pack_shard(rows(), IDENTITY)


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [flip, lambda d: d[:-1], lambda d: d + b"\0", lambda d: b""])
def test_other_bytes_than_the_names_are_refused(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = written(tmp_path, pack_shard(rows(), IDENTITY)[1])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamageError) as refused:
        read_shard(path, IDENTITY)
    assert str(refused.value) == (
        f"{path}: expected bytes whose SHA-256 is its name, found other bytes; "
        "`tlcache embed` makes its rows again"
    )


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda a: {key: array for key, array in a.items() if key != name}


def with_nan(a: Arrays) -> Arrays:
    features = a["features"].copy()
    features[3, 2] = np.nan
    return a | {"features": features}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("identity"), "expected /features, /identity, /images, /views, found /features"),
        (without("views"), "found /features, /identity, /images;"),
        (lambda a: a | {"more": a["views"]}, "found /features, /identity, /images, /more, /views"),
        (
            lambda a: a | {"identity": a["identity"][::-1]},
            f"expected rows of identity {IDENTITY.key[:8]}, found another's; `tlcache embed`",
        ),
        (lambda a: a | {"identity": a["identity"][:31]}, "found another's"),
        (lambda a: a | {"views": a["views"][:3]}, "expected features (3, 3), images (3, 32)"),
        (
            lambda a: a | {"features": a["features"][:, :2]},
            "expected features (4, 3), images (4, 32), found features (4, 2), images (4, 32)",
        ),
        (lambda a: a | {"images": a["images"][:, :31]}, "images (4, 31)"),
        (lambda a: a | {"images": a["images"][:3]}, "images (3, 32)"),
        (lambda a: a | {"views": a["views"].astype("<u8")}, "/views of dtype <i4"),
        (with_nan, "expected finite features, found NaN or Inf; `tlcache embed` makes its rows"),
    ],
)
def test_a_whole_file_that_is_no_shard_is_refused(
    change: Callable[[Arrays], Arrays], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, pack(change(arrays())))
    with pytest.raises(DamageError, match=f"^{re.escape(str(path))}: ") as refused:
        read_shard(path, IDENTITY)
    assert words in str(refused.value)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, pack_shard(rows(), IDENTITY)[1])
    monkeypatch.setattr(tlcache.cache.shards, "MAX_BYTES", 1000)
    with pytest.raises(DamageError, match="at most 1,000 bytes"):
        read_shard(path, IDENTITY)


def test_a_shard_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="No such file") as refused:
        read_shard(tmp_path / "none.h5", IDENTITY)
    assert not isinstance(refused.value, DamageError)


HALF = dataclasses.replace(IDENTITY, dtype="float16")


def test_float16_rows_take_half_the_space_and_come_back_rounded(tmp_path: Path) -> None:
    kept = rows(1000)
    data = pack_shard(kept, HALF)[1]
    assert len(pack_shard(kept, IDENTITY)[1]) - len(data) == kept.features.nbytes // 2
    read = read_shard(written(tmp_path, data), HALF)
    rounded = kept.features.astype(np.float16).astype(np.float32)
    assert_same(read, dataclasses.replace(kept, features=rounded))
    assert pack_shard(read, HALF)[1] == data


def test_a_float16_shard_is_none_of_float32_under_its_own_identity(tmp_path: Path) -> None:
    stored = pack({**arrays(), "features": rows().features.astype(np.float16)})
    with pytest.raises(DamageError, match="expected /features of dtype <f4, found float16"):
        read_shard(written(tmp_path, stored), IDENTITY)


@pytest.mark.parametrize("value", [65520.0, -7e4, 1e30])
def test_a_feature_that_float16_cannot_hold_is_refused(value: float) -> None:
    large = rows()
    large.features[2, 1] = value
    words = (
        "rows to commit: expected features up to 65,504, as float16 holds, "
        f"found {abs(np.float32(value)):,.0f}; use --dtype float32; nothing of this batch was kept"
    )
    with pytest.raises(CacheError, match=f"^{re.escape(words)}$"):
        pack_shard(large, HALF)
    large.features[2, 1] = 65504.0
    pack_shard(large, HALF)
