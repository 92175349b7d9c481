"""What the scripts share: alternated rounds, medians with spread, tables, figures, how they end."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray

import tlcache

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, SKY, ORANGE, GREEN, GREY = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#999999"
"""Okabe and Ito's, told apart by every kind of colour vision."""
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#D55E00", SKY, GREY)

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write everything.")]

Result = TypeVar("Result")


def alternated(
    contenders: Mapping[str, Callable[[], Result]], rounds: int
) -> dict[str, list[Result]]:
    """What each contender gives, round after round; every other round goes backwards.

    So whatever the machine does meanwhile, it does to all of them.
    """
    given: dict[str, list[Result]] = {name: [] for name in contenders}
    for at in range(rounds):
        for name in list(contenders)[:: -1 if at % 2 else 1]:
            given[name].append(contenders[name]())
    return given


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most, and the values themselves in the order of the rounds."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": list(values),
    }


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, Any]:
    """Spread of one's value over the other's in the same round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def shown(values: Mapping[str, Any], digits: str) -> str:
    """A spread in a cell of a table."""
    return f"{values['median']:{digits}} ({values['min']:{digits}}–{values['max']:{digits}})"


def largest_difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest difference, over the largest of what is expected."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def smallest_cosine(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Between two rows of the same number."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what is in them; the first to the left, the others to the right."""
    lines = [titles, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(titles))]
    for line in lines:
        cells = zip(line[1:], widths[1:], strict=True)
        rest = "".join(f"  {cell.rjust(width)}" for cell, width in cells)
        print(f"{line[0].ljust(widths[0])}{rest}".rstrip())


def keep(
    values: Mapping[str, Any],
    json_file: Path | None,
    figure: Path | None = None,
    draw: Callable[[Any], Figure] | None = None,
) -> None:
    """Write the measurements, and what is drawn of them, to the files that are named."""
    if json_file is not None:
        json_file.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    if figure is not None and draw is not None:
        from tlcache.figures.style import save_png

        save_png(draw(values), figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no screen."""
    from matplotlib.figure import Figure

    return Figure((width, height), facecolor="white", layout="constrained")


def tidy(axes: Axes, title: str, along: str) -> None:
    """A title, the name of the horizontal axis, and as few lines as do."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(along, fontsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def bars(axes: Axes, spreads: Mapping[str, Mapping[str, Any]], colours: Sequence[str]) -> None:
    """Medians as bars from the top, least and most as whiskers."""
    rows = range(len(spreads))
    medians = [values["median"] for values in spreads.values()]
    below = [values["median"] - values["min"] for values in spreads.values()]
    above = [values["max"] - values["median"] for values in spreads.values()]
    whiskers = {"lw": 1, "ecolor": "#222222", "capsize": 2.5}
    axes.barh(rows, medians, 0.62, xerr=[below, above], color=colours, error_kw=whiskers)
    axes.set_yticks(rows, labels=list(spreads))
    axes.set_ylim(len(spreads) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def note(axes: Axes, text: str, at: tuple[float, float]) -> None:
    """A text to the right of a bar's end."""
    axes.annotate(text, at, (6, 0), textcoords="offset points", va="center", fontsize=8)


def say(line: str) -> None:
    """Tell a person how far it is."""
    print(line, file=sys.stderr)


def run(main: Callable[..., None]) -> None:
    """Run a script's ``main`` with the words of the command line."""
    try:
        typer.run(main)
    except tlcache.TlcacheError as error:
        sys.exit(f"error: {error}")
