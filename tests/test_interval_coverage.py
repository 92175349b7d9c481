"""The script that measures what intervals cover, on few draws and against naive sums."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom, binomtest, multinomial

from tlcache.evaluation.comparison import bootstrap_interval

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "interval_coverage.py"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_coverage_is_that_of_a_naive_sum_over_all_outcomes(tmp_path: Path) -> None:
    words = "--sizes=7,12 --accuracies=0.8,0.96 --draws=400 --resamples=300"
    done = run(*words.split(), "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["n"], row["accuracy"]) for row in found["accuracy"]] == [
        *((7, 0.8), (7, 0.96)),
        *((12, 0.8), (12, 0.96)),
    ]
    for row in found["accuracy"]:
        n, share = row["n"], row["accuracy"]
        for name, method in (("Wilson", "wilson"), ("Clopper-Pearson", "exact")):
            covered = 0.0
            for k in range(n + 1):
                theirs = binomtest(k, n).proportion_ci(method=method)
                covered += binom.pmf(k, n, share) * (theirs.low <= share <= theirs.high)
            assert row["exact"][name] == pytest.approx(covered)
        assert row["simulated"] == pytest.approx(row["exact"]["Wilson"], abs=0.05)
        assert row["exact"]["Clopper-Pearson"] >= 0.95
        assert {"Agresti-Coull", "Jeffreys", "mid-p"} < row["exact"].keys()
    for row in found["difference"]:
        n, pair = row["n"], (row["only_a"], row["only_b"])
        covered = 0.0
        for a in range(n + 1):
            for b in range(n + 1 - a):
                low, high = bootstrap_interval(n - a - b, a, b, 0, draws=300)
                holds = low - 1e-9 <= pair[0] - pair[1] <= high + 1e-9
                covered += holds * multinomial.pmf([a, b, n - a - b], n, [*pair, 1 - sum(pair)])
        assert row["exact"]["tlcache"] == pytest.approx(covered, abs=1e-5)
        assert row["simulated"] == pytest.approx(covered, abs=0.05)
    assert len(found["overall"]) == 10 and len(found["difference"]) == 10
    lines = done.stdout.splitlines()
    assert len(lines) == (2 + 4) + (3 + 10) + (3 + 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--sizes=", "--sizes: expected numbers from 1 to 10000 with commas"),
        ("--accuracies=nan", "--accuracies: expected numbers from 0 to 1 with commas"),
    ],
)
def test_numbers_that_are_none_are_refused(words: str, said: str) -> None:
    done = run(words)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and said in done.stderr
