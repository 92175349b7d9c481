"""The page of a benchmark: seconds by stage, accuracies, break-even and the paired test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tlcache.evaluation.roles import split_role
from tlcache.reports.charts import Scale, whiskers
from tlcache.reports.page import rendered

WIDTH = 1000  # of the longest bar, which the page stretches to its own


@dataclasses.dataclass(frozen=True)
class Part:
    """A stage's piece of a bar: its place, and which colour of the legend it has."""

    x: float
    width: float
    colour: int


@dataclasses.dataclass(frozen=True)
class Bar:
    """A contender's time.

    Attributes:
        name: The contender.
        parts: By stage.
        total: Seconds.
        times: How many times as fast as the slowest.
    """

    name: str
    parts: list[Part]
    total: float
    times: float


@dataclasses.dataclass(frozen=True)
class Bars:
    """Stacked bars, and the stages of the legend."""

    stages: list[str]
    bars: list[Bar]


def stacked(contenders: Sequence[Mapping[str, Any]]) -> Bars:
    """The seconds of contenders, stage upon stage."""
    stages = list(dict.fromkeys(stage for c in contenders for stage in c["seconds_by_stage"]))
    slowest = max(sum(c["seconds_by_stage"].values()) for c in contenders) or 1.0
    scale = Scale(0.0, slowest, 0, WIDTH)
    bars = []
    for contender in contenders:
        parts, start = [], 0.0
        for colour, stage in enumerate(stages):
            end = start + contender["seconds_by_stage"].get(stage, 0.0)
            if end > start:
                parts.append(Part(scale(start), round(scale(end) - scale(start), 1), colour))
            start = end
        bars.append(Bar(contender["name"], parts, start, slowest / start if start else 1.0))
    return Bars(stages, bars)


def bench_page(measured: Mapping[str, Any], data: str, images: Mapping[str, int]) -> bytes:
    """The page of a benchmark.

    Args:
        measured: What ``Benchmark.describe`` gives.
        data: The folder of images.
        images: How many, by split.
    """
    names = ("cached", "frozen", "finetune", "lp-ft")
    contenders = [measured[name] for name in names if name in measured]
    split, recipe = measured["judged_on"], measured["recipe"]
    facts = [
        ("Data", data),
        ("Images", ", ".join(f"{count:,} {name}" for name, count in images.items())),
        ("Trunk", f"{measured['trunk']}, weights {measured['weights']}"),
        ("Recipe", ", ".join(f"{name} {value}" for name, value in recipe.items())),
        ("Judged on", f"{split}, {images[split]:,} images"),
        ("Epochs selected on", measured["selected_on"]),
        *(
            (word, ", ".join(f"{name} {value}" for name, value in measured[key].items()))
            for word, key in (("Versions", "versions"), ("Machine", "machine"))
        ),
    ]
    values = {
        "title": "Benchmark: cached features, frozen loop, finetuning",
        "sentences": [
            pair["sentence"] for key in ("comparison", "lp_ft_gain") if (pair := measured.get(key))
        ],
        "contenders": contenders,
        "chart": stacked(contenders),
        "scale": whiskers(one["accuracy_ci95"] for one in contenders),
        "measured": measured,
        "split": split,
        "role": split_role(split, measured["selected_on"]),
        "n": images[split],
        "facts": facts,
    }
    return rendered("bench.html", values)
