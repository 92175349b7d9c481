"""Train the head N times with N seeds from one cache: the spread of its accuracy, seconds each."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated

import typer
from bench_rounds import run, say

import tlcache
from tlcache.evaluation.metrics import wilson_interval
from tlcache.evaluation.roles import final_split, selection_note, split_role
from tlcache.figures.spreads import accuracy_spread
from tlcache.figures.style import save_png


def main(
    data: Annotated[Path, typer.Argument(help="A folder with train/ and val/, or a snapshot.")],
    heads: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    trunk: Annotated[str, typer.Option(help="The frozen network.")] = "resnet18",
    weights: Annotated[str, typer.Option(help="imagenet, a file, or random.")] = "imagenet",
    cache_dir: Annotated[Path, typer.Option(help="Where features are kept.")] = Path("cache"),
    views: Annotated[int, typer.Option(help="Augmented views of each training image.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of each head.")] = 25,
    figure: Annotated[Path | None, typer.Option(help="A PNG of the spread.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train the head again and again from cached features, with another seed each time."""
    if data.is_file():
        embedding = tlcache.open_snapshot(data, views)
    else:
        embedding = tlcache.embed(
            tlcache.scan(data), trunk, weights, cache=cache_dir, views=views, report=say
        )
    features = embedding.read()
    judged_on = final_split(features.present_splits())
    rows, labels = features.split(judged_on)
    accuracies, seconds = [], []
    for seed in range(heads):
        trained = tlcache.train_head(
            features.to_train_on(),
            features.split("train")[1],
            *features.split("val"),
            tlcache.Recipe(epochs=epochs, seed=seed),
            classes=len(features.classes),
        )
        judged = tlcache.evaluate(trained.head.logits(rows), labels, features.classes)
        accuracies.append(judged.accuracy)
        seconds.append(trained.seconds)
    if figure is not None:
        save_png(accuracy_spread(accuracies, seconds), figure)
    mean = statistics.mean(accuracies)
    # All heads are judged on the same images: however many heads there are, the images stay as few.
    low, high = wilson_interval(mean * len(labels), len(labels))
    if as_json:
        values = {
            "embedded": embedding.embedded,
            "embed_seconds": embedding.seconds,
            "selected_on": "val",
            "judged_on": judged_on,
            "accuracy": mean,
            "accuracy_ci95": [low, high],
            "n": len(labels),
            "accuracies": accuracies,
            "seconds": seconds,
        }
        print(json.dumps(values))
    else:
        print(f"embedded {embedding.embedded} images in {embedding.seconds:.2f} s")
        print(
            f"{heads} heads on {judged_on} ({split_role(judged_on, 'val')}): accuracy mean "
            f"{mean:.4f} (95% {low:.4f}-{high:.4f}, n={len(labels)}), "
            f"sd of seeds {statistics.pstdev(accuracies):.4f}, "
            f"from {min(accuracies):.4f} to {max(accuracies):.4f}"
        )
        print(f"seconds a head: median {statistics.median(seconds):.4f}, all {sum(seconds):.2f}")
    if line := selection_note(features.present_splits()):
        say(line)


if __name__ == "__main__":
    run(main)
