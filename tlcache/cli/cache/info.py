"""``tlcache cache info``."""

from __future__ import annotations

EXAMPLES = "tlcache cache info"


def run() -> None:
    """To come."""
