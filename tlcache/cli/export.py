"""``tlcache export``: a model as a file that runs without tlcache, checked before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.options import one_of
from tlcache.cli.output import Output

EXAMPLES = "tlcache export runs/ants --format onnx --preprocess"

_IMAGES = 32


def run(
    model: o.ModelFile,
    format: Annotated[
        str,
        typer.Option(
            help="onnx, torchscript, pt2 or safetensors.",
            autocompletion=one_of("onnx", "torchscript", "pt2", "safetensors"),
        ),
    ] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(help="The file.", show_default="exported.<suffix> beside the model"),
    ] = None,
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess",
            help="The file resizes, crops and normalises: it takes (N, H, W, 3) uint8 RGB.",
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images to run the file on.", show_default="the run's val images"
        ),
    ] = None,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a model as one file, run it, and keep it if its probabilities are tlcache's own."""
    from tlcache.export.export import SUFFIXES, check_export, export_model
    from tlcache.heads.model import load_model

    out = Output(as_json, quiet)
    check_export(format, preprocess)
    loaded = load_model(model)
    out.note_random(loaded.weights)
    folder = model if model.is_dir() else model.parent
    target = output or folder / f"exported{SUFFIXES[format]}"
    _check_not_the_model(model, target)
    exported = export_model(
        loaded,
        target,
        format,
        images=_images(model, data),
        preprocess=preprocess,
        weights=weights,
        memo=cache_dir / "weights",
        force=force,
    )
    done = exported.describe()
    out.line(f"written: {exported.file} ({exported.size / 1e6:.1f} MB)")
    out.line(
        f"run on {exported.images} images, by ones and by eights: the largest difference from "
        f"tlcache's own probabilities is {exported.difference:.1e}"
    )
    for name in ("input", "output"):
        shape = ", ".join(map(str, done[name]["shape"]))
        values = done[name].get("values", ", ".join(loaded.classes[:6]))
        out.line(f"{name}: {done[name]['name']}, {done[name]['dtype']} ({shape}), {values}")
    out.result(done)


def _check_not_the_model(model: Path, output: Path) -> None:
    from tlcache.core.errors import OptionError

    own = model / "model.safetensors" if model.is_dir() else model
    if output.exists() and output.samefile(own):
        raise OptionError(
            f"--output {output}",
            expected="another file than the model itself",
            found="the model",
            remedy="name another file",
        )


def _images(model: Path, data: Path | None) -> list[Path]:
    """Some images of the run's val split, or of the folder that is named, spread over them."""
    import numpy as np

    from tlcache.core.errors import OptionError
    from tlcache.data.folders import images_below, scan
    from tlcache.reports.run import read_run

    about = read_run(model)
    if data is None and "data" not in about:
        raise OptionError(
            "--data",
            expected="a folder of images to run the file on",
            found=f"no run.json beside {model}",
            remedy="pass --data FOLDER",
        )
    folder = data or Path(about["data"])
    if data is None and not folder.is_dir():
        raise OptionError(
            "--data",
            expected="the images of the run",
            found=f"no folder {folder}",
            remedy="name where images are now",
        )
    split = about.get("options", {}).get("split") if data is None else None
    if split:
        dataset = scan(folder, o.numbers("--split", split), about["options"]["seed"])
        paths = [dataset.path(i) for i in dataset.indices("val")]
    else:
        val = folder / "val"
        held_out = val if val.is_dir() else folder
        paths = [held_out / name for name in images_below(held_out)]
    chosen = np.linspace(0, len(paths) - 1, min(_IMAGES, len(paths))).astype(int)
    return [paths[i] for i in chosen]
