"""Options: each that commands share, said once; the groups that they come in; how a command asks.

A command names the groups it wants as parameters, and :func:`command` spreads their fields into the
options that Typer reads. No group and no option knows what is done with it: nothing heavy is
imported here, so the words that a shell offers stand here once more as plain text, and a test holds
them to what defines them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast, get_type_hints

import typer

from tlcache.core.errors import OptionError

if TYPE_CHECKING:
    from tlcache.core.machine import Compute
    from tlcache.data.folders import DataSource
    from tlcache.features.stores import FeatureSpec
    from tlcache.heads.recipe import Recipe
    from tlcache.networks.scoring import JudgedSplit
    from tlcache.reports.run import Origin

Complete = Callable[[str], list[str]]


def one_of(*words: str) -> Complete:
    """Of the words, those that begin like what was typed."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def some_of(*words: str) -> Complete:
    """The same for words with commas between them: what was typed, and a word not yet in it."""

    def complete(incomplete: str) -> list[str]:
        typed, comma, last = incomplete.rpartition(",")
        left = [word for word in words if word not in typed.split(",")]
        return [typed + comma + word for word in left if word.startswith(last)]

    return complete


PANELS = ("Data", "Features", "Transform", "Training", "Compute", "Output")
"""Where options stand in the help, in this order; what is a command's own stands before them."""

_data, _features, _transform, _training, _compute, _output = (
    functools.partial(cast(Callable[..., Any], typer.Option), rich_help_panel=name)
    for name in PANELS
)
in_data, in_features, in_training = _data, _features, _training  # for options of one command
in_output = _output

ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run folder, or its model.safetensors.", show_default=False
    ),
]
Split = Annotated[
    str | None,
    _data(
        help="Shares of train and val (and test) for a folder of classes, such as 0.8,0.2.",
        show_default=False,
    ),
]
Trunk = Annotated[
    str,
    _features(help="A torchvision network, timm/<name>, or efficientnet_lite0."),
]
Weights = Annotated[
    str,
    _features(
        help="imagenet, a file (.pth or .safetensors), or random[:SEED].",
        autocompletion=one_of("imagenet", "random"),
    ),
]
WeightsAtHand = Annotated[
    str | None,
    _features(
        "--weights",
        help="Where the trunk's weights are now, if not where they were.",
        show_default=False,
    ),
]
JudgedOn = Annotated[
    str,
    typer.Option(help="train, val or test.", autocompletion=one_of("train", "val", "test")),
]
CacheDir = Annotated[Path, _features(help="Where features are kept.")]
Views = Annotated[
    int,
    _features(
        help="Augmented views of each training image; epoch e trains on view e mod VIEWS. "
        "0: train on the plain image."
    ),
]
Engine = Annotated[
    str,
    _compute(
        help="What computes features: auto, torch, or mnn (an extra package).",
        autocompletion=one_of("auto", "torch", "mnn"),
    ),
]
Device = Annotated[
    str,
    _compute(
        help="auto, cpu, cuda or cuda:N.", autocompletion=one_of("auto", "cpu", "cuda", "cuda:0")
    ),
]
SkipUnreadable = Annotated[
    bool,
    _data("--skip-unreadable", help="Go on without images that cannot be read."),
]
Stream = Annotated[
    bool,
    _features(
        "--stream",
        help="For features larger than the memory: read them from a file beside the cache, "
        "shuffled in blocks.",
    ),
]
Json = Annotated[bool, _output("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, _output("--quiet", "-q", help="Print only errors.")]

Epochs = Annotated[int, _training(help="Passes over the training images.")]
Momentum = Annotated[float, _training(help="Of SGD.")]
StepSize = Annotated[int, _training(help="Epochs between cuts of the learning rate.")]
Gamma = Annotated[float, _training(help="Factor of each cut.")]
Seed = Annotated[int, _data(help="Of the head, the order of images and --split.")]

Crop = Annotated[
    int | None, _transform(help="Side of the square crop.", show_default="the weights'")
]
Mean = Annotated[str | None, _transform(help="Of R,G,B in [0, 1].", show_default="the weights'")]
Std = Annotated[str | None, _transform(help="Of R,G,B.", show_default="the weights'")]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set, and how a folder of classes is split."""

    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with train/<class>/… and val/<class>/… (and perhaps test/<class>/…), "
            "or <class>/… with --split; or a snapshot from a cache.",
            show_default=False,
        ),
    ]
    split: Split = None
    seed: Seed = 0

    def named(self, *, unsplit: bool = False) -> DataSource:
        """The same for the library.

        Args:
            unsplit: A folder of classes need not be split.

        Raises:
            OptionError: If ``--split`` is no numbers.
        """
        from tlcache.data.folders import DataSource

        shares = None if self.split is None else numbers("--split", self.split)
        return DataSource(self.data, shares, self.seed, unsplit)


@dataclasses.dataclass(frozen=True)
class JudgedSource:
    """Images that a run is judged on: its own, split as it split them, or others."""

    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="A folder of images or a snapshot, as for `tlcache train`.",
            show_default="the run's own",
        ),
    ] = None
    split: Annotated[
        str | None,
        _data(
            help="Shares of train and val (and test) for a folder of classes, such as 0.8,0.2.",
            show_default="the run's",
        ),
    ] = None
    seed: Annotated[int | None, _data(help="Of --split.", show_default="the run's")] = None

    @property
    def split_seed(self) -> int | None:
        """The seed of another split than the run's, if that is asked for."""
        return self.seed

    def judged(self, origin: Origin, on: str, skip_unreadable: bool) -> JudgedSplit:
        """One split of them, for the library.

        Raises:
            OptionError: If ``--split`` is no numbers, or nobody knows which images are meant.
        """
        from tlcache.networks.scoring import JudgedSplit

        shares = None if self.split is None else numbers("--split", self.split)
        source = origin.images(self.data, shares, self.split_seed)
        return JudgedSplit(source, on, skip_unreadable or origin.skips_unreadable)


@dataclasses.dataclass(frozen=True)
class ComputeOptions:
    """Where a network runs."""

    device: Device = "auto"
    engine: str = "auto"  # no option, but where features are made
    workers: Annotated[
        str, _compute(help="Threads: auto (one for each usable core), or a number.")
    ] = "auto"
    batch_size: int | None = None  # no option, but of embed

    def compute(self) -> Compute:
        """The same for the library.

        Raises:
            OptionError: If ``--workers`` is neither auto nor 1 or more.
        """
        from tlcache.core.machine import Compute

        if self.workers == "auto":
            return Compute(self.device, self.engine, None, self.batch_size)
        if not (self.workers.isdecimal() and int(self.workers)):
            remedy = "leave it out for auto"
            raise OptionError("--workers", "auto, or 1 or more", self.workers, remedy)
        return Compute(self.device, self.engine, int(self.workers), self.batch_size)


@dataclasses.dataclass(frozen=True)
class TransformOptions:
    """How an image becomes a trunk's input, where the weights' own way is not wanted."""

    resize: Annotated[
        int | None, _transform(help="Shorter side before the crop.", show_default="the weights'")
    ] = None
    crop: Crop = None
    interpolation: Annotated[
        str | None,
        _transform(
            help="nearest, bilinear, bicubic or lanczos.",
            show_default="the weights'",
            autocompletion=one_of("nearest", "bilinear", "bicubic", "lanczos"),
        ),
    ] = None
    mean: Mean = None
    std: Std = None

    def changes(self) -> dict[str, Any]:
        """The fields of a transform that were asked for.

        Raises:
            OptionError: If ``--mean`` or ``--std`` is no numbers.
        """
        changes = {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": self.mean and numbers("--mean", self.mean),
            "std": self.std and numbers("--std", self.std),
        }
        return {name: value for name, value in changes.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class FeatureOptions(TransformOptions, ComputeOptions):
    """Which features, and how those that are missing are made."""

    trunk: Trunk = "resnet18"
    weights: Weights = "imagenet"
    cache_dir: CacheDir = Path("cache")
    views: int = 0  # no option here
    precision: Annotated[
        str,
        _features(
            help="How exact features are: fp32, fast, fp16 or bf16. They are kept apart.",
            autocompletion=one_of("fp32", "fast", "fp16", "bf16"),
        ),
    ] = "fp32"
    dtype: Annotated[
        str,
        _features(
            help="Of the kept features: float32, or float16 in half the space.",
            autocompletion=one_of("float32", "float16"),
        ),
    ] = "float32"
    engine: Engine = "auto"
    rehash: Annotated[
        bool, _features("--rehash", help="Read every file again, even if it looks unchanged.")
    ] = False
    skip_unreadable: SkipUnreadable = False

    def spec(self) -> FeatureSpec:
        """The same for the library.

        Raises:
            OptionError: If a word among them makes no sense.
        """
        from tlcache.features.stores import FeatureSpec

        return FeatureSpec(
            trunk=self.trunk,
            weights=self.weights,
            cache=self.cache_dir,
            views=self.views,
            transform=self.changes(),
            precision=self.precision,
            dtype=self.dtype,
            skip_unreadable=self.skip_unreadable,
            rehash=self.rehash,
            compute=self.compute(),
        )


@dataclasses.dataclass(frozen=True)
class ViewedFeatures(FeatureOptions):
    """The same with augmented views."""

    views: Views = 0


@dataclasses.dataclass(frozen=True)
class PassFeatures(ViewedFeatures):
    """The same where nothing but the pass is to be done."""

    batch_size: Annotated[
        int | None,
        _compute(
            help="Crops that go through the network at once.",
            show_default="8; on a GPU what its memory holds",
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class JudgeOptions(ComputeOptions):
    """What a model needs to say something of images."""

    weights: WeightsAtHand = None
    cache_dir: CacheDir = Path("cache")
    skip_unreadable: SkipUnreadable = False


@dataclasses.dataclass(frozen=True)
class RecipeOptions:
    """How a head or a network is trained; the seed is the source's."""

    epochs: Epochs = 25
    batch_size: Annotated[int, _training(help="Images a step.")] = 4
    lr: Annotated[float, _training("--lr", help="Learning rate of the first epoch.")] = 0.001
    momentum: Momentum = 0.9
    weight_decay: Annotated[float, _training(help="L2 penalty.")] = 0.0
    step_size: StepSize = 7
    gamma: Gamma = 0.1

    def recipe(self, seed: int, block: int = 0) -> Recipe:
        """The same for the library, which checks it."""
        from tlcache.heads.recipe import Recipe

        return Recipe(**dataclasses.asdict(self), seed=seed, block=block)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The folder of a run."""

    run_dir: Annotated[
        Path | None,
        _output(help="Where the run is kept.", show_default="runs/<time>-<command>-<data set>"),
    ] = None
    no_figures: Annotated[bool, _output("--no-figures", help="Draw no pictures.")] = False
    resume: bool = False  # no option, but where a run can be resumed

    def opened(
        self, command: str, dataset: str, note: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[Path]:
        """The folder, made or gone on with, and nobody else's while the block runs."""
        from tlcache.reports.run import open_run

        return open_run(self.run_dir, command, dataset, resume=self.resume, note=note)


@dataclasses.dataclass(frozen=True)
class WatchedRun(RunOptions):
    """The same of a run whose epochs can be watched."""

    csv: Annotated[
        Path | None,
        _output(
            "--csv",
            metavar="FILE",
            help="Write each epoch's losses and accuracies into a new CSV file, as it ends.",
            show_default=False,
        ),
    ] = None
    tensorboard: Annotated[
        Path | None,
        _output(
            "--tensorboard",
            metavar="DIR",
            help="Write curves for TensorBoard into a folder that has none (an extra package).",
            show_default=False,
        ),
    ] = None


class Command(NamedTuple):
    """A command's word, what runs it, as Typer reads it, and an example of it."""

    name: str
    run: Callable[..., None]
    example: str


def command(example: str) -> Callable[[Callable[..., None]], Command]:
    """Make a command, named as the function, whose parameters are options, or groups of them."""

    def named(function: Callable[..., None]) -> Command:
        name = function.__name__.strip("_").replace("_", "-")
        return Command(name, spread(function), example)

    return named


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """The function with an option for each field of its groups; it is handed the groups.

    A field that is not ``Annotated`` is no option: it keeps its default.

    Raises:
        ValueError: If two groups have an option of the same name.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {n: x for n, x in hints.items() if dataclasses.is_dataclass(x)}
    options: list[inspect.Parameter] = []
    for name, own in inspect.signature(function).parameters.items():
        own = own.replace(kind=own.KEYWORD_ONLY, annotation=hints[name])
        options += _fields(groups[name]) if name in groups else [own]

    def run(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in _fields(group)})
            for name, group in groups.items()
        }
        function(**given, **made)

    options.sort(key=_place)
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


@functools.cache
def _fields(group: Any) -> list[inspect.Parameter]:
    """The options of a group, as a signature has them."""
    hints = get_type_hints(group, include_extras=True)
    return [
        field.replace(kind=field.KEYWORD_ONLY, annotation=hints[name])
        for name, field in inspect.signature(group).parameters.items()
        if hasattr(hints[name], "__metadata__")
    ]


def _place(option: inspect.Parameter) -> int:
    """Which panel an option stands in; what stands in none comes first, in the order given."""
    info = getattr(option.annotation, "__metadata__", [None])[0]
    panel = getattr(info, "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else -1


def plain(given: dict[str, Any]) -> dict[str, Any]:
    """A command's options as plain JSON values, from its ``locals()``, without the groups."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if dataclasses.is_dataclass(value):
            names = [option.name for option in _fields(cast(Any, type(value)))]
            values |= {name: getattr(value, name) for name in names}
        else:
            values[name] = value
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def numbers(option: str, text: str) -> tuple[float, ...]:
    """``0.8,0.2`` as numbers.

    Raises:
        OptionError: If a part is no number.
    """
    return _listed(option, text, float, "numbers", "write it like 0.8,0.2")


def whole_numbers(option: str, text: str, remedy: str) -> tuple[int, ...]:
    """``1,2,5`` as whole numbers.

    Raises:
        OptionError: If a part is none.
    """
    return _listed(option, text, _whole, "whole numbers", remedy)


def _listed(
    option: str, text: str, read: Callable[[str], float], kind: str, remedy: str
) -> tuple[Any, ...]:
    try:
        return tuple(map(read, text.split(",")))
    except ValueError:
        expected = f"{kind} with commas between them"
        raise OptionError(option, expected, text or "nothing", remedy) from None


def _whole(text: str) -> int:
    """A whole number, be it written ``20``, ``2e1`` or ``20.0``."""
    try:
        return int(text)
    except ValueError:
        if not float(text).is_integer():
            raise
        return int(float(text))


def words(text: str) -> tuple[str, ...]:
    """``raw, l2`` as words."""
    return tuple(word.strip() for word in text.split(","))
