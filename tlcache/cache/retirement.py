"""Deleting shards whose rows are elsewhere or unwanted, beside others who may want them still.

A shard is hidden first: renamed to what nobody lists. Then the snapshots are read once more, and
the new shards looked for; only then is it deleted, or shown again. ``embed`` saves its snapshot
before it looks for rows, so it either comes too late to see a row that is about to go, and makes
it, or its snapshot is seen here.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tlcache.cache.survey import Named, Shard, Survey, joined_ids
from tlcache.core.errors import CacheError

HIDDEN = ".hidden"


def retire(
    shards: Sequence[Shard], made: Sequence[Path], survey: Survey, named: Named
) -> list[Shard]:
    """Delete shards of which every row that is kept is in new ones; those that went.

    Args:
        shards: In the order of names.
        made: The new shards, committed in this very run.
        survey: That the shards are from.
        named: Is asked again which rows the snapshots name.

    Raises:
        CacheError: If the cache cannot be changed. Hidden shards are shown again.
    """
    hidden: dict[Shard, Path] = {}
    # Asked before as well: that spares the reader of a new snapshot from missing a hidden row.
    shards = _superfluous(shards, made, survey, named)
    try:
        for shard in reversed(shards):  # so that of equal rows the first goes on being taken
            target = shard.path.with_name(f".{shard.path.stem}.{secrets.token_hex(4)}{HIDDEN}")
            if _move(shard.path, target):
                hidden[shard] = target
        gone = _superfluous(list(hidden), made, survey, named)
    except BaseException:
        for shard, at in hidden.items():
            _move(at, shard.path)
        raise
    for shard in hidden.keys() - set(gone):
        _move(hidden[shard], shard.path)
    for shard in gone:
        delete(hidden[shard])
    return gone


def show_hidden(folder: Path) -> None:
    """Give the shards their names back that a killed run has hidden; a live one copes with it.

    Raises:
        CacheError: If the folder cannot be listed or changed.
    """
    for path in entries(folder):
        if path.suffix == HIDDEN and path.name[0] == ".":
            _move(path, path.with_name(f"{path.name.split('.')[1]}.h5"))


def entries(folder: Path) -> list[Path]:
    """What is in a folder, in the order of names; nothing if it is not there.

    Raises:
        CacheError: If it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(
            folder,
            expected="a folder that can be read",
            found=error.strerror or type(error).__name__,
            remedy="check its permissions or choose another --cache-dir",
        ) from error


def delete(path: Path) -> None:
    """Delete a file of a cache; one that is gone is as good.

    Raises:
        CacheError: If it cannot be deleted.
    """
    with _changing(path):
        path.unlink()


def _superfluous(
    shards: Sequence[Shard], made: Sequence[Path], survey: Survey, named: Named
) -> list[Shard]:
    """Those of the shards that may go: what is kept of them is there, the rest is unnamed still.

    Where a new shard is gone, another run has taken over, and may have judged otherwise.
    """
    if not all(path.exists() for path in made):
        return []
    ids = np.unique(joined_ids(shards))
    dropped = ids[~survey.named[ids]]
    if not len(dropped):
        return list(shards)
    wanted = np.zeros(len(survey.named), bool)
    wanted[dropped] = named(survey.images[dropped], survey.views[dropped])
    return [shard for shard in shards if not wanted[shard.ids].any()]


def _move(path: Path, target: Path) -> bool:
    """Rename a file; False if it is gone."""
    moved = False
    with _changing(path):
        path.rename(target)
        moved = True
    return moved


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:  # another run was faster
        return
    except OSError as error:
        raise CacheError(
            path,
            expected="a cache that can be written",
            found=error.strerror or type(error).__name__,
            remedy="check its permissions; every row that a snapshot names is kept",
        ) from error
