"""Train the head N times with N seeds from one cache: the spread of its accuracy, seconds each."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Annotated

import typer

import tlcache
from tlcache.figures import accuracy_spread, save_png


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
            tlcache.scan(data), trunk, weights, cache=cache_dir, views=views, report=_note
        )
    features = embedding.read()
    rows, labels = features.split("val")
    accuracies, seconds = [], []
    for seed in range(heads):
        trained = tlcache.train_head(
            features.to_train_on(),
            features.split("train")[1],
            rows,
            labels,
            tlcache.Recipe(epochs=epochs, seed=seed),
            classes=len(features.classes),
        )
        judged = tlcache.evaluate(trained.head.logits(rows), labels, features.classes)
        accuracies.append(judged.accuracy)
        seconds.append(trained.seconds)
    if figure is not None:
        save_png(accuracy_spread(accuracies, seconds), figure)
    if as_json:
        counts = {"embedded": embedding.embedded, "embed_seconds": embedding.seconds}
        print(json.dumps(counts | {"accuracies": accuracies, "seconds": seconds}))
        return
    print(f"embedded {embedding.embedded} images in {embedding.seconds:.2f} s")
    print(
        f"{heads} heads: val accuracy mean {statistics.mean(accuracies):.4f}, "
        f"sd {statistics.pstdev(accuracies):.4f}, "
        f"from {min(accuracies):.4f} to {max(accuracies):.4f}"
    )
    print(f"seconds a head: median {statistics.median(seconds):.4f}, all {sum(seconds):.2f}")


def _note(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    try:
        typer.run(main)
    except tlcache.TlcacheError as error:
        sys.exit(f"error: {error}")
