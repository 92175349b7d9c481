"""Features read back from the cache: arrays with their labels, and where they came from.

Covers no making of features (``embed``); reading needs no images, no weights and no trunk.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import first_of_each, rows_of_features
from tlcache.cache.identity import read_identity
from tlcache.cache.snapshots import OF_FEATURE, Snapshot, deep_rows, load_snapshot
from tlcache.cache.store import FeatureStore, open_store
from tlcache.core.errors import CacheError, DataError, OptionError, faults_as, listed
from tlcache.core.files import StrPath, as_path
from tlcache.core.machine import physical_memory
from tlcache.core.notebook import counts_html
from tlcache.core.progress import Report, no_report, said_once
from tlcache.data.folders import SPLITS
from tlcache.heads.model import Head, Model
from tlcache.trunks.info import TrunkInfo

EVERY = "all"

Array = TypeVar("Array")


class LabelledRows(NamedTuple, Generic[Array]):
    """Features and what belongs to them, row by row.

    Attributes:
        X: (n, D) float32.
        y: (n,) int64: the number of each image's class.
        paths: (n,) str objects, in numpy: of the images, as they lie in the data set's folder.
        splits: (n,) str, in numpy: ``train``, ``val`` or ``test``.
    """

    X: Array
    y: Array
    paths: NDArray[np.object_]
    splits: NDArray[np.str_]


@dataclasses.dataclass(frozen=True)
class Features:
    """Cached features of a data set, in memory.

    Attributes:
        features: (n, D) float32, of the eval transform.
        labels: (n,).
        splits: (n,), indices into ``SPLITS``, ascending.
        paths: Of the n images.
        classes: Their names.
        train_views: (V, t, D) float32: V augmented views of the t training images; None for V = 0.
    """

    features: NDArray[np.float32] = dataclasses.field(repr=False)
    labels: NDArray[np.int32] = dataclasses.field(repr=False)
    splits: NDArray[np.int8] = dataclasses.field(repr=False)
    paths: list[str] = dataclasses.field(repr=False)
    classes: tuple[str, ...]
    train_views: NDArray[np.float32] | None = dataclasses.field(default=None, repr=False)

    def split(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(m, D) features and (m,) labels of one split, not copied."""
        at = self._rows_of(name)
        return self.features[at], self.labels[at]

    def split_paths(self, name: str) -> list[str]:
        """The m images' paths of one split."""
        return self.paths[self._rows_of(name)]

    def _rows_of(self, name: str) -> slice:
        start, end = np.searchsorted(self.splits, [SPLITS.index(name), SPLITS.index(name) + 1])
        return slice(int(start), int(end))

    def to_train_on(self) -> NDArray[np.float32]:
        """What a head trains on: the augmented views where there are any, else (t, D)."""
        return self.split("train")[0] if self.train_views is None else self.train_views

    def to_numpy(self, on: str = EVERY) -> LabelledRows[NDArray[Any]]:
        """The features of the plain images as scikit-learn takes them: ``X, y, paths, splits``.

        Args:
            on: A split, or ``all``.

        Returns:
            (n, D) float32, not copied; (n,) int64, numbers of ``classes``; (n,) paths and (n,)
            names of splits. Rows come split after split: ``X[splits == "val"]`` are those of val.

        Raises:
            OptionError: If there is no split of that name.
        """
        check_on(on)
        at = slice(0, len(self.paths)) if on == EVERY else self._rows_of(on)
        paths = np.empty(at.stop - at.start, object)
        paths[:] = self.paths[at]
        labels, splits = self.labels[at].astype(np.int64), np.array(SPLITS)[self.splits[at]]
        return LabelledRows(self.features[at], labels, paths, splits)

    def to_torch(self, on: str = EVERY) -> LabelledRows[Any]:
        """The same with ``X`` and ``y`` as tensors, fit for a ``TensorDataset``.

        ``X`` shares its memory with these features; ``paths`` and ``splits`` are numpy's.
        """
        import torch

        rows = self.to_numpy(on)
        x, y = (torch.from_numpy(np.require(a, requirements=("C", "W"))) for a in (rows.X, rows.y))
        return LabelledRows(x, y, rows.paths, rows.splits)

    def present_splits(self) -> list[str]:
        """The splits that hold any image."""
        return [name for at, name in enumerate(SPLITS) if (self.splits == at).any()]

    def _repr_html_(self) -> str:
        return counts_html(f"{self.features.shape[1]:,} features of each image", self)


def check_on(on: str) -> None:
    """Refuse what is neither a split nor ``all``.

    Raises:
        OptionError: If it is neither.
    """
    if on not in (*SPLITS, EVERY):
        raise OptionError("--on", f"{', '.join(SPLITS)} or {EVERY}", on, "name one of them")


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A data set whose rows are in the cache.

    Attributes:
        trunk: Whose features they are.
        snapshot: The data set and its digests.
        stores: The rows of the eval transform and, where there are views, of the train transform.
        views: How many augmented views each training image has.
        embedded, reused: Distinct images of which rows were made, and of which none had to be.
        embedded_rows: Rows that were made of them, plain ones and views.
        seconds: Of everything.
        pass_seconds: Of the pass alone.
    """

    trunk: TrunkInfo
    snapshot: Snapshot
    stores: Sequence[FeatureStore]
    views: int
    embedded: int
    embedded_rows: int
    reused: int
    seconds: float
    pass_seconds: float

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(path, reason) of each image that cannot be read."""
        pairs = zip(self.snapshot.dataset.paths, self.snapshot.reasons, strict=True)
        return [(path, reason) for path, reason in pairs if reason]

    def read(self, spool: StrPath | None = None) -> Features:
        """The features, from the cache.

        Args:
            spool: A folder on whose disk they are laid out, for data larger than the memory, in a
                file without a name that is gone with the arrays; without it, in memory.

        Raises:
            CacheError: If a row is missing, or they do not fit into the memory or onto the disk.
        """
        spool = None if spool is None else as_path("spool", spool)
        dataset, readable = self.snapshot.dataset, rows_of_features(self.snapshot)
        digests, splits = self.snapshot.digests[readable], dataset.splits[readable]
        views = None
        if self.views:
            train = digests[splits == SPLITS.index("train")]
            names = np.tile(train, (self.views, 1)), np.repeat(np.arange(self.views), len(train))
            views = _gathered(self.stores[1], *names, spool).reshape(self.views, len(train), -1)
        return Features(
            features=_gathered(self.stores[0], digests, np.zeros(len(digests), np.int32), spool),
            labels=dataset.labels[readable],
            splits=splits,
            paths=[dataset.paths[i] for i in readable],
            classes=dataset.classes,
            train_views=views,
        )

    def model(self, head: Head) -> Model:
        """A head that was trained on these features, with all that it needs to classify images."""
        identity, classes = self.stores[0].identity, self.snapshot.dataset.classes
        same = ("trunk", "transform", "precision", "dtype")
        of_features = {name: getattr(identity, name) for name in same}
        weights, digest = self.trunk.weights, identity.weights
        return Model(head, classes, weights=weights, digest=digest, **of_features)

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        return {
            "identity": self.stores[0].identity.key,
            "trunk": self.trunk.name,
            "weights": self.trunk.weights,
            "dataset": self.snapshot.dataset.name,
            "images": len(self.snapshot.dataset),
            "embedded": self.embedded,
            "embedded_rows": self.embedded_rows,
            "reused": self.reused,
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "views": self.views,
            "dim": self.trunk.dim,
            "seconds": self.seconds,
            "images_per_second": self.embedded / self.pass_seconds if self.embedded else 0.0,
            "rows_per_second": self.embedded_rows / self.pass_seconds if self.embedded else 0.0,
        }


class UnreadableImagesError(DataError):
    """Some images cannot be read; the rows of all others are in the cache: ``embedding``."""

    def __init__(self, embedding: Embedding) -> None:
        bad = [f"{path} ({reason})" for path, reason in embedding.unreadable]
        found = f"{len(bad)} that cannot: {listed(bad, '; ', 5)}"
        remedy = "replace or remove them, or pass --skip-unreadable; all others are in the cache"
        if any(reason.startswith(OF_FEATURE) for _, reason in embedding.unreadable):
            remedy = f"check the weights, --precision and --dtype, {remedy}"
        super().__init__(embedding.snapshot.dataset.root, "images that can be read", found, remedy)
        self.embedding = embedding


def open_snapshot(path: StrPath, views: int = 0, report: Report | None = None) -> Embedding:
    """A data set from its snapshot in a cache: needs no images, no weights and no trunk.

    Args:
        path: ``<cache>/<identity>/snapshots/<data set>.h5``.
        views: How many augmented views of each training image to read.
        report: Is told of damaged files.

    Raises:
        CacheError: If the snapshot or its cache cannot be used.
    """
    path, started = as_path("path", path), time.perf_counter()
    report = said_once(report or no_report)
    snapshot, folder = load_snapshot(path), path.absolute().parents[1]
    _check_not_clipped(path, snapshot)
    identity = read_identity(folder)
    info = TrunkInfo(
        name=identity.trunk,
        weights="unknown",
        digest=identity.weights,
        dim=identity.dim,
        transform=identity.transform,
    )
    stores = [FeatureStore(folder, identity, report)]
    if views:
        stores.append(open_store(folder.parent, identity.as_train(), "unknown", report))
    reused = len(first_of_each(snapshot.digests[snapshot.readable()]))
    seconds = time.perf_counter() - started
    return Embedding(info, snapshot, stores, views, 0, 0, reused, seconds, 0.0)


def _check_not_clipped(path: Path, snapshot: Snapshot) -> None:
    """Refuse an earlier version's rows of greys of 16 bits, where the images are there to tell."""
    dataset = snapshot.dataset
    if not snapshot.deep and (clipped := deep_rows(dataset, range(len(dataset)))):
        expected = "greys of 16 bits that are scaled to 8"
        names = listed([dataset.paths[i] for i in clipped], most=3)
        found = f"{len(clipped):,} that an earlier version clipped to 255 ({names})"
        raise CacheError(path, expected, found, "run `tlcache embed` on the folder of images")


def _gathered(
    store: FeatureStore,
    images: NDArray[np.uint8],
    views: NDArray[np.integer],
    spool: Path | None,
) -> NDArray[np.float32]:
    room = _room(store, len(images), spool)
    features, found = store.gather(images, views.astype(np.int32, copy=False), room)
    if not found.all():
        missing = f"{np.count_nonzero(~found)} of them missing"
        remedy = "run `tlcache embed` on the folder of images"
        raise CacheError(store.folder, f"{len(found)} rows", missing, remedy)
    return features


def _room(store: FeatureStore, rows: int, spool: Path | None) -> NDArray[np.float32]:
    """(rows, D) zeros, in memory or on a disk."""
    shape = rows, store.identity.dim
    size = 4 * shape[0] * shape[1]
    if spool is None:
        if size > 0.8 * physical_memory():
            wanted = f"features that fit into {physical_memory() / 1e9:.1f} GB of memory"
            remedy = "pass --stream, which reads them from a disk as they are needed"
            raise CacheError(store.folder, wanted, f"{size / 1e9:.1f} GB", remedy)
        return np.zeros(shape, np.float32)
    wanted = f"a disk with {size / 1e9:.1f} GB of room"
    remedy = "free some space, or choose another --cache-dir"
    with faults_as(CacheError, spool, wanted, remedy), tempfile.TemporaryFile(dir=spool) as file:
        # Take the room now: a disk that is full is an error here, and would be a signal later.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            part = bytes(1 << 20)
            for start in range(0, size, len(part)):
                os.write(file.fileno(), part[: size - start])
        return np.asarray(np.memmap(file, np.float32, "r+", shape=shape))
