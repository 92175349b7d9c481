"""What a user of `tlcache runs`, `report` and `export` meets: a table, a page, a file."""

from __future__ import annotations

import functools
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from called import RANDOM, SMALL, Call, failed, tlcache
from small_trunk import small_trunk
from typer.testing import Result
from written_runs import answers, images, written_run

import tlcache.export.export as tlcache_export
import tlcache.export.trials as tlcache_trials
import tlcache.reports.material as tlcache_material
from tlcache.core.errors import ModelError
from tlcache.data.folders import scan
from tlcache.export.export import Exported
from tlcache.heads.model import Model, initial_head
from tlcache.reports.records import list_runs

NAMES = ("<b>ants", "نحل'\"")
TITLES = "finished name command data trunk val (95%) test (95%) best epoch seconds selected on"


def refused(result: Result, *words: str) -> None:
    """Nothing on stdout, and an error that holds the words."""
    failed(result, *words)
    assert result.stdout == ""


@pytest.fixture
def runs(call: Call) -> Call:
    """Run `tlcache runs` where ./runs holds a head, a finetuned network and a sweep's choice."""
    parts = {"train": answers(40, 2, 0), "val": answers(20, 2, 1), "test": answers(20, 2, 5)}
    add("head", {"train": parts["train"], "val": answers(20, 2, 3)}, 3)
    add("tuned", parts, 1, command="finetune", seconds={"train": 1207.5})
    add("swept", parts, 2, command="sweep", fitted_on=("train", "val"), epochs=0)
    return functools.partial(call, "runs")


def add(name: str, scored: dict[str, Any], day: int = 9, **more: Any) -> Path:
    """One more run in ./runs, finished on that day of January 2026."""
    folder = written_run(Path("runs", name), scored, **more)
    stamp = 1_767_225_600 + 86_400 * (day - 1) + 43_200
    os.utime(folder / "run.json", (stamp, stamp))
    return folder


def table(result: Result) -> list[list[str]]:
    """The words of each row of a table, without its titles and its last line."""
    assert result.exit_code == 0, result.output
    titles, *rows, last = result.stdout.splitlines()
    assert titles.split() == TITLES.split()
    assert last == f"{len(rows)} run{'s' * (len(rows) != 1)}"
    return [row.split() for row in rows]


def test_a_row_tells_what_was_done_and_how_well_it_did(runs: Call) -> None:
    tuned, swept, head = table(runs("ls"))  # the latest last
    assert tuned[0] == "2026-01-01"
    assert tuned[2:5] == ["tuned", "finetune", "pets"]
    assert tuned[5:] == [
        *("resnet18", "0.950", "(0.764-0.991)", "0.750", "(0.531-0.888)", "3/3", "1,207.5", "val")
    ]
    assert swept[5:10] == ["resnet18", "trained", "on", "0.750", "(0.531-0.888)"]
    assert swept[10:] == ["-", "1.8", "val"]
    assert head[5:] == ["resnet18", "0.850", "(0.640-0.948)", "-", "3/3", "1.8", "val"]


def test_json_holds_all_that_the_table_tells_and_more(runs: Call) -> None:
    result = json.loads(runs("ls", "--json").stdout)
    assert (result["folder"], result["damaged"], result["stopped"]) == ("runs", [], [])
    tuned = result["runs"][0]
    metrics = json.loads(Path("runs/tuned/metrics.json").read_text())
    assert tuned.pop("evaluation") == {
        split: {name: of[name] for name in ("n", "accuracy", "accuracy_ci95", "loss")}
        for split, of in metrics["evaluation"].items()
    }
    assert tuned == {
        "folder": "runs/tuned",
        "finished_ns": 1_767_268_800 * 10**9,
        "command": "finetune",
        "data": "/nowhere",
        "dataset": "pets",
        "trunk": "resnet18",
        "weights": "random",
        "epochs": 3,
        "best_epoch": 3,
        "selected_on": "val",
        "fitted_on": ["train"],
        "seconds": metrics["seconds"],
    }


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("time", "tuned swept head"),
        ("name", "head swept tuned"),
        ("command", "tuned swept head"),
        ("accuracy", "head tuned swept"),  # by test where there is one: 0.85, 0.75, 0.75
        ("data", "tuned swept head"),
        ("trunk", "tuned swept head"),
    ],
)
def test_the_order_goes_by_what_is_asked_for(runs: Call, sort: str, expected: str) -> None:
    assert [row[2] for row in table(runs("ls", "--sort", sort))] == expected.split()


def test_the_order_goes_by_seconds(runs: Call) -> None:
    assert [row[2] for row in table(runs("ls", "--sort", "seconds"))][-1] == "tuned"


def test_an_order_that_is_none_is_refused(runs: Call) -> None:
    result = runs("ls", "--sort", "beauty")
    assert result.exit_code == 2
    assert "'beauty' is not one of 'time'" in " ".join(result.stderr.split())


def test_accuracies_that_flatter_are_called_so(runs: Call) -> None:
    line = runs("ls").stderr
    assert line.startswith("1 run without a test split: what chose the model judges it too")
    assert "tlcache crossval" in line
    assert runs("ls", "runs/head").stderr.startswith("no test split: val chose the epoch")
    assert runs("ls", "runs/tuned").stderr == ""


def test_a_run_is_a_table_of_one(runs: Call) -> None:
    (row,) = (line.split() for line in runs("ls", "runs/tuned").stdout.splitlines()[1:2])
    assert row[2] == "tuned"


def test_what_is_no_run_is_passed_by_and_a_stopped_one_is_named(runs: Call) -> None:
    Path("runs/notes/deeper").mkdir(parents=True)
    Path("runs/notes.txt").touch()
    Path("runs/st\nopped").mkdir()
    Path("runs/st\nopped/checkpoint.safetensors").touch()
    result = runs("ls")
    assert len(table(result)) == 3
    assert result.stderr.splitlines()[1:] == [
        r"'runs/st\nopped': stopped; the same command with --run-dir 'runs/st\nopped' --resume "
        "goes on with it"
    ]
    assert json.loads(runs("ls", "--json").stdout)["stopped"] == ["runs/st\nopped"]


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "interval": (
        lambda m: m["evaluation"]["val"].update(accuracy_ci95=[0.9, 0.8]),
        "between 0.9 and",
    ),
    "infinite": (lambda m: m["evaluation"]["val"].update(loss=float("inf")), "inf for a number"),
    "text": (lambda m: m["evaluation"]["val"].update(accuracy="0.9"), "'0.9' for a number"),
    "truth": (lambda m: m.update(epochs=True), "True for a count"),
    "trunk": (lambda m: m.update(trunk=["resnet18"]), "['resnet18'] for a text"),
    "splits": (lambda m: m.update(evaluation={"dev": {}}), "evaluations of dev"),
    "nothing": (lambda m: m.update(evaluation={}), "evaluations of nothing"),
    "missing": (lambda m: m.pop("selected_on"), "no selected_on in its JSON"),
    "list": (lambda m: m.update(seconds=[1]), "list"),
    "three": (lambda m: m["evaluation"]["val"].update(accuracy_ci95=[0, 1, 1]), "values to unpack"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_run_is_named_and_the_others_are_listed(runs: Call, kind: str) -> None:
    damage, words = DAMAGE[kind]
    metrics = add("broken", {"val": answers(20, 2, 3)}) / "metrics.json"
    values = json.loads(metrics.read_text())
    damage(values)
    metrics.write_text(json.dumps(values))
    result = runs("ls")
    assert len(table(result)) == 3
    line = result.stderr.splitlines()[-1]
    assert line.startswith("left out: runs/broken: expected the JSON of a run, found ")
    assert words in line
    (told,) = json.loads(runs("ls", "--json").stdout)["damaged"]
    assert f"left out: {told}" == line


@pytest.mark.parametrize("text", [b"", b"[1]", b"[" * 100_000, b"\xff\x00", b'{"a": 1e', None])
def test_a_file_that_is_no_json_of_a_run_costs_that_run_alone(
    runs: Call, text: bytes | None
) -> None:
    for name in ("metrics.json", "run.json"):
        path = add(f"bad {name}", {"val": answers(20, 2, 3)}) / name
        path.unlink()
        if text is not None:
            path.write_bytes(text)
    found = list_runs(Path("runs"))
    assert [run.folder.name for run in found.runs] == ["tuned", "swept", "head"]
    damaged = [Path(error.where).name for error in found.damaged]
    assert damaged == (["metrics.json"] if text is None else ["metrics.json", "run.json"])


def test_folders_named_like_files_of_a_run_make_no_run(runs: Call) -> None:
    add("run.json", {"val": answers(20, 2, 3)})
    Path("runs/head/run.json").unlink()
    Path("runs/head/run.json").mkdir()
    assert [row[2] for row in table(runs("ls"))] == ["tuned", "swept", "run.json"]


def test_a_folder_that_cannot_be_listed_is_one_clear_error(runs: Call) -> None:
    Path("file").touch()
    for name, words in (("nowhere", "No such file"), ("file", "Not a directory")):
        result = runs("ls", name)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {name}: expected a folder of runs, found {words}")
        with pytest.raises(ModelError, match="`tlcache train` puts its runs into runs/"):
            list_runs(Path(name))


def test_a_folder_without_runs_says_so(runs: Call) -> None:
    Path("empty").mkdir()
    assert runs("ls", "empty").stdout == "empty: no runs in it\n"
    assert json.loads(runs("ls", "empty", "--json").stdout)["runs"] == []


def test_names_that_would_command_a_terminal_or_rich_are_shown_as_they_are(runs: Call) -> None:
    name = "[bold red]\x1b[31m\n蟻 x"
    add(name, {"val": answers(20, 2, 3)}, 10)
    last = table(runs("ls"))[-1]
    assert last[2:4] == [r"[bold", r"red]\x1b[31m\n蟻"]
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "tlcache", "runs", "ls"]
    environment = os.environ | {"COLUMNS": "400"}
    with subprocess.Popen(words, stdout=follower, stderr=subprocess.DEVNULL, env=environment) as on:
        os.close(follower)
        seen = b""
        while part := _read(leader):
            seen += part
    assert on.returncode == 0
    assert rb"[bold red]\x1b[31m\n" in seen and b"\x1b[31m" not in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the program on its other end is done
        return b""


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
def report(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
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


def never(*_: object, **__: object) -> None:
    raise AssertionError("everything is in the cache")


def test_a_run_becomes_a_page_with_all_its_parts(
    report: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_material, "load_network", never)
    result = report("head", "--json")
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


def test_two_runs_are_compared_in_a_sentence(report: Call) -> None:
    result = report("head", "network", "--output", "both.html")
    assert result.exit_code == 0, result.output
    text = page("both.html")
    assert text.index("Side by side") < text.index(">What was done")
    assert "head gets " in text and " of 12 images right and network " in text
    assert text.count(">Map of the features</h3>") == 1  # there is no trunk named "small"
    assert "network: The map of the features is left out: " in result.stderr
    assert "report: both.html (" in result.stdout and "accuracy" in result.stdout


def test_the_network_of_a_finetuned_run_makes_its_own_map(
    report: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_material, "load_network", lambda *_: small_trunk().module)
    shutil.rmtree("cache")
    assert report("network").exit_code == 0
    assert page().count('class="point') == 12


def test_images_that_have_moved_cost_their_parts_and_a_note(report: Call) -> None:
    Path("data").rename("moved")
    result = report("head")
    assert result.exit_code == 0, result.output
    assert "The map of the features is left out: " in result.stderr
    assert "pass --data with the folder where they are now" in result.stderr
    text = page()
    assert "Map of the features</h3>" not in text and "Calibration</h3>" in text
    assert "data:image/jpeg" not in text and "The images are not in" in text
    again = report("head", "--force", "--data", "moved")
    assert again.exit_code == 0 and "left out" not in again.stderr
    assert "data:image/jpeg" in page() and page().count('class="point') == 12


def test_a_run_without_kept_answers_is_scored_again(report: Call) -> None:
    assert report("head").exit_code == 0
    kept = page()
    Path("head/predictions.safetensors").unlink()
    assert report("head", "--force").exit_code == 0
    assert page() == kept
    shutil.rmtree("data")
    result = report("head", "--force")
    assert result.exit_code == 0, result.output
    assert "Mistakes, calibration and map are left out: " in page()
    assert "Confusion matrix</h3>" in page() and "Worst mistakes</h3>" not in page()


def test_damaged_answers_are_said_to_be(report: Call) -> None:
    Path("head/predictions.safetensors").write_bytes(b"nothing")
    result = report("head")
    assert result.exit_code == 0
    assert "remove the file, and the images are scored again" in result.stderr


def test_a_run_on_a_snapshot_has_a_map_without_images(
    report: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_material, "score_images", never)
    (snapshot,) = Path("cache").glob("*/snapshots/*.h5")
    done = tlcache("train", snapshot, "--run-dir", "copied", "--no-figures", "--epochs", 2)
    assert done.exit_code == 0, done.output
    shutil.rmtree("data")
    result = report("copied", "--json")
    assert json.loads(result.stdout)["runs"][0]["notes"] == []
    assert page().count('class="point') == 12


def test_runs_of_different_classes_each_have_a_section(report: Call, tmp_path: Path) -> None:
    other = written_run(tmp_path / "other", {"val": answers(9, 3, 2)}, ("x", "y", "z"))
    result = report("head", other)
    assert result.exit_code == 0, result.output
    assert page().count("<article") == 2 and " images right and " not in page()


def test_what_is_no_run_or_damaged_is_refused_and_nothing_is_written(report: Call) -> None:
    refused(report("nowhere"), "nowhere: expected the folder of a run", "no such folder")
    refused(report("head", "data"), "data: expected the folder of a run, with run.json")
    Path("head/metrics.json").write_text('{"evaluation": {}}')
    refused(report("head"), "head/metrics.json: expected the JSON of a run, found no evaluation")
    assert not Path("report.html").exists()


def test_images_that_are_named_anew_must_be_there(report: Call) -> None:
    refused(report("head", "--data", "gone"), "--data: expected a folder of images, or a snapshot")
    refused(report("head", "--data", "x" * 300), "--data: expected a folder of images", "too long")
    assert not Path("report.html").exists()
    Path("empty").mkdir()
    result = report("head", "--data", "empty")
    assert result.exit_code == 0
    assert "empty: expected the images of the run, found none of them" in result.stderr
    assert "The images are not in" in page() and "empty" in page()


def test_a_page_that_is_there_is_kept_unless_forced(report: Call) -> None:
    Path("report.html").write_text("<!doctype html>mine")
    refused(report("head"), "report.html: expected a new file, found an earlier page; pass --force")
    assert page() == "<!doctype html>mine"
    assert report("head", "--force").exit_code == 0
    assert page().startswith("<!doctype html>")


def test_a_place_that_cannot_be_written_is_refused(report: Call) -> None:
    refused(report("head", "--output", "no/page.html"), "no/page.html", "found no folder no")
    refused(report("head", "--output", "data"), "expected a file in a folder", "found a folder")
    refused(report("head", "--output", "x" * 300), "in a folder that can be written", "too long")
    refused(report("x" * 300), "expected the folder of a run", "too long")


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


@pytest.fixture
def at_run(call: Call, tiny_data: Path) -> Call:
    """Run tlcache in a folder that holds ``data`` and a run on it."""
    trained = call("train", "data", *RANDOM, "--run-dir", "run", "--no-figures", "--epochs", 2)
    assert trained.exit_code == 0, trained.output
    return call


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The images of each call, none of which exports anything."""
    seen: list[list[str]] = []

    def export(model: Model, output: Path, *_: object, images: list[Path], **how: object) -> object:
        seen.append([os.path.relpath(image) for image in images])
        return Exported(output, "onnx", 1, len(images), 0.0, tlcache_export._contract(model, False))

    monkeypatch.setattr(tlcache_export, "export_model", export)
    return seen


def test_a_run_is_exported_and_nothing_else_is_printed(at_run: Call, tmp_path: Path) -> None:
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

    result = at_run("export", "run", "--format", "torchscript", "--preprocess")
    assert result.exit_code == 0, result.output
    assert "run on 8 images, by ones and by eights" in result.stdout
    assert "input: images, uint8 (N, H, W, 3)" in result.stdout
    refused(at_run("export", "run", "--format", "torchscript"), "run/exported.pt", "--force")
    assert at_run("export", "run", "--format", "torchscript", "--force").exit_code == 0


def test_it_is_run_on_the_runs_val_images_or_on_others(
    at_run: Call, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    val = sorted(str(path) for path in Path("data/val").rglob("*.*"))
    everything = sorted(str(path) for path in Path("data").rglob("*.*"))
    monkeypatch.setattr(tlcache_trials, "IMAGES", 8)
    for arguments in ([], ["--data", "data"], ["--data", "data/val"]):
        assert at_run("export", "run", *arguments).exit_code == 0
    assert asked == [val, val, val]
    asked.clear()
    monkeypatch.setattr(tlcache_trials, "IMAGES", 3)
    assert at_run("export", "run").exit_code == 0
    assert asked == [[val[0], val[3], val[-1]]]
    monkeypatch.setattr(tlcache_trials, "IMAGES", 100)
    assert at_run("export", "run", "--data", "data/train").exit_code == 0
    assert asked[1] == [path for path in everything if "train" in path]


def test_a_runs_own_split_gives_its_own_val_images(at_run: Call, asked: list[list[str]]) -> None:
    options = ("--split", "0.5,0.5", "--seed", "3", "--run-dir", "split", "--no-figures")
    assert at_run("train", "data/train", *RANDOM, *options).exit_code == 0
    assert at_run("export", "split").exit_code == 0
    assert 0 < len(asked[0]) < 16
    dataset = scan(Path("data/train"), (0.5, 0.5), 3)
    assert asked[0] == [f"data/train/{dataset.paths[i]}" for i in dataset.indices("val")]


def test_data_that_has_moved_is_named_anew(at_run: Call, asked: list[list[str]]) -> None:
    Path("data").rename("moved")
    refused(
        at_run("export", "run"), "--data: expected the images of the run, found no folder", "now"
    )
    assert at_run("export", "run", "--data", "moved").exit_code == 0
    assert len(asked[0]) == 8
    shutil.copy("run/model.safetensors", "alone.safetensors")
    refused(at_run("export", "alone.safetensors"), "--data: expected", "no run.json beside")
    refused(at_run("export", "run", "--data", "nowhere"), "nowhere", "no such folder")


def test_the_model_itself_is_not_written_over(at_run: Call) -> None:
    before = Path("run/model.safetensors").read_bytes()
    result = at_run("export", "run", "--output", "run/model.safetensors", "--force")
    refused(result, "expected another file than the model itself")
    assert Path("run/model.safetensors").read_bytes() == before


def test_an_unknown_format_and_no_model_are_refused(at_run: Call) -> None:
    refused(at_run("export", "run", "--format", "keras"), "--format", "keras", "safetensors")
    refused(at_run("export", "nowhere"), "nowhere", "no such file")


def test_an_exported_safetensors_file_predicts_by_itself(at_run: Call) -> None:
    assert at_run("export", "run", "--format", "safetensors").exit_code == 0
    by_file = at_run(
        "predict", "run/exported.safetensors", "data/val", "--json", "--weights", "gone"
    )
    assert by_file.stdout == at_run("predict", "run", "data/val", "--json").stdout
    assert len(by_file.stdout.splitlines()) == 8
