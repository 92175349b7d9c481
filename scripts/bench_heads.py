"""Seconds of training heads on cached rows: tlcache against the tutorial's way, in one run."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bench_head_loops import Array, Arrays, Tutorial, by_torch, drawn, first_steps, tutorial
from bench_rounds import (
    BLUE,
    GREY,
    SKY,
    JsonFile,
    alternated,
    bars,
    keep,
    new_figure,
    note,
    print_table,
    ratios,
    run,
    say,
    shown,
    spread,
    tidy,
)
from million_files import alone

import tlcache
from tlcache.core.machine import describe_machine
from tlcache.heads.steps import can_compile
from tlcache.heads.train import TrainedHead

BASE, NUMPY, NUMBA, OWN = "tutorial", "numpy steps", "numba steps", "train_head"
ONE = "one of the tutorial's"

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows to train on: how many, how many for val, their length, and classes."""

    rows: int
    val: int
    dim: int
    classes: int

    @property
    def title(self) -> str:
        return f"{self.rows:,} × {self.dim}, {self.classes} classes"


def main(
    rows: Annotated[int, typer.Option(min=4, help="Of the small case.")] = 244,
    classes: Annotated[int, typer.Option(min=2, help="Of the small case.")] = 2,
    val: Annotated[int, typer.Option(min=1, help="Rows to judge on, small case.")] = 153,
    large_rows: Annotated[int, typer.Option(min=4, help="Of the large case.")] = 50_000,
    large_classes: Annotated[int, typer.Option(min=2, help="Of the large case.")] = 100,
    large_val: Annotated[int, typer.Option(min=1, help="Rows to judge on, large case.")] = 5_000,
    dim: Annotated[int, typer.Option(min=1, help="Length of a row.")] = 512,
    epochs: Annotated[int, typer.Option(min=1, help="Of every head.")] = 25,
    rounds: Annotated[int, typer.Option(min=1, help="Of the small case and of many.")] = 5,
    large_rounds: Annotated[int, typer.Option(min=1, help="Of the large case.")] = 1,
    tutorial_steps: Annotated[
        int, typer.Option(min=1, help="The most of an epoch that the tutorial's loop runs.")
    ] = 2_500,
    check_epochs: Annotated[
        int, typer.Option(min=1, help="After which weights are compared, large case.")
    ] = 1,
    many: Annotated[int, typer.Option(min=4, help="Heads side by side.")] = 256,
    separate: Annotated[int, typer.Option(min=1, help="Of those, trained one by one.")] = 16,
    json_file: JsonFile = None,
    figure: Annotated[Path | None, typer.Option(help="A PNG of the seconds.")] = None,
) -> None:
    """Time one head on few rows and on many, and many heads at once, and compare their weights."""
    recipe = tlcache.Recipe(epochs=epochs)
    values: Values = {"recipe": recipe.describe(), **describe_machine("")}
    values["numba"] = _numba()
    small = Case(rows, val, dim, classes)
    large = Case(large_rows, large_val, dim, large_classes)
    values["one"] = [
        _one_head(small, recipe, rounds, tutorial_steps, epochs),
        _one_head(large, recipe, large_rounds, tutorial_steps, min(check_epochs, epochs)),
    ]
    values["many"] = _many_heads(small, recipe, rounds, many, min(separate, many))
    _print(values)
    keep(values, json_file, figure, _figure)


def _numba() -> Values | None:
    """Seconds of the first steps: compiled, and in the next process; None without numba."""
    if not can_compile():
        return None
    say("compiling")
    with tempfile.TemporaryDirectory() as kept:
        first, next_one = (alone(first_steps, Path(kept)) for _ in range(2))
    return {"first_seconds": first["seconds"], "next_process_seconds": next_one["seconds"]}


def _ways(arrays: Arrays, classes: int) -> dict[str, Callable[[tlcache.Recipe], TrainedHead]]:
    """tlcache's ways of training one head."""

    def steps(compiled: bool | None) -> Callable[[tlcache.Recipe], TrainedHead]:
        return lambda recipe: tlcache.train_heads(
            *arrays, [recipe], classes=classes, compiled=compiled
        )[0]

    forced = {NUMPY: steps(False)} | ({NUMBA: steps(True)} if can_compile() else {})
    return forced | {OWN: lambda recipe: tlcache.train_head(*arrays, recipe, classes=classes)}


def _one_head(
    case: Case, recipe: tlcache.Recipe, rounds: int, tutorial_steps: int, check_epochs: int
) -> Values:
    """Seconds of each way, and how far its weights are from those of torch's autograd."""
    arrays = drawn(case.rows, case.val, case.dim, case.classes)
    ways = _ways(arrays, case.classes)
    check = dataclasses.replace(recipe, epochs=check_epochs)
    say(f"{case.title}: comparing weights")  # which warms everybody up
    expected = by_torch(arrays, case.classes, check)
    off = {name: _off(train(check), expected) for name, train in ways.items()}
    shares: list[Tutorial] = []

    def by_tutorial() -> float:
        shares.append(tutorial(arrays, case.classes, recipe, tutorial_steps))
        return shares[-1].seconds

    say(f"{case.title}: {rounds} rounds")
    timed = {name: _seconds_of(train, recipe) for name, train in ways.items()}
    seconds = alternated({BASE: by_tutorial, **timed}, rounds)
    return {
        "title": case.title,
        **dataclasses.asdict(case),
        "tutorial_share": shares[0].share,
        "seconds": {name: spread(one) for name, one in seconds.items()},
        "ratio": {name: ratios(seconds[BASE], one) for name, one in seconds.items()},
        "check_epochs": check_epochs,
        "largest_difference": off,
    }


def _seconds_of(
    train: Callable[[tlcache.Recipe], TrainedHead], recipe: tlcache.Recipe
) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        train(recipe)
        return time.perf_counter() - started

    return run


def _off(trained: TrainedHead, expected: Array) -> float:
    """The largest difference between two heads' numbers."""
    found = np.column_stack([trained.last.weight, trained.last.bias])
    return float(np.abs(found - expected).max())


def _recipes(recipe: tlcache.Recipe, count: int, seeds: int) -> list[tlcache.Recipe]:
    """Recipes that differ in learning rate, weight decay and, for more than one, seed."""
    each = -(-count // seeds)
    side = math.ceil(math.sqrt(each))
    rates, decays = np.geomspace(1e-4, 1e-2, side), np.geomspace(1e-5, 1e-2, side)
    pairs = list(itertools.product(rates.tolist(), decays.tolist()))[:each]
    recipes = [
        dataclasses.replace(recipe, seed=seed, lr=lr, weight_decay=decay)
        for seed, (lr, decay) in itertools.product(range(seeds), pairs)
    ]
    return recipes[:count]


def _many_heads(
    case: Case, recipe: tlcache.Recipe, rounds: int, count: int, separate: int
) -> Values:
    """Heads side by side, one order for all and four, against one by one and one tutorial."""
    arrays = drawn(case.rows, case.val, case.dim, case.classes)
    sweeps = {seeds: _recipes(recipe, count, seeds) for seeds in (1, 4)}
    some = sweeps[1][:: max(1, count // separate)][:separate]

    def side_by_side(seeds: int) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            tlcache.train_heads(*arrays, sweeps[seeds], classes=case.classes)
            return time.perf_counter() - started

        return run

    def one_by_one() -> float:
        started = time.perf_counter()
        for one in some:
            tlcache.train_head(*arrays, one, classes=case.classes)
        return (time.perf_counter() - started) * count / len(some)

    contenders = {
        ONE: lambda: tutorial(arrays, case.classes, recipe, 10**9).seconds,
        f"{count} one by one": one_by_one,
        f"{count} side by side, 4 seeds": side_by_side(4),
        f"{count} side by side, 1 seed": side_by_side(1),
    }
    say(f"{count} heads: {rounds} rounds")
    alternated(contenders, 1)  # warms everybody up
    off = _side_by_side_off(arrays, case, sweeps[1], some)
    seconds = alternated(contenders, rounds)
    return {
        "title": f"{count} heads, {case.title}",
        "heads": count,
        "timed_one_by_one": len(some),
        "seconds": {name: spread(one) for name, one in seconds.items()},
        "over_one_tutorial": {name: ratios(one, seconds[ONE]) for name, one in seconds.items()},
        "largest_difference": off,
    }


def _side_by_side_off(
    arrays: Arrays, case: Case, all_of_them: list[tlcache.Recipe], some: list[tlcache.Recipe]
) -> float:
    """The largest difference between heads that were trained side by side, and alone."""
    together = tlcache.train_heads(*arrays, all_of_them, classes=case.classes)
    off = 0.0
    for recipe in some:
        single = tlcache.train_head(*arrays, recipe, classes=case.classes).last
        expected = np.column_stack([single.weight, single.bias])
        off = max(off, _off(together[all_of_them.index(recipe)], expected))
    return off


def _print(values: Values) -> None:
    machine = values["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores; {values['recipe']['epochs']} epochs, "
          f"batch {values['recipe']['batch_size']}")  # fmt: skip
    if one := values["numba"]:
        print(f"numba, apart: {one['first_seconds']:.1f} s to load and compile, once on a machine; "
              f"{one['next_process_seconds']:.1f} s in every process after that")  # fmt: skip
    else:
        print(f"{NUMBA}: left out, numba is not installed")
    for case in values["one"]:
        if case["tutorial_share"] < 1:
            print(f"\n{BASE}: {case['tutorial_share']:.0%} of one epoch timed, and scaled")
        else:
            print()
        off = {BASE: "", **{n: f"{o:.1e}" for n, o in case["largest_difference"].items()}}
        print_table(
            (case["title"], "s", f"× {BASE}", f"W off, {case['check_epochs']} epochs"),
            [
                (name, shown(one, ".4f"), shown(case["ratio"][name], ".1f"), off[name])
                for name, one in case["seconds"].items()
            ],
        )
    many = values["many"]
    print(f"\none by one: {many['timed_one_by_one']} timed, and scaled; weights side by side off "
          f"by {many['largest_difference']:.1e}")  # fmt: skip
    print_table(
        (many["title"], "s", f"of one {BASE}'s time"),
        [
            (name, shown(one, ".3f"), shown(many["over_one_tutorial"][name], ".2f"))
            for name, one in many["seconds"].items()
        ],
    )


def _figure(values: Values) -> Any:
    shapes = {"ratio": "× {:,.1f}", "over_one_tutorial": "{:.2f} of one"}
    figure, parts = new_figure(8.5, 7), [*values["one"], values["many"]]
    for axes, part in zip(figure.subplots(len(parts), 1), parts, strict=True):
        colours = [GREY if "tutorial" in name else SKY for name in part["seconds"]]
        colours[-1] = BLUE  # what a user gets
        axes.set_xscale("log")
        scaled = ", tutorial: an estimate" if part.get("tutorial_share", 1) < 1 else ""
        tidy(axes, part["title"] + scaled, "seconds")
        bars(axes, part["seconds"], colours)
        kind = next(kind for kind in shapes if kind in part)
        for row, (name, one) in enumerate(part["seconds"].items()):
            text = shapes[kind].format(part[kind][name]["median"])
            digits = ",.0f" if one["median"] >= 100 else ".3g"
            note(axes, f"{one['median']:{digits}} s  {text}", (one["max"], row))
        least = min(one["min"] for one in part["seconds"].values())
        axes.set_xlim(least / 3, 6 * max(one["max"] for one in part["seconds"].values()))
    return figure


if __name__ == "__main__":
    run(main)
