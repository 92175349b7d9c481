"""Palette and style of every figure; names are drawn as they are (see ``text``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tlcache.figures.text import families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by every kind of colour vision; green darker, for text.
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#007A5A"
STAGES = (BLUE, "#56B4E9", "#E69F00", "#009E73", "#CC79A7", RED, "#999999")
INK, SOFT, FAINT = "#222222", "#666666", "#dddddd"


def new_figure(width: float, height: float, constrained: bool = True) -> Figure:
    """An empty white figure of so many inches, laid out by itself unless told otherwise."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from tlcache.figures.shown import ShownFigure

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.03) if constrained else None
    return ShownFigure((width, height), dpi=150, facecolor="white", layout=layout)


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


def note(
    axes: Axes, text: str, at: tuple[float, float], off: tuple[float, float], **how: Any
) -> None:
    """Words ``off`` points from a place, which may lie outside the axes."""
    style: dict[str, Any] = {"fontsize": 8.5, "annotation_clip": False} | how
    axes.annotate(text, at, off, textcoords="offset points", **style)


def finish(figure: Figure) -> Figure:
    """The figure with every text as plain letters in fonts that can draw it."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set(parse_math=False, usetex=False, fontfamily=families())
    return figure


def integer_ticks(axes: Axes, epochs: Sequence[int], name: str = "epoch") -> None:
    """Ticks at whole numbers of what is counted from 1, such as epochs or runs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    margin = 0.5 if len(set(epochs)) == 1 else 0.02 * (epochs[-1] - epochs[0])
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.set_xlabel(name, fontsize=8, color=SOFT)


def seconds_text(value: float) -> str:
    """Seconds, said with the figures that matter."""
    return f"{short_number(value)} s"


def short_number(value: float) -> str:
    """Two figures, or three over 10, and never an exponent for what is large: 0.042, 6.3, 84.3."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.{3 if value >= 10 else 2}g}"
