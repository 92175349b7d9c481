"""Checks of what figures are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from tlcache.core.errors import DataError


def check_counts(where: str, n: int, **beside: Sequence[Any] | NDArray[Any] | None) -> None:
    """Refuse to draw no values, or values beside them of another count.

    Raises:
        DataError: If there are none, or the counts differ.
    """
    check(n > 0, where, "at least one", "none", "pass some")
    for name, values in beside.items():
        found = n if values is None else len(values)
        check(found == n, name, f"{n}, as many as {where}", str(found), "pass one for each")


def check(good: bool, where: str, expected: str, found: str, remedy: str) -> None:
    """Go on only if what is to be drawn is good.

    Raises:
        DataError: If it is not.
    """
    if not good:
        raise DataError(where, expected=expected, found=found, remedy=remedy)
