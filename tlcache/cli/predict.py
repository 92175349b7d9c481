"""``tlcache predict``: class and probability of each image, in the order given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output

EXAMPLES = "tlcache predict runs/ants photo.jpg more_photos/"


def run(
    model: o.ModelFile,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE…",
            help="Image files, folders of them, or - for paths on stdin, one a line.",
            show_default=False,
        ),
    ],
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Say what is on each image, and how sure the model is."""
    from tlcache.evaluation import softmax
    from tlcache.heads import load_model
    from tlcache.scoring import load_network, score_images

    out = Output(as_json, quiet)
    loaded = load_model(model)
    out.note_random(loaded.weights)
    network = load_network(loaded, weights, cache_dir / "weights")
    paths = list(_paths(images))
    scored = score_images(loaded, network, paths, device=device, workers=o.worker_count(workers))
    predictions: list[dict[str, object]] = []
    unreadable = 0
    for path, (logits, reason) in zip(paths, scored, strict=True):
        if logits is None:
            unreadable += 1
            out.note(f"cannot be read: {path} ({reason})")
            predictions.append({"path": str(path), "reason": reason})
            continue
        shares = softmax(logits[None])[0]
        best = int(shares.argmax())
        out.line(f"{path}\t{loaded.classes[best]}\t{shares[best]:.4f}")
        probabilities = {c: float(p) for c, p in zip(loaded.classes, shares, strict=True)}
        predictions.append(
            {"path": str(path), "class": loaded.classes[best], "probabilities": probabilities}
        )
    out.result({"predictions": predictions, "unreadable": unreadable})
    if unreadable:
        raise typer.Exit(1)


def _paths(arguments: list[str]) -> Iterator[Path]:
    import sys

    from tlcache.errors import DataError
    from tlcache.samples import images_below

    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield from (Path(line) for line in sys.stdin.read().splitlines() if line)
        elif path.is_dir():
            yield from (path / name for name in images_below(path))
        elif path.exists():
            yield path
        else:
            raise DataError(
                path, expected="an image", found="no such file", remedy="correct the path"
            )
