"""What looks after a cache: what it holds, whether it is sound, what differs, what can go."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import JsonOutput, Output, count, moment, show_table, size

if TYPE_CHECKING:
    from tlcache.cache.contents import IdentityFolder
    from tlcache.cache.gc import Garbage, Sweep
    from tlcache.cache.identity import Identity
    from tlcache.cache.rows import SnapshotSummary
    from tlcache.cache.verify import Verification

_ONE = "A folder, its name in the cache, or the beginning of its key (four digits or more)."
_SOME = "Folders, their names in the cache, or the beginnings of their keys"


@o.command("tlcache cache ls --cache-dir cache")
def ls(out: JsonOutput, cache_dir: o.CacheDir = Path("cache")) -> None:
    """List what a cache holds. Quick: rows are counted as the shards claim, nothing is checked."""
    from tlcache.cache.contents import list_cache

    folders = list_cache(cache_dir)
    listed = [_described(folder) for folder in folders]
    out.result({"cache": str(cache_dir), "identities": listed})
    if out.as_json:
        return
    if not folders:
        out.line(f"{cache_dir}: no features in it")
        return
    titles = "name", "trunk", "transform", "dtype", "rows", "shards", "snapshots", "size", "changed"
    show_table(titles, [_cells(values) for values in listed])
    rows, total = (sum(values[name] for values in listed) for name in ("rows", "bytes"))
    out.line(f"{count(len(listed), 'identity')}, {count(rows, 'row')}, {size(total)}")
    for folder, values in zip(folders, listed, strict=True):
        for line in _remarks(folder, values["uncounted_shards"]):
            out.line(line)


def _described(folder: IdentityFolder) -> dict[str, Any]:
    from tlcache.cache.contents import count_rows, describe_fault

    identity, (rows, uncounted) = folder.identity, count_rows(folder)
    return {
        "name": folder.path.name,
        "key": identity and identity.key,
        "trunk": identity and identity.trunk,
        "transform": identity and identity.transform.kind,
        "dtype": identity and identity.dtype,
        "rows": rows,
        "shards": len(folder.shards),
        "uncounted_shards": uncounted,
        "snapshots": len(folder.snapshots),
        "bytes": folder.size,
        "changed_ns": folder.changed_ns,
        "faults": [describe_fault(fault) for fault in folder.faults],
    }


def _cells(values: dict[str, Any]) -> list[str]:
    words = [values[name] or "-" for name in ("name", "trunk", "transform", "dtype")]
    numbers = [f"{values[name]:,}" for name in ("rows", "shards", "snapshots")]
    changed = moment(values["changed_ns"]) if values["changed_ns"] else "-"
    return [*words, *numbers, size(values["bytes"]), changed]


def _remarks(folder: IdentityFolder, uncounted: int) -> list[str]:
    """What a reader of the table must know besides."""
    if folder.faults:
        return [f"cannot be used: {fault}" for fault in folder.faults]
    if folder.identity is None:
        return [f"{folder.path}: empty; a run was stopped before it put anything there"]
    if uncounted:
        return [
            f"{folder.path}: {count(uncounted, 'shard')} whose rows could not be counted; "
            "see `tlcache cache verify`"
        ]
    return []


@o.command("tlcache cache info 3f9c2a1b")
def info(
    identity: Annotated[str, typer.Argument(metavar="IDENTITY", help=_ONE, show_default=False)],
    out: JsonOutput,
    cache_dir: o.CacheDir = Path("cache"),
) -> None:
    """Tell all about one identity: what its features depend on, its rows and its snapshots."""
    from tlcache.cache.contents import describe_fault, find_folder, own_identity
    from tlcache.cache.rows import inspect

    folder = find_folder(cache_dir, identity)
    own, total, read = own_identity(folder), len(folder.shards), itertools.count(1)
    with out.progress("reading shards", "shards") as tick:
        held, snapshots, faults = inspect(
            folder, own, lambda: tick(done := next(read), max(done, total))
        )
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
        "snapshots": [_snapshot_values(snapshot) for snapshot in snapshots],
    }
    out.result(values)
    if out.as_json:
        return
    show_table(None, _identity_words(own, values))
    for snapshot in snapshots:
        out.line()
        show_table(None, _snapshot_words(snapshot))
    for fault in faults:
        out.line(f"fault: {fault}")


def _snapshot_values(snapshot: SnapshotSummary) -> dict[str, Any]:
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


def _identity_words(identity: Identity, values: dict[str, Any]) -> list[tuple[str, str]]:
    transform = identity.transform.describe()
    kind = transform.pop("kind")
    for name, value in transform.items():
        if isinstance(value, list):
            transform[name] = " ".join(f"{part:g}" for part in value)
    steps = ", ".join(f"{name} {value}" for name, value in transform.items())
    duplicates = values["duplicate_rows"]
    besides = f", {count(duplicates, 'duplicate')} among them" if duplicates else ""
    left = f"{values['set_aside']:,} set aside (.bad), {values['temporary']:,} temporary (.tmp)"
    return [
        ("key", identity.key),
        ("format", str(identity.format)),
        ("trunk", identity.trunk),
        ("weights", f"SHA-256 of the tensors: {identity.weights}"),
        ("features", f"{identity.dim} numbers each, {identity.cut}"),
        ("precision", identity.precision),
        ("dtype", identity.dtype),
        ("transform", f"{kind}: {steps}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in identity.versions)),
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


@o.command("tlcache cache verify --cache-dir cache")
def verify(
    out: Output,
    identities: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IDENTITY",
            help=f"{_SOME}; each with its eval or train sibling.",
            show_default="all of the cache",
        ),
    ] = None,
    cache_dir: o.CacheDir = Path("cache"),
) -> None:
    """Read and check every file of a cache, and change none. Exits with 1 if there is a fault."""
    from tlcache.cache.verify import verify_cache
    from tlcache.core.errors import CacheError

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


_NOTES = {
    "unnamed_rows": "row that no snapshot names",
    "duplicate_rows": "duplicate",
    "set_aside": "file set aside (.bad)",
    "temporary": "file left unfinished (.tmp)",
    "other_files": "file of another kind",
}


def _summary(cache: Path, found: Verification) -> str:
    notes = [count(found.notes[name], noun) for name, noun in _NOTES.items() if found.notes[name]]
    besides = f" (besides: {', '.join(notes)}; see `tlcache cache gc`)" if notes else ""
    if not (found.shards or found.snapshots):
        return f"{cache}: no features in it to verify{besides}"
    shards, snapshots = count(found.shards, "shard"), count(found.snapshots, "snapshot")
    return f"{shards}, {count(found.rows, 'row')}, {snapshots}: all sound{besides}"


@o.command("tlcache cache diff 3f9c2a1b 7baa4df3")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=_ONE, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.", show_default=False)],
    out: JsonOutput,
    cache_dir: o.CacheDir = Path("cache"),
) -> None:
    """Tell in words what differs between two identities: why a feature of one is none of the other.

    A and B may be folders of different caches.
    """
    from tlcache.cache.contents import find_folder, own_identity
    from tlcache.cache.identity import differences

    old, new = (own_identity(find_folder(cache_dir, text)) for text in (a, b))
    lines = differences(old, new)
    for line in lines or ["no difference"]:
        out.line(line)
    out.result({"a": old.key, "b": new.key, "differences": lines})


@o.command("tlcache cache gc --dry-run")
def gc(
    out: Output,
    identities: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IDENTITY]...", help=f"{_SOME}.", show_default="all of the cache"),
    ] = None,
    cache_dir: o.CacheDir = Path("cache"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
) -> None:
    """Drop rows that no snapshot names, duplicates and left-over files; merge small shards.

    Other runs may read and fill the cache meanwhile. A row that a snapshot names is never lost.
    """
    from tlcache.cache.contents import find_folder, list_cache
    from tlcache.cache.gc import collect_garbage

    folders = [find_folder(cache_dir, text).path for text in dict.fromkeys(identities or ())]
    if not folders:
        list_cache(cache_dir)  # says so where there is no cache
    done = collect_garbage(cache_dir, folders or None, dry_run=dry_run, report=out.note)
    out.result(done.describe())
    if not (out.as_json or out.quiet):
        _show_freed(done)
    for sweep in done.identities:
        if sweep.kept_because:
            out.note(f"{sweep.folder.name}: every row counts as named: {sweep.kept_because}")


def _show_freed(done: Garbage) -> None:
    if done.identities:
        titles = "name", "rows", "unnamed", "duplicate", "shards", "size", "other files"
        show_table(titles, [_swept_cells(sweep) for sweep in done.identities])
    values = [sweep.describe() for sweep in done.identities]
    files = done.weights.set_aside + done.weights.temporary
    if files:
        print(f"weights: {count(files, 'other file')}, {size(done.weights.bytes)}")
    before, after = (sum(v[f"bytes_{when}"] for v in values) for when in ("before", "after"))
    freed = size(max(0, before - after + done.weights.bytes))
    print(f"{freed} would be freed; nothing was changed" if done.dry_run else f"{freed} freed")


def _swept_cells(sweep: Sweep) -> list[str]:
    values = sweep.describe()
    return [
        sweep.folder.name,
        *(f"{values[name]:,}" for name in ("rows", "unnamed", "duplicate")),
        f"{values['shards_before']:,} → {values['shards_after']:,}",
        f"{size(values['bytes_before'])} → {size(values['bytes_after'])}",
        f"{values['set_aside'] + values['temporary']:,}",
    ]


app = typer.Typer(
    no_args_is_help=True,
    help="Look after a cache: what it holds, and whether all of it is sound.",
    epilog="Begin with: tlcache cache ls",
)
for one in (ls, info, verify, diff, gc):
    app.command(one.name, epilog=one.example)(one.run)
