"""``tlcache finetune``: the tutorial's end-to-end loop on augmented images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, tell_result

if TYPE_CHECKING:
    from tlcache.core.machine import Compute
    from tlcache.data.folders import ImageDataset
    from tlcache.heads.model import Model
    from tlcache.heads.recipe import EpochRecord, StartRecord
    from tlcache.networks.finetune import Finetuned
    from tlcache.trunks.load import Trunk

EXAMPLES = "tlcache finetune hymenoptera_data --from runs/ants --epochs 5 --batch-size 8 --lr 0.002"


def run(
    data: o.Data,
    split: o.Split = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from the head of a run, and from its network if that was finetuned.",
            show_default="a random head",
        ),
    ] = None,
    trunk: Annotated[
        str | None,
        typer.Option(
            help="A torchvision network, timm/<name>, or efficientnet_lite0.",
            show_default="that of --from, else resnet18",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet, a file (.pth or .safetensors), or random[:SEED].",
            show_default="those of --from, else imagenet",
        ),
    ] = None,
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
    csv: o.Csv = None,
    tensorboard: o.TensorBoard = None,
    no_figures: o.NoFigures = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train the whole network end to end; every epoch pays for every pixel.

    With --from, the head that was trained on cached features comes first (LP-FT: Kumar et al.,
    2022): a random one sends large gradients through the network and distorts what it has learned.
    What it does on val before the first epoch is said as epoch 0. The model that is kept is the
    best epoch's on val, and epoch 0 is none of them.
    """
    options = o.plain(locals())
    options["from"] = options.pop("start")
    from tlcache.cli.embed import scanned
    from tlcache.core.machine import Compute
    from tlcache.heads.recipe import Recipe
    from tlcache.networks.finetune import finetune
    from tlcache.reports.run import CHECKPOINT, Run, finish_run, start_run
    from tlcache.reports.watching import watched

    out = Output(as_json, quiet)
    recipe = Recipe(epochs, batch_size, lr, momentum, weight_decay, step_size, gamma, seed)
    with watched(csv, tensorboard, resume=resume) as watch:

        def tell(record: EpochRecord) -> None:
            watch(record)
            out.line(record.line(epochs))

        dataset = scanned(out, data, split, seed)
        changes = o.transform_changes(resize, crop, interpolation, mean, std)
        before, loaded = _beginning(
            out, start, dataset, trunk, weights, cache_dir / "weights", changes
        )
        options |= {"trunk": loaded.name, "weights": loaded.weights}
        if start is not None:
            _warn(out, start, dataset, split, seed)
        folder = start_run(run_dir, "finetune", dataset.name, resume=resume)
        out.line(f"run: {folder} (if it stops: the same command with --run-dir {folder} --resume)")
        compute = Compute(device, workers=o.worker_count(workers))
        with out.progress("finetuning") as tick:
            tuned = finetune(
                dataset,
                loaded,
                recipe,
                head=before.head if before else None,
                freeze=freeze,
                bn=bn,
                skip_unreadable=skip_unreadable,
                checkpoint=folder / CHECKPOINT,
                on_start=lambda record: out.line(f"{record.line(epochs)} {_interval(record)}"),
                on_resume=watch,
                on_epoch=tell,
                progress=tick,
                device=compute.device,
                workers=compute.workers,
            )
    model = tuned.model(loaded, dataset.classes, before)
    scored = _scored(out, model, loaded, dataset, skip_unreadable, compute)
    run = Run(
        command="finetune",
        options=options,
        dataset=dataset,
        model=model,
        history=tuned.history,
        best_epoch=tuned.best_epoch,
        scored=scored,
        seconds={"train": tuned.seconds},
        more=_start_values(start, tuned.start),
    )
    result = finish_run(folder, run, figures=not no_figures)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    tell_result(out, result, folder)
    _tell_gain(out, start, tuned)
    out.result(result | {"unreadable": [{"path": p, "reason": r} for p, r in tuned.unreadable]})


def _beginning(
    out: Output,
    start: Path | None,
    dataset: ImageDataset,
    trunk: str | None,
    weights: str | None,
    memo: Path,
    changes: dict[str, Any],
) -> tuple[Model | None, Trunk]:
    """The model to start from, if any, and the trunk; whatever does not fit is refused."""
    from tlcache.heads.model import load_model
    from tlcache.networks.checks import check_classes, check_name, check_transform
    from tlcache.networks.finetune import trunk_of
    from tlcache.trunks.load import load_trunk

    if start is None:
        out.note_random(weights or "imagenet")
        loaded = load_trunk(trunk or "resnet18", weights or "imagenet", memo)
        transform = dataclasses.replace(loaded.transform, **changes)
        return None, dataclasses.replace(loaded, transform=transform)
    model = load_model(start)
    check_classes(model, dataset.classes)
    check_name(model, model.trunk if trunk is None else trunk)
    asked = dataclasses.replace(model.transform, **changes)
    remedy = "leave such options out, or start from a model of that transform"
    check_transform(model, asked, "the transform", remedy)
    out.note_random(weights or model.weights)
    return model, trunk_of(model, weights, memo)


def _warn(out: Output, start: Path, dataset: ImageDataset, split: str | None, seed: int) -> None:
    """Says so where the model that is started from has learned images of val."""
    from tlcache.reports.run import read_run

    about = read_run(start)
    options = about.get("options")
    theirs = options if isinstance(options, dict) else {}
    same_images = split is not None and about.get("data") == str(dataset.root)
    if same_images and (theirs.get("split"), theirs.get("seed")) != (split, seed):
        out.note(
            f"warning: {start} was trained on another split of these images (--split "
            f"{theirs.get('split')} --seed {theirs.get('seed')}), so it has learned some of val"
        )
    if "val" in about.get("fitted_on", ()):
        out.note(f"warning: {start} was trained on val too, so val says nothing good or bad of it")


def _scored(
    out: Output,
    model: Model,
    loaded: Trunk,
    dataset: ImageDataset,
    skip_unreadable: bool,
    compute: Compute,
) -> dict[str, Any]:
    """What the tuned model says of every split."""
    from tlcache.networks.scoring import load_network, score_split

    how: dict[str, Any] = {"skip_unreadable": skip_unreadable, "compute": compute}
    kept = model.digest == loaded.digest
    network, scored = loaded.module if kept else load_network(model), {}
    for name in dataset.present_splits():
        with out.progress(f"evaluating {name}") as tick:
            scored[name] = score_split(model, network, dataset, name, progress=tick, **how)
    return scored


def _interval(record: StartRecord) -> str:
    low, high = _bounds(record)
    return f"(95% {low:.3f}-{high:.3f}, n={record.n})"


def _bounds(record: StartRecord) -> tuple[float, float]:
    from tlcache.evaluation.metrics import wilson_interval

    return wilson_interval(round(record.val_accuracy * record.n), record.n)


def _start_values(start: Path | None, record: StartRecord | None) -> dict[str, Any]:
    """The starting point, for programs."""
    if start is None or record is None:
        return {}
    accuracy = {"val_accuracy": record.val_accuracy, "val_accuracy_ci95": list(_bounds(record))}
    return {"start": {"model": str(start), "val_loss": record.val_loss, **accuracy}}


def _tell_gain(out: Output, start: Path | None, tuned: Finetuned) -> None:
    """What finetuning gained over the model that it started from."""
    if start is None or tuned.start is None:
        return
    before, best = tuned.start, tuned.history[tuned.best_epoch - 1]
    gain = best.val_accuracy - before.val_accuracy
    out.line(
        f"val accuracy before finetuning {before.val_accuracy:.3f} {_interval(before)}, "
        f"in the best epoch {gain:+.3f}; `tlcache compare` says what chance has to do with it"
    )
    if gain <= 0:
        out.note(f"no epoch did better on val than {start} as it came")
