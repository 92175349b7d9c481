"""The pass: images through the trunk, run to completion by one thread a core.

Each thread takes a few images off the queue, reads, decodes and crops them, runs the trunk on them
with one thread of torch's, and hands the rows on. No worker processes: nothing to start, nothing to
warn about, no more threads than cores. Covers no cache: rows are yielded as they are made.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import errno
import functools
import io
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import ImageError, strerror
from tlcache.core.files import persistently
from tlcache.core.machine import exact_arithmetic
from tlcache.data.images import ImageInMemory, decode, image_digest
from tlcache.data.transforms import Transform, apply, cropped
from tlcache.trunks.engines import Engine
from tlcache.trunks.torch_engine import Run

IDLE_SECONDS = 1.0

_Pending = collections.deque["concurrent.futures.Future[list[Made]]"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One image and the crops that are wanted of it.

    Attributes:
        path: Of the image file, or an image that is in none.
        digest: Its bytes' ``image_digest``; bytes that have another are not decoded. Where it
            is empty, whatever the file holds is taken.
        crops: (index of the transform, view), in this order.
    """

    path: Path | ImageInMemory
    digest: bytes
    crops: Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Made:
    """What became of one job.

    Attributes:
        job: The job.
        features: (len(job.crops), D) float32; none where the image cannot be read.
        reason: Why the image cannot be read; empty where it can.
    """

    job: Job
    features: NDArray[np.float32]
    reason: str = ""


def run_pass(
    engine: Engine,
    jobs: Iterable[Job],
    transforms: Sequence[Transform],
    *,
    workers: int,
    batch_size: int,
    idle: Callable[[], None] | None = None,
) -> Generator[Made, None, None]:
    """Do every job, and yield what became of each.

    Args:
        engine: Computes the features.
        transforms: That the jobs' crops refer to.
        workers: Threads.
        batch_size: Crops that go through the network at once; a thread makes so many at a time.
        idle: Is called about every second while nothing is ready. Results then come as they are
            made, so that none waits behind one slow image; without it, in the order of the jobs.

    Memory is bounded whatever the number of jobs. Closing the iterator stops the threads after the
    images they are at. A KeyboardInterrupt, raised here or thrown into the iterator, stops them
    too, but what they have made is yielded before it goes on.
    """
    stop, own = threading.Event(), threading.local()
    runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
    for _ in range(workers):
        runs.put(engine.new_run())

    def begin() -> None:
        import torch

        torch.set_num_threads(1)
        own.run = runs.get()

    def do(task: Sequence[Job]) -> list[Made]:
        return list(_made(own.run, task, engine.raw, transforms, batch_size, stop))

    with (
        exact_arithmetic(),
        concurrent.futures.ThreadPoolExecutor(workers, initializer=begin) as pool,
    ):
        pending: _Pending = collections.deque()
        ready: collections.deque[Made] = collections.deque()
        try:
            for task in _tasks(jobs, batch_size):
                pending.append(pool.submit(do, task))
                if len(pending) >= 4 * workers:
                    yield from _next(pending, ready, idle)
            while pending:
                yield from _next(pending, ready, idle)
        except KeyboardInterrupt:
            stop.set()
            for future in pending:
                if not future.cancel():
                    ready.extend(future.result())
            while ready:
                yield ready.popleft()
            raise
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _tasks(jobs: Iterable[Job], batch_size: int) -> Iterator[list[Job]]:
    """Jobs that make a batch together: a process that dies loses the tasks it is at."""
    task, crops = list[Job](), 0
    for job in jobs:
        if task and crops + len(job.crops) > batch_size:
            yield task
            task, crops = [], 0
        task.append(job)
        crops += len(job.crops)
    if task:
        yield task


def _next(
    pending: _Pending, ready: collections.deque[Made], idle: Callable[[], None] | None
) -> Iterator[Made]:
    """What the next task made, once it is done; until it is yielded, it is in ``ready``."""
    at = 0
    if idle is not None:
        first = concurrent.futures.FIRST_COMPLETED
        while not (done := concurrent.futures.wait(pending, IDLE_SECONDS, first).done):
            idle()
        at = next(i for i, future in enumerate(pending) if future in done)
    ready.extend(pending[at].result())
    del pending[at]
    while ready:
        yield ready.popleft()


def _made(
    run: Run,
    task: Sequence[Job],
    raw: bool,
    transforms: Sequence[Transform],
    batch_size: int,
    stop: threading.Event,
) -> Iterator[Made]:
    """The task's jobs, done; crops of several images share a batch."""
    reasons: dict[int, str] = {}
    crops = _crops(task, transforms, raw, reasons, stop)
    features: dict[int, list[NDArray[np.float32]]] = collections.defaultdict(list)
    while batch := list(itertools.islice(crops, batch_size)):
        rows = run(np.stack([crop for _, crop in batch]))
        for (at, _), row in zip(batch, rows, strict=True):
            features[at].append(row)
    for at, job in enumerate(task):
        if at in reasons:
            yield Made(job, np.empty((0, 0), np.float32), reasons[at])
        elif len(features[at]) == len(job.crops):
            yield Made(job, np.stack(features[at]))


def _crops(
    task: Sequence[Job],
    transforms: Sequence[Transform],
    raw: bool,
    reasons: dict[int, str],
    stop: threading.Event,
) -> Iterator[tuple[int, NDArray[Any]]]:
    """(index of the job, (crop, crop, 3)) of every job that can be read; the others' reasons."""
    for at, job in enumerate(task):
        if stop.is_set():
            return
        try:
            data, digest = persistently(functools.partial(_read, job))
            image = decode(data, job.path)
            for which, view in job.crops:
                wanted = image, transforms[which], digest, view
                # As they lie in memory: channels last.
                yield at, cropped(*wanted) if raw else apply(*wanted).transpose(1, 2, 0)
        except (ImageError, OSError) as error:
            reasons[at] = strerror(error)


def _read(job: Job) -> tuple[bytes, bytes]:
    """An image's bytes and their digest."""
    data = job.path.read_bytes()
    digest = image_digest(io.BytesIO(data))
    if job.digest and job.digest != digest:
        raise OSError(errno.EAGAIN, "other bytes than were digested before the pass")
    return data, digest
