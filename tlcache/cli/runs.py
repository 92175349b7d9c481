"""The runs that were made: a table of them, a page to be sent, and a model as a file of its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tlcache.cli import options as o
from tlcache.cli.output import (
    JsonOutput,
    Output,
    accuracy_text,
    count,
    moment,
    score_text,
    show_table,
)
from tlcache.core.errors import UnmetError, one_line
from tlcache.evaluation.roles import ELSEWHERE, selection_note

if TYPE_CHECKING:
    from tlcache.export.export import Exported
    from tlcache.reports.records import ListedRun

Sort = Literal["time", "name", "command", "data", "trunk", "accuracy", "seconds"]


@o.command("tlcache runs ls --sort accuracy")
def ls(
    out: JsonOutput,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of runs, or of one.", show_default=True)
    ] = Path("runs"),
    sort: Annotated[
        Sort,
        typer.Option(
            help="What the order goes by. accuracy: on test, else on val, the best first; "
            "time: the latest last."
        ),
    ] = "time",
) -> None:
    """Compare the runs in a folder: what was done, how well it did, and how long it took."""
    from tlcache.reports.records import list_runs

    found = list_runs(folder)
    runs = sorted(found.runs, key=_ORDERS[sort])
    out.result(
        {
            "folder": str(folder),
            "runs": [run.describe() for run in runs],
            "damaged": [str(error) for error in found.damaged],
            "stopped": list(map(str, found.stopped)),
            "running": {str(path): holder for path, holder in found.running.items()},
        }
    )
    if not out.as_json:
        _show(out, folder, runs)
        _note_selection(out, runs)
    for path, holder in found.running.items():
        out.note(f"{one_line(str(path))}: running ({one_line(holder)})")
    for path in found.stopped:
        name = one_line(shlex.quote(str(path)))
        out.note(
            f"{name}: stopped; the same command with --run-dir {name} --resume goes on with it"
        )
    for error in found.damaged:
        out.note(f"left out: {error}")


def _name(run: ListedRun) -> str:
    return run.folder.absolute().name or str(run.folder)


def _total(run: ListedRun) -> float:
    return sum(run.seconds.values())


_ORDERS: dict[Sort, Callable[[ListedRun], Any]] = {  # runs that are equal stay in order of time
    "time": lambda run: run.finished_ns,
    "name": _name,
    "command": lambda run: run.command,
    "data": lambda run: run.dataset,
    "trunk": lambda run: (run.trunk, run.weights),
    "accuracy": lambda run: -run.final.accuracy if run.final else 1.0,
    "seconds": _total,
}


def _show(out: Output, folder: Path, runs: list[ListedRun]) -> None:
    if not runs:
        out.line(f"{folder}: no runs in it")
        return
    splits = [split for split in ("val", "test") if any(split in run.scores for run in runs)]
    judged = [f"{split} (95%)" for split in splits]
    titles = ["finished", "name", "command", "data", "trunk", *judged]
    titles += ["best epoch", "seconds", "selected on"]
    show_table(titles, [_cells(run, splits) for run in runs])
    out.line(count(len(runs), "run"))


def _cells(run: ListedRun, splits: list[str]) -> list[str]:
    told = [moment(run.finished_ns), _name(run), run.command, run.dataset, run.trunk]
    judged = [_score_text(run, split) for split in splits]
    best = f"{run.best_epoch}/{run.epochs}" if run.best_epoch is not None else "-"
    return [*told, *judged, best, f"{_total(run):,.1f}", run.selected_on]


def _score_text(run: ListedRun, split: str) -> str:
    if split not in run.scores:
        return "-"
    if split in run.fitted_on:
        return "trained on"
    return score_text(run.scores[split].accuracy, run.scores[split].accuracy_ci95)


def _note_selection(out: Output, runs: list[ListedRun]) -> None:
    """Accuracies on the split that chose flatter: one line where some runs have no other."""
    without = [run for run in runs if "test" not in run.unseen and run.selected_on in run.unseen]
    if not without:
        return
    if len(without) == len(runs) and (line := selection_note(["val"], without[0].selected_on)):
        out.note(line)
        return
    out.note(
        f"{count(len(without), 'run')} without a test split: what chose the model judges it too, "
        f"so its accuracy flatters and is no result; {ELSEWHERE}"
    )


app = typer.Typer(
    no_args_is_help=True,
    help="Look over the runs that were made.",
    epilog=f"Begin with: {ls.example}",
)
app.command(ls.name, epilog=ls.example)(ls.run)


@o.command("tlcache report runs/ants runs/bees --output report.html")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders that train, finetune or sweep wrote.",
            show_default=False,
        ),
    ],
    how: o.ComputeOptions,
    out: Output,
    output: Annotated[Path, o.in_output(help="The page.")] = Path("report.html"),
    data: Annotated[
        Path | None,
        o.in_data(
            help="Where the images of the runs are now, or a snapshot of them.",
            show_default="where they were",
        ),
    ] = None,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    force: Annotated[bool, o.in_output("--force", help="Replace a page that is there.")] = False,
) -> None:
    """Write one self-contained HTML page: what was done, curves, confusion, mistakes, map.

    The page loads nothing from elsewhere and stays under 3 MB. What needs images that are gone is
    left out, and the page says so.
    """
    from tlcache.reports.material import AtHand, comparisons, material_of
    from tlcache.reports.page import check_output, save_page
    from tlcache.reports.records import read_record
    from tlcache.reports.sections import runs_page

    check_output(output, force)
    at_hand = AtHand(data, weights, cache_dir, how.compute())
    at_hand.check()
    materials = [material_of(one, at_hand, out.reporter) for one in map(read_record, runs)]
    compared = comparisons(materials)
    with out.progress("writing", "pages") as tick:
        tick(0, None)
        size = save_page(output, lambda room: runs_page(materials, compared, room))
    described = [material.describe() for material in materials]
    for material, found in zip(materials, described, strict=True):
        out.line(f"{material.record.name}: {found['split']} {accuracy_text(found)}")
        for note in material.notes:
            out.note(f"{material.record.name}: {note}")
    out.line(f"report: {output} ({size / 1e3:.0f} KB)")
    out.result({"report": str(output), "bytes": size, "runs": described})


@o.command("tlcache export runs/ants --format onnx --preprocess")
def export(
    model: o.ModelFile,
    out: Output,
    format: Annotated[
        str,
        typer.Option(
            help="onnx, torchscript, pt2 or safetensors.",
            autocompletion=o.one_of("onnx", "torchscript", "pt2", "safetensors"),
        ),
    ] = "onnx",
    output: Annotated[
        Path | None,
        o.in_output(help="The file.", show_default="exported.<suffix> beside the model"),
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
        o.in_data(
            help="A folder of images to run the file on.", show_default="the run's val images"
        ),
    ] = None,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    force: Annotated[bool, o.in_output("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a model as one file, run it, and keep it if its probabilities are tlcache's own."""
    from tlcache.data.folders import DataSource
    from tlcache.export.export import SUFFIXES, check_export, export_model
    from tlcache.export.trials import trial_images
    from tlcache.heads.model import load_model
    from tlcache.reports.run import origin_of

    check_export(format, preprocess)
    loaded = load_model(model)
    out.note_random(loaded.weights)
    folder = model if model.is_dir() else model.parent
    target = output or folder / f"exported{SUFFIXES[format]}"
    _check_not_the_model(model, target)
    origin = origin_of(model)
    source = origin.images(data, option="--data")
    if data is None and source.path.is_file():
        source = DataSource(Path(origin.about["data"]))
    exported = export_model(
        loaded,
        target,
        format,
        images=trial_images(source),
        preprocess=preprocess,
        weights=origin.weights(loaded, weights),
        memo=cache_dir / "weights",
        force=force,
    )
    _tell_export(out, exported, loaded.classes)


def _check_not_the_model(model: Path, output: Path) -> None:
    own = model / "model.safetensors" if model.is_dir() else model
    if output.exists() and output.samefile(own):
        expected, remedy = "another file than the model itself", "name another file"
        raise UnmetError(f"--output {output}", expected, "the model", remedy)


def _tell_export(out: Output, exported: Exported, classes: Sequence[str]) -> None:
    done = exported.describe()
    out.line(f"written: {exported.file} ({exported.size / 1e6:.1f} MB)")
    out.line(
        f"run on {exported.images} images, by ones and by eights: the largest difference from "
        f"tlcache's own probabilities is {exported.difference:.1e}"
    )
    for name in ("input", "output"):
        shape = ", ".join(map(str, done[name]["shape"]))
        values = done[name].get("values", ", ".join(classes[:6]))
        out.line(f"{name}: {done[name]['name']}, {done[name]['dtype']} ({shape}), {values}")
    out.result(done)
