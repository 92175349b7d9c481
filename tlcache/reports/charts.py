"""Numbers to places in a drawing: scales, ticks, lines and bars, for the page's SVG.

Draws nothing itself: the templates do, so that colours follow the reader's theme.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Place = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Tick:
    """A place along an axis and its label."""

    at: float
    label: str


@dataclasses.dataclass(frozen=True)
class Scale:
    """Values between ``low`` and ``high``, which differ, along the pixels ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int = 5, whole: bool = False) -> list[Tick]:
        """Round values within the range, at most so many."""
        span = self.high - self.low
        power: float = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * f for f in (1, 2, 5, 10) if span / (power * f) <= most + 1e-9)
        step = max(1.0, step) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        far = max(abs(self.low), abs(self.high)) >= 1e6 or places > 4
        values = [index * step for index in range(first, last + 1)]
        labels = [f"{value:.2g}" if far else f"{value:,.{places}f}" for value in values]
        return [Tick(self(value), label) for value, label in zip(values, labels, strict=True)]


@dataclasses.dataclass(frozen=True)
class Line:
    """A series by its points; ``name`` (train or val) is the style's too, ``label`` its place."""

    name: str
    places: list[Place]
    label: Place


@dataclasses.dataclass(frozen=True)
class Curves:
    """Some series over epochs, and what they show in a sentence."""

    title: str
    words: str
    x: list[Tick]
    y: list[Tick]
    lines: list[Line]
    best: Place | None  # of the best epoch's value, if there is one


LEFT, RIGHT, TOP, BOTTOM = 52, 376, 12, 212
_MOST_POINTS = 400
_BAR_WIDTH = 1000  # of the longest bar, which the page stretches to its own


def curves(
    title: str,
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float]],
    best: int | None,
    most: float = math.inf,
) -> Curves:
    """Series over epochs.

    Args:
        title: What they measure.
        epochs: (n,) rising.
        series: (n,) values by name.
        best: The best epoch, whose value of the last series is marked.
        most: No axis reaches beyond it.
    """
    values = [value for one in series.values() for value in one]
    pad = 0.06 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 0.1
    lone = len(epochs) == 1
    across = Scale(epochs[0] - lone, epochs[-1] + lone, LEFT, RIGHT)
    low, high = min(values), max(values)
    up = Scale(low - pad, min(high + pad, max(most, high)), BOTTOM, TOP)
    kept = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), _MOST_POINTS)).astype(int))
    places = {
        name: [(across(epochs[i]), up(one[i])) for i in kept.tolist()]
        for name, one in series.items()
    }
    labels = _apart([places[name][-1][1] for name in series])
    last = list(series.values())[-1]
    words = "; ".join(f"{name} from {one[0]:.3f} to {one[-1]:.3f}" for name, one in series.items())
    return Curves(
        title,
        f"{words}, over {len(epochs)} {'epoch' if lone else 'epochs'}.",
        [tick for tick in across.ticks(6, whole=True) if LEFT <= tick.at <= RIGHT],
        up.ticks(),
        [
            Line(name, places[name], (places[name][-1][0] + 7, y))
            for name, y in zip(series, labels, strict=True)
        ],
        None if best is None else (across(best), up(last[list(epochs).index(best)])),
    )


def whiskers(intervals: Iterable[Sequence[float]]) -> Scale:
    """The scale of accuracies drawn as small bars: from tenth to tenth around all intervals."""
    bounds = [bound for interval in intervals for bound in interval]
    low = min(0.9, math.floor(10 * min(bounds) + 1e-9) / 10)
    return Scale(low, max(low + 0.1, math.ceil(10 * max(bounds) - 1e-9) / 10), 4, 96)


def scatter(
    positions: NDArray[np.floating], width: float, height: float, margin: float
) -> list[Place]:
    """Places of (n, 2) positions in a box of so many pixels, the same scale along both axes."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    spans = np.maximum(high - low, 1e-12)
    scale = float(min((width - 2 * margin) / spans[0], (height - 2 * margin) / spans[1]))
    if not high.max() - low.min() or not np.isfinite(scale):
        return [(width / 2, height / 2)] * len(positions)
    centred = (positions - (low + high) / 2) * min(scale, 1e12)
    return [(round(width / 2 + float(x), 1), round(height / 2 - float(y), 1)) for x, y in centred]


@dataclasses.dataclass(frozen=True)
class Bar:
    """A contender's time, in seconds, and ``times`` as fast as the slowest's."""

    name: str
    parts: list[tuple[float, float, int]]  # x, width and colour of the legend, by stage
    total: float
    times: float


def stacked(contenders: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Bar]]:
    """The stages of the legend, and the seconds of contenders, stage upon stage."""
    stages = list(dict.fromkeys(stage for c in contenders for stage in c["seconds_by_stage"]))
    slowest = max(sum(c["seconds_by_stage"].values()) for c in contenders) or 1.0
    scale = Scale(0.0, slowest, 0, _BAR_WIDTH)
    bars = []
    for contender in contenders:
        parts, start = [], 0.0
        for colour, stage in enumerate(stages):
            end = start + contender["seconds_by_stage"].get(stage, 0.0)
            if end > start:
                parts.append((scale(start), round(scale(end) - scale(start), 1), colour))
            start = end
        bars.append(Bar(contender["name"], parts, start, slowest / start if start else 1.0))
    return stages, bars


def _apart(heights: Sequence[float], least: float = 14) -> list[float]:
    """Heights of labels, moved apart where two would overlap."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for below, above in zip(order[1:], order[:-1], strict=True):
        overlap = least - (moved[below] - moved[above])
        if overlap > 0:
            moved[above] -= overlap / 2
            moved[below] += overlap / 2
    return [round(min(height, BOTTOM), 1) for height in moved]
