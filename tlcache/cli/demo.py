"""``tlcache demo``: the whole story in one go, with a network or without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, note_selection

if TYPE_CHECKING:
    from tlcache.data.folders import ImageDataset
    from tlcache.features.read import Features
    from tlcache.heads.model import Model
    from tlcache.heads.train import TrainedHead
    from tlcache.trunks.load import Trunk

EXAMPLES = "tlcache demo"
FINETUNED_IMAGES = 160
"""An epoch of finetuning more than this would take minutes on two cores."""


def run(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where data, cache and pictures go.")
    ] = Path("demo"),
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Embed a small data set once, train heads from the cache, and see what finetuning costs.

    ResNet18 and the tutorial's ants and bees, or, where they cannot be had, scikit-learn's digits
    and an EfficientNet-Lite0 whose weights come with the package.
    """
    out = Output(as_json, quiet)
    data, trunk = _material(out, folder)
    result = _story(out, folder, data, trunk, device=device, workers=o.worker_count(workers))
    out.result(result)


def _material(out: Output, folder: Path) -> tuple[Path, str]:
    """Data and trunk: the tutorial's where they can be had, else what needs no download."""
    from tlcache.core.errors import DownloadError, TrunkError
    from tlcache.data.examples import fetch_hymenoptera, write_digits
    from tlcache.features.stores import describe_trunk

    folder.mkdir(parents=True, exist_ok=True)
    try:
        describe_trunk("resnet18", "imagenet", folder / "cache" / "weights")
        with out.progress("downloading", "bytes") as tick:
            fetch_hymenoptera(folder / "hymenoptera", None, lambda n, total: tick(n, total or 0))
        return folder / "hymenoptera", "resnet18"
    except (DownloadError, TrunkError) as error:
        out.note(
            f"no ResNet18 or no photos here ({error.where}: {error.found}), so digits and the "
            "packaged EfficientNet-Lite0 instead"
        )
    write_digits(folder / "digits")
    return folder / "digits", "efficientnet_lite0"


def _story(
    out: Output, folder: Path, data: Path, trunk: str, *, device: str, workers: int | None
) -> dict[str, Any]:
    from tlcache.data.folders import scan, subset
    from tlcache.evaluation.roles import final_split, split_role
    from tlcache.features.embed import embed
    from tlcache.figures.bars import benchmark_figure
    from tlcache.figures.style import save_png
    from tlcache.trunks.load import load_trunk

    dataset = scan(data)
    out.line(f"{len(dataset)} images of {len(dataset.classes)} classes in {data}, trunk {trunk}")
    loaded = load_trunk(trunk, "imagenet", folder / "cache" / "weights")
    embedding = embed(
        dataset,
        loaded,
        cache=folder / "cache",
        device=device,
        workers=workers,
        report=out.note,
        progress=out.progress,
    )
    features = embedding.read()
    judged_on = final_split(features.present_splits())
    title = f"Accuracy on {judged_on} ({split_role(judged_on, 'val')})"
    first, again = _train(features, 0), _train(features, 1)
    part = subset(dataset, FINETUNED_IMAGES, FINETUNED_IMAGES, seed=0)
    rows = [
        _row(f"embed {embedding.embedded} images, once", embedding.seconds),
        _row("train a head, 25 epochs", first.seconds, *_accuracy(features, first, judged_on)),
        _row("train another, 25 epochs", again.seconds, *_accuracy(features, again, judged_on)),
        _finetuned(out, part, loaded, judged_on, device, workers),
    ]
    _print(out, rows, title)
    shown = [
        {
            "name": "first head",
            "seconds_by_stage": {"embed": embedding.seconds, "train": first.seconds},
        },
        {"name": "next head", "seconds_by_stage": {"train": again.seconds}},
        {"name": "finetune a part", "seconds_by_stage": {"train": rows[3]["seconds"]}},
    ]
    shown = [judged | bar for judged, bar in zip(rows[1:], shown, strict=True)]
    save_png(benchmark_figure(shown, title), folder / "comparison.png")
    model = embedding.model(first.head)
    _draw(folder, dataset, features, first, model)
    note_selection(out, features.present_splits())
    out.line(f"pictures: {', '.join(sorted(str(p) for p in folder.glob('*.png')))}")
    out.line(f"next: tlcache train {data} --trunk {trunk} --cache-dir {folder / 'cache'}")
    return {
        "data": str(data),
        "trunk": trunk,
        "embedded": embedding.embedded,
        "reused": embedding.reused,
        "selected_on": "val",
        "judged_on": judged_on,
        "steps": rows,
    }


def _train(features: Features, seed: int) -> TrainedHead:
    from tlcache.heads.recipe import Recipe
    from tlcache.heads.train import train_head

    train, val = features.split("train"), features.split("val")
    return train_head(*train, *val, Recipe(seed=seed), classes=len(features.classes))


def _accuracy(
    features: Features, trained: TrainedHead, split: str
) -> tuple[float, tuple[float, float]]:
    from tlcache.evaluation.metrics import evaluate

    rows, labels = features.split(split)
    judged = evaluate(trained.head.logits(rows), labels, features.classes)
    return judged.accuracy, judged.accuracy_ci95


def _finetuned(
    out: Output,
    part: ImageDataset,
    trunk: Trunk,
    judged_on: str,
    device: str,
    workers: int | None,
) -> dict[str, Any]:
    """One epoch of finetuning on a part of the images."""
    from tlcache.core.machine import Compute
    from tlcache.evaluation.metrics import evaluate
    from tlcache.heads.recipe import Recipe
    from tlcache.networks.finetune import finetune
    from tlcache.networks.scoring import load_network, score_split

    compute = Compute(device, workers=workers)
    with out.progress("finetuning") as tick:
        tuned = finetune(
            part, trunk, Recipe(epochs=1), progress=tick, device=device, workers=workers
        )
    model = tuned.model(trunk, part.classes)
    with out.progress("evaluating") as tick:
        scored = score_split(
            model, load_network(model), part, judged_on, progress=tick, compute=compute
        )
    judged = evaluate(scored.logits, scored.labels, part.classes)
    return _row(
        f"finetune, 1 epoch on {len(part.indices('train'))} of the training images",
        tuned.seconds,
        judged.accuracy,
        judged.accuracy_ci95,
    )


def _row(
    step: str,
    seconds: float,
    accuracy: float | None = None,
    interval: tuple[float, float] | None = None,
) -> dict[str, Any]:
    return {
        "step": step,
        "seconds": seconds,
        "accuracy": accuracy,
        "accuracy_ci95": interval and list(interval),
    }


def _print(out: Output, rows: list[dict[str, Any]], title: str) -> None:
    width = max(len(row["step"]) for row in rows)
    out.line(f"{'':{width}}   seconds   {title}, 95% interval")
    for row in rows:
        judged = ""
        if row["accuracy"] is not None:
            low, high = row["accuracy_ci95"]
            judged = f"{row['accuracy']:.3f} ({low:.3f}-{high:.3f})"
        out.line(f"{row['step']:{width}}   {row['seconds']:7.2f}   {judged}")


def _draw(
    folder: Path, dataset: ImageDataset, features: Features, trained: TrainedHead, model: Model
) -> None:
    from tlcache.figures.curves import learning_curves
    from tlcache.figures.style import save_png
    from tlcache.networks.scoring import Scored
    from tlcache.reports.pictures import augmented_picture, prediction_picture

    rows, labels = features.split("val")
    scored = Scored(trained.head.logits(rows), labels, features.split_paths("val"))
    figures = {
        "augmented": augmented_picture(dataset, model.transform),
        "curves": learning_curves(trained.history, trained.best_epoch),
        "predictions": prediction_picture(model, scored, dataset.root),
    }
    for name, figure in figures.items():
        if figure is not None:
            save_png(figure, folder / f"{name}.png")
