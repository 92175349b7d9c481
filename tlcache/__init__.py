"""Embed images once with a frozen network, then train heads on the cached features.

The public names stand in ``__init__.pyi``, each with its home. A name is imported when it is first
used, so that importing the package costs nothing.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from tlcache.core.errors import DISTRIBUTION

_HOMES = {
    name: home
    for home, name in re.findall(
        r"^from (\S+) import (\w+) as", Path(__file__).with_suffix(".pyi").read_text("utf-8"), re.M
    )
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib import metadata  # dear to import, and no help needs it

        try:
            return metadata.version(DISTRIBUTION)
        except metadata.PackageNotFoundError:  # source that PYTHONPATH names, never installed
            return "0+unknown"
    raise AttributeError(f"module 'tlcache' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
