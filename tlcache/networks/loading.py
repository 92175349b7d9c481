"""Batches of images for a training loop: read, decoded and cropped by threads, ahead of their use.

A view's random numbers come from the image and the view's number (``transforms``), so batches are
the same whatever the number of threads. Threads and not processes: nearly all of the work is in
Pillow and numpy, which let other threads run, so two do the work of two processes; and there is
nothing to start, to warn about, or to clean up. Covers no training.
"""

from __future__ import annotations

import collections
import concurrent.futures
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlcache.core.errors import DataError, ImageError, OptionError, listed, strerror
from tlcache.core.machine import usable_cpus
from tlcache.data.folders import ImageDataset
from tlcache.data.images import decode, image_digest
from tlcache.data.transforms import Transform, apply

MOST_WORKERS = 8
"""``auto`` takes no more: they outpace one network, and each holds a batch in memory."""

Workers = int | Literal["auto"] | None


class Batch(NamedTuple):
    """Some images.

    Attributes:
        images: (b, 3, crop, crop) float32.
        labels: (b,) int64.
        unreadable: Reason by path of those that should be among them and cannot be read.
    """

    images: Tensor
    labels: Tensor
    unreadable: dict[str, str]


class ImageLoader:
    """The batches of one data set; a context manager that ends its threads.

    Args:
        dataset: The images.
        transform: Of either kind; both are used.
        workers: Threads, see :func:`worker_count`; 0: none, batches are made when asked for.
        pin_memory: Put batches where a GPU fetches them fastest.
        skip_unreadable: Leave out the images that cannot be read.
        on_images: Told how many images each batch stands for.

    Attributes:
        unreadable: Reason by path of the images that were left out.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transform: Transform,
        *,
        workers: int = 0,
        pin_memory: bool = False,
        skip_unreadable: bool = False,
        on_images: Callable[[int], None] | None = None,
    ) -> None:
        self.unreadable: dict[str, str] = {}
        self._dataset = dataset
        self._train, self._eval = transform.as_train(), transform.as_eval()
        self._pin_memory = pin_memory
        self._skip_unreadable = skip_unreadable
        self.on_images = on_images or (lambda count: None)
        self._ahead = workers + 1
        self._pool = concurrent.futures.ThreadPoolExecutor(workers) if workers else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def batches(
        self, images: NDArray[np.int64], size: int, view: int | None = None
    ) -> Iterator[Batch]:
        """Images in the order given.

        Args:
            images: (n,) indices into the data set.
            size: Images a batch; the last may be smaller, and so is one with an unreadable image.
            view: Of the train transform; None: the eval transform.

        Raises:
            DataError: If an image cannot be read and none may be skipped (it lists all of the data
                set's), or none can be read at all.
        """
        some = False
        for batch in self._made(images, size, view):
            self.unreadable |= batch.unreadable
            if batch.unreadable and not self._skip_unreadable:
                raise self._all_unreadable()
            self.on_images(len(batch.labels) + len(batch.unreadable))
            if len(batch.labels):
                some = True
                yield batch
        if not some:
            raise _unreadable(self._dataset, self.unreadable, "replace them")

    def _made(self, images: NDArray[np.int64], size: int, view: int | None) -> Iterator[Batch]:
        """The batches, in order, a few of them made ahead."""
        parts = (images[at : at + size] for at in range(0, len(images), size))
        if self._pool is None:
            yield from (self._batch(part, view) for part in parts)
            return
        pending: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
        for part in parts:
            pending.append(self._pool.submit(self._batch, part, view))
            if len(pending) > self._ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _batch(self, images: NDArray[np.int64], view: int | None) -> Batch:
        pixels, labels, unreadable = [], [], {}
        for i in images:
            try:
                pixels.append(self._pixels(self._dataset.path(i), view))
                labels.append(int(self._dataset.labels[i]))
            except (ImageError, OSError) as error:
                unreadable[self._dataset.paths[i]] = strerror(error)
        shape = (0, self._eval.crop, self._eval.crop, 3)
        # As they lie in memory: channels last, which is what the network wants.
        rows = [crop.transpose(1, 2, 0) for crop in pixels]
        stacked = torch.from_numpy(np.stack(rows) if rows else np.empty(shape, np.float32))
        truths = torch.tensor(labels, dtype=torch.int64)
        if self._pin_memory:
            stacked, truths = stacked.pin_memory(), truths.pin_memory()
        return Batch(stacked.permute(0, 3, 1, 2), truths, unreadable)

    def _pixels(self, path: Path, view: int | None) -> NDArray[np.float32]:
        data = path.read_bytes()
        image = decode(data, path)
        if view is None:
            return apply(image, self._eval)
        return apply(image, self._train, image_digest(io.BytesIO(data)), view)

    def _all_unreadable(self) -> DataError:
        """One error for all of them, so that they need not be found one run at a time."""
        for batch in self._made(np.arange(len(self._dataset)), 8, None):
            self.unreadable |= batch.unreadable
        remedy = "replace or remove them, or pass --skip-unreadable"
        return _unreadable(self._dataset, self.unreadable, remedy)


def worker_count(workers: Workers = "auto") -> int:
    """How many threads read images: never more than there are usable cores.

    Args:
        workers: ``auto`` or None: one a usable core, up to ``MOST_WORKERS``; 0: none.

    Raises:
        OptionError: If it is another word or below 0.
    """
    if workers is None or workers == "auto":
        return min(usable_cpus(), MOST_WORKERS)
    if not isinstance(workers, int) or workers < 0:
        raise OptionError("--workers", "auto, or 0 or more", str(workers), "leave it out for auto")
    return min(workers, usable_cpus())


def _unreadable(dataset: ImageDataset, reasons: dict[str, str], remedy: str) -> DataError:
    bad = [f"{path} ({reason})" for path, reason in sorted(reasons.items())]
    found = f"{len(bad)} that cannot: {listed(bad, '; ', 5)}"
    return DataError(dataset.root, "images that can be read", found, remedy)
