"""``tlcache cache gc``: free the space of what a cache no longer needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, count, show_table, size

if TYPE_CHECKING:
    from tlcache.cache.gc import Garbage, Sweep

EXAMPLES = "tlcache cache gc --dry-run"

_TITLES = ("name", "rows", "unnamed", "duplicate", "shards", "size", "other files")


def run(
    identities: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IDENTITY]...",
            help="Folders, their names in the cache, or the beginnings of their keys.",
            show_default="all of the cache",
        ),
    ] = None,
    cache_dir: o.CacheDir = Path("cache"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Drop rows that no snapshot names, duplicates and left-over files; merge small shards.

    Other runs may read and fill the cache meanwhile. A row that a snapshot names is never lost.
    """
    from tlcache.cache.contents import find_folder, list_cache
    from tlcache.cache.gc import collect_garbage

    out = Output(as_json, quiet)
    folders = [find_folder(cache_dir, text).path for text in dict.fromkeys(identities or ())]
    if not folders:
        list_cache(cache_dir)  # says so where there is no cache
    done = collect_garbage(cache_dir, folders or None, dry_run=dry_run, report=out.note)
    out.result(done.describe())
    if not (as_json or quiet):
        _show(done)
    for sweep in done.identities:
        if sweep.kept_because:
            out.note(f"{sweep.folder.name}: every row counts as named: {sweep.kept_because}")


def _show(done: Garbage) -> None:
    if done.identities:
        show_table(_TITLES, [_cells(sweep) for sweep in done.identities])
    values = [sweep.describe() for sweep in done.identities]
    files = done.weights.set_aside + done.weights.temporary
    if files:
        print(f"weights: {count(files, 'other file')}, {size(done.weights.bytes)}")
    before, after = (sum(v[f"bytes_{when}"] for v in values) for when in ("before", "after"))
    freed = size(max(0, before - after + done.weights.bytes))
    print(f"{freed} would be freed; nothing was changed" if done.dry_run else f"{freed} freed")


def _cells(sweep: Sweep) -> list[str]:
    values = sweep.describe()
    return [
        sweep.folder.name,
        *(f"{values[name]:,}" for name in ("rows", "unnamed", "duplicate")),
        f"{values['shards_before']:,} → {values['shards_after']:,}",
        f"{size(values['bytes_before'])} → {size(values['bytes_after'])}",
        f"{values['set_aside'] + values['temporary']:,}",
    ]
