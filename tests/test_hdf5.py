from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tlcache.errors import DamageError
from tlcache.hdf5 import Layout, pack, unpack

LAYOUT: Layout = {"x": (("<f4",), 2)}
X = np.arange(6, dtype="<f4").reshape(2, 3)


def test_what_is_packed_comes_back_as_read_only_views_of_the_bytes() -> None:
    data = pack({"x": X})
    array = unpack(data, LAYOUT, "here")["x"]
    np.testing.assert_array_equal(array, X)
    assert not array.flags.writeable
    assert array.base is not None


def test_the_same_arrays_give_the_same_bytes() -> None:
    assert pack({"x": X, "y": X}) == pack({"y": X, "x": X})


def hostile(make: Callable[[h5py.File], None], folder: Path) -> bytes:
    path = folder / "hostile.h5"
    with h5py.File(path, "w") as file:
        make(file)
    return path.read_bytes()


def external_link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_link(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("x", (2, 3), "<f4", external=[("/etc/passwd", 0, 24)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 3), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (2, 3))
    file.create_virtual_dataset("x", layout)


def gzip(file: h5py.File) -> None:
    file.create_dataset("x", data=X, compression="gzip")


def chunked(file: h5py.File) -> None:
    file.create_dataset("x", data=X, chunks=(1, 3))


def four_tebibytes(file: h5py.File) -> None:
    file.create_dataset("x", (2**20, 2**20), "<f4")


def unallocated(file: h5py.File) -> None:
    file.create_dataset("x", (2, 3), "<f4")


def big_endian(file: h5py.File) -> None:
    file["x"] = X.astype(">f4")


def double(file: h5py.File) -> None:
    file["x"] = X.astype("<f8")


def one_dimension(file: h5py.File) -> None:
    file["x"] = X.ravel()


def one_too_many(file: h5py.File) -> None:
    file["x"], file["y"] = X, X


def another_name(file: h5py.File) -> None:
    file["y"] = X


def group(file: h5py.File) -> None:
    file.create_group("x")


def attribute(file: h5py.File) -> None:
    file["x"] = X
    file["x"].attrs["a"] = "b"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (external_link, "a link to elsewhere"),
        (soft_link, "a link to elsewhere"),
        (external_storage, "external files or filters"),
        (virtual, "virtual"),
        (gzip, "chunked"),
        (chunked, "chunked"),
        (four_tebibytes, "inside the file"),
        (unallocated, "inside the file"),
        (big_endian, "of dtype <f4"),
        (double, "of dtype <f4"),
        (one_dimension, "2 dimensions"),
        (one_too_many, "found /x, /y"),
        (another_name, "found /y"),
        (group, "another kind of object"),
        (attribute, "attributes"),
    ],
)
def test_a_hostile_file_is_refused_with_its_reason(
    make: Callable[[h5py.File], None], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DamageError, match="not a file that tlcache wrote") as refused:
        unpack(hostile(make, tmp_path), LAYOUT, "here")
    assert reason in str(refused.value)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_refused(keep: float) -> None:
    data = pack({"x": X})
    end = int(len(data) * keep) if isinstance(keep, float) else keep
    with pytest.raises(DamageError):
        unpack(data[:end], LAYOUT, "here")
