"""Grids of images: under their titles, under what a model takes them for, and in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlcache.figures.style import (
    FAINT,
    GREEN,
    INK,
    RED,
    SOFT,
    check,
    check_counts,
    finish,
    fit,
    new_figure,
    note,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP = 0.12  # inches
_PAIR_SIDE, _PAIR_CAPTION, _PAIR_TOP = 1.7, 0.56, 0.4  # inches

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""n arrays (H, W, 3) uint8, or one (n, H, W, 3)."""


def image_grid(
    images: Images,
    titles: Sequence[str],
    columns: int | None = None,
    title: str | None = None,
    colours: Sequence[str] | None = None,
) -> Figure:
    """Images in rows, each under its title.

    Args:
        images: n (H, W, 3) uint8.
        titles: n, one line each.
        columns: Images a row; if None, a number that suits n.
        title: Over the whole figure.
        colours: n, for a title and a frame each; if None, neither frame nor colour.

    Raises:
        DataError: If there is no image, one is not (H, W, 3) uint8, or the counts differ.
    """
    check_counts("images", len(images), titles=titles, colours=colours)
    return _grid(images, [[fit(text, 106, 8.5)] for text in titles], columns, title, colours)


def prediction_grid(
    images: Images,
    truths: Sequence[str],
    predictions: Sequence[str],
    probabilities: Sequence[float] | NDArray[np.floating],
    title: str | None = None,
) -> Figure:
    """Images under their predicted class, its probability and their true class.

    Right ones are green with a tick, wrong ones red with a cross.

    Args:
        images: n (H, W, 3) uint8.
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
    images: Images,
    captions: Sequence[Sequence[str]],
    columns: int | None,
    title: str | None,
    colours: Sequence[str] | None,
) -> Figure:
    side, caption = 1.5, 0.05 + 0.165 * len(captions[0])  # inches
    n = len(images)
    # About square to twice as wide, the last row as full as can be.
    widths = range(math.ceil(math.sqrt(n)), math.ceil(2 * math.sqrt(n)) + 1)
    suitable = n if n <= 5 else min(widths, key=lambda width: -n % width)
    columns = min(n, columns or suitable)
    rows, top = math.ceil(n / columns), 0.36 if title else 0.06
    cell = side + caption + _GAP
    width, height = columns * (side + _GAP) + _GAP, rows * cell + top
    figure = new_figure(width, height, constrained=False)
    for i in range(n):
        row, column = divmod(i, columns)
        x, y = _GAP + column * (side + _GAP), height - top - (row + 1) * cell + _GAP
        axes = figure.add_axes((x / width, y / height, side / width, side / height), anchor="SW")
        _show(axes, images[i], captions[i], colours[i] if colours is not None else None)
    if title:
        _head(figure, title, _GAP)
    return finish(figure)


def _head(figure: Figure, title: str, margin: float) -> None:
    """A title so many inches from the left, and as wide as they leave it."""
    width, height = figure.get_size_inches()
    text = fit(title, 72 * (width - 2 * margin), 11)
    figure.text(margin / width, 1 - 0.1 / height, text, va="top", fontsize=11, color=INK)


def _show(axes: Axes, image: NDArray[np.uint8], caption: Sequence[str], colour: str | None) -> None:
    _check_image(image)
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=colour is not None, color=colour or INK, linewidth=2.5)
    for i, line in enumerate(reversed(caption)):
        ink = SOFT if len(caption) > 1 and i == 0 else colour or INK
        note(axes, line, (0, 1), (-1, 4 + 12 * i), xycoords="axes fraction", color=ink)


def _check_image(image: NDArray[np.uint8]) -> None:
    good = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    found = f"{image.dtype} {image.shape}"
    check(good, "image", "uint8 of shape (H, W, 3)", found, "decode or denormalise it first")


class PicturedPair(NamedTuple):
    """Two (H, W, 3) uint8 images, None where one cannot be shown, and what is said of them.

    Places are such as ``train · ants``, verdicts as ``similarity 0.981``; ``bad`` must not be.
    """

    images: tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]
    paths: tuple[str, str]
    places: tuple[str, str]
    verdict: str
    bad: bool


def pair_grid(pairs: Sequence[PicturedPair], title: str) -> Figure:
    """Pairs in up to three columns, the images of each side by side under their paths.

    Raises:
        DataError: If there is no pair, or an image is not (H, W, 3) uint8.
    """
    check_counts("pairs", len(pairs))
    for image in (image for pair in pairs for image in pair.images if image is not None):
        _check_image(image)
    columns = min(3, len(pairs))
    rows = [pairs[at : at + columns] for at in range(0, len(pairs), columns)]
    tall = [max(_height(image) for pair in row for image in pair.images) for row in rows]
    wide = 2 * _PAIR_SIDE + 4 * _GAP
    width, height = columns * wide, _PAIR_TOP + sum(tall) + len(rows) * (_PAIR_CAPTION + _GAP)
    figure = new_figure(width, height, constrained=False)
    top = height - _PAIR_TOP
    for row, side in zip(rows, tall, strict=True):
        top -= _PAIR_CAPTION
        for column, pair in enumerate(row):
            for at in range(2):
                left = column * wide + 1.5 * _GAP + at * (_PAIR_SIDE + _GAP)
                box = left / width, (top - side) / height, _PAIR_SIDE / width, side / height
                _show_half(figure.add_axes(box), pair, at)
        top -= side + _GAP
    _head(figure, title, 1.5 * _GAP)
    return finish(figure)


def _height(image: NDArray[np.uint8] | None) -> float:
    """Inches that an image takes which fills a square's width or height."""
    return _PAIR_SIDE if image is None else _PAIR_SIDE * min(1.0, image.shape[0] / image.shape[1])


def _show_half(axes: Axes, pair: PicturedPair, side: int) -> None:
    image = pair.images[side]
    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set(color=RED if pair.bad else FAINT, linewidth=1.5 if pair.bad else 0.8)
    if image is None:
        axes.text(0.5, 0.5, "cannot be shown", ha="center", va="center", fontsize=8.5, color=SOFT)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    else:
        axes.imshow(image)
    lines = [(pair.places[side], SOFT), (pair.paths[side], INK)]
    if side == 0:
        lines.append((pair.verdict, RED if pair.bad else INK))
    for at, (line, ink) in enumerate(lines):
        room = 72 * (2 * _PAIR_SIDE if at == 2 else _PAIR_SIDE)
        style = {"xycoords": "axes fraction", "color": ink, "fontsize": 8}
        note(axes, fit(line, room, 8), (0, 1), (-1, 4 + 12 * at), **style)
