from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import h5py
import numpy as np
import pytest

import tlcache.core.hdf5
from tlcache.core.errors import DamageError
from tlcache.core.hdf5 import Layout, pack, unpack

LAYOUT: Layout = {"x": (("<f4",), 2)}
X = np.arange(6, dtype="<f4").reshape(2, 3)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each file has that HDF5 is asked about; none is known."""
    lengths, parse = list[int](), tlcache.core.hdf5._parsed

    def counted(data: bytes, *rest: Any) -> Any:
        lengths.append(len(data))
        return parse(data, *rest)

    monkeypatch.setattr(tlcache.core.hdf5, "_written", {})
    monkeypatch.setattr(tlcache.core.hdf5, "_parsed", counted)
    return lengths


def test_what_is_packed_comes_back_as_read_only_views_of_the_bytes() -> None:
    data = pack({"x": X})
    array = unpack(data, LAYOUT, "here")["x"]
    np.testing.assert_array_equal(array, X)
    assert array.dtype == "<f4"
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_views_of_writable_memory_are_read_only_too() -> None:
    array = unpack(memoryview(bytearray(pack({"x": X}))), LAYOUT, "here")["x"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_every_dtype_comes_back() -> None:
    arrays: dict[str, np.ndarray] = {
        "f": np.array([1.5, np.inf], "<f4"),
        "u": np.array([[0, 255]], "u1"),
        "s": np.array([-128, 127], "i1"),
        "i": np.array([-(2**31), 2**31 - 1], "<i4"),
        "l": np.array([0, 2**64 - 1], "<u8"),
    }
    layout: Layout = {name: ((array.dtype.str,), array.ndim) for name, array in arrays.items()}
    back = unpack(pack(arrays), layout, "here")
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_the_same_arrays_give_the_same_bytes() -> None:
    assert pack({"x": X, "y": X}) == pack({"y": X, "x": np.asfortranarray(X)})
    code = (
        "import hashlib, numpy as np; from tlcache.core.hdf5 import pack\n"
        "x = np.arange(6, dtype='<f4').reshape(2, 3); print(pack({'x': x, 'y': x}).hex())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert bytes.fromhex(result.stdout) == pack({"x": X, "y": X})


def test_a_file_is_small_and_starts_as_every_hdf5_file_does() -> None:
    data = pack({"x": X})
    assert data[:9] == b"\x89HDF\r\n\x1a\n\x00"  # superblock version 0: any HDF5 reads it
    assert data.count(X.tobytes()) == 1
    assert len(data) < 4096


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no HDF5 at all",
        np.random.default_rng(0).bytes(4096),
        pack({"x": X})[:-1],
        pack({"x": X})[: len(pack({"x": X})) // 2],
        pack({"x": X})[:100],
        pack({"x": X})[:8],
    ],
)
def test_other_bytes_and_a_part_of_a_file_are_refused(data: bytes) -> None:
    with pytest.raises(DamageError, match=r"^here: expected .*not a file that tlcache wrote$"):
        unpack(data, LAYOUT, "here")


def test_a_machine_short_of_memory_damages_no_file(
    parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tlcache.core.hdf5, "_view", starve)
    with pytest.raises(MemoryError):
        unpack(pack({"x": X}), LAYOUT, "here")


def test_hdf5_is_not_asked_about_small_files_that_differ_in_their_numbers_alone(
    parsed: list[int],
) -> None:
    for i in range(9):
        data = memoryview(bytes(7) + pack({"x": X + i}))[7:]
        found = unpack(data, LAYOUT, "here")["x"]
        np.testing.assert_array_equal(found, X + i)
        assert not found.flags.writeable
        assert np.shares_memory(found, np.frombuffer(data, np.uint8))
    assert len(parsed) == 3  # two of them, and one that was written to compare with


def test_files_of_other_shapes_or_of_another_library_are_told_apart(parsed: list[int]) -> None:
    with h5py.File(io.BytesIO(), "w", libver="latest") as file:
        file["x"] = X
        file.flush()
        theirs = file.id.get_file_image()
    for i in range(4):
        for x in (X + i, (X + i).reshape(3, 2), (X + i).reshape(1, 6)):
            found = unpack(pack({"x": x}), LAYOUT, "here")["x"]
            np.testing.assert_array_equal(found, x)
        np.testing.assert_array_equal(unpack(theirs, LAYOUT, "here")["x"], X)


def test_no_flip_is_seen_otherwise_in_a_file_of_a_known_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def outcome(data: bytes) -> object:
        try:
            found = unpack(data, LAYOUT, "here")["x"]
        except DamageError as error:
            return str(error)
        return found.shape, found.tobytes()

    data, outcomes = pack({"x": X}), list[list[object]]()
    flips = [data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :] for at in range(0, len(data), 3)]
    for most in (0, tlcache.core.hdf5._SMALL):
        monkeypatch.setattr(tlcache.core.hdf5, "_written", {})
        monkeypatch.setattr(tlcache.core.hdf5, "_SMALL", most)
        assert len({str(outcome(data)) for _ in range(3)}) == 1
        assert bool(tlcache.core.hdf5._written) == bool(most)
        outcomes.append([outcome(flip) for flip in flips])
    assert outcomes[0] == outcomes[1]


def test_no_flip_or_cut_of_a_file_crashes_the_process() -> None:
    result = subprocess.run([sys.executable, "-W", "error", "-c", FLIPS], capture_output=True)
    assert (result.returncode, result.stderr.decode()) == (0, "")
    refused, kept = map(int, result.stdout.split())
    assert refused > 250 and kept > 250, "flips must reach both the structure and the numbers"


FLIPS = """
import numpy as np
from tlcache.core.errors import DamageError
from tlcache.core.hdf5 import pack, unpack

layout = {"x": (("<f4",), 2), "views": (("<i4",), 1)}
data = pack({"x": np.ones((2, 3), "<f4"), "views": np.zeros(2, "<i4")})
random = np.random.default_rng(0)
flips = [(at, bit) for at in range(0, len(data), 3) for bit in random.choice(8, 2, replace=False)]
variants = [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at, bit in flips]
variants += [data[:at] for at in range(0, len(data), 29)]
refused = kept = 0
for variant in variants:
    try:
        arrays = unpack(variant, layout, "here")
    except DamageError:
        refused += 1
        continue
    kept += 1
    assert {name: (a.dtype.str, a.ndim) for name, a in arrays.items()} == {
        "x": ("<f4", 2), "views": ("<i4", 1)
    }
    assert all(a.tobytes() in variant for a in arrays.values())
print(refused, kept)
"""
