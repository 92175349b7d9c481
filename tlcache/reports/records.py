"""A run's folder as it was written: what was done, and the metrics, checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tlcache.core.errors import ModelError
from tlcache.evaluation.metrics import Evaluation
from tlcache.heads.model import Model, load_model
from tlcache.heads.recipe import EpochRecord
from tlcache.reports.run import METRICS, MODEL, RUN, read_run

_SHARES = ("accuracy", "macro_f1", "ece")
_LARGEST = 1e300  # no loss of a run, and small enough to be drawn


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run that was finished.

    Attributes:
        folder: Where it is kept.
        about: ``run.json``.
        metrics: ``metrics.json``.
        model: The model.
        evaluations: By split.
        history: One record an epoch; empty where there were none.
        best_epoch: None where none was chosen.
        selected_on: What chose.
        fitted_on: The splits that the model was trained on.
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


def read_record(path: Path) -> RunRecord:
    """Read a run.

    Args:
        path: Its folder, or the model in it.

    Raises:
        ModelError: If it is no run, or a file of it is damaged.
    """
    folder = _folder_of(path)
    about, model = read_run(folder), load_model(folder / MODEL)
    for name, kind in (("command", str), ("data", str), ("options", dict)):
        if not isinstance(about.get(name), kind):
            raise _damaged(folder / RUN, f"no {name} in it")
    metrics = _read(folder / METRICS)
    try:
        return _assembled(folder, about, metrics, model)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        found = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise _damaged(folder / METRICS, found) from error


def _folder_of(path: Path) -> Path:
    try:
        folder = path if path.is_dir() else path.parent
        found = "" if (folder / RUN).is_file() else f"no {RUN}"
        found = found if path.exists() else "no such folder"
    except OSError as error:  # a name too long, say
        found = error.strerror or type(error).__name__
    if found:
        raise ModelError(
            path,
            expected=f"the folder of a run, with {RUN}",
            found=found,
            remedy="name one that `tlcache train`, `finetune` or `sweep` wrote",
        )
    return folder


def _read(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _damaged(path, "no such file") from error
    except OSError as error:
        raise _damaged(path, error.strerror or type(error).__name__) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(metrics, dict):
        raise _damaged(path, f"a {type(metrics).__name__}")
    return metrics


def _assembled(
    folder: Path, about: dict[str, Any], metrics: dict[str, Any], model: Model
) -> RunRecord:
    evaluations = {s: _evaluation(s, v, model) for s, v in metrics["evaluation"].items()}
    if not evaluations:
        raise ValueError("no evaluation")
    history = [EpochRecord(**record) for record in metrics["history"]]
    for record in history:
        _check_numbers("history", *dataclasses.astuple(record))
    best = metrics["best_epoch"]
    if best is not None and best not in [record.epoch for record in history]:
        raise ValueError(f"the best epoch {best}, which is none of the history")
    return RunRecord(
        folder=folder,
        about=about,
        metrics=metrics,
        model=model,
        evaluations=evaluations,
        history=history,
        best_epoch=best,
        selected_on=str(metrics["selected_on"]),
        fitted_on=tuple(map(str, metrics["fitted_on"])),
    )


def _evaluation(split: str, values: dict[str, Any], model: Model) -> Evaluation:
    found = Evaluation(**values)
    _check_numbers(split, found.n, found.loss)
    _check_shares(split, *found.accuracy_ci95, *(values[name] for name in _SHARES))
    count = len(model.classes)
    if tuple(found.classes) != model.classes or list(found.per_class) != list(model.classes):
        raise ValueError(f"classes in {split} that are not the model's")
    rows = [len(row) for row in found.confusion]
    if rows != [count] * count or len(found.accuracy_ci95) != 2:
        raise ValueError(f"a confusion in {split} that is not {count} by {count}")
    if not all(type(cell) is int and cell >= 0 for row in found.confusion for cell in row):
        raise ValueError(f"a confusion in {split} that counts no images")
    for row in found.per_class.values():
        _check_shares(split, *(row[name] for name in ("precision", "recall", "f1")))
    if not found.n == sum(map(sum, found.confusion)) > 0:
        raise ValueError(f"{found.n} images in {split} and another number in its confusion")
    return found


def _check_numbers(where: str, *values: Any) -> None:
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) < _LARGEST:
            raise ValueError(f"{value!r} for a number in {where}")


def _check_shares(where: str, *values: Any) -> None:
    _check_numbers(where, *values)
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"{value!r} for a share in {where}")


def _damaged(path: Path, found: str) -> ModelError:
    return ModelError(path, expected="the JSON of a run", found=found, remedy="train again")
