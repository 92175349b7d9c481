"""The material of a report: a run's record, and what else can still be had for its page.

What the run kept is taken; what it did not is made again, from the cache or from the images. A part
that cannot be had costs the page that part and a note. Draws and writes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, TlcacheError, UnmetError, strerror
from tlcache.core.machine import Compute
from tlcache.core.progress import Reporter
from tlcache.data.folders import DataSource
from tlcache.evaluation.comparison import compare
from tlcache.features.read import open_snapshot
from tlcache.networks.checks import check_transform, check_trunk
from tlcache.networks.scoring import (
    JudgedSplit,
    Scored,
    aligned,
    bare,
    feature_store_of,
    load_network,
    score,
    score_images,
)
from tlcache.reports.mistakes import judged, spread
from tlcache.reports.page import ROOMS
from tlcache.reports.records import RunRecord
from tlcache.reports.run import PREDICTIONS, load_predictions

# The (D,) feature of each image that was asked for; None where it could not be had.
Found = list[NDArray[np.float32] | None]


@dataclasses.dataclass(frozen=True)
class AtHand:
    """Where that is now which a run did not keep, and where a network runs.

    ``data`` is the folder of its images, or a snapshot of them; where it or the trunk's weights are
    None, they are where they were.
    """

    data: Path | None = None
    weights: str | None = None
    cache: Path = Path("cache")
    compute: Compute = dataclasses.field(default_factory=Compute)

    def check(self) -> None:
        """Refuse, with an UnmetError, a place of the images that is not there."""
        try:
            found = "" if self.data is None or self.data.exists() else f"no {self.data}"
        except OSError as error:  # a name too long, say
            found = strerror(error)
        if found:
            expected = "a folder of images, or a snapshot of them"
            raise UnmetError("--data", expected, found, "name where the images are now")

    def source(self, record: RunRecord) -> DataSource:
        """Where features or images come from: a snapshot, if that is what the run read."""
        own = record.origin.source or DataSource(record.root)
        return dataclasses.replace(own, path=self.data or own.path)


@dataclasses.dataclass(frozen=True)
class Material:
    """A run and what could be had for its report.

    Attributes:
        record: What the run itself kept.
        scored: What its model said of the reported split; None where that could not be had.
        rows: (m,) images of ``scored`` that the map shows.
        features: (m, D) of them; None where they could not be had.
        root: The folder of the images.
        notes: What could not be had, and why, a line each.
    """

    record: RunRecord
    scored: Scored | None = None
    rows: NDArray[np.int64] | None = None
    features: NDArray[np.float32] | None = None
    root: Path | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        record = self.record
        judged = record.evaluations[record.split].to_dict()
        return {
            "run": str(record.folder),
            "split": record.split,
            "selected_on": record.selected_on,
            "fitted_on": list(record.fitted_on),
            **{name: judged[name] for name in ("accuracy", "accuracy_ci95", "n")},
            "notes": list(self.notes),
        }


def material_of(record: RunRecord, at_hand: AtHand, tell: Reporter) -> Material:
    """A run with what can be had for its report."""
    data = at_hand.data
    root = record.root if data is None or data.is_file() else data
    scored: Scored | None = None
    missing = "Mistakes, calibration and map are"
    try:
        scored = _scored(record, at_hand, tell)
        missing = "The map of the features is"
        rows, features = _features(record, scored, at_hand, tell)
    except TlcacheError as error:
        return Material(record, scored, root=root, notes=(f"{missing} left out: {error}.",))
    return Material(record, scored, rows, features, root)


def _scored(record: RunRecord, at_hand: AtHand, tell: Reporter) -> Scored:
    """What the run kept of its model's answers; else the images are scored again."""
    kept = record.folder / PREDICTIONS
    if kept.is_file():
        found = load_predictions(kept, len(record.model.classes))
        if record.split in found:
            return found[record.split]
    split = JudgedSplit(at_hand.source(record), record.split, skip_unreadable=True)
    weights, compute = record.origin.weights(record.model, at_hand.weights), at_hand.compute
    return score(record.model, split, at_hand.cache, weights=weights, compute=compute, tell=tell)


def _features(
    record: RunRecord, scored: Scored, at_hand: AtHand, tell: Reporter
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(m,) which images the map shows at most, and their (m, D) features; of no others any."""
    rows = spread(judged(scored, record.model.classes), ROOMS[0].points)
    names, source = [scored.paths[i] for i in rows], at_hand.source(record).path
    if source.is_file():
        found = _from_snapshot(record, source, names, tell)
    else:
        found = _from_images(record, [source / name for name in names], at_hand, tell)
    there = [at for at, feature in enumerate(found) if feature is not None]
    features = [feature for feature in found if feature is not None]
    dim = record.model.head.weight.shape[1]
    return rows[there], np.stack(features) if features else np.zeros((0, dim), np.float32)


def _from_snapshot(
    record: RunRecord, snapshot: Path, names: Sequence[str], tell: Reporter
) -> Found:
    embedding = open_snapshot(snapshot, 0, tell.note)
    check_trunk(record.model, embedding.trunk)
    check_transform(record.model, embedding.stores[0].identity.transform)
    features = embedding.read()
    at = {path: row for row, path in enumerate(features.paths)}
    return [features.features[at[name]] if name in at else None for name in names]


def _from_images(
    record: RunRecord, paths: Sequence[Path], at_hand: AtHand, tell: Reporter
) -> Found:
    """From the cache, else by the network."""
    if not any(path.is_file() for path in paths):
        remedy = "pass --data with the folder where they are now"
        raise DataError(
            at_hand.source(record).path, "the images of the run", "none of them", remedy
        )
    model, found = record.model, Found()
    weights = record.origin.weights(model, at_hand.weights)
    with tell.progress("reading features") as tick:
        for image in score_images(
            bare(model),
            lambda: load_network(model, weights, at_hand.cache / "weights"),
            paths,
            compute=at_hand.compute,
            images=len(paths),
            store=None if model.network else feature_store_of(model, at_hand.cache, tell.note),
        ):
            found.append(image.logits)
            tick(len(found), len(paths))
    return found


def comparisons(materials: Sequence[Material]) -> list[str]:
    """The first run beside each other one that was judged on the same images, in a sentence."""
    first, sentences = materials[0], []
    for other in materials[1:]:
        same = other.record.model.classes == first.record.model.classes
        if not same or first.scored is None or other.scored is None:
            continue
        try:
            logits = aligned(first.scored, other.scored)
        except DataError:  # other images: no pairs to compare
            continue
        compared = compare(first.scored.logits, logits, first.scored.labels)
        sentences.append(compared.sentence(first.record.name, other.record.name))
    return sentences
