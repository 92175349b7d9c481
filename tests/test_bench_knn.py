"""The benchmark of neighbours in scripts/, run whole on a few rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "bench_knn.py"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_every_way_gives_the_same_classes(tmp_path: Path) -> None:
    words = (
        "--rows 300 --dim 64 --queries 20 --left-out 30 --compared 200 --asked 50 --k 20 --rounds 2"
    )
    command = [sys.executable, SCRIPT, *words.split(), "--json", tmp_path / "found.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == 6
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["large"]["rows"], found["large"]["left_out"]) == (300, 30)
    assert found["large"]["accuracy"] > 0.2
    compared = found["compared"]
    assert compared["agree"] == {"tlcache": 1, "numpy, all at once": 1, "scikit-learn": 1}
    assert compared["seconds"].keys() == compared["ratio"].keys() == compared["agree"].keys()
    assert {len(one["rounds"]) for one in compared["seconds"].values()} == {2}
