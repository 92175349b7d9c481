"""Cached features as files that other tools read without tlcache: ``.npz``, ``.parquet``, ``.h5``.

Each holds a row an image with its path, label and split, the classes' names, and the identity of
the features. A file appears whole or not at all. Rows are written in blocks, from an array that may
lie on a disk. Covers no reading from the cache (``read``).
"""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, OptionError, UnmetError, faults_as, to_install
from tlcache.core.files import StrPath, as_path, open_atomically
from tlcache.core.machine import physical_memory
from tlcache.core.progress import Tick, no_tick
from tlcache.features.read import Embedding, LabelledRows

Rows = LabelledRows[NDArray[Any]]

_BLOCK = 8192  # rows of 1,280 numbers: 42 MB


def write_features(
    path: StrPath,
    rows: Rows,
    classes: Sequence[str],
    identity: str = "",
    *,
    force: bool = False,
    progress: Tick | None = None,
) -> None:
    """Write features with their labels; the end of the name says in which format.

    ``.npz`` (numpy, without pickles) and ``.h5`` (HDF5) hold the arrays ``features`` (n, D)
    float32, ``labels`` (n,) int64, ``splits`` (n,), ``paths`` (n,), ``classes`` (C,) and, as JSON,
    ``identity``, which in HDF5 is an attribute. Paths in HDF5 are the bytes of the file's name.
    ``.parquet`` has the columns ``path``, ``split``, ``label``, ``class`` and ``features``, and
    ``classes`` and ``identity`` among its metadata.

    Args:
        path: Of the file.
        rows: As :meth:`tlcache.features.read.Features.to_numpy` gives them.
        classes: Names, in the order of the labels.
        identity: What the features depend on, as JSON.
        force: Replace a file that is there.
        progress: Called with how many rows are written, and of how many.

    Raises:
        OptionError: If the name, what is there, or a package that is not stands in the way.
        DataError: If a name cannot be kept in the format.
        CacheError: If the file cannot be written.
    """
    path = as_path("path", path)
    check_target(path, force=force)
    write, surrogates, names = _FORMATS[path.suffix]
    remedy = "rename it, or name a file of another format (.npz keeps any name)"
    for name in (*classes, *rows.paths):
        if "\0" in name:
            raise DataError(path, "a name without NUL characters", repr(name), remedy)
        try:
            name.encode("utf-8", surrogates)
        except UnicodeEncodeError:
            raise DataError(path, names, repr(name), remedy) from None
    with open_atomically(path) as file:
        write(file, rows, classes, identity, progress or no_tick)


def check_target(path: Path, *, force: bool = False) -> None:
    """Refuse a name of another format, one that is taken, and a format that needs a package.

    Raises:
        OptionError: If it is refused.
    """
    another = "name another file"
    if path.suffix not in _FORMATS:
        expected = f"a file's name that ends in one of {', '.join(_FORMATS)}"
        raise OptionError(path, expected, path.suffix or "no ending", another)
    # The system refuses a name that is too long, say.
    with faults_as(UnmetError, path, "a file that can be made", another):
        folder, there = path.is_dir(), path.exists()
        parent = path.absolute().parent.is_dir()
    if folder:
        raise UnmetError(path, "a new file", "a folder", another)
    if there and not force:
        remedy = f"{another}, or pass --force to replace it"
        raise UnmetError(path, "a new file", "one that is there", remedy)
    if not parent:
        remedy = "make the folder, or name a file in another"
        raise UnmetError(path, "a file in a folder that is there", "no such folder", remedy)
    if path.suffix == ".parquet" and not importlib.util.find_spec("pyarrow"):
        remedy = f"{to_install('parquet')}, or name a .npz or .h5 file"
        raise UnmetError(path, "the package pyarrow", "none", remedy)


def _write_npz(
    file: BinaryIO, rows: Rows, classes: Sequence[str], identity: str, tick: Tick
) -> None:
    longest = max(map(len, rows.paths), default=1)
    with zipfile.ZipFile(file, "w") as archive:
        _add_array(archive, "labels", rows.y)
        _add_array(archive, "splits", rows.splits)
        _add_array(archive, "paths", rows.paths, np.dtype(f"<U{longest}"))
        _add_array(archive, "classes", np.array(classes))
        _add_array(archive, "identity", np.array([identity]))
        _add_array(archive, "features", rows.X, tick=tick)


def _add_array(
    archive: zipfile.ZipFile,
    name: str,
    array: NDArray[Any],
    dtype: np.dtype[Any] | None = None,
    tick: Tick | None = None,
) -> None:
    """As ``numpy.savez`` does, but in blocks, so that no path is held four bytes a letter."""
    dtype = (dtype or array.dtype).newbyteorder("<")
    info = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that the same features give the same bytes
    info.compress_type = zipfile.ZIP_DEFLATED if dtype.kind == "U" else zipfile.ZIP_STORED
    numbers = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": numbers, "fortran_order": False, "shape": array.shape}
    with archive.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for _, block in _blocks(array, tick or no_tick):
            member.write(np.ascontiguousarray(block, dtype).tobytes())


def _write_h5(
    file: BinaryIO, rows: Rows, classes: Sequence[str], identity: str, tick: Tick
) -> None:
    import h5py

    # A file object: a full disk is an error of its own there, which HDF5 itself would not report.
    with h5py.File(file, "w", libver=("earliest", "v108")) as made:
        made.attrs["identity"] = identity
        plain: dict[str, Any] = {"track_times": False}
        made.create_dataset("labels", data=rows.y.astype("<i8"), **plain)
        made.create_dataset("splits", data=rows.splits.astype("S"), **plain)
        for name, texts in (("classes", np.array(classes, object)), ("paths", rows.paths)):
            strings = made.create_dataset(name, texts.shape, h5py.string_dtype(), **plain)
            for start, block in _blocks(texts, no_tick):
                encoded = [text.encode("utf-8", "surrogateescape") for text in block]
                strings[start : start + len(block)] = np.array(encoded, object)
        features = made.create_dataset("features", rows.X.shape, "<f4", **plain)
        for start, block in _blocks(rows.X, tick):
            features[start : start + len(block)] = block


def _write_parquet(
    file: BinaryIO, rows: Rows, classes: Sequence[str], identity: str, tick: Tick
) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    vector = pa.list_(pa.float32(), rows.X.shape[1])
    columns = {"path": pa.string(), "split": pa.string(), "label": pa.int64()}
    columns |= {"class": pa.string(), "features": vector}
    about = {"classes": json.dumps(list(classes)), "identity": identity}
    schema, named = pa.schema(columns, about), np.array(classes, object)
    how: dict[str, Any] = {"use_dictionary": ["split", "class"]}
    with pyarrow.parquet.ParquetWriter(file, schema, **how) as writer:
        for start, block in _blocks(rows.X, tick):
            at = slice(start, start + len(block))
            arrays = [rows.paths[at], rows.splits[at].tolist(), rows.y[at], named[rows.y[at]]]
            table = [pa.array(a, type=t) for a, t in zip(arrays, columns.values(), strict=False)]
            flat = pa.array(np.ascontiguousarray(block).reshape(-1))
            table.append(pa.FixedSizeListArray.from_arrays(flat, type=vector))
            writer.write_batch(pa.record_batch(table, schema=schema))


_FORMATS = {  # how each is written, how its names are encoded, and which they may be
    ".npz": (_write_npz, "surrogatepass", "any name"),
    ".parquet": (_write_parquet, "strict", "a name that is Unicode, as Parquet wants it"),
    ".h5": (_write_h5, "surrogateescape", "a name that is Unicode, or bytes of a file's name"),
}


def _blocks(array: NDArray[Any], tick: Tick) -> Iterator[tuple[int, NDArray[Any]]]:
    for start in range(0, len(array), _BLOCK):
        block = array[start : start + _BLOCK]
        yield start, block
        tick(start + len(block), len(array))


def spool_for(embedding: Embedding, file: Path) -> Path | None:
    """A folder for features that would crowd the memory: that of the file, which needs the room."""
    size = 4 * embedding.trunk.dim * int(embedding.snapshot.readable().sum())
    return file.absolute().parent if size > physical_memory() / 4 else None
