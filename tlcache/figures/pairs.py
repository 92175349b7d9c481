"""Pairs of images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlcache.figures.checks import check, check_counts
from tlcache.figures.style import FAINT, INK, RED, SOFT, finish, new_figure, note
from tlcache.figures.text import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _GAP, _CAPTION, _TOP = 1.7, 0.12, 0.56, 0.4  # inches


class PicturedPair(NamedTuple):
    """Two images and what is said of them.

    Attributes:
        images: Two of (H, W, 3) uint8; None where one cannot be shown.
        paths: Of both.
        places: Of both, such as ``train · ants``.
        verdict: Over the pair, such as ``similarity 0.981``.
        bad: Whether it must not be.
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
        good = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
        found = f"{image.dtype} {image.shape}"
        check(good, "image", "uint8 of shape (H, W, 3)", found, "decode or denormalise it first")
    columns = min(3, len(pairs))
    rows = [pairs[at : at + columns] for at in range(0, len(pairs), columns)]
    tall = [max(_height(image) for pair in row for image in pair.images) for row in rows]
    wide = 2 * _SIDE + 4 * _GAP
    width, height = columns * wide, _TOP + sum(tall) + len(rows) * (_CAPTION + _GAP)
    figure = new_figure(width, height, constrained=False)
    top = height - _TOP
    for row, side in zip(rows, tall, strict=True):
        top -= _CAPTION
        for column, pair in enumerate(row):
            for at in range(2):
                left = column * wide + 1.5 * _GAP + at * (_SIDE + _GAP)
                box = left / width, (top - side) / height, _SIDE / width, side / height
                _show(figure.add_axes(box), pair, at)
        top -= side + _GAP
    text = fit(title, 72 * (width - 3 * _GAP), 11)
    figure.text(1.5 * _GAP / width, 1 - 0.1 / height, text, va="top", fontsize=11, color=INK)
    return finish(figure)


def _height(image: NDArray[np.uint8] | None) -> float:
    """Inches that an image takes which fills a square's width or height."""
    return _SIDE if image is None else _SIDE * min(1.0, image.shape[0] / image.shape[1])


def _show(axes: Axes, pair: PicturedPair, side: int) -> None:
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
        room = 72 * (2 * _SIDE if at == 2 else _SIDE)
        style = {"xycoords": "axes fraction", "color": ink, "fontsize": 8}
        note(axes, fit(line, room, 8), (0, 1), (-1, 4 + 12 * at), **style)
