"""``tlcache cache diff``."""

from __future__ import annotations

EXAMPLES = "tlcache cache diff"


def run() -> None:
    """To come."""
