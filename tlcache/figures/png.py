"""Writing a figure to a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from tlcache.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at 150 dots an inch, whole or not at all.

    Raises:
        CacheError: If the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    write_atomically(path, buffer.getvalue())
