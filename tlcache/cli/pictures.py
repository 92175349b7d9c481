"""Pictures of a data set and of a model: augmented images, predictions, and a map of features."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output
from tlcache.core.errors import UnmetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class ShowOptions(o.ComputeOptions):
    """Which images are shown; those after ``seed`` are of predictions alone."""

    split: o.Split = None
    seed: o.Seed = 0
    data: Annotated[
        Path | None,
        o.in_data(help="Images for MODEL's predictions.", show_default="those of its run"),
    ] = None
    on: Annotated[
        str,
        o.in_data(
            help="The split that predictions are shown of.",
            autocompletion=o.one_of("train", "val", "test"),
        ),
    ] = "val"
    weights: o.WeightsAtHand = None
    cache_dir: o.CacheDir = Path("cache")


@o.command("tlcache show hymenoptera_data --output augmented.png")
def show(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="DATA|MODEL",
            help="A folder of images: augmented training images. A run: its predictions.",
            show_default=False,
        ),
    ],
    shown: ShowOptions,
    out: Output,
    count: Annotated[int, typer.Option(min=1, max=400, help="Images in the grid.")] = 12,
    output: Annotated[
        Path | None,
        o.in_output(help="The PNG.", show_default="augmented.png or predictions.png"),
    ] = None,
    window: Annotated[bool, o.in_output(help="Open the picture, where there is a screen.")] = True,
    crop: o.Crop = None,
    mean: o.Mean = None,
    std: o.Std = None,
) -> None:
    """Draw what a model trains on, or what it makes of images; seeded, so a picture comes again."""
    from tlcache.data.transforms import Transform
    from tlcache.figures.style import save_png
    from tlcache.reports.pictures import augmented_picture

    if what.is_file() or (what / "model.safetensors").is_file():
        figure, path = _predictions(out, what, count, shown), output or Path("predictions.png")
    else:
        transform = Transform(**o.TransformOptions(crop=crop, mean=mean, std=std).changes())
        dataset = o.Source(what, shown.split, shown.seed).named().scan(out.note)
        figure = augmented_picture(dataset, transform, count, shown.seed)
        path = output or Path("augmented.png")
    save_png(figure, path)
    out.line(f"picture: {path}")
    out.result({"picture": str(path)})
    if window and sys.stdout.isatty() and _has_screen():
        typer.launch(str(path))


def _predictions(out: Output, path: Path, count: int, shown: ShowOptions) -> Figure:
    """Images of a split beside what the model takes them for."""
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import JudgedSplit, score
    from tlcache.reports.pictures import prediction_picture
    from tlcache.reports.run import origin_of

    model, origin = load_model(path), origin_of(path)
    shares = shown.split and o.numbers("--split", shown.split)
    seed = shown.seed if shares else None
    source = origin.images(shown.data, shares or None, seed, option="--data")
    scored = score(
        model,
        JudgedSplit(source, shown.on, skip_unreadable=True),
        shown.cache_dir,
        weights=origin.weights(model, shown.weights),
        compute=shown.compute(),
        tell=out.reporter,
    )
    from_snapshot = shown.data is None and source.path.is_file()
    folder = Path(origin.about["data"]) if from_snapshot else source.path
    figure = prediction_picture(model, scored, folder, count, shown.seed)
    if figure is None:
        expected, remedy = "a folder that holds the images", "name where they are now"
        raise UnmetError("--data", expected, str(folder), remedy)
    return figure


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


@dataclasses.dataclass(frozen=True)
class MapSource(o.JudgedSource):
    """Images with the seed of the map; it splits them where ``--split`` is given."""

    seed: Annotated[int, o.in_data(min=0, help="Of --split, of the choice and of tsne.")] = 0

    @property
    def split_seed(self) -> int | None:
        return None if self.split is None else self.seed


@o.command("tlcache map runs/ants hymenoptera_data --method tsne --figure map.png")
def map_(
    model: o.ModelFile,
    source: MapSource,
    how: o.JudgeOptions,
    out: Output,
    on: o.JudgedOn = "val",
    method: Annotated[
        str,
        typer.Option(
            help="pca: principal components; tsne: neighbours stay neighbours, slower.",
            autocompletion=o.one_of("pca", "tsne"),
        ),
    ] = "pca",
    points: Annotated[
        int, typer.Option(min=4, max=20_000, help="Images to show; of more, so many are drawn.")
    ] = 3000,
    figure: Annotated[Path, o.in_output(help="The PNG.")] = Path("map.png"),
) -> None:
    """Draw a split's features in the plane, coloured by class, with the model's errors ringed."""
    from tlcache.evaluation.metrics import evaluate
    from tlcache.features.projection import check_method
    from tlcache.figures.style import save_png
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import bare, score
    from tlcache.reports.pictures import map_picture
    from tlcache.reports.run import origin_of

    check_method(method)
    loaded, origin = load_model(model), origin_of(model)
    split = source.judged(origin, on, how.skip_unreadable)
    standing, weights = origin.standing(split.source, on), origin.weights(loaded, how.weights)
    network, compute, tell = bare(loaded), how.compute(), out.reporter
    found = score(network, split, how.cache_dir, weights=weights, compute=compute, tell=tell)
    logits, total = loaded.head.logits(found.logits), len(found.paths)
    evaluation = evaluate(logits, found.labels, loaded.classes)
    if total > points:
        out.note(f"{points:,} of {total:,} images are shown, drawn by --seed; --points shows more")
    picture, about = map_picture(loaded, found, points, method, on, source.seed)
    out.line(f"{standing.label}: {evaluation.summary()}")
    save_png(picture, figure)
    out.line(f"picture: {figure}")
    if standing.note:
        out.note(f"{on}: this model {standing.note}")
    judged = {name: evaluation.to_dict()[name] for name in ("accuracy", "accuracy_ci95", "n")}
    out.result({"picture": str(figure), **about, **judged} | standing.describe())
