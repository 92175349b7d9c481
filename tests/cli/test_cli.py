"""What a user meets: exit codes, words, and that nothing heavy is in the way of --help."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from called import RANDOM, SMALL, Call, alone, failed
from PIL import Image
from written_runs import answers, written_run

import tlcache
from tlcache.cli import PANELS
from tlcache.cli.options import PANELS as OPTION_PANELS

WORDS = [command.name for commands in PANELS.values() for command in commands]


@pytest.mark.parametrize("command", [[], *([word] for word in (*WORDS, "cache", "runs"))])
def test_help_ends_with_a_real_command(call: Call, command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert " ".join(["tlcache", *command]) in result.stdout.rpartition("╯")[2]


def test_help_of_check_says_when_the_exit_code_is_1(call: Call) -> None:
    assert "Exits with 1 if" in call("check", "--help").stdout


def test_help_stands_in_panels(call: Call) -> None:
    said = call("--help").stdout
    places = [said.index(f"─ {panel} ─") for panel in (*PANELS, "Look after")]
    assert places == sorted(places)
    train = call("train", "--help").stdout
    places = [train.index(f"─ {panel} ─") for panel in ("Options", *OPTION_PANELS)]
    assert places == sorted(places)


def test_the_version_is_printed_alone(call: Call) -> None:
    assert call("--version").stdout == f"tlcache {tlcache.__version__}\n"


def test_training_again_embeds_nothing_and_imports_no_torch(call: Call, tiny_data: Path) -> None:
    command = ("train", tiny_data, *RANDOM, "--json", "--no-figures")
    results = []
    for _ in range(2):
        said, loaded = alone(*command)
        results.append((json.loads(said), "torch" in loaded))
    (first, torch_first), (second, torch_second) = results
    assert (first["embedded"], first["reused"]) == (24, 0)
    assert (second["embedded"], second["reused"]) == (0, 24)
    assert (torch_first, torch_second) == (True, False)
    assert first["evaluation"] == second["evaluation"]
    assert second["selected_on"] == "val"


def test_train_evaluate_predict_show_start_from_the_run(call: Call, tiny_data: Path) -> None:
    trained = call("train", tiny_data, *RANDOM, "--run-dir", "run", "--json")
    assert trained.exit_code == 0, trained.output
    for name in ("model.safetensors", "run.json", "metrics.json"):
        assert Path("run", name).is_file()
    for name in ("curves.png", "confusion.png", "calibration.png", "predictions.png"):
        with Image.open(Path("run", name)) as picture:
            assert picture.format == "PNG"
    about = json.loads(Path("run/run.json").read_text())
    assert about["options"]["epochs"] == 25
    assert {"torch", "torchvision", "pillow"} <= about["versions"].keys()

    evaluated = call("evaluate", "run", tiny_data, "--json")
    expected = json.loads(trained.stdout)["evaluation"]["val"]
    assert json.loads(evaluated.stdout) == expected | {"on": "val", "selected_on": "val"}

    images = sorted((tiny_data / "val" / "ants").iterdir())
    lines = call("predict", "run", *images, "--json").stdout.splitlines()
    predicted = [json.loads(line) for line in lines]
    assert [p["path"] for p in predicted] == [str(i) for i in images]
    hits = sum(p["class"] == "ants" for p in predicted)
    assert hits == expected["confusion"][0][0]
    assert sum(predicted[0]["probabilities"].values()) == pytest.approx(1)

    table = call("predict", "run", images[0]).stdout.rstrip("\n").split("\t")
    assert table[:2] == [str(images[0]), predicted[0]["class"]]

    assert call("show", "run", "--output", "p.png", "--no-window").exit_code == 0
    assert call("show", tiny_data, "--output", "a.png", "--no-window").exit_code == 0
    assert Path("p.png").is_file() and Path("a.png").is_file()


def test_finetune_and_train_are_judged_by_the_same_function(
    call: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tlcache.reports.run

    judged = []
    real = tlcache.reports.run.evaluate  # type: ignore[attr-defined]

    def spy(logits: object, labels: object, classes: object) -> object:
        judged.append(classes)
        return real(logits, labels, classes)  # type: ignore[arg-type]

    monkeypatch.setattr(tlcache.reports.run, "evaluate", spy)
    recipe = ("--epochs", "1", "--no-figures", "--json", *RANDOM)
    for command in ("train", "finetune"):
        result = call(command, tiny_data, *recipe, "--run-dir", command)
        assert result.exit_code == 0, result.output
        assert set(json.loads(result.stdout)["evaluation"]) == {"train", "val"}
    assert len(judged) == 4
    evaluated = call("evaluate", "finetune", tiny_data, "--json")
    assert evaluated.exit_code == 0, evaluated.output


def test_a_class_name_with_spaces_and_korean_letters_works(call: Call, tiny_data: Path) -> None:
    for split in ("train", "val"):
        (tiny_data / split / "ants").rename(tiny_data / split / "개미 두 마리")
    result = call("train", tiny_data, *RANDOM, "--run-dir", "run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["evaluation"]["val"]["classes"] == ["bees", "개미 두 마리"]


def test_a_snapshot_trains_without_the_images(call: Call, tiny_data: Path) -> None:
    assert call("embed", tiny_data, *RANDOM).exit_code == 0
    tiny_data.rename(tiny_data.with_name("gone"))
    snapshot = next(Path("cache").glob("*/snapshots/*.h5"))
    result = call("train", snapshot, "--json", "--run-dir", "run")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["embedded"] == 0
    assert call("evaluate", "run", snapshot).exit_code == 0
    assert call("train", snapshot, *RANDOM, "--run-dir", "run2").exit_code == 0
    for options, words in (
        (["--split", "0.5,0.5"], "--split: expected none beside a snapshot, found 0.5,0.5; leave"),
        (["--trunk", "resnet34"], "--trunk: expected the snapshot's own mobilenet_v3_small, found"),
        (["--dtype", "float16"], "--dtype: expected the snapshot's own float32, found float16"),
        (["--resize", "300"], "--resize: expected the snapshot's own 256, found 300; leave it out"),
        (["--weights", "random:1"], "--weights: expected the snapshot's own "),
    ):
        failed(call("train", snapshot, *options, "--run-dir", "run3"), words)
    assert not Path("run3").exists()


BAD_IMAGES = {
    "truncated.jpg": "truncated",
    "zero.jpg": "0 bytes",
    "text.jpg": "no image",
    "huge.png": "400,000,000 pixels",
}


def put_bad_images(folder: Path) -> None:
    whole = next(folder.glob("*.jpg")).read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no image")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")


def test_unreadable_images_are_all_named_and_the_others_are_kept(
    call: Call, tiny_data: Path
) -> None:
    put_bad_images(tiny_data / "train" / "ants")
    result = call("embed", tiny_data, *RANDOM, "--json")
    failed_line = result.stderr.strip().splitlines()[-1]
    assert result.exit_code == 1
    assert failed_line.startswith("error: ") and "4 that cannot" in failed_line
    report = json.loads(result.stdout)
    assert report["embedded"] == 24
    assert {Path(u["path"]).name for u in report["unreadable"]} == BAD_IMAGES.keys()
    for name in BAD_IMAGES:
        assert f"train/ants/{name}" in result.stderr

    skipped = call("train", tiny_data, *RANDOM, "--skip-unreadable", "--json", "--no-figures")
    assert skipped.exit_code == 0, skipped.output
    trained = json.loads(skipped.stdout)
    assert (trained["embedded"], trained["reused"]) == (0, 24)
    assert len(trained["unreadable"]) == 4
    assert trained["evaluation"]["train"]["n"] == 16


@pytest.mark.parametrize(("name", "reason"), BAD_IMAGES.items())
def test_each_unreadable_image_has_its_reason(
    call: Call, tiny_data: Path, name: str, reason: str
) -> None:
    put_bad_images(tiny_data / "val" / "bees")
    for other in BAD_IMAGES.keys() - {name}:
        (tiny_data / "val" / "bees" / other).unlink()
    failed(call("embed", tiny_data, *RANDOM), f"val/bees/{name}", reason, "--skip-unreadable")


def test_a_missing_folder_names_the_nearest_that_exists(call: Call, tiny_data: Path) -> None:
    failed(call("train", tiny_data / "no" / "such"), "no/such", f"{tiny_data}, which holds train")


def test_an_empty_folder(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed(call("embed", tmp_path / "empty"), "train/ and val/", "an empty folder")


def test_one_class_only(call: Call, tiny_data: Path) -> None:
    import shutil

    shutil.rmtree(tiny_data / "train" / "bees")
    shutil.rmtree(tiny_data / "val" / "bees")
    failed(call("train", tiny_data, *RANDOM), "two classes", "one class only (ants)")


def test_an_unknown_trunk_suggests_the_nearest(call: Call, tiny_data: Path) -> None:
    failed(call("train", tiny_data, "--trunk", "resnt18"), "resnt18", "resnet18", code=2)


def test_weights_of_another_network(call: Call, tiny_data: Path, mobilenet_weights: Path) -> None:
    result = call("train", tiny_data, "--trunk", "resnet18", "--weights", mobilenet_weights)
    failed(result, str(mobilenet_weights), "resnet18", "conv1.weight")


def test_corrupt_weights(call: Call, tiny_data: Path, mobilenet_weights: Path) -> None:
    Path("w.pth").write_bytes(mobilenet_weights.read_bytes()[:100_000])
    failed(call("train", tiny_data, "--trunk", "mobilenet_v2", "--weights", "w.pth"), "w.pth")


def test_cuda_without_cuda(call: Call, tiny_data: Path) -> None:
    failed(call("embed", tiny_data, *RANDOM, "--device", "cuda"), "cuda", "--device")


def test_no_epochs(call: Call, tiny_data: Path) -> None:
    for command in ("train", "finetune"):
        failed(call(command, tiny_data, *RANDOM, "--epochs", "0"), "--epochs", "over 0", code=2)


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_a_cache_that_cannot_be_written(call: Call, tiny_data: Path, tmp_path: Path) -> None:
    # A file where the folder should be: no user, not even root, can make a folder there.
    Path("blocked").write_text("")
    failed(call("embed", tiny_data, *RANDOM, "--cache-dir", "blocked/cache"), "--cache-dir")


def test_a_model_that_is_none(call: Call, tiny_data: Path) -> None:
    Path("model.safetensors").write_bytes(b"\x00" * 100)
    failed(call("evaluate", "model.safetensors", tiny_data), "model.safetensors", "a model")
    failed(call("predict", "nowhere", tiny_data), "nowhere", "no such file")


def test_a_head_on_another_trunk_is_refused(call: Call, tiny_data: Path) -> None:
    call("train", tiny_data, *RANDOM, "--run-dir", "run", "--no-figures")
    result = call("evaluate", "run", tiny_data, "--weights", "random:1")
    failed(result, "trained on", "--weights")


def test_random_weights_are_said_to_be_random_everywhere(call: Call, tiny_data: Path) -> None:
    short = (tiny_data, *RANDOM, "--epochs", "1")
    run = (*short, "--no-figures", "--json", "--run-dir")
    image = next((tiny_data / "val" / "ants").iterdir())
    for command in (
        ("embed", tiny_data, *RANDOM),
        ("train", *run, "head"),
        ("finetune", *run, "network"),
        ("evaluate", "head", tiny_data),
        ("evaluate", "network", tiny_data),
        ("predict", "network", image),
        ("bench", *short),
    ):
        result = call(*command)
        assert result.exit_code == 0, result.output
        assert "learned nothing" in result.stderr, command
        if "--json" in command:
            assert json.loads(result.stdout)["weights"] == "random"


def test_ignored_files_are_counted_in_one_line(call: Call, tiny_data: Path) -> None:
    (tiny_data / "train" / "ants" / "imageNotFound.gif").write_bytes(b"GIF89a")
    assert "ignored 1 file" in call("embed", tiny_data, *RANDOM).stderr


def test_a_run_is_not_overwritten(call: Call, tiny_data: Path) -> None:
    command = ("train", tiny_data, *RANDOM, "--run-dir", "run", "--no-figures")
    assert call(*command).exit_code == 0
    failed(call(*command), "an earlier run", "another folder")


@pytest.mark.parametrize(
    "words",
    [
        "train data --weights random --epochs 0",
        "train data --epochs x",
        "train data --lr nan",
        "train data --seed -1",
        "train data --workers none",
        "train data --views -1",
        "train data --precision double",
        "train data --trunk nonsense",
        "train data --weights random:x",
        "train data --split 0.5",
        "train data --split a,b",
        "train data --weights random --mean 1,2",
        "embed data --weights random --crop 0",
        "embed data --weights random --dtype int8",
        "embed data --weights random --device tpu",
        "embed data --weights random --engine jax",
        "finetune data --bn off --freeze",
        "finetune data --views 0",
        "finetune data --weights random --resume",
        "sweep data --lr 0",
        "sweep data --folds 1",
        "crossval data --repeats 0",
        "crossval data --groups g.csv --group-pattern (.)",
        "crossval data --group-pattern (",
        "fewshot data --shots 0",
        "fewshot data --on train",
        "knn data --k 0",
        "knn data --temperature 0",
        "check data --threshold 2",
        "check data --imbalance 0",
        "bench data --contenders none",
        "export-features data f.csv",
        "export-features data f.npz --on none",
        "export run --format word",
        "export run --format safetensors --preprocess",
        "map run data --method umap",
        "evaluate run data --on all",
        "predict run data --json --csv",
        "data nonsense there",
        "nonsense",
    ],
)
def test_wrong_usage_exits_with_2_whoever_notices_it(
    call: Call, tiny_data: Path, words: str
) -> None:
    written_run(Path("run"), {"val": answers(4, 2, 1)})
    result = call(*words.split())
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "words",
    [
        "train nowhere",
        "train data --weights nowhere.pth",
        "train data --trunk resnet18 --weights random --split 0.5,0.5",
        "train data --run-dir run",
        "embed data --weights random --device cuda:7",
        "finetune data --resume --run-dir data",
        "evaluate run data --on test",
        "evaluate nowhere data",
        "crossval data --weights random --folds 99",
        "crossval data --group-pattern (x)",
        "export run --output run/model.safetensors",
        "export-features data there.npz",
        "export-features data nowhere/f.npz",
        "report run --output there.npz",
        "show nowhere",
        "cache ls",
        "runs ls nowhere",
    ],
)
def test_what_cannot_be_done_here_exits_with_1(call: Call, tiny_data: Path, words: str) -> None:
    written_run(Path("run"), {"val": answers(4, 2, 1)})
    Path("there.npz").write_bytes(b"")
    failed(call(*words.split()), code=1)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("MNN", "embed data --engine mnn"),
        ("onnx", "export run --format onnx"),
        ("pyarrow", "export-features data f.parquet"),
    ],
)
def test_a_package_that_is_not_there_is_no_wrong_usage(
    call: Call, tiny_data: Path, package: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_run(Path("run"), {"val": answers(4, 2, 1)})
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: find(name, *more) if name != package else None,
    )
    command, what, *options = words.split()
    small = SMALL if command == "embed" else ()
    failed(call(command, what, *small, *options), package, "pip install", code=1)
