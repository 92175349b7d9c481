"""What a model says of images: logits of files, and of a split of a data set.

Serves finetuned networks and heads on a frozen trunk alike: the features that a head stands on may
come from a cache. Covers no judging (``evaluation``). Imports torch only where a network is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.store import FeatureStore
from tlcache.core.errors import DataError, ImageError, ModelError, OptionError, listed
from tlcache.core.machine import Compute
from tlcache.core.progress import Report, Reporter, Tick, no_report, no_tick
from tlcache.data.folders import SPLITS, DataSource, ImageDataset
from tlcache.evaluation.metrics import softmax
from tlcache.features.embed import embedding_of
from tlcache.features.extract import features_of
from tlcache.features.missing import Pass, open_pass
from tlcache.features.read import Embedding, Features, open_snapshot
from tlcache.features.stores import FeatureSpec, described_as, stores_of
from tlcache.heads.model import Head, Model
from tlcache.networks.checks import check_classes, check_transform, check_trunk, no_split
from tlcache.trunks.forward_pass import Job, Made
from tlcache.trunks.info import TrunkInfo, note_random

if TYPE_CHECKING:
    import torch

    from tlcache.trunks.load import Trunk

AUTO, SILENT = Compute(), Reporter()


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model says of a split: (n, C) logits, (n,) labels, and the n images' paths."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int32]
    paths: list[str]


@dataclasses.dataclass(frozen=True)
class ScoredImage:
    """What a model says of one image file: (C,) logits, or None and why it cannot be read."""

    path: str | Path
    logits: NDArray[np.float32] | None
    reason: str = ""

    def ranked(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """The classes with their probabilities, the likeliest first; none if it cannot be read."""
        if self.logits is None:
            return []
        shares = softmax(self.logits[None])[0].tolist()
        return sorted(zip(classes, shares, strict=True), key=lambda pair: -pair[1])


@dataclasses.dataclass(frozen=True)
class JudgedSplit:
    """The images that models are judged on: one split of a data set.

    ``skip_unreadable``: go on without the images that cannot be read.
    """

    source: DataSource
    on: str = "val"
    skip_unreadable: bool = False


def score(
    model: Model,
    split: JudgedSplit,
    cache: Path = Path("cache"),
    *,
    weights: str | None = None,
    compute: Compute = AUTO,
    tell: Reporter = SILENT,
) -> Scored:
    """What a model says of a split: a head of cached features, a finetuned network of the images.

    Features that the cache lacks are made and put there; a snapshot needs no image and no weights.

    Args:
        cache: The cache folder.
        weights: Where a frozen trunk's weights are now, if not where they were at training.

    Raises:
        DataError: If the data set has no such split.
        ImageError: If images cannot be read and are not to be skipped.
        ModelError: If the model is of other classes, or its head of another trunk or transform.
        OptionError: If the split has another name.
        TlcacheError: If the data set, the cache, the trunk or the device cannot be had.
    """
    if split.on not in SPLITS:
        raise OptionError("--on", " or ".join(SPLITS), split.on, "name one of them")
    if model.network is not None:
        note_random(model.weights, tell.note)
        dataset, network = split.source.scan(tell.note), load_network(model)
        with tell.progress("evaluating") as tick:
            scored = score_split(
                model,
                network,
                dataset,
                split.on,
                compute=compute,
                skip_unreadable=split.skip_unreadable,
                progress=tick,
            )
        return _said_whole(scored, dataset, split.on, tell)
    if split.source.path.is_file():
        embedding = open_snapshot(split.source.path, 0, tell.note)
    else:
        embedding = _embedded(model, split, cache, weights or model.weights, compute, tell)
    check_trunk(model, embedding.trunk)
    check_transform(model, embedding.stores[0].identity.transform)
    features = embedding.read()
    check_classes(model, features.classes)
    scored = score_features(model.head, features, split.on)
    if not scored.paths:
        raise no_split(embedding.snapshot.dataset, split.on)
    return _said_whole(scored, embedding.snapshot.dataset, split.on, tell)


def _said_whole(scored: Scored, dataset: ImageDataset, on: str, tell: Reporter) -> Scored:
    """The same; one line says how many images of the split are not in it."""
    total = len(dataset.indices(on))
    if left_out := total - len(scored.paths):
        tell.note(f"{on}: {left_out} of {total} images cannot be read, and are left out")
    return scored


def _embedded(
    model: Model, split: JudgedSplit, cache: Path, weights: str, compute: Compute, tell: Reporter
) -> Embedding:
    """A folder's features of a head's trunk; wrong weights are refused before any are made."""
    check_trunk(model, described_as(model.digest, model.trunk, weights, cache / "weights"))
    spec = FeatureSpec(
        trunk=model.trunk,
        weights=weights,
        cache=cache,
        transform=dataclasses.asdict(model.transform),
        precision=model.precision,
        dtype=model.dtype,
        skip_unreadable=split.skip_unreadable,
        compute=compute,
    )
    return embedding_of(split.source, spec, tell)


def score_features(head: Head, features: Features, split: str) -> Scored:
    """What a head says of the cached features of a split."""
    rows, labels = features.split(split)
    return Scored(head.logits(rows), labels, features.split_paths(split))


def score_splits(
    head: Head, features: Features, splits: Sequence[str] | None = None
) -> dict[str, Scored]:
    """The same of some splits: by default, of each that there is."""
    return {
        name: score_features(head, features, name) for name in splits or features.present_splits()
    }


def aligned(a: Scored, b: Scored) -> NDArray[np.float32]:
    """B's logits in the order of A's images, which are found by their paths.

    Raises:
        DataError: If the two were not judged on the same images under the same labels.
    """
    remedy = "compare again, when no other program changes the images"
    at = {path: row for row, path in enumerate(b.paths)}
    if odd := sorted(set(a.paths) ^ at.keys()):
        found = f"{len(odd)} that only one was judged on, {odd[0]} the first"
        raise DataError("the images of A and B", "the same ones", found, remedy)
    rows = np.array([at[path] for path in a.paths])
    labels = b.labels[rows]
    differ = np.flatnonzero(labels != a.labels)
    if len(differ):
        first = differ[0]
        found = f"{a.labels[first]} and {labels[first]}"
        raise DataError(f"the label of {a.paths[first]}", "the same one for A and B", found, remedy)
    return b.logits[rows]


def bare(model: Model) -> Model:
    """The model with a head that hands on what it is given: its logits are the features, (n, D)."""
    dim = model.head.weight.shape[1]
    through = Head(np.eye(dim, dtype=np.float32), np.zeros(dim, np.float32))
    return dataclasses.replace(model, head=through)


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


def score_split(
    model: Model,
    network: torch.nn.Module,
    dataset: ImageDataset,
    split: str,
    *,
    compute: Compute = AUTO,
    skip_unreadable: bool = False,
    progress: Tick = no_tick,
) -> Scored:
    """Logits and labels of a split's images, through the network.

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
    scored = score_images(model, lambda: network, paths, compute=compute)
    logits, kept, bad = [], [], []
    for done, (i, image) in enumerate(zip(chosen, scored, strict=True), 1):
        if image.logits is None:
            bad.append(f"{dataset.paths[i]} ({image.reason})")
        else:
            logits.append(image.logits)
            kept.append(i)
        progress(done, len(chosen))
    if not kept or (bad and not skip_unreadable):
        found = f"{len(bad)} that cannot: {listed(bad, '; ', 5)}"
        remedy = "replace or remove them, or pass --skip-unreadable"
        raise ImageError(dataset.root, "images that can be read", found, remedy)
    return Scored(np.stack(logits), dataset.labels[kept], [dataset.paths[i] for i in kept])


def score_present(
    model: Model,
    trunk: Trunk,
    dataset: ImageDataset,
    *,
    compute: Compute = AUTO,
    skip_unreadable: bool = False,
    tell: Reporter = SILENT,
) -> dict[str, Scored]:
    """:func:`score_split` of each split that a data set has, by a model tuned from a trunk."""
    network = trunk.module if model.digest == trunk.digest else load_network(model)
    scored = {}
    for split in dataset.present_splits():
        with tell.progress(f"evaluating {split}") as tick:
            scored[split] = score_split(
                model,
                network,
                dataset,
                split,
                compute=compute,
                skip_unreadable=skip_unreadable,
                progress=tick,
            )
    return scored


def score_images(
    model: Model,
    network: Callable[[], torch.nn.Module],
    paths: Iterable[str | Path | None],
    *,
    compute: Compute = AUTO,
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

    @functools.cache
    def ready() -> Pass:
        note = logging.getLogger("tlcache").warning
        return open_pass(network(), [model.transform], model.precision, compute, images, note)

    def passing(jobs: Iterable[Job]) -> Generator[Made, None, None]:
        return ready()(jobs)

    with contextlib.closing(features_of(paths, passing, store)) as features:
        for made in features:
            row = None if made.feature is None else model.head.logits(made.feature[None])[0]
            yield ScoredImage(made.path, row, made.reason)


def feature_store_of(model: Model, cache: Path, report: Report | None = None) -> FeatureStore:
    """Where a cache keeps the features that a model's head stands on; needs no weights.

    Raises:
        ModelError: If the model's network was finetuned: its features are nobody else's.
    """
    if model.network is not None:
        found = "a network that was finetuned, whose features serve no other model"
        raise ModelError("--cache", "a head on a frozen trunk", found, "leave --cache out")
    info = TrunkInfo(
        name=model.trunk,
        weights=model.weights,
        digest=model.digest,
        dim=model.head.weight.shape[1],
        transform=model.transform,
    )
    spec = FeatureSpec(cache=cache, precision=model.precision, dtype=model.dtype)
    return stores_of(spec, info, report or no_report)[0]
