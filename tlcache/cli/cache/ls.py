"""``tlcache cache ls``."""

from __future__ import annotations

EXAMPLES = "tlcache cache ls"


def run() -> None:
    """To come."""
