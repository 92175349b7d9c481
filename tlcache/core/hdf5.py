"""Arrays to the bytes of an HDF5 file and back, in memory, trusting nothing.

The HDF5 library parses the file's structure only; it never does I/O on a data set, so no external
file, filter or virtual source can come into play. The arrays that come back are read-only views of
the very bytes that were checked. Covers no files (``files``) and no checksums.
"""

from __future__ import annotations

import dataclasses
import io
import math
import operator
import re
import struct
from collections.abc import Iterable, Mapping, Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DamageError

Form = tuple[tuple[str, ...], int]
"""Of a data set: the dtypes that it may have, and its number of dimensions."""
Layout = Mapping[str, Form]
"""Name of each data set -> its form."""

Arrays = dict[str, NDArray[np.generic]]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_TYPES = {
    "<f2": h5py.h5t.IEEE_F16LE,
    "<f4": h5py.h5t.IEEE_F32LE,
    "|u1": h5py.h5t.STD_U8LE,
    "|i1": h5py.h5t.STD_I8LE,
    "<i4": h5py.h5t.STD_I32LE,
    "<u8": h5py.h5t.STD_U64LE,
}


def pack(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The bytes of an HDF5 file that holds ``arrays`` in its root, contiguous, without filters.

    The same arrays give the same bytes. No array may be empty: HDF5 would allocate nothing for it.
    """
    buffer = io.BytesIO()  # an in-memory file of HDF5's own would have to be copied
    with h5py.File(buffer, "w", libver=("earliest", "v108")) as file:
        for name, array in sorted(arrays.items()):
            file.create_dataset(name, data=np.ascontiguousarray(array), track_times=False)
    return buffer.getvalue()


def unpack(data: bytes | memoryview, layout: Layout, where: object) -> Arrays:
    """The arrays of an HDF5 file, as read-only views of ``data``.

    Raises:
        DamageError: If the file is not exactly as ``layout`` says: these data sets and no others,
            hard links, dtype, number of dimensions, contiguous, allocated inside the file, without
            filters, external files or attributes.
    """
    kind = len(data), tuple(sorted(layout.items()))
    if (known := _written.get(kind)) and known.fits(data):
        return known.views(data)
    arrays = _parsed(data, layout, where)
    if len(data) <= _SMALL:
        _learn(kind, data, arrays, layout)
    return arrays


@dataclasses.dataclass(frozen=True)
class _Written:
    """A file as :func:`pack` writes it: where its arrays lie, and all bytes that are in none.

    What HDF5 makes of a file depends on those bytes alone, and comparing them is ten times faster,
    which counts where there are thousands of small files.
    """

    places: Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...], int]]
    rest: Sequence[tuple[int, bytes]]
    size: int

    def fits(self, data: bytes | memoryview) -> bool:
        return len(data) == self.size and all(
            data[start : start + len(part)] == part for start, part in self.rest
        )

    def views(self, data: bytes | memoryview) -> Arrays:
        whole = memoryview(data).toreadonly()
        return {
            name: np.frombuffer(whole, dtype, math.prod(shape), start).reshape(shape)
            for name, (dtype, shape, start) in self.places.items()
        }


_Kind = tuple[int, tuple[tuple[str, Form], ...]]

_SMALL = 1 << 18
_MOST_KINDS = 1024
_written: dict[_Kind, _Written | None] = {}  # None: there was one such file


def _learn(kind: _Kind, data: bytes | memoryview, arrays: Arrays, layout: Layout) -> None:
    """Remember how files of this kind are written, once there is a second one."""
    if kind not in _written:
        if len(_written) >= _MOST_KINDS:
            _written.clear()
        _written[kind] = None
    elif _written[kind] is None:
        own = pack({name: np.zeros(array.shape, array.dtype) for name, array in arrays.items()})
        places = {
            name: (array.dtype, array.shape, place_in(own, array))
            for name, array in _parsed(own, layout, "a file of zeros").items()
        }
        rest, end = [], 0
        for dtype, shape, start in sorted(places.values(), key=operator.itemgetter(2)):
            rest.append((end, own[end:start]))
            end = start + math.prod(shape) * dtype.itemsize
        _written[kind] = _Written(places, [*rest, (end, own[end:])], len(own))


def place_in(data: bytes | memoryview, array: NDArray[np.generic]) -> int:
    """Where in a file's bytes an array begins that was unpacked from them."""
    first, own = (a.__array_interface__["data"][0] for a in (np.frombuffer(data, np.uint8), array))
    return int(own - first)


def _parsed(data: bytes | memoryview, layout: Layout, where: object) -> Arrays:
    """What HDF5 finds in the file."""
    _check_heaps(memoryview(data), where)
    try:
        # A file object, not an image: HDF5 reads the few blocks it parses, and copies no data set.
        with h5py.File(io.BytesIO(data), "r") as file:
            root = h5py.h5g.open(file.id, b"/")
            names = {name.decode("utf-8", "replace") for name in root}
            if names != set(layout):
                raise _refused(where, _listed(layout), _listed(names) or "nothing")
            if h5py.h5a.get_num_attrs(root):
                raise _refused(where, "/ without attributes", "attributes")
            return {name: _view(root, name, data, layout[name], where) for name in layout}
    except (DamageError, MemoryError):  # a machine that is short of memory damages no file
        raise
    except Exception as error:  # whatever h5py makes of a malformed file, the file is at fault
        raise _refused(where, "an HDF5 file", f"{type(error).__name__}: {error}") from error


def _check_heaps(data: memoryview, where: object) -> None:
    """Refuse a local heap whose list of free blocks leads back into itself.

    The HDF5 library would follow it for ever, and set memory aside at every step.
    """
    if data[:8] != _SIGNATURE:  # elsewhere, and addresses would count from there
        raise _refused(where, "an HDF5 file", "another kind of file")
    for heap in re.finditer(b"HEAP", data):
        header = data[heap.start() + 8 : heap.start() + 32]
        if len(header) < 24:
            return
        size, block, segment = struct.unpack("<3Q", header)
        seen = set[int]()
        while block not in seen and block + 16 <= size and segment + block + 16 <= len(data):
            seen.add(block)
            (block,) = struct.unpack_from("<Q", data, segment + block)
        if block in seen:
            raise _refused(where, "a list of free blocks with an end", "one that never ends")


def _view(
    root: h5py.h5g.GroupID, name: str, data: bytes | memoryview, form: Form, where: object
) -> NDArray[np.generic]:
    encoded = name.encode()
    if root.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
        raise _refused(where, f"/{name} in the file itself", "a link to elsewhere")
    if h5py.h5o.get_info(root, encoded).type != h5py.h5o.TYPE_DATASET:
        raise _refused(where, f"/{name} to be a data set", "another kind of object")
    dataset = h5py.h5d.open(root, encoded)
    # The creation list first: asking a virtual data set for its shape would open its sources.
    created = dataset.get_create_plist()
    if created.get_layout() != h5py.h5d.CONTIGUOUS:
        raise _refused(where, f"/{name} contiguous", "a chunked, compact or virtual data set")
    if created.get_external_count() or created.get_nfilters():
        raise _refused(where, f"/{name} stored in the file as it is", "external files or filters")
    if h5py.h5a.get_num_attrs(dataset):
        raise _refused(where, f"/{name} without attributes", "attributes")
    dtypes, dimensions = form
    stored = dataset.get_type()
    if stored.committed():
        raise _refused(where, f"/{name} with a dtype of its own", "a named one")
    dtype = next((d for d in dtypes if stored == _TYPES[d]), None)
    if dtype is None:
        raise _refused(where, f"/{name} of dtype {' or '.join(dtypes)}", str(dataset.dtype))
    space = dataset.get_space()
    shape = space.shape if space.get_simple_extent_type() == h5py.h5s.SIMPLE else ()
    if len(shape) != dimensions or 0 in shape:
        raise _refused(where, f"/{name} with {dimensions} dimensions, none empty", str(shape))
    start, count = dataset.get_offset(), math.prod(shape)
    if start is None or start + count * np.dtype(dtype).itemsize > len(data):
        raise _refused(where, f"/{name} inside the file", f"shape {shape} in {len(data)} bytes")
    return np.frombuffer(memoryview(data).toreadonly(), dtype, count, start).reshape(shape)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(f"/{name}" for name in names))


def _refused(where: object, expected: str, found: str) -> DamageError:
    return DamageError(where, expected, found, "this is not a file that tlcache wrote")
