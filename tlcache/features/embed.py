"""Fill the cache for a data set: from a folder of images to committed rows.

``embed`` digests the files, looks up which rows the cache lacks, makes those in one pass and
commits them as it goes. Covers no reading back (``read``).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import leak_warning
from tlcache.cache.snapshots import Snapshot, deep_rows, take_snapshot
from tlcache.cache.store import (
    FeatureStore,
    announce,
    draft_of,
    keep_description,
    keep_snapshot,
    known_snapshots,
)
from tlcache.core.errors import DataError, UnmetError, listed
from tlcache.core.files import StrPath, as_path
from tlcache.core.machine import Compute
from tlcache.core.progress import ProgressMaker, Report, Reporter, said_once
from tlcache.data.folders import SPLITS, DataSource, ImageDataset, check_dataset
from tlcache.features.missing import check_takes, make_rows, missing_rows
from tlcache.features.read import Embedding, UnreadableImagesError, open_snapshot
from tlcache.features.stores import FeatureSpec, describe_trunk, described_as, moved_on, stores_of
from tlcache.trunks.info import as_weights, note_random

if TYPE_CHECKING:
    from tlcache.trunks.load import Trunk


def embed(
    dataset: ImageDataset,
    trunk: str | Trunk = "resnet18",
    weights: StrPath = "imagenet",
    *,
    cache: StrPath = "cache",
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
        weights: For a name: ``imagenet``, a file, ``random`` or ``random:SEED``.
        cache: The cache folder.
        views: How many augmented views of each training image to keep as well.
        transform: Fields of the weights' own transform to change.
        precision: ``fp32``, ``fast``, ``fp16`` or ``bf16``: how close to float64 the features
            are (``engines.BOUNDS``).
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
    check_dataset(dataset)
    spec = FeatureSpec(
        trunk=trunk,
        weights=as_weights(weights),
        cache=as_path("cache", cache),
        views=views,
        transform=transform or {},
        precision=precision,
        dtype=dtype,
        skip_unreadable=skip_unreadable,
        rehash=rehash,
        compute=Compute(device, engine, workers, batch_size),
    )
    return embed_dataset(dataset, spec, Reporter.of(report, progress))


def embed_dataset(
    dataset: ImageDataset, spec: FeatureSpec, tell: Reporter | None = None
) -> Embedding:
    """What :func:`embed` does, of values that say which features and whom to tell."""
    started, tell = time.perf_counter(), tell or Reporter()
    note = said_once(tell.note)
    info, load = describe_trunk(spec.trunk, spec.weights, spec.cache / "weights", note)
    stores = stores_of(spec, info, note)
    if not stores[0].folder.exists():  # the trunk will be needed; whatever it refuses leaves none
        trunk = load()
        if moved_on(trunk, info.digest, note):
            return embed_dataset(dataset, dataclasses.replace(spec, trunk=trunk), tell)
        check_takes(trunk, stores)
    announce(stores[0])
    known = known_snapshots(stores[0], dataset)
    keep = draft_of(stores[0], dataset.name)
    with tell.progress("reading files") as tick:
        snapshot = take_snapshot(
            dataset, known, views=spec.views, rehash=spec.rehash, progress=tick, keep=keep
        )
    # Before rows are looked for and made: a clean-up takes no row that a snapshot names, and
    # whoever goes on after an interruption need not digest the files again.
    keep_snapshot(snapshot, stores[0])
    for store in stores:
        keep_description(store)
    missing = missing_rows(snapshot, stores, spec.views)
    pass_started = time.perf_counter()
    reasons: dict[bytes, str] = {}
    if total := len(missing.images):
        trunk = load()
        if moved_on(trunk, info.digest, note):
            return embed_dataset(dataset, dataclasses.replace(spec, trunk=trunk), tell)
        with tell.progress("embedding") as tick:
            jobs = missing.jobs(snapshot)
            reasons = make_rows(trunk, jobs, total, stores, spec.compute, tick)
    pass_seconds = time.perf_counter() - pass_started
    if reasons:
        snapshot = snapshot.with_reasons(reasons)
        keep_snapshot(snapshot, stores[0])
    _tell_deep(snapshot, missing.images[missing.plain], stores[0], note)
    done = Embedding(
        info,
        snapshot,
        stores,
        spec.views,
        embedded=total - len(reasons),
        embedded_rows=missing.count(snapshot, reasons),
        reused=missing.reused,
        seconds=time.perf_counter() - started,
        pass_seconds=pass_seconds,
    )
    if done.unreadable and not spec.skip_unreadable:
        raise UnreadableImagesError(done)
    _check_still_a_dataset(snapshot)
    return done


def _tell_deep(
    snapshot: Snapshot, made: NDArray[np.int64], store: FeatureStore, note: Report
) -> None:
    """Which images had 8 of their 16 bits taken, and which of them the cache had clipped to 255."""
    dataset, readable = snapshot.dataset, snapshot.readable()
    deep = np.array(deep_rows(dataset, made[readable[made]].tolist()), np.int64)
    if not len(deep):
        return
    clipped = store.has(~snapshot.digests[deep], np.zeros(len(deep), np.int32))
    for rows, words in (
        (deep[clipped], "embedded again: {} of 16 bits, clipped to 255 until now ({})"),
        (deep[~clipped], "{} of 16 bits, of which the upper 8 are used ({})"),
    ):
        if len(rows):
            images = "1 image" if len(rows) == 1 else f"{len(rows):,} images"
            note(words.format(images, listed([dataset.paths[i] for i in rows], most=3)))


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
        expected = "readable images in every split and in every class of train"
        found = f"none in {', '.join(empty)}"
        raise DataError(dataset.root, expected, found, "replace the unreadable images")


def embedding_of(
    source: DataSource,
    spec: FeatureSpec,
    tell: Reporter | None = None,
    *,
    check: Callable[[ImageDataset], object] | None = None,
    warn: bool = True,
) -> Embedding:
    """The data set that a user names, with its rows in the cache.

    Of a snapshot they must be there already, and what ``spec`` asks for must be what it has.

    Args:
        check: Raises what makes the data set useless, before the long work.
        warn: Say so in one line if an image is in two splits.

    Raises:
        OptionError: If the spec asks for features that are not the snapshot's own.
        UnreadableImagesError: As :func:`embed` does.
        TlcacheError: If the data, the trunk, the cache or an option is at fault.
    """
    tell = tell or Reporter()
    if source.path.is_file():
        embedding = open_snapshot(source.path, spec.views, tell.note)
        _check_its_own(embedding, source, spec)
    else:
        if isinstance(spec.trunk, str):
            note_random(spec.weights, tell.note)
        dataset = source.scan(tell.note)
        if check is not None:
            check(dataset)
        embedding = embed_dataset(dataset, spec, tell)
    if warn and (line := leak_warning(embedding.snapshot)):
        tell.note(f"warning: {line}")
    return embedding


def _check_its_own(embedding: Embedding, source: DataSource, spec: FeatureSpec) -> None:
    """A snapshot has its splits and its features: refuse options that ask for others."""
    identity, default = embedding.stores[0].identity, FeatureSpec()
    split = None if source.fractions is None else ",".join(f"{x:g}" for x in source.fractions)
    asked: dict[str, tuple[Any, Any]] = {"--split": (None, split)}
    for name in ("trunk", "precision", "dtype"):
        if (word := getattr(spec, name)) != getattr(default, name):
            asked[f"--{name}"] = getattr(identity, name), word
    for name, value in spec.transform.items():
        asked[f"--{name}"] = getattr(identity.transform, name), value
    if spec.weights != default.weights:
        weights = spec.weights, spec.cache / "weights"
        info = described_as(identity.weights, identity.trunk, *weights)
        asked["--weights"] = identity.weights[:8], info.digest[:8]
    for option, (own, value) in asked.items():
        if value != own:
            expected = f"the snapshot's own {own}" if own else "none beside a snapshot"
            remedy = "leave it out, or name the folder of images"
            raise UnmetError(option, expected, str(value), remedy)
