"""``tlcache sweep``: heads of many settings from one cache, the best one chosen and kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.options import some_of
from tlcache.cli.output import Output
from tlcache.cli.sweep_table import heat_map_of, tell_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tlcache.data.folders import ImageDataset
    from tlcache.features.read import Embedding, Features
    from tlcache.networks.scoring import Scored
    from tlcache.studies.sweep import Sweep

EXAMPLES = "tlcache sweep hymenoptera_data --lr 1e-4,1e-3,1e-2 --weight-decay 0,1e-2 --folds 5"

LIST = "values with commas between them"


def run(
    data: o.Data,
    split: o.Split = None,
    lr: Annotated[str, typer.Option(help=f"Learning rates of SGD: {LIST}.")] = "1e-4,1e-3,1e-2",
    weight_decay: Annotated[str, typer.Option(help="L2 penalties of SGD.")] = "0,1e-4,1e-2",
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the learning rate: step, constant or cosine.",
            autocompletion=some_of("step", "constant", "cosine"),
        ),
    ] = "step",
    batch_size: Annotated[str, typer.Option(help="Images a step of SGD.")] = "4",
    features: Annotated[
        str,
        typer.Option(
            help="raw: as they are; standardised: by the training rows' mean and deviation; "
            "l2: each row scaled to length 1.",
            autocompletion=some_of("raw", "standardised", "l2"),
        ),
    ] = "raw,standardised",
    solver: Annotated[
        str,
        typer.Option(
            help="sgd, as in `train`; lbfgs: logistic regression.",
            autocompletion=some_of("sgd", "lbfgs"),
        ),
    ] = "sgd,lbfgs",
    c: Annotated[
        str, typer.Option("--c", help="Of lbfgs: scikit-learn's C, the inverse of its penalty.")
    ] = "1e-4,1e-3,1e-2,0.1,1,10,100",
    draw: Annotated[
        int | None,
        typer.Option(
            help="Instead of every combination, so many at random; --lr, --weight-decay and --c "
            "are bounds then.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Heads of SGD a setting; their mean counts.")] = 1,
    folds: Annotated[
        int,
        typer.Option(
            help="Choose by cross-validation on train in so many folds, which leaves val to score. "
            "0: val chooses, where there is one."
        ),
    ] = 0,
    epochs: o.Epochs = 25,
    momentum: o.Momentum = 0.9,
    step_size: o.StepSize = 7,
    gamma: o.Gamma = 0.1,
    seed: o.Seed = 0,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    views: o.Views = 0,
    precision: o.Precision = "fp32",
    dtype: o.Dtype = "float32",
    device: o.Device = "auto",
    engine: o.Engine = "auto",
    workers: o.Workers = "auto",
    skip_unreadable: o.SkipUnreadable = False,
    rehash: o.Rehash = False,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    mean: o.Mean = None,
    std: o.Std = None,
    figure: Annotated[
        Path | None, typer.Option(help="A PNG of the heat map.", show_default="in the run's folder")
    ] = None,
    run_dir: o.RunDir = None,
    no_figures: o.NoFigures = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train heads of many settings side by side, choose one, and score it on what did not choose.

    val chooses, and test scores the setting once it has been trained on train and val; with --folds
    or without val, cross-validation on train chooses. Heads are those of the last epoch.
    """
    options = o.plain(locals())
    from tlcache.cli.embed import embedding_of, summary
    from tlcache.heads.recipe import Recipe
    from tlcache.reports.run import start_run
    from tlcache.studies.settings import Space, drawn, grid
    from tlcache.studies.sweep import check_images, folds_of, sweep_heads

    out = Output(as_json, quiet)
    space = Space(
        base=Recipe(epochs=epochs, momentum=momentum, step_size=step_size, gamma=gamma, seed=seed),
        lr=o.numbers("--lr", lr),
        weight_decay=o.numbers("--weight-decay", weight_decay),
        schedule=_words(schedule),
        batch_size=_whole("--batch-size", batch_size),
        features=_words(features),
        solver=_words(solver),
        c=o.numbers("--c", c),
        seeds=seeds,
    )
    settings = grid(space) if draw is None else drawn(space, draw)

    def check(dataset: ImageDataset) -> None:
        labels = dataset.labels[dataset.indices("train")]
        check_images(labels, dataset.classes, folds_of(dataset.present_splits(), folds))

    embedding = embedding_of(
        out,
        data,
        split=split,
        seed=seed,
        unsplit=True,
        check=check,
        trunk=trunk,
        weights=weights,
        cache=cache_dir,
        views=views,
        precision=precision,
        dtype=dtype,
        engine=engine,
        device=device,
        workers=o.worker_count(workers),
        skip_unreadable=skip_unreadable,
        rehash=rehash,
        transform=o.transform_changes(resize, crop, interpolation, mean, std),
    )
    check(embedding.snapshot.dataset)  # of a snapshot, which is not checked above
    out.line(summary(embedding))
    folder = start_run(run_dir, "sweep", embedding.snapshot.dataset.name)
    started = time.perf_counter()
    read = embedding.read()
    seconds = {"embed": embedding.seconds, "read": time.perf_counter() - started}
    with out.progress("sweeping", "epochs") as tick:
        swept = sweep_heads(read, settings, seeds=seeds, folds=folds, fold_seed=seed, progress=tick)
    picture = None if no_figures and figure is None else heat_map_of(swept)
    result = _finished(folder, embedding, read, swept, options, seconds, not no_figures)
    if picture is not None:
        _save(picture, folder, figure, no_figures)
    tell_sweep(out, swept, result, folder)
    counts = embedding.describe()
    out.result({name: counts[name] for name in ("embedded", "reused", "unreadable")} | result)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _whole(option: str, text: str) -> tuple[int, ...]:
    from tlcache.core.errors import OptionError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            option,
            expected="whole numbers with commas between them",
            found=text or "nothing",
            remedy="write it like 4,16",
        ) from None


def _finished(
    folder: Path,
    embedding: Embedding,
    features: Features,
    swept: Sweep,
    options: dict[str, Any],
    seconds: dict[str, float],
    figures: bool,
) -> dict[str, Any]:
    """The run's folder, and what programs may rely on."""
    from tlcache.reports.run import Run, finish_run

    scored = _scored(features, swept)
    unseen = [name for name in scored if name not in swept.fitted_on]
    run = Run(
        command="sweep",
        options=options,
        dataset=embedding.snapshot.dataset,
        model=embedding.model(swept.head),
        history=swept.history,
        best_epoch=None,
        scored=scored,
        seconds=seconds | swept.seconds,
        selected_on=swept.selected_on,
        fitted_on=swept.fitted_on,
        pictured=(unseen or ["train"])[-1],
        identity=embedding.stores[0].identity.key,
        more={
            "best": swept.best.index,
            "ranked": swept.ranked,
            "settings": [candidate.describe() for candidate in swept.candidates],
        },
    )
    return finish_run(folder, run, figures=figures)


def _scored(features: Features, swept: Sweep) -> dict[str, Scored]:
    """Of train, and of each split that the head was not trained on."""
    from tlcache.networks.scoring import Scored

    return {
        name: Scored(swept.head.logits(rows), labels, features.split_paths(name))
        for name in features.present_splits()
        if name == "train" or name not in swept.fitted_on
        for rows, labels in [features.split(name)]
    }


def _save(picture: Figure, folder: Path, figure: Path | None, no_figures: bool) -> None:
    from tlcache.figures.style import save_png

    if figure is not None:
        save_png(picture, figure)
    if not no_figures:
        save_png(picture, folder / "heatmap.png")
