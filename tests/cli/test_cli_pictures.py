"""What a user of `tlcache map` meets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from called import Call
from PIL import Image

import tlcache
import tlcache.figures
import tlcache.reports.pictures
from tlcache.features.projection import project
from tlcache.figures.feature_map import feature_map_figure
from tlcache.heads.model import load_model
from tlcache.networks.scoring import bare


@pytest.fixture
def pets(call: Call, pets: Path) -> Path:
    """The snapshot of ten images, and a head: the folder run."""
    trained = call("train", pets, "--epochs", 2, "--no-figures", "--run-dir", "run")
    assert trained.exit_code == 0, trained.output
    return pets


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_map_is_of_the_features_with_the_model_s_errors(
    call: Call, pets: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []
    real = feature_map_figure

    def spy(*arguments: object, **how: object) -> object:
        given.append(arguments)
        return real(*arguments, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(tlcache.reports.pictures, "feature_map_figure", spy)
    result = call("map", "run", pets, "--method", method, "--figure", "m.png", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows, labels = tlcache.open_snapshot(pets).read().split("val")
    logits = load_model(Path("run")).head.logits(rows)
    places, shares = project(rows, method)
    ((at, truths, predictions, classes),) = given
    np.testing.assert_allclose(at, places)
    assert truths.tolist() == labels.tolist()
    assert predictions.tolist() == logits.argmax(axis=1).tolist()
    assert classes == ("cats", "dogs")
    judged = tlcache.evaluate(logits, labels, classes)
    assert (found["accuracy"], found["n"], found["shown"]) == (judged.accuracy, 4, 4)
    assert found["shares_of_variance"] == (None if shares is None else pytest.approx(shares))
    assert (found["on"], found["selected_on"], found["method"]) == ("val", "val", method)
    with Image.open("m.png") as picture:
        assert min(picture.size) > 300


def test_people_read_the_accuracy_and_what_val_chose(call: Call, pets: Path) -> None:
    result = call("map", "run", pets)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("val (chose the epoch): accuracy 0.")
    assert lines[1:] == ["picture: map.png"]
    assert "had the epoch chosen by these images" in result.stderr


def test_of_many_images_some_are_shown_and_all_are_judged(call: Call, pets: Path) -> None:
    result = call("map", "run", pets, "--on", "train", "--points", 4, "--json")
    assert "4 of 6 images are shown" in result.stderr
    found = json.loads(result.stdout)
    assert (found["shown"], found["n"]) == (4, 6)


def test_the_features_of_a_finetuned_network_are_its_own(call: Call, tiny_data: Path) -> None:
    tiny = ("--trunk", "squeezenet1_1", "--weights", "random", "--crop", "32", "--resize", "32")
    run = ("--epochs", "1", "--no-figures", "--run-dir", "run")
    assert call("finetune", tiny_data, *tiny, *run).exit_code == 0
    result = call("map", "run", tiny_data, "--json")
    assert result.exit_code == 0, result.output
    kept = json.loads(Path("run/metrics.json").read_text())["evaluation"]["val"]
    assert json.loads(result.stdout)["accuracy"] == kept["accuracy"]


def test_a_model_without_its_head_hands_features_on_as_they_are(call: Call, pets: Path) -> None:
    rows, _ = tlcache.open_snapshot(pets).read().split("val")
    np.testing.assert_array_equal(bare(load_model(Path("run"))).head.logits(rows), rows)


def test_what_cannot_be_drawn_is_said_before_anything_is_read(call: Call) -> None:
    result = call("map", "nowhere", "nowhere", "--method", "umap")
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        "error: --method: expected pca or tsne, found umap; name one of them"
    )
