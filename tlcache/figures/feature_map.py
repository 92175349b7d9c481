"""A map of features in the plane: a dot an image, coloured by class, the errors ringed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlcache.figures.style import (
    FAINT,
    INK,
    STAGES,
    check,
    check_counts,
    finish,
    fit,
    label,
    legend,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 20
_COLOURS, _REST = (STAGES[0], STAGES[5], *STAGES[1:5]), STAGES[6]
_MARKS = ("o", "s", "^", "D")


def feature_map_figure(
    places: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    classes: Sequence[str],
    *,
    title: str = "",
    axis_names: tuple[str, str] | None = None,
) -> Figure:
    """Images as dots in the plane.

    Args:
        places: (N, 2).
        labels, predictions: (N,) each, indices into ``classes``.
        classes: Names. Of more than 20, those with the most images are named, and the others grey.
        title: What is shown.
        axis_names: Of the two directions; None where they mean nothing, and no scale is drawn.

    Raises:
        DataError: If there is no image, or the arrays do not fit each other.
    """
    at, truths, found = np.asarray(places), np.asarray(labels), np.asarray(predictions)
    check(at.ndim == 2 and at.shape[1] == 2, "places", "(N, 2)", str(at.shape), "pass two a row")
    check_counts("places", len(at), labels=truths, predictions=found)
    named = {k: fit(classes[k], 130, 8) for k in _named(truths)}
    figure = new_figure(7.6, 5.4)
    axes = figure.subplots()
    tidy(axes, fit(title, 430, 9.5), None)
    _draw_dots(axes, at, truths, named)
    wrong = found != truths
    ring: dict[str, Any] = {"ms": 9, "mec": INK, "mew": 1.1, "fillstyle": "none", "zorder": 4}
    axes.plot(*at[wrong].T, "o", label=f"ringed: wrong ({wrong.sum():,})", **ring)
    legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.3)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.06)
    if axis_names is not None:
        label(axes, *axis_names)
    else:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=FAINT)
    return finish(figure)


def _named(labels: NDArray[Any]) -> list[int]:
    """The classes that have a colour of their own, in their order."""
    there, counts = np.unique(labels, return_counts=True)
    if len(there) > NAMED:
        there = np.sort(there[np.argsort(-counts, kind="stable")][: NAMED - 1])
    return there.tolist()


def _draw_dots(
    axes: Axes, at: NDArray[Any], labels: NDArray[Any], named: Mapping[int, str]
) -> None:
    size = 6.0 if len(at) <= 500 else 4.5 if len(at) <= 2000 else 3.2
    style: dict[str, Any] = {"ls": "", "ms": size, "alpha": 0.75, "mew": 0}
    for i, (k, name) in enumerate(named.items()):
        mine = labels == k
        style["color"] = _COLOURS[i % len(_COLOURS)]
        style["marker"] = _MARKS[i // len(_COLOURS)]
        axes.plot(*at[mine].T, label=f"{name} ({mine.sum():,})", **style)
    rest = ~np.isin(labels, list(named))
    if rest.any():
        others = len(np.unique(labels[rest]))
        style |= {"color": _REST, "marker": "o", "zorder": 1}
        axes.plot(*at[rest].T, label=f"{others} other classes ({rest.sum():,})", **style)
