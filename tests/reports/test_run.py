from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isolated import Running
from safetensors.numpy import load_file, save_file
from small_trunk import small_model

import tlcache.reports.run
from tlcache.core.errors import CacheError, ModelError, UnmetError
from tlcache.data.folders import DataSource
from tlcache.networks.scoring import Scored
from tlcache.reports.records import list_runs
from tlcache.reports.run import Origin, load_predictions, open_run, save_predictions

VAL = Scored(
    np.array([[0.5, -2, 1e30], [3, 2, 1]], np.float32),
    np.array([2, 0], np.int32),
    ["val/꿀벌/a b.jpg", "val/<b>/\udcff\n'\".png"],
)
TEST = Scored(np.zeros((1, 3), np.float32), np.array([1], np.int32), ["test/x/1.jpg"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.safetensors"
    save_predictions(path, {"test": TEST, "val": VAL})
    return path


def test_what_was_said_comes_back_as_it_was(file: Path) -> None:
    found = load_predictions(file, 3)
    assert list(found) == ["val", "test"]
    for split, of in (("val", VAL), ("test", TEST)):
        assert np.array_equal(found[split].logits, of.logits)
        assert found[split].logits.dtype == np.float32
        assert np.array_equal(found[split].labels, of.labels)
        assert found[split].paths == of.paths


def test_predictions_of_another_model_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match=r"2 classes that tlcache wrote, found logits \(2, 3\)"):
        load_predictions(file, 2)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("val.logits", np.full((2, 3), np.nan, np.float32), "logits in val that are not finite"),
        ("val.logits", np.zeros((2, 3)), "val.logits of float64"),
        ("val.labels", np.array([0, 3], np.int32), "a label without a class in val"),
        ("val.labels", np.array([0, -1], np.int32), "a label without a class in val"),
        ("val.labels", np.array([0], np.int32), "1 labels and 2 paths"),
        ("val.paths", np.frombuffer(b"a\0b", np.uint8), "2 labels and 1 paths"),
        ("val.paths", np.frombuffer(b"a\0../b\0", np.uint8), "leads out of the data set: ../b"),
        ("val.paths", np.frombuffer(b"/etc/x\0b\0", np.uint8), "leads out of the data set: /etc"),
        ("secret.paths", np.zeros(1, np.uint8), "arrays named secret.paths"),
    ],
)
def test_damaged_predictions_are_refused_in_one_line(
    file: Path, name: str, values: np.ndarray, words: str
) -> None:
    save_file(load_file(file) | {name: values}, file)
    with pytest.raises(ModelError) as caught:
        load_predictions(file, 3)
    assert words in str(caught.value)
    assert "remove the file, and the images are scored again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_and_no_file_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ModelError, match="expected predictions of 3 classes"):
        load_predictions(file, 3)
    file.unlink()
    with pytest.raises(CacheError, match="No such file"):
        load_predictions(file, 3)


@pytest.mark.parametrize(
    "changes", [{"options": []}, {"options": {"run_dir": 5, "data": 5}}, {"source": {"path": 5}}]
)
def test_a_run_json_that_somebody_forged_is_an_error_or_as_good_as_none(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    about = {"data": "photos", "weights": 5, "options": {}} | changes
    origin = Origin(tmp_path, about)
    with contextlib.suppress(ModelError):
        assert origin.source == DataSource(Path("photos"))
    assert origin.weights(small_model(weights="own.pth"), None) is None
    assert not origin.skips_unreadable


def hold(folder: Path) -> None:
    """A process at a run, for as long as it lives."""
    with open_run(folder, "train", "pets"):
        (folder / "checkpoint.safetensors").touch()
        (folder / "started").touch()
        threading.Event().wait()


def test_a_run_is_one_process_s_own_until_that_dies(tmp_path: Path) -> None:
    run = tmp_path / "run"
    running = Running(hold, run)
    while not (run / "started").exists():
        assert running.process.is_alive()
    pid = running.process.pid
    found = list_runs(tmp_path)
    assert (list(found.running), found.stopped) == ([run], [])
    assert found.running[run].startswith(f"process {pid} on ")
    for resume in (True, False):
        expected = (
            f"run: expected a run that no other process is at, found process {pid} on .* since"
        )
        with pytest.raises(UnmetError, match=expected), open_run(run, "train", "x", resume=resume):
            pass
    running.process.kill()
    running.process.join()
    found = list_runs(tmp_path)
    assert (list(found.running), found.stopped) == ([], [run])
    with open_run(run, "train", "pets", resume=True):
        assert list_runs(tmp_path).running
    assert not (run / "lock").exists()


def test_a_run_that_comes_to_nothing_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (None, Path("new")):
        with pytest.raises(KeyboardInterrupt), open_run(folder, "train", "pets") as made:
            assert made.is_dir()
            raise KeyboardInterrupt
        assert not made.exists()
    Path("old").mkdir()
    with pytest.raises(KeyboardInterrupt), open_run(Path("old"), "train", "pets"):
        raise KeyboardInterrupt
    assert list(Path("old").iterdir()) == []
    with open_run(None, "train", "pets") as one, open_run(None, "train", "pets") as two:
        assert one != two


def test_a_disk_without_locks_is_named_and_one_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        def take(path: Path) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(tlcache.reports.run, "take_lock", take)

    said: list[str] = []
    fail(errno.ENOLCK)
    with open_run(tmp_path / "run", "train", "pets", note=said.append):
        pass
    assert len(said) == 1 and "no locks on this disk" in said[0]
    fail(errno.EROFS)
    with (
        pytest.raises(UnmetError, match="expected a folder that can be written, found Read-only"),
        open_run(tmp_path / "run", "train", "pets"),
    ):
        pass
    assert not (tmp_path / "run").exists()
