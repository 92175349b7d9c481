"""The benchmarks in scripts/, each run whole on tiny inputs: what they write and what agrees."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tlcache.trunks.engines import BOUNDS

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run side by side, and threads that spin while they wait would take their cores."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


def test_the_pass_benchmark_compares_every_contender_s_features_with_the_tutorial_s(
    tiny_data: Path, tmp_path: Path
) -> None:
    words = (
        "--rounds=1 --images=8 --trunk=squeezenet1_1 --forward=8 --frozen --epochs=2 --without=timm"
    )
    without = "--without=tlcache mnn fast"
    found = _run("bench_pass.py", tmp_path, tiny_data, *words.split(), without)
    assert (found["trunk"], found["weights"], found["images"]) == ("squeezenet1_1", "random", 8)
    contenders, left_out = found["contenders"], found["left_out"]
    ours = {name for name in contenders if name.startswith("tlcache ")}
    assert {"tutorial", "tlcache torch fp32"} <= contenders.keys()
    assert (importlib.util.find_spec("MNN") is None) == ("tlcache mnn fp32" in left_out)
    assert not contenders.keys() & left_out.keys()
    assert {"img2vec_pytorch", "thingsvision"} <= contenders.keys() | left_out.keys()
    assert {"timm", "tlcache mnn fast"} <= left_out.keys()
    for name in ours:
        one = contenders[name]
        bound = BOUNDS[name.split()[2]] / 2
        assert one["largest_difference"] < bound, name
        assert one["smallest_cosine"] > 1 - bound
        # No seconds are lost between the parts and the whole.
        parts = one["pass_seconds"]["median"] + one["setup_seconds"]["median"]
        assert one["setup_seconds"]["min"] > 0
        assert 0 < parts <= one["seconds"]["median"]
        assert one["ratio"]["median"] == pytest.approx(
            contenders["tutorial"]["seconds"]["median"] / one["pass_seconds"]["median"]
        )
    assert found["forward"].keys() == found["frozen"]["ratio"].keys() == ours
    assert (found["preprocess"]["identical"], found["preprocess"]["of"]) == (8, 8)
    frozen = found["frozen"]
    assert frozen["estimated_seconds"] == 2 * frozen["epoch_seconds"]


def test_the_finetuning_benchmark_times_four_loops(tiny_data: Path, tmp_path: Path) -> None:
    words = "--rounds=1 --images=4 --trunk=squeezenet1_1"
    found = _run("bench_finetune.py", tmp_path, tiny_data, *words.split(), figure=False)
    names = {
        f"{way}, {whose}" for way in ("finetuning", "frozen") for whose in ("tutorial", "tlcache")
    }
    assert found.keys() == names
    assert all(len(one["rounds"]) == 1 and one["median"] > 0 for one in found.values())


def test_the_heads_benchmark_ends_with_the_weights_of_torch_s_own_loop(tmp_path: Path) -> None:
    words = (
        "--rows 18 --val 6 --large-rows 45 --large-classes 5 --large-val 9 --dim 16 --epochs 3 "
        "--rounds 2 --tutorial-steps 6 --many 8 --separate 3"
    )
    found = _run("bench_heads.py", tmp_path, *words.split())
    compiled = importlib.util.find_spec("numba") is not None
    assert (found["numba"] is not None) == compiled
    small, large = found["one"]
    assert (small["rows"], small["classes"], large["rows"], large["classes"]) == (18, 2, 45, 5)
    assert (small["check_epochs"], large["check_epochs"]) == (3, 1)
    assert (small["tutorial_share"], large["tutorial_share"]) == (1.0, 0.5)
    for case in found["one"]:
        off = case["largest_difference"]
        assert off.keys() - {"numba steps"} == {"numpy steps", "train_head"}
        assert ("numba steps" in off) == compiled
        assert max(off.values()) < 1e-6
        assert case["seconds"].keys() == case["ratio"].keys() == {"tutorial"} | off.keys()
    assert {len(one["rounds"]) for one in small["seconds"].values()} == {2}
    many = found["many"]
    assert (many["heads"], many["timed_one_by_one"]) == (8, 3)
    assert many["largest_difference"] < 1e-6
    assert len(many["seconds"]) == len(many["over_one_tutorial"]) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_the_scale_benchmark_reads_back_every_row_that_it_committed(tmp_path: Path) -> None:
    found = _run("bench_scale.py", tmp_path, "--most", "20000", "--dim", "8")
    assert [size["rows"] for size in found["sizes"]] == [20, 200, 2_000, 20_000]
    for size in found["sizes"]:
        assert size["missing"] == size["held"] == size["rows"]
        assert size["wrong"] == 0 and size["shards"] >= 1
        assert size["feature_bytes"] == 4 * 8 * size["rows"]
        peaks = [size[f"{step}_peak_bytes"] for step in ("open", "has", "gather", "train")]
        assert peaks == sorted(peaks)
    steps = {name for name in found["slopes"] if name.endswith("_seconds")}
    assert len(steps) == 6 and len(found["slopes"]) == 12
    assert all(found["slopes"][name]["all"] is not None for name in steps)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_every_way_to_neighbours_gives_the_same_classes(tmp_path: Path) -> None:
    words = (
        "--rows 300 --dim 64 --queries 20 --left-out 30 --compared 200 --asked 50 --k 20 --rounds 2"
    )
    found = _run("bench_knn.py", tmp_path, *words.split(), figure=False)
    assert (found["large"]["rows"], found["large"]["left_out"]) == (300, 30)
    assert found["large"]["row_bytes"] == 4 * 64 * 320
    compared = found["compared"]
    assert compared["agree"] == {"tlcache": 1, "numpy, all at once": 1, "scikit-learn": 1}
    assert compared["seconds"].keys() == compared["ratio"].keys() == compared["agree"].keys()
    assert {len(one["rounds"]) for one in compared["seconds"].values()} == {2}


def test_heads_side_by_side_are_those_apart_and_l_bfgs_finds_the_least_loss(tmp_path: Path) -> None:
    words = "--rows 30 --val 9 --dim 16 --side 2 --epochs 2 --many-rows 60 --strengths 3 --rounds 2"
    found = _run("bench_sweep.py", tmp_path, *words.split(), figure=False)
    heads = found["heads"]
    assert heads["heads"] == 16 and len(heads["seconds"]) == len(heads["over_one_head"]) == 3
    assert heads["largest_difference"] < 1e-6
    assert heads["largest_difference_of_other_steps"] < 1e-5
    assert [len(case["c"]) for case in found["lbfgs"]] == [3, 3]
    for case in found["lbfgs"]:
        assert case["seconds"].keys() == case["over_own"].keys() == case["above_least"].keys()
        assert max(case["above_least"]["tlcache logistic_path"]) < 1e-6
        assert {len(one["rounds"]) for one in case["seconds"].values()} == {2}


def _run(script: str, folder: Path, *words: object, figure: bool = True) -> Any:
    """What a benchmark writes, once it has been seen to draw its figure and print a table."""
    command = [sys.executable, SCRIPTS / script, *words]
    files = ["--json", folder / "found.json", "--figure", folder / "found.png"][
        : 4 if figure else 2
    ]
    run = subprocess.run([*map(str, (*command, *files))], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr and "Warning" not in run.stderr, run.stderr
    assert len(run.stdout.splitlines()) > 5
    if figure:
        with Image.open(folder / "found.png") as image:
            assert min(image.size) > 300
    return json.loads((folder / "found.json").read_text())
