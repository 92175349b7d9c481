"""The rows that a cache lacks: which they are, and one pass that makes and commits them.

Covers no data sets and no files as a whole (``embed``, ``extract``), and no network (``trunks``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import copy_ids
from tlcache.cache.shards import Rows
from tlcache.cache.snapshots import OF_FEATURE, Snapshot
from tlcache.cache.store import FeatureStore
from tlcache.core.errors import CacheError
from tlcache.core.machine import Compute, batch_size_for, resolve_device, thread_count
from tlcache.core.progress import Report, Tick, no_report
from tlcache.data.folders import SPLITS
from tlcache.data.transforms import Transform
from tlcache.trunks.engines import make_engine
from tlcache.trunks.forward_pass import Job, Made, run_pass

if TYPE_CHECKING:
    import torch

    from tlcache.trunks.load import Trunk

COMMIT_SECONDS = 5.0
"""Rows are committed at least this often: about the most work that a killed process loses."""
COMMIT_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class MissingRows:
    """Rows to make.

    Attributes:
        images: (m,) indices of distinct images that lack a row.
        plain: (m,) whether the row of the eval transform is among those.
        views: (m, V) which views are.
        reused: How many distinct images lack none.
    """

    images: NDArray[np.int64]
    plain: NDArray[np.bool_]
    views: NDArray[np.bool_]
    reused: int

    def count(self, snapshot: Snapshot, failed: Collection[bytes]) -> int:
        """How many rows these are, but for those of images whose digest failed."""
        made = np.array([snapshot.digests[i].tobytes() not in failed for i in self.images], bool)
        return int(self.plain[made].sum() + self.views[made].sum())

    def jobs(self, snapshot: Snapshot) -> Iterator[Job]:
        for image, plain, views in zip(self.images, self.plain, self.views, strict=True):
            crops = [(0, 0)] * bool(plain) + [(1, int(view)) for view in np.flatnonzero(views)]
            path, digest = snapshot.dataset.path(int(image)), snapshot.digests[image].tobytes()
            yield Job(path, digest, crops)


def missing_rows(snapshot: Snapshot, stores: Sequence[FeatureStore], views: int) -> MissingRows:
    """Which rows of the readable images are not in the cache."""
    readable = np.flatnonzero(snapshot.readable())
    ids = copy_ids(snapshot.digests[readable])
    first = ids == np.arange(len(ids))
    images = readable[first]
    digests = snapshot.digests[images]
    plain = ~stores[0].has(digests, np.zeros(len(images), np.int32))
    lacking = np.zeros((len(images), views), bool)
    if views:
        in_train = np.zeros(len(ids), bool)
        in_train[ids[snapshot.dataset.splits[readable] == SPLITS.index("train")]] = True
        lacking[in_train[first]] = True
        lacking &= ~stores[1].has_views(digests, views)
    some = plain | lacking.any(axis=1)
    return MissingRows(images[some], plain[some], lacking[some], int((~some).sum()))


Pass = Callable[[Iterable[Job]], Generator[Made, None, None]]
"""A network that is ready for jobs: what becomes of each."""


def open_pass(
    network: torch.nn.Module,
    transforms: Sequence[Transform],
    precision: str,
    compute: Compute,
    images: int = 0,
    note: Report = no_report,
    idle: Callable[[], None] | None = None,
) -> Pass:
    """Make a network ready for a pass.

    Args:
        network: Takes (N, 3, crop, crop) float32 to (N, D), in eval mode.
        transforms: That the jobs' crops refer to; the first is the eval transform.
        images: How many are to come, where that is known: a fast engine pays for many.
        note: Is told what computes, if it is not torch, and where another engine has to do it.
        idle: Is called about every second while nothing is ready, and results come as they are
            made; without it, in the order of the jobs.

    Raises:
        OptionError: If the device or the engine cannot be had.
    """
    where = resolve_device(compute.device)
    engine = make_engine(
        network,
        transforms[0],
        engine=compute.engine,
        precision=precision,
        device=where,
        images=images,
        report=note,
    )
    if engine.name != "torch":
        note(f"computed by {engine.name}")
    return functools.partial(
        run_pass,
        engine,
        transforms=transforms,
        workers=compute.workers or thread_count(where),
        batch_size=compute.batch_size or batch_size_for(where, transforms[0].crop),
        idle=idle,
    )


def check_takes(trunk: Trunk, stores: Sequence[FeatureStore]) -> None:
    """Refuse a crop that the network does not take.

    Raises:
        TlcacheError: See :func:`tlcache.trunks.load.check_crop`.
    """
    from tlcache.trunks.load import check_crop

    check_crop(trunk, stores[0].identity.transform.crop)


def make_rows(
    trunk: Trunk,
    jobs: Iterator[Job],
    total: int,
    stores: Sequence[FeatureStore],
    compute: Compute,
    tick: Tick,
) -> dict[bytes, str]:
    """Do so many jobs in one pass and commit the rows as they come, however it ends.

    Args:
        stores: Of the transforms that the jobs' crops name, in this order.

    Returns:
        Digest and reason of each image that could not be read, or whose feature is none.

    Raises:
        CacheError: If rows cannot be committed.
        OptionError: If the device or the engine cannot be had, or the crop is refused.
    """
    check_takes(trunk, stores)
    buffer, reasons, identity = RowBuffer(stores), dict[bytes, str](), stores[0].identity
    made = open_pass(
        trunk.module,
        [store.identity.transform for store in stores],
        identity.precision,
        compute,
        total,
        stores[0].note,
        buffer.commit_if_due,
    )(jobs)
    try:
        for done, result in enumerate(made, 1):
            if reason := buffer.add(result).reason:
                reasons[result.job.digest] = reason
            tick(done, total)
    except CacheError:
        raise
    except KeyboardInterrupt as error:
        with contextlib.suppress(KeyboardInterrupt, StopIteration):
            result = made.throw(error)  # the threads stop, and hand on what they have made
            while True:
                buffer.keep(result)
                result = next(made)
        buffer.commit()
        raise
    except BaseException:
        buffer.commit()
        raise
    finally:
        made.close()
    buffer.commit()
    return reasons


def fit_to_keep(made: Made, dtypes: Sequence[str]) -> Made:
    """The same; or, where a number is none or too large to be kept, why there is no feature.

    Args:
        dtypes: Of the kept numbers, of each transform that the job's crops name.
    """
    if made.reason:
        return made
    for (which, _), feature in zip(made.job.crops, made.features, strict=True):
        dtype = np.dtype(dtypes[which])
        with np.errstate(over="ignore"):
            if np.isfinite(feature.astype(dtype, copy=False)).all():
                continue
        reason = f"{OF_FEATURE} of finite numbers, found NaN or Inf"
        if np.isfinite(feature).all():
            most, largest = np.finfo(dtype).max, np.abs(feature).max()
            reason = f"{OF_FEATURE} of at most {most:,.0f}, as {dtype} holds, found {largest:,.0f}"
        return Made(made.job, np.empty((0, 0), np.float32), reason)
    return made


class RowBuffer:
    """Rows that wait to be committed, for each store."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self._stores = stores
        self._clear()

    def add(self, made: Made) -> Made:
        kept = self.keep(made)
        self.commit_if_due()
        return kept

    def keep(self, made: Made) -> Made:
        """Take what can be kept; :func:`fit_to_keep` says what that is."""
        made = fit_to_keep(made, [store.identity.dtype for store in self._stores])
        if made.reason:
            return made
        for (which, view), feature in zip(made.job.crops, made.features, strict=True):
            self._rows[which].append((feature, made.job.digest, view))
            self._bytes += feature.nbytes
        return made

    def commit_if_due(self) -> None:
        if self._bytes > COMMIT_BYTES or time.monotonic() - self._since > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        for store, rows in zip(self._stores, self._rows, strict=True):
            if rows:
                features, digests, views = zip(*rows, strict=True)
                images = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
                store.commit(Rows(np.stack(features), images, np.array(views, np.int32)))
        self._clear()

    def _clear(self) -> None:
        self._rows: list[list[tuple[NDArray[np.float32], bytes, int]]] = [[] for _ in self._stores]
        self._bytes, self._since = 0, time.monotonic()
