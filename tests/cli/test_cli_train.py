"""``tlcache finetune --from``: what a user sees of it, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from called import Call, failed

from tlcache.heads.model import load_model

FIRST = ("--trunk", "mobilenet_v3_small", "--weights", "random:3", "--resize", "36", "--crop", "32")
SHORT = ("--epochs", "2", "--batch-size", "8", "--workers", "1", "--no-figures")


@pytest.fixture
def call(call: Call, tiny_data: Path) -> Call:
    """Run tlcache in a folder with a run ``head`` of the tiny data's cached features."""
    trained = call("train", tiny_data, *FIRST, "--no-figures", "--run-dir", "head")
    assert trained.exit_code == 0, trained.output
    return call


def test_the_cached_head_is_the_start_and_what_finetuning_gained_is_said(
    call: Call, tiny_data: Path
) -> None:
    tune = ("finetune", tiny_data, "--from", "head", *SHORT, "--run-dir")
    said = call(*tune, "words")
    assert said.exit_code == 0, said.output
    judged = json.loads(Path("head/metrics.json").read_text())["evaluation"]["val"]
    lines = said.stdout.splitlines()
    assert lines[1].startswith("epoch 0/2  as it came ")
    assert f" acc {judged['accuracy']:.4f} (95% " in lines[1] and lines[1].endswith(", n=8)")
    assert lines[2].startswith("epoch 1/2  train loss ")
    assert lines[-1].startswith(f"val accuracy before finetuning {judged['accuracy']:.3f} (95% ")

    told = call(*tune, "json", "--json")
    result = json.loads(told.stdout)
    assert result["start"] == {
        "model": "head",
        "val_loss": pytest.approx(judged["loss"], rel=1e-4),
        "val_accuracy": judged["accuracy"],
        "val_accuracy_ci95": judged["accuracy_ci95"],
    }
    assert (result["trunk"], result["weights"]) == ("mobilenet_v3_small", "random:3")
    assert (result["selected_on"], result["best_epoch"] in (1, 2)) == ("val", True)
    about = json.loads(Path("json/run.json").read_text())
    assert about["options"]["from"] == "head"
    assert about["options"]["trunk"] == "mobilenet_v3_small"
    assert load_model(Path("json")).transform == load_model(Path("head")).transform

    assert call("evaluate", "json", tiny_data).exit_code == 0
    further = call(
        "finetune", tiny_data, "--from", "json", *SHORT, "--json", "--run-dir", "further"
    )
    assert further.exit_code == 0, further.output
    best = result["evaluation"]["val"]["accuracy"]
    assert json.loads(further.stdout)["start"]["val_accuracy"] == best


def test_a_stopped_run_goes_on_to_the_same_model(
    call: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tlcache.networks.finetune

    tune = ("finetune", tiny_data, "--from", "head", *SHORT)
    whole = call(*tune, "--run-dir", "whole")
    assert whole.exit_code == 0, whole.output
    save = tlcache.networks.finetune.save_checkpoint  # type: ignore[attr-defined]

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tlcache.networks.finetune, "save_checkpoint", save_and_stop)
        stopped = call(*tune, "--run-dir", "part")
        assert stopped.exit_code == 130
        # With no folder named, the words name it.
        own = call(*tune, "--epochs", "1").stderr.splitlines()[-1]
    go_on = "stopped; finished epochs are kept; go on with: "
    words = shlex.join(map(str, ["tlcache", *tune, "--run-dir", "part", "--resume"]))
    assert stopped.stderr.splitlines()[-1] == go_on + words
    assert not Path("part/lock").exists()
    again = shlex.split(own.removeprefix(go_on))
    assert call(*again[1:]).exit_code == 0
    assert (Path(again[-2]) / "run.json").is_file() and again[-1] == "--resume"
    without = ("finetune", tiny_data, *FIRST, *SHORT, "--run-dir", "part", "--resume")
    failed(call(*without), "expected a checkpoint of this very run, found one with first head")
    resumed = call(*shlex.split(words)[1:])
    assert resumed.exit_code == 0, resumed.output
    assert "epoch 0/2  as it came" in resumed.stdout and "epoch 1/2" not in resumed.stdout
    ours, theirs = load_model(Path("whole")), load_model(Path("part"))
    assert ours.describe() == theirs.describe()
    np.testing.assert_array_equal(ours.head.weight, theirs.head.weight)


def test_what_does_not_fit_the_model_is_refused(call: Call, tiny_data: Path) -> None:
    start = ("finetune", tiny_data, *SHORT, "--run-dir", "no", "--from")
    for options, words in (
        (["nowhere"], "nowhere: expected a model that tlcache wrote"),
        (["head", "--trunk", "resnet18"], "--trunk: expected mobilenet_v3_small, which the model"),
        (["head", "--trunk", ""], "--trunk: expected mobilenet_v3_small, which the model"),
        (["head", "--weights", "random:4"], "the model's trunk: expected mobilenet_v3_small with"),
        (["head", "--weights", "w.pth"], "w.pth: expected a weights file"),
        (["head", "--crop", "64"], "the transform: expected crop 32, found crop 64; leave such"),
    ):
        failed(call(*start, *options), words)
    for split in ("train", "val"):
        (tiny_data / split / "ants").rename(tiny_data / split / "wasps")
    failed(call(*start, "head"), "classes: expected ants, bees (2 in all), found bees, wasps")
    assert not Path("no").exists()


def test_a_head_of_a_snapshot_asks_where_the_weights_are(call: Call, tiny_data: Path) -> None:
    snapshot = next(Path("cache").glob("*/snapshots/*.h5"))
    assert call("train", snapshot, "--no-figures", "--run-dir", "portable").exit_code == 0
    start = ("finetune", tiny_data, "--from", "portable", *SHORT, "--epochs", "1")
    failed(call(*start), "--weights: expected the weights of mobilenet_v3_small that the model's")
    done = call(*start, "--weights", "random:3", "--run-dir", "tuned")
    assert done.exit_code == 0, done.output


def test_the_start_s_split_and_left_out_images_are_taken_over(call: Call, tiny_data: Path) -> None:
    flat = tiny_data.with_name("flat")
    (tiny_data / "train").rename(flat)
    (flat / "ants" / "broken.png").write_bytes(b"no image")
    split = ("--split", "0.5,0.5", "--seed", "1", "--skip-unreadable", "--no-figures")
    assert call("train", flat, *FIRST, *split, "--run-dir", "first").exit_code == 0
    done = call(
        "finetune", flat, "--from", "first", *SHORT, "--batch-size", "3", "--run-dir", "tuned"
    )
    assert done.exit_code == 0, done.output
    first, tuned = (json.loads(Path(run, "run.json").read_text()) for run in ("first", "tuned"))
    assert tuned["source"] == first["source"]
    assert "warning" not in done.stderr
    judged = call("compare", "first", "tuned", "--json")
    assert judged.exit_code == 0, judged.output


def test_val_images_that_the_start_has_learned_are_warned_of(call: Call, tiny_data: Path) -> None:
    flat = tiny_data.with_name("flat")
    (tiny_data / "train").rename(flat)
    split = ("--split", "0.5,0.5", "--no-figures")
    trained = call("train", flat, *FIRST, *split, "--seed", "1", "--run-dir", "flat-head")
    assert trained.exit_code == 0, trained.output
    tune = ("finetune", flat, "--from", "flat-head", *SHORT, "--epochs", "1", *split)
    words = "flat-head was trained on another split of these images (--split 0.5,0.5 --seed 1)"
    assert words in call(*tune, "--run-dir", "a").stderr
    assert "another split" not in call(*tune, "--seed", "1", "--run-dir", "b").stderr
    run = Path("flat-head/run.json")
    run.write_text(json.dumps(json.loads(run.read_text()) | {"fitted_on": ["train", "val"]}))
    warned = call(*tune, "--seed", "1", "--run-dir", "c")
    assert "warning: flat-head was trained on val too" in warned.stderr
