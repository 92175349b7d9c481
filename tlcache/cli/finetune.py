"""``tlcache finetune``: the tutorial's end-to-end loop on augmented images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, plain, tell_result

EXAMPLES = "tlcache finetune hymenoptera_data --epochs 5 --batch-size 8 --lr 0.002"


def run(
    data: o.Data,
    split: o.Split = None,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Train the head only; the trunk runs all the same.")
    ] = False,
    bn: Annotated[
        Literal["eval", "train"],
        typer.Option(
            help="With --freeze: eval keeps the trunk fixed; train lets its BatchNorm statistics "
            "drift, as the tutorial does."
        ),
    ] = "eval",
    epochs: o.Epochs = 25,
    batch_size: o.BatchSize = 4,
    lr: o.LearningRate = 0.001,
    momentum: o.Momentum = 0.9,
    weight_decay: o.WeightDecay = 0.0,
    step_size: o.StepSize = 7,
    gamma: o.Gamma = 0.1,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    skip_unreadable: o.SkipUnreadable = False,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    mean: o.Mean = None,
    std: o.Std = None,
    run_dir: o.RunDir = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the stopped run in --run-dir.")
    ] = False,
    no_figures: o.NoFigures = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train the whole network end to end; every epoch pays for every pixel."""
    options = plain(locals())
    from tlcache.cli.embed import scanned
    from tlcache.finetuning import finetune
    from tlcache.recipe import Recipe
    from tlcache.runs import CHECKPOINT, Run, finish_run, start_run
    from tlcache.scoring import load_network, score_split
    from tlcache.trunk import load_trunk

    out = Output(as_json, quiet)
    recipe = Recipe(epochs, batch_size, lr, momentum, weight_decay, step_size, gamma, seed)
    dataset = scanned(out, data, split, seed)
    out.note_random(weights)
    loaded = load_trunk(trunk, weights, cache_dir / "weights")
    changes = o.transform_changes(resize, crop, interpolation, mean, std)
    loaded = dataclasses.replace(loaded, transform=dataclasses.replace(loaded.transform, **changes))
    folder = start_run(run_dir, "finetune", dataset.name, resume=resume)
    out.line(f"run: {folder} (if it stops: the same command with --run-dir {folder} --resume)")
    passing: dict[str, Any] = {"device": device, "workers": o.worker_count(workers)}
    with out.progress("finetuning") as tick:
        tuned = finetune(
            dataset,
            loaded,
            recipe,
            freeze=freeze,
            bn=bn,
            skip_unreadable=skip_unreadable,
            checkpoint=folder / CHECKPOINT,
            on_epoch=lambda record: out.line(record.line(epochs)),
            progress=tick,
            **passing,
        )
    model = tuned.model(loaded, dataset.classes)
    network = loaded.module if model.network is None else load_network(model)
    scored = {}
    for name in dataset.present_splits():
        with out.progress(f"evaluating {name}") as tick:
            scored[name] = score_split(
                model,
                network,
                dataset,
                name,
                skip_unreadable=skip_unreadable,
                progress=tick,
                **passing,
            )
    run = Run(
        command="finetune",
        options=options,
        dataset=dataset,
        model=model,
        history=tuned.history,
        best_epoch=tuned.best_epoch,
        scored=scored,
        seconds={"train": tuned.seconds},
    )
    result = finish_run(folder, run, figures=not no_figures)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    tell_result(out, result, folder)
    out.result(result | {"unreadable": [{"path": p, "reason": r} for p, r in tuned.unreadable]})
