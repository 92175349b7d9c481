"""``tlcache cache verify``."""

from __future__ import annotations

EXAMPLES = "tlcache cache verify"


def run() -> None:
    """To come."""
