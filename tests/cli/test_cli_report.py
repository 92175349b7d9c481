"""``tlcache report`` and ``bench --report``: what is written, from where, and what is refused."""

from __future__ import annotations

import html
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_trunk import small_trunk
from typer.testing import CliRunner, Result
from written_runs import answers, images, written_run

import tlcache.reports.material as tlcache_material
import tlcache.reports.page as tlcache_page
import tlcache.studies.bench as tlcache_benchmark
from tlcache.cli import app
from tlcache.core.errors import CacheError
from tlcache.evaluation.metrics import evaluate
from tlcache.heads.model import Model, initial_head
from tlcache.heads.recipe import Recipe
from tlcache.studies.bench import Benchmark, Contender

SMALL = ("--trunk", "mobilenet_v3_small", "--weights", "random", "--crop", "32", "--resize", "32")
NAMES = ("<b>ants", "نحل'\"")
Call = Callable[..., Result]


def tlcache(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a cache, and runs ``head`` and ``network``, the latter of a small one."""
    folder = tmp_path_factory.mktemp("trained")
    paths = [
        f"{split}/{name}/{i}.png"
        for split, count in (("train", 4), ("val", 6))
        for name in NAMES
        for i in range(count)
    ]
    images(folder / "data", paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = tlcache("train", "data", *SMALL, "--run-dir", "head", "--no-figures", "--epochs", 2)
    assert done.exit_code == 0, done.output
    trunk = small_trunk()
    state = {name: tensor.numpy() for name, tensor in trunk.module.state_dict().items()}
    how = trunk.name, trunk.weights, trunk.digest, trunk.transform
    model = Model(initial_head(2, trunk.dim, 0), NAMES, *how, network=state)
    scored = {"val": answers(12, 2, wrong=3, paths=paths[8:], blocks=True)}
    written_run(folder / "network", scored, NAMES, root=folder / "data", model=model)
    return folder


@pytest.fixture
def call(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run ``tlcache report`` in a copy of that folder; gives the JSON's text on stdout."""
    work = tmp_path / "work"
    shutil.copytree(trained, work)
    for run in ("head", "network"):
        about = work / run / "run.json"
        text = about.read_text(encoding="utf-8")
        about.write_text(text.replace(str(trained), str(work)), encoding="utf-8")
    monkeypatch.chdir(work)
    return lambda *arguments: tlcache("report", *arguments)


def page(path: str = "report.html") -> str:
    return Path(path).read_text(encoding="utf-8")


def failed(result: Result, *words: str) -> None:
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def never(*_: object, **__: object) -> None:
    raise AssertionError("everything is in the cache")


def test_a_run_becomes_a_page_with_all_its_parts(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_material, "load_network", never)
    result = call("head", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    (run,) = said["runs"]
    assert (run["split"], run["selected_on"], run["n"], run["notes"]) == ("val", "val", 12, [])
    assert said["bytes"] == Path("report.html").stat().st_size < 100_000
    text = page()
    for part in ("What was done", "Learning curves", "Calibration", "Map of the features"):
        assert f">{part}</h3>" in text
    assert text.count('class="point') == 12
    assert "<bdi>&lt;b&gt;ants</bdi>" in text and "<b>ants" not in text
    identity = json.loads(Path("head/run.json").read_text(encoding="utf-8"))["identity"]
    assert len(identity) == 64 and identity in text
    low, high = run["accuracy_ci95"]
    assert f"95%&nbsp;{low:.3f}–{high:.3f}; 12 images, selected on val" in text


def test_two_runs_are_compared_in_a_sentence(call: Call) -> None:
    result = call("head", "network", "--output", "both.html")
    assert result.exit_code == 0, result.output
    text = page("both.html")
    assert text.index("Side by side") < text.index(">What was done")
    assert "head gets " in text and " of 12 images right and network " in text
    assert text.count(">Map of the features</h3>") == 1  # there is no trunk named "small"
    assert "network: The map of the features is left out: " in result.stderr
    assert "report: both.html (" in result.stdout and "accuracy" in result.stdout


def test_the_network_of_a_finetuned_run_makes_its_own_map(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_material, "load_network", lambda *_: small_trunk().module)
    shutil.rmtree("cache")
    assert call("network").exit_code == 0
    assert page().count('class="point') == 12


def test_images_that_have_moved_cost_their_parts_and_a_note(call: Call) -> None:
    Path("data").rename("moved")
    result = call("head")
    assert result.exit_code == 0, result.output
    assert "The map of the features is left out: " in result.stderr
    assert "pass --data with the folder where they are now" in result.stderr
    text = page()
    assert "Map of the features</h3>" not in text and "Calibration</h3>" in text
    assert "data:image/jpeg" not in text and "The images are not in" in text
    again = call("head", "--force", "--data", "moved")
    assert again.exit_code == 0 and "left out" not in again.stderr
    assert "data:image/jpeg" in page() and page().count('class="point') == 12


def test_a_run_without_kept_answers_is_scored_again(call: Call) -> None:
    assert call("head").exit_code == 0
    kept = page()
    Path("head/predictions.safetensors").unlink()
    assert call("head", "--force").exit_code == 0
    assert page() == kept
    shutil.rmtree("data")
    result = call("head", "--force")
    assert result.exit_code == 0, result.output
    assert "Mistakes, calibration and map are left out: " in page()
    assert "Confusion matrix</h3>" in page() and "Worst mistakes</h3>" not in page()


def test_damaged_answers_are_said_to_be(call: Call) -> None:
    Path("head/predictions.safetensors").write_bytes(b"nothing")
    result = call("head")
    assert result.exit_code == 0
    assert "remove the file, and the images are scored again" in result.stderr


def test_a_run_on_a_snapshot_has_a_map_without_images(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_material, "score_images", never)
    (snapshot,) = Path("cache").glob("*/snapshots/*.h5")
    done = tlcache("train", snapshot, "--run-dir", "copied", "--no-figures", "--epochs", 2)
    assert done.exit_code == 0, done.output
    shutil.rmtree("data")
    result = call("copied", "--json")
    assert json.loads(result.stdout)["runs"][0]["notes"] == []
    assert page().count('class="point') == 12


def test_runs_of_different_classes_each_have_a_section(call: Call, tmp_path: Path) -> None:
    other = written_run(tmp_path / "other", {"val": answers(9, 3, 2)}, ("x", "y", "z"))
    result = call("head", other)
    assert result.exit_code == 0, result.output
    assert page().count("<article") == 2 and " images right and " not in page()


def test_what_is_no_run_or_damaged_is_refused_and_nothing_is_written(call: Call) -> None:
    failed(call("nowhere"), "nowhere: expected the folder of a run", "no such folder")
    failed(call("head", "data"), "data: expected the folder of a run, with run.json")
    Path("head/metrics.json").write_text('{"evaluation": {}}')
    failed(call("head"), "head/metrics.json: expected the JSON of a run, found no evaluation")
    assert not Path("report.html").exists()


def test_images_that_are_named_anew_must_be_there(call: Call) -> None:
    failed(call("head", "--data", "gone"), "--data: expected a folder of images, or a snapshot")
    failed(call("head", "--data", "x" * 300), "--data: expected a folder of images", "too long")
    assert not Path("report.html").exists()
    Path("empty").mkdir()
    result = call("head", "--data", "empty")
    assert result.exit_code == 0
    assert "empty: expected the images of the run, found none of them" in result.stderr
    assert "The images are not in" in page() and "empty" in page()


def test_a_page_that_is_there_is_kept_unless_forced(call: Call) -> None:
    Path("report.html").write_text("<!doctype html>mine")
    failed(call("head"), "report.html: expected a new file, found an earlier page; pass --force")
    assert page() == "<!doctype html>mine"
    assert call("head", "--force").exit_code == 0
    assert page().startswith("<!doctype html>")


def test_a_place_that_cannot_be_written_is_refused(call: Call) -> None:
    failed(call("head", "--output", "no/page.html"), "no/page.html", "found no folder no")
    failed(call("head", "--output", "data"), "expected a file in a folder", "found a folder")
    failed(call("head", "--output", "x" * 300), "in a folder that can be written", "too long")
    failed(call("x" * 300), "expected the folder of a run", "too long")


def test_names_that_are_no_utf8_reach_the_page_as_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = (os.fsdecode(b"caf\xe9"), "tea")
    paths = [f"{split}/{n}/{i}.png" for split in ("train", "val") for n in names for i in range(3)]
    images(Path("data"), paths)
    done = tlcache("train", "data", *SMALL, "--run-dir", "run", "--no-figures", "--epochs", 1)
    assert done.exit_code == 0, done.output
    result = tlcache("report", "run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["runs"][0]["notes"] == []
    assert "caf\\udce9" in page()


def measured(*_: object, **__: object) -> Benchmark:
    """A benchmark that nobody ran."""
    contenders = []
    for name, wrong in (("cached", 1), ("frozen", 1), ("finetune", 3)):
        scored = answers(8, 2, wrong)
        judged = evaluate(scored.logits, scored.labels, ("ants", "bees"))
        contenders.append(Contender(name, {"embed": 2.0, "train": wrong * 3.5}, scored, judged))
    return Benchmark(contenders, 0.02, Recipe(), "resnet18", "imagenet")


def test_a_benchmark_becomes_a_page(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_data.parent)
    monkeypatch.setattr(tlcache_benchmark, "benchmark", measured)
    result = tlcache("bench", "data", "--report", "bench.html", "--json")
    assert result.exit_code == 0, result.output
    said, text = json.loads(result.stdout), page("bench.html")
    assert said["comparison"]["sentence"] in html.unescape(text)
    assert "Seconds by stage" in text and "On val (chose the epoch), 8 images." in text
    for name in ("cached", "frozen", "finetune"):
        low, high = said[name]["accuracy_ci95"]
        assert f"(95%&nbsp;{low:.3f}–{high:.3f})" in text
    again = tlcache("bench", "data", "--report", "bench.html")
    failed(again, "bench.html: expected a new file, found an earlier page; pass --force")
    assert tlcache("bench", "data", "--report", "bench.html", "--force").exit_code == 0


def full(path: Path, data: bytes) -> None:
    raise CacheError(path, expected="room", found="No space left on device", remedy="free some")


def test_a_benchmark_whose_page_cannot_be_written_says_its_result_first(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_benchmark, "benchmark", measured)
    monkeypatch.setattr(tlcache_page, "write_atomically", full)
    result = tlcache("bench", tiny_data, "--report", tiny_data / "bench.html", "--json")
    assert result.exit_code == 1 and "found No space left on device" in result.stderr
    assert json.loads(result.stdout)["break_even_heads"] == 1
