"""Seeded choices among named things that come out alike on every machine: parts, and samples.

What orders the names at random is SHA-256 of seed and name, so a choice depends on no generator,
no platform and no order of listing. Covers no files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import OptionError


def check_shares(shares: Sequence[float]) -> None:
    """Refuse shares that no ``--split`` can have.

    Raises:
        OptionError: If they are not two or three, not over 0, or do not sum to 1.
    """
    total = math.fsum(shares)
    if not (len(shares) in (2, 3) and all(s > 0 for s in shares) and abs(total - 1) < 1e-6):
        raise OptionError(
            "--split",
            expected="two or three shares over 0 that sum to 1",
            found=",".join(f"{share:g}" for share in shares),
            remedy="pass for example --split 0.8,0.2 or --split 0.7,0.15,0.15",
        )


def divide(names: Sequence[str], shares: Sequence[float], seed: int) -> list[list[str]]:
    """Names in parts: shares are rounded, no part is empty, and the first part takes the rest.

    Args:
        names: At least as many as there are shares.
        shares: Of each part; they sum to 1.
        seed: Of the choice.
    """
    sizes = [max(1, round(len(names) * share)) for share in shares[1:]]
    while sum(sizes) >= len(names):  # nothing would be left for the first part
        sizes[sizes.index(max(sizes))] -= 1
    ends = [len(names) - sum(sizes), *sizes]
    shuffled = iter(sorted(names, key=lambda name: _lot(seed, name)))
    return [[next(shuffled) for _ in range(size)] for size in ends]


def sample(
    names: Sequence[str], labels: NDArray[np.integer], count: int, seed: int
) -> NDArray[np.int64]:
    """Indices of a sample in which classes keep their shares: (about ``count``,), rising.

    Args:
        names: Of n things.
        labels: (n,) classes.
        count: How many to take. Every class gives at least one, even if that makes more; all are
            taken where there are no more.
        seed: Of the choice.
    """
    order = np.array(sorted(range(len(names)), key=lambda i: _lot(seed, names[i])), np.int64)
    turns = np.empty(len(names))
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turns[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        turns[mine[0]] = 0  # before all that are no class's first
    by_turn = order[np.argsort(turns[order], kind="stable")]
    return np.sort(by_turn[: max(count, np.count_nonzero(turns == 0))])


def _lot(seed: int, name: str) -> bytes:
    # surrogateescape: a file's name need not be UTF-8.
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
