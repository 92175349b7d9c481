"""Figures of runs, each from plain arrays: images, curves, confusion, benchmarks, spreads.

Built on ``matplotlib.figure.Figure`` alone, never pyplot, so that no global state is touched and
no screen is needed. Names are shown as they are, never as mathematics; a character that no font
here can draw becomes ``□``. Computes no metric (see ``evaluation``) and reads no file.
"""

from __future__ import annotations

import functools
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.errors import DataError
from tlcache.files import write_atomically
from tlcache.recipe import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Okabe and Ito's palette, told apart by every kind of colour vision; green darker, for text.
_BLUE, _RED, _GREEN = "#0072B2", "#D55E00", "#007A5A"
_STAGES = (_BLUE, "#56B4E9", "#E69F00", "#009E73", "#CC79A7", _RED, "#999999")
_INK, _SOFT, _FAINT = "#222222", "#666666", "#dddddd"
_CJK_FONTS = (
    "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo",
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Source Han Sans", "Hiragino Sans",
    "Microsoft YaHei", "WenQuanYi Zen Hei", "Arial Unicode MS",
)  # fmt: skip


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at 150 dots an inch, whole or not at all.

    Raises:
        CacheError: If the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    write_atomically(path, buffer.getvalue())


def image_grid(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    titles: Sequence[str],
    columns: int | None = None,
    title: str | None = None,
    colours: Sequence[str] | None = None,
) -> Figure:
    """Images in rows, each under its title.

    Args:
        images: n arrays (H, W, 3) uint8, or one (n, H, W, 3).
        titles: n, one line each.
        columns: Images a row; if None, a number that suits n.
        title: Over the whole figure.
        colours: n, for a title and a frame each; if None, neither frame nor colour.

    Raises:
        DataError: If there is no image, one is not (H, W, 3) uint8, or the counts differ.
    """
    _check_counts("images", len(images), titles=titles, colours=colours)
    captions = [[_fit(text, 106, 8.5)] for text in titles]
    return _grid(images, captions, columns, title, colours)


def prediction_grid(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    truths: Sequence[str],
    predictions: Sequence[str],
    probabilities: Sequence[float] | NDArray[np.floating],
    title: str | None = None,
) -> Figure:
    """Images under their predicted class, its probability and their true class.

    Right ones are green with a tick, wrong ones red with a cross.

    Args:
        images: n arrays (H, W, 3) uint8, or one (n, H, W, 3).
        truths, predictions: n class names.
        probabilities: n, of the predicted class.
        title: Over the whole figure; if None, how many are right.

    Raises:
        DataError: As :func:`image_grid`.
    """
    beside = {"truths": truths, "predictions": predictions, "probabilities": probabilities}
    _check_counts("images", len(images), **beside)
    right = [truth == prediction for truth, prediction in zip(truths, predictions, strict=True)]
    captions = [
        [f"{'✓' if ok else '✗'} {_fit(name, 70, 8.5)} {share:.0%}", f"true: {_fit(truth, 78, 8.5)}"]
        for ok, name, truth, share in zip(right, predictions, truths, probabilities, strict=True)
    ]
    colours = [_GREEN if ok else _RED for ok in right]
    heading = title if title is not None else f"{sum(right)} of {len(right)} right"
    return _grid(images, captions, None, heading, colours)


def learning_curves(history: Sequence[EpochRecord], best_epoch: int | None = None) -> Figure:
    """Loss and accuracy by epoch, of training and validation; the best epoch is marked.

    Raises:
        DataError: If there is no epoch, or the best one is not among them.
    """
    epochs = [record.epoch for record in history]
    _check(len(epochs) > 0, "history", "at least one epoch", "none", "train for an epoch or more")
    known = best_epoch is None or best_epoch in epochs
    _check(known, "best epoch", "one of the history", str(best_epoch), "pass the same run's")
    figure = _figure(8, 3.1)
    for axes, name, unit in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), (", nats", ""), strict=True
    ):
        _tidy(axes, f"{name.capitalize()}{unit}", "y", pad=20)
        _draw_parts(axes, history, name)
        _integer_ticks(axes, epochs)
        if best_epoch is not None:
            value = getattr(history[epochs.index(best_epoch)], f"val_{name}")
            _mark_best(axes, best_epoch, value)
    return _finish(figure)


def confusion_figure(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """A confusion matrix: counts written, shares of the true class coloured.

    Args:
        confusion: (C, C) counts; rows are truths, columns predictions.
        classes: C names. Over 20 classes no count is written, over 100 not every name.

    Raises:
        DataError: If the matrix is not (C, C).
    """
    counts, c = np.asarray(confusion), len(classes)
    _check(
        c > 0 and counts.shape == (c, c),
        "confusion",
        f"shape ({c}, {c}), one row and one column a class, and at least one class",
        str(counts.shape),
        "pass the confusion and the classes of one evaluation",
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = (
        max(0.9, 2.2 / c)
        if c <= 4
        else 0.5
        if c <= 20
        else max(0.12, 10 / c)
        if c <= 100
        else 12 / c
    )
    figure = _figure(1, 1)
    axes = figure.subplots()
    _tidy(axes, f"{int(np.trace(counts)):,} of {int(counts.sum()):,} right", None)
    numbers = c <= 20
    # Where no number is written the root of a share is coloured: a few confused images must show.
    image = axes.imshow(shares if numbers else shares**0.5, cmap="Blues", vmin=0, vmax=1)
    left, bottom = _name_classes(axes, classes, cell)
    if numbers:
        _write_counts(axes, counts, shares)
    else:
        _root_bar(figure, axes, image)
    figure.set_size_inches(cell * c + left + (0.3 if numbers else 1.1), cell * c + bottom + 0.5)
    return _finish(figure)


def benchmark_figure(contenders: Sequence[Mapping[str, Any]]) -> Figure:
    """Seconds by stage as stacked bars, accuracies with their intervals beside.

    Args:
        contenders: Of each ``name``, ``seconds_by_stage`` {stage: seconds}, ``accuracy`` and
            ``accuracy_ci95`` (low, high); drawn from the top.

    Raises:
        DataError: If there is none.
    """
    count = len(contenders)
    _check(count > 0, "contenders", "at least one", "none", "benchmark something first")
    figure = _figure(9, 1.3 + 0.52 * count)
    times, accuracies = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.3))
    faster = " (×: times faster than the slowest)" if count > 1 else ""
    _tidy(times, f"Seconds by stage{faster}", "x", pad=20)
    _tidy(accuracies, "Accuracy and 95% interval", "x", pad=20)
    _stack_seconds(times, contenders)
    for row, contender in enumerate(contenders):
        accuracy, interval = contender["accuracy"], contender["accuracy_ci95"]
        accuracies.plot(interval, [row, row], color=_BLUE, lw=1.6, solid_capstyle="butt")
        accuracies.plot([accuracy], [row], "o", color=_BLUE, ms=6)
        _note(accuracies, f"{accuracy:.3f}", (accuracy, row), (0, 7), ha="center", color=_INK)
    accuracies.margins(x=0.2)
    accuracies.locator_params(axis="x", nbins=4)
    accuracies.spines["left"].set_visible(False)
    accuracies.tick_params(axis="y", left=False, labelleft=False)
    times.set_ylim(count - 0.4, -0.6)
    names = [_fit(contender["name"], 130, 9) for contender in contenders]
    times.set_yticks(range(count), labels=names, fontsize=9, color=_INK)
    times.tick_params(axis="y", length=0)
    return _finish(figure)


def accuracy_spread(accuracies: ArrayLike, seconds: ArrayLike) -> Figure:
    """Repeated heads: how often each accuracy came out, and the seconds of each run.

    Args:
        accuracies, seconds: (n,) each, one a head, in the order of the runs.

    Raises:
        DataError: If there is no head, or the two differ in length.
    """
    values, times = np.asarray(accuracies, float).ravel(), np.asarray(seconds, float).ravel()
    _check_counts("accuracies", len(values), seconds=times)
    figure = _figure(8, 3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    spread = f"mean {values.mean():.4f}, sd {values.std(ddof=len(values) > 1):.4f}"
    _tidy(left, f"Accuracy of {len(values):,} head{'s' * (len(values) > 1)}: {spread}", None)
    _draw_counts(left, values)
    _tidy(right, f"Seconds a head: median {_seconds(float(np.median(times)))}", "y")
    size = 6 if len(times) <= 60 else 3.5
    runs = np.arange(1, len(times) + 1)
    right.plot(runs, times, "o", color=_BLUE, ms=size, alpha=0.8, mew=0, clip_on=False)
    right.axhline(float(np.median(times)), color=_INK, lw=0.8, zorder=1)
    right.set_ylim(0, (times.max() or 1) * 1.1)
    _integer_ticks(right, [1, len(times)], "run")
    return _finish(figure)


def _grid(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    captions: Sequence[Sequence[str]],
    columns: int | None,
    title: str | None,
    colours: Sequence[str] | None,
) -> Figure:
    side, gap, caption = 1.5, 0.12, 0.05 + 0.165 * len(captions[0])  # inches
    n = len(images)
    columns = min(n, columns or _columns(n))
    rows, top = math.ceil(n / columns), 0.36 if title else 0.06
    width = columns * (side + gap) + gap
    height = rows * (side + caption + gap) + top
    figure = _figure(width, height, constrained=False)
    for i in range(n):
        row, column = divmod(i, columns)
        x, y = gap + column * (side + gap), height - top - (row + 1) * (side + caption + gap) + gap
        axes = figure.add_axes((x / width, y / height, side / width, side / height), anchor="SW")
        _show(axes, images[i], captions[i], colours[i] if colours is not None else None)
    if title:
        text = _fit(title, 72 * (width - 2 * gap), 11)
        figure.text(gap / width, 1 - 0.1 / height, text, va="top", fontsize=11, color=_INK)
    return _finish(figure)


def _columns(n: int) -> int:
    """Images a row: about square to twice as wide, the last row as full as can be."""
    widths = range(math.ceil(math.sqrt(n)), math.ceil(2 * math.sqrt(n)) + 1)
    return n if n <= 5 else min(widths, key=lambda width: -n % width)


def _show(axes: Axes, image: NDArray[np.uint8], caption: Sequence[str], colour: str | None) -> None:
    good = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    found = f"{image.dtype} {image.shape}"
    _check(good, "image", "uint8 of shape (H, W, 3)", found, "decode or denormalise it first")
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=colour is not None, color=colour or _INK, linewidth=2.5)
    for i, line in enumerate(reversed(caption)):
        ink = _SOFT if len(caption) > 1 and i == 0 else colour or _INK
        _note(axes, line, (0, 1), (-1, 4 + 12 * i), xycoords="axes fraction", color=ink)


def _draw_parts(axes: Axes, history: Sequence[EpochRecord], name: str) -> None:
    ends = []
    for part, colour in (("train", _BLUE), ("val", _RED)):
        points = [(record.epoch, getattr(record, f"{part}_{name}")) for record in history]
        points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        style: dict[str, Any] = {"marker": "o" if len(points) == 1 else None, "clip_on": False}
        if points:  # a run that diverged has epochs, or nothing but epochs, without a number
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.6, **style)
            ends.append((points[-1][1], points[-1][0], part, colour))
    low, high = axes.get_ylim()
    close = len(ends) == 2 and abs(ends[0][0] - ends[1][0]) < 0.08 * (high - low)
    for i, (value, epoch, part, colour) in enumerate(sorted(ends)):
        shift = 10 * i - 5 if close else 0  # points, so that the two names stay apart
        _note(axes, part, (epoch, value), (7, shift), va="center", color=colour)


def _integer_ticks(axes: Axes, epochs: Sequence[int], name: str = "epoch") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    margin = 0.5 if len(set(epochs)) == 1 else 0.02 * (epochs[-1] - epochs[0])
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.set_xlabel(name, fontsize=8, color=_SOFT)


def _mark_best(axes: Axes, epoch: int, value: float) -> None:
    axes.axvline(epoch, color=_SOFT, lw=0.8, ls=(0, (3, 3)), zorder=1)
    if math.isfinite(value):
        axes.plot([epoch], [value], "o", color=_RED, ms=7.5, mec="white", mew=1.2, clip_on=False)
    low, high = axes.get_xlim()
    side = "right" if epoch > (low + high) / 2 else "left"
    text = f"best: epoch {epoch}, val {value:.3f}"
    _note(axes, text, (epoch, 1), (0, 4), xycoords=axes.get_xaxis_transform(), ha=side, color=_SOFT)


def _write_counts(axes: Axes, counts: NDArray[Any], shares: NDArray[np.float64]) -> None:
    few = len(counts) <= 4
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count:,}\n{share:.1%}" if few and shares[row].any() else f"{count:,}"
        ink = "white" if share > 0.5 else _INK if count else "#a0a0a0"
        if few or count:
            style: dict[str, Any] = {"color": ink, "fontsize": 10 if few else 8}
            axes.text(column, row, text, ha="center", va="center", **style)
    edges = np.arange(len(counts) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", lw=2)


def _root_bar(figure: Figure, axes: Axes, image: AxesImage) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, shrink=0.4, aspect=25)
    bar.set_ticks([0, 0.01**0.5, 0.1**0.5, 0.5, 1], labels=["0%", "1%", "10%", "25%", "100%"])
    bar.ax.tick_params(colors=_SOFT, labelsize=8, length=3, width=0.6)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=8, color=_SOFT)


def _name_classes(axes: Axes, classes: Sequence[str], cell: float) -> tuple[float, float]:
    """Name rows and columns; returns the inches that the names take to the left and below."""
    step = math.ceil(0.1 / cell - 1e-9)
    size = min(9.0, max(5.5, 72 * cell * step * 0.7))
    names = [_fit(name, 110, size) for name in classes[::step]]
    widest = max(_width(name, size) for name in names)
    turn = 0 if widest < 68 * cell else 40 if cell > 0.4 else 90
    how: dict[str, Any] = {"rotation": turn, "ha": "right", "rotation_mode": "anchor"}
    how["va"] = "center" if turn == 90 else "top"
    ticks = range(0, len(classes), step)
    axes.set_xticks(ticks, labels=names, **(how if turn else {}))
    axes.set_yticks(ticks, labels=names)
    axes.tick_params(which="both", length=0, labelsize=size, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", fontsize=8.5, color=_SOFT)
    axes.set_ylabel("true", fontsize=8.5, color=_SOFT)
    return widest / 72 + 0.45, widest / 72 * math.sin(math.radians(turn)) + 0.5


def _stack_seconds(axes: Axes, contenders: Sequence[Mapping[str, Any]]) -> None:
    stages = list(dict.fromkeys(stage for c in contenders for stage in c["seconds_by_stage"]))
    totals = np.zeros(len(contenders))
    for i, stage in enumerate(stages):
        part = np.array([c["seconds_by_stage"].get(stage, 0.0) for c in contenders])
        style: dict[str, Any] = {"color": _STAGES[i % len(_STAGES)], "label": _fit(stage, 90, 8)}
        axes.barh(range(len(part)), part, 0.55, left=totals, edgecolor="white", lw=0.6, **style)
        totals += part
    for row, total in enumerate(totals):
        ratio = totals.max() / total if total else 1.0
        text = _seconds(total) + (f"   {_short(ratio)}×" if ratio >= 1.05 else "")
        _note(axes, text, (total, row), (5, 0), va="center", color=_INK)
    axes.set_xlim(0, (totals.max() or 1) * 1.14)
    axes.set_xlabel("seconds", fontsize=8, color=_SOFT)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0}
    place |= {"ncols": 6, "handlelength": 0.9, "handleheight": 0.9, "columnspacing": 1.4}
    axes.legend(**place, frameon=False, fontsize=8, labelcolor=_INK)


def _draw_counts(axes: Axes, values: NDArray[np.float64]) -> None:
    marks, counts = np.unique(values.round(9), return_counts=True)
    if len(marks) > 40:
        counts, edges = np.histogram(values, 30)
        marks = (edges[:-1] + edges[1:]) / 2
    gap = np.diff(marks).min() if len(marks) > 1 else 0.01
    margin = max(gap, 0.002)
    axes.set_xlim(marks[0] - margin, marks[-1] + margin)
    if counts.max() <= 12:
        heights = [k + 1 for count in counts for k in range(count)]
        top = max(6, counts.max()) + 1
        # In points: as large as its place in the pile and the distance to the next pile allow.
        size = max(3.0, min(120 / top, 250 * gap / (marks[-1] - marks[0] + 2 * margin)))
        axes.plot(np.repeat(marks, counts), heights, "o", color=_BLUE, ms=size, mew=0)
        axes.set_ylim(0.3, top)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    else:
        axes.bar(marks, counts, 0.8 * gap, color=_BLUE)
        axes.set_ylabel("heads", fontsize=8, color=_SOFT)
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("accuracy", fontsize=8, color=_SOFT)


def _seconds(value: float) -> str:
    return f"{_short(value)} s"


def _short(value: float) -> str:
    """Two figures, or three over 10, and never an exponent for what is large: 0.042, 6.3, 84.3."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.{3 if value >= 10 else 2}g}"


def _figure(width: float, height: float, constrained: bool = True) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.03) if constrained else None
    return Figure((width, height), dpi=150, facecolor="white", layout=layout)


def _tidy(axes: Axes, title: str, grid: str | None, pad: float = 10) -> None:
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=9.5, color=_INK, pad=pad)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set(color=_SOFT, linewidth=0.6)
    axes.tick_params(colors=_SOFT, labelsize=8, length=3, width=0.6)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=_FAINT, lw=0.6)  # type: ignore[arg-type]


def _note(
    axes: Axes, text: str, at: tuple[float, float], off: tuple[float, float], **how: Any
) -> None:
    style: dict[str, Any] = {"fontsize": 8.5, "annotation_clip": False} | how
    axes.annotate(text, at, off, textcoords="offset points", **style)


def _finish(figure: Figure) -> Figure:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set(parse_math=False, usetex=False, fontfamily=_families())
    return figure


def _fit(text: str, points: float, size: float) -> str:
    """The text on one line, at most so wide: its middle gives way to an ellipsis."""
    shown = plain = _drawable(text)
    kept = len(plain)
    while kept > 2 and _width(shown, size) > points:
        kept = min(kept - 1, 200)
        shown = f"{plain[: kept - kept // 2].rstrip()}…{plain[-(kept // 2) :].lstrip()}"
    return shown


def _drawable(text: str) -> str:
    # Composed: macOS spells file names decomposed, for which fonts have no glyph.
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c if c.isprintable() and ord(c) in _characters() else "□" for c in line)


def _width(text: str, size: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=_families(), size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


@functools.cache
def _families() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _CJK_FONTS if name in installed))


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(family=name))) for name in _families()]
    return frozenset(code for font in fonts for code in font.get_charmap())


def _check_counts(where: str, n: int, **beside: Sequence[Any] | NDArray[Any] | None) -> None:
    _check(n > 0, where, "at least one", "none", "pass some")
    for name, values in beside.items():
        found = n if values is None else len(values)
        _check(found == n, name, f"{n}, as many as {where}", str(found), "pass one for each")


def _check(good: bool, where: str, expected: str, found: str, remedy: str) -> None:
    if not good:
        raise DataError(where, expected=expected, found=found, remedy=remedy)
