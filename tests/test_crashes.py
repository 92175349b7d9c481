"""A process that is killed before, within and after each thing that it does to the disk."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interrupted import Outcome, check_same, committed, images_of, run_pass
from isolated import isolated
from small_trunk import make_images

import tlcache.core.files

Whole = tuple[Path, Outcome, list[str]]

STEPS = ("_write", "_fsync", "_rename", "_fsync_folder")
IMAGES, VIEWS, ROWS = 12, 2, 12 + 2 * 8
PARTS = 8  # of the steps, so that several processes may share them


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Images, and the outcome and the steps of a pass over them that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    data = make_images(folder / "data", train=4, val=2)
    outcome, steps = _killed_at(data, folder / "cache", -1, "")
    assert outcome.embedded == IMAGES and outcome.said == []
    assert len(committed(folder / "cache")) == ROWS
    return data, outcome, steps


class Hook:
    """Counts the steps to the disk, and kills the process at one of them.

    Args:
        at: Which step, from 0; -1 for none.
        side: ``before``, ``after``, or ``within``: when half of a file's bytes are written.
    """

    def __init__(self, at: int, side: str) -> None:
        self._at, self._side = at, side
        self.steps: list[str] = []

    def install(self) -> None:
        for name in STEPS:
            setattr(tlcache.core.files, name, self._around(name, getattr(tlcache.core.files, name)))
        Path.mkdir = self._around("mkdir", Path.mkdir)  # type: ignore[method-assign]

    def _around(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> None:
            mine = len(self.steps) == self._at
            self.steps.append(name)
            if mine and self._side == "within":
                path, parts = arguments
                data = b"".join(parts)
                path.write_bytes(data[: len(data) // 2])
            if mine and self._side != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                step(*arguments, **options)
            finally:  # a folder that is there makes mkdir raise
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return run


def run_hooked(data: Path, cache: Path, at: int, side: str) -> tuple[Outcome, list[str]]:
    """A pass that is killed at one of its steps; or, with -1, its outcome and its steps."""
    hook = Hook(at, side)
    hook.install()
    return run_pass(data, cache, VIEWS), hook.steps


def _killed_at(data: Path, cache: Path, at: int, side: str) -> Any:
    ended = isolated(run_hooked, data, cache, at, side, limit=60)
    assert ended.code == (0 if at < 0 else -signal.SIGKILL), ended
    return ended.value


def _check_recovery(whole: Whole, cache: Path) -> None:
    """What was committed is sound; the next run makes the rest and nothing else."""
    data, expected, _ = whole
    before = committed(cache)
    outcome = run_pass(data, cache, VIEWS)
    after = committed(cache)
    assert outcome.said == []
    assert outcome.embedded == len(images_of(after.keys() - before.keys()))
    assert len(after) == ROWS
    check_same(outcome.features, expected.features)


def _points(steps: list[str]) -> list[tuple[int, str]]:
    sides = [(at, side) for at in range(len(steps)) for side in ("before", "after")]
    return sides + [(at, "within") for at, name in enumerate(steps) if name == "_write"]


def test_a_pass_writes_every_kind_of_file(whole: Whole) -> None:
    # 7 shards of two identities, 2 identity.json, a memo, a draft and a snapshot.
    counts = Counter(whole[2])
    assert counts["_write"] == counts["_rename"] == 7 + 2 + 3
    assert counts["_fsync_folder"] > 12 and counts["_fsync"] == 12 + counts["_fsync_folder"]
    assert counts["mkdir"] >= 5


@pytest.mark.parametrize("part", range(PARTS))
def test_a_pass_that_is_killed_anywhere_loses_nothing(
    part: int, whole: Whole, tmp_path: Path
) -> None:
    for number, (at, side) in enumerate(_points(whole[2])[part::PARTS]):
        _killed_at(whole[0], tmp_path / f"{number}", at, side)
        _check_recovery(whole, tmp_path / f"{number}")


@pytest.mark.parametrize("side", ["before", "after"])
def test_the_runs_that_recover_may_be_killed_too(side: str, whole: Whole, tmp_path: Path) -> None:
    for first in range(8, len(whole[2]), 14):
        cache, killed = tmp_path / f"{first}", 0
        _killed_at(whole[0], cache, first, side)
        for second in (3, 9, 15):
            before = committed(cache)
            ended = isolated(run_hooked, whole[0], cache, second, side, limit=60)
            killed += ended.code == -signal.SIGKILL
            assert committed(cache).keys() >= before.keys()
        assert killed >= 2
        _check_recovery(whole, cache)
