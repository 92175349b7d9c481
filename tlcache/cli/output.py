"""What a command prints: results on stdout, everything about the work on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cli import options as o
from tlcache.core.errors import one_line
from tlcache.core.progress import OpenTick, Reporter, no_tick, progress_bar
from tlcache.evaluation.roles import selection_note, split_role

if TYPE_CHECKING:
    from tlcache.features.read import Embedding

# Half a character, of a file name that is no UTF-8; what some readers take for the end of a line.
_TO_ESCAPE = re.compile("[\ud800-\udfff\x85\u2028\u2029]")


@dataclasses.dataclass(frozen=True)
class Output:
    """A command's voice, and the two options that it has.

    Attributes:
        as_json: stdout holds one JSON object and nothing else.
        quiet: Nothing but errors, and the JSON object where it was asked for.
    """

    as_json: o.Json = False
    quiet: o.Quiet = False

    @property
    def reporter(self) -> Reporter:
        """The same voice for the library."""
        return Reporter(self.note, self.progress)

    def line(self, text: str = "") -> None:
        """A line of the result, for people."""
        if not (self.as_json or self.quiet):
            print(one_line(text, keep="\n\t"), flush=True)

    def note(self, text: str) -> None:
        """A line about the work."""
        if not self.quiet:
            print(one_line(text, keep="\n\t"), file=sys.stderr, flush=True)

    def note_random(self, weights: str) -> None:
        """A line on a network that has learned nothing, where that is what was asked for."""
        from tlcache.trunks.info import note_random

        note_random(weights, self.note)

    def result(self, values: dict[str, Any]) -> None:
        """The result, for programs."""
        if self.as_json:
            text = json.dumps(values, ensure_ascii=False, allow_nan=False)
            if _TO_ESCAPE.search(text):
                text = json.dumps(values, allow_nan=False)
            print(text, flush=True)

    @contextlib.contextmanager
    def progress(self, title: str, unit: str = "images") -> Iterator[OpenTick]:
        """A progress bar with the speed and the time left; only where a person can see it.

        It is told how many are done, and of how many, if that is known.
        """
        if self.quiet:
            yield no_tick
            return
        with progress_bar(title, unit) as tick:
            yield tick


@dataclasses.dataclass(frozen=True)
class JsonOutput(Output):
    """The voice of a command that has no ``--quiet``."""

    quiet: bool = False


def tell_embedding(out: Output, embedding: Embedding) -> None:
    """What was embedded and what was there, for people."""
    done = embedding.describe()
    speed, rows = "", done["embedded_rows"]
    if rows > done["embedded"]:
        speed = f", {rows:,} rows with their views at {done['rows_per_second']:.0f} rows/s"
    elif rows:
        speed = f" at {done['images_per_second']:.0f} images/s"
    left_out = f", {len(embedding.unreadable)} cannot be read" if embedding.unreadable else ""
    out.line(
        f"{done['images']} images: {done['embedded']} embedded{speed}, "
        f"{done['reused']} were in the cache{left_out} ({done['seconds']:.1f} s)"
    )


def counts_of(embedding: Embedding) -> dict[str, Any]:
    """The same, for programs."""
    counts = embedding.describe()
    return {name: counts[name] for name in ("embedded", "reused", "unreadable")}


def tell_result(out: Output, result: dict[str, Any], folder: Path) -> None:
    """How a training run ended, for people."""
    seconds = result["seconds"]
    out.line(
        f"trained in {seconds['train']:.2f} s; best epoch {result['best_epoch']}, chosen on val"
    )
    tell_scores(out, result)
    note_selection(out, result["evaluation"])
    out.line(f"model, metrics and pictures: {folder}")


def tell_scores(out: Output, result: dict[str, Any], chose: str = "the epoch") -> None:
    """A run's accuracy on each split, with its interval and what the split was to the model."""
    labels = {
        split: f"{split} ({split_role(split, result['selected_on'], result['fitted_on'], chose)})"
        for split in result["evaluation"]
    }
    width = max(map(len, labels.values()))
    for split, judged in result["evaluation"].items():
        out.line(f"{labels[split]:>{width}}: {accuracy_text(judged)}, loss {judged['loss']:.3f}")


def accuracy_text(judged: Mapping[str, Any]) -> str:
    """An evaluation's accuracy with its interval and the number of images."""
    low, high = judged["accuracy_ci95"]
    return f"accuracy {judged['accuracy']:.3f} (95% {low:.3f}-{high:.3f}, n={judged['n']})"


def score_text(accuracy: float, interval: tuple[float, float]) -> str:
    """An accuracy with its interval, where a column's title says which."""
    return f"{accuracy:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def note_selection(out: Output, splits: Collection[str], chose: str = "the epoch") -> None:
    """One line where the split that is judged chose, and what to do; nothing where test is left."""
    if line := selection_note(splits, chose=chose):
        out.note(line)


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
    lines, wide = _plain([*([titles] if titles else []), *cells], right)
    room = shutil.get_terminal_size().columns
    if sys.stdout.isatty() and (titles is None or wide + 2 <= room):
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


def _plain(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> tuple[list[str], int]:
    """Lines of a table, and the columns that the longest takes."""
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
    return lines, max(map(cell_len, lines))


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
