"""Features of images that belong to no data set: files from anywhere, and images in memory.

They go through the same cache as a data set's, row by row: what is there is not made again,
whoever made it. Covers no labels, splits or snapshots (``embedding``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.snapshots import take_snapshot
from tlcache.cache.store import FeatureStore
from tlcache.core.errors import CacheError, ImageError, OptionError
from tlcache.core.machine import resolve_device
from tlcache.data.folders import ImageDataset
from tlcache.data.images import ImageInMemory
from tlcache.features.embed import make_rows
from tlcache.features.missing import first_of_each
from tlcache.features.read import Report, said_once
from tlcache.features.stores import check_words, described, stores_of
from tlcache.trunks.engines import ENGINES
from tlcache.trunks.forward_pass import Job

if TYPE_CHECKING:
    from tlcache.trunks.load import Trunk

Digests = NDArray[np.uint8]


def extract(
    images: Sequence[Path | ImageInMemory],
    trunk: str | Trunk = "resnet18",
    weights: str = "imagenet",
    *,
    cache: Path = Path("cache"),
    transform: dict[str, Any] | None = None,
    precision: str = "fp32",
    dtype: str = "float32",
    device: str = "auto",
    engine: str = "auto",
    workers: int | None = None,
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """(N, D) features of N images, in their order, of the eval transform.

    Equal images are put through the network once. What a user should know goes to the log of
    ``tlcache``. Options are those of :func:`tlcache.features.embed.embed`.

    Raises:
        ImageError: If images cannot be read; the rows of all others are in the cache.
        TlcacheError: If the trunk, the cache or an option is at fault.
    """
    _check_pass(device, engine, workers, batch_size)
    report = said_once(logging.getLogger("tlcache").info)
    load, store = _opened(trunk, weights, cache, transform, precision, dtype, report)
    digests, reasons = _digested(images)
    view = np.zeros(len(images), np.int32)
    features, found = store.gather(digests, view)
    lacking = np.flatnonzero(~found & digests.any(axis=1))
    lacking = lacking[first_of_each(digests[lacking])]
    if len(lacking):
        jobs = (Job(images[int(i)], digests[i].tobytes(), ((0, 0),)) for i in lacking)
        how = device, engine, workers, batch_size, report
        bad = make_rows(load(), jobs, len(lacking), [store], *how, lambda done, total: None)
        reasons = [old or bad.get(d.tobytes(), "") for old, d in zip(reasons, digests, strict=True)]
        new = np.flatnonzero(~found)
        features[new], found[new] = store.gather(digests[new], view[new])
    if any(reasons):
        raise _unreadable(images, reasons)
    if not found.all():
        raise CacheError(
            store.folder,
            expected=f"{np.count_nonzero(~found)} rows that were committed just now",
            found="none of them",
            remedy="run again while no one clears the cache",
        )
    return features


def check(
    trunk: str | Trunk = "resnet18",
    weights: str = "imagenet",
    *,
    cache: Path = Path("cache"),
    transform: dict[str, Any] | None = None,
    precision: str = "fp32",
    dtype: str = "float32",
    device: str = "auto",
    engine: str = "auto",
    workers: int | None = None,
    batch_size: int | None = None,
) -> int:
    """Refuse what :func:`extract` would refuse before it looks at an image.

    Returns:
        D, the length of a feature.

    Raises:
        TlcacheError: If the trunk, the cache or an option is at fault.
    """
    _check_pass(device, engine, workers, batch_size)
    how = cache, transform, precision, dtype, logging.getLogger("tlcache").info
    return _opened(trunk, weights, *how)[1].identity.dim


def _opened(
    trunk: str | Trunk,
    weights: str,
    cache: Path,
    transform: dict[str, Any] | None,
    precision: str,
    dtype: str,
    report: Report,
) -> tuple[Callable[[], Trunk], FeatureStore]:
    """How to load the trunk, and where its features are kept."""
    check_words(precision, dtype)
    info, load = described(trunk, weights, cache / "weights", report)
    return load, stores_of(cache, info, transform or {}, precision, dtype, 0, report)[0]


def _digested(images: Sequence[Path | ImageInMemory]) -> tuple[Digests, list[str]]:
    """(N, 32): SHA-256 of each image's bytes, zeros where there is a reason."""
    digests, reasons = np.zeros((len(images), 32), np.uint8), [""] * len(images)
    files = [i for i, image in enumerate(images) if isinstance(image, Path)]
    nothing = np.zeros(len(files), np.int32), np.zeros(len(files), np.int8)
    listed = ImageDataset("files", Path(), (), [str(images[i]) for i in files], *nothing)
    snapshot = take_snapshot(listed)
    digests[files] = snapshot.digests
    for i, reason in zip(files, snapshot.reasons, strict=True):
        reasons[i] = reason
    for i, image in enumerate(images):
        if isinstance(image, ImageInMemory):
            try:
                digests[i] = np.frombuffer(hashlib.sha256(image.read_bytes()).digest(), np.uint8)
            except ImageError as error:
                reasons[i] = f"expected {error.expected}, found {error.found}"
    return digests, reasons


def _check_pass(device: str, engine: str, workers: int | None, batch_size: int | None) -> None:
    for name, number in (("workers", workers), ("batch-size", batch_size)):
        _check(number is None or number > 0, name, "a whole number over 0, or None", str(number))
    _check(engine in ENGINES, "engine", " or ".join(ENGINES), engine)
    if device not in ("auto", "cpu"):
        resolve_device(device)


def _check(good: bool, option: str, expected: str, found: str) -> None:
    if not good:
        raise OptionError(f"--{option}", expected=expected, found=found, remedy="correct it")


def _unreadable(images: Sequence[Path | ImageInMemory], reasons: Sequence[str]) -> ImageError:
    bad = [f"{image} ({why})" for image, why in zip(images, reasons, strict=True) if why]
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return ImageError(
        "images",
        expected="images that can be read",
        found=f"{len(bad)} that cannot: {'; '.join(bad[:5])}{more}",
        remedy="replace or remove them; the rows of all others are in the cache",
    )
