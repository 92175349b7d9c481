"""``train`` and ``finetune``: a head on cached features, or the whole network on images."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, counts_of, tell_embedding, tell_result

if TYPE_CHECKING:
    from tlcache.data.folders import DataSource, ImageDataset
    from tlcache.heads.model import Model
    from tlcache.heads.recipe import EpochRecord, StartRecord
    from tlcache.networks.finetune import Finetuned
    from tlcache.trunks.load import Trunk

STREAMED_ROWS = 1 << 16


@o.command("tlcache train hymenoptera_data --trunk mobilenet_v2 --weights mobilenet_v2.pth")
def train(
    source: o.Source,
    features: o.ViewedFeatures,
    recipe: o.RecipeOptions,
    kept: o.WatchedRun,
    out: Output,
    stream: o.Stream = False,
) -> None:
    """Train a head on cached features; images that are not in the cache are embedded first."""
    options = o.plain(locals())
    from tlcache.features.embed import embedding_of
    from tlcache.heads.train import train_head
    from tlcache.networks.scoring import score_splits
    from tlcache.reports.run import Run, finish_run
    from tlcache.reports.watching import watched

    wanted = recipe.recipe(source.seed, STREAMED_ROWS if stream else 0)
    named = source.named()
    with watched(kept.csv, kept.tensorboard) as watch, contextlib.ExitStack() as held:
        embedding = embedding_of(named, features.spec(), out.reporter)
        tell_embedding(out, embedding)
        name = embedding.snapshot.dataset.name
        folder = held.enter_context(kept.opened("train", name, out.note))
        started = time.perf_counter()
        read = embedding.read(embedding.stores[0].folder if stream else None)
        read_seconds = time.perf_counter() - started
        trained = train_head(
            read.to_train_on(),
            read.split("train")[1],
            *read.split("val"),
            wanted,
            classes=len(read.classes),
            on_epoch=_teller(out, watch, wanted.epochs),
        )
        run = Run(
            command="train",
            options=options,
            dataset=embedding.snapshot.dataset,
            model=embedding.model(trained.head),
            history=trained.history,
            best_epoch=trained.best_epoch,
            scored=score_splits(trained.head, read),
            seconds={
                "embed": embedding.seconds,
                "read": read_seconds,
                "train": trained.seconds,
            },
            identity=embedding.stores[0].identity.key,
            source=named,
        )
        result = finish_run(folder, run, figures=not kept.no_figures)
    tell_result(out, result, folder)
    out.result(counts_of(embedding) | result)


def _teller(
    out: Output, watch: Callable[[EpochRecord], None], epochs: int
) -> Callable[[EpochRecord], None]:
    """What hears of each epoch that ends: the curves, then the user."""

    def tell(record: EpochRecord) -> None:
        watch(record)
        out.line(record.line(epochs))

    return tell


@dataclasses.dataclass(frozen=True)
class _Kept(o.WatchedRun):
    resume: Annotated[
        bool, o.in_output("--resume", help="Go on with the stopped run in --run-dir.")
    ] = False


@dataclasses.dataclass(frozen=True)
class _Network(o.TransformOptions, o.ComputeOptions):
    """The network to train, and how its images are read."""

    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from the head of a run, and from its network if that was finetuned.",
            show_default="a random head",
        ),
    ] = None
    trunk: Annotated[
        str | None,
        typer.Option(
            help="A torchvision network, timm/<name>, or efficientnet_lite0.",
            show_default="that of --from, else resnet18",
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet, a file (.pth or .safetensors), or random[:SEED].",
            show_default="those of --from, else imagenet",
        ),
    ] = None
    cache_dir: o.CacheDir = Path("cache")
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Train the head only; the trunk runs all the same.")
    ] = False
    bn: Annotated[
        Literal["eval", "train"],
        typer.Option(
            help="With --freeze: eval keeps the trunk fixed; train lets its BatchNorm statistics "
            "drift, as the tutorial does."
        ),
    ] = "eval"
    precision: Annotated[
        str,
        o.in_training(
            help="Of the steps: fp32, bf16 or fp16, the last two mixed with fp32. auto: fp32 on a "
            "CPU and with --freeze, else what the GPU is fast in.",
            autocompletion=o.one_of("auto", "fp32", "bf16", "fp16"),
        ),
    ] = "auto"
    skip_unreadable: o.SkipUnreadable = False

    def how(self) -> dict[str, Any]:
        """What goes to the library's function of the same name as it is."""
        names, compute = ("freeze", "bn", "precision", "skip_unreadable"), self.compute()
        own = {name: getattr(self, name) for name in names}
        return own | {"device": compute.device, "workers": compute.workers}


@o.command(
    "tlcache finetune hymenoptera_data --from runs/ants --epochs 5 --batch-size 8 --lr 0.002"
)
def finetune(
    source: o.Source, network: _Network, recipe: o.RecipeOptions, kept: _Kept, out: Output
) -> None:
    """Train the whole network end to end; every epoch pays for every pixel.

    With --from, the head that was trained on cached features comes first (LP-FT: Kumar et al.,
    2022): a random one sends large gradients through the network and distorts what it has learned.
    What it does on val before the first epoch is said as epoch 0. The model that is kept is the
    best epoch's on val, and epoch 0 is none of them.
    """
    options = o.plain(locals())
    options["from"] = options.pop("start")
    from tlcache.networks.finetune import finetune as tune
    from tlcache.networks.scoring import score_present
    from tlcache.reports.run import CHECKPOINT, Run, finish_run
    from tlcache.reports.watching import watched

    wanted, start, compute = recipe.recipe(source.seed), network.start, network.compute()
    network, named = _as_its_start(network, source)
    watching = watched(kept.csv, kept.tensorboard, resume=kept.resume)
    with watching as watch, contextlib.ExitStack() as held:
        dataset = named.scan(out.note)
        before, trunk = _beginning(out, network, dataset, named)
        options |= {"trunk": trunk.name, "weights": trunk.weights}
        folder = held.enter_context(kept.opened("finetune", dataset.name, out.note))
        out.line(f"run: {folder} (if it stops: the same command with --run-dir {folder} --resume)")
        with out.progress("finetuning") as tick:
            tuned = tune(
                dataset,
                trunk,
                wanted,
                head=before.head if before else None,
                **network.how(),
                checkpoint=folder / CHECKPOINT,
                note=out.note,
                on_start=lambda first: out.line(f"{first.line(wanted.epochs)} {_interval(first)}"),
                on_resume=watch,
                on_epoch=_teller(out, watch, wanted.epochs),
                progress=tick,
            )
        model = tuned.model(trunk, dataset.classes, before)
        how: Any = {"compute": compute, "skip_unreadable": network.skip_unreadable}
        scored = score_present(model, trunk, dataset, **how, tell=out.reporter)
        run = Run(
            command="finetune",
            options=options | {"precision": tuned.precision},
            dataset=dataset,
            model=model,
            history=tuned.history,
            best_epoch=tuned.best_epoch,
            scored=scored,
            seconds={"train": tuned.seconds},
            more=_start_values(start, tuned.start),
            source=named,
        )
        result = finish_run(folder, run, figures=not kept.no_figures)
    tell_result(out, result, folder)
    _tell_gain(out, start, tuned)
    out.result(result | {"unreadable": [{"path": p, "reason": r} for p, r in tuned.unreadable]})


def _as_its_start(network: _Network, source: o.Source) -> tuple[_Network, DataSource]:
    """Its images are split as the run to start from split them, and skipped if that skipped any."""
    from tlcache.reports.run import origin_of

    named = source.named()
    if network.start is None:
        return network, named
    origin = origin_of(network.start)
    skip = network.skip_unreadable or origin.skips_unreadable
    seed = None if source.split is None else source.seed
    images = origin.images(source.data, named.fractions, seed)
    return dataclasses.replace(network, skip_unreadable=skip), images


def _beginning(
    out: Output, network: _Network, dataset: ImageDataset, source: DataSource
) -> tuple[Model | None, Trunk]:
    """The model to start from, if any, and the trunk; says what of val the model has learned."""
    from tlcache.evaluation.roles import seen_of_val
    from tlcache.heads.model import load_model
    from tlcache.networks.finetune import Wanted, trunk_to_tune
    from tlcache.reports.run import origin_of

    memo = network.cache_dir / "weights"
    wanted = Wanted(network.trunk, network.weights, network.changes())
    if network.start is None:
        return None, trunk_to_tune(None, dataset.classes, wanted, memo, out.note)
    model, origin = load_model(network.start), origin_of(network.start)
    wanted = dataclasses.replace(wanted, weights=origin.weights(model, network.weights))
    trunk = trunk_to_tune(model, dataset.classes, wanted, memo, out.note)
    for seen in seen_of_val(origin.about, origin.source, source):
        out.note(f"warning: {network.start} {seen}")
    return model, trunk


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
