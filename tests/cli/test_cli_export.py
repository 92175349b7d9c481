"""``tlcache export``: which images a file is run on, what is printed, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tlcache.export.export
import tlcache.export.trials
from tlcache.cli import app
from tlcache.export.export import Exported
from tlcache.heads.model import Model

RANDOM = ("--trunk", "mobilenet_v3_small", "--weights", "random")
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run tlcache in a folder that holds ``data`` and a run on it."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    trained = run("train", "data", *RANDOM, "--run-dir", "run", "--no-figures", "--epochs", 2)
    assert trained.exit_code == 0, trained.output
    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The images of each call, none of which exports anything."""
    seen: list[list[str]] = []

    def export(model: Model, output: Path, *_: object, images: list[Path], **how: object) -> object:
        seen.append([os.path.relpath(image) for image in images])
        return Exported(
            output, "onnx", 1, len(images), 0.0, tlcache.export.export._contract(model, False)
        )

    monkeypatch.setattr(tlcache.export.export, "export_model", export)
    return seen


def failed(result: Result, *words: str) -> None:
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_a_run_is_exported_and_nothing_else_is_printed(call: Call, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tlcache", "export", "run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert len(done.stderr.splitlines()) == 1  # of the random weights
    assert said["file"] == "run/exported.onnx"
    assert said["bytes"] == Path("run/exported.onnx").stat().st_size
    assert (said["images"], said["batch_sizes"], said["bound"]) == (8, [1, 8], 1e-4)
    assert said["largest_difference"] < 1e-5
    assert said["classes"] == ["ants", "bees"]
    assert said["input"]["shape"] == ["N", 3, 224, 224]

    result = call("export", "run", "--format", "torchscript", "--preprocess")
    assert result.exit_code == 0, result.output
    assert "run on 8 images, by ones and by eights" in result.stdout
    assert "input: images, uint8 (N, H, W, 3)" in result.stdout
    failed(call("export", "run", "--format", "torchscript"), "run/exported.pt", "--force")
    assert call("export", "run", "--format", "torchscript", "--force").exit_code == 0


def test_it_is_run_on_the_runs_val_images_or_on_others(
    call: Call, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    val = sorted(str(path) for path in Path("data/val").rglob("*.*"))
    everything = sorted(str(path) for path in Path("data").rglob("*.*"))
    monkeypatch.setattr(tlcache.export.trials, "IMAGES", 8)
    for arguments in ([], ["--data", "data"], ["--data", "data/val"]):
        assert call("export", "run", *arguments).exit_code == 0
    assert asked == [val, val, val]
    asked.clear()
    monkeypatch.setattr(tlcache.export.trials, "IMAGES", 3)
    assert call("export", "run").exit_code == 0
    assert asked == [[val[0], val[3], val[-1]]]
    monkeypatch.setattr(tlcache.export.trials, "IMAGES", 100)
    assert call("export", "run", "--data", "data/train").exit_code == 0
    assert asked[1] == [path for path in everything if "train" in path]


def test_a_runs_own_split_gives_its_own_val_images(call: Call, asked: list[list[str]]) -> None:
    options = ("--split", "0.5,0.5", "--seed", "3", "--run-dir", "split", "--no-figures")
    assert call("train", "data/train", *RANDOM, *options).exit_code == 0
    assert call("export", "split").exit_code == 0
    assert 0 < len(asked[0]) < 16
    from tlcache.data.folders import scan

    dataset = scan(Path("data/train"), (0.5, 0.5), 3)
    assert asked[0] == [f"data/train/{dataset.paths[i]}" for i in dataset.indices("val")]


def test_data_that_has_moved_is_named_anew(call: Call, asked: list[list[str]]) -> None:
    Path("data").rename("moved")
    failed(call("export", "run"), "--data: expected the images of the run, found no folder", "now")
    assert call("export", "run", "--data", "moved").exit_code == 0
    assert len(asked[0]) == 8
    shutil.copy("run/model.safetensors", "alone.safetensors")
    failed(call("export", "alone.safetensors"), "no run.json beside", "--data FOLDER")
    failed(call("export", "run", "--data", "nowhere"), "nowhere", "no such folder")


def test_the_model_itself_is_not_written_over(call: Call) -> None:
    before = Path("run/model.safetensors").read_bytes()
    result = call("export", "run", "--output", "run/model.safetensors", "--force")
    failed(result, "expected another file than the model itself")
    assert Path("run/model.safetensors").read_bytes() == before


def test_an_unknown_format_and_no_model_are_refused(call: Call) -> None:
    failed(call("export", "run", "--format", "keras"), "--format", "keras", "safetensors")
    failed(call("export", "nowhere"), "nowhere", "no such file")


def test_an_exported_safetensors_file_predicts_by_itself(call: Call) -> None:
    assert call("export", "run", "--format", "safetensors").exit_code == 0
    by_file = call("predict", "run/exported.safetensors", "data/val", "--json", "--weights", "gone")
    assert by_file.stdout == call("predict", "run", "data/val", "--json").stdout
    assert len(by_file.stdout.splitlines()) == 8
