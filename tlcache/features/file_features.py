"""Features of image files that are named one by one, in order: computed, or from a cache.

Files come in blocks, so that memory is bounded whatever the number of them. Covers no data sets
with labels and splits (``embedding``) and no making of a network.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.digests import digest_file, look
from tlcache.cache.store import FeatureStore
from tlcache.features.row_buffer import RowBuffer
from tlcache.trunks.forward_pass import Job, Made

BLOCK = 8192
"""Files that are looked up in the cache at once: each look-up reads all of its rows."""

Compute = Callable[[Sequence[Job]], Generator[Made, None, None]]
"""The pass: what becomes of each job, in the order of the jobs."""


@dataclasses.dataclass(frozen=True)
class FileFeature:
    """One file's feature.

    Attributes:
        path: As it was named.
        feature: (D,) float32; None where the image cannot be read.
        reason: Why it cannot be read; empty where it can.
    """

    path: str | Path
    feature: NDArray[np.float32] | None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A file with what is known of it: its feature, or why there is none, or the job to do."""

    known: FileFeature
    job: Job | None = None


def features_of(
    paths: Iterable[str | Path | None], compute: Compute, store: FeatureStore | None = None
) -> Generator[FileFeature, None, None]:
    """The feature of each file, in the order given.

    Args:
        paths: Of the files. None means that the next may be long in coming: everything before
            it is done first.
        compute: Is called once for each block of files, with the jobs that are to be done for it,
            and not at all where there are none.
        store: The cache to look into first and to commit new features to; None for no cache.

    Raises:
        CacheError: If the cache cannot be read or written.
    """
    for block in _blocks(paths):
        entries = _looked_up(block, store) if store else [_looked_at(path) for path in block]
        jobs = [entry.job for entry in entries if entry.job]
        made = compute(jobs) if jobs else _nothing()
        with contextlib.closing(_kept(made, store) if store else made) as results:
            yield from _in_order(entries, results)


def _blocks(paths: Iterable[str | Path | None]) -> Iterator[list[str | Path]]:
    block = list[str | Path]()
    for path in paths:
        if path is not None:
            block.append(path)
        if block and (path is None or len(block) == BLOCK):
            yield block
            block = []
    if block:
        yield block


def _looked_at(path: str | Path) -> _Entry:
    reason = _refusal(path)
    job = None if reason else Job(Path(path), b"", ((0, 0),))
    return _Entry(FileFeature(path, None, reason), job)


def _looked_up(paths: Sequence[str | Path], store: FeatureStore) -> list[_Entry]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests, reasons = zip(*pool.map(_digest, paths), strict=True)
    images = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    features, found = store.gather(images, np.zeros(len(paths), np.int32))
    entries = []
    for path, digest, reason, feature, there in zip(
        paths, digests, reasons, features, found, strict=True
    ):
        if reason:
            entries.append(_Entry(FileFeature(path, None, reason)))
        elif there:
            entries.append(_Entry(FileFeature(path, feature)))
        else:
            entries.append(_Entry(FileFeature(path, None), Job(Path(path), digest, ((0, 0),))))
    return entries


def _digest(path: str | Path) -> tuple[bytes, str]:
    reason = _refusal(path)
    return (bytes(32), reason) if reason else digest_file(Path(path))[1:]


def _refusal(path: str | Path) -> str:
    """Why a file is not to be opened; a pipe would be waited for without end."""
    try:
        return look(str(path))[1]
    except ValueError as error:  # a NUL in its name
        return str(error)


def _in_order(entries: Iterable[_Entry], results: Iterable[Made]) -> Iterator[FileFeature]:
    left = iter(entries)
    for made in results:
        for entry in left:
            if entry.job is None:
                yield entry.known
            elif entry.job is made.job:  # one that is not was cut off by an interruption
                feature = None if made.reason else made.features[0]
                yield FileFeature(entry.known.path, feature, made.reason)
                break
    yield from (entry.known for entry in left if entry.job is None)


def _kept(made: Generator[Made, None, None], store: FeatureStore) -> Generator[Made, None, None]:
    """Passes results on; they are committed, however it ends."""
    buffer = RowBuffer([store])
    try:
        with contextlib.closing(made):
            for result in made:
                if result.reason:
                    buffer.commit_if_due()
                else:
                    buffer.add(result)
                yield dataclasses.replace(result, features=_stored(result.features, store))
    finally:
        buffer.commit()


def _stored(features: NDArray[np.float32], store: FeatureStore) -> NDArray[np.float32]:
    """As the store will give them back, so that it makes no difference who asks first."""
    with np.errstate(over="ignore"):  # what does not fit is refused when it is committed
        return features.astype(store.identity.dtype).astype(np.float32)


def _nothing() -> Generator[Made, None, None]:
    yield from ()
