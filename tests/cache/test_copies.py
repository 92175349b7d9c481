"""Copies by digest: their groups, what is said of them, and whose features are which rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_cache import Listed, small_cache, snapshot_of

from tlcache.cache.copies import (
    across_splits,
    class_counts,
    copies,
    copy_ids,
    in_two_classes,
    leak_warning,
    rows_of_features,
)
from tlcache.cache.snapshots import Snapshot
from tlcache.features.read import open_snapshot

ALL_APART = (
    Listed("train/ants/1.jpg", 1),
    Listed("train/bees/2.jpg", 2),
    Listed("val/ants/3.jpg", 3),
    Listed("val/bees/4.jpg", 4),
)


def groups(snapshot: Snapshot) -> list[list[int]]:
    return [group.tolist() for group in copies(snapshot)]


def test_copies_are_grouped_in_the_order_of_their_first() -> None:
    contents = [7, 8, 7, 9, 8, 7, 10]
    listed = [Listed(f"train/ants/{i}.jpg", content) for i, content in enumerate(contents)]
    assert groups(snapshot_of(*listed)) == [[0, 2, 5], [1, 4]]
    assert groups(snapshot_of(*ALL_APART)) == []


def test_files_that_cannot_be_read_are_no_copies() -> None:
    broken = [Listed(f"val/ants/{i}.jpg", "", "an empty file") for i in range(3)]
    assert groups(snapshot_of(*ALL_APART, *broken)) == []
    assert copies(snapshot_of(*broken)) == []


def test_digests_with_the_same_beginning_or_ending_are_told_apart() -> None:
    digests = np.zeros((6, 32), np.uint8)
    digests[1, 31] = digests[2, 8] = digests[3, 0] = 1
    digests[4], digests[5] = digests[1], digests[0]
    assert copy_ids(digests).tolist() == [0, 1, 2, 3, 1, 0]


def test_groups_tell_whether_they_cross_splits_and_classes() -> None:
    dataset = snapshot_of(*ALL_APART).dataset
    crosses = {
        tuple(group): (
            across_splits(dataset, np.array(group)),
            in_two_classes(dataset, np.array(group)),
        )
        for group in ([0, 1], [0, 2], [0, 3], [0])
    }
    assert crosses == {
        (0, 1): (False, True),
        (0, 2): (True, False),
        (0, 3): (True, True),
        (0,): (False, False),
    }


def test_there_is_no_warning_where_every_image_is_in_one_split() -> None:
    twice = Listed("train/ants/again.jpg", 1)
    assert leak_warning(snapshot_of(*ALL_APART, twice)) is None


def test_one_image_in_two_splits_is_warned_of_in_one_line() -> None:
    line = leak_warning(snapshot_of(*ALL_APART, Listed("val/ants/copy.jpg", 1)))
    assert line == (
        "1 image is in both train and val (first: train/ants/1.jpg = val/ants/copy.jpg): "
        "what is measured there flatters; `tlcache check DATA` lists them"
    )


def test_the_warning_counts_images_and_not_files_for_each_pair_of_splits() -> None:
    line = leak_warning(
        snapshot_of(
            *ALL_APART,
            Listed("train/ants/again.jpg", 1),
            Listed("val/ants/1 copy.jpg", 1),
            Listed("val/bees/2 copy.jpg", 2),
            Listed("test/bees/2 copy.jpg", 2),
            Listed("test/bees/4 copy.jpg", 4),
        )
    )
    assert line is not None
    assert line.startswith(
        "2 images are in both train and val, 1 in both train and test, 2 in both val and test "
        "(first: train/ants/1.jpg = val/ants/1 copy.jpg)"
    )


def test_rows_of_features_are_those_that_are_read(tmp_path: Path) -> None:
    small_cache(tmp_path)
    (path,) = tmp_path.glob("*/snapshots/*.h5")
    embedding = open_snapshot(path)
    order = rows_of_features(embedding.snapshot)
    assert [embedding.snapshot.dataset.paths[i] for i in order] == embedding.read().paths


def test_rows_of_features_leave_out_the_unreadable_and_follow_the_splits() -> None:
    mixed = ALL_APART[2], ALL_APART[0], Listed("train/ants/bad.jpg", 5, "no image"), ALL_APART[1]
    assert rows_of_features(snapshot_of(*mixed)).tolist() == [1, 3, 0]


def test_classes_are_counted_in_every_split_that_holds_images() -> None:
    counts = class_counts(snapshot_of(*ALL_APART[:3]).dataset)
    assert counts == {"train": {"ants": 1, "bees": 1}, "val": {"ants": 1, "bees": 0}}
