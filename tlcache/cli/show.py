"""``tlcache show``: a grid of augmented training images, or of predictions beside truths."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.options import one_of
from tlcache.cli.output import Output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = "tlcache show hymenoptera_data --output augmented.png"


def run(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="DATA|MODEL",
            help="A folder of images: augmented training images. A run: its predictions.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Images for MODEL's predictions.", show_default="those of its run"),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            help="The split that predictions are shown of.",
            autocompletion=one_of("train", "val", "test"),
        ),
    ] = "val",
    split: o.Split = None,
    count: Annotated[int, typer.Option(min=1, max=400, help="Images in the grid.")] = 12,
    output: Annotated[
        Path | None,
        typer.Option(help="The PNG.", show_default="augmented.png or predictions.png"),
    ] = None,
    window: Annotated[bool, typer.Option(help="Open the picture, where there is a screen.")] = True,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    seed: o.Seed = 0,
    crop: o.Crop = None,
    mean: o.Mean = None,
    std: o.Std = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Draw what a model trains on, or what it makes of images; seeded, so a picture comes again."""
    from tlcache.cli.embed import scanned
    from tlcache.core.machine import Compute
    from tlcache.data.transforms import Transform
    from tlcache.figures.style import save_png
    from tlcache.reports.pictures import augmented_picture

    out = Output(as_json, quiet)
    if what.is_file() or (what / "model.safetensors").is_file():
        figure = _predictions(
            out,
            what,
            data,
            count,
            on=on,
            split=split,
            seed=seed,
            weights=weights,
            cache_dir=cache_dir,
            compute=Compute(device, workers=o.worker_count(workers)),
        )
        path = output or Path("predictions.png")
    else:
        changes = o.transform_changes(None, crop, None, mean, std)
        dataset = scanned(out, what, split, seed)
        figure = augmented_picture(dataset, Transform(**changes), count, seed)
        path = output or Path("augmented.png")
    save_png(figure, path)
    out.line(f"picture: {path}")
    out.result({"picture": str(path)})
    if window and sys.stdout.isatty() and _has_screen():
        typer.launch(str(path))


def _predictions(
    out: Output,
    path: Path,
    data: Path | None,
    count: int,
    *,
    on: str,
    split: str | None,
    seed: int,
    cache_dir: Path,
    **how: Any,
) -> Figure:
    """Images of a split beside what the model takes them for."""
    from tlcache.core.errors import OptionError
    from tlcache.core.progress import Reporter
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import JudgedSplit, score
    from tlcache.reports.pictures import prediction_picture
    from tlcache.reports.run import read_run, shares_of

    model, about = load_model(path), read_run(path)
    if data is None and "data" not in about:
        raise OptionError(
            "--data",
            expected="the folder of images to show",
            found=f"no run.json beside {path}",
            remedy="pass --data FOLDER",
        )
    folder = data or Path(about["data"])
    shares, drawn = (o.fractions(split), seed) if data else shares_of(about)
    judged = JudgedSplit(folder, on, shares, drawn, skip_unreadable=True)
    scored = score(model, judged, cache_dir, **how, tell=Reporter(out.note, out.progress))
    figure = prediction_picture(model, scored, folder, count, seed)
    if figure is None:
        raise OptionError(
            "--data",
            expected="a folder that holds the images",
            found=str(folder),
            remedy="name where they are now",
        )
    return figure


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
