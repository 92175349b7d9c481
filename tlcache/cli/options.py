"""The options that commands share, each defined once, and what they say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tlcache.cli.completion import one_of
from tlcache.core.errors import OptionError

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder with train/<class>/… and val/<class>/… (and perhaps test/<class>/…), "
        "or <class>/… with --split; or a snapshot from a cache.",
        show_default=False,
    ),
]
ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run folder, or its model.safetensors.", show_default=False
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Shares of train and val (and test) for a folder of classes, such as 0.8,0.2.",
        show_default=False,
    ),
]
Trunk = Annotated[
    str,
    typer.Option(help="A torchvision network, timm/<name>, or efficientnet_lite0."),
]
Weights = Annotated[
    str,
    typer.Option(
        help="imagenet, a file (.pth or .safetensors), or random[:SEED].",
        autocompletion=one_of("imagenet", "random"),
    ),
]
WeightsAtHand = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Where the trunk's weights are now, if not where they were.",
        show_default=False,
    ),
]
JudgedOn = Annotated[
    str,
    typer.Option(help="train, val or test.", autocompletion=one_of("train", "val", "test")),
]
CacheDir = Annotated[Path, typer.Option(help="Where features are kept.")]
Views = Annotated[
    int,
    typer.Option(
        help="Augmented views of each training image; epoch e trains on view e mod VIEWS. "
        "0: train on the plain image."
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="How exact features are: fp32, fast, fp16 or bf16. They are kept apart.",
        autocompletion=one_of("fp32", "fast", "fp16", "bf16"),
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="What computes features: auto, torch, or mnn (an extra package).",
        autocompletion=one_of("auto", "torch", "mnn"),
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Of the kept features: float32, or float16 in half the space.",
        autocompletion=one_of("float32", "float16"),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda or cuda:N.", autocompletion=one_of("auto", "cpu", "cuda", "cuda:0")
    ),
]
Workers = Annotated[
    str, typer.Option(help="Threads: auto (one for each usable core), or a number.")
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Go on without images that cannot be read."),
]
Rehash = Annotated[
    bool, typer.Option("--rehash", help="Read every file again, even if it looks unchanged.")
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="For features larger than the memory: read them from a file beside the cache, "
        "shuffled in blocks.",
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option(help="Where the run is kept.", show_default="runs/<time>-<command>-<data set>"),
]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Write each epoch's losses and accuracies into a new CSV file, as it ends.",
        show_default=False,
    ),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard",
        metavar="DIR",
        help="Write curves for TensorBoard into a folder that has none (an extra package).",
        show_default=False,
    ),
]
NoFigures = Annotated[bool, typer.Option("--no-figures", help="Draw no pictures.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]

Epochs = Annotated[int, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int, typer.Option(help="Images a step.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Learning rate of the first epoch.")]
Momentum = Annotated[float, typer.Option(help="Of SGD.")]
WeightDecay = Annotated[float, typer.Option(help="L2 penalty.")]
StepSize = Annotated[int, typer.Option(help="Epochs between cuts of the learning rate.")]
Gamma = Annotated[float, typer.Option(help="Factor of each cut.")]
Seed = Annotated[int, typer.Option(help="Of the head, the order of images and --split.")]

Resize = Annotated[
    int | None, typer.Option(help="Shorter side before the crop.", show_default="the weights'")
]
Crop = Annotated[
    int | None, typer.Option(help="Side of the square crop.", show_default="the weights'")
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        help="nearest, bilinear, bicubic or lanczos.",
        show_default="the weights'",
        autocompletion=one_of("nearest", "bilinear", "bicubic", "lanczos"),
    ),
]
Mean = Annotated[str | None, typer.Option(help="Of R,G,B in [0, 1].", show_default="the weights'")]
Std = Annotated[str | None, typer.Option(help="Of R,G,B.", show_default="the weights'")]


def numbers(option: str, text: str) -> tuple[float, ...]:
    """``0.8,0.2`` as numbers.

    Raises:
        OptionError: If a part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            option,
            expected="numbers with commas between them",
            found=text or "nothing",
            remedy="write it like 0.8,0.2",
        ) from None


def worker_count(text: str) -> int | None:
    """``auto`` as None, a number as it is.

    Raises:
        OptionError: If it is neither, or below 1.
    """
    if text == "auto":
        return None
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise OptionError(
        "--workers", expected="auto, or 1 or more", found=text, remedy="leave it out for auto"
    )


def transform_changes(
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """The fields of a transform that were asked for."""
    changes = {
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "mean": mean and numbers("--mean", mean),
        "std": std and numbers("--std", std),
    }
    return {name: value for name, value in changes.items() if value is not None}
