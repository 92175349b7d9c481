"""A run's folder: the model, every option, the metrics, the answers and the pictures.

What a run did is handed in as plain values, judged, and written, each file whole. Its JSON and its
answers are read here alone. Covers no training, and no run as a whole (``records``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import (
    CacheError,
    ModelError,
    OptionError,
    UnmetError,
    error_in_a_line,
    faults_as,
    strerror,
)
from tlcache.core.files import is_gone, lock_holder, read_capped, take_lock, write_atomically
from tlcache.core.machine import describe_machine
from tlcache.core.progress import Report, no_report
from tlcache.data.folders import SPLITS, DataSource, ImageDataset
from tlcache.evaluation.metrics import Evaluation, calibration_bins, evaluate
from tlcache.evaluation.roles import Standing, standing_of
from tlcache.figures.curves import calibration_figure, learning_curves
from tlcache.figures.heatmap import confusion_figure
from tlcache.figures.style import save_png
from tlcache.heads.model import Model, save_model
from tlcache.heads.recipe import EpochRecord
from tlcache.networks.scoring import Scored
from tlcache.reports.pictures import prediction_picture
from tlcache.trunks.info import parse_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MODEL, RUN, METRICS = "model.safetensors", "run.json", "metrics.json"
PREDICTIONS = "predictions.safetensors"
CHECKPOINT = "checkpoint.safetensors"
LOCK = "lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)

_JSON_BYTES = 1 << 28  # the confusions of some thousands of classes
_PREDICTIONS_BYTES = 8 << 30
_PREDICTIONS_FORMAT = "predictions 1"
_COLUMNS = {"logits": np.float32, "labels": np.int32, "paths": np.uint8}


@dataclasses.dataclass(frozen=True)
class Run:
    """What was done.

    Attributes:
        command: ``train``, ``finetune`` or ``sweep``.
        options: Every option, as plain JSON values.
        model: Of the best epoch, or of the last where none was chosen.
        history: One record an epoch; empty where there were none.
        best_epoch: Counted from 1; None where none was chosen.
        scored: The model's logits by split.
        seconds: By stage.
        selected_on: What chose.
        fitted_on: The splits that the model was trained on.
        pictured: The split that pictures show.
        identity: Key of the features that a head was trained on; None where there were none.
        more: What else programs may rely on, as plain JSON values.
        source: What was named as the data set, with its split.
    """

    command: str
    options: dict[str, Any]
    dataset: ImageDataset
    model: Model
    history: list[EpochRecord]
    best_epoch: int | None
    scored: dict[str, Scored]
    seconds: dict[str, float]
    selected_on: str = "val"
    fitted_on: tuple[str, ...] = ("train",)
    pictured: str = "val"
    identity: str | None = None
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: DataSource | None = None


@contextlib.contextmanager
def open_run(
    folder: Path | None,
    command: str,
    dataset: str,
    *,
    resume: bool = False,
    note: Report = no_report,
) -> Iterator[Path]:
    """The folder of a new run, which is nobody else's while the block runs.

    A folder that was made here and is empty in the end is removed. An interrupt is told with the
    words that go on with the run, where it left a checkpoint.

    Args:
        folder: The one asked for; ``runs/<time>-<command>-<data set>`` by default.
        resume: Go on with a run that was stopped there.
        note: Is told of a disk without locks.

    Raises:
        OptionError: If a run is to be resumed and none is named.
        UnmetError: If it holds a run already, has none to resume, cannot be made, or another
            process is at it.
    """
    if resume and (folder is None or not (folder / CHECKPOINT).is_file()):
        where = f"--resume --run-dir {folder or ''}".rstrip()
        expected = f"the folder of a stopped run, with {CHECKPOINT}"
        remedy = "name the stopped run's folder, or leave out --resume"
        if folder is None:
            raise OptionError(where, expected, "no --run-dir", remedy)
        raise UnmetError(where, expected, "no checkpoint", remedy)
    chosen, made = _made_folder(folder, f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{dataset}")
    with contextlib.ExitStack() as stack:
        if made:
            stack.callback(_remove_if_empty, chosen)
        stack.enter_context(_alone_in(chosen, note))
        started = (chosen / CHECKPOINT).exists() and not resume
        if (chosen / RUN).exists() or started:
            found = "a stopped run" if started else "an earlier run"
            remedy = "pass --resume to go on with it" if started else "name another folder"
            raise UnmetError(f"--run-dir {chosen}", "a new folder", found, remedy)
        try:
            yield chosen
        except KeyboardInterrupt as stop:
            if (chosen / CHECKPOINT).exists():
                named = "" if folder else f" --run-dir {shlex.quote(str(chosen))}"
                again = "" if resume else f"{named} --resume"
                stop.add_note(f"finished epochs are kept; go on with: {{command}}{again}")
            raise


def _made_folder(folder: Path | None, name: str) -> tuple[Path, bool]:
    """A folder for a run, and whether it is new; no two runs have the same name."""
    chosen, count = folder or Path("runs") / name, 1
    where, remedy = f"--run-dir {chosen}", "name another folder"
    with faults_as(UnmetError, where, "a folder that can be made", remedy):
        while True:
            try:
                chosen.mkdir(parents=True)
                return chosen, True
            except FileExistsError:
                if folder and folder.is_dir():
                    return folder, False
                if folder:
                    raise
            count += 1
            chosen = Path("runs") / f"{name}-{count}"


@contextlib.contextmanager
def _alone_in(folder: Path, note: Report) -> Iterator[None]:
    """Holds the lock of a run's folder."""
    lock = folder / LOCK
    try:
        held = take_lock(lock)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            expected, remedy = "a folder that can be written", "name another folder"
            where = f"--run-dir {folder}"
            raise UnmetError(where, expected, strerror(error), remedy) from error
        note(f"{folder}: no locks on this disk, so nothing keeps a second process out of the run")
        held = -1
    if held is None:
        found = lock_holder(lock) or "another process"
        remedy = "wait for its end, or name another folder"
        raise UnmetError(folder, "a run that no other process is at", found, remedy)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps an open file; unlocked, it is no harm
            lock.unlink()
        if held >= 0:
            os.close(held)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def finish_run(folder: Path, run: Run, *, figures: bool) -> dict[str, Any]:
    """Judge a run and write its folder: ``run.json`` last, so that a run with one is whole.

    Both ways of training end here, so both are judged by the same evaluation.

    Returns:
        What programs may rely on, as plain JSON values.

    Raises:
        CacheError: If a file cannot be written.
    """
    started = time.perf_counter()
    classes = run.model.classes
    judged = {s: evaluate(x.logits, x.labels, classes) for s, x in run.scored.items()}
    seconds = run.seconds | {"evaluate": time.perf_counter() - started}
    started = time.perf_counter()
    for name, figure in (_figures(run, judged[run.pictured]) if figures else {}).items():
        save_png(figure, folder / f"{name}.png")
    seconds["figures"] = time.perf_counter() - started
    save_model(folder / MODEL, run.model)
    unseen = {split: of for split, of in run.scored.items() if split not in run.fitted_on}
    save_predictions(folder / PREDICTIONS, unseen or {run.pictured: run.scored[run.pictured]})
    result = {
        "model": str(folder / MODEL),
        "trunk": run.model.trunk,
        "weights": run.model.weights,
        "epochs": len(run.history),
        "best_epoch": run.best_epoch,
        "selected_on": run.selected_on,
        "fitted_on": list(run.fitted_on),
        "seconds": seconds,
        "evaluation": {split: evaluation.to_dict() for split, evaluation in judged.items()},
        **run.more,
    }
    history = [dataclasses.asdict(record) for record in run.history]
    write_atomically(folder / METRICS, _json(result | {"history": history}))
    weights = run.model.weights
    about = {
        "command": run.command,
        "options": run.options,
        "data": str(run.dataset.root),
        "dataset": run.dataset.name,
        "source": run.source and _located(run.source),
        "weights": str(Path(weights).absolute()) if Path(weights).is_file() else weights,
        "identity": run.identity,
        "model": run.model.describe(),
        **{name: result[name] for name in ("selected_on", "fitted_on", "seconds")},
    }
    write_atomically(folder / RUN, _json(about | describe_machine(run.model.trunk)))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _located(source: DataSource) -> dict[str, Any]:
    """A source as plain JSON values, fit for whoever reads them in another folder."""
    return dataclasses.asdict(source) | {"path": str(source.path.absolute())}


def _figures(run: Run, judged: Evaluation) -> dict[str, Figure]:
    scored = run.scored[run.pictured]
    bins = calibration_bins(scored.logits, scored.labels)
    figures = {
        "curves": learning_curves(run.history, run.best_epoch) if run.history else None,
        "confusion": confusion_figure(judged.confusion, judged.classes),
        "calibration": calibration_figure([dataclasses.asdict(each) for each in bins]),
        "predictions": prediction_picture(run.model, scored, run.dataset.root),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _json(values: dict[str, Any]) -> bytes:
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # half a character, of a file name that is no UTF-8
        return f"{json.dumps(values, indent=2, allow_nan=False)}\n".encode()


def save_predictions(path: Path, scored: Mapping[str, Scored]) -> None:
    """Write what a model said, by split, whole or not at all; a CacheError says what went wrong."""
    from safetensors.numpy import save

    tensors = {}
    for split, of in scored.items():
        texts = "".join(f"{name}\0" for name in of.paths).encode("utf-8", "surrogateescape")
        columns = of.logits, of.labels, np.frombuffer(texts, np.uint8)
        for (name, dtype), values in zip(_COLUMNS.items(), columns, strict=True):
            tensors[f"{split}.{name}"] = np.require(values, dtype, "C")
    write_atomically(path, save(tensors, {"tlcache": _PREDICTIONS_FORMAT}))


def load_predictions(path: Path, classes: int) -> dict[str, Scored]:
    """Read what a model of so many classes said, by split.

    Raises:
        ModelError: If it is damaged, or of another model.
        CacheError: If it cannot be read.
    """
    data = read_capped(path, _PREDICTIONS_BYTES)
    try:
        return _assembled(data, classes)
    except Exception as error:  # whatever a malformed file trips over, the file is at fault
        expected = f"predictions of {classes} classes that tlcache wrote"
        remedy = "remove the file, and the images are scored again"
        raise ModelError(path, expected, str(error) or type(error).__name__, remedy) from error


def _assembled(data: bytes, classes: int) -> dict[str, Scored]:
    from safetensors.numpy import load

    tensors = load(data)
    splits = [split for split in SPLITS if f"{split}.logits" in tensors]
    if set(tensors) != {f"{split}.{name}" for split in splits for name in _COLUMNS}:
        raise ValueError(f"arrays named {', '.join(sorted(tensors)) or 'nothing'}")
    for name, tensor in tensors.items():
        if tensor.dtype != _COLUMNS[name.split(".")[1]]:
            raise ValueError(f"{name} of {tensor.dtype}")
    return {split: _of_split(split, tensors, classes) for split in splits}


def _of_split(split: str, tensors: Mapping[str, NDArray[Any]], classes: int) -> Scored:
    logits, labels, texts = (tensors[f"{split}.{name}"] for name in _COLUMNS)
    paths = texts.tobytes().decode("utf-8", "surrogateescape").split("\0")
    if paths.pop() or not len(paths) == len(labels) > 0:
        raise ValueError(f"{len(labels)} labels and {len(paths)} paths in {split}")
    if logits.shape != (len(labels), classes) or labels.shape != (len(labels),):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} in {split}")
    if not np.isfinite(logits).all():
        raise ValueError(f"logits in {split} that are not finite")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"a label without a class in {split}")
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ValueError(f"a path that leads out of the data set: {path}")
    return Scored(logits, labels, paths)


def read_json(path: Path) -> dict[str, Any]:
    """``run.json`` or ``metrics.json`` of a run.

    Raises:
        ModelError: If there is none, or it is damaged.
    """
    try:
        values = json.loads(read_capped(path, _JSON_BYTES))
    except CacheError as error:
        raise damaged(path, "no such file" if is_gone(error) else error.found) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(values, dict):
        raise damaged(path, f"a {type(values).__name__}")
    return values


def damaged(where: Path, found: str) -> ModelError:
    """The error of a run whose JSON is not what tlcache wrote."""
    return ModelError(where, "the JSON of a run", found, "train again, or move the folder away")


def read_run(model: Path) -> dict[str, Any]:
    """The ``run.json`` beside a model; empty where the model stands alone.

    Raises:
        ModelError: If it is damaged.
    """
    path = (model if model.is_dir() else model.parent) / RUN
    return read_json(path) if path.is_file() else {}


@dataclasses.dataclass(frozen=True)
class Origin:
    """How a model came about: what commands go by that are asked for nothing else.

    Attributes:
        folder: Of its run.
        about: The ``run.json`` there; empty where the model stands alone.
    """

    folder: Path
    about: dict[str, Any]

    @property
    def source(self) -> DataSource | None:
        """The run's images, in a folder or a snapshot, split as they were; None if nobody knows.

        Raises:
            ModelError: If ``run.json`` is damaged.
        """
        if "data" not in self.about:
            return None
        try:
            root, options = Path(self.about["data"]), self.about.get("options", {})
            if kept := self.about.get("source"):
                shares = kept["fractions"] and tuple(map(float, kept["fractions"]))
                at = self._file(kept["path"]) or root  # of a snapshot that is gone, its images
                return DataSource(at, shares, int(kept["seed"]), kept["unsplit"] is True)
            split, seed = options.get("split"), int(options.get("seed", 0))
            shares = tuple(map(float, split.split(","))) if split else None
            snapshot = self._file(options.get("data", ""))
            unsplit = self.about.get("command") == "sweep"
            return DataSource(snapshot or root, None if snapshot else shares, seed, unsplit)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise damaged(self.folder / RUN, error_in_a_line(error)) from error

    @property
    def skips_unreadable(self) -> bool:
        """Whether the run went on without the images that it could not read."""
        options = self.about.get("options")
        return isinstance(options, dict) and options.get("skip_unreadable") is True

    def images(
        self,
        data: Path | None,
        fractions: Sequence[float] | None = None,
        seed: int | None = None,
        *,
        option: str = "DATA",
    ) -> DataSource:
        """Images by name, or the run's own.

        A folder of classes is split as the run split its own, wherever it lies: lots are drawn by
        the images' names, so what has moved, or was copied, is divided as it was.

        Args:
            data: Where they are now; None: where they were.
            fractions, seed: Another split that is asked for, or one of them.
            option: What they are named by, for an error.

        Raises:
            OptionError: If none are named, and nobody knows or finds the run's.
            ModelError: If ``run.json`` is damaged.
        """
        own = self.source
        if data is None:
            if own is None:
                found = f"none, and no {RUN} beside the model"
                raise UnmetError(option, "a folder of images", found, "name one")
            if not own.path.exists():
                expected, found = "the images of the run", f"no folder {own.path}"
                raise UnmetError(option, expected, found, "name where they are now")
        elif own is None or data.is_file() or all((data / s).is_dir() for s in ("train", "val")):
            return DataSource(data, fractions, seed or 0)
        return DataSource(
            data or own.path,
            own.fractions if fractions is None else fractions,
            own.seed if seed is None else seed,
            own.unsplit,
        )

    def standing(self, source: DataSource, on: str) -> Standing:
        """What one split of some images was to the run."""
        return standing_of(self.about, self.source, source, on)

    def weights(self, model: Model, asked: str | None) -> str | None:
        """Where the weights of the model's trunk are: where it is said, or where the run's were.

        None where the model's own word for them is all that is known.
        """
        if asked is not None or not isinstance(parse_weights(model.weights), Path):
            return asked
        found = self._file(self.about.get("weights")) or self._file(model.weights)
        return str(found) if found and model.network is None else None

    def _file(self, name: object) -> Path | None:
        """A file that the run names, as seen from where its command ran, or from here."""
        if not isinstance(name, str) or not name:
            return None
        return next((at / name for at in (self._ran_in, Path()) if (at / name).is_file()), None)

    @property
    def _ran_in(self) -> Path:
        options, here = self.about.get("options"), self.folder.absolute()
        asked = options.get("run_dir") if isinstance(options, dict) else None
        parts = (Path(asked) if isinstance(asked, str) else Path("runs", here.name)).parts
        return Path(*here.parts[: -len(parts)]) if here.parts[-len(parts) :] == parts else Path()


def origin_of(model: Path) -> Origin:
    """How a model came about, by its run's folder or its own file.

    Raises:
        ModelError: If its ``run.json`` is damaged.
    """
    return Origin(model if model.is_dir() else model.parent, read_run(model))
