"""Run folders as a report reads them, and what it refuses in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written_runs import answers, written_run

from tlcache.core.errors import ModelError
from tlcache.reports.records import read_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written_run(tmp_path / "run", {"train": answers(8, 2, 0), "val": answers(10, 2, 3)})


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_read_as_it_was_written(folder: Path) -> None:
    record = read_record(folder)
    assert (record.name, record.split, record.best_epoch) == ("run", "val", 3)
    assert (record.selected_on, record.fitted_on) == ("val", ("train",))
    assert (
        record.evaluations["val"].confusion[0][0] + record.evaluations["val"].confusion[1][1] == 7
    )
    assert [epoch.epoch for epoch in record.history] == [1, 2, 3]
    assert read_record(folder / "model.safetensors").folder == folder
    assert record.about["identity"] == "cd" * 32


def test_test_has_the_last_word_unless_it_was_trained_on(tmp_path: Path) -> None:
    scored = {split: answers(8, 2, 1) for split in ("train", "val", "test")}
    assert read_record(written_run(tmp_path / "a", scored)).split == "test"
    fitted = written_run(tmp_path / "b", scored, fitted_on=("train", "test"))
    assert read_record(fitted).split == "val"
    alone = written_run(tmp_path / "c", {"train": answers(8, 2, 1)}, pictured="train", epochs=0)
    assert read_record(alone).split == "train"


def test_what_is_no_run_is_refused(tmp_path: Path, folder: Path) -> None:
    assert "no such folder; name one that `tlcache train`" in refused(tmp_path / "nowhere")
    assert "expected the folder of a run, with run.json, found no run.json" in refused(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(folder)


def test_a_damaged_run_json_is_refused(folder: Path) -> None:
    edit(folder / "run.json", lambda run: run.pop("data"))
    assert "run.json: expected the JSON of a run, found no data in it" in refused(folder)
    for text in ("[1", "[" * 100_000):
        (folder / "run.json").write_text(text, encoding="utf-8")
        assert "run.json: expected the JSON of a run" in refused(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("evaluation"), "KeyError: 'evaluation'"),
        (lambda m: m.update(evaluation={}), "no evaluation"),
        (lambda m: m.update(evaluation=[1]), "AttributeError"),
        (lambda m: m.update(best_epoch=9), "the best epoch 9, which is none of the history"),
        (lambda m: m["evaluation"]["val"].update(accuracy="<b>"), "'<b>' for a number in val"),
        (lambda m: m["evaluation"]["val"].update(accuracy=1.5), "1.5 for a share in val"),
        (lambda m: m["evaluation"]["val"].update(loss=10**400), "for a number in val"),
        (lambda m: m["evaluation"]["val"]["confusion"][0].__setitem__(0, 0.5), "no images"),
        (lambda m: m["evaluation"]["val"].update(loss=None), "None for a number in val"),
        (lambda m: m["evaluation"]["val"].update(n=11), "11 images in val and another number"),
        (lambda m: m["evaluation"]["val"].update(classes=["a", "b"]), "not the model's"),
        (lambda m: m["evaluation"]["val"].update(confusion=[[1]]), "not 2 by 2"),
        (lambda m: m["evaluation"]["val"].update(accuracy_ci95=[1]), "not 2 by 2"),
        (lambda m: m["evaluation"]["val"]["per_class"]["ants"].pop("f1"), "KeyError: 'f1'"),
        (lambda m: m["evaluation"]["val"].update(other=1), "TypeError"),
        (lambda m: m["history"][0].update(val_loss="x"), "'x' for a number in history"),
        (lambda m: m["history"].append(3), "TypeError"),
    ],
)
def test_damaged_metrics_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(folder / "metrics.json", change)
    said = refused(folder)
    assert "metrics.json: expected the JSON of a run, found " in said and "train again" in said
    assert words in said


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\udcff"])
def test_metrics_that_are_no_json_are_refused(folder: Path, text: str) -> None:
    (folder / "metrics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "metrics.json: expected the JSON of a run" in refused(folder)
    (folder / "metrics.json").unlink()
    assert "metrics.json: expected the JSON of a run, found no such file" in refused(folder)


def test_a_number_that_is_not_finite_is_refused(folder: Path) -> None:
    path = folder / "metrics.json"
    edit(path, lambda metrics: metrics["evaluation"]["val"].update(ece=float("nan")))
    assert "nan for a number in val" in refused(folder)
