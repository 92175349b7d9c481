"""``tlcache cache ls``: the identities of a cache, one a row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cli import options as o
from tlcache.cli.output import Output, count, moment, show_table, size

if TYPE_CHECKING:
    from tlcache.cache.contents import IdentityFolder

EXAMPLES = "tlcache cache ls --cache-dir cache"

_TITLES = ("name", "trunk", "transform", "dtype", "rows", "shards", "snapshots", "size", "changed")


def run(cache_dir: o.CacheDir = Path("cache"), as_json: o.Json = False) -> None:
    """List what a cache holds. Quick: rows are counted as the shards claim, nothing is checked."""
    from tlcache.cache.contents import list_cache

    out = Output(as_json)
    folders = list_cache(cache_dir)
    listed = [_described(folder) for folder in folders]
    out.result({"cache": str(cache_dir), "identities": listed})
    if as_json:
        return
    if not folders:
        out.line(f"{cache_dir}: no features in it")
        return
    show_table(_TITLES, [_cells(values) for values in listed])
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
