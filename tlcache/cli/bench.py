"""What caching buys: four ways to train measured by one recipe, and the whole story as a demo."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, note_selection, score_text
from tlcache.evaluation.roles import split_role

if TYPE_CHECKING:
    from tlcache.data.folders import ImageDataset
    from tlcache.studies.bench import Benchmark
    from tlcache.studies.demo import Demonstration, Step


@dataclasses.dataclass(frozen=True)
class BenchRecipe(o.RecipeOptions):
    """A recipe whose epochs every contender has."""

    epochs: Annotated[int, o.in_training(help="Of each contender.")] = 3


@dataclasses.dataclass(frozen=True)
class BenchFiles:
    """Files that a benchmark may be written to."""

    figure: Annotated[Path | None, o.in_output(help="A PNG of the result.", show_default=False)] = (
        None
    )
    report: Annotated[
        Path | None, o.in_output(help="An HTML page of the result.", show_default=False)
    ] = None
    force: Annotated[bool, o.in_output("--force", help="Replace a report that is there.")] = False


@o.command("tlcache bench hymenoptera_data --epochs 3 --figure bench.png")
def bench(
    source: o.Source,
    how: o.ComputeOptions,
    by: BenchRecipe,
    files: BenchFiles,
    out: Output,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    views: o.Views = 0,
    contenders: Annotated[
        str,
        typer.Option(
            help="Some of cached, frozen, finetune (from a random head) and lp-ft (from the "
            "cached head), with commas between them.",
            autocompletion=o.some_of("cached", "frozen", "finetune", "lp-ft"),
        ),
    ] = "cached,frozen,finetune,lp-ft",
) -> None:
    """Measure four ways to train the same recipe, from a cold feature cache of the bench's own.

    All but the first pay for the network in every epoch: with the tutorial's 25 epochs on a CPU,
    that takes a while. lp-ft finetunes from the cached head, for as many epochs as finetune does
    from a random one.
    """
    from tlcache.figures.spreads import benchmark_figure
    from tlcache.figures.style import save_png
    from tlcache.reports.page import check_output
    from tlcache.studies.bench import benchmark

    recipe, compute = by.recipe(source.seed), how.compute()
    if files.report is not None:
        check_output(files.report, files.force)
    out.note_random(weights)
    dataset = source.named().scan(out.note)
    measured = benchmark(
        dataset,
        trunk,
        weights,
        recipe,
        contenders=[name.strip() for name in contenders.split(",") if name.strip()],
        views=views,
        device=compute.device,
        workers=compute.workers,
        memo=cache_dir / "weights",
        report=out.note,
        on_start=lambda name: out.note(f"{name} …"),
        on_epoch=lambda record: out.note(f"  {record.line(recipe.epochs)}"),
    )
    if files.figure is not None:
        bars = [contender.describe() for contender in measured.contenders]
        save_png(benchmark_figure(bars, _title(measured.judged_on)), files.figure)
    tell(out, measured)
    out.result(measured.describe())
    if files.report is not None:  # last: what took minutes has been said by now, whatever happens
        _write_report(out, measured, dataset, files.report)


def _title(judged_on: str) -> str:
    return f"Accuracy on {judged_on} ({split_role(judged_on, 'val')})"


def tell(out: Output, measured: Benchmark) -> None:
    """A benchmark as a table."""
    values = measured.describe()
    out.line(f"{'':10} {'seconds':>9}   {_title(measured.judged_on)}, 95% interval")
    for contender in measured.contenders:
        judged = contender.evaluation
        scored = score_text(judged.accuracy, judged.accuracy_ci95)
        out.line(f"{contender.name:10} {contender.total:9.2f}   {scored}")
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


def _write_report(out: Output, measured: Benchmark, dataset: ImageDataset, path: Path) -> None:
    from tlcache.reports.page import save_page
    from tlcache.reports.sections import bench_page

    counts = {name: len(dataset.indices(name)) for name in dataset.present_splits()}
    page = bench_page(measured.describe(), str(dataset.root), counts)
    size = save_page(path, lambda room: page)
    out.line(f"report: {path} ({size / 1e3:.0f} KB)")


@o.command("tlcache demo")
def demo(
    how: o.ComputeOptions,
    out: Output,
    folder: Annotated[Path, o.in_output("--dir", help="Where data, cache and pictures go.")] = Path(
        "demo"
    ),
) -> None:
    """Embed a small data set once, train heads from the cache, and see what finetuning costs.

    ResNet18 and the tutorial's ants and bees, or, where they cannot be had, scikit-learn's digits
    and an EfficientNet-Lite0 whose weights come with the package.
    """
    from tlcache.data.folders import scan
    from tlcache.studies.demo import demonstrate, fetch_material

    cache = folder / "cache"
    data, trunk = fetch_material(folder, out.note, out.progress)
    compute, dataset = how.compute(), scan(data)
    out.line(f"{len(dataset)} images of {len(dataset.classes)} classes in {data}, trunk {trunk}")
    shown = demonstrate(dataset, trunk, cache, compute, out.reporter)
    _tell_steps(out, shown.steps, _title(shown.judged_on))
    _draw(folder, dataset, shown)
    note_selection(out, dataset.present_splits())
    out.line(f"pictures: {', '.join(sorted(str(p) for p in folder.glob('*.png')))}")
    out.line(f"next: tlcache train {data} --trunk {trunk} --cache-dir {cache}")
    out.result({"data": str(data), **shown.describe()})


def _tell_steps(out: Output, steps: Sequence[Step], title: str) -> None:
    width = max(len(step.name) for step in steps)
    out.line(f"{'':{width}}   seconds   {title}, 95% interval")
    for step in steps:
        judged = step.evaluation
        scored = score_text(judged.accuracy, judged.accuracy_ci95) if judged else ""
        out.line(f"{step.name:{width}}   {step.seconds:7.2f}   {scored}")


def _draw(folder: Path, dataset: ImageDataset, shown: Demonstration) -> None:
    from tlcache.figures.curves import learning_curves
    from tlcache.figures.spreads import benchmark_figure
    from tlcache.figures.style import save_png
    from tlcache.reports.pictures import augmented_picture, prediction_picture

    figures = {
        "comparison": benchmark_figure(shown.bars(), _title(shown.judged_on)),
        "augmented": augmented_picture(dataset, shown.model.transform),
        "curves": learning_curves(shown.first.history, shown.first.best_epoch),
        "predictions": prediction_picture(shown.model, shown.scored, dataset.root),
    }
    for name, figure in figures.items():
        if figure is not None:
            save_png(figure, folder / f"{name}.png")
