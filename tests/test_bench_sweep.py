"""The benchmark of sweeps in scripts/, run whole on a few rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "bench_sweep.py"


def test_heads_side_by_side_are_those_apart_and_l_bfgs_finds_the_least_loss(tmp_path: Path) -> None:
    words = "--rows 30 --val 9 --dim 16 --side 2 --epochs 2 --many-rows 60 --strengths 3 --rounds 2"
    command = [sys.executable, SCRIPT, *words.split(), "--json", tmp_path / "found.json"]
    one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=one_thread)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    heads = found["heads"]
    assert heads["heads"] == 16 and len(heads["seconds"]) == len(heads["over_one_head"]) == 3
    assert heads["largest_difference"] < 1e-6
    assert heads["largest_difference_of_other_steps"] < 1e-5
    assert [len(case["c"]) for case in found["lbfgs"]] == [3, 3]
    for case in found["lbfgs"]:
        assert case["seconds"].keys() == case["over_own"].keys() == case["above_least"].keys()
        assert max(case["above_least"]["tlcache logistic_path"]) < 1e-6
        assert {len(one["rounds"]) for one in case["seconds"].values()} == {2}
