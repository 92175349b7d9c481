"""``tlcache predict``: every way to name images, every format, and nothing is lost or mixed up."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from small_trunk import small_trunk
from typer.testing import CliRunner, Result

import tlcache.networks.scoring
from tlcache.cli import app
from tlcache.heads.model import Model, initial_head, save_model
from tlcache.trunks.load import Trunk, load_trunk

CLASSES = ("ants", "bees", "cats")
STOPPED = "stopped; what was finished is kept, and the same command goes on from there"
Call = Callable[..., Result]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on a frozen trunk of random weights."""
    trunk = load_trunk("mobilenet_v3_small", "random")
    return saved(trunk, tmp_path_factory.mktemp("run") / "model.safetensors")


def saved(trunk: Trunk, path: Path, network: dict[str, np.ndarray] | None = None) -> Path:
    """The file of a model on a trunk."""
    head = initial_head(3, trunk.dim, 0)
    how = trunk.name, trunk.weights, trunk.digest, trunk.transform
    save_model(path, Model(head, CLASSES, *how, network=network))
    return path


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run ``tlcache predict`` with a small network, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    trunk = small_trunk()
    saved(trunk, tmp_path / "model.safetensors")
    monkeypatch.setattr(tlcache.networks.scoring, "load_network", lambda *_: trunk.module)

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        texts = [str(a) for a in arguments]
        return CliRunner().invoke(app, ["predict", "model.safetensors", *texts], input=stdin)

    return run


def lines(result: Result) -> list[dict[str, object]]:
    """The JSON objects of a run that went well."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def paths(result: Result) -> list[object]:
    return [line["path"] for line in lines(result)]


def test_files_folders_patterns_and_stdin_keep_their_order(call: Call, tiny_data: Path) -> None:
    ants = [f"data/val/ants/{name}" for name in ("0.jpg", "1.jpg", "2.png", "3.png")]
    bees = [name.replace("ants", "bees") for name in ants]
    piped = f"{tiny_data}/train/bees/7.png\n./data/train/ants/0.jpg".encode()
    result = call("data/val/bees", "data/*/ants/[2345].png", "-", ants[1], "--json", stdin=piped)
    expected = [*bees, "data/train/ants/4.png", "data/train/ants/5.png", *ants[2:]]
    expected += [str(tiny_data / "train/bees/7.png"), "./data/train/ants/0.jpg", ants[1]]
    assert paths(result) == expected
    assert paths(call("data/v*/", "--json")) == [*ants, *bees]
    assert paths(call("data/val/**/*.jpg", "--json")) == [*ants[:2], *bees[:2]]
    for pattern in ("data/val/**", "**/val/*"):
        assert paths(call(pattern, "--json")) == [*ants, *bees]


def test_a_file_that_is_called_like_a_pattern_is_that_file(call: Call, tiny_data: Path) -> None:
    shutil.copy(tiny_data / "val/ants/0.jpg", "a[1].jpg")
    shutil.copy(tiny_data / "val/ants/0.jpg", "a1.jpg")
    assert paths(call("a[1].jpg", "--json")) == ["a[1].jpg"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("nowhere.jpg", "nowhere.jpg: expected an image, found no such file"),
        ("", "IMAGE: expected an image, found no such file"),
        ("no*where", "no*where: expected images of this pattern, found none"),
        ("empty", "empty: expected images"),
        ("x" * 5000, "expected an image, found no such file"),
    ],
)
def test_an_argument_that_names_nothing_is_an_error_before_any_work(
    call: Call, tiny_data: Path, argument: str, words: str
) -> None:
    Path("empty").mkdir()
    result = call("data/val", argument)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr


def test_json_lines_hold_all_classes_or_the_top_ones(call: Call, tiny_data: Path) -> None:
    everything = lines(call("data/val", "--json"))
    assert len(everything) == 8
    for line in everything:
        shares = line["probabilities"]
        assert isinstance(shares, dict)
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert line["class"] == next(iter(shares))
    two = lines(call("data/val", "--json", "--top", "2"))
    for line, whole in zip(two, everything, strict=True):
        shares = whole["probabilities"]
        assert isinstance(shares, dict)
        assert line == whole | {"probabilities": dict(list(shares.items())[:2])}
    assert lines(call("data/val", "--json", "--top", "1000")) == everything


def test_the_table_and_csv_say_the_same(call: Call, tiny_data: Path) -> None:
    known = lines(call("data/val", "--json"))
    table = [line.split("\t") for line in call("data/val", "--top", "2").stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(call("data/val", "--csv", "--top", "2").stdout)))
    assert len(table) == len(rows) == len(known)
    for line, row, whole in zip(table, rows, known, strict=True):
        shares = whole["probabilities"]
        assert isinstance(shares, dict)
        (first, p), (second, q) = list(shares.items())[:2]
        assert line == [whole["path"], first, f"{p:.4f}", second, f"{q:.4f}"]
        assert row == {
            "path": whole["path"],
            "class": first,
            "probability": str(p),
            "class_2": second,
            "probability_2": str(q),
            "reason": "",
        }


def test_unreadable_images_are_reported_in_their_place(call: Call, tiny_data: Path) -> None:
    Path("data/val/ants/1.jpg").write_bytes(b"")
    piped = b"data/val/ants/0.jpg\ngone.jpg\ndata/val/ants/1.jpg\n\ndata/val/ants/2.png\n"
    expected = ["", "No such file or directory", "expected an image, found an empty file", ""]
    for cache in ([], ["--cache"]):
        result = call("-", "--json", *cache, stdin=piped)
        assert result.exit_code == 1
        assert "2 of 4 images cannot be read" in result.stderr
        made = [json.loads(line) for line in result.stdout.splitlines()]
        for line, reason in zip(made, expected, strict=True):
            assert line.get("reason", "").startswith(reason)
            assert ("class" in line) != ("reason" in line)
    skipped = call("-", "--skip-unreadable", stdin=piped)
    assert skipped.exit_code == 0
    assert skipped.stdout.splitlines()[1] == "gone.jpg\tcannot be read\tNo such file or directory"
    rows = list(csv.DictReader(io.StringIO(call("-", "--csv", stdin=piped).stdout)))
    assert [bool(row["class"]) for row in rows] == [True, False, False, True]
    assert rows[1]["reason"] == "No such file or directory"


HOSTILE = [
    "two\nlines.jpg",
    'tab\tand,comma".jpg',
    "\x1b[31mred.jpg",
    "half\udcff.jpg",
    "\u2028.jpg",
]


@pytest.mark.skipif(os.name == "nt", reason="names that are none there")
def test_hostile_names_come_out_as_they_are(call: Call, tiny_data: Path) -> None:
    Path("odd").mkdir()
    for name in HOSTILE:
        shutil.copy(tiny_data / "val/ants/0.jpg", Path("odd") / name)
    expected = sorted(f"odd/{name}" for name in HOSTILE)
    assert paths(call("odd", "--json")) == expected
    piped = b"".join(os.fsencode(path) + b"\0" for path in expected)
    assert paths(call("-", "-0", "--json", stdin=piped)) == expected
    done = call("odd", "--csv")
    assert done.exit_code == 0, done.output
    text = done.stdout_bytes.decode("utf-8", "surrogateescape")
    assert [row["path"] for row in csv.DictReader(io.StringIO(text, newline=""))] == expected
    table = call("odd").stdout.splitlines()
    assert [len(line.split("\t")) for line in table] == [3] * len(expected)
    assert "\x1b" not in "".join(table)


def test_the_cache_gives_what_it_has_and_takes_what_is_new(
    call: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = lines(call("data/val", "--json"))
    assert not Path("cache").exists()  # nothing is kept unless it is asked for
    assert lines(call("data/val/ants", "--json", "--cache")) == plain[:4]
    assert lines(call("data/val", "--json", "--cache")) == plain

    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(tlcache.networks.scoring, "load_network", refuse)
    assert lines(call("data/val", "--json", "--cache")) == plain


def test_rows_of_embed_serve_predict(
    tiny_data: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how = ["--trunk", "mobilenet_v3_small", "--weights", "random"]
    assert CliRunner().invoke(app, ["embed", "data", *how]).exit_code == 0
    before = set(Path("cache").rglob("*.h5"))
    arguments = ["predict", str(model_file), "data", "--json", "--cache", "--weights", "nowhere"]
    assert len(lines(CliRunner().invoke(app, arguments))) == 24
    assert set(Path("cache").rglob("*.h5")) == before


def test_other_weights_are_refused_before_anything_is_printed(
    tiny_data: Path, model_file: Path
) -> None:
    arguments = ["predict", str(model_file), str(tiny_data), "--csv", "--weights", "random:1"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the model's trunk: expected mobilenet_v3_small with weights" in result.stderr


def test_a_finetuned_network_has_no_cache(call: Call, tiny_data: Path) -> None:
    trunk = small_trunk()
    state = {name: tensor.numpy() for name, tensor in trunk.module.state_dict().items()}
    saved(trunk, Path("tuned.safetensors"), network=state)
    arguments = ["predict", "tuned.safetensors", "data/val", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--cache"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--cache: expected a head on a frozen trunk, found a network that was" in result.stderr
    assert lines(CliRunner().invoke(app, arguments)) == lines(call("data/val", "--json"))


def test_options_that_make_no_sense_are_refused(call: Call, tiny_data: Path) -> None:
    both = call("data/val", "--json", "--csv")
    assert (both.exit_code, both.stdout) == (1, "")
    assert "--json --csv: expected one of them" in both.stderr
    assert call("data/val", "--top", "0").exit_code == 2
    endless = call("-", stdin=b"x" * 100_000)
    assert endless.exit_code == 1
    assert "--null" in endless.stderr


@contextlib.contextmanager
def running(model: Path, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``tlcache predict`` in a process of its own, which is killed if it waits for ever."""
    command = [sys.executable, "-W", "error", "-m", "tlcache", "predict", str(model), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        end = threading.Timer(300, process.kill)
        end.start()
        try:
            yield process
        finally:
            end.cancel()


def test_predictions_come_out_as_paths_come_in(tiny_data: Path, model_file: Path) -> None:
    with running(model_file, tiny_data, "-", "--json") as process:
        assert process.stdin and process.stdout and process.stderr
        for name in ("val/ants/0.jpg", "val/bees/1.jpg", "nowhere.jpg"):
            process.stdin.write(name.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["path"] == name
        process.send_signal(signal.SIGINT)
        words = process.stderr.read().decode()
    assert process.returncode == 130
    assert words.splitlines()[1:] == [STOPPED]  # after a line on the random weights


def test_a_reader_that_has_seen_enough_ends_it_quietly(tiny_data: Path, model_file: Path) -> None:
    with running(model_file, tiny_data, "-", "--csv") as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"val/ants/0.jpg\n" * 200)
        process.stdin.close()
        words = process.stderr.read().decode()
    assert process.returncode == 0
    assert len(words.splitlines()) == 1
