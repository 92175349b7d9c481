"""Ctrl-C by somebody in a hurry, at many moments: what was committed stays, whatever happens."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import committed, images_of, outcome
from isolated import Ended, Running, isolated
from small_trunk import load_small, make_images

import tlcache.cli
import tlcache.features.embed
import tlcache.features.missing
import tlcache.trunks.forward_pass
import tlcache.trunks.load
from tlcache.data.images import decode
from tlcache.features.read import Features
from tlcache.trunks.forward_pass import Made

IMAGES = 48
STOPPED = "stopped; what was finished is kept, and the same command goes on from there\n"


def embed_slowly(data: Path, cache: Path, said: Path, made: Path) -> int:
    """The command line, with images that take their time; its exit code.

    What it says goes to one file, and the digest of each image that is handed over to another.
    """
    add = tlcache.features.missing.RowBuffer.add

    def logged(buffer: Any, result: Made) -> Made:
        kept = add(buffer, result)
        with made.open("a") as log:
            log.write(f"{result.job.digest.hex()}\n")
        return kept

    def slow(content: bytes, path: Path) -> Any:
        time.sleep(0.01)
        return decode(content, path)

    tlcache.trunks.load.load_trunk = load_small
    tlcache.features.missing.RowBuffer.add = logged  # type: ignore[assignment, method-assign]
    tlcache.trunks.forward_pass.decode = slow  # type: ignore[attr-defined, assignment]
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    sys.argv = ["tlcache", "embed", str(data), "--trunk", "small", "--weights", "random:0"]
    sys.argv += ["--cache-dir", str(cache), "--quiet", "--workers", "1"]
    return _exit_code()


def stop_again_and_again(said: Path) -> int:
    """A command that is stopped, and stopped again at every line that it says; its exit code."""
    say = tlcache.cli._say

    def interrupted(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def stop(line: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        say(line)
        os.kill(os.getpid(), signal.SIGTERM)

    tlcache.cli._say = stop
    tlcache.features.embed.embedding_of = interrupted  # type: ignore[assignment]
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    sys.argv = ["tlcache", "embed", str(said.parent / "data"), "--quiet"]
    return _exit_code()


def _exit_code() -> int:
    try:
        tlcache.cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _stopped(data: Path, folder: Path, rows: int, pause: float | None) -> Ended:
    """A run that is stopped when so many images were handed over; and once more, after a pause."""
    made = folder / "made"
    running = Running(embed_slowly, data, folder / "cache", folder / "said", made)
    while running.process.is_alive() and (not made.exists() or made.stat().st_size < 65 * rows):
        time.sleep(0.001)
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGINT)
    return running.end(60, None if pause is None else signal.SIGINT, after=pause or 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("stopped") / "data", train=20, val=4)


@pytest.fixture(scope="module")
def whole(data: Path) -> Features:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tlcache.trunks.load, "load_trunk", load_small)
        return outcome(data, data.parent / "whole", "small", "random").features


def _check(ended: Ended, data: Path, folder: Path, whole: Features) -> None:
    """One line and the exit code; a sound cache, in which the next run makes the rest."""
    assert ended.value == 130, ended.error
    assert (folder / "said").read_text() == STOPPED
    assert [path for path in (folder / "cache").rglob(".*") if path.is_file()] == []
    before = len(committed(folder / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tlcache.trunks.load, "load_trunk", load_small)
        done = outcome(data, folder / "cache", "small", "random")
    assert done.embedded == IMAGES - before and done.said == []
    assert done.features.paths == whole.paths
    # The last bits of a feature depend on the images that share its batch.
    np.testing.assert_allclose(done.features.features, whole.features, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 12, 30])
def test_what_was_made_is_committed_before_the_run_ends(
    rows: int, data: Path, whole: Features, tmp_path: Path
) -> None:
    ended = _stopped(data, tmp_path, rows, pause=None)
    made = {bytes.fromhex(line) for line in (tmp_path / "made").read_text().split()}
    there = images_of(committed(tmp_path / "cache"))
    assert rows <= len(made) < IMAGES
    assert made <= there  # and what the threads had in hand besides
    _check(ended, data, tmp_path, whole)


def test_nothing_spoils_the_last_line(data: Path) -> None:
    ended = isolated(stop_again_and_again, data.parent / "said")
    assert ended.value == 130, ended.error
    assert (data.parent / "said").read_text() == STOPPED


@pytest.mark.parametrize("seed", range(4))
def test_who_presses_twice_leaves_a_sound_cache(
    seed: int, data: Path, whole: Features, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    for number in range(3):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        ended = _stopped(data, folder, rng.randrange(1, 33), pause=rng.uniform(0, 0.08))
        _check(ended, data, folder, whole)


LOST = """
import signal, sys, time, weakref
import tlcache.cli

class Thing:
    pass

def work():
    thing = Thing()
    seen = weakref.ref(thing, lambda _: signal.raise_signal(signal.{name}))
    del thing
    time.sleep(20)
    print("went on")

tlcache.cli.app = work
try:
    tlcache.cli.main()
except KeyboardInterrupt as stop:
    print("stopped", type(stop).__name__)
"""


@pytest.mark.parametrize(
    ("name", "kind"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "_Terminated")]
)
def test_a_signal_that_python_drops_in_a_finaliser_still_stops(name: str, kind: str) -> None:
    code = LOST.replace("{name}", name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"stopped {kind}\n", "")
