"""``crossval``, ``fewshot`` and ``knn``: what features and recipes are worth; no model is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, accuracy_text, score_text, tell_embedding

if TYPE_CHECKING:
    from tlcache.studies.crossval import CrossValidation
    from tlcache.studies.fewshot import FewShotCurve
    from tlcache.studies.knn import KnnResult


@dataclasses.dataclass(frozen=True)
class _Folds:
    folds: Annotated[int, typer.Option(help="Parts; each is held out once.")] = 5
    repeats: Annotated[
        int, typer.Option(help="Times over, each with other folds, first heads and orders.")
    ] = 3
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Columns path and group: images of a group stay in one fold.",
            show_default=False,
        ),
    ] = None
    group_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="The same from file names: the group is what the first part in parentheses finds "
            "in the path below the class folder.",
            show_default=False,
        ),
    ] = None


@o.command("tlcache crossval photos --folds 5 --repeats 3 --group-pattern '^([^_]+)_'")
def crossval(
    source: o.Source,
    features: o.FeatureOptions,
    recipe: o.RecipeOptions,
    plan: _Folds,
    out: Output,
    figure: Annotated[
        Path | None, o.in_output(help="A PNG of the folds.", show_default=False)
    ] = None,
) -> None:
    """Cross-validate: train a head beside each fold and judge it on the fold; test is left alone.

    Train and val are one pool here. A folder of classes needs no --split.
    """
    from tlcache.features.embed import embedding_of
    from tlcache.studies import crossval as study

    study.check_plan(plan.folds, plan.repeats)
    grouping = study.Grouping(plan.groups, plan.group_pattern)
    wanted = recipe.recipe(source.seed)
    embedding = embedding_of(
        source.named(unsplit=True),
        features.spec(),
        out.reporter,
        check=lambda dataset: study.check_dataset(dataset, plan.folds, source.seed, grouping),
        warn=False,  # train and val are one pool: see _note_copies
    )
    tell_embedding(out, embedding)
    read = embedding.read()
    pool = study.pooled(read)
    of_group = grouping.of(pool.paths, pool.classes)
    _note_copies(out, study.copies_apart(embedding.snapshot, pool.paths, of_group))
    with out.progress("training", "heads") as tick:
        result = study.cross_validate(
            pool.features,
            pool.labels,
            classes=pool.classes,
            folds=plan.folds,
            repeats=plan.repeats,
            groups=of_group,
            recipe=wanted,
            progress=tick,
        )
    _tell_folds(out, result, len(read.paths) - len(pool.paths))
    seconds = {"embed": embedding.seconds, "crossval": result.seconds}
    out.result(result.describe() | {"recipe": wanted.describe(), "seconds": seconds})
    _draw_folds(result, figure)


def _note_copies(out: Output, count: int) -> None:
    """A copy of an image that is held out may be trained on: then the numbers flatter."""
    if count:
        out.note(
            f"{count} images have copies that may come into another fold, so the numbers flatter; "
            "`tlcache check` lists them, and --groups keeps them together"
        )


def _tell_folds(out: Output, result: CrossValidation, test: int) -> None:
    out.line("repeat  fold  trained on  held out  accuracy (95%)")
    for fold in result.folds:
        scored = score_text(fold.accuracy, fold.describe()["accuracy_ci95"])
        counts = f"{fold.trained_on:10}  {fold.held_out:8}"
        out.line(f"{fold.repeat:6}  {fold.fold:4}  {counts}  {scored}")
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


def _draw_folds(result: CrossValidation, path: Path | None) -> None:
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


@dataclasses.dataclass(frozen=True)
class _Draws:
    shots: Annotated[
        str, typer.Option(help="Images of each class to train on, one number a point.")
    ] = "1,2,5,10,20"
    episodes: Annotated[int, typer.Option(help="Draws of each point, with a head each.")] = 50
    on: Annotated[
        str,
        typer.Option(
            help="What heads are judged on: val or test.", autocompletion=o.one_of("val", "test")
        ),
    ] = "val"
    least_steps: Annotated[
        int,
        typer.Option(
            help="Steps of an epoch at least: fewer shots are taken several times over, lest the "
            "curve tell of steps that were not taken. 1: the plain recipe."
        ),
    ] = 10


@o.command("tlcache fewshot photos --shots 1,2,5,10,20 --episodes 50 --figure fewshot.png")
def fewshot(
    source: o.Source,
    features: o.ViewedFeatures,
    recipe: o.RecipeOptions,
    draws: _Draws,
    out: Output,
    figure: Annotated[
        Path | None, o.in_output(help="A PNG of the curve.", show_default=False)
    ] = None,
) -> None:
    """Draw few images of each class from train, train heads on them, judge them on all of val.

    No image of val is ever drawn, and nothing is chosen on val.
    """
    from tlcache.features.embed import embedding_of
    from tlcache.networks.checks import no_split
    from tlcache.studies.fewshot import check_dataset, check_draws, few_shot_curve

    counts = o.whole_numbers("--shots", draws.shots, "write them like 1,2,5,10,20")
    check_draws(counts, draws.episodes, draws.least_steps, draws.on)
    on, wanted = draws.on, recipe.recipe(source.seed)
    embedding = embedding_of(
        source.named(),
        features.spec(),
        out.reporter,
        check=lambda dataset: check_dataset(dataset, on, counts),
    )
    tell_embedding(out, embedding)
    read = embedding.read()
    if on not in read.present_splits():
        raise no_split(embedding.snapshot.dataset, on)
    with out.progress("training", "heads") as tick:
        curve = few_shot_curve(
            read.to_train_on(),
            read.split("train")[1],
            *read.split(on),
            classes=read.classes,
            shots=counts,
            episodes=draws.episodes,
            recipe=wanted,
            least_steps=draws.least_steps,
            progress=tick,
        )
    _tell_curve(out, curve, on, "test" in read.present_splits())
    about = {"judged_on": on, "recipe": wanted.describe(), "least_steps": draws.least_steps}
    about["seconds"] = {"embed": embedding.seconds, "fewshot": curve.seconds}
    out.result(curve.describe() | about)
    _draw_curve(curve, on, figure)


def _tell_curve(out: Output, curve: FewShotCurve, on: str, has_test: bool) -> None:
    out.line("shots  accuracy (95%)        95% of episodes  sd")
    for point in curve.points:
        scored, (least, most) = score_text(point.accuracy, point.accuracy_ci95), point.band
        out.line(f"{point.shots:5}  {scored}   {least:.3f}-{most:.3f}      {point.sd:.3f}")
    out.line(
        f"accuracy: mean of {curve.episodes} episodes on the {curve.images} images of {on}; its "
        "95% interval is for other shots and other images"
    )
    out.line("95% of episodes: the middle of them, which is what one draw of shots gives on these")
    out.line(f"nothing was chosen on {on}: each head is that of the last epoch")
    if on == "val" and not has_test:
        out.note(
            "no test split: if val chose the recipe's options, these numbers flatter; "
            "a test/ folder or --split 0.7,0.15,0.15, and --on test, give some that do not"
        )
    elif on == "val":
        out.note("if val chose the recipe's options, these numbers flatter: --on test does not")


def _draw_curve(curve: FewShotCurve, on: str, path: Path | None) -> None:
    if path is None:
        return
    from tlcache.figures.curves import few_shot_figure
    from tlcache.figures.style import save_png

    points = [point.describe() for point in curve.points]
    save_png(few_shot_figure(points, f"{curve.images} images of {on}"), path)


@dataclasses.dataclass(frozen=True)
class _Voters(o.Source):
    seed: Annotated[
        int, o.in_data(help="Of --split, and of the images left out where they are many.")
    ] = 0


@o.command("tlcache knn hymenoptera_data --trunk mobilenet_v2 --weights mobilenet_v2.pth")
def knn(
    source: _Voters,
    features: o.FeatureOptions,
    out: Output,
    k: Annotated[
        str, typer.Option("--k", help="Numbers of neighbours to try.")
    ] = "1,2,5,10,20,50,100,200",
    temperature: Annotated[
        float, typer.Option(help="Of the votes, exp(similarity / temperature).")
    ] = 0.07,
    stream: o.Stream = False,
    figure: Annotated[
        Path | None, o.in_output(help="A PNG of accuracy over k.", show_default=False)
    ] = None,
) -> None:
    """Classify val (and test) by the weighted votes of the most similar training images.

    k is chosen on train alone, by leaving each image out in turn, so that the accuracies on val and
    test are those of images that chose nothing.
    """
    from tlcache.features.embed import embedding_of
    from tlcache.studies.knn import check_votes, knn_of_features

    wanted = o.whole_numbers("--k", k, "write it like 1,5,20")
    ks = check_votes(wanted, temperature, source.seed, "--")
    embedding = embedding_of(source.named(), features.spec(), out.reporter)
    tell_embedding(out, embedding)
    read = embedding.read(embedding.stores[0].folder if stream else None)
    with out.progress("comparing", "pairs") as tick:
        found = knn_of_features(
            read,
            embedding.snapshot,
            ks=ks,
            temperature=temperature,
            seed=source.seed,
            progress=tick,
        )
    _tell_votes(out, found, len(read.split("train")[1]))
    about = embedding.describe()
    names = "identity", "trunk", "weights", "dataset", "images", "embedded", "reused", "unreadable"
    out.result({name: about[name] for name in names} | found.describe())
    if figure is not None:
        _draw_votes(found, figure)
        out.line(f"picture: {figure}")


def _tell_votes(out: Output, found: KnnResult, trained: int) -> None:
    """The table, the result, and what is to be known about it."""
    from tlcache.evaluation.roles import split_role
    from tlcache.studies.knn import SELECTED_ON

    if found.capped:
        out.note(f"k ends at {found.ks[-1]}: there are {trained} training images")
    left_out = found.left_out[0].n
    if left_out < trained:
        out.note(f"{left_out:,} of {trained:,} training images, drawn by --seed, choose k")
    columns = {"train, left out": found.left_out, **found.scores}
    out.line(f"{'k':>5}   " + "".join(f"{name:22}" for name in columns).rstrip())
    for at, k in enumerate(found.ks):
        cells = [score_text(row[at].accuracy, row[at].interval) for row in columns.values()]
        mark = "<- chosen" if k == found.k else ""
        out.line(f"{k:5}   {''.join(f'{cell:22}' for cell in cells)}{mark}".rstrip())
    out.line(f"k = {found.k}, chosen on {SELECTED_ON}: no other split had a say in it")
    for name, score in found.chosen().items():
        role = split_role(name, SELECTED_ON)
        out.line(f"{name} ({role}): {accuracy_text(score.to_dict())}")


def _draw_votes(found: KnnResult, path: Path) -> None:
    from tlcache.figures.curves import neighbours_figure
    from tlcache.figures.style import save_png
    from tlcache.studies.knn import SELECTED_ON

    columns = {"train, left out": found.left_out, **found.scores}
    accuracies = {name: [score.accuracy for score in row] for name, row in columns.items()}
    intervals = {name: [score.interval for score in row] for name, row in columns.items()}
    save_png(neighbours_figure(found.ks, accuracies, intervals, found.k, SELECTED_ON), path)
