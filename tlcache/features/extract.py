"""Features of images that belong to no data set: files from anywhere, and images in memory.

They go through the same cache as a data set's, row by row: what is there is not made again,
whoever made it. ``extract`` has all images at once; ``features_of`` takes them as they come.
Covers no labels, splits or snapshots (``embed``).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import first_of_each
from tlcache.cache.snapshots import digest_file, look
from tlcache.cache.store import FeatureStore, RowIndex
from tlcache.core.errors import CacheError, ImageError, OptionError, listed, strerror
from tlcache.core.machine import resolve_device
from tlcache.core.progress import no_tick, said_once
from tlcache.data.images import ImageInMemory
from tlcache.features.missing import Pass, RowBuffer, fit_to_keep, make_rows
from tlcache.features.stores import FeatureSpec, describe_trunk, moved_on, stores_of
from tlcache.trunks.engines import ENGINES
from tlcache.trunks.forward_pass import Job, Made

if TYPE_CHECKING:
    from tlcache.trunks.load import Trunk

_note = logging.getLogger("tlcache").info

BLOCK = 8192
"""Files that are looked up in the cache at once; their features are in memory together."""


def extract(images: Sequence[Path | ImageInMemory], spec: FeatureSpec) -> NDArray[np.float32]:
    """(N, D) features of N images, in their order, of the eval transform.

    Equal images are put through the network once. What a user should know goes to the log of
    ``tlcache``. Of ``spec``, views and what is to be done with files are not used.

    Raises:
        ImageError: If images cannot be read; the rows of all others are in the cache.
        TlcacheError: If the trunk, the cache or an option is at fault.
    """
    load, store = _opened(spec)
    digests, reasons = _digested(images)
    view = np.zeros(len(images), np.int32)
    features, found = store.gather(digests, view)
    lacking = np.flatnonzero(~found & digests.any(axis=1))
    lacking = lacking[first_of_each(digests[lacking])]
    if len(lacking):
        jobs = (Job(images[int(i)], digests[i].tobytes(), ((0, 0),)) for i in lacking)
        trunk = load()
        if moved_on(trunk, store.identity.weights, _note):
            return extract(images, dataclasses.replace(spec, trunk=trunk))
        new_reasons = make_rows(trunk, jobs, len(lacking), [store], spec.compute, no_tick)
        pairs = zip(reasons, digests, strict=True)
        reasons = [old or new_reasons.get(digest.tobytes(), "") for old, digest in pairs]
        new = np.flatnonzero(~found)
        features[new], found[new] = store.gather(digests[new], view[new])
    if bad := [f"{image} ({why})" for image, why in zip(images, reasons, strict=True) if why]:
        found_bad = f"{len(bad)} that cannot: {listed(bad, '; ', 5)}"
        remedy = "replace or remove them; the rows of all others are in the cache"
        raise ImageError("images", "images that can be read", found_bad, remedy)
    if not found.all():
        expected = f"{np.count_nonzero(~found)} rows that were committed just now"
        remedy = "run again while no one clears the cache"
        raise CacheError(store.folder, expected, "none of them", remedy)
    return features


def feature_length(spec: FeatureSpec) -> int:
    """D; refuses what :func:`extract` would refuse before it looks at an image.

    Raises:
        TlcacheError: If the trunk, the cache or an option is at fault.
    """
    return _opened(spec)[1].identity.dim


def _opened(spec: FeatureSpec) -> tuple[Callable[[], Trunk], FeatureStore]:
    """How to load the trunk, and where its features are kept; checks what a pass depends on."""
    compute = spec.compute
    if compute.engine not in ENGINES:
        raise OptionError("--engine", " or ".join(ENGINES), compute.engine, "correct it")
    if compute.device not in ("auto", "cpu"):
        resolve_device(compute.device)
    note = said_once(_note)
    info, load = describe_trunk(spec.trunk, spec.weights, spec.cache / "weights", note)
    return load, stores_of(dataclasses.replace(spec, views=0), info, note)[0]


def _digested(images: Sequence[str | Path | ImageInMemory]) -> tuple[NDArray[np.uint8], list[str]]:
    """(N, 32): SHA-256 of each image's bytes, zeros where there is a reason; and the reasons."""
    digests, reasons = np.zeros((len(images), 32), np.uint8), list[str]()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(images), BLOCK):  # not all: a million futures take 1 GB
            for digest, reason in pool.map(_digest, images[start : start + BLOCK]):
                digests[len(reasons)] = np.frombuffer(digest, np.uint8)
                reasons.append(reason)
    return digests, reasons


def _digest(image: str | Path | ImageInMemory) -> tuple[bytes, str]:
    if isinstance(image, ImageInMemory):
        try:
            return hashlib.sha256(image.read_bytes()).digest(), ""
        except ImageError as error:
            return bytes(32), strerror(error)
    reason = _refusal(image)
    return (bytes(32), reason) if reason else digest_file(Path(image))[1:]


def _refusal(path: str | Path) -> str:
    """Why a file is not to be opened; a pipe would be waited for without end."""
    try:
        return look(str(path))[1]
    except ValueError as error:  # a NUL in its name
        return str(error)


@dataclasses.dataclass(frozen=True)
class FileFeature:
    """A file, as it was named, with its (D,) feature, or the reason why it cannot be read."""

    path: str | Path
    feature: NDArray[np.float32] | None
    reason: str = ""


_Entry = tuple[FileFeature, Job | None]
"""What is known of a file, and the job to do where that is not all."""


def features_of(
    paths: Iterable[str | Path | None], compute: Pass, store: FeatureStore | None = None
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
    index = RowIndex(store) if store else None
    for block in _blocks(paths):
        entries = _entries(block, index)
        jobs = [job for _, job in entries if job]
        if not jobs:
            yield from (known for known, _ in entries)
            continue
        made = compute(jobs)
        with contextlib.closing(_kept(made, store) if store else _fit(made)) as results:
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


def _entries(paths: Sequence[str | Path], index: RowIndex | None) -> list[_Entry]:
    """What is known of each file, from the cache where there is one."""
    if index is None:
        digests, reasons = [b""] * len(paths), list(map(_refusal, paths))
        features: list[NDArray[np.float32] | None] = [None] * len(paths)
    else:
        images, reasons = _digested(paths)
        rows, found = index.gather(images)
        digests = [digest.tobytes() for digest in images]
        features = [row if there else None for row, there in zip(rows, found, strict=True)]
    entries = list[_Entry]()
    for path, digest, reason, feature in zip(paths, digests, reasons, features, strict=True):
        job = None if reason or feature is not None else Job(Path(path), digest, ((0, 0),))
        entries.append((FileFeature(path, None if reason else feature, reason), job))
    return entries


def _in_order(entries: Iterable[_Entry], results: Iterable[Made]) -> Iterator[FileFeature]:
    left = iter(entries)
    for made in results:
        for known, job in left:
            if job is None:
                yield known
            elif job is made.job:  # one that is not was cut off by an interruption
                feature = None if made.reason else made.features[0]
                yield FileFeature(known.path, feature, made.reason)
                break
    yield from (known for known, job in left if job is None)


def _fit(made: Generator[Made, None, None]) -> Generator[Made, None, None]:
    with contextlib.closing(made):
        for result in made:
            yield fit_to_keep(result, ["float32"])


def _kept(made: Generator[Made, None, None], store: FeatureStore) -> Generator[Made, None, None]:
    """Passes results on; they are committed, however it ends."""
    buffer = RowBuffer([store])
    try:
        with contextlib.closing(made):
            for result in made:
                kept = buffer.add(result)
                # As the store will give them back, so that it makes no difference who asks first.
                features = kept.features.astype(store.identity.dtype).astype(np.float32)
                yield dataclasses.replace(kept, features=features)
    finally:
        buffer.commit()
