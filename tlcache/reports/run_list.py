"""The runs in a folder, as their JSON tells of them: what was done, and how well it did.

Loads no model, so that hundreds of runs are listed at once. Covers no look into one run
(``report``).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcache.core.errors import CacheError, ModelError
from tlcache.core.files import read_capped
from tlcache.data.folders import SPLITS
from tlcache.evaluation.roles import final_split
from tlcache.reports.run import CHECKPOINT, METRICS, RUN

MAX_BYTES = 1 << 28
"""Of the JSON of a run: the confusions of some thousands of classes."""


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
        scores: By split, in the order of ``samples.SPLITS``.
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


@dataclasses.dataclass(frozen=True)
class RunList:
    """What a folder holds: runs, and what is left of some.

    Attributes:
        runs: Those that were finished, the oldest first.
        damaged: What is wrong with those that cannot be read.
        stopped: Folders of those that can be resumed.
    """

    runs: list[ListedRun]
    damaged: list[ModelError]
    stopped: list[Path]


def list_runs(folder: Path = Path("runs")) -> RunList:
    """The runs that a folder holds, or the one that it is. Folders of anything else are passed by.

    Raises:
        ModelError: If there is no such folder, or it cannot be read.
    """
    try:
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    except OSError as error:
        raise ModelError(
            folder,
            expected="a folder of runs",
            found=error.strerror or type(error).__name__,
            remedy="name another: `tlcache train` puts its runs into runs/",
        ) from error
    found = RunList([], [], [])
    for path in [folder, *inside]:
        try:
            if (path / RUN).is_file():
                found.runs.append(_listed(path))
            elif (path / CHECKPOINT).is_file():
                found.stopped.append(path)
        except ModelError as error:
            found.damaged.append(error)
        except OSError as error:
            found.damaged.append(_damaged(path, error.strerror or type(error).__name__))
    found.runs.sort(key=lambda run: (run.finished_ns, run.folder))
    return found


def _listed(folder: Path) -> ListedRun:
    about, metrics = _values(folder / RUN), _values(folder / METRICS)
    try:
        return ListedRun(
            folder=folder,
            finished_ns=(folder / RUN).stat().st_mtime_ns,
            command=_text(about["command"]),
            data=_text(about["data"]),
            dataset=_text(about["dataset"]),
            trunk=_text(metrics["trunk"]),
            weights=_text(metrics["weights"]),
            scores={s: _score(metrics["evaluation"][s]) for s in _splits(metrics["evaluation"])},
            epochs=_count(metrics["epochs"]),
            best_epoch=None if metrics["best_epoch"] is None else _count(metrics["best_epoch"]),
            seconds={_text(k): _number(v) for k, v in metrics["seconds"].items()},
            selected_on=_text(metrics["selected_on"]),
            fitted_on=tuple(map(_text, metrics["fitted_on"])),
        )
    except KeyError as error:
        raise _damaged(folder, f"no {error.args[0]} in its JSON") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(folder, str(error)) from error


def _values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_capped(path, MAX_BYTES))
    except CacheError as error:
        raise _damaged(path, error.found) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(values, dict):
        raise _damaged(path, f"a {type(values).__name__}")
    return values


def _splits(evaluation: Mapping[str, Any]) -> list[str]:
    if not evaluation or set(evaluation) - set(SPLITS):
        raise ValueError(f"evaluations of {', '.join(map(str, evaluation)) or 'nothing'}")
    return [split for split in SPLITS if split in evaluation]


def _score(values: Mapping[str, Any]) -> Score:
    low, high = map(_number, values["accuracy_ci95"])
    score = Score(
        _count(values["n"]), _number(values["accuracy"]), (low, high), _number(values["loss"])
    )
    if not 0 <= low <= score.accuracy <= high <= 1:
        raise ValueError(f"an accuracy of {score.accuracy} between {low} and {high}")
    return score


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} for a text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} for a count")
    return value


def _number(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{value!r} for a number")
    return float(value)


def _damaged(where: Path, found: str) -> ModelError:
    return ModelError(
        where,
        expected="the JSON of a run",
        found=found,
        remedy="train again, or move the folder away",
    )
