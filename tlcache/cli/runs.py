"""``tlcache runs``: look over the runs that were made; ``ls`` sets them side by side in a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, count, moment, show_table
from tlcache.core.errors import one_line
from tlcache.evaluation.roles import ELSEWHERE, selection_note

if TYPE_CHECKING:
    from tlcache.reports.records import ListedRun, RunList, Score

EXAMPLES = "tlcache runs ls --sort accuracy"

app = typer.Typer(
    no_args_is_help=True,
    help="Look over the runs that were made.",
    epilog=f"Begin with: {EXAMPLES}",
)

Sort = Literal["time", "name", "command", "data", "trunk", "accuracy", "seconds"]


@app.command(name="ls", epilog=EXAMPLES)
def ls(
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
    as_json: o.Json = False,
) -> None:
    """Compare the runs in a folder: what was done, how well it did, and how long it took."""
    from tlcache.reports.records import list_runs

    out = Output(as_json)
    found = list_runs(folder)
    runs = sorted(found.runs, key=_order(sort))
    out.result(
        {
            "folder": str(folder),
            "runs": [_described(run) for run in runs],
            "damaged": [str(error) for error in found.damaged],
            "stopped": list(map(str, found.stopped)),
        }
    )
    if not as_json:
        _show(out, folder, runs)
        _note_selection(out, runs)
    _note_others(out, found)


def _order(sort: Sort) -> Callable[[ListedRun], Any]:
    """A key for a sort that leaves equals in the order of time."""
    if sort == "accuracy":
        return lambda run: -run.final.accuracy if run.final else 1.0
    keys: dict[str, Callable[[ListedRun], Any]] = {
        "time": lambda run: run.finished_ns,
        "name": _name,
        "command": lambda run: run.command,
        "data": lambda run: run.dataset,
        "trunk": lambda run: (run.trunk, run.weights),
        "seconds": _total,
    }
    return keys[sort]


def _name(run: ListedRun) -> str:
    return run.folder.absolute().name or str(run.folder)


def _total(run: ListedRun) -> float:
    return sum(run.seconds.values())


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
    score = run.scores[split]
    low, high = score.accuracy_ci95
    return f"{score.accuracy:.3f} ({low:.3f}-{high:.3f})"


def _described(run: ListedRun) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "finished_ns": run.finished_ns,
        "command": run.command,
        "data": run.data,
        "dataset": run.dataset,
        "trunk": run.trunk,
        "weights": run.weights,
        "evaluation": {split: _score_values(score) for split, score in run.scores.items()},
        "epochs": run.epochs,
        "best_epoch": run.best_epoch,
        "selected_on": run.selected_on,
        "fitted_on": list(run.fitted_on),
        "seconds": run.seconds,
    }


def _score_values(score: Score) -> dict[str, Any]:
    interval = list(score.accuracy_ci95)
    return {
        "n": score.n,
        "accuracy": score.accuracy,
        "accuracy_ci95": interval,
        "loss": score.loss,
    }


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


def _note_others(out: Output, found: RunList) -> None:
    for path in found.stopped:
        out.note(f"{one_line(str(path))}: stopped; the same command with --resume goes on with it")
    for error in found.damaged:
        out.note(f"left out: {error}")
