"""What a user of `tlcache sweep` meets; most of it on a cache that needs no network."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from called import SMALL, Call, alone, failed, tlcache
from PIL import Image
from small_cache import snapshot
from typer.testing import Result

from tlcache.cache.snapshots import save_snapshot
from tlcache.heads.model import load_model

QUICK = ("--epochs", "2", "--c", "0.1,1", "--weight-decay", "0")


@pytest.fixture
def sweep(pets: Path) -> Call:
    """Sweep over the pets, six in train and four in val; or two of those in test, or none split."""
    tested = snapshot("tested")
    splits = tested.dataset.splits.copy()
    splits[-2:] = 2
    for name, divided in (("tested", splits), ("unsplit", splits * 0)):
        dataset = dataclasses.replace(tested.dataset, splits=divided)
        save_snapshot(pets.with_stem(name), dataclasses.replace(tested, dataset=dataset))

    def run(*arguments: object, of: str = "pets", no_figures: bool = True) -> Result:
        plain = ["--no-figures"] if no_figures else []
        return tlcache("sweep", pets.with_stem(of), *QUICK, *plain, *arguments)

    return run


def test_the_ten_best_are_shown_and_what_chose_is_not_called_the_result(sweep: Call) -> None:
    result = sweep("--batch-size", "2,4", "--run-dir", "run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("16 settings, 16 heads in "))
    assert lines[at].endswith("the best by val, which chose among them:")
    rows = lines[at + 2 : at + 12]
    pattern = r" +\d+  (sgd|lbfgs) +(raw|standardised) .* \d\.\d{3} \(\d\.\d{3}-\d\.\d{3}\) +\d"
    assert all(re.match(pattern, row) for row in rows), rows
    assert re.match(r"kept: setting \d+, of train$", lines[at + 12])
    assert lines[at + 13].strip().startswith("train (trained on): accuracy ")
    assert lines[at + 14].startswith("val (chose among 16): accuracy ")
    (note,) = [line for line in result.stderr.splitlines() if "no test split" in line]
    for word in ("flatters", "--folds 5", "`tlcache crossval`", "--split 0.7,0.15,0.15"):
        assert word in note


def test_json_holds_every_setting_and_the_run_keeps_them(sweep: Call) -> None:
    result = sweep("--seeds", 2, "--run-dir", "run", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["selected_on"], found["fitted_on"]) == ("val", ["train"])
    assert set(found["evaluation"]) == {"train", "val"}
    settings = found["settings"]
    assert [setting["index"] for setting in settings] == list(range(10))
    assert sorted(found["ranked"]) == list(range(10)) and found["ranked"][0] == found["best"]
    ranks = [(-settings[i]["accuracy"], settings[i]["loss"], i) for i in found["ranked"]]
    assert ranks == sorted(ranks)
    for setting in settings:
        low, high = setting["accuracy_ci95"]
        assert 0 <= low <= setting["accuracy"] <= high <= 1 and setting["n"] == 4
        assert setting["seeds"] == ([0, 1] if setting["solver"] == "sgd" else [])
        assert len(setting["accuracies"]) == max(1, len(setting["seeds"]))
    kept = json.loads(Path("run/metrics.json").read_text())
    assert kept["settings"] == settings and kept["selected_on"] == "val"
    about = json.loads(Path("run/run.json").read_text())
    assert (about["command"], about["options"]["c"]) == ("sweep", "0.1,1")
    assert found["embedded"] == 0 and "sweep" in found["seconds"]


def test_test_scores_once_what_was_fitted_to_train_and_val(sweep: Call) -> None:
    result = sweep("--run-dir", "run", of="tested")
    assert "kept: setting" in result.stdout and "fitted again to train and val" in result.stdout
    assert re.search(
        r"^ test \(the result\): accuracy .*, loss \d\.\d+$", result.stdout, re.MULTILINE
    )
    assert "val (" not in result.stdout and "no test split" not in result.stderr
    about = json.loads(Path("run/run.json").read_text())
    assert (about["selected_on"], about["fitted_on"]) == ("val", ["train", "val"])


def test_evaluate_says_when_a_split_was_trained_on(call: Call, sweep: Call, pets: Path) -> None:
    sweep("--run-dir", "run", of="tested")
    for split, warned in (("val", True), ("test", False), ("train", False)):
        result = call("evaluate", "run", pets.with_stem("tested"), "--on", split, "--json")
        assert result.exit_code == 0, result.output
        assert ("was trained on these images too" in result.stderr) == warned


def test_folds_choose_and_leave_val_to_score(sweep: Call) -> None:
    result = sweep("--folds", 3, "--run-dir", "run", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["selected_on"] == "3-fold cross-validation on train"
    assert found["fitted_on"] == ["train"] and set(found["evaluation"]) == {"train", "val"}
    assert {setting["n"] for setting in found["settings"]} == {6}
    assert "no test split" not in result.stderr


def test_without_any_other_split_nothing_is_left_to_score(sweep: Call) -> None:
    result = sweep("--run-dir", "run", of="unsplit", no_figures=False)
    assert result.exit_code == 0, result.output
    assert "the best by 5-fold cross-validation on train" in result.stdout
    assert "nothing is left to score the head" in result.stderr
    assert not any(line.startswith(("  val:", " test:")) for line in result.stdout.splitlines())


def test_pictures_lie_in_the_run_and_where_the_figure_was_asked_for(sweep: Call) -> None:
    result = sweep("--run-dir", "run", "--figure", "map.png", "--solver", "sgd", no_figures=False)
    assert result.exit_code == 0, result.output
    for name in ("map", "run/heatmap", "run/curves", "run/confusion"):
        with Image.open(f"{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 200
    sweep("--run-dir", "bare", "--figure", "again.png")
    assert Path("again.png").is_file() and not list(Path("bare").glob("*.png"))


def test_a_draw_is_as_long_as_asked_for(sweep: Call) -> None:
    result = sweep("--draw", 7, "--lr", "1e-4,1", "--run-dir", "run", "--json")
    found = json.loads(result.stdout)
    assert len(found["settings"]) == 7
    rates = {setting["lr"] for setting in found["settings"] if "lr" in setting}
    assert all(1e-4 <= rate <= 1 for rate in rates) and len(rates) > 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lr", ""), ("--lr", "found nothing")),
        (("--lr", "fast"), ("--lr", "numbers with commas", "found fast")),
        (("--lr", "0.1,,1"), ("--lr", "numbers with commas")),
        (("--lr", "nan"), ("--lr", "a number over 0, found nan")),
        (("--lr", "0.1,-1"), ("--lr", "a number over 0, found -1")),
        (("--weight-decay", "-1"), ("--weight-decay", "0 or more")),
        (("--batch-size", "4.5"), ("--batch-size", "whole numbers", "found 4.5", "4,16")),
        (("--batch-size", ""), ("--batch-size", "found nothing")),
        (("--solver", "lbfg"), ("--solver", "sgd or lbfgs", "did you mean lbfgs?")),
        (("--schedule", "linear"), ("--schedule", "step or constant or cosine")),
        (("--features", "raw,whitened"), ("--features", "raw or standardised or l2")),
        (("--c", "0"), ("--c", "numbers over 0", "found 0")),
        (("--draw", "0"), ("--draw", "1 or more")),
        (("--seeds", "0"), ("--seeds", "1 or more")),
        (("--seeds", "9999"), ("the grid", "at most 10,000 heads", "59,998", "--draw 200")),
        (("--folds", "1"), ("--folds", "at least 2")),
        (("--folds", "-2"), ("--folds", "at least 2")),
        (("--folds", "4"), ("--folds 4", "4 images of each class", "3 of cats")),
        (("--epochs", "0"), ("--epochs", "over 0")),
    ],
)
def test_a_bad_option_is_one_clear_line_and_leaves_no_run(
    sweep: Call, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    failed(sweep(*options, "--run-dir", "run"), *words)
    assert not Path("run").exists()


def test_a_sweep_in_which_no_head_trains_says_so(sweep: Call) -> None:
    result = sweep("--lr", "1e38", "--solver", "sgd", "--run-dir", "run")
    failed(result, "the sweep", "none among 2 settings", "--lr")


def test_images_to_a_model_that_predicts_as_it_was_judged(call: Call, tiny_data: Path) -> None:
    swept = call(
        *("sweep", tiny_data, *SMALL, *QUICK, "--features", "l2", "--lr", "1,10"),
        *("--run-dir", "run", "--json"),
    )
    assert swept.exit_code == 0, swept.output
    found = json.loads(swept.stdout)
    model = load_model(Path("run"))
    assert model.head.normalise and model.describe()["format"] == 3
    result = call("evaluate", "run", tiny_data, "--json")
    assert result.exit_code == 0, result.output
    evaluated = json.loads(result.stdout)
    assert evaluated == found["evaluation"]["val"] | {"on": "val", "selected_on": "val"}
    images = sorted((tiny_data / "val" / "ants").iterdir())
    predicted = call("predict", "run", *images, "--json").stdout.splitlines()
    hits = sum(json.loads(line)["class"] == "ants" for line in predicted)
    assert hits == evaluated["confusion"][0][0]


def test_sweeping_a_filled_cache_by_sgd_loads_nothing_heavy(pets: Path) -> None:
    _, loaded = alone("sweep", pets, *QUICK, "--quiet", "--solver", "sgd", "--no-figures")
    assert not loaded & {"torch", "sklearn", "matplotlib", "scipy", "pandas"}
