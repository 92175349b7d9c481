"""What a user of `tlcache evaluate`, `compare` and `predict` meets: scores, pairs, every format."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from called import RANDOM, SMALL, Call, failed
from small_trunk import small_trunk
from typer.testing import Result

import tlcache
import tlcache.networks.scoring
from tlcache.heads.model import Model, initial_head, load_model, save_model
from tlcache.trunks.load import Trunk, load_trunk

CLASSES = ("ants", "bees", "cats")
STOPPED = "stopped; nothing is left half done, and the same command begins anew"


@pytest.fixture
def pets(call: Call, pets: Path) -> Path:
    """The snapshot of ten images, and two heads: runs a and b."""
    for name, seed in (("a", 0), ("b", 3)):
        options = ("--seed", seed, "--epochs", 2, "--no-figures", "--run-dir", name)
        assert call("train", pets, *options).exit_code == 0
    return pets


def test_two_heads_are_compared_as_evaluate_and_the_library_have_them(
    call: Call, pets: Path
) -> None:
    result = call("compare", "a", "b", pets, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows, labels = tlcache.open_snapshot(pets).read().split("val")
    heads = [load_model(Path(name)).head for name in "ab"]
    expected = tlcache.compare(heads[0].logits(rows), heads[1].logits(rows), labels)
    assert found["comparison"] == expected.to_dict() | {"sentence": expected.sentence()}
    assert expected.only_a + expected.only_b > 0  # else a and b might be mixed up unseen
    for name in "ab":
        alone = json.loads(call("evaluate", name, pets, "--json").stdout)
        for key in ("accuracy", "accuracy_ci95", "n", "selected_on"):
            assert found[name][key] == alone[key]
        assert (found[name]["model"], found[name]["finetuned"]) == (name, False)


def test_people_read_two_accuracies_a_table_and_a_sentence(call: Call, pets: Path) -> None:
    result = call("compare", "a", "b", pets)
    lines = result.stdout.splitlines()
    for name, line in zip("AB", lines, strict=False):
        assert line.startswith(f"{name}: {name.lower()}: val (chose the epoch): accuracy 0.")
        assert "(95% 0." in line and line.endswith("n=4)")
    found = json.loads(call("compare", "a", "b", pets, "--json").stdout)["comparison"]
    cells = [line.split()[2:] for line in lines[3:5]]
    assert cells == [
        [str(found["both"]), str(found["only_a"])],
        [str(found["only_b"]), str(found["neither"])],
    ]
    assert lines[2].split() == ["B", "right", "B", "wrong"]
    assert lines[5:] == [found["sentence"]]


def test_one_line_says_that_val_chose(call: Call, pets: Path) -> None:
    both = call("compare", "a", "b", pets)
    (line,) = [line for line in both.stderr.splitlines() if "flatters" in line]
    assert line.startswith("val: each of A and B had the epoch chosen by these images")
    for words in ("--on test", "`tlcache crossval`", "--split 0.7,0.15,0.15"):
        assert words in line
    Path("b/run.json").unlink()
    (line,) = [x for x in call("compare", "a", "b", pets).stderr.splitlines() if "flatters" in x]
    assert line.startswith("val: A had the epoch chosen by these images")
    assert "flatters" not in call("compare", "a", "b", pets, "--on", "train").stderr


def test_a_head_and_a_finetuned_network_of_another_trunk_are_compared(
    call: Call, tiny_data: Path
) -> None:
    short = ("--epochs", "1", "--no-figures")
    fast = ("--precision", "fast", "--engine", "torch")
    assert call("train", tiny_data, *SMALL, *fast, *short, "--run-dir", "a").exit_code == 0
    other = ("--trunk", "squeezenet1_1", *SMALL[2:])
    assert call("finetune", tiny_data, *other, *short, "--run-dir", "b").exit_code == 0
    result = call("compare", "a", "b", tiny_data, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["a"]["finetuned"], found["b"]["finetuned"]) == (False, True)
    assert (found["a"]["precision"], found["b"]["precision"]) == ("fast", "fp32")
    for name in "ab":
        kept = json.loads(Path(name, "metrics.json").read_text())["evaluation"]["val"]
        assert found[name]["accuracy"] == kept["accuracy"]
    assert "A: a head on mobilenet_v3_small in fast" in result.stderr
    assert "B: squeezenet1_1, finetuned" in result.stderr


def test_models_of_other_classes_are_refused(call: Call, pets: Path) -> None:
    model = load_model(Path("b"))
    save_model(Path("b/model.safetensors"), dataclasses.replace(model, classes=("cats", "newts")))
    failed(
        call("compare", "a", "b", pets),
        "B's classes: expected A's cats, dogs (2 in all), found cats, newts (2 in all); ",
    )


def test_what_cannot_be_compared_is_said_in_one_line(call: Call, pets: Path) -> None:
    failed(call("compare", "a", "nowhere", pets), "nowhere", "no such file")
    failed(call("compare", "a", "b", pets, "--on", "test"), "images in test/", "train and val")
    failed(call("compare", "a", "b", pets, "--on", "all"), "--on: expected train or val or test")


@pytest.fixture
def leaf(call: Call, tiny_data: Path) -> Path:
    """A run on a divided folder that left an image out and named all by relative paths."""
    from safetensors.torch import save_file

    (tiny_data / "train").rename("leaf")
    Path("leaf/bees/broken.png").write_bytes(b"no image")
    save_file(load_trunk(RANDOM[1], "random:7").module.state_dict(), "own.safetensors")
    trunk = (*SMALL[:3], "own.safetensors", *SMALL[4:])
    how = ("--split", "0.5,0.25,0.25", "--seed", "3", "--skip-unreadable", "--no-figures")
    done = call("train", "leaf", *trunk, *how, "--epochs", "2", "--run-dir", "runs/leaf")
    assert done.exit_code == 0, done.output
    return Path("runs/leaf").absolute()


def test_what_a_run_skipped_is_counted_where_it_is_judged(call: Call, leaf: Path) -> None:
    said = [call("evaluate", leaf, "--on", split).stderr for split in ("train", "val", "test")]
    left_out = [line for lines in said for line in lines.splitlines() if "left out" in line]
    assert left_out == ["val: 1 of 4 images cannot be read, and are left out"]


ALONE = {
    "evaluate": ("evaluate", "{run}"),
    "compare": ("compare", "{run}", "{run}"),
    "map": ("map", "{run}", "--points", "4"),
    "show": ("show", "{run}", "--no-window"),
    "export": ("export", "{run}", "--output", "leaf.onnx"),
    "predict": ("predict", "{run}", "{run}/../../leaf/ants"),
    "report": ("report", "{run}"),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_run_is_all_that_a_command_has_to_be_told(
    name: str, call: Call, leaf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (leaf / "predictions.safetensors").unlink()  # so that a report needs the images too
    elsewhere = leaf.parents[1] / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    on = () if name in ("export", "predict", "report") else ("--on", "test")
    command = [word.format(run=leaf) for word in ALONE[name]]
    done = call(*command, *on, *([] if name == "predict" else ["--json"]))
    assert done.exit_code == 0, done.output
    if name in ("evaluate", "map", "compare"):
        found = json.loads(done.stdout)
        found = found["a"] if name == "compare" else found
        kept = json.loads((leaf / "metrics.json").read_text())["evaluation"]["test"]
        for key in ("accuracy", "n"):
            assert found[key] == kept[key]
    if name == "report":
        assert json.loads(done.stdout)["runs"][0]["notes"] == []


def test_a_folder_of_classes_is_split_as_the_run_split_it(call: Call, leaf: Path) -> None:
    kept = json.loads((leaf / "metrics.json").read_text())["evaluation"]
    for on in ("train", "val", "test"):
        done = call("evaluate", leaf, "leaf", "--on", on, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["confusion"] == kept[on]["confusion"]
        # Only where its images chose something is it advised to divide them otherwise.
        assert ("--split" in done.stderr) == (on == "val")
    other = call("evaluate", leaf, "--split", "0.5,0.5")
    assert other.exit_code == 0, other.output
    assert "was trained with --split 0.5,0.25,0.25 --seed 3" in other.stderr


def test_a_run_of_an_earlier_version_remembers_too(
    call: Call, leaf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = json.loads((leaf / "run.json").read_text())
    del about["source"], about["weights"]
    (leaf / "run.json").write_text(json.dumps(about))
    monkeypatch.chdir(leaf)
    done = call("evaluate", leaf, "--on", "test", "--json")
    assert done.exit_code == 0, done.output
    Path("../../own.safetensors").unlink()
    failed(call("predict", leaf, "../../leaf"), "own.safetensors: expected a weights file")


def test_a_run_whose_images_are_gone_says_so(call: Call, leaf: Path) -> None:
    Path("leaf").rename("moved")
    kept = json.loads((leaf / "metrics.json").read_text())["evaluation"]["test"]
    moved = call("evaluate", leaf, "moved", "--on", "test", "--json")
    assert moved.exit_code == 0, moved.output
    assert json.loads(moved.stdout)["confusion"] == kept["confusion"]
    failed(
        call("evaluate", leaf), "DATA: expected the images of the run, found no folder", "are now"
    )
    (leaf / "run.json").unlink()
    failed(call("evaluate", leaf), "DATA: expected a folder of images, found none, and no run.json")


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
def predict(call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run ``tlcache predict`` with a small network, in a folder of its own."""
    trunk = small_trunk()
    saved(trunk, Path("model.safetensors"))
    monkeypatch.setattr(tlcache.networks.scoring, "load_network", lambda *_: trunk.module)
    return functools.partial(call, "predict", "model.safetensors")


def lines(result: Result) -> list[dict[str, object]]:
    """The JSON objects of a run that went well."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def paths(result: Result) -> list[object]:
    return [line["path"] for line in lines(result)]


def test_files_folders_patterns_and_stdin_keep_their_order(predict: Call, tiny_data: Path) -> None:
    ants = [f"data/val/ants/{name}" for name in ("0.jpg", "1.jpg", "2.png", "3.png")]
    bees = [name.replace("ants", "bees") for name in ants]
    piped = f"{tiny_data}/train/bees/7.png\n./data/train/ants/0.jpg".encode()
    result = predict("data/val/bees", "data/*/ants/[2345].png", "-", ants[1], "--json", stdin=piped)
    expected = [*bees, "data/train/ants/4.png", "data/train/ants/5.png", *ants[2:]]
    expected += [str(tiny_data / "train/bees/7.png"), "./data/train/ants/0.jpg", ants[1]]
    assert paths(result) == expected
    assert paths(predict("data/v*/", "--json")) == [*ants, *bees]
    assert paths(predict("data/val/**/*.jpg", "--json")) == [*ants[:2], *bees[:2]]
    for pattern in ("data/val/**", "**/val/*"):
        assert paths(predict(pattern, "--json")) == [*ants, *bees]


def test_a_file_that_is_called_like_a_pattern_is_that_file(predict: Call, tiny_data: Path) -> None:
    shutil.copy(tiny_data / "val/ants/0.jpg", "a[1].jpg")
    shutil.copy(tiny_data / "val/ants/0.jpg", "a1.jpg")
    assert paths(predict("a[1].jpg", "--json")) == ["a[1].jpg"]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("nowhere.jpg", "expected an image, found no such file"),
        ("", "expected an image, found no such file"),
        ("no*where", "expected images of this pattern, found none"),
        ("empty", "expected images"),
        ("x" * 5000, "expected an image, found no such file"),
    ],
)
def test_an_argument_that_names_nothing_is_told_in_its_place_and_the_others_go_on(
    predict: Call, tiny_data: Path, argument: str, reason: str
) -> None:
    Path("empty").mkdir()
    images = ["data/val/ants/0.jpg", "data/val/bees/0.jpg"]
    arguments = (images[0], argument, images[1], "--json")
    for cache in ((), ("--cache",)):
        result = predict(*arguments, *cache)
        assert result.exit_code == 1, result.output
        assert "1 of 3 images cannot be read" in result.stderr
        made = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["path"] for line in made] == [images[0], argument, images[1]]
        assert made[1]["reason"].startswith(reason) and "class" in made[0] and "class" in made[2]
    assert predict(*arguments, "--skip-unreadable").exit_code == 0


def test_json_lines_hold_all_classes_or_the_top_ones(predict: Call, tiny_data: Path) -> None:
    everything = lines(predict("data/val", "--json"))
    assert len(everything) == 8
    for line in everything:
        shares = line["probabilities"]
        assert isinstance(shares, dict)
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert line["class"] == next(iter(shares))
    two = lines(predict("data/val", "--json", "--top", "2"))
    for line, whole in zip(two, everything, strict=True):
        shares = whole["probabilities"]
        assert isinstance(shares, dict)
        assert line == whole | {"probabilities": dict(list(shares.items())[:2])}
    assert lines(predict("data/val", "--json", "--top", "1000")) == everything


def test_the_table_and_csv_say_the_same(predict: Call, tiny_data: Path) -> None:
    known = lines(predict("data/val", "--json"))
    table = [line.split("\t") for line in predict("data/val", "--top", "2").stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(predict("data/val", "--csv", "--top", "2").stdout)))
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


def test_unreadable_images_are_reported_in_their_place(predict: Call, tiny_data: Path) -> None:
    Path("data/val/ants/1.jpg").write_bytes(b"")
    piped = b"data/val/ants/0.jpg\ngone.jpg\ndata/val/ants/1.jpg\n\ndata/val/ants/2.png\n"
    expected = ["", "No such file or directory", "expected an image, found an empty file", ""]
    for cache in ([], ["--cache"]):
        result = predict("-", "--json", *cache, stdin=piped)
        assert result.exit_code == 1
        assert "2 of 4 images cannot be read" in result.stderr
        made = [json.loads(line) for line in result.stdout.splitlines()]
        for line, reason in zip(made, expected, strict=True):
            assert line.get("reason", "").startswith(reason)
            assert ("class" in line) != ("reason" in line)
    skipped = predict("-", "--skip-unreadable", stdin=piped)
    assert skipped.exit_code == 0
    assert skipped.stdout.splitlines()[1] == "gone.jpg\tcannot be read\tNo such file or directory"
    rows = list(csv.DictReader(io.StringIO(predict("-", "--csv", stdin=piped).stdout)))
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
def test_hostile_names_come_out_as_they_are(predict: Call, tiny_data: Path) -> None:
    Path("odd").mkdir()
    for name in HOSTILE:
        shutil.copy(tiny_data / "val/ants/0.jpg", Path("odd") / name)
    expected = sorted(f"odd/{name}" for name in HOSTILE)
    assert paths(predict("odd", "--json")) == expected
    piped = b"".join(os.fsencode(path) + b"\0" for path in expected)
    assert paths(predict("-", "-0", "--json", stdin=piped)) == expected
    done = predict("odd", "--csv")
    assert done.exit_code == 0, done.output
    text = done.stdout_bytes.decode("utf-8", "surrogateescape")
    assert [row["path"] for row in csv.DictReader(io.StringIO(text, newline=""))] == expected
    table = predict("odd").stdout.splitlines()
    assert [len(line.split("\t")) for line in table] == [3] * len(expected)
    assert "\x1b" not in "".join(table)


def test_the_cache_gives_what_it_has_and_takes_what_is_new(
    predict: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = lines(predict("data/val", "--json"))
    assert not Path("cache").exists()  # nothing is kept unless it is asked for
    assert lines(predict("data/val/ants", "--json", "--cache")) == plain[:4]
    assert lines(predict("data/val", "--json", "--cache")) == plain

    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(tlcache.networks.scoring, "load_network", refuse)
    assert lines(predict("data/val", "--json", "--cache")) == plain


def test_rows_of_embed_serve_predict(call: Call, tiny_data: Path, model_file: Path) -> None:
    assert call("embed", "data", *RANDOM).exit_code == 0
    before = set(Path("cache").rglob("*.h5"))
    words = "--json", "--cache", "--weights", "nowhere"
    assert len(lines(call("predict", model_file, "data", *words))) == 24
    assert set(Path("cache").rglob("*.h5")) == before


def test_other_weights_are_refused_before_anything_is_printed(
    call: Call, tiny_data: Path, model_file: Path
) -> None:
    result = call("predict", model_file, tiny_data, "--csv", "--weights", "random:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the model's trunk: expected mobilenet_v3_small with weights" in result.stderr


def test_a_finetuned_network_has_no_cache(call: Call, predict: Call, tiny_data: Path) -> None:
    trunk = small_trunk()
    state = {name: tensor.numpy() for name, tensor in trunk.module.state_dict().items()}
    saved(trunk, Path("tuned.safetensors"), network=state)
    arguments = "predict", "tuned.safetensors", "data/val", "--json"
    result = call(*arguments, "--cache")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--cache: expected a head on a frozen trunk, found a network that was" in result.stderr
    assert lines(call(*arguments)) == lines(predict("data/val", "--json"))


def test_options_that_make_no_sense_are_refused(predict: Call, tiny_data: Path) -> None:
    both = predict("data/val", "--json", "--csv")
    assert (both.exit_code, both.stdout) == (2, "")
    assert "--json --csv: expected one of them" in both.stderr
    assert predict("data/val", "--top", "0").exit_code == 2
    endless = predict("-", stdin=b"x" * 100_000)
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
