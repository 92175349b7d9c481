"""Curves for those who watch a run: rows of a CSV file, and events for TensorBoard.

Each epoch is on the disk before the next one begins. A run that goes on tells its earlier epochs
again: what a file lacks of them is added, and what is in it stays. Covers no training.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tlcache.core.errors import UnmetError, faults_as, to_install
from tlcache.heads.recipe import EpochRecord

Tell = Callable[[EpochRecord], None]

COLUMNS = tuple(field.name for field in dataclasses.fields(EpochRecord))
"""Of the CSV file; each row is an epoch, its numbers as Python writes them."""

TAGS = {
    "loss/train": "train_loss",
    "loss/val": "val_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/val": "val_accuracy",
    "learning rate": "learning_rate",
    "seconds": "seconds",
}
"""TensorBoard's names of the curves, and whose they are; a step is an epoch, counted from 1."""


@contextlib.contextmanager
def watched(
    csv: Path | None = None, tensorboard: Path | None = None, *, resume: bool = False
) -> Iterator[Tell]:
    """What is to be told each epoch, and keeps its numbers; fit for ``on_epoch``.

    Args:
        csv: A new file for a row an epoch.
        tensorboard: A folder without curves, for an event file; needs the package tensorboard.
        resume: Both may hold the first epochs of this very run, which are told again.

    Raises:
        UnmetError: If one of them cannot be written or holds something else, or TensorBoard is
            not installed: before the first epoch, as far as can be known by then.
    """
    with contextlib.ExitStack() as stack:
        tellers: list[Tell] = []
        if csv is not None:
            tellers.append(_csv_rows(csv, resume, stack))
        if tensorboard is not None:
            tellers.append(_events(tensorboard, resume, stack))

        def tell(record: EpochRecord) -> None:
            for each in tellers:
                each(record)

        yield tell


def _csv_rows(path: Path, resume: bool, stack: contextlib.ExitStack) -> Tell:
    where = f"--csv {path}"
    header = _line(COLUMNS)
    with _writing(where):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Appended without a buffer: `tail -f` sees a row at once, and none is lost by a kill.
        file = stack.enter_context(path.open("ab", buffering=0))
        there = b""
        if path.is_file():
            with path.open("rb") as earlier:  # none that is not ours is read to its end
                if not header.startswith(earlier.read(len(header))):
                    raise _not_new(where, "a file that begins otherwise")
            there = path.read_bytes()
    if len(there) > len(header) and not resume:
        epochs = len(there[len(header) :].splitlines())
        raise _not_new(where, f"an earlier run's epochs ({epochs})")

    def write(line: bytes) -> None:
        nonlocal there
        if there.startswith(line):
            there = there[len(line) :]
        elif line.startswith(there):  # nothing, or the part of a row that a kill or a disk left
            with _writing(where):
                _write_all(file, line[len(there) :])
            there = b""
        else:
            raise _not_new(where, "the epochs of another run")

    write(header)
    return lambda record: write(_line(map(repr, dataclasses.astuple(record))))


def _events(folder: Path, resume: bool, stack: contextlib.ExitStack) -> Tell:
    where = f"--tensorboard {folder}"
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception as error:  # a protobuf that does not fit raises what it likes
        found = str(error) or type(error).__name__
        remedy = f"{to_install('tensorboard')}, or pass --csv, which needs no package"
        raise UnmetError(where, "the package tensorboard", found, remedy) from error
    with _writing(where):
        folder.mkdir(parents=True, exist_ok=True)
        if not resume and any("tfevents" in path.name for path in folder.iterdir()):
            both = f"`tensorboard --logdir {folder}` shows both"
            remedy = f"name another, such as {folder / 'second'}: {both}"
            raise UnmetError(where, "a folder without curves", "those of an earlier run", remedy)
    writer: SummaryWriter | None = None  # made with the first epoch: a stopped pass leaves no file

    def tell(record: EpochRecord) -> None:
        nonlocal writer
        with _writing(where):
            if writer is None:
                writer = SummaryWriter(str(folder), purge_step=1 if resume else None)
                stack.callback(_close, where, writer.close)
            for tag, name in TAGS.items():
                writer.add_scalar(tag, getattr(record, name), record.epoch)
            writer.flush()

    return tell


def _close(where: str, close: Callable[[], None]) -> None:
    with _writing(where):
        close()


def _line(cells: Iterator[str] | tuple[str, ...]) -> bytes:
    return f"{','.join(cells)}\n".encode()


def _write_all(file: BinaryIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _writing(where: str) -> contextlib.AbstractContextManager[None]:
    remedy = "name another, or see to its permissions and the room on its disk"
    return faults_as(UnmetError, where, "a place that can be written", remedy)


def _not_new(where: str, found: str) -> UnmetError:
    expected = "a new file, or with --resume the first epochs of this very run"
    return UnmetError(where, expected, found, "name another file: nothing in this one was touched")
