"""Files of features, each read back by numpy, h5py or pyarrow alone."""

from __future__ import annotations

import importlib.util
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from small_cache import DIM, IMAGES

import tlcache.features.files
from tlcache.core.errors import CacheError, DataError, OptionError, TlcacheError, to_install
from tlcache.features.files import spool_for, write_features
from tlcache.features.read import LabelledRows, open_snapshot

Rows = LabelledRows[NDArray[Any]]
CLASSES = ("개미", 'a "b",\n')
PLAIN = [f"train/{name}/{i}.jpg" for i in range(5) for name in ("x", "y")]
HOSTILE = [
    "a\nb.jpg",
    "c\t,'\";.jpg",
    "日本/e\u0301.png",
    "😀\x1b[31m.jpg",
    " .jpg",
    "line\u2028.jpg",
]
NO_UTF8 = "caf\udce9.jpg"  # as Python names the file b"caf\xe9.jpg"
ENDINGS = (".npz", ".h5", ".parquet")


def _rows(paths: list[str], dim: int = 3) -> Rows:
    random, n = np.random.default_rng(0), len(paths)
    named = np.empty(n, object)
    named[:] = paths
    splits = np.array(["train", "val", "test"])[np.sort(random.integers(0, 3, n))]
    x = random.normal(size=(n, dim)).astype(np.float32)
    return LabelledRows(x, random.integers(0, 2, n), named, splits)


def _read(path: Path) -> dict[str, Any]:
    """What another program finds, in the shape of the rows that were written."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
        return found | {"identity": found["identity"].item()}
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            names = file["paths"].asstr(errors="surrogateescape")[...]
            found = {name: file[name][...] for name in ("features", "labels")}
            found |= {"splits": file["splits"].asstr()[...], "paths": names}
            classes = file["classes"].asstr()[...]
            return found | {"classes": classes, "identity": file.attrs["identity"]}
    table = pyarrow.parquet.read_table(path)
    about = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    found = {f"{name}s": np.array(table[name].to_pylist()) for name in ("label", "split", "path")}
    classes = np.array(json.loads(about["classes"]))
    assert table["class"].to_pylist() == [classes[i] for i in found["labels"]]
    features = np.array(table["features"].to_pylist(), np.float32)
    return found | {"features": features, "classes": classes, "identity": about["identity"]}


def _check(path: Path, rows: Rows) -> None:
    found = _read(path)
    np.testing.assert_array_equal(found["features"], rows.X)
    assert found["features"].dtype == np.float32
    np.testing.assert_array_equal(found["labels"], rows.y)
    assert found["labels"].dtype == np.int64
    assert found["paths"].tolist() == rows.paths.tolist()
    assert found["splits"].tolist() == rows.splits.tolist()
    assert found["classes"].tolist() == list(CLASSES)
    assert found["identity"] == '{"trunk":"t"}'


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("paths", [PLAIN, HOSTILE], ids=["plain", "hostile"])
def test_everything_comes_back_by_another_library(
    tmp_path: Path, ending: str, paths: list[str]
) -> None:
    path, rows = tmp_path / f"f{ending}", _rows(paths)
    write_features(path, rows, CLASSES, '{"trunk":"t"}')
    _check(path, rows)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_blocks_make_no_difference_and_are_told_of(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, ticks = _rows(PLAIN), list[tuple[int, int]]()
    write_features(tmp_path / f"one{ending}", rows, CLASSES, '{"trunk":"t"}')
    monkeypatch.setattr(tlcache.features.files, "_BLOCK", 4)
    many = tmp_path / f"many{ending}"
    write_features(many, rows, CLASSES, '{"trunk":"t"}', progress=lambda *t: ticks.append(t))
    assert ticks == [(4, 10), (8, 10), (10, 10)]
    _check(many, rows)
    if ending == ".npz":
        assert many.read_bytes() == (tmp_path / f"one{ending}").read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_that_lie_on_a_disk_are_written_as_those_in_memory(
    tmp_path: Path, ending: str
) -> None:
    rows = _rows(PLAIN)
    spooled = np.memmap(tmp_path / "spool", np.float32, "w+", shape=rows.X.shape)
    spooled[:] = rows.X
    write_features(tmp_path / f"f{ending}", rows._replace(X=spooled), CLASSES, '{"trunk":"t"}')
    _check(tmp_path / f"f{ending}", rows)


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_rows_make_a_file_without_rows(tmp_path: Path, ending: str) -> None:
    write_features(tmp_path / f"f{ending}", _rows([]), CLASSES, '{"trunk":"t"}')
    found = _read(tmp_path / f"f{ending}")
    assert len(found["features"]) == len(found["paths"]) == 0


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_a_file_s_name_that_is_no_utf8_is_kept(tmp_path: Path, ending: str) -> None:
    rows = _rows([NO_UTF8, "b.jpg"])
    write_features(tmp_path / f"f{ending}", rows, CLASSES, '{"trunk":"t"}')
    _check(tmp_path / f"f{ending}", rows)
    if ending == ".h5":
        with h5py.File(tmp_path / "f.h5") as file:
            assert file["paths"][0] == b"caf\xe9.jpg"


@pytest.mark.parametrize(
    ("ending", "name", "words"),
    [
        (
            ".parquet",
            NO_UTF8,
            r"a name that is Unicode, as Parquet wants it, found 'caf\\udce9.jpg'",
        ),
        (".h5", "\ud800.jpg", r"Unicode, or bytes of a file's name, found '\\ud800.jpg'; rename"),
        (".npz", "a\0.jpg", r"a name without NUL characters, found 'a\\x00.jpg'"),
        (".h5", "a\0b.jpg", r"a name without NUL characters, found 'a\\x00b.jpg'"),
    ],
)
def test_a_name_that_a_format_cannot_keep_is_refused_and_nothing_is_left(
    tmp_path: Path, ending: str, name: str, words: str
) -> None:
    for paths, classes in ([["a.jpg", name], CLASSES], [["a.jpg"], ("x", name)]):
        with pytest.raises(DataError, match=words):
            write_features(tmp_path / f"f{ending}", _rows(list(paths)), classes)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: the errors of a full disk, at any of them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_what_was_there_before(tmp_path: Path, ending: str) -> None:
    path, rows = tmp_path / f"f{ending}", _rows(PLAIN * 40, dim=50)
    write_features(path, rows, CLASSES, '{"trunk":"t"}')
    before = path.read_bytes()
    for size in range(0, len(before), len(before) // 23):
        with _largest_file(size), pytest.raises(CacheError, match="File too large; free some"):
            write_features(path, rows, CLASSES, '{"trunk":"u"}', force=True)
        assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path, rows = tmp_path / "f.npz", _rows(PLAIN)
    path.write_bytes(b"precious")
    with pytest.raises(OptionError) as refused:
        write_features(path, rows, CLASSES)
    assert str(refused.value) == (
        f"{path}: expected a new file, found one that is there; "
        "name another file, or pass --force to replace it"
    )
    assert path.read_bytes() == b"precious"
    write_features(path, rows, CLASSES, '{"trunk":"t"}', force=True)
    _check(path, rows)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("f.csv", "ends in one of .npz, .parquet, .h5, found .csv; name another file"),
        ("f", "ends in one of .npz, .parquet, .h5, found no ending"),
        ("folder.h5", "expected a new file, found a folder; name another file"),
        (f"{'n' * 300}.h5", "expected a file that can be made, found File name too long; name"),
        ("no/such/f.h5", "expected a file in a folder that is there, found no such folder; make"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(OptionError) as refused:
        write_features(tmp_path / name, _rows(PLAIN), CLASSES, force=True)
    assert words in str(refused.value)


def test_parquet_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[str], Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name)
    )
    with pytest.raises(TlcacheError) as refused:
        write_features(tmp_path / "f.parquet", _rows(PLAIN), CLASSES)
    assert str(refused.value) == (
        f"{tmp_path / 'f.parquet'}: expected the package pyarrow, found none; "
        f"{to_install('parquet')}, or name a .npz or .h5 file"
    )
    write_features(tmp_path / "f.npz", _rows(PLAIN), CLASSES)


def test_features_that_would_crowd_the_memory_lie_beside_the_file(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding, file = open_snapshot(pets), pets.with_name("f.npz")
    size = 4 * IMAGES * DIM
    for memory, spool in ((4 * size, None), (4 * size - 1, file.absolute().parent)):
        monkeypatch.setattr(tlcache.features.files, "physical_memory", lambda memory=memory: memory)
        assert spool_for(embedding, file) == spool
