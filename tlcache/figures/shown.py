"""A figure that shows itself in a notebook. Imports matplotlib, so it is itself imported late."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

_SCREEN_DPI = 96
_DPI = 120  # sharper than a screen of old, and no burden to a notebook's file


class ShownFigure(Figure):
    """A figure that notebooks draw although pyplot, whose figures they know, has no part in it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
        width, height = (round(side * _SCREEN_DPI) for side in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}
