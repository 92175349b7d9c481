"""Grids of images under their titles or predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tlcache.figures.checks import check, check_counts
from tlcache.figures.style import GREEN, INK, RED, SOFT, finish, new_figure, note
from tlcache.figures.text import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    check_counts("images", len(images), titles=titles, colours=colours)
    captions = [[fit(text, 106, 8.5)] for text in titles]
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
    check_counts("images", len(images), **beside)
    right = [truth == prediction for truth, prediction in zip(truths, predictions, strict=True)]
    captions = [
        [f"{'✓' if ok else '✗'} {fit(name, 70, 8.5)} {share:.0%}", f"true: {fit(truth, 78, 8.5)}"]
        for ok, name, truth, share in zip(right, predictions, truths, probabilities, strict=True)
    ]
    colours = [GREEN if ok else RED for ok in right]
    heading = title if title is not None else f"{sum(right)} of {len(right)} right"
    return _grid(images, captions, None, heading, colours)


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
    figure = new_figure(width, height, constrained=False)
    for i in range(n):
        row, column = divmod(i, columns)
        x, y = gap + column * (side + gap), height - top - (row + 1) * (side + caption + gap) + gap
        axes = figure.add_axes((x / width, y / height, side / width, side / height), anchor="SW")
        _show(axes, images[i], captions[i], colours[i] if colours is not None else None)
    if title:
        text = fit(title, 72 * (width - 2 * gap), 11)
        figure.text(gap / width, 1 - 0.1 / height, text, va="top", fontsize=11, color=INK)
    return finish(figure)


def _columns(n: int) -> int:
    """Images a row: about square to twice as wide, the last row as full as can be."""
    widths = range(math.ceil(math.sqrt(n)), math.ceil(2 * math.sqrt(n)) + 1)
    return n if n <= 5 else min(widths, key=lambda width: -n % width)


def _show(axes: Axes, image: NDArray[np.uint8], caption: Sequence[str], colour: str | None) -> None:
    good = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    found = f"{image.dtype} {image.shape}"
    check(good, "image", "uint8 of shape (H, W, 3)", found, "decode or denormalise it first")
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=colour is not None, color=colour or INK, linewidth=2.5)
    for i, line in enumerate(reversed(caption)):
        ink = SOFT if len(caption) > 1 and i == 0 else colour or INK
        note(axes, line, (0, 1), (-1, 4 + 12 * i), xycoords="axes fraction", color=ink)
