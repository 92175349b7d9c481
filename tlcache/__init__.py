"""Transfer learning that embeds every image once and trains heads on cached features."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("tlcache")
