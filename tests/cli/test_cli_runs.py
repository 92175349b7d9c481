"""`tlcache runs ls`: runs side by side, whatever else lies among them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from written_runs import answers, written_run

from tlcache.cli import app
from tlcache.core.errors import ModelError
from tlcache.reports.records import list_runs

Call = Callable[..., Result]
TITLES = "finished name command data trunk val (95%) test (95%) best epoch seconds selected on"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `tlcache runs` where ./runs holds a head, a finetuned network and a sweep's choice."""
    monkeypatch.chdir(tmp_path)
    parts = {"train": answers(40, 2, 0), "val": answers(20, 2, 1), "test": answers(20, 2, 5)}
    add("head", {"train": parts["train"], "val": answers(20, 2, 3)}, 3)
    add("tuned", parts, 1, command="finetune", seconds={"train": 1207.5})
    add("swept", parts, 2, command="sweep", fitted_on=("train", "val"), epochs=0)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["runs", *(str(a) for a in arguments)])

    return run


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


def test_a_row_tells_what_was_done_and_how_well_it_did(call: Call) -> None:
    tuned, swept, head = table(call("ls"))  # the latest last
    assert tuned[0] == "2026-01-01"
    assert tuned[2:5] == ["tuned", "finetune", "pets"]
    assert tuned[5:] == [
        *("resnet18", "0.950", "(0.764-0.991)", "0.750", "(0.531-0.888)", "3/3", "1,207.5", "val")
    ]
    assert swept[5:10] == ["resnet18", "trained", "on", "0.750", "(0.531-0.888)"]
    assert swept[10:] == ["-", "1.8", "val"]
    assert head[5:] == ["resnet18", "0.850", "(0.640-0.948)", "-", "3/3", "1.8", "val"]


def test_json_holds_all_that_the_table_tells_and_more(call: Call) -> None:
    result = json.loads(call("ls", "--json").stdout)
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
def test_the_order_goes_by_what_is_asked_for(call: Call, sort: str, expected: str) -> None:
    assert [row[2] for row in table(call("ls", "--sort", sort))] == expected.split()


def test_the_order_goes_by_seconds(call: Call) -> None:
    assert [row[2] for row in table(call("ls", "--sort", "seconds"))][-1] == "tuned"


def test_an_order_that_is_none_is_refused(call: Call) -> None:
    result = call("ls", "--sort", "beauty")
    assert result.exit_code == 2
    assert "'beauty' is not one of 'time'" in " ".join(result.stderr.split())


def test_accuracies_that_flatter_are_called_so(call: Call) -> None:
    line = call("ls").stderr
    assert line.startswith("1 run without a test split: what chose the model judges it too")
    assert "tlcache crossval" in line
    assert call("ls", "runs/head").stderr.startswith("no test split: val chose the epoch")
    assert call("ls", "runs/tuned").stderr == ""


def test_a_run_is_a_table_of_one(call: Call) -> None:
    (row,) = (line.split() for line in call("ls", "runs/tuned").stdout.splitlines()[1:2])
    assert row[2] == "tuned"


def test_what_is_no_run_is_passed_by_and_a_stopped_one_is_named(call: Call) -> None:
    Path("runs/notes/deeper").mkdir(parents=True)
    Path("runs/notes.txt").touch()
    Path("runs/st\nopped").mkdir()
    Path("runs/st\nopped/checkpoint.safetensors").touch()
    result = call("ls")
    assert len(table(result)) == 3
    assert result.stderr.splitlines()[1:] == [
        r"runs/st\nopped: stopped; the same command with --resume goes on with it"
    ]
    assert json.loads(call("ls", "--json").stdout)["stopped"] == ["runs/st\nopped"]


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
def test_a_damaged_run_is_named_and_the_others_are_listed(call: Call, kind: str) -> None:
    damage, words = DAMAGE[kind]
    metrics = add("broken", {"val": answers(20, 2, 3)}) / "metrics.json"
    values = json.loads(metrics.read_text())
    damage(values)
    metrics.write_text(json.dumps(values))
    result = call("ls")
    assert len(table(result)) == 3
    line = result.stderr.splitlines()[-1]
    assert line.startswith("left out: runs/broken: expected the JSON of a run, found ")
    assert words in line
    (told,) = json.loads(call("ls", "--json").stdout)["damaged"]
    assert f"left out: {told}" == line


@pytest.mark.parametrize("text", [b"", b"[1]", b"[" * 100_000, b"\xff\x00", b'{"a": 1e', None])
def test_a_file_that_is_no_json_of_a_run_costs_that_run_alone(
    call: Call, text: bytes | None
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


def test_folders_named_like_files_of_a_run_make_no_run(call: Call) -> None:
    add("run.json", {"val": answers(20, 2, 3)})
    Path("runs/head/run.json").unlink()
    Path("runs/head/run.json").mkdir()
    assert [row[2] for row in table(call("ls"))] == ["tuned", "swept", "run.json"]


def test_a_folder_that_cannot_be_listed_is_one_clear_error(call: Call) -> None:
    Path("file").touch()
    for name, words in (("nowhere", "No such file"), ("file", "Not a directory")):
        result = call("ls", name)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {name}: expected a folder of runs, found {words}")
        with pytest.raises(ModelError, match="`tlcache train` puts its runs into runs/"):
            list_runs(Path(name))


def test_a_folder_without_runs_says_so(call: Call) -> None:
    Path("empty").mkdir()
    assert call("ls", "empty").stdout == "empty: no runs in it\n"
    assert json.loads(call("ls", "empty", "--json").stdout)["runs"] == []


def test_names_that_would_command_a_terminal_or_rich_are_shown_as_they_are(call: Call) -> None:
    name = "[bold red]\x1b[31m\n蟻 x"
    add(name, {"val": answers(20, 2, 3)}, 10)
    last = table(call("ls"))[-1]
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
