"""HDF5 files that are whole, and made to mislead or to harm whoever reads them.

Each function puts a data set ``name`` into a file, in the place of the ``array`` that belongs
there. Some point at files of a folder, ``elsewhere``: ``other.h5``, ``other.raw``.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Make = Callable[[h5py.File, str, NDArray[Any], Path], None]

_FOREIGN = "/{name} in the file itself", "a link to elsewhere"
_OUTSIDE = "/{name} stored in the file as it is", "external files or filters"
_LAYOUT = "/{name} contiguous", "a chunked, compact or virtual data set"
_KIND = "/{name} to be a data set", "another kind of object"
_ATTRIBUTES = "/{name} without attributes", "attributes"


@dataclasses.dataclass(frozen=True)
class Hostile:
    """A way to mislead, and the words with which it is refused.

    In the words, ``{name}`` stands for the data set, and ``{all}`` for all that belong in the file.
    """

    make: Make
    expected: str
    found: str


def arrays_of(data: bytes) -> dict[str, NDArray[Any]]:
    """What plain h5py finds in a file."""
    with h5py.File(io.BytesIO(data), "r") as file:
        return {name: file[name][...] for name in file}


def words(hostile: Hostile, arrays: Arrays, name: str) -> tuple[str, str]:
    """What is said to be expected, and to be found, instead of a data set."""
    every = ", ".join(sorted(f"/{other}" for other in arrays))
    return hostile.expected.format(name=name, all=every), hostile.found


def hostile_bytes(arrays: Arrays, name: str, make: Make, elsewhere: Path) -> bytes:
    """A file of the arrays, one of them replaced."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for other, array in arrays.items():
            if other != name:
                file[other] = array
        make(file, name, arrays[name], elsewhere)
    return buffer.getvalue()


def make_targets(elsewhere: Path, array: NDArray[Any]) -> None:
    """The files that hostile files point at; whoever follows finds what is expected."""
    elsewhere.mkdir()
    with h5py.File(elsewhere / "other.h5", "w") as file:
        file["x"] = array
    (elsewhere / "other.raw").write_bytes(array.tobytes())


def external_link(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file[name] = h5py.ExternalLink(str(elsewhere / "other.h5"), "/x")


def soft_link(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file[name] = h5py.SoftLink("/nowhere")


def soft_link_out(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    external_link(file, "out", array, elsewhere)
    file[name] = h5py.SoftLink("/out")


def external_storage(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    stored = [(str(elsewhere / "other.raw"), 0, array.nbytes)]
    file.create_dataset(name, array.shape, array.dtype, external=stored)


def virtual(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[:] = h5py.VirtualSource(str(elsewhere / "other.h5"), "x", array.shape)
    file.create_virtual_dataset(name, layout)


def unknown_filter(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    def set_up(properties: h5py.h5p.PropDCID) -> None:
        properties.set_chunk(array.shape)
        properties.set_filter(32_123, h5py.h5z.FLAG_OPTIONAL)

    _created(file, name, array, set_up)


def deflate(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file.create_dataset(name, data=array, compression="gzip")


def bomb(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    """About 128 MiB of zeros in some 100 KB."""
    zeros = np.zeros(((1 << 27) // array[0].nbytes, *array.shape[1:]), array.dtype)
    file.create_dataset(name, data=zeros, compression="gzip", compression_opts=1)


def chunked(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file.create_dataset(name, data=array, chunks=array.shape)


def compact(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    _created(file, name, array, lambda properties: properties.set_layout(h5py.h5d.COMPACT))


def four_tebibytes(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    shape = ((1 << 42) // array.itemsize // 4 ** (array.ndim - 1), *(4,) * (array.ndim - 1))
    file.create_dataset(name, shape, array.dtype)


def unallocated(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file.create_dataset(name, array.shape, array.dtype, fillvalue=0)


def of_dtype(dtype: Any) -> Make:
    def make(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
        file.create_dataset(name, array.shape, dtype)

    return make


def of_named_dtype(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file["type"] = array.dtype
    file.create_dataset(name, data=array, dtype=file["type"])
    del file["type"]  # its name only


def one_dimension_more(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file[name] = array[None]


def extra_data_set(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file[name], file["more"] = array, array


def extra_group(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file[name] = array
    file.create_group("more")


def group(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file.create_group(name)


def attribute(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file[name] = array
    file[name].attrs["a"] = "b"


def attribute_of_the_root(file: h5py.File, name: str, array: NDArray[Any], elsewhere: Path) -> None:
    file[name] = array
    file.attrs["a"] = "b"


def _created(
    file: h5py.File,
    name: str,
    array: NDArray[Any],
    set_up: Callable[[h5py.h5p.PropDCID], None],
) -> None:
    """With properties that the high-level interface does not offer."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    set_up(properties)
    kind, space = h5py.h5t.py_create(array.dtype), h5py.h5s.create_simple(array.shape)
    data = h5py.h5d.create(file.id, name.encode(), kind, space, properties)
    data.write(h5py.h5s.ALL, h5py.h5s.ALL, array)


def _another_dtype(dtype: Any, found: str) -> Hostile:
    return Hostile(of_dtype(dtype), "/{name} of dtype", found)


HOSTILE = {
    "external link": Hostile(external_link, *_FOREIGN),
    "soft link": Hostile(soft_link, *_FOREIGN),
    "soft link out": Hostile(soft_link_out, "{all}", "/out"),
    "external storage": Hostile(external_storage, *_OUTSIDE),
    "virtual data set": Hostile(virtual, *_LAYOUT),
    "unknown filter": Hostile(unknown_filter, *_LAYOUT),
    "deflate filter": Hostile(deflate, *_LAYOUT),
    "deflate bomb": Hostile(bomb, *_LAYOUT),
    "chunked": Hostile(chunked, *_LAYOUT),
    "compact": Hostile(compact, *_LAYOUT),
    "4 TiB": Hostile(four_tebibytes, "/{name} inside the file", "shape ("),
    "unallocated": Hostile(unallocated, "/{name} inside the file", "shape ("),
    "f8": _another_dtype("<f8", "float64"),
    "big-endian f4": _another_dtype(">f4", ">f4"),
    "i4": _another_dtype("<i4", "int32"),
    "texts": _another_dtype(h5py.string_dtype(), "object"),
    "variable length": _another_dtype(h5py.vlen_dtype("<f4"), "object"),
    "compound": _another_dtype([("a", "<f4")], "[('a', '<f4')]"),
    "reference": _another_dtype(h5py.ref_dtype, "object"),
    "enum": _another_dtype(h5py.enum_dtype({"a": 1}, "u1"), "uint8"),
    "named dtype": Hostile(of_named_dtype, "/{name} with a dtype of its own", "a named one"),
    "one dimension more": Hostile(one_dimension_more, "/{name} with ", "(1, "),
    "extra data set": Hostile(extra_data_set, "{all}", "/more"),
    "extra group": Hostile(extra_group, "{all}", "/more"),
    "group": Hostile(group, *_KIND),
    "attribute": Hostile(attribute, *_ATTRIBUTES),
    "attribute of the root": Hostile(attribute_of_the_root, "/ without attributes", "attributes"),
}
