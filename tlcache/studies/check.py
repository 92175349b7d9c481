"""What a check of a data set finds: leaks, contradictions, imbalance, and files that load oddly.

Near duplicates are found from features, copies from digests (``cache.copies``), and the rest from
the headers of image files, where they are at hand; no pixel is read, and nothing is drawn.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tlcache.cache.copies import (
    across_splits,
    class_counts,
    copies,
    copy_ids,
    describe_image,
    in_two_classes,
    rows_of_features,
)
from tlcache.cache.snapshots import Snapshot, load_snapshot, take_snapshot
from tlcache.core.errors import DataError, OptionError, UnmetError
from tlcache.core.progress import Reporter, Tick, part_of
from tlcache.data.folders import SPLITS, DataSource, ImageDataset
from tlcache.data.headers import read_headers
from tlcache.studies.neighbours import MEMORY, MOST_PAIRS, Pairs, Rows, connected, pairs_over

THRESHOLD = 0.9
"""No two different scenes among 397 photos of ants and bees come so near: 0.89 at most by
MobileNetV2, 0.81 by EfficientNet-Lite0. The same photos saved again at JPEG quality 70, mirrored,
or cropped to nine tenths of each side do, 97% of them or more."""


MOST_IN_A_GROUP, MOST_IN_A_LOOSE_GROUP = 0.5, 0.05
"""Shares of a data set's images that chains of near duplicates may connect."""
TIGHT = 0.5
"""The tightness from which a group is not loose."""
FEW = 20
"""So many images may be connected however few there are."""


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """Pairs of different files, across splits and within train, whose features are almost the same.

    The threshold is of their cosine similarity; rows are a snapshot's.

    Attributes:
        images: How many were compared.
        group: How many of them the longest chains of near pairs connect.
        tightness: To what share of this group one of its images is near, on average.
    """

    threshold: float
    across: Pairs
    within: Pairs
    images: int = 0
    group: int = 0
    tightness: float = 1.0

    @property
    def suits(self) -> bool:
        """Whether the threshold tells near duplicates from images that are merely alike.

        Duplicates come in small groups, or in tight ones, whose images are near to one another.
        Where chains of near pairs lead on and on, each image to others, or through most of the
        data set, near is what such images are: small drawings on white, for one.
        """
        most = MOST_IN_A_GROUP if self.tightness >= TIGHT else MOST_IN_A_LOOSE_GROUP
        return self.group <= max(most * self.images, FEW)


def near_duplicates(
    snapshot: Snapshot,
    features: Rows,
    threshold: float = THRESHOLD,
    *,
    most: int = MOST_PAIRS,
    memory: int = MEMORY,
    progress: Tick | None = None,
) -> NearDuplicates:
    """Pairs of different files with almost the same features: across splits, then in train.

    Args:
        snapshot: The images.
        features: (n, D), in the order of :func:`rows_of_features`.
        threshold: Of the cosine similarity, over 0 and up to 1.
        most: So many of the most similar pairs of each kind are kept; all are counted.
        memory: Bytes to take beside the features, about.
        progress: Told how many of all similarities are known.

    Raises:
        OptionError: If the threshold is out of (0, 1].
        DataError: If a feature is not finite.
    """
    rows = rows_of_features(snapshot)
    ids = copy_ids(snapshot.digests[rows])
    ends = np.searchsorted(snapshot.dataset.splits[rows], range(len(SPLITS) + 1)).tolist()
    parts = [slice(*bounds) for bounds in itertools.pairwise(ends) if bounds[0] < bounds[1]]
    tasks = [*itertools.combinations(parts, 2), *((part, part) for part in parts[:1])]
    whole = sum(len(rows[a]) * len(rows[b]) for a, b in tasks)
    found, done, counts = [], 0, np.zeros(len(rows), np.int64)
    links = [np.empty((2, 0), np.int64)]
    for a, b in tasks:
        pairs = pairs_over(
            features[a],
            None if a == b else features[b],
            threshold,
            ids=(ids[a], ids[b]),
            most=most,
            memory=memory,
            progress=part_of(progress, done, whole),
        )
        found.append(pairs._replace(rows=rows[pairs.rows + np.array([a.start, b.start])]))
        at = np.r_[a] if a == b else np.r_[a, b]
        _, first, group = np.unique(pairs.groups, return_index=True, return_inverse=True)
        links.append(np.stack([at, at[first[group]]]))
        counts[at] += pairs.counts
        done += len(rows[a]) * len(rows[b])
    groups = connected(len(rows), *np.hstack(links))
    sizes = np.bincount(groups)
    size, mates = int(sizes.max()), counts[groups == sizes.argmax()].mean()
    across, tightness = _most_similar(found[:-1], most), float(mates / max(size - 1, 1))
    return NearDuplicates(threshold, across, found[-1], len(rows), size, tightness)


def _most_similar(found: Sequence[Pairs], most: int) -> Pairs:
    rows = np.concatenate([np.empty((0, 2), np.int64), *(pairs.rows for pairs in found)])
    similarities = np.concatenate([np.empty(0), *(pairs.similarities for pairs in found)])
    order = np.lexsort((rows[:, 1], rows[:, 0], -similarities))[:most]
    return Pairs(rows[order], similarities[order], sum(pairs.total for pairs in found))


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found; rows are the data set's.

    Attributes:
        dataset: The images.
        leaking: Groups of copies that are in more than one split.
        contradicting: Groups of copies that are in more than one class.
        repeated: Groups of copies within one split and class.
        near: Near duplicates; None where no features were looked at.
        counts: Images by split and class.
        imbalance: Images of train's largest class over those of its smallest.
        most_imbalance: What that may be.
        unreadable: (row, reason).
        crop: Side of the square that the network sees, in pixels.
        tiny: (row, width, height) of images whose shorter side is less.
        odd: (row, what loading does that may surprise).
        headers: Whether the image files were at hand, to tell tiny and odd ones.
    """

    dataset: ImageDataset
    leaking: list[NDArray[np.int64]]
    contradicting: list[NDArray[np.int64]]
    repeated: list[NDArray[np.int64]]
    near: NearDuplicates | None
    counts: dict[str, dict[str, int]]
    imbalance: float
    most_imbalance: float
    unreadable: list[tuple[int, str]]
    crop: int
    tiny: list[tuple[int, int, int]]
    odd: list[tuple[int, str]]
    headers: bool

    @property
    def near_across(self) -> int:
        """Pairs of near duplicates in two splits; none where the threshold does not suit."""
        return self.near.across.total if self.near is not None and self.near.suits else 0

    @property
    def missing(self) -> list[tuple[str, str]]:
        """(split, class) of each class without an image in a split."""
        return [(s, c) for s, classes in self.counts.items() for c, n in classes.items() if not n]

    @property
    def sound(self) -> bool:
        """Whether nothing was found that makes a result wrong."""
        return not (self.leaking or self.contradicting or self.near_across)

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        paths = self.dataset.paths
        groups = {
            "in_two_splits": self.leaking,
            "in_two_classes": self.contradicting,
            "within_a_split": self.repeated,
        }
        return {
            "dataset": self.dataset.name,
            "images": len(self.dataset),
            "sound": self.sound,
            "identical": {where: [*map(self._images, found)] for where, found in groups.items()},
            "near_duplicates": self.near
            and {
                "threshold": self.near.threshold,
                "suits": self.near.suits,
                "largest_group": self.near.group,
                "in_two_splits": self._pairs(self.near.across),
                "in_train": self._pairs(self.near.within),
            },
            "classes": self.counts,
            "imbalance": self.imbalance,
            "out_of_balance": self.imbalance > self.most_imbalance,
            "missing": [{"split": split, "class": name} for split, name in self.missing],
            "unreadable": [{"path": paths[row], "reason": why} for row, why in self.unreadable],
            "crop": self.crop,
            "tiny": [{"path": paths[row], "width": w, "height": h} for row, w, h in self.tiny],
            "odd": [{"path": paths[row], "what": what} for row, what in self.odd],
            "headers": self.headers,
        }

    def _images(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [describe_image(self.dataset, row) for row in rows.tolist()]

    def _pairs(self, pairs: Pairs) -> dict[str, Any]:
        listed = [
            {"similarity": similarity, "images": self._images(rows)}
            for rows, similarity in zip(pairs.rows, pairs.similarities.tolist(), strict=True)
        ]
        return {"count": pairs.total, "pairs": listed}


def inspect(
    snapshot: Snapshot,
    near: NearDuplicates | None,
    crop: int,
    most_imbalance: float = 3.0,
    progress: Tick | None = None,
) -> Inspection:
    """Everything that a data set's snapshot and its files' headers show.

    Args:
        snapshot: The images.
        near: From :func:`near_duplicates`; None: not looked for.
        crop: Side of the square that the network sees, in pixels.
        most_imbalance: How many times the smallest class the largest may be.
        progress: Told how many headers are read.

    Raises:
        OptionError: If ``most_imbalance`` is below 1.
    """
    check_imbalance(most_imbalance)
    dataset, counts = snapshot.dataset, class_counts(snapshot.dataset)
    leaking, contradicting, repeated = [], [], []
    for group in copies(snapshot):
        leaks, contradicts = across_splits(dataset, group), in_two_classes(dataset, group)
        leaking += [group] if leaks else []
        contradicting += [group] if contradicts else []
        repeated += [] if leaks or contradicts else [group]
    unreadable = [(row, reason) for row, reason in enumerate(snapshot.reasons) if reason]
    tiny, odd, at_hand = [], [], dataset.root.is_dir()
    rows = np.flatnonzero(snapshot.readable()).tolist() if at_hand else []
    headers = zip(rows, read_headers([dataset.path(row) for row in rows]), strict=True)
    for done, (row, (width, height, oddities, reason)) in enumerate(headers, 1):
        if progress is not None:
            progress(done, len(rows))
        unreadable += [(row, reason)] if reason else []
        tiny += [(row, width, height)] if 0 < min(width, height) < crop else []
        odd += [(row, what) for what in oddities]
    trained = list(counts.get("train", {}).values()) or [1]
    return Inspection(
        dataset=dataset,
        leaking=leaking,
        contradicting=contradicting,
        repeated=repeated,
        near=near,
        counts=counts,
        imbalance=max(trained) / max(min(trained), 1),
        most_imbalance=most_imbalance,
        unreadable=sorted(unreadable),
        crop=crop,
        tiny=tiny,
        odd=odd,
        headers=at_hand,
    )


def check_imbalance(most: float, name: str = "imbalance") -> None:
    """Raise an OptionError for a ratio of largest to smallest class below 1, or no number."""
    if not 1 <= most < math.inf:
        expected = "a number from 1 on, the largest class over the smallest"
        raise OptionError(name, expected, str(most), "leave it out for 3")


def unsuited(near: NearDuplicates) -> str:
    """One line on a threshold that does not suit, and what to do."""
    return (
        f"--threshold {near.threshold:g} does not suit these images: chains of near pairs connect "
        f"{near.group:,} of {near.images:,}, so that near is no duplicate here; look at the most "
        "similar ones (--figure) and pass a higher one"
    )


def all_clear(found: Inspection) -> str:
    """The last line on what has no fault; it says what was not looked at."""
    text, unreadable = "nothing makes results wrong", len(found.unreadable)
    if unreadable:
        files = "file" if unreadable == 1 else "files"
        text += f"; {unreadable:,} {files} that cannot be read not looked at"
    if found.near is not None and not found.near.suits:
        text += "; near duplicates cannot be told at this threshold"
    return text


def fault_of(found: Inspection, *, skip_unreadable: bool = False) -> DataError | None:
    """What makes results wrong or cannot be read, in one line, with what to do."""
    if not (unreadable := 0 if skip_unreadable else len(found.unreadable)) and found.sound:
        return None
    said = [
        (unreadable, "file that cannot be read", "files that cannot be read"),
        (len(found.leaking), "image in two splits", "images in two splits"),
        (found.near_across, "near duplicate in two splits", "near duplicates in two splits"),
        (len(found.contradicting), "image in two classes", "images in two classes"),
    ]
    counts = ", ".join(f"{n:,} {one if n == 1 else many}" for n, one, many in said if n)
    kind, remedies = ("readable images, each" if unreadable else "each image"), list[str]()
    if unreadable:
        remedies += ["replace or remove what cannot be read, or pass --skip-unreadable"]
    if not found.sound:
        pair = "keep one of each pair, or put both into the same split and class, then train again"
        remedies += [pair]
    expected = f"{kind} in one split and one class"
    return DataError(found.dataset.root, expected, counts, "; ".join(remedies))


def digested(source: DataSource, tell: Reporter) -> Snapshot:
    """A data set's snapshot without its features: no network runs, and no cache is touched.

    Raises:
        OptionError: If a snapshot, which has its own splits, is to be split.
        TlcacheError: If the data cannot be read.
    """
    if not source.path.is_file():
        dataset = source.scan(tell.note)
        with tell.progress("reading files") as tick:
            return take_snapshot(dataset, progress=tick)
    if source.fractions is not None:
        found = ",".join(f"{x:g}" for x in source.fractions)
        remedy = "leave it out, or name the folder of images"
        raise UnmetError("--split", "none beside a snapshot, which has its own", found, remedy)
    return load_snapshot(source.path)


class FoundPair(NamedTuple):
    """Rows of two images, what they are to each other, and whether that falsifies a result."""

    rows: tuple[int, int]
    verdict: str
    bad: bool


def pairs_to_show(
    found: Inspection, snapshot: Snapshot, features: Rows | None = None, most: int = 12
) -> tuple[str, list[FoundPair]]:
    """A title, and the worst pairs of an inspection, first those that make results wrong.

    Where there is none, the nearest, which tell whether the threshold suits: for them, features
    (n, D) are needed in the order of :func:`rows_of_features`.
    """
    if pairs := _worst(found)[:most]:
        if pairs[0].bad:
            return "Images that are alike, the worst pairs first (red: results are wrong)", pairs
        return "Copies and near duplicates in one split", pairs
    if features is not None:
        near = near_duplicates(snapshot, features, 1e-3, most=most)
        pairs = _found(near.across, bad=False) + _found(near.within, bad=False)
        pairs = sorted(pairs, key=lambda pair: pair.verdict, reverse=True)[:most]
    return "The most similar pairs: none is over the threshold", pairs


def _worst(found: Inspection) -> list[FoundPair]:
    dataset, pairs = found.dataset, dict[tuple[int, int], FoundPair]()
    for column, groups, verdict in (
        (dataset.splits, found.leaking, "one file in two splits"),
        (dataset.labels, found.contradicting, "one file in two classes"),
        (None, found.repeated, "one file twice"),
    ):
        for group in groups:
            other = group[column[group] != column[group[0]]][0] if column is not None else group[1]
            rows = int(group[0]), int(other)
            pairs.setdefault(rows, FoundPair(rows, verdict, column is not None))
    listed = list(pairs.values())
    if found.near is not None:
        listed += _found(found.near.across, bad=found.near.suits) + _found(
            found.near.within, bad=False
        )
    return sorted(listed, key=lambda pair: not pair.bad)


def _found(pairs: Pairs, *, bad: bool) -> list[FoundPair]:
    listed = zip(pairs.rows.tolist(), pairs.similarities.tolist(), strict=True)
    return [FoundPair((a, b), f"similarity {value:.3f}", bad) for (a, b), value in listed]
