"""Ctrl-C and SIGTERM: one line, the exit code that shells expect, and nothing lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_trunk import load_small, make_images
from typer.testing import CliRunner

import tlcache.trunks.load
from tlcache.cli import app
from tlcache.features.read import open_snapshot

STOPPED = "stopped; what was finished is kept, and the same command goes on from there"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# The command line with the small network; what is slow says when it has been at it for a while.
CODE = """
import sys, time
import small_trunk, tlcache.features.embed, tlcache.trunks.forward_pass, tlcache.cache.snapshots
import tlcache.heads.train, tlcache.trunks.load
from tlcache.cli import main
slow = sys.argv[1]
tlcache.trunks.load.load_trunk = lambda *_: small_trunk.small_trunk()
tlcache.features.missing.COMMIT_SECONDS = 0.05
seen, late = 0, 12 if slow == "training" else 28  # of 25 epochs, of 48 images
def slowed(function, seconds):
    def wrapped(*arguments, **options):
        global seen
        seen += 1
        if seen == late:
            print("going", file=sys.stderr, flush=True)
        if seen >= late:
            time.sleep(seconds)
        return function(*arguments, **options)
    return wrapped
if slow == "pass":
    tlcache.trunks.forward_pass.decode = slowed(tlcache.trunks.forward_pass.decode, 0.2)
if slow == "reading":
    tlcache.cache.snapshots.digest_file = slowed(tlcache.cache.snapshots.digest_file, 0.2)
if slow == "training":
    tlcache.heads.train.train_epoch = slowed(tlcache.heads.train.train_epoch, 0.2)
sys.argv[1:] = sys.argv[2:]
main()
"""


def start(slow: str, *arguments: object) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    command = [sys.executable, "-W", "error", "-c", CODE, slow, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=here)


def interrupted(running: subprocess.Popen[str], *signals: signal.Signals) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr of a run that is stopped once it is at it."""
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        if line == "going\n":
            break
        said.append(line)
    for number in signals:
        running.send_signal(number)
        time.sleep(0.02)
    _, rest = running.communicate(timeout=60)
    return running.returncode, [line.rstrip() for line in [*said, *rest.splitlines()]]


def finished(*arguments: object) -> str:
    """What a run that nothing stops prints; it needs no interpreter of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tlcache.trunks.load, "load_trunk", load_small)
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(cache: Path) -> np.ndarray:
    (snapshot,) = cache.glob("*/snapshots/*.h5")
    return open_snapshot(snapshot).read().features


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("signals") / "data", train=20, val=4)


@pytest.fixture(scope="module")
def whole(data: Path) -> np.ndarray:
    """The rows of a run that nothing stops."""
    finished("embed", data, "--cache-dir", data.with_name("whole"), "--weights", "random")
    return rows(data.with_name("whole"))


@pytest.mark.parametrize(
    ("slow", "signals"),
    [
        ("pass", [signal.SIGINT]),
        ("pass", [signal.SIGTERM]),
        ("pass", [signal.SIGINT] * 3),
        ("reading", [signal.SIGINT]),
    ],
)
def test_an_embed_that_is_stopped_goes_on_where_it_was(
    slow: str, signals: list[signal.Signals], data: Path, whole: np.ndarray, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    running = start(slow, "embed", data, "--cache-dir", cache, "--weights", "random")
    code, said = interrupted(running, *signals)
    assert code == CODES[signals[0]], said
    assert said[-1] == STOPPED and len(said) == 2 and "learned nothing" in said[0]

    rest = finished("embed", data, "--cache-dir", cache, "--weights", "random", "--json")
    result = json.loads(rest)
    assert result["embedded"] + result["reused"] == 48
    assert (result["reused"] >= 8) == (slow == "pass")  # what was made is not made again
    assert [path for path in cache.rglob(".*") if path.is_file()] == []
    np.testing.assert_allclose(rows(cache), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_that_is_stopped_leaves_no_run(
    number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    where = ["--cache-dir", tmp_path / "cache", "--run-dir", tmp_path / "run"]
    running = start("training", "train", data, *where, "--weights", "random", "--quiet")
    code, said = interrupted(running, number)
    assert (code, said) == (CODES[number], [STOPPED])
    assert not (tmp_path / "run" / "model.safetensors").exists()
    finished("train", data, *where, "--weights", "random", "--no-figures")
    assert (tmp_path / "run" / "model.safetensors").exists()
