"""Embed images once with a frozen network, then train heads on the cached features.

The public names stand in ``__init__.pyi``, each with its home. A name is imported when it is first
used, so that importing the package costs nothing.
"""

import importlib
import importlib.metadata
import re
from pathlib import Path
from typing import Any

from tlcache.core.errors import DISTRIBUTION

_HOMES = {
    name: home
    for home, name in re.findall(
        r"^from (\S+) import (\w+) as", Path(__file__).with_suffix(".pyi").read_text(), re.MULTILINE
    )
}

try:
    __version__ = importlib.metadata.version(DISTRIBUTION)
except importlib.metadata.PackageNotFoundError:  # source that PYTHONPATH names, never installed
    __version__ = "0+unknown"
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tlcache' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
