"""What all figures share: palette, axes, labels, PNG, names that the fonts can draw, and checks.

Names are drawn as they are, never as mathematics. Imports matplotlib only where something is drawn.
"""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tlcache.core.errors import DataError
from tlcache.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette, told apart by every kind of colour vision; green darker, for text.
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#007A5A"
STAGES = (BLUE, "#56B4E9", "#E69F00", "#009E73", "#CC79A7", RED, "#999999")
INK, SOFT, FAINT = "#222222", "#666666", "#dddddd"

# The look of a line that guides the eye, and the place of a legend over its axes.
DASHED: dict[str, Any] = {"color": SOFT, "lw": 0.8, "ls": (0, (3, 3)), "zorder": 1}
OVER: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0}

_DPI = 150  # of a file
_SCREEN_DPI, _PAGE_DPI = 96, 120  # sharper than a screen of old, and no burden to a notebook's file


def new_figure(width: float, height: float, constrained: bool = True) -> Figure:
    """An empty white figure of so many inches, laid out by itself unless told otherwise.

    Notebooks draw it, although pyplot, whose figures they know, has no part in it.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.03) if constrained else None
    figure = Figure((width, height), dpi=_DPI, facecolor="white", layout=layout)
    figure._repr_png_ = functools.partial(_shown, figure)  # type: ignore[attr-defined]
    return figure


def _shown(figure: Figure) -> tuple[bytes, dict[str, int]]:
    width, height = (round(side * _SCREEN_DPI) for side in figure.get_size_inches())
    return _png(figure, _PAGE_DPI), {"width": width, "height": height}


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at 150 dots an inch, whole or not at all.

    Raises:
        CacheError: If the file cannot be written.
    """
    write_atomically(path, _png(figure, _DPI))


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def finish(figure: Figure) -> Figure:
    """The figure with every text as plain letters in fonts that can draw it."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set(parse_math=False, usetex=False, fontfamily=families())
    return figure


def tidy(axes: Axes, title: str, grid: str | None, pad: float = 10) -> None:
    """Axes in the style of all figures: a title on the left, soft spines, at most a faint grid."""
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=pad)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set(color=SOFT, linewidth=0.6)
    axes.tick_params(colors=SOFT, labelsize=8, length=3, width=0.6)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=FAINT, lw=0.6)  # type: ignore[arg-type]


def label(axes: Axes, x: str = "", y: str = "", size: float = 8) -> None:
    """What is measured along the axes."""
    axes.set_xlabel(x, fontsize=size, color=SOFT)
    axes.set_ylabel(y, fontsize=size, color=SOFT)


def legend(axes: Axes, **how: Any) -> None:
    """A legend without a frame."""
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **how)


def note(
    axes: Axes, text: str, at: tuple[float, float], off: tuple[float, float], **how: Any
) -> None:
    """Words ``off`` points from a place, which may lie outside the axes."""
    style: dict[str, Any] = {"fontsize": 8.5, "annotation_clip": False} | how
    axes.annotate(text, at, off, textcoords="offset points", **style)


def mark(axes: Axes, x: float, text: str, leftwards: bool, colour: str) -> None:
    """A dashed line across at x, with words over it."""
    axes.axvline(x, **DASHED)
    place, side = axes.get_xaxis_transform(), "right" if leftwards else "left"
    note(axes, text, (x, 1), (0, 4), xycoords=place, ha=side, color=colour)


def interval_dot(
    axes: Axes, x: Sequence[float], y: Sequence[float], at: tuple[float, float], lw: float
) -> None:
    """A value as a dot on the line of its interval, both ends of which are given."""
    axes.plot(x, y, color=BLUE, lw=lw, solid_capstyle="butt")
    axes.plot(*at, "o", color=BLUE, ms=6)


def integer_ticks(axes: Axes, epochs: Sequence[int], name: str = "epoch") -> None:
    """Ticks at whole numbers of what is counted from 1, such as epochs or runs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    margin = 0.5 if len(set(epochs)) == 1 else 0.02 * (epochs[-1] - epochs[0])
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    label(axes, name)


def seconds_text(value: float) -> str:
    """Seconds, said with the figures that matter."""
    return f"{short_number(value)} s"


def short_number(value: float) -> str:
    """Two figures, or three over 10, and never an exponent for what is large: 0.042, 6.3, 84.3."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.{3 if value >= 10 else 2}g}"


_CJK_FONTS = (
    "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo",
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Source Han Sans", "Hiragino Sans",
    "Microsoft YaHei", "WenQuanYi Zen Hei", "Arial Unicode MS",
)  # fmt: skip


def fit(text: str, points: float, size: float) -> str:
    """The text on one line, at most so wide: its middle gives way to an ellipsis."""
    shown = plain = drawable(text)
    kept = len(plain)
    while kept > 2 and text_width(shown, size) > points:
        kept = min(kept - 1, 200)
        shown = f"{plain[: kept - kept // 2].rstrip()}…{plain[-(kept // 2) :].lstrip()}"
    return shown


def drawable(text: str) -> str:
    """The text on one line, composed, with ``□`` for what no font here can draw."""
    # Composed: macOS spells file names decomposed, for which fonts have no glyph.
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c if c.isprintable() and ord(c) in _characters() else "□" for c in line)


def text_width(text: str, size: float) -> float:
    """The points that a text takes at a size."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=families(), size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


@functools.cache
def families() -> tuple[str, ...]:
    """The font families to draw with: DejaVu Sans, then those for CJK that are installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _CJK_FONTS if name in installed))


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(family=name))) for name in families()]
    return frozenset(code for font in fonts for code in font.get_charmap())


def check_counts(where: str, n: int, **beside: Sequence[Any] | NDArray[Any] | None) -> None:
    """Refuse to draw no values, or values beside them of another count, with a DataError."""
    check(n > 0, where, "at least one", "none", "pass some")
    for name, values in beside.items():
        found = n if values is None else len(values)
        check(found == n, name, f"{n}, as many as {where}", str(found), "pass one for each")


def check(good: bool, where: str, expected: str, found: str, remedy: str) -> None:
    """Go on only if what is to be drawn is good; raise a DataError otherwise."""
    if not good:
        raise DataError(where, expected=expected, found=found, remedy=remedy)
