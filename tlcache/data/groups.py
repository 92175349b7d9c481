"""Groups of images that belong together, such as photos of one series: from a CSV, or a pattern.

Covers no folds (``splits``): a group is a word, and images with the same word are one group.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from tlcache.core.errors import DataError, OptionError, UnmetError, listed, strerror

_COLUMNS = ("path", "group")


def groups_from_csv(file: Path, paths: Sequence[str]) -> list[str]:
    """Each image's group, from a table with the columns ``path`` and ``group``.

    Args:
        file: UTF-8, with commas. Other columns, and rows of other images, do no harm.
        paths: Of the images, relative to the folder of the data set, with ``/``.

    Raises:
        DataError: If the file cannot be read, a row has no path or group or comes twice, or an
            image has no row.
    """
    named: dict[str, str] = {}
    for where, path, group in _rows(file):
        if path in named:
            raise DataError(where, "each path once", f"{path} again", "remove one of its rows")
        named[path] = group
    missing = [path for path in paths if _key(path) not in named]
    if missing:
        expected = f"a group for each of {len(paths)} images"
        remedy = "add their rows, with paths relative to the data set's folder"
        raise DataError(file, expected, f"none for {len(missing)}: {listed(missing)}", remedy)
    return [named[_key(path)] for path in paths]


def groups_from_pattern(pattern: str, paths: Sequence[str]) -> list[str]:
    """Each image's group: what the first capture group of a regular expression finds in its path.

    Args:
        pattern: Python's, searched anywhere in the path.
        paths: Of the images, below the folders of their classes.

    Raises:
        OptionError: If the pattern is none, captures nothing, or finds nothing in a path.
    """
    option = f"--group-pattern {pattern!r}"
    example = "write for example '^([^_]+)_', which finds series7 in series7_02.jpg"
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise OptionError(option, "a regular expression", str(error), example) from None
    if not compiled.groups:
        raise OptionError(option, "a part in parentheses, which is the group", "none", example)
    found = [match and match[1] for match in map(compiled.search, paths)]
    missing = [path for path, group in zip(paths, found, strict=True) if not group]
    if missing:
        expected = f"a group in each of {len(paths)} file names"
        remedy = "correct the pattern, or list the groups in a CSV for --groups"
        raise UnmetError(option, expected, f"none in {len(missing)}: {listed(missing)}", remedy)
    return [group for group in found if group]


def below_classes(paths: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Paths without the folders of split and class: series 7 of train is series 7 of val."""
    folders = "|".join(re.escape(name) for name in classes)
    prefix = re.compile(f"(?:(?:train|val|test)/)?(?:{folders})/")
    return [path[match.end() :] if (match := prefix.match(path)) else path for path in paths]


def _rows(file: Path) -> Iterator[tuple[str, str, str]]:
    """Where each row is, its path and its group."""
    try:
        # A byte that is no UTF-8 may stand in a file's name; a byte order mark comes from Excel.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if any(header.count(name) != 1 for name in _COLUMNS):
                found = ", ".join(header)[:100] or "nothing"
                remedy = "name them in the first line"
                raise DataError(f"{file}, line 1", "the columns path,group", found, remedy)
            places = [header.index(name) for name in _COLUMNS]
            for row in filter(None, reader):
                where = f"{file}, line {reader.line_num}"
                if len(row) != len(header):
                    expected = f"{len(header)} columns, as in the first line"
                    remedy = 'correct the line; a comma inside a name needs "quotes" around it'
                    raise DataError(where, expected, str(len(row)), remedy)
                path, group = (row[place].strip() for place in places)
                if not (path and group):
                    missing = "no path" if not path else "no group"
                    raise DataError(where, "a path and its group", missing, "fill it in")
                yield where, _key(path), group
    except OSError as error:
        where, expected = f"--groups {file}", "a CSV with the columns path,group"
        raise DataError(where, expected, strerror(error), "correct the path") from error
    except csv.Error as error:
        where = f"{file}, line {reader.line_num}"
        raise DataError(where, "a line of a CSV", str(error), "correct the line") from error


def _key(path: str) -> str:
    """macOS spells the names of files decomposed, and a table of them may not."""
    return unicodedata.normalize("NFC", path.strip())
