"""What figures are drawn from, and what is seen on them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from tlcache.heads.recipe import EpochRecord


def photos_of(n: int) -> NDArray[np.uint8]:
    """n random images, (n, 12, 16, 3)."""
    return np.random.default_rng(0).integers(0, 256, (n, 12, 16, 3), dtype=np.uint8)


def texts(part: Figure | Axes) -> list[str]:
    """Every text that a part of a figure shows."""
    return [text.get_text() for text in part.findobj(Text) if text.get_text()]


def drawn(figure: Figure, dpi: int = 50) -> Image.Image:
    """The figure drawn, which is when matplotlib would warn of what it cannot draw."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer)


def record(epoch: int, value: float = 0.5) -> EpochRecord:
    """An epoch with a value as its losses."""
    return EpochRecord(epoch, 0.001, value, 0.5, value, 0.6 + epoch / 100, 1.0)


def contender(name: str, **stages: float) -> dict[str, Any]:
    """A contender of a benchmark with its seconds by stage."""
    return {
        "name": name,
        "seconds_by_stage": stages,
        "accuracy": 0.961,
        "accuracy_ci95": (0.918, 0.982),
    }


def ends(axes: Axes) -> NDArray[np.float64]:
    """(n, 2, 2): both ends of each line of the first collection."""
    (lines,) = [part for part in axes.collections[:1] if isinstance(part, LineCollection)]
    return np.array(lines.get_segments())
