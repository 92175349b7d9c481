"""Tables for people, and the words of their cells."""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Sequence

from tlcache.core.errors import one_line


def show_table(titles: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    """Print a table: plain columns, whole and aligned; on a terminal it is drawn, if it fits.

    A table without titles always fits, as its long cells are folded there. Under titles, a column
    whose every cell begins with a digit stands to the right.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    right = [
        titles is not None and all(c[:1].isdigit() for c in column)
        for column in zip(*cells, strict=True)
    ]
    lines = _plain([*([titles] if titles else []), *cells], right)
    if sys.stdout.isatty() and (titles is None or _fit(lines)):
        _draw(titles, cells, right)
    else:
        print("\n".join(lines), flush=True)


def count(number: int, noun: str) -> str:
    """A number of things, the noun's first word in the plural where it should be: ``2 shards``."""
    first, space, rest = noun.partition(" ")
    if number != 1:
        first = f"{first[:-1]}ies" if first.endswith("y") else f"{first}s"
    return f"{number:,} {first}{space}{rest}"


def size(count: int) -> str:
    """A number of bytes for people: ``12.3 MiB``."""
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:,.1f} {unit}"


def moment(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as local time: ``2026-01-31 12:05``."""
    try:
        when = datetime.datetime.fromtimestamp(nanoseconds // 10**9)
    except (ValueError, OverflowError, OSError):  # a file may bear any stamp
        return f"{nanoseconds // 10**9} s after 1970"
    return when.strftime("%Y-%m-%d %H:%M")


def _plain(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    from rich.cells import cell_len  # letters of some scripts are two columns wide

    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(right))]
    lines = []
    for row in rows:
        blanks = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        parts = [
            blank + cell if to_right else cell + blank
            for cell, blank, to_right in zip(row, blanks, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def _fit(lines: Sequence[str]) -> bool:
    from rich.cells import cell_len

    return max(map(cell_len, lines)) + 2 <= shutil.get_terminal_size().columns


def _draw(
    titles: Sequence[str] | None, rows: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=titles is not None)
    for title, to_right in zip(titles or [""] * len(right), right, strict=True):
        table.add_column(title, justify="right" if to_right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
