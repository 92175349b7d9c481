"""The image files that a command's arguments name: files, folders, patterns, and stdin."""

from __future__ import annotations

import contextlib
import glob
import io
import itertools
import os
import select
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from tlcache.core.errors import DataError, strerror
from tlcache.data.folders import images_below

_BYTES_AT_ONCE = 1 << 16


class NamedPaths(NamedTuple):
    """The files that arguments name.

    Attributes:
        paths: In the order of the arguments; None wherever the next is not there yet. An argument
            that names nothing stands in its place.
        total: How many there are; 0 where stdin will tell.
        reasons: What is wrong with each argument that names nothing.
    """

    paths: Iterator[str | None]
    total: int
    reasons: dict[str, str]


def named_paths(arguments: Sequence[str], null: bool) -> NamedPaths:
    """By :func:`listed_paths`, and of ``-`` by :func:`paths_on_stdin`."""
    reasons = dict[str, str]()

    def listed(argument: str) -> list[str]:
        try:
            return listed_paths(argument)
        except DataError as error:  # the others are not to wait for its being put right
            reasons[argument] = strerror(error)
            return [argument]

    given = [None if argument == "-" else listed(argument) for argument in arguments]
    total = 0 if None in given else sum(len(part) for part in given if part is not None)
    parts = (paths_on_stdin(null) if part is None else part for part in given)
    return NamedPaths(itertools.chain.from_iterable(parts), total, reasons)


def listed_paths(argument: str) -> list[str]:
    """The files that one argument names: itself, the images in a folder, or a pattern's matches.

    Folders are taken whole, without what is hidden; ``**`` stands for any folders. A file that is
    called like a pattern is that file.

    Raises:
        DataError: If there is no such file, or no image.
    """
    if os.path.isdir(argument):  # noqa: PTH112 -- a name that cannot be is no error here
        return _below(argument)
    if os.path.lexists(argument):
        return [argument]
    if not glob.has_magic(argument):
        raise DataError(argument or "IMAGE", "an image", "no such file", "correct the path")
    found = list[str]()
    for match in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207 -- of any root
        if not os.path.isdir(match):  # noqa: PTH112
            found.append(match)
        else:
            with contextlib.suppress(DataError):  # one without images, beside others
                found += _below(match)
    if not found:
        raise DataError(argument, "images of this pattern", "none", "correct it, in quotes")
    return list(dict.fromkeys(found))  # ** matches a folder, and what is in it


def _below(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in images_below(Path(folder))]  # noqa: PTH118


def paths_on_stdin(null: bool) -> Iterator[str | None]:
    """A path a line of stdin; None wherever the next is not there yet.

    Args:
        null: Each path ends with NUL instead.
    """
    stream = cast(io.BufferedReader, sys.stdin.buffer)
    end, rest = b"\0" if null else b"\n", b""
    while True:
        if not _is_ready(stream):
            yield None
        if not (part := stream.read1(_BYTES_AT_ONCE)):
            break
        *names, rest = (rest + part).split(end)
        yield from _paths(names)
        if len(rest) > _BYTES_AT_ONCE:
            found = f"{len(rest):,} bytes without an end of {'NUL' if null else 'line'}"
            raise DataError("-", "paths on stdin", found, "see --null, or correct what writes them")
    yield from _paths([rest])


def _paths(names: list[bytes]) -> Iterator[str]:
    for name in names:
        if os.name == "nt":
            name = name.removesuffix(b"\r")
        if name:
            yield os.fsdecode(name)


def _is_ready(stream: BinaryIO) -> bool:
    """Whether reading would not have to wait."""
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # no file, but bytes that are there
        return True
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    except (OSError, ValueError):  # a pipe on Windows
        return False
