"""``tlcache crossval``: how well a recipe's heads do on new images, by folds from one cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output

if TYPE_CHECKING:
    from tlcache.data.folders import ImageDataset
    from tlcache.features.read import Embedding
    from tlcache.studies.crossval import CrossValidation

EXAMPLES = "tlcache crossval photos --folds 5 --repeats 3 --group-pattern '^([^_]+)_'"


def run(
    data: o.Data,
    folds: Annotated[int, typer.Option(help="Parts; each is held out once.")] = 5,
    repeats: Annotated[
        int, typer.Option(help="Times over, each with other folds, first heads and orders.")
    ] = 3,
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Columns path and group: images of a group stay in one fold.",
            show_default=False,
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="The same from file names: the group is what the first part in parentheses finds "
            "in the path below the class folder.",
            show_default=False,
        ),
    ] = None,
    split: o.Split = None,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    precision: o.Precision = "fp32",
    dtype: o.Dtype = "float32",
    epochs: o.Epochs = 25,
    batch_size: o.BatchSize = 4,
    lr: o.LearningRate = 0.001,
    momentum: o.Momentum = 0.9,
    weight_decay: o.WeightDecay = 0.0,
    step_size: o.StepSize = 7,
    gamma: o.Gamma = 0.1,
    seed: o.Seed = 0,
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
        Path | None, typer.Option(help="A PNG of the folds.", show_default=False)
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Cross-validate: train a head beside each fold and judge it on the fold; test is left alone.

    Train and val are one pool here. A folder of classes needs no --split.
    """
    import numpy as np

    from tlcache.cli.embed import embedding_of, summary
    from tlcache.data.folders import SPLITS
    from tlcache.data.splits import draw_folds
    from tlcache.heads.recipe import Recipe
    from tlcache.studies.crossval import check_plan, cross_validate

    out = Output(as_json, quiet)
    check_plan(folds, repeats)
    _check_one_source(groups, group_pattern)
    recipe = Recipe(epochs, batch_size, lr, momentum, weight_decay, step_size, gamma, seed)

    def check(dataset: ImageDataset) -> None:
        pool = np.flatnonzero(dataset.splits != SPLITS.index("test"))
        paths = [dataset.paths[i] for i in pool]
        of_group = _groups(paths, dataset.classes, groups, group_pattern)
        draw_folds(dataset.labels[pool], folds, seed, classes=dataset.classes, groups=of_group)

    embedding = embedding_of(
        out,
        data,
        split=split,
        seed=seed,
        unsplit=True,
        check=check,
        warn=False,  # train and val are one pool: see _note_copies
        trunk=trunk,
        weights=weights,
        cache=cache_dir,
        views=0,
        precision=precision,
        dtype=dtype,
        engine=engine,
        device=device,
        workers=o.worker_count(workers),
        skip_unreadable=skip_unreadable,
        rehash=rehash,
        transform=o.transform_changes(resize, crop, interpolation, mean, std),
    )
    out.line(summary(embedding))
    features = embedding.read()
    count = len(features.split("train")[1]) + len(features.split("val")[1])
    of_group = _groups(features.paths[:count], features.classes, groups, group_pattern)
    _note_copies(out, embedding, features.paths[:count], of_group)
    with out.progress("training", "heads") as tick:
        result = cross_validate(
            features.features[:count],
            features.labels[:count],
            classes=features.classes,
            folds=folds,
            repeats=repeats,
            groups=of_group,
            recipe=recipe,
            progress=tick,
        )
    _tell(out, result, len(features.paths) - count)
    seconds = {"embed": embedding.seconds, "crossval": result.seconds}
    out.result(result.describe() | {"recipe": recipe.describe(), "seconds": seconds})
    _draw(result, figure)


def _check_one_source(groups: Path | None, pattern: str | None) -> None:
    from tlcache.core.errors import OptionError

    if groups is not None and pattern is not None:
        raise OptionError(
            "--groups and --group-pattern",
            expected="one of them",
            found="both",
            remedy="leave one out",
        )


def _groups(
    paths: Sequence[str], classes: Sequence[str], table: Path | None, pattern: str | None
) -> list[str] | None:
    from tlcache.data.groups import below_classes, groups_from_csv, groups_from_pattern

    if table is not None:
        return groups_from_csv(table, paths)
    if pattern is not None:
        return groups_from_pattern(pattern, below_classes(paths, classes))
    return None


def _note_copies(
    out: Output, embedding: Embedding, paths: Sequence[str], groups: Sequence[str] | None
) -> None:
    """A copy of an image that is held out may be trained on: then the numbers flatter."""
    from tlcache.cache.copies import copies

    places = dict(zip(paths, groups or paths, strict=True))
    names = embedding.snapshot.dataset.paths
    alike = [
        [p for row in rows if (p := names[row]) in places] for rows in copies(embedding.snapshot)
    ]
    count = sum(len(same) for same in alike if len({places[path] for path in same}) > 1)
    if count:
        out.note(
            f"{count} images have copies that may come into another fold, so the numbers flatter; "
            "`tlcache check` lists them, and --groups keeps them together"
        )


def _tell(out: Output, result: CrossValidation, test: int) -> None:
    out.line("repeat  fold  trained on  held out  accuracy (95%)")
    for fold in result.folds:
        low, high = fold.describe()["accuracy_ci95"]
        out.line(
            f"{fold.repeat:6}  {fold.fold:4}  {fold.trained_on:10}  {fold.held_out:8}  "
            f"{fold.accuracy:.3f} ({low:.3f}-{high:.3f})"
        )
    low, high = result.accuracy_ci95
    out.line(
        f"accuracy {result.accuracy:.3f} (95% {low:.3f}-{high:.3f}), mean of {len(result.folds)} "
        f"heads on new images; {result.interval}"
    )
    repeats = "" if result.sd_repeats is None else f", between repeats {result.sd_repeats:.3f}"
    out.line(f"standard deviation: between the folds of a repeat {result.sd_folds:.3f}{repeats}")
    low, high = result.out_of_fold_ci95
    grouped = "" if result.groups is None else f" in {result.groups} groups"
    out.line(
        f"out of fold: {result.out_of_fold:.3f} of {result.repeats[0].n} images{grouped} right "
        f"(95% {low:.3f}-{high:.3f}) by these heads; {result.out_of_fold_interval}"
    )
    out.line("nothing was chosen on a held-out image: each head is that of the last epoch")
    if test:
        out.note(f"test: {test} images were left alone")
    else:
        out.note(
            "no test split: if these numbers choose a recipe, they flatter it; "
            "a test/ folder or --split 0.7,0.15,0.15 keeps images for the last word"
        )


def _draw(result: CrossValidation, path: Path | None) -> None:
    if path is None:
        return
    import numpy as np

    from tlcache.figures.spreads import fold_spread
    from tlcache.figures.style import save_png

    accuracies = np.array([fold.accuracy for fold in result.folds])
    means = {
        "mean of the folds": (result.accuracy, result.accuracy_ci95),
        "out of fold": (result.out_of_fold, result.out_of_fold_ci95),
    }
    save_png(fold_spread(accuracies.reshape(len(result.repeats), -1), means), path)
