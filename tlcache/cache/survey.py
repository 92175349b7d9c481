"""What the shards of one identity hold: every row's name, and whether a snapshot names it.

Reads every shard and keeps no feature: memory is linear in the rows, and does not depend on their
length. Covers no change to a shard (``compaction``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.identity import Identity
from tlcache.cache.shards import Rows, read_shard
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import is_gone

NAME_BYTES = 36
"""Of a row's name: the image's digest and the view."""

Named = Callable[[NDArray[np.uint8], NDArray[np.int32]], NDArray[np.bool_]]
"""Which rows the snapshots name, as they are when it is called: (n, 32) and (n,) to (n,)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """A sound shard, and which of the survey's names its rows have, (n,)."""

    path: Path
    ids: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Survey:
    """The sound shards in the order of names, and the m different names of their rows.

    Attributes:
        shards: All that are sound.
        images, views: (m, 32) and (m,): the names.
        named: (m,): which of them a snapshot names.
    """

    shards: list[Shard]
    images: NDArray[np.uint8]
    views: NDArray[np.int32]
    named: NDArray[np.bool_]

    def counts(self, shards: Sequence[Shard]) -> tuple[int, int, int]:
        """Rows in the shards: all, those that no snapshot names, and different named ones."""
        ids = joined_ids(shards)
        named = self.named[ids]
        return len(ids), int((~named).sum()), len(np.unique(ids[named]))


def take_survey(
    paths: Sequence[Path], identity: Identity, named: Named, report: Callable[[str], None]
) -> Survey:
    """Read all shards, for the names of their rows.

    Args:
        paths: The shards, in the order of names.
        identity: That the rows belong to.
        named: Says which rows the snapshots name; asked after the shards were read, so that a row
            that was named before it was committed is seen as named.
        report: Is told, in one line, of each damaged shard.

    Raises:
        CacheError: If a shard cannot be read.
    """
    names, found = [np.zeros((0, NAME_BYTES), np.uint8)], []
    for path in paths:
        try:
            rows = read_if_there(path, identity)
        except DamageError as error:
            report(f"left alone: {error}")
            continue
        if rows is not None:
            view_bytes = rows.views.astype("<i4", copy=False)[:, None].view(np.uint8)
            names.append(np.concatenate([rows.images, view_bytes], axis=1))
            found.append(path)
    # As texts of bytes they sort fast, and all of their bytes count, as they are equally long.
    texts = np.concatenate(names).view(f"S{NAME_BYTES}")[:, 0]
    different, ids = np.unique(texts, return_inverse=True)
    table = different.view(np.uint8).reshape(-1, NAME_BYTES)
    images, views = table[:, :32].copy(), table[:, 32:].copy().view("<i4")[:, 0]
    parts = np.split(ids, np.cumsum([len(part) for part in names]))[1:-1]
    shards = [Shard(path, part) for path, part in zip(found, parts, strict=True)]
    return Survey(shards, images, views, named(images, views))


def read_if_there(path: Path, identity: Identity) -> Rows | None:
    """A shard's rows; None if it has vanished: whoever deleted it has them elsewhere.

    Raises:
        CacheError: If it cannot be read.
        DamageError: If it is damaged.
    """
    try:
        return read_shard(path, identity)
    except DamageError:
        raise
    except CacheError as error:
        if not is_gone(error):
            raise
    return None


def to_rewrite(survey: Survey, per_shard: int) -> list[Shard]:
    """The shards with a row to drop, every shard with a copy of a row, and the small ones.

    A shard of less than a quarter of ``per_shard`` rows is small. Two of them fit into one, so
    there are always fewer shards or rows afterwards.
    """
    copies = np.bincount(joined_ids(survey.shards), minlength=len(survey.named))
    spare = (copies > 1) | ~survey.named
    spoilt = {shard for shard in survey.shards if spare[shard.ids].any()}
    small = {shard for shard in survey.shards if 4 * len(shard.ids) < per_shard}
    chosen = spoilt | small if spoilt or len(small) > 1 else set()
    return [shard for shard in survey.shards if shard in chosen]


def joined_ids(shards: Sequence[Shard]) -> NDArray[np.int64]:
    """The ids of all rows of the shards, one after the other."""
    return np.concatenate([np.zeros(0, np.int64), *(shard.ids for shard in shards)])
