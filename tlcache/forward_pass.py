"""The pass: images through the trunk, run to completion by one thread a core.

Each thread takes a few images off the queue, reads, decodes and crops them, runs the trunk on them
with one thread of torch's, and hands the rows on. No worker processes: nothing to start, nothing to
warn about, no more threads than cores. Covers no cache: rows are yielded as they are made.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tlcache.errors import ImageError
from tlcache.images import decode
from tlcache.transforms import Transform, apply

if TYPE_CHECKING:
    import torch

IMAGES_A_TASK = 8
IDLE_SECONDS = 1.0

_Pending = collections.deque["concurrent.futures.Future[list[Made]]"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One image and the crops that are wanted of it.

    Attributes:
        path: Of the image file.
        digest: SHA-256 of its bytes, 32 bytes; bytes that have another are not decoded. Where
            it is empty, whatever the file holds is taken.
        crops: (index of the transform, view), in this order.
    """

    path: Path
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
    module: torch.nn.Module,
    jobs: Sequence[Job],
    transforms: Sequence[Transform],
    *,
    device: torch.device,
    workers: int,
    batch_size: int,
    idle: Callable[[], None] | None = None,
) -> Generator[Made, None, None]:
    """Do every job, and yield what became of each.

    Args:
        module: Takes (N, 3, H, W) float32 to (N, D), in eval mode; it is moved to ``device``.
        transforms: That the jobs' crops refer to.
        workers: Threads.
        batch_size: Crops that go through the network at once.
        idle: Is called about every second while nothing is ready. Results then come as they are
            made, so that none waits behind one slow image; without it, in the order of the jobs.

    Memory is bounded whatever the number of jobs. Closing the iterator stops the threads after the
    images they are at. A KeyboardInterrupt, raised here or thrown into the iterator, stops them
    too, but what they have made is yielded before it goes on.
    """
    import torch

    module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    stop = threading.Event()

    def do(task: Sequence[Job]) -> list[Made]:
        return list(_made(module, task, transforms, device, batch_size, stop))

    # A process that dies loses the tasks it is at: of many views, fewer images make a task.
    most = max((len(job.crops) for job in jobs), default=1)
    size = min(IMAGES_A_TASK, -(-batch_size // most))
    tasks = (jobs[start : start + size] for start in range(0, len(jobs), size))
    with (
        _exact_arithmetic(),
        concurrent.futures.ThreadPoolExecutor(workers, initializer=_one_thread) as pool,
    ):
        pending: _Pending = collections.deque()
        ready: collections.deque[Made] = collections.deque()
        try:
            for task in tasks:
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
    module: torch.nn.Module,
    task: Sequence[Job],
    transforms: Sequence[Transform],
    device: torch.device,
    batch_size: int,
    stop: threading.Event,
) -> Iterator[Made]:
    """The task's jobs, done; crops of several images share a batch."""
    import torch

    reasons: dict[int, str] = {}
    crops = _crops(task, transforms, reasons, stop)
    features: dict[int, list[NDArray[np.float32]]] = collections.defaultdict(list)
    while batch := list(itertools.islice(crops, batch_size)):
        pixels = torch.from_numpy(np.stack([crop for _, crop in batch]))
        with torch.inference_mode():
            pixels = pixels.to(device, memory_format=torch.channels_last)
            rows = module(pixels).float().cpu().numpy()
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
    reasons: dict[int, str],
    stop: threading.Event,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index of the job, crop) of every job that can be read; the others' reasons."""
    for at, job in enumerate(task):
        if stop.is_set():
            return
        try:
            data = job.path.read_bytes()
            digest = hashlib.sha256(data).digest()
            _check_unchanged(job, digest)
            image = decode(data, job.path)
            for which, view in job.crops:
                yield at, apply(image, transforms[which], digest, view)
        except ImageError as error:
            reasons[at] = f"expected {error.expected}, found {error.found}"
        except OSError as error:
            reasons[at] = error.strerror or type(error).__name__


def _check_unchanged(job: Job, digest: bytes) -> None:
    if job.digest and job.digest != digest:
        raise ImageError(
            job.path,
            expected="the bytes that were digested before the pass",
            found="other bytes",
            remedy="let the file come to rest and run again",
        )


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@contextlib.contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """No TF32 on a GPU (its 10-bit mantissa is not fp32); torch's settings come back afterwards."""
    import torch

    threads = torch.get_num_threads()
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products
