"""Cached features against the frozen loop and finetuning: the benchmark, with its figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from bench_rounds import run, say

import tlcache
from tlcache.evaluation.roles import selection_note, split_role
from tlcache.figures.spreads import benchmark_figure
from tlcache.figures.style import save_png


def main(
    data: Annotated[Path, typer.Argument(help="A folder with train/ and val/.")],
    trunk: Annotated[str, typer.Option(help="The network.")] = "resnet18",
    weights: Annotated[str, typer.Option(help="imagenet, a file, or random.")] = "imagenet",
    epochs: Annotated[int, typer.Option(help="Of each way.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate of the first epoch.")] = 0.001,
    contenders: Annotated[
        str, typer.Option(help="Some of cached, frozen, finetune, lp-ft.")
    ] = "cached,frozen,finetune,lp-ft",
    views: Annotated[int, typer.Option(help="Augmented views the cached way trains on.")] = 0,
    figure: Annotated[Path, typer.Option(help="The PNG.")] = Path("cached_vs_finetune.png"),
    output: Annotated[Path | None, typer.Option(help="A JSON file of everything.")] = None,
) -> None:
    """Measure the ways in one run, from a cold cache, and draw them."""
    measured = tlcache.benchmark(
        tlcache.scan(data),
        trunk,
        weights,
        tlcache.Recipe(epochs=epochs, batch_size=batch_size, lr=lr),
        contenders=contenders.split(","),
        views=views,
        on_start=lambda name: say(f"{name} …"),
        on_epoch=lambda record: say(f"  {record.line(epochs)}"),
    )
    values = measured.describe()
    judged = f"{measured.judged_on} ({split_role(measured.judged_on, 'val')})"
    bars = [contender.describe() for contender in measured.contenders]
    save_png(benchmark_figure(bars, f"Accuracy on {judged}"), figure)
    if output is not None:
        output.write_text(json.dumps(values, indent=2) + "\n")
    for contender in measured.contenders:
        summary = f"{judged}: {contender.evaluation.summary()}"
        print(f"{contender.name:8} {contender.total:8.2f} s  {summary}")
    if measured.speedup is not None:
        print(f"one more head: {measured.head_seconds:.3f} s; speed-up {measured.speedup:.1f}; "
              f"break-even at {measured.break_even_heads} heads")  # fmt: skip
    for pair in ("comparison", "lp_ft_gain"):
        if values[pair] is not None:
            print(values[pair]["sentence"])
    if line := selection_note(["train", "val", measured.judged_on]):
        say(line)
    print(f"figure: {figure}")


if __name__ == "__main__":
    run(main)
