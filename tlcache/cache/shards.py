"""Shards: rows of features to the bytes of a file and back, every one of them checked.

A row is one feature vector, named by (SHA-256 of the image file's bytes, view). A shard is an HDF5
file of some rows of one identity, named by the SHA-256 of its own bytes; ``docs/cache-format.md``
has the bytes. Covers one shard at a time (``store`` has the folder of them).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.identity import Identity
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import read_capped, read_parts
from tlcache.core.hdf5 import Arrays, Layout, pack, place_in, unpack

MAX_BYTES = 1 << 30

_STORED = {"float32": "<f4", "float16": "<f2"}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features and their names: (n, D) float32 however they are stored, (n, 32) uint8, (n,) int32.

    A name is the SHA-256 of the image file's bytes, and the view.
    """

    features: NDArray[np.float32]
    images: NDArray[np.uint8]
    views: NDArray[np.int32]


def pack_shard(rows: Rows, identity: Identity) -> tuple[str, bytes]:
    """The name and the bytes of a shard.

    Raises:
        CacheError: If the rows are not what a shard of this identity may hold.
    """
    _check(rows, identity.dim)
    data = pack(
        {
            "identity": np.frombuffer(identity.digest, np.uint8),
            "features": _rounded(rows.features, identity.dtype),
            "images": rows.images,
            "views": rows.views.astype("<i4", copy=False),
        }
    )
    if len(data) > MAX_BYTES:
        raise _refused(f"at most {MAX_BYTES:,} bytes", f"{len(data):,}", "commit fewer at a time")
    return f"{hashlib.sha256(data).hexdigest()}.h5", data


def read_shard(path: Path, identity: Identity) -> Rows:
    """A shard's rows, after every check.

    Raises:
        CacheError: If the file cannot be read.
        DamageError: If it is not whole, not of this identity, or not what a shard is.
    """
    _, columns = _checked(path, identity)
    return Rows(
        columns["features"].astype(np.float32, copy=False),
        columns["images"].astype(np.uint8, copy=False),
        columns["views"].astype(np.int32, copy=False),
    )


@dataclasses.dataclass(frozen=True)
class Located:
    """The plain rows of a checked shard without their features, but with the way to them.

    Attributes:
        images: (n, 32) uint8.
        starts: (n,): where in the file the numbers of each begin.
        checksums: (n,): CRC-32 of these bytes, as they were when the whole shard was checked.
    """

    images: NDArray[np.uint8]
    starts: NDArray[np.int64]
    checksums: NDArray[np.uint32]


def locate_rows(path: Path, identity: Identity) -> Located:
    """Where the rows of view 0 lie in a shard that was checked as :func:`read_shard` does."""
    data, columns = _checked(path, identity)
    plain = np.flatnonzero(columns["views"] == 0)
    features = columns["features"]
    return Located(
        columns["images"][plain].astype(np.uint8, copy=False),
        place_in(data, features) + plain * features[0].nbytes,
        np.fromiter(map(zlib.crc32, features[plain]), np.uint32, len(plain)),
    )


def read_rows(
    path: Path, identity: Identity, located: Located, rows: NDArray[np.integer]
) -> NDArray[np.float32]:
    """(m, D): the features of some rows of a shard that was checked as a whole.

    Raises:
        CacheError: If they cannot be read.
        DamageError: If they are not what they were.
    """
    dtype = np.dtype(_STORED[identity.dtype])
    parts = read_parts(path, located.starts[rows].tolist(), identity.dim * dtype.itemsize)
    if [zlib.crc32(part) for part in parts] != located.checksums[rows].tolist():
        raise _damaged(path, "the numbers that were there before", "others")
    features = np.frombuffer(b"".join(parts), dtype).reshape(len(parts), identity.dim)
    return features.astype(np.float32, copy=False)


def _checked(path: Path, identity: Identity) -> tuple[bytes, Arrays]:
    """A shard's bytes and its columns.

    Memory and the way to it fail as disks do: what is found wrong is read anew before it is said.
    """
    with contextlib.suppress(DamageError):
        return _checked_once(path, identity)
    return _checked_once(path, identity, anew=True)


def is_as_named(path: Path) -> bool:
    """Whether a file's bytes are those that the name of a shard stands for.

    Raises:
        CacheError: If it cannot be read.
    """
    try:
        data = read_capped(path, MAX_BYTES, anew=True)
    except DamageError:
        return False
    return hashlib.sha256(data).hexdigest() == path.stem


def _checked_once(path: Path, identity: Identity, *, anew: bool = False) -> tuple[bytes, Arrays]:
    data = read_capped(path, MAX_BYTES, anew=anew)
    if hashlib.sha256(data).hexdigest() != path.stem:
        raise _damaged(path, "bytes whose SHA-256 is its name", "other bytes")
    layout: Layout = {
        "identity": (("|u1",), 1),
        "features": ((_STORED[identity.dtype],), 2),
        "images": (("|u1",), 2),
        "views": (("<i4",), 1),
    }
    columns = unpack(data, layout, path)
    if columns["identity"].tobytes() != identity.digest:
        raise _damaged(path, f"rows of identity {identity.key[:8]}", "another's")
    features, images, views = (columns[name] for name in ("features", "images", "views"))
    n = len(views)
    if features.shape != (n, identity.dim) or images.shape != (n, 32):
        found = f"features {features.shape}, images {images.shape}"
        raise _damaged(path, f"features {(n, identity.dim)}, images {(n, 32)}", found)
    if not np.isfinite(features).all():
        raise _damaged(path, "finite features", "NaN or Inf")
    return data, columns


def _check(rows: Rows, dim: int) -> None:
    n = len(rows.views)
    wanted = [f"float32 {(n, dim)}", f"uint8 {(n, 32)}", f"int32 {(n,)}"]
    arrays = (rows.features, rows.images, rows.views)
    found = [f"{array.dtype.name} {array.shape}" for array in arrays]
    if found != wanted:
        raise _refused(", ".join(wanted), ", ".join(found), "pass features, images and views so")
    if n == 0:
        raise _refused("at least one row", "none", "commit rows once there are some")
    if not np.isfinite(rows.features).all():
        remedy = "check the weights; nothing of this batch was kept"
        raise _refused("finite features", "a feature with NaN or Inf", remedy)


def _rounded(features: NDArray[np.float32], dtype: str) -> NDArray[np.floating]:
    """The numbers as they are stored.

    Raises:
        CacheError: If one is too large for the dtype.
    """
    with np.errstate(over="ignore"):
        stored = features.astype(_STORED[dtype], copy=False)
    if not np.isfinite(stored).all():
        raise _refused(
            f"features up to {np.finfo(stored.dtype).max:,.0f}, as {dtype} holds",
            f"{np.abs(features).max():,.0f}",
            "use --dtype float32; nothing of this batch was kept",
        )
    return stored


def _refused(expected: str, found: str, remedy: str) -> CacheError:
    return CacheError("rows to commit", expected, found, remedy)


def _damaged(path: Path, expected: str, found: str) -> DamageError:
    return DamageError(path, expected, found, "`tlcache embed` makes its rows again")
