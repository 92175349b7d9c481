"""What a model says of images: logits, from files through its network.

Serves finetuned networks and heads on a frozen trunk alike; of the latter, features may come from a
cache. Covers no judging (``evaluation``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.store import FeatureStore
from tlcache.core.errors import DataError, ImageError, ModelError, listed
from tlcache.core.progress import Report, Tick, no_report
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.transforms import Transform
from tlcache.features.extract import Compute, features_of
from tlcache.features.stores import stores_of
from tlcache.heads.model import Model
from tlcache.trunks.forward_pass import Job, Made, run_pass
from tlcache.trunks.info import TrunkInfo

if TYPE_CHECKING:
    import torch

    from tlcache.trunks.engines import Engine


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model says of a split: (n, C) logits, (n,) labels, and the n images' paths."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int32]
    paths: list[str]


@dataclasses.dataclass(frozen=True)
class ScoredImage:
    """What a model says of one image file.

    Attributes:
        path: As it was named.
        logits: (C,); None where the image cannot be read.
        reason: Why it cannot be read; empty where it can.
    """

    path: str | Path
    logits: NDArray[np.float32] | None
    reason: str = ""


def load_network(model: Model, weights: str | None = None, memo: Path | None = None) -> Any:
    """The network that a model's head sits on: (N, 3, crop, crop) to (N, D), in eval mode.

    Args:
        weights: Where a frozen trunk's weights are, if not where they were at training.
        memo: Folder of the memo of digested weights.

    Raises:
        ModelError: If the weights are not those the head was trained on.
        TrunkError: If the trunk cannot be had.
    """
    from tlcache.networks.network import restore_network
    from tlcache.trunks.load import load_trunk

    found = "random" if model.network is not None else weights or model.weights
    return restore_network(load_trunk(model.trunk, found, memo), model)


def check_trunk(model: Model, trunk: TrunkInfo) -> None:
    """Refuse a trunk that a frozen head was not trained on.

    Raises:
        ModelError: If the trunk's weights have another digest.
    """
    if (model.trunk, model.digest) != (trunk.name, trunk.digest):
        raise ModelError(
            "the model's trunk",
            expected=f"{model.trunk} with the weights {model.digest[:8]} it was trained on",
            found=f"{trunk.name} with {trunk.digest[:8]} ({trunk.weights})",
            remedy="name the right file with --weights, or a snapshot of its own features",
        )


def check_transform(
    model: Model,
    transform: Transform,
    where: str = "the snapshot's transform",
    remedy: str = "evaluate on the folder of images, or on a snapshot of the same transform",
) -> None:
    """Refuse features of images that were prepared in another way.

    Args:
        where, remedy: Words of the error.

    Raises:
        ModelError: If the transform is not the model's.
    """
    if transform != model.transform:
        ours, theirs = model.transform.describe(), transform.describe()
        differ = [name for name in ours.keys() | theirs if ours.get(name) != theirs.get(name)]
        raise ModelError(
            where,
            expected=", ".join(f"{name} {ours.get(name)}" for name in sorted(differ)),
            found=", ".join(f"{name} {theirs.get(name)}" for name in sorted(differ)),
            remedy=remedy,
        )


def check_classes(model: Model, classes: Sequence[str]) -> None:
    """Refuse a data set whose labels mean something else.

    Raises:
        ModelError: If the classes differ.
    """
    if tuple(classes) != model.classes:
        raise ModelError(
            "the data set's classes",
            expected=f"{', '.join(model.classes[:6])} ({len(model.classes)} in all)",
            found=f"{', '.join(classes[:6])} ({len(classes)} in all)",
            remedy="name a data set with the classes that the model was trained on",
        )


def score_images(
    model: Model,
    network: Callable[[], torch.nn.Module],
    paths: Iterable[str | Path | None],
    *,
    device: str = "auto",
    engine: str = "auto",
    workers: int | None = None,
    images: int = 0,
    store: FeatureStore | None = None,
) -> Generator[ScoredImage, None, None]:
    """What a model says of image files, in the order given; memory is bounded.

    Args:
        network: Is called for the network when the first image has to go through it.
        paths: Of the files. None means that the next may be long in coming: what is said of those
            before it is yielded first.
        images: How many are to come, where that is known: a fast engine pays for many.
        store: See :func:`feature_store_of`; features found there are used, new ones are committed.

    Raises:
        CacheError: If the cache cannot be read or written.
        OptionError: If the device or the engine cannot be had.
    """
    passing = _pass_of(model, network, device, engine, workers, images)
    with contextlib.closing(features_of(paths, passing, store)) as features:
        for made in features:
            row = None if made.feature is None else model.head.logits(made.feature[None])[0]
            yield ScoredImage(made.path, row, made.reason)


def _pass_of(
    model: Model,
    network: Callable[[], torch.nn.Module],
    device: str,
    engine: str,
    workers: int | None,
    images: int,
) -> Compute:
    """The pass through a model's network, which is made ready once, when there is a first job."""
    from tlcache.core.machine import batch_size_for, resolve_device, thread_count
    from tlcache.trunks.engines import make_engine

    @functools.cache
    def computing() -> tuple[Engine, int, int]:
        where = resolve_device(device)
        made = make_engine(
            network(),
            model.transform,
            engine=engine,
            precision=model.precision,
            device=where,
            images=images,
        )
        return made, batch_size_for(where), workers or thread_count(where)

    def compute(jobs: Sequence[Job]) -> Generator[Made, None, None]:
        made, batch_size, threads = computing()
        return run_pass(made, jobs, [model.transform], workers=threads, batch_size=batch_size)

    return compute


def feature_store_of(model: Model, cache: Path, report: Report | None = None) -> FeatureStore:
    """Where a cache keeps the features that a model's head stands on; needs no weights.

    Raises:
        ModelError: If the model's network was finetuned: its features are nobody else's.
    """
    if model.network is not None:
        raise ModelError(
            "--cache",
            expected="a head on a frozen trunk",
            found="a network that was finetuned, whose features serve no other model",
            remedy="leave --cache out",
        )
    dim = model.head.weight.shape[1]
    info = TrunkInfo(
        name=model.trunk,
        weights=model.weights,
        digest=model.digest,
        dim=dim,
        transform=model.transform,
    )
    words = model.precision, model.dtype
    return stores_of(cache, info, {}, *words, 0, report or no_report)[0]


def score_split(
    model: Model,
    network: torch.nn.Module,
    dataset: ImageDataset,
    split: str,
    *,
    device: str = "auto",
    workers: int | None = None,
    skip_unreadable: bool = False,
    progress: Tick | None = None,
) -> Scored:
    """Logits and labels of a split.

    Raises:
        DataError: If the data set has no such split.
        ModelError: If its classes are not the model's.
        ImageError: If images cannot be read and ``skip_unreadable`` is not set.
    """
    check_classes(model, dataset.classes)
    chosen = dataset.indices(split)
    if not len(chosen):
        raise no_split(dataset, split)
    paths = [dataset.path(i) for i in chosen]
    scored = score_images(model, lambda: network, paths, device=device, workers=workers)
    logits, kept, bad = [], [], []
    for done, (i, image) in enumerate(zip(chosen, scored, strict=True), 1):
        if image.logits is None:
            bad.append(f"{dataset.paths[i]} ({image.reason})")
        else:
            logits.append(image.logits)
            kept.append(i)
        if progress is not None:
            progress(done, len(chosen))
    if not kept or (bad and not skip_unreadable):
        raise ImageError(
            dataset.root,
            expected="images that can be read",
            found=f"{len(bad)} that cannot: {listed(bad, '; ', 5)}",
            remedy="replace or remove them, or pass --skip-unreadable",
        )
    return Scored(np.stack(logits), dataset.labels[kept], [dataset.paths[i] for i in kept])


def no_split(dataset: ImageDataset, split: str) -> DataError:
    """The error of a split that a data set does not have."""
    return DataError(
        dataset.root,
        expected=f"images in {split}/",
        found=f"only {' and '.join(dataset.present_splits())}",
        remedy=f"choose among {', '.join(s for s in SPLITS if s != split)}",
    )
