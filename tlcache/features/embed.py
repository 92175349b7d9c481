"""Fill the cache for a data set: from a folder of images to committed rows.

``embed`` digests the files, looks up which rows the cache lacks, makes those in one pass and
commits them as it goes. Covers no reading back (``features``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcache.cache import store as bookkeeping
from tlcache.cache.snapshots import Snapshot, take_snapshot
from tlcache.cache.store import FeatureStore
from tlcache.core.errors import CacheError, DataError, OptionError
from tlcache.core.progress import (
    ProgressMaker,
    Report,
    Tick,
    no_progress,
    no_report,
    said_once,
)
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.features.missing import RowBuffer, missing_rows
from tlcache.features.read import Embedding, UnreadableImagesError
from tlcache.features.stores import check_words, described, stores_of
from tlcache.trunks.forward_pass import Job, Made, run_pass

if TYPE_CHECKING:
    from tlcache.trunks.load import Trunk


def embed(
    dataset: ImageDataset,
    trunk: str | Trunk = "resnet18",
    weights: str = "imagenet",
    *,
    cache: Path = Path("cache"),
    views: int = 0,
    transform: dict[str, Any] | None = None,
    precision: str = "fp32",
    dtype: str = "float32",
    skip_unreadable: bool = False,
    rehash: bool = False,
    device: str = "auto",
    engine: str = "auto",
    workers: int | None = None,
    batch_size: int | None = None,
    report: Report | None = None,
    progress: ProgressMaker | None = None,
) -> Embedding:
    """Put a data set's features into the cache; what is there is not made again.

    Args:
        dataset: From :func:`tlcache.data.folders.scan`.
        trunk: The frozen network, or its name.
        weights: For a name: ``imagenet``, a file, or ``random``.
        cache: The cache folder.
        views: How many augmented views of each training image to keep as well.
        transform: Fields of the weights' own transform to change.
        precision: ``fp32``, ``fast``, ``fp16`` or ``bf16``: how close to torch's eager fp32 the
            features are (``engines.BOUNDS``).
        dtype: Of the kept numbers: ``float32``, or ``float16`` in half the space.
        skip_unreadable: Go on without the images that cannot be read.
        rehash: Read every file again, even those that look unchanged.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        engine: What computes: ``auto``, ``torch`` or ``mnn``; it does not change the features
            beyond what the precision's word says.
        workers: Threads; one for each usable core by default.
        batch_size: Crops that go through the network at once; it does not change the features.
        report: Is told, a line at a time, what a user should know.
        progress: Makes a progress bar with the given title.

    Raises:
        UnreadableImagesError: If images cannot be read and ``skip_unreadable`` is not set. Every
            other image's row is committed.
        TlcacheError: If the trunk, the cache or an option is at fault.
    """
    started = time.perf_counter()
    report, progress = said_once(report or no_report), progress or no_progress
    if views < 0:
        raise OptionError("--views", expected="0 or more", found=str(views), remedy="correct it")
    check_words(precision, dtype)
    info, load = described(trunk, weights, cache / "weights", report)
    stores = stores_of(cache, info, transform or {}, precision, dtype, views, report)
    bookkeeping.announce(stores[0], report)
    own, known = bookkeeping.known_snapshots(stores[0], dataset.name, report)
    keep = bookkeeping.draft_of(stores[0], dataset.name)
    with progress("reading files") as tick:
        snapshot = take_snapshot(
            dataset, known, views=views, rehash=rehash, progress=tick, keep=keep
        )
    # Before rows are looked for and made: a clean-up takes no row that a snapshot names, and
    # whoever goes on after an interruption need not digest the files again.
    own = bookkeeping.keep_snapshot(snapshot, own, stores[0], report)
    for store in stores:
        bookkeeping.keep_description(store, report)
    missing = missing_rows(snapshot, stores, views)
    pass_started = time.perf_counter()
    reasons: dict[bytes, str] = {}
    if total := len(missing.images):
        with progress("embedding") as tick:
            how = device, engine, workers, batch_size, report
            reasons = make_rows(load(), missing.jobs(snapshot), total, stores, *how, tick)
    pass_seconds = time.perf_counter() - pass_started
    if reasons:
        snapshot = bookkeeping.with_reasons(snapshot, reasons)
        bookkeeping.keep_snapshot(snapshot, own, stores[0], report)
    done = Embedding(
        trunk=info,
        snapshot=snapshot,
        stores=stores,
        views=views,
        embedded=total - len(reasons),
        reused=missing.reused,
        seconds=time.perf_counter() - started,
        pass_seconds=pass_seconds,
    )
    if done.unreadable and not skip_unreadable:
        raise UnreadableImagesError(done)
    _check_still_a_dataset(snapshot)
    return done


def make_rows(
    trunk: Trunk,
    jobs: Iterator[Job],
    total: int,
    stores: Sequence[FeatureStore],
    device: str,
    engine: str,
    workers: int | None,
    batch_size: int | None,
    report: Report,
    tick: Tick,
) -> dict[bytes, str]:
    """Do so many jobs in one pass and commit the rows as they come, however it ends.

    Args:
        stores: Of the transforms that the jobs' crops name, in this order.

    Returns:
        Digest and reason of each image that could not be read.

    Raises:
        CacheError: If rows cannot be committed.
        OptionError: If the device or the engine cannot be had.
    """
    buffer, how = RowBuffer(stores), (device, engine, workers, batch_size, report)
    made = _pass(trunk, jobs, total, stores, buffer.commit_if_due, *how)
    return _commit_all(made, buffer, total, tick)


def _pass(
    trunk: Trunk,
    jobs: Iterator[Job],
    total: int,
    stores: Sequence[FeatureStore],
    idle: Callable[[], None],
    device: str,
    engine: str,
    workers: int | None,
    batch_size: int | None,
    report: Report,
) -> Generator[Made, None, None]:
    from tlcache.core.machine import batch_size_for, resolve_device, thread_count
    from tlcache.trunks.engines import make_engine

    where, identity = resolve_device(device), stores[0].identity
    computing = make_engine(
        trunk.module,
        identity.transform,
        engine=engine,
        precision=identity.precision,
        device=where,
        images=total,
        report=report,
    )
    if computing.name != "torch":
        report(f"computed by {computing.name}")
    return run_pass(
        computing,
        jobs,
        [store.identity.transform for store in stores],
        workers=workers or thread_count(where),
        batch_size=batch_size or batch_size_for(where),
        idle=idle,
    )


def _commit_all(
    made: Generator[Made, None, None], buffer: RowBuffer, total: int, tick: Tick
) -> dict[bytes, str]:
    """Commit the rows as they come; digest and reason of each image that could not be read.

    Whatever ends the pass, the rows that were made until then are committed.
    """
    reasons: dict[bytes, str] = {}
    try:
        for done, result in enumerate(made, 1):
            if result.reason:
                reasons[result.job.digest] = result.reason
            else:
                buffer.add(result)
            tick(done, total)
    except CacheError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            _add_the_rest(made, buffer, error)
        buffer.commit()
        raise
    finally:
        made.close()
    buffer.commit()
    return reasons


def _add_the_rest(
    made: Generator[Made, None, None], buffer: RowBuffer, error: KeyboardInterrupt
) -> None:
    """Take what the threads have made from a pass that is interrupted."""
    with contextlib.suppress(KeyboardInterrupt, StopIteration):
        result = made.throw(error)
        while True:
            if not result.reason:
                buffer.keep(result)
            result = next(made)


def _check_still_a_dataset(snapshot: Snapshot) -> None:
    """Leaving out unreadable images must not empty a class of train, or a split."""
    dataset, readable = snapshot.dataset, snapshot.readable()
    train = readable & (dataset.splits == SPLITS.index("train"))
    counts = np.bincount(dataset.labels[train], minlength=len(dataset.classes))
    empty = [f"train/{name}" for name, n in zip(dataset.classes, counts, strict=True) if not n]
    for split in dataset.present_splits():
        if not readable[dataset.indices(split)].any():
            empty.append(split)
    if empty:
        raise DataError(
            dataset.root,
            expected="readable images in every split and in every class of train",
            found=f"none in {', '.join(empty)}",
            remedy="replace the unreadable images",
        )
