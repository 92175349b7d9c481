"""An epoch of finetuning, and of the frozen loop, beside the tutorial's own: alternated rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from bench_parts import tutorial_epoch
from bench_rounds import JsonFile, alternated, keep, print_table, ratios, run, say, shown, spread

import tlcache
from tlcache.data.folders import subset


def main(
    data: Annotated[Path, typer.Argument(help="A folder with train/ and val/.")],
    trunk: Annotated[str, typer.Option(help="The network.")] = "resnet18",
    weights: Annotated[str, typer.Option(help="imagenet, a file, or random.")] = "random",
    images: Annotated[int, typer.Option(help="To train on; half as many to judge. 0: all.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Of everything.")] = 3,
    json_file: JsonFile = None,
) -> None:
    """Time one epoch, its train and its val phase, batch 4, of each loop in turns."""
    dataset = tlcache.scan(data)
    dataset = subset(dataset, images, images // 2) if images else dataset
    network = tlcache.load_trunk(trunk, weights)

    def ours(freeze: bool) -> Callable[[], float]:
        def epoch() -> float:
            recipe = tlcache.Recipe(epochs=1)
            # As the tutorial does: a frozen network's batch norms go on moving.
            bn = "train" if freeze else "eval"
            done = tlcache.finetune(dataset, network, recipe, freeze=freeze, bn=bn)
            return done.history[0].seconds

        return epoch

    contenders: dict[str, Callable[[], float]] = {
        "finetuning, tutorial": lambda: tutorial_epoch(network, dataset, freeze=False),
        "finetuning, tlcache": ours(freeze=False),
        "frozen, tutorial": lambda: tutorial_epoch(network, dataset),
        "frozen, tlcache": ours(freeze=True),
    }
    for name, contender in contenders.items():
        say(f"warming up {name}")
        contender()
    seconds = alternated(contenders, rounds)
    table = []
    for name, values in seconds.items():
        base = seconds[f"{name.split(',')[0]}, tutorial"]
        table.append([name, shown(spread(values), ".2f"), shown(ratios(base, values), ".2f")])
    print(f"{trunk} ({weights}), {len(dataset)} images, one epoch with val, batch 4")
    print_table(["", "s", "× tutorial"], table)
    keep({name: spread(values) for name, values in seconds.items()}, json_file)


if __name__ == "__main__":
    run(main)
