"""How much work a process loses that dies without a warning: ten seconds of it at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import committed, images_of
from numpy.typing import NDArray
from small_trunk import DIM, make_images, small_trunk

import tlcache.features.embed
import tlcache.features.missing
import tlcache.trunks.forward_pass
from tlcache.data.folders import scan
from tlcache.data.images import decode
from tlcache.features.embed import embed
from tlcache.trunks.forward_pass import Job, Made

STALL = 20.0  # seconds that one image takes


class _Clock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize("pace", [0.02, 0.7, 3.0, 7.0])
def test_a_row_that_was_made_waits_ten_seconds_at_most(
    pace: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, made_at, waited = _Clock(), dict[bytes, float](), [0.0]

    def check() -> None:
        there = images_of(committed(tmp_path / "cache"))
        waited.extend(clock.now - at for digest, at in made_at.items() if digest not in there)

    def slow_pass(
        module: Any, jobs: Sequence[Job], transforms: Any, *, idle: Callable[[], None], **_: Any
    ) -> Iterator[Made]:
        for number, job in enumerate(jobs):
            until = clock.now + (STALL if number in (0, 9) else pace)
            while clock.now < until:
                clock.now = min(until, clock.now + tlcache.trunks.forward_pass.IDLE_SECONDS)
                check()
                idle()
            made_at[job.digest] = clock.now
            yield Made(job, np.ones((1, DIM), np.float32))

    monkeypatch.setattr(tlcache.features.missing, "time", clock)
    monkeypatch.setattr(tlcache.features.missing, "run_pass", slow_pass)
    data = scan(make_images(tmp_path / "data", train=7, val=1))
    assert embed(data, small_trunk(), cache=tmp_path / "cache").embedded == len(data)
    assert 0 < max(waited) <= 10
    assert len(committed(tmp_path / "cache")) == len(data)
    # Nor is everything committed by itself.
    shards = len(list(tmp_path.glob("cache/*/shards/*.h5")))
    assert shards <= 1 + clock.now / tlcache.features.missing.COMMIT_SECONDS


def test_what_was_made_is_committed_while_one_image_takes_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scan(make_images(tmp_path / "data", train=14, val=1))
    seen, first = threading.Event(), data.path(0)

    def slow(content: bytes, path: Path) -> NDArray[np.uint8]:
        if path == first:
            until = time.monotonic() + 30
            while not seen.is_set() and time.monotonic() < until:
                time.sleep(0.01)
                if len(committed(tmp_path / "cache")) >= len(data) - 8:
                    seen.set()
        return decode(content, path)

    monkeypatch.setattr(tlcache.trunks.forward_pass, "decode", slow)
    monkeypatch.setattr(tlcache.trunks.forward_pass, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(tlcache.features.missing, "COMMIT_SECONDS", 0.05)
    embed(data, small_trunk(), cache=tmp_path / "cache", workers=2)
    assert seen.is_set()  # all but the images of the same task were there before it was decoded
    assert len(committed(tmp_path / "cache")) == len(data)


@pytest.mark.parametrize(("views", "crops"), [(0, 8), (1, 8), (3, 8), (25, 26)])
def test_of_many_views_a_thread_has_fewer_images_in_hand(
    views: int, crops: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sizes = tlcache.trunks.forward_pass._made, list[int]()

    def counted(run: Any, task: Sequence[Job], *rest: Any) -> Iterator[Made]:
        sizes.append(sum(len(job.crops) for job in task))
        yield from made(run, task, *rest)

    monkeypatch.setattr(tlcache.trunks.forward_pass, "_made", counted)
    data = scan(make_images(tmp_path / "data", train=8, val=1))
    embed(data, small_trunk(), cache=tmp_path / "cache", views=views)
    assert max(sizes) == crops and sum(sizes) == len(data) + 16 * views


def test_what_the_threads_have_made_is_kept_when_a_pass_is_stopped_at_its_first_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scan(make_images(tmp_path / "data", train=36, val=1))

    made, tasks = tlcache.trunks.forward_pass._made, list[int]()

    def counted(module: Any, task: Sequence[Job], *rest: Any) -> Iterator[Made]:
        yield from made(module, task, *rest)
        tasks.append(len(task))

    def stop(buffer: Any, made: Made) -> None:
        until = time.monotonic() + 30
        while len(tasks) < 8 and time.monotonic() < until:  # those that were handed out
            time.sleep(0.01)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tlcache.trunks.forward_pass, "_made", counted)
        patch.setattr(tlcache.features.missing.RowBuffer, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(data, small_trunk(), cache=tmp_path / "cache", workers=2, batch_size=8)
    # All but the row in hand of the eight tasks of eight images that may be under way.
    assert len(committed(tmp_path / "cache")) == 63
    assert embed(data, small_trunk(), cache=tmp_path / "cache").embedded == len(data) - 63
