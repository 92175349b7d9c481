"""``tlcache cache info``: all that is known of one identity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, count, moment, show_table, size

if TYPE_CHECKING:
    from tlcache.cache.identity import Identity
    from tlcache.cache.rows import SnapshotSummary

EXAMPLES = "tlcache cache info 3f9c2a1b"


def run(
    identity: Annotated[
        str,
        typer.Argument(
            metavar="IDENTITY",
            help="A folder, its name in the cache, or the beginning of its key "
            "(four digits or more).",
            show_default=False,
        ),
    ],
    cache_dir: o.CacheDir = Path("cache"),
    as_json: o.Json = False,
) -> None:
    """Tell all about one identity: what its features depend on, its rows and its snapshots."""
    from tlcache.cache.contents import describe_fault, find_folder, own_identity
    from tlcache.cache.rows import inspect

    out = Output(as_json)
    folder = find_folder(cache_dir, identity)
    own, done = own_identity(folder), 0
    with out.progress("reading shards", "shards") as progress:

        def tick() -> None:
            nonlocal done
            done += 1
            progress(done, max(done, len(folder.shards)))

        held, snapshots, faults = inspect(folder, own, tick)
    faults = [*folder.faults, *faults]
    values: dict[str, Any] = {
        "folder": str(folder.path),
        "key": own.key,
        "identity": own.describe(),
        "shards": len(folder.shards),
        "rows": held.rows,
        "duplicate_rows": held.rows - len(held.names),
        "images": held.images(),
        "bytes": folder.size,
        "changed_ns": folder.changed_ns,
        "set_aside": len(folder.set_aside),
        "temporary": len(folder.temporary),
        "faults": [describe_fault(fault) for fault in faults],
        "snapshots": [_described(snapshot) for snapshot in snapshots],
    }
    out.result(values)
    if as_json:
        return
    show_table(None, [*_identity_words(own), *_folder_words(values)])
    for snapshot in snapshots:
        out.line()
        show_table(None, _snapshot_words(snapshot))
    for fault in faults:
        out.line(f"fault: {fault}")


def _described(snapshot: SnapshotSummary) -> dict[str, Any]:
    return {
        "file": str(snapshot.file),
        "dataset": snapshot.dataset,
        "root": str(snapshot.root),
        "images": sum(snapshot.images.values()),
        "splits": snapshot.images,
        "classes": list(snapshot.classes),
        "unreadable": snapshot.unreadable,
        "views": snapshot.views,
        "taken_ns": snapshot.taken_ns,
        "rows": snapshot.asked.rows,
        "rows_cached": snapshot.asked.rows - snapshot.asked.missing,
    }


def _identity_words(identity: Identity) -> list[tuple[str, str]]:
    transform = identity.transform.describe()
    kind = transform.pop("kind")
    steps = ", ".join(f"{name} {_word(value)}" for name, value in transform.items())
    return [
        ("key", identity.key),
        ("format", str(identity.format)),
        ("trunk", identity.trunk),
        ("weights", f"SHA-256 {identity.weights}"),
        ("features", f"{identity.dim} numbers each, {identity.cut}"),
        ("precision", identity.precision),
        ("dtype", identity.dtype),
        ("transform", f"{kind}: {steps}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in identity.versions)),
    ]


def _folder_words(values: dict[str, Any]) -> list[tuple[str, str]]:
    duplicates = values["duplicate_rows"]
    besides = f", {count(duplicates, 'duplicate')} among them" if duplicates else ""
    left = f"{values['set_aside']:,} set aside (.bad), {values['temporary']:,} temporary (.tmp)"
    return [
        ("folder", values["folder"]),
        ("rows", f"{values['rows']:,} of {count(values['images'], 'image')}{besides}"),
        ("shards", f"{values['shards']:,}"),
        ("size", f"{size(values['bytes'])} ({values['bytes']:,} bytes)"),
        ("changed", moment(values["changed_ns"])),
        ("other files", left),
        ("snapshots", f"{len(values['snapshots']):,}"),
    ]


def _snapshot_words(snapshot: SnapshotSummary) -> list[tuple[str, str]]:
    splits = ", ".join(f"{n:,} {split}" for split, n in snapshot.images.items())
    asked = snapshot.asked
    return [
        ("data set", snapshot.dataset),
        ("root", str(snapshot.root)),
        ("images", f"{sum(snapshot.images.values()):,}: {splits}"),
        ("classes", f"{len(snapshot.classes):,}: {', '.join(snapshot.classes)}"),
        ("unreadable", f"{snapshot.unreadable:,}"),
        ("views", f"{snapshot.views:,} of each training image"),
        ("taken", moment(snapshot.taken_ns)),
        ("rows", f"{asked.rows - asked.missing:,} of {asked.rows:,} are cached"),
    ]


def _word(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)
