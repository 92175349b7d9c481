"""Curves of runs in CSV and event files: what is in them, when, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tlcache.reports.watching
from tlcache.cli import app
from tlcache.core.errors import OptionError, to_install
from tlcache.heads.recipe import EpochRecord
from tlcache.reports.watching import COLUMNS, TAGS, watched

pytest.importorskip("tensorboard")

Call = Callable[..., Result]
SMALL = ("--trunk", "mobilenet_v3_small", "--weights", "random:3", "--resize", "36", "--crop", "32")
HEADER = f"{','.join(COLUMNS)}\n"


def records(count: int, seconds: float = 0.1) -> list[EpochRecord]:
    """Epochs whose numbers differ."""
    return [
        EpochRecord(i, 1e-3 / i, 1 / (3 * i), 0.1 * i, 2 / i, 0.2 * i, seconds * i)
        for i in range(1, count + 1)
    ]


def rows(path: Path) -> list[EpochRecord]:
    """The epochs that a CSV file holds, by an ordinary reader."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_record(row) for row in csv.DictReader(file)]


def _record(row: dict[str, str]) -> EpochRecord:
    values: dict[str, Any] = {name: float(text) for name, text in row.items()}
    return EpochRecord(**values | {"epoch": int(row["epoch"])})


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Epochs and values of each curve, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def check_curves(folder: Path, expected: list[EpochRecord]) -> None:
    """The event files hold these epochs, each once and in order."""
    found = curves(folder)
    assert found.keys() == TAGS.keys()
    for tag, name in TAGS.items():
        values: list[Any] = [(r.epoch, pytest.approx(getattr(r, name))) for r in expected]
        assert found[tag] == values


def watch(history: list[EpochRecord], *, resume: bool = False) -> None:
    """Tell the epochs to ``curves.csv``."""
    with watched(Path("curves.csv"), resume=resume) as tell:
        for record in history:
            tell(record)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call() -> Call:
    """Run tlcache."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


def failed(result: Result, *words: str) -> None:
    """One clear line on stderr that holds the words."""
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line


def test_every_epoch_is_on_the_disk_before_the_next() -> None:
    told = records(3)
    with watched(Path("new/curves.csv"), Path("new/events")) as tell:
        assert Path("new/curves.csv").read_text() == HEADER
        for i, record in enumerate(told, 1):
            tell(record)
            assert rows(Path("new/curves.csv")) == told[:i]
            check_curves(Path("new/events"), told[:i])
    assert rows(Path("new/curves.csv")) == told
    assert Path("new/curves.csv").read_bytes().count(b"\n") == 4


def test_a_loss_that_is_not_finite_is_in_the_curves_too() -> None:
    diverged = dataclasses.replace(records(1)[0], train_loss=float("inf"), val_loss=float("nan"))
    watch([diverged])
    assert Path("curves.csv").read_text().splitlines()[1] == "1,0.001,inf,0.1,nan,0.2,0.1"


def test_nothing_is_watched_where_nobody_asks(tmp_path: Path) -> None:
    with watched() as tell:
        tell(records(1)[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", range(len(HEADER) + 3, len(HEADER) + 90, 9))
def test_a_run_that_goes_on_adds_what_a_kill_left_out(kept: int) -> None:
    told, path = records(4), Path("curves.csv")
    watch(told[:2])
    whole = path.read_bytes()
    assert len(whole) > kept
    path.write_bytes(whole[:kept])
    watch(told, resume=True)
    assert rows(path) == told
    assert path.read_bytes().startswith(whole)


def test_a_run_that_goes_on_makes_a_csv_file_that_was_not_there() -> None:
    watch(records(3), resume=True)
    assert rows(Path("curves.csv")) == records(3)


def test_events_of_a_run_that_goes_on_are_those_of_one_run() -> None:
    told, folder = records(4), Path("events")
    with watched(tensorboard=folder) as tell:
        for record in told[:3]:
            tell(record)
    with watched(tensorboard=folder, resume=True) as tell:
        for record in [*told[:2], *records(4, seconds=7)[2:]]:  # the third epoch was lost
            tell(record)
    check_curves(folder, [*told[:2], *records(4, seconds=7)[2:]])


def test_a_csv_file_with_epochs_is_refused_and_kept() -> None:
    watch(records(2))
    before = Path("curves.csv").read_bytes()
    with pytest.raises(OptionError, match=r"--csv curves.csv: expected a new file.*epochs \(2\)"):
        watch(records(2))
    with pytest.raises(OptionError, match="the epochs of another run; name another file"):
        watch(records(3, seconds=0.5), resume=True)
    assert Path("curves.csv").read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("text", ["my,own,table\n1,2,3\n", HEADER.upper(), "\x00\xff\n"])
def test_a_file_of_something_else_is_refused_and_kept(text: str, resume: bool) -> None:
    Path("curves.csv").write_text(text, encoding="latin-1")
    with pytest.raises(OptionError, match="a file that begins otherwise"):
        watch(records(1), resume=resume)
    assert Path("curves.csv").read_text(encoding="latin-1") == text


@pytest.mark.parametrize("text", ["", "epoch,lear", HEADER])
def test_a_file_without_an_epoch_is_as_good_as_a_new_one(text: str) -> None:
    Path("curves.csv").write_text(text)
    watch(records(2))
    assert rows(Path("curves.csv")) == records(2)


def test_a_pipe_is_written_to_as_it_is() -> None:
    os.mkfifo("curves.csv")
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(Path("curves.csv").read_text()))
    reader.start()
    watch(records(2))
    reader.join()
    assert seen[0].startswith(HEADER) and seen[0].count("\n") == 3


def test_a_folder_with_curves_is_refused_and_kept() -> None:
    with watched(tensorboard=Path("events")) as tell:
        tell(records(1)[0])
    with (
        pytest.raises(OptionError, match=r"a folder without curves.*such as events/second.*both"),
        watched(tensorboard=Path("events")),
    ):
        pass
    check_curves(Path("events"), records(1))


def test_a_folder_that_was_asked_for_and_not_used_can_be_used() -> None:
    for _ in range(2):
        with watched(tensorboard=Path("events")):
            pass
    with watched(tensorboard=Path("events")) as tell:
        tell(records(1)[0])
    check_curves(Path("events"), records(1))


def test_a_disk_that_fills_up_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tlcache.reports.watching, "_write_all", full)
    with pytest.raises(OptionError, match=r"--csv curves.csv.*No space left on device"):
        watch(records(1))


def test_train_keeps_the_curves_that_its_metrics_hold(call: Call, tiny_data: Path) -> None:
    command = ("train", tiny_data, *SMALL, "--epochs", "3", "--no-figures", "--run-dir")
    trained = call(*command, "run", "--csv", "run/curves.csv", "--tensorboard", "tb")
    assert trained.exit_code == 0, trained.output
    history = json.loads(Path("run/metrics.json").read_text())["history"]
    assert [dataclasses.asdict(r) for r in rows(Path("run/curves.csv"))] == history
    check_curves(Path("tb"), rows(Path("run/curves.csv")))
    for option, place in (("--csv", "run/curves.csv"), ("--tensorboard", "tb")):
        failed(call(*command, "again", option, place), f"error: {option} {place}", "earlier run")
        failed(call(*command, "again", option, "run/run.json/x"), "place that can be written")
        assert not Path("again").exists()


def test_train_loads_torch_for_events_alone(call: Call, tiny_data: Path, tmp_path: Path) -> None:
    command = ["train", str(tiny_data), *SMALL, "--epochs", "1", "--no-figures", "--json"]
    assert call(*command).exit_code == 0
    code = (
        "import sys, tlcache.cli\n"
        "try: tlcache.cli.app(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    for option, expected in (("--csv", "False"), ("--tensorboard", "True")):
        words = [sys.executable, "-W", "error", "-c", code, *command, option, f"curves{option}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == expected
        assert json.loads(done.stdout)["embedded"] == 0


def test_a_missing_package_is_an_error_before_any_work(
    call: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for command in ("train", "finetune"):
        result = call(command, tiny_data, *SMALL, "--tensorboard", "tb")
        failed(result, "--tensorboard tb: expected the package", to_install("tensorboard"))
    assert not any(Path(name).exists() for name in ("tb", "cache", "runs"))


def test_a_finetuning_run_that_was_stopped_goes_on_with_its_curves(
    call: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("finetune", tiny_data, *SMALL, "--epochs", "2", "--batch-size", "8", "--freeze")
    options = (
        "--workers",
        "1",
        "--no-figures",
        "--run-dir",
        "run",
        "--csv",
        "c.csv",
        "--tensorboard",
        "tb",
    )
    real: Any = tlcache.reports.watching._write_all

    def stops(file: object, data: bytes) -> None:
        if data.startswith(b"1,"):  # its checkpoint is there, and half of its row
            real(file, data[:9])
            raise KeyboardInterrupt
        real(file, data)

    monkeypatch.setattr(tlcache.reports.watching, "_write_all", stops)
    assert call(*command, *options).exit_code == 130
    assert Path("c.csv").read_text().splitlines()[1].startswith("1,")
    monkeypatch.setattr(tlcache.reports.watching, "_write_all", real)
    resumed = call(*command, *options, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "epoch 1/2" not in resumed.stdout and "epoch 2/2" in resumed.stdout
    history = json.loads(Path("run/metrics.json").read_text())["history"]
    assert [dataclasses.asdict(r) for r in rows(Path("c.csv"))] == history
    check_curves(Path("tb"), rows(Path("c.csv")))
