"""The pass: its threads, its memory, and what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from isolated import isolated
from small_trunk import small_trunk
from trial_networks import TRANSFORMS, Watched, features_of, image_jobs

from tlcache.data.transforms import Transform
from tlcache.trunks.engines import Engine, make_engine
from tlcache.trunks.forward_pass import Job, run_pass

CPU = torch.device("cpu")
TASKS = Path("/proc/self/task")  # a folder for each thread


@pytest.mark.parametrize("idle", [None, lambda: None])
def test_no_more_jobs_are_taken_than_are_soon_done(tmp_path: Path, idle: None) -> None:
    (job,), asked = image_jobs(tmp_path, 1), list[Job]()

    def endless() -> Iterator[Job]:
        while True:
            asked.append(job)
            yield job

    workers, batch_size, ahead = 2, 3, list[int]()
    made = run_pass(
        Watched().engine, endless(), TRANSFORMS, workers=workers, batch_size=batch_size, idle=idle
    )
    for done, _ in enumerate(itertools.islice(made, 300), 1):
        ahead.append(len(asked) - done)
    made.close()
    assert max(ahead) <= (4 * workers + 1) * batch_size


def test_pixels_are_let_go_as_soon_as_their_features_are_there(tmp_path: Path) -> None:
    jobs, alive, most = image_jobs(tmp_path, 60), list[weakref.ref[np.ndarray]](), 0
    lock = threading.Lock()

    def run(pixels: np.ndarray) -> np.ndarray:
        nonlocal most
        with lock:
            alive.append(weakref.ref(pixels))
            most = max(most, sum(ref() is not None for ref in alive))
        return features_of(pixels)

    engine = Engine("counting", lambda: run)
    assert len(list(run_pass(engine, jobs, TRANSFORMS, workers=2, batch_size=2))) == 60
    gc.collect()
    assert len(alive) == 30 and most <= 4, "one batch a thread, and one that is being dropped"
    assert not any(ref() is not None for ref in alive)


def settings() -> tuple[int, bool, bool]:
    backends = torch.backends
    return torch.get_num_threads(), backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32


def change(to: tuple[int, bool, bool]) -> None:
    torch.set_num_threads(to[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = to[1:]


def end(how: str, jobs: Sequence[Job]) -> None:
    """A pass that ends in one of four ways."""

    def broken(pixels: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("in a thread")

    def running_out() -> Iterator[Job]:
        yield from jobs
        raise ZeroDivisionError("of jobs")

    engine = Engine("broken", lambda: broken) if how == "fails" else Watched().engine
    todo = running_out() if how == "runs out" else iter(jobs)
    made = run_pass(engine, todo, TRANSFORMS, workers=2, batch_size=1)
    with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt):
        next(made)
        assert settings()[1:] == (False, False)
        if how == "is closed":
            made.close()
        elif how == "is interrupted":
            made.throw(KeyboardInterrupt)
        list(made)


@pytest.mark.parametrize(
    "how", ["goes through", "fails", "runs out", "is closed", "is interrupted"]
)
def test_however_a_pass_ends_no_thread_and_no_setting_is_left(tmp_path: Path, how: str) -> None:
    jobs, threads, before = image_jobs(tmp_path, 12), threading.active_count(), settings()
    try:
        change((3, True, True))
        end(how, jobs)
        assert settings() == (3, True, True)
        there = list[int]()
        thread = threading.Thread(target=lambda: there.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert there == [3], "so has a thread that is new"
    finally:
        change(before)
    assert threading.active_count() == threads


def test_an_error_in_a_thread_is_the_passs_own(tmp_path: Path) -> None:
    def broken(pixels: np.ndarray) -> np.ndarray:
        raise MemoryError("no room")

    made = run_pass(
        Engine("broken", lambda: broken),
        image_jobs(tmp_path, 12),
        TRANSFORMS,
        workers=2,
        batch_size=1,
    )
    with pytest.raises(MemoryError, match="no room"):
        list(made)


def threads_during_a_pass(folder: str, workers: int) -> tuple[set[int], int]:
    """torch's threads as each worker sees them, and how many the process has more than before."""
    torch.set_num_threads(4)
    engine = make_engine(small_trunk().module, Transform(crop=32), device=CPU)
    run, seen = engine.new_run(), set[tuple[int, int]]()

    def watched(pixels: np.ndarray) -> np.ndarray:
        features = run(pixels)
        seen.add((torch.get_num_threads(), len(list(TASKS.iterdir()))))
        return features

    before = len(list(TASKS.iterdir()))
    jobs = image_jobs(Path(folder), 30)
    made = run_pass(
        Engine("torch", lambda: watched), jobs, TRANSFORMS, workers=workers, batch_size=4
    )
    assert len(list(made)) == 30
    return {torchs for torchs, _ in seen}, max(there for _, there in seen) - before


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts threads as Linux does")
@pytest.mark.parametrize("workers", [1, 2])
def test_there_are_no_more_threads_than_workers(tmp_path: Path, workers: int) -> None:
    ended = isolated(threads_during_a_pass, str(tmp_path), workers, limit=30)
    assert ended.code == 0, ended.error
    torchs, more = ended.value
    assert torchs == {1}
    assert 0 < more <= workers + 1, "torch or numba has one that sleeps"
