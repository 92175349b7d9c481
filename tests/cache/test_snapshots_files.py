"""The bytes of a snapshot, and what becomes of bytes that are none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tlcache.cache.snapshots import _LAYOUT, HEADER, MAGIC, Snapshot, load_snapshot, save_snapshot
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import read_capped
from tlcache.core.hdf5 import pack, unpack
from tlcache.data.folders import ImageDataset

REMEDY = "embed the folder of images again; its cached rows are kept"


@pytest.fixture
def snapshot() -> Snapshot:
    """Three images with fixed values: the bytes of its file never change."""
    dataset = ImageDataset(
        name="photos-01234567",
        root=Path("/data/photos"),
        classes=("ants", "bees"),
        paths=["train/ants/1.jpg", "train/bees/2.jpg", "val/ants/3.jpg"],
        labels=np.array([0, 1, 0], np.int32),
        splits=np.array([0, 0, 1], np.int8),
        ignored=2,
    )
    status = np.arange(12, dtype=np.uint64).reshape(3, 4)
    digests = np.arange(96, dtype=np.uint8).reshape(3, 32)
    reasons = ["", "", "Permission denied"]
    return Snapshot(dataset, status, digests, reasons, 1_700_000_000 * 10**9, 5, place="89ab" * 4)


@pytest.fixture
def saved(snapshot: Snapshot, tmp_path: Path) -> Path:
    save_snapshot(tmp_path / "s.h5", snapshot)
    return tmp_path / "s.h5"


def _write(path: Path, body: bytes) -> Path:
    header = MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    path.write_bytes(header.ljust(HEADER, b"\0") + body)
    return path


def _edit(path: Path, changes: Mapping[str, NDArray[Any]]) -> Path:
    """The file with other columns, and a checksum that fits."""
    columns = unpack(path.read_bytes()[HEADER:], _LAYOUT, path)
    return _write(path, pack({**columns, **changes}))


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def _about(path: Path, **changes: Any) -> dict[str, NDArray[np.uint8]]:
    columns = unpack(path.read_bytes()[HEADER:], _LAYOUT, path)
    about = json.loads(columns["about"].tobytes()) | changes
    return {"about": _text(json.dumps({k: v for k, v in about.items() if v is not None}))}


def _refusal(path: Path) -> str:
    with pytest.raises(DamageError) as caught:
        load_snapshot(path)
    words = str(caught.value)
    assert words.startswith(f"{path}: expected a snapshot that tlcache wrote, found ")
    assert words.endswith(f"; {REMEDY}")
    return caught.value.found


def test_the_bytes_never_change(saved: Path) -> None:
    data = saved.read_bytes()
    assert data[:19] == b"tlcache snapshot 1\n"
    assert data[19:83] == hashlib.sha256(data[512:]).hexdigest().encode()
    assert data[83:512] == b"\n" + bytes(428)
    assert data[512:520] == b"\x89HDF\r\n\x1a\n"
    columns = unpack(data[512:], _LAYOUT, saved)
    assert columns["paths"].tobytes() == b"train/ants/1.jpg\0train/bees/2.jpg\0val/ants/3.jpg\0"
    assert columns["reasons"].tobytes() == b"\0\0Permission denied\0"
    assert json.loads(columns["about"].tobytes()) == {
        "name": "photos-01234567",
        "root": "/data/photos",
        "classes": ["ants", "bees"],
        "ignored": 2,
        "taken_ns": 1_700_000_000_000_000_000,
        "deep": True,
        "views": 5,
        "place": "89ab89ab89ab89ab",
    }


def test_a_snapshot_comes_back_as_it_was(saved: Path, snapshot: Snapshot) -> None:
    loaded = load_snapshot(saved)
    for name in ("name", "root", "classes", "paths", "ignored"):
        assert getattr(loaded.dataset, name) == getattr(snapshot.dataset, name)
    for ours, theirs in (
        (loaded.dataset.labels, snapshot.dataset.labels),
        (loaded.dataset.splits, snapshot.dataset.splits),
        (loaded.status, snapshot.status),
        (loaded.digests, snapshot.digests),
    ):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    assert (loaded.taken_ns, loaded.place) == (snapshot.taken_ns, snapshot.place)
    assert loaded.reasons == ["", "", "Permission denied"]
    assert loaded.readable().tolist() == [True, True, False]


def test_earlier_versions_kept_no_place(saved: Path) -> None:
    assert load_snapshot(_edit(saved, _about(saved, place=None))).place == ""


def test_names_of_any_kind_come_back(saved: Path, snapshot: Snapshot) -> None:
    dataset = dataclasses.replace(
        snapshot.dataset,
        name="꿀벌-01234567",
        root=Path(os.fsdecode(b"/data/caf\xe9/\xea\xbf\x80")),
        classes=("fire ants", os.fsdecode(b"bees \xff")),
        paths=["train/벌 하나.jpg", os.fsdecode(b"val/\xff\xfe.jpg"), "val/two\nlines\t.jpg"],
    )
    reasons = ["", "expected an image, found 꿀\0벌", ""]
    save_snapshot(saved, dataclasses.replace(snapshot, dataset=dataset, reasons=reasons))
    loaded = load_snapshot(saved)
    for name in ("name", "root", "classes", "paths"):
        assert getattr(loaded.dataset, name) == getattr(dataset, name)
    assert loaded.reasons == ["", "expected an image, found 꿀 벌", ""]  # \0 ends a text


def test_a_snapshot_of_the_largest_values(saved: Path, snapshot: Snapshot) -> None:
    status = np.full((3, 4), 2**64 - 1, np.uint64)
    save_snapshot(saved, dataclasses.replace(snapshot, status=status, taken_ns=2**63 - 1))
    assert np.array_equal(load_snapshot(saved).status, status)
    assert load_snapshot(saved).taken_ns == 2**63 - 1


def test_saving_again_replaces(saved: Path, snapshot: Snapshot) -> None:
    save_snapshot(saved, dataclasses.replace(snapshot, taken_ns=5))
    assert load_snapshot(saved).taken_ns == 5
    assert [path.name for path in saved.parent.iterdir()] == ["s.h5"]


def test_saving_twice_gives_the_same_bytes(saved: Path, snapshot: Snapshot) -> None:
    data = saved.read_bytes()
    save_snapshot(saved, load_snapshot(saved))
    assert saved.read_bytes() == data


def test_plain_h5py_opens_it(saved: Path) -> None:
    with h5py.File(saved) as file:
        assert file.userblock_size == 512
        assert sorted(file) == sorted(_LAYOUT)
        assert file["labels"][:].tolist() == [0, 1, 0]
        assert file["status"].shape == (3, 4)
        assert file["digests"].dtype == np.uint8
        assert bytes(file["paths"][:]).split(b"\0")[1] == b"train/bees/2.jpg"


def test_no_snapshot_there(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="expected a readable file, found No such file"):
        load_snapshot(tmp_path / "s.h5")


def test_any_flipped_bit_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    positions = {*range(0, 600, 7), *range(600, len(data), 97), 18, 83, 511, 512, len(data) - 1}
    for at in sorted(positions):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        saved.write_bytes(damaged)
        found = "another kind of file" if at < len(MAGIC) else "other bytes than were written"
        assert _refusal(saved) == found, at


@pytest.mark.parametrize("length", [0, 10, 100, 511, 512, 600, -1])
def test_a_file_cut_short(saved: Path, length: int) -> None:
    data = saved.read_bytes()[:length]
    saved.write_bytes(data)
    own = length not in (0, 10)
    assert _refusal(saved) == ("other bytes than were written" if own else "another kind of file")


def test_an_appended_byte(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    assert _refusal(saved) == "other bytes than were written"


def test_another_kind_of_file(saved: Path) -> None:
    with h5py.File(saved, "w") as file:
        file["labels"] = [0, 1]
    assert _refusal(saved) == "another kind of file"


def test_a_later_version(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b"snapshot 1\n", b"snapshot 2\n", 1))
    assert _refusal(saved) == "another kind of file"


def test_a_checksum_over_what_is_no_hdf5(saved: Path) -> None:
    with pytest.raises(DamageError, match="expected an HDF5 file, found"):
        load_snapshot(_write(saved, b"nothing of the kind" * 100))


def test_one_column_too_many(saved: Path) -> None:
    with pytest.raises(DamageError, match="this is not a file that tlcache wrote"):
        load_snapshot(_edit(saved, {"more": np.zeros(3, np.uint8)}))


def test_a_column_of_another_dtype(saved: Path) -> None:
    with pytest.raises(DamageError, match="/labels of dtype <i4, found int64"):
        load_snapshot(_edit(saved, {"labels": np.zeros(3, np.int64)}))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/etc/passwd", "/etc/passwd"),
        ("../secret.jpg", "../secret.jpg"),
        ("train/../../secret.jpg", "train/../../secret.jpg"),
        ("train/ants/..", "train/ants/.."),
        ("..", ".."),
        ("", ""),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_path_that_leads_out(saved: Path, path: str, shown: str, at: int) -> None:
    paths = ["train/ants/1.jpg", "train/bees/2.jpg", "val/ants/3.jpg"]
    paths[at] = path
    edited = _edit(saved, {"paths": _text("".join(f"{p}\0" for p in paths))})
    assert _refusal(edited) == f"a path that leads out of the data set: {shown}"


def test_paths_that_only_look_like_it(saved: Path) -> None:
    paths = ["train/..ants/1..jpg", "train/a..b/%2e%2e/...", "..\\..\\x\udcff.jpg"]
    loaded = load_snapshot(_edit(saved, {"paths": _text("".join(f"{p}\0" for p in paths))}))
    assert loaded.dataset.paths == paths


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("labels", np.array([0, 2, 0], np.int32), "a label without a class"),
        ("labels", np.array([0, -1, 0], np.int32), "a label without a class"),
        ("splits", np.array([0, 3, 0], np.int8), "an unknown split"),
        ("splits", np.array([0, -1, 0], np.int8), "an unknown split"),
        ("labels", np.zeros(4, np.int32), "columns of different lengths"),
        ("splits", np.zeros(2, np.int8), "columns of different lengths"),
        ("status", np.zeros((2, 4), np.uint64), "columns of different lengths"),
        ("digests", np.zeros((4, 32), np.uint8), "columns of different lengths"),
        ("reasons", _text("\0\0"), "columns of different lengths"),
        ("paths", _text("a\0b\0"), "columns of different lengths"),
        ("status", np.zeros((3, 5), np.uint64), "columns of another width"),
        ("digests", np.zeros((3, 31), np.uint8), "columns of another width"),
        ("paths", _text("a\0b\0c"), "a column of texts without its end"),
        ("about", _text("{"), "no description of a data set"),
        ("about", _text("[]"), "no description of a data set"),
        ("about", _text("5"), "no description of a data set"),
        ("about", _text("[" * 100_000), "no description of a data set"),
        ("about", np.array([255], np.uint8), "no description of a data set"),
    ],
)
def test_columns_that_make_no_snapshot(
    saved: Path, column: str, values: NDArray[Any], found: str
) -> None:
    assert _refusal(_edit(saved, {column: values})) == found


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"name": None}, "no description of a data set"),
        ({"taken_ns": None}, "no description of a data set"),
        ({"name": 5}, "a description with values of other kinds"),
        ({"root": ["/"]}, "a description with values of other kinds"),
        ({"classes": "ab"}, "a description with values of other kinds"),
        ({"classes": ["ants", 5]}, "a description with values of other kinds"),
        ({"taken_ns": -1}, "a description with values of other kinds"),
        ({"taken_ns": 2**63}, "a description with values of other kinds"),
        ({"taken_ns": 1.5}, "a description with values of other kinds"),
        ({"ignored": "2"}, "a description with values of other kinds"),
        ({"views": -1}, "a description with values of other kinds"),
        ({"views": True}, "a description with values of other kinds"),
        ({"place": 5}, "a description with values of other kinds"),
        ({"name": "../photos"}, "a name that is no file name: ../photos"),
        ({"name": ".photos"}, "a name that is no file name: .photos"),
        ({"name": ""}, "a name that is no file name: "),
    ],
)
def test_a_description_that_makes_no_sense(
    saved: Path, changes: dict[str, Any], found: str
) -> None:
    assert _refusal(_edit(saved, _about(saved, **changes))) == found


def test_one_bad_read_is_no_damage(
    saved: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipped_in_memory(path: Path, cap: int, *, anew: bool = False) -> bytes:
        data = bytearray(read_capped(path, cap, anew=anew))
        data[-1] ^= not anew
        return bytes(data)

    monkeypatch.setattr("tlcache.cache.snapshots.read_capped", flipped_in_memory)
    assert load_snapshot(saved).dataset.paths == snapshot.dataset.paths
