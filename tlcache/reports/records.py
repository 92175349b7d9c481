"""Runs as they were written, checked: one with all of it, or those of a folder side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcache.core.errors import ModelError, error_in_a_line, faults_as, strerror
from tlcache.core.files import StrPath, as_path, lock_holder
from tlcache.data.folders import SPLITS
from tlcache.evaluation.metrics import Evaluation
from tlcache.evaluation.roles import final_split
from tlcache.heads.model import Model, load_model
from tlcache.heads.recipe import EpochRecord
from tlcache.reports.run import (
    CHECKPOINT,
    LOCK,
    METRICS,
    MODEL,
    RUN,
    Origin,
    damaged,
    read_json,
    read_run,
)

_LARGEST = 1e300  # no loss of a run, and small enough to be drawn


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run that was finished, with all of it: the fields are those of :class:`Run`.

    ``about`` is ``run.json``, ``metrics`` is ``metrics.json``, and evaluations are by split.
    """

    folder: Path
    about: dict[str, Any]
    metrics: dict[str, Any]
    model: Model
    evaluations: dict[str, Evaluation]
    history: list[EpochRecord]
    best_epoch: int | None
    selected_on: str
    fitted_on: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.absolute().name or str(self.folder)

    @property
    def split(self) -> str:
        """The split that its report is about: test, else val, else what else there is."""
        unseen = [split for split in self.evaluations if split not in self.fitted_on]
        return next((s for s in ("test", "val") if s in unseen), (unseen or ["train"])[0])

    @property
    def root(self) -> Path:
        """The folder that the paths of its images begin in."""
        return Path(str(self.about["data"]))

    @property
    def origin(self) -> Origin:
        """How its model came about."""
        return Origin(self.folder, self.about)


def read_record(path: Path) -> RunRecord:
    """Read a run, by its folder or by the model in it.

    Raises:
        ModelError: If it is no run, or a file of it is damaged.
    """
    folder = _folder_of(path)
    about, model = read_run(folder), load_model(folder / MODEL)
    for name, kind in (("command", str), ("data", str), ("options", dict)):
        if not isinstance(about.get(name), kind):
            raise damaged(folder / RUN, f"no {name} in it")
    metrics = read_json(folder / METRICS)
    try:
        return _assembled(folder, about, metrics, model)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        found = str(error) if type(error) is ValueError else error_in_a_line(error)
        raise damaged(folder / METRICS, found) from error


def _folder_of(path: Path) -> Path:
    try:
        folder = path if path.is_dir() else path.parent
        found = "" if (folder / RUN).is_file() else f"no {RUN}"
        found = found if path.exists() else "no such folder"
    except OSError as error:  # a name too long, say
        found = strerror(error)
    if found:
        remedy = "name one that `tlcache train`, `finetune` or `sweep` wrote"
        raise ModelError(path, f"the folder of a run, with {RUN}", found, remedy)
    return folder


def _assembled(
    folder: Path, about: dict[str, Any], metrics: dict[str, Any], model: Model
) -> RunRecord:
    evaluations = {s: _evaluation(s, v, model) for s, v in metrics["evaluation"].items()}
    if not evaluations:
        raise ValueError("no evaluation")
    history = [EpochRecord(**record) for record in metrics["history"]]
    for record in history:
        _numbers("history", *dataclasses.astuple(record))
    best = metrics["best_epoch"]
    if best is not None and best not in [record.epoch for record in history]:
        raise ValueError(f"the best epoch {best}, which is none of the history")
    selected_on, fitted_on = str(metrics["selected_on"]), tuple(map(str, metrics["fitted_on"]))
    return RunRecord(
        folder, about, metrics, model, evaluations, history, best, selected_on, fitted_on
    )


def _evaluation(split: str, values: dict[str, Any], model: Model) -> Evaluation:
    found = Evaluation(**values)
    _numbers(split, found.n, found.loss)
    _shares(split, *found.accuracy_ci95, found.accuracy, found.macro_f1, found.ece)
    count = len(model.classes)
    if tuple(found.classes) != model.classes or list(found.per_class) != list(model.classes):
        raise ValueError(f"classes in {split} that are not the model's")
    rows = [len(row) for row in found.confusion]
    if rows != [count] * count or len(found.accuracy_ci95) != 2:
        raise ValueError(f"a confusion in {split} that is not {count} by {count}")
    if not all(type(cell) is int and cell >= 0 for row in found.confusion for cell in row):
        raise ValueError(f"a confusion in {split} that counts no images")
    for row in found.per_class.values():
        _shares(split, *(row[name] for name in ("precision", "recall", "f1")))
    if not found.n == sum(map(sum, found.confusion)) > 0:
        raise ValueError(f"{found.n} images in {split} and another number in its confusion")
    return found


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a model does on a split: its images, and ``Evaluation``'s measures of them."""

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    loss: float


@dataclasses.dataclass(frozen=True)
class ListedRun:
    """A run that was finished.

    Attributes:
        folder: Where it is kept.
        finished_ns: When it was written, in nanoseconds since 1970.
        command: What made it.
        data, dataset: The folder of its images, and the name that tlcache gave it.
        trunk, weights: Its network.
        scores: By split, in the order of ``SPLITS``.
        epochs: That it was trained for.
        best_epoch: Counted from 1; None where none was chosen.
        seconds: By stage.
        selected_on: What chose.
        fitted_on: The splits that it was trained on.
    """

    folder: Path
    finished_ns: int
    command: str
    data: str
    dataset: str
    trunk: str
    weights: str
    scores: dict[str, Score]
    epochs: int
    best_epoch: int | None
    seconds: dict[str, float]
    selected_on: str
    fitted_on: tuple[str, ...]

    @property
    def unseen(self) -> dict[str, Score]:
        """Its scores on the splits that it was not trained on."""
        return {split: of for split, of in self.scores.items() if split not in self.fitted_on}

    @property
    def final(self) -> Score | None:
        """Its score on the split that has the last word: test, else val; None without either."""
        return self.unseen.get(final_split(self.unseen))

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        values = dataclasses.asdict(self) | {"folder": str(self.folder)}
        values["evaluation"] = values.pop("scores")
        return values


@dataclasses.dataclass(frozen=True)
class RunList:
    """What a folder holds: runs, and what is left of some.

    Attributes:
        runs: Those that were finished, the oldest first.
        damaged: What is wrong with those that cannot be read.
        stopped: Folders of those that can be resumed.
        running: Folders of those that a process is at, and which process since when.
    """

    runs: list[ListedRun]
    damaged: list[ModelError]
    stopped: list[Path]
    running: dict[Path, str] = dataclasses.field(default_factory=dict)


def list_runs(folder: StrPath = "runs") -> RunList:
    """The runs that a folder holds, or the one that it is. Folders of anything else are passed by.

    Raises:
        ModelError: If there is no such folder, or it cannot be read.
    """
    folder = as_path("folder", folder)
    remedy = "name another: `tlcache train` puts its runs into runs/"
    with faults_as(ModelError, folder, "a folder of runs", remedy):
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    found = RunList([], [], [])
    for path in [folder, *inside]:
        try:
            if (path / RUN).is_file():
                found.runs.append(_listed(path))
            elif holder := lock_holder(path / LOCK):
                found.running[path] = holder
            elif (path / CHECKPOINT).is_file():
                found.stopped.append(path)
        except ModelError as error:
            found.damaged.append(error)
        except OSError as error:
            found.damaged.append(damaged(path, strerror(error)))
    found.runs.sort(key=lambda run: (run.finished_ns, run.folder))
    return found


def _listed(folder: Path) -> ListedRun:
    about, metrics = read_json(folder / RUN), read_json(folder / METRICS)
    try:
        best, seconds = metrics["best_epoch"], metrics["seconds"]
        return ListedRun(
            folder=folder,
            finished_ns=(folder / RUN).stat().st_mtime_ns,
            command=_text(about["command"]),
            data=_text(about["data"]),
            dataset=_text(about["dataset"]),
            trunk=_text(metrics["trunk"]),
            weights=_text(metrics["weights"]),
            scores=_scores(metrics["evaluation"]),
            epochs=_count(metrics["epochs"]),
            best_epoch=None if best is None else _count(best),
            seconds=dict(zip(seconds, _numbers("seconds", *seconds.values()), strict=True)),
            selected_on=_text(metrics["selected_on"]),
            fitted_on=tuple(map(_text, metrics["fitted_on"])),
        )
    except KeyError as error:
        raise damaged(folder, f"no {error.args[0]} in its JSON") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged(folder, str(error)) from error


def _scores(evaluation: Mapping[str, Any]) -> dict[str, Score]:
    if not evaluation or set(evaluation) - set(SPLITS):
        raise ValueError(f"evaluations of {', '.join(map(str, evaluation)) or 'nothing'}")
    return {split: _score(split, evaluation[split]) for split in SPLITS if split in evaluation}


def _score(split: str, values: Mapping[str, Any]) -> Score:
    accuracy, low, high = _numbers(split, values["accuracy"], *values["accuracy_ci95"])
    if not 0 <= low <= accuracy <= high <= 1:
        raise ValueError(f"an accuracy of {accuracy} between {low} and {high}")
    (loss,) = _numbers(split, values["loss"])
    return Score(_count(values["n"]), accuracy, (low, high), loss)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} for a text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} for a count")
    return value


def _numbers(where: str, *values: Any) -> list[float]:
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) < _LARGEST:
            raise ValueError(f"{value!r} for a number in {where}")
    return [float(value) for value in values]


def _shares(where: str, *values: Any) -> None:
    for value in _numbers(where, *values):
        if not 0 <= value <= 1:
            raise ValueError(f"{value!r} for a share in {where}")
