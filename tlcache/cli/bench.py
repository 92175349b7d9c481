"""``tlcache bench``: cached against the frozen loop against two ways to finetune, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.options import some_of
from tlcache.cli.output import Output, note_selection

if TYPE_CHECKING:
    from tlcache.data.folders import ImageDataset
    from tlcache.studies.bench import Benchmark

EXAMPLES = "tlcache bench hymenoptera_data --epochs 3 --figure bench.png"


def run(
    data: o.Data,
    split: o.Split = None,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    views: o.Views = 0,
    contenders: Annotated[
        str,
        typer.Option(
            help="Some of cached, frozen, finetune (from a random head) and lp-ft (from the "
            "cached head), with commas between them.",
            autocompletion=some_of("cached", "frozen", "finetune", "lp-ft"),
        ),
    ] = "cached,frozen,finetune,lp-ft",
    epochs: Annotated[int, typer.Option(help="Of each contender.")] = 3,
    batch_size: o.BatchSize = 4,
    lr: o.LearningRate = 0.001,
    momentum: o.Momentum = 0.9,
    weight_decay: o.WeightDecay = 0.0,
    step_size: o.StepSize = 7,
    gamma: o.Gamma = 0.1,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    figure: Annotated[
        Path | None, typer.Option(help="A PNG of the result.", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="An HTML page of the result.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.")] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure four ways to train the same recipe, from a cold feature cache of the bench's own.

    All but the first pay for the network in every epoch: with the tutorial's 25 epochs on a CPU,
    that takes a while. lp-ft finetunes from the cached head, for as many epochs as finetune does
    from a random one.
    """
    from tlcache.cli.embed import scanned
    from tlcache.figures.bars import benchmark_figure
    from tlcache.figures.style import save_png
    from tlcache.heads.recipe import Recipe
    from tlcache.reports.page import check_output
    from tlcache.studies.bench import benchmark

    out = Output(as_json, quiet)
    recipe = Recipe(epochs, batch_size, lr, momentum, weight_decay, step_size, gamma, seed)
    if report is not None:
        check_output(report, force)
    out.note_random(weights)
    dataset = scanned(out, data, split, seed)
    measured = benchmark(
        dataset,
        trunk,
        weights,
        recipe,
        contenders=[name.strip() for name in contenders.split(",") if name.strip()],
        views=views,
        device=device,
        workers=o.worker_count(workers),
        memo=cache_dir / "weights",
        on_start=lambda name: out.note(f"{name} …"),
        on_epoch=lambda record: out.note(f"  {record.line(epochs)}"),
    )
    if figure is not None:
        bars = [contender.describe() for contender in measured.contenders]
        save_png(benchmark_figure(bars, _judged(measured)), figure)
    tell(out, measured)
    out.result(measured.describe())
    if report is not None:  # last: what took minutes has been said by now, whatever happens
        _write_report(out, measured, dataset, report)


def _write_report(out: Output, measured: Benchmark, dataset: ImageDataset, path: Path) -> None:
    from tlcache.reports.page import save_page
    from tlcache.reports.sections import bench_page

    counts = {name: len(dataset.indices(name)) for name in dataset.present_splits()}
    page = bench_page(measured.describe(), str(dataset.root), counts)
    size = save_page(path, lambda room: page)
    out.line(f"report: {path} ({size / 1e3:.0f} KB)")


def tell(out: Output, measured: Benchmark) -> None:
    """A benchmark as a table."""
    values = measured.describe()
    out.line(f"{'':10} {'seconds':>9}   {_judged(measured)}, 95% interval")
    for contender in measured.contenders:
        low, high = contender.evaluation.accuracy_ci95
        out.line(
            f"{contender.name:10} {contender.total:9.2f}   "
            f"{contender.evaluation.accuracy:.3f} ({low:.3f}-{high:.3f})"
        )
    if measured.speedup is not None:
        heads = measured.break_even_heads
        out.line(
            f"each next head from the cache: {measured.head_seconds:.3f} s; the first was "
            f"{measured.speedup:.1f} times as fast as the frozen loop"
        )
        pays = f"pays from head {heads} on" if heads else "does not pay at this size"
        out.line(f"the cache {pays}")
    for pair in ("comparison", "lp_ft_gain"):
        if values[pair] is not None:
            out.line(values[pair]["sentence"])
    note_selection(out, ["train", "val", measured.judged_on])


def _judged(measured: Benchmark) -> str:
    from tlcache.evaluation.roles import split_role

    return f"Accuracy on {measured.judged_on} ({split_role(measured.judged_on, 'val')})"
