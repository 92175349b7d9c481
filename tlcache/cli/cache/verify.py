"""``tlcache cache verify``: is all of a cache sound?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, count

if TYPE_CHECKING:
    from tlcache.cache.verify import Verification

EXAMPLES = "tlcache cache verify --cache-dir cache"

_NOTES = {
    "unnamed_rows": "row that no snapshot names",
    "duplicate_rows": "duplicate",
    "set_aside": "file set aside (.bad)",
    "temporary": "file left unfinished (.tmp)",
    "other_files": "file of another kind",
}


def run(
    identities: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IDENTITY",
            help="Folders, their names in the cache, or the beginnings of their keys; "
            "each with its eval or train sibling.",
            show_default="all of the cache",
        ),
    ] = None,
    cache_dir: o.CacheDir = Path("cache"),
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Read and check every file of a cache, and change none. Exits with 1 if there is a fault."""
    from tlcache.cache.verify import verify_cache
    from tlcache.core.errors import CacheError

    out = Output(as_json, quiet)
    with out.progress("verifying", "files") as tick:
        found = verify_cache(cache_dir, identities or (), tick)
    for fault in found.findings:
        out.line(str(fault))
    out.result(found.describe())
    if not found.sound:
        raise CacheError(
            cache_dir,
            expected="every file as it was written",
            found=f"{count(len(found.findings), 'fault')}, the first in {found.findings[0].where}",
            remedy="do what is said of each",
        )
    out.line(_summary(cache_dir, found))


def _summary(cache: Path, found: Verification) -> str:
    notes = [count(found.notes[name], noun) for name, noun in _NOTES.items() if found.notes[name]]
    besides = f" (besides: {', '.join(notes)}; see `tlcache cache gc`)" if notes else ""
    if not (found.shards or found.snapshots):
        return f"{cache}: no features in it to verify{besides}"
    counts = [
        count(found.shards, "shard"),
        count(found.rows, "row"),
        count(found.snapshots, "snapshot"),
    ]
    return f"{', '.join(counts)}: all sound{besides}"
