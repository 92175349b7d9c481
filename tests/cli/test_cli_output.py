"""Where a command prints an accuracy, it says what the split was to the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from called import RANDOM, Call, tlcache
from typer.testing import Result

from tlcache.cli.bench import tell
from tlcache.cli.output import Output
from tlcache.evaluation.metrics import evaluate
from tlcache.heads.recipe import Recipe
from tlcache.networks.scoring import Scored
from tlcache.studies.bench import NAMES, Benchmark, Contender

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def done(*arguments: object) -> Result:
    """What a command did that succeeded."""
    result = tlcache(*arguments)
    assert result.exit_code == 0, result.output
    return result


def notes(result: Result) -> list[str]:
    """The lines on what chose."""
    return [line for line in result.stderr.splitlines() if "no test split" in line]


def test_train_names_the_split_that_chose_and_says_once_what_to_do(pets: Path) -> None:
    result = done("train", pets, "--epochs", 2, "--no-figures")
    lines = [line for line in result.stdout.splitlines() if ": accuracy " in line]
    assert [line.split(":")[0].strip() for line in lines] == [
        "train (trained on)",
        "val (chose the epoch)",
    ]
    assert all("(95% 0." in line for line in lines)
    (note,) = notes(result)
    assert "`tlcache crossval`" in note and "--split 0.7,0.15,0.15" in note


def test_with_a_test_split_it_comes_last_as_the_result(call: Call, tiny_data: Path) -> None:
    shutil.copytree(tiny_data / "val", tiny_data / "test")
    result = done("train", tiny_data, *RANDOM, "--epochs", 1, "--no-figures", "--run-dir", "run")
    lines = [line for line in result.stdout.splitlines() if ": accuracy " in line]
    assert [line.split(":")[0].strip() for line in lines][1:] == [
        "val (chose the epoch)",
        "test (the result)",
    ]
    assert notes(result) == []
    judged = done("evaluate", "run", tiny_data, "--on", "test")
    assert judged.stdout.startswith("test (the result): accuracy ")
    assert "chosen by these images" not in judged.stderr
    found = json.loads(done("bench", tiny_data, *RANDOM, "--epochs", 1, "--json").stdout)
    assert (found["judged_on"], found["selected_on"]) == ("test", "val")
    low, high = found["comparison"]["difference_ci95"]
    assert low <= found["comparison"]["difference"] <= high


def measured(judged_on: str) -> Benchmark:
    labels = np.array([0, 1], np.int32)
    logits = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    contenders = [
        Contender(
            name,
            {"embed": 1.0, "train": 1.0},
            Scored(logits, labels, ["a", "b"]),
            evaluate(logits, labels, ("ants", "bees")),
        )
        for name in NAMES
    ]
    return Benchmark(contenders, 0.1, Recipe(), "resnet18", "random", judged_on)


def test_bench_says_which_split_its_accuracies_are_of(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Output(), measured("val"))
    said = capsys.readouterr()
    assert "Accuracy on val (chose the epoch), 95% interval" in said.out.splitlines()[0]
    assert said.err.count("no test split") == 1
    tell(Output(), measured("test"))
    said = capsys.readouterr()
    assert "Accuracy on test (the result), 95% interval" in said.out.splitlines()[0]
    assert "no test split" not in said.err


def test_the_script_that_repeats_heads_gives_their_mean_an_interval(pets: Path) -> None:
    words = [pets, "--heads=3", "--epochs=2", "--json"]
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / "repeat_heads.py"), *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["selected_on"], found["judged_on"], found["n"]) == ("val", "val", 4)
    assert found["accuracy"] == pytest.approx(np.mean(found["accuracies"]))
    low, high = found["accuracy_ci95"]
    assert low < found["accuracy"] < high
    assert run.stderr.count("no test split") == 1
