"""``tlcache fewshot``: how accuracy grows with the number of labelled images, from one cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.options import one_of
from tlcache.cli.output import Output

if TYPE_CHECKING:
    from tlcache.data.folders import ImageDataset
    from tlcache.studies.fewshot import FewShotCurve

EXAMPLES = "tlcache fewshot photos --shots 1,2,5,10,20 --episodes 50 --figure fewshot.png"


def run(
    data: o.Data,
    shots: Annotated[
        str, typer.Option(help="Images of each class to train on, one number a point.")
    ] = "1,2,5,10,20",
    episodes: Annotated[int, typer.Option(help="Draws of each point, with a head each.")] = 50,
    on: Annotated[
        str,
        typer.Option(
            help="What heads are judged on: val or test.", autocompletion=one_of("val", "test")
        ),
    ] = "val",
    least_steps: Annotated[
        int,
        typer.Option(
            help="Steps of an epoch at least: fewer shots are taken several times over, lest the "
            "curve tell of steps that were not taken. 1: the plain recipe."
        ),
    ] = 10,
    split: o.Split = None,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    views: o.Views = 0,
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
        Path | None, typer.Option(help="A PNG of the curve.", show_default=False)
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Draw few images of each class from train, train heads on them, judge them on all of val.

    No image of val is ever drawn, and nothing is chosen on val.
    """
    from tlcache.cli.embed import embedding_of, summary
    from tlcache.heads.recipe import Recipe
    from tlcache.networks.checks import no_split
    from tlcache.studies.fewshot import check_counts, check_draws, few_shot_curve

    out, wanted = Output(as_json, quiet), _whole_numbers(shots)
    check_draws(wanted, episodes, least_steps)
    _check_split(on)
    recipe = Recipe(epochs, batch_size, lr, momentum, weight_decay, step_size, gamma, seed)

    def check(dataset: ImageDataset) -> None:
        if on not in dataset.present_splits():
            raise no_split(dataset, on)
        check_counts(dataset.labels[dataset.indices("train")], max(wanted), dataset.classes)

    embedding = embedding_of(
        out,
        data,
        split=split,
        seed=seed,
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
    out.line(summary(embedding))
    features = embedding.read()
    if on not in features.present_splits():
        raise no_split(embedding.snapshot.dataset, on)
    with out.progress("training", "heads") as tick:
        curve = few_shot_curve(
            features.to_train_on(),
            features.split("train")[1],
            *features.split(on),
            classes=features.classes,
            shots=wanted,
            episodes=episodes,
            recipe=recipe,
            least_steps=least_steps,
            progress=tick,
        )
    _tell(out, curve, on, "test" in features.present_splits())
    about = {"judged_on": on, "recipe": recipe.describe(), "least_steps": least_steps}
    about["seconds"] = {"embed": embedding.seconds, "fewshot": curve.seconds}
    out.result(curve.describe() | about)
    _draw(curve, on, figure)


def _whole_numbers(text: str) -> list[int]:
    from tlcache.core.errors import OptionError

    values = o.numbers("--shots", text)
    if not all(value.is_integer() for value in values):
        raise OptionError(
            "--shots",
            expected="whole numbers with commas between them",
            found=text,
            remedy="write them like 1,2,5,10,20",
        )
    return [int(value) for value in values]


def _check_split(on: str) -> None:
    from tlcache.core.errors import OptionError

    if on not in ("val", "test"):
        raise OptionError(
            "--on",
            expected="val or test: heads train on images of train",
            found=on,
            remedy="name one of them",
        )


def _tell(out: Output, curve: FewShotCurve, on: str, has_test: bool) -> None:
    out.line("shots  accuracy (95%)        95% of episodes  sd")
    for point in curve.points:
        (low, high), (least, most) = point.accuracy_ci95, point.band
        out.line(
            f"{point.shots:5}  {point.accuracy:.3f} ({low:.3f}-{high:.3f})   "
            f"{least:.3f}-{most:.3f}      {point.sd:.3f}"
        )
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


def _draw(curve: FewShotCurve, on: str, path: Path | None) -> None:
    if path is None:
        return
    from tlcache.figures.curves import few_shot_figure
    from tlcache.figures.style import save_png

    points = [point.describe() for point in curve.points]
    save_png(few_shot_figure(points, f"{curve.images} images of {on}"), path)
