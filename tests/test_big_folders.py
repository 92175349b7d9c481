"""Folders of very many files, and caches of very many rows: memory, and what is read again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "million_files.py"
DIM = 512
PYTHON_AND_LIBRARIES = 16e6
"""Bytes that come with the first use of a library, whatever the number of files."""

if sys.platform != "linux":
    pytest.skip("peak memory is read from /proc", allow_module_level=True)


def test_ten_thousand_files_are_hashed_once_and_their_rows_read_in_bounded_memory(
    tmp_path: Path,
) -> None:
    figures = _measured(tmp_path, 10_000, 20_000, shard_mib=4)
    _check_files(figures["files"], 10_000)
    _check_rows(figures["rows"], 20_000, shard_bytes=4 << 20)


@pytest.mark.big
def test_a_million_files_are_hashed_once_and_their_rows_read_in_bounded_memory(
    tmp_path: Path,
) -> None:
    figures = _measured(tmp_path, 1_000_000, 1_000_000, shard_mib=64)
    _check_files(figures["files"], 1_000_000)
    _check_rows(figures["rows"], 1_000_000, shard_bytes=64 << 20)


def _measured(tmp_path: Path, files: int, rows: int, shard_mib: int) -> Any:
    options = {
        "--files": files,
        "--rows": rows,
        "--dim": DIM,
        "--shard-mib": shard_mib,
        "--repeats": 1,
        "--folder": tmp_path,
        "--json": tmp_path / "figures.json",
    }
    arguments = [str(word) for pair in options.items() for word in pair]
    run = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert f"{files:,} files" in run.stdout and f"{rows:,}" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    return json.loads((tmp_path / "figures.json").read_text())


def _check_files(steps: Any, count: int) -> None:
    first, second, loaded = steps["first"], steps["second"], steps["load"]
    assert first["files"] == second["files"] == loaded["files"] == count
    assert (first["opened"], second["opened"]) == (count, 0)
    assert first["wrong"] == second["wrong"] == 0
    for peak in (first["save_peak_bytes"], second["save_peak_bytes"], loaded["peak_bytes"]):
        assert peak < PYTHON_AND_LIBRARIES + 900 * count


def _check_rows(sizes: Any, most: int, shard_bytes: int) -> None:
    """Twice the rows take twice the features, and little besides."""
    assert [row["rows"] for row in sizes] == [most // 8, most // 4, most // 2, most]
    for row in sizes:
        count = row["rows"]
        assert row["verified"] == count and row["wrong"] == 0
        assert row["shards"] == -(-count // (shard_bytes // (4 * DIM)))
        assert row["feature_bytes"] == 4 * DIM * count
        # Some shards in hand at once, in bytes and as rows; and the names of all rows.
        fixed = PYTHON_AND_LIBRARIES + 6 * shard_bytes
        assert row["commit_peak_bytes"] < fixed + 100 * count
        assert row["verify_peak_bytes"] < fixed + 600 * count
        assert row["gather_peak_bytes"] < fixed + 600 * count + row["feature_bytes"]
