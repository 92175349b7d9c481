"""A disk that fills up, or that is only to be read, under a real run of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlcache.cache.identity import read_identity
from tlcache.cache.shards import read_shard
from tlcache.features.read import open_snapshot
from tlcache.trunks.engines import BOUNDS

SMALL = ("--trunk", "mobilenet_v3_small", "--weights", "random", "--resize", "36", "--crop", "32")
VIEWS = ("--views", "8")
# Some twelve rows a shard, so that several fit before the disk is full.
CODE = """
import resource, sys
import tlcache.features.missing
from tlcache.cli import main
tlcache.features.missing.COMMIT_BYTES = 30_000
if int(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv[1:] = sys.argv[2:]
main()
"""


def tlcache(*arguments: object, largest: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line, where no file may grow beyond ``largest`` bytes (0: any may)."""
    command = [sys.executable, "-W", "error", "-c", CODE, str(largest), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def fill(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes of the disk."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - free))
    return ballast


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One error in one line, with a normal exit code."""
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0] == done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    for word in words:
        assert word in errors[0], errors[0]


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


def rows_in(cache: Path) -> int:
    """How many rows there are; every shard is whole."""
    shards = [(path, read_identity(path.parents[1])) for path in cache.glob("*/shards/*")]
    return sum(len(read_shard(path, identity).views) for path, identity in shards)


def features_in(cache: Path) -> list[np.ndarray]:
    (snapshot,) = cache.glob("*-eval-*/snapshots/*.h5")
    features = open_snapshot(snapshot, views=8).read()
    assert features.train_views is not None
    return [features.features, features.train_views]


def check_resumes(data: Path, cache: Path, tmp_path: Path) -> None:
    """The same command makes the rest, and ends like a run that nothing interrupted."""
    before = rows_in(cache)
    done = tlcache("embed", data, *SMALL, *VIEWS, "--cache-dir", cache, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["embedded"] + result["reused"] == 24 and result["embedded"] > 0
    assert rows_in(cache) == 24 + 16 * 8 > before  # no row was made twice
    whole = tmp_path / "whole"
    assert tlcache("embed", data, *SMALL, *VIEWS, "--cache-dir", whole).returncode == 0
    for found, expected in zip(features_in(cache), features_in(whole), strict=True):
        # Rows of other batches may differ as much as the precision's word allows.
        bound = BOUNDS["fp32"] / 2 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_a_disk_that_fills_up_loses_nothing(disk: Path, tiny_data: Path, tmp_path: Path) -> None:
    cache = disk / "cache"
    ballast = fill(disk, free=200_000)
    done = tlcache("embed", tiny_data, *SMALL, *VIEWS, "--cache-dir", cache)
    refused(done, str(cache), "No space left on device; free some space", "goes on from there")
    assert temporaries(disk) == []
    assert 12 < rows_in(cache) < 24 + 16 * 8
    ballast.unlink()
    check_resumes(tiny_data, cache, tmp_path)


def test_a_file_that_may_not_grow_loses_nothing(tiny_data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert tlcache("embed", tiny_data, *SMALL, "--cache-dir", cache).returncode == 0
    done = tlcache("embed", tiny_data, *SMALL, *VIEWS, "--cache-dir", cache, largest=20_000)
    refused(done, str(cache), "expected a file that can be written, found File too large")
    assert temporaries(cache) == [] and rows_in(cache) == 24
    check_resumes(tiny_data, cache, tmp_path)


def test_a_disk_that_is_full_from_the_start(disk: Path, tiny_data: Path, tmp_path: Path) -> None:
    ballast = fill(disk, free=0)
    done = tlcache("embed", tiny_data, *SMALL, *VIEWS, "--cache-dir", disk / "cache")
    refused(done, str(disk), "No space left on device")
    assert [path for path in disk.rglob("*") if path.is_file()] == [ballast]
    ballast.unlink()
    check_resumes(tiny_data, disk / "cache", tmp_path)


@pytest.mark.parametrize("free", [0, 4096, 12288])
def test_a_run_that_cannot_be_kept_says_so(
    free: int, disk: Path, tiny_data: Path, tmp_path: Path
) -> None:
    where = ("--cache-dir", tmp_path / "cache", "--run-dir", disk / "run")
    ballast = fill(disk, free)
    done = tlcache("train", tiny_data, *SMALL, *where, "--quiet")
    refused(done, str(disk), "No space left on device")
    assert temporaries(disk) == []
    ballast.unlink()
    done = tlcache("train", tiny_data, *SMALL, *where)
    assert done.returncode == 0, done.stderr
    assert (disk / "run" / "model.safetensors").stat().st_size > 1000


def test_a_cache_that_is_only_to_be_read_reads(disk: Path, tiny_data: Path, tmp_path: Path) -> None:
    cache = disk / "cache"
    assert tlcache("embed", tiny_data, *SMALL, "--cache-dir", cache).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = {path: path.stat() for path in disk.rglob("*")}

    for source in (tiny_data, *cache.glob("*/snapshots/*.h5")):
        options = SMALL if source == tiny_data else ()
        done = tlcache("embed", source, *options, "--cache-dir", cache, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["embedded"] == 0
        run = tmp_path / f"run-{source.name}"
        done = tlcache("train", source, *options, "--cache-dir", cache, "--run-dir", run)
        assert done.returncode == 0, done.stderr
    assert tlcache("cache", "verify", "--cache-dir", cache).returncode == 0

    new = tiny_data / "train" / "ants" / "new.png"
    new.write_bytes((tiny_data / "train" / "ants" / "7.png").read_bytes() + b"\0")
    done = tlcache("embed", tiny_data, *SMALL, "--cache-dir", cache)
    refused(done, str(cache), "found Read-only file system; ")
    assert {path: path.stat() for path in disk.rglob("*")} == before
