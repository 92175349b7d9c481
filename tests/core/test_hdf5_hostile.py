from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from isolated import isolated

from tlcache.core.errors import DamageError
from tlcache.core.hdf5 import Layout, pack, unpack

LAYOUT: Layout = {"x": (("<f4",), 2)}
X = np.arange(6, dtype="<f4").reshape(2, 3)


def hostile(make: Callable[[h5py.File], None], folder: Path) -> bytes:
    path = folder / "hostile.h5"
    with h5py.File(path, "w") as file:
        make(file)
    return path.read_bytes()


def created(file: h5py.File, set_up: Callable[[h5py.h5p.PropDCID], None]) -> None:
    """A data set /x with properties that the high-level interface does not offer."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    set_up(properties)
    space = h5py.h5s.create_simple((2, 3))
    data = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, properties)
    data.write(h5py.h5s.ALL, h5py.h5s.ALL, X)


def external_link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "/x")


def soft_link(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/y")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("x", (2, 3), "<f4", external=[("other.raw", 0, 24)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 3), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 3))
    file.create_virtual_dataset("x", layout)


def unlimited(file: h5py.File, source: bytes, shape: tuple[int, int]) -> None:
    """A virtual data set that is as long as its sources are: to know its shape, HDF5 opens them."""
    whole = h5py.h5s.create_simple((2, 3), (h5py.h5s.UNLIMITED, 3))
    mapped = whole.copy()
    mapped.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), shape, shape)
    part = h5py.h5s.create_simple(shape, shape)
    if b"%b" not in source:
        part = mapped
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(mapped, source, b"x", part)
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, whole, properties)


def virtual_unlimited(file: h5py.File) -> None:
    unlimited(file, b"other.h5", (1, 3))


def virtual_printf(file: h5py.File) -> None:
    unlimited(file, b"other-%b.h5", (1, 3))


def gzip(file: h5py.File) -> None:
    file.create_dataset("x", data=X, compression="gzip")


def unknown_filter(file: h5py.File) -> None:
    def set_up(properties: h5py.h5p.PropDCID) -> None:
        properties.set_chunk((2, 3))
        properties.set_filter(32_123, h5py.h5z.FLAG_OPTIONAL)

    created(file, set_up)


def chunked(file: h5py.File) -> None:
    file.create_dataset("x", data=X, chunks=(1, 3))


def compact(file: h5py.File) -> None:
    created(file, lambda properties: properties.set_layout(h5py.h5d.COMPACT))


def four_tebibytes(file: h5py.File) -> None:
    file.create_dataset("x", (2**20, 2**20), "<f4")


def unallocated(file: h5py.File) -> None:
    file.create_dataset("x", (2, 3), "<f4")


def empty(file: h5py.File) -> None:
    file.create_dataset("x", (0, 3), "<f4")


def without_shape(file: h5py.File) -> None:
    file["x"] = h5py.Empty("<f4")


def scalar(file: h5py.File) -> None:
    file["x"] = np.float32(1)


def big_endian(file: h5py.File) -> None:
    file["x"] = X.astype(">f4")


def double(file: h5py.File) -> None:
    file["x"] = X.astype("<f8")


def integer(file: h5py.File) -> None:
    file["x"] = X.astype("<i4")


def texts(file: h5py.File) -> None:
    file.create_dataset("x", data=[["a", "b"]], dtype=h5py.string_dtype())


def one_dimension(file: h5py.File) -> None:
    file["x"] = X.ravel()


def one_too_many(file: h5py.File) -> None:
    file["x"], file["y"] = X, X


def another_name(file: h5py.File) -> None:
    file["y"] = X


def nothing(file: h5py.File) -> None:
    pass


def group(file: h5py.File) -> None:
    file.create_group("x")


def named_type(file: h5py.File) -> None:
    file["x"] = np.dtype("<f4")


def of_a_named_type(file: h5py.File) -> None:
    file["type"] = np.dtype("<f4")
    file.create_dataset("x", data=X, dtype=file["type"])
    del file["type"]  # its name only


def attribute(file: h5py.File) -> None:
    file["x"] = X
    file["x"].attrs["a"] = "b"


def attribute_of_the_root(file: h5py.File) -> None:
    file["x"] = X
    file.attrs["a"] = "b"


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[list[str]]:
    """Names of the files of a folder that anything in this process opens, by the kernel's word."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        pytest.skip("needs Linux: inotify")
    watch = libc.inotify_init1(os.O_NONBLOCK)
    in_open = 0x20
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(folder), in_open) < 0:
        pytest.skip(f"needs inotify: {os.strerror(ctypes.get_errno())}")
    names: list[str] = []
    try:
        yield names
        with contextlib.suppress(BlockingIOError):
            events = os.read(watch, 1 << 16)
            while events:
                length = int.from_bytes(events[12:16], sys.byteorder)
                names.append(events[16 : 16 + length].rstrip(b"\0").decode())
                events = events[16 + length :]
    finally:
        os.close(watch)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files that hostile files point at."""
    monkeypatch.chdir(tmp_path)
    for name in ("other.h5", "other-0.h5", "other-1.h5"):
        with h5py.File(name, "w") as file:
            file.create_dataset("x", data=X, maxshape=(None, 3))
    (tmp_path / "other.raw").write_bytes(X.tobytes())
    return tmp_path


@pytest.mark.parametrize(
    ("make", "expected", "found"),
    [
        (external_link, "/x in the file itself", "a link to elsewhere"),
        (soft_link, "/x in the file itself", "a link to elsewhere"),
        (external_storage, "/x stored in the file as it is", "external files or filters"),
        (virtual, "/x contiguous", "a chunked, compact or virtual data set"),
        (virtual_unlimited, "/x contiguous", "a chunked, compact or virtual data set"),
        (virtual_printf, "/x contiguous", "a chunked, compact or virtual data set"),
        (gzip, "/x contiguous", "a chunked, compact or virtual data set"),
        (unknown_filter, "/x contiguous", "a chunked, compact or virtual data set"),
        (chunked, "/x contiguous", "a chunked, compact or virtual data set"),
        (compact, "/x contiguous", "a chunked, compact or virtual data set"),
        (four_tebibytes, "/x inside the file", "shape (1048576, 1048576) in "),
        (unallocated, "/x inside the file", "shape (2, 3) in "),
        (empty, "/x with 2 dimensions, none empty", "(0, 3)"),
        (without_shape, "/x with 2 dimensions, none empty", "()"),
        (scalar, "/x with 2 dimensions, none empty", "()"),
        (one_dimension, "/x with 2 dimensions, none empty", "(6,)"),
        (big_endian, "/x of dtype <f4", ">f4"),
        (double, "/x of dtype <f4", "float64"),
        (integer, "/x of dtype <f4", "int32"),
        (texts, "/x of dtype <f4", "object"),
        (one_too_many, "/x", "/x, /y"),
        (another_name, "/x", "/y"),
        (nothing, "/x", "nothing"),
        (group, "/x to be a data set", "another kind of object"),
        (named_type, "/x to be a data set", "another kind of object"),
        (of_a_named_type, "/x with a dtype of its own", "a named one"),
        (attribute, "/x without attributes", "attributes"),
        (attribute_of_the_root, "/ without attributes", "attributes"),
    ],
)
def test_a_hostile_file_is_refused_with_its_reason_and_opens_no_other(
    make: Callable[[h5py.File], None], expected: str, found: str, sources: Path
) -> None:
    data = hostile(make, sources)
    with opened(sources) as others, pytest.raises(DamageError) as refused:
        unpack(data, LAYOUT, "here")
    assert str(refused.value).startswith(f"here: expected {expected}, found {found}")
    assert str(refused.value).endswith("; this is not a file that tlcache wrote")
    assert others == []


@pytest.mark.parametrize(
    "make", [external_link, external_storage, virtual, virtual_unlimited, virtual_printf]
)
def test_plain_h5py_does_open_the_others(make: Callable[[h5py.File], None], sources: Path) -> None:
    """Else the test above would prove nothing."""
    data = hostile(make, sources)
    with opened(sources) as others, h5py.File.in_memory(file_image=data) as file:
        assert file["x"][:].size
    assert set(others) & {"other.h5", "other-0.h5", "other.raw"}


def read_endless() -> str:
    """What is said of a heap whose first free block is followed by itself."""
    data = bytearray(pack({"x": X}))
    heap = data.index(b"HEAP")
    size, _, segment = struct.unpack_from("<3Q", data, heap + 8)
    block = size - 16
    struct.pack_into("<Q", data, heap + 16, block)
    struct.pack_into("<2Q", data, segment + block, block, 16)
    try:
        unpack(bytes(data), LAYOUT, "here")
    except DamageError as error:
        return str(error)
    return "read"


def test_a_list_of_free_blocks_without_an_end_is_refused_and_not_followed() -> None:
    ended = isolated(read_endless)
    assert ended.value == (
        "here: expected a list of free blocks with an end, found one that never ends; "
        "this is not a file that tlcache wrote"
    ), ended


def test_numbers_that_look_like_a_heap_are_read() -> None:
    x = np.frombuffer(b"HEAP" * 12, "<f4").reshape(2, 6)
    np.testing.assert_array_equal(unpack(pack({"x": x}), LAYOUT, "here")["x"], x)
