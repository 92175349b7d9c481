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
from called import RANDOM, Call
from small_trunk import load_small, make_images
from typer.testing import CliRunner

import tlcache.trunks.load
from tlcache.cli import app
from tlcache.features.read import open_snapshot

STOPPED = "stopped; what was finished is kept, and the same command goes on from there"
FROM_CACHE = (
    "stopped; features that were made are in the cache, and the same command begins the rest anew"
)
NEW_PLACES = f"{FROM_CACHE} (--csv and --tensorboard want new places)"
ANEW = "stopped; nothing is left half done, and the same command begins anew"
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
    assert (code, said) == (CODES[number], [NEW_PLACES])
    assert not (tmp_path / "run").exists()
    finished("train", data, *where, "--weights", "random", "--no-figures")
    assert (tmp_path / "run" / "model.safetensors").exists()


LONG = {
    "embed": (("embed", "{data}"), "features.embed.embedding_of", STOPPED),
    "data": (("data", "hymenoptera", "new"), "data.examples.fetch_hymenoptera", STOPPED),
    "check": (("check", "{data}", "--no-features"), "studies.check.inspect", FROM_CACHE),
    "train": (("train", "{pets}"), "heads.train.train_head", NEW_PLACES),
    "finetune": (("finetune", "{data}", *RANDOM), "networks.finetune.finetune", ANEW),
    "sweep": (("sweep", "{pets}"), "studies.sweep.sweep_heads", FROM_CACHE),
    "crossval": (("crossval", "{pets}"), "studies.crossval.cross_validate", FROM_CACHE),
    "fewshot": (("fewshot", "{pets}"), "studies.fewshot.few_shot_curve", FROM_CACHE),
    "knn": (("knn", "{pets}"), "studies.knn.knn_accuracy", FROM_CACHE),
    "evaluate": (("evaluate", "run"), "networks.scoring.score", FROM_CACHE),
    "compare": (("compare", "run", "run"), "networks.scoring.score", FROM_CACHE),
    "map": (("map", "run"), "networks.scoring.score", FROM_CACHE),
    "predict": (("predict", "run", "{data}"), "networks.scoring.load_network", ANEW),
    "report": (("report", "run"), "reports.material.material_of", FROM_CACHE),
    "gc": (("cache", "gc"), "cache.gc.collect_garbage", ANEW),
    "verify": (("cache", "verify"), "cache.verify.verify_cache", ANEW),
}


@pytest.mark.parametrize("name", LONG)
def test_what_holds_after_a_stop_is_said_for_each_command(
    name: str, call: Call, pets: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, place, words = LONG[name]
    assert call("train", pets, "--no-figures", "--run-dir", "run").exit_code == 0

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tlcache.{place}", stop)
    stopped = call(*(word.format(data=tiny_data, pets=pets) for word in command))
    assert (stopped.exit_code, stopped.stderr.splitlines()[-1]) == (130, words)
    assert list(Path().glob("runs/*")) == []
