"""What a check puts together: what makes results wrong, and what is only said; near duplicates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_cache import Listed, snapshot_of

from tlcache.cache.snapshots import Snapshot, take_snapshot
from tlcache.core.errors import OptionError
from tlcache.data.folders import scan
from tlcache.studies.check import (
    Inspection,
    NearDuplicates,
    all_clear,
    check_imbalance,
    fault_of,
    inspect,
    near_duplicates,
    pairs_to_show,
    unsuited,
)
from tlcache.studies.neighbours import Pairs

SOUND = (
    Listed("train/ants/1.jpg", 1),
    Listed("train/bees/2.jpg", 2),
    Listed("val/ants/3.jpg", 3),
    Listed("val/bees/4.jpg", 4),
)
NO_PAIRS = Pairs(np.empty((0, 2), np.int64), np.empty(0), 0)
ONE_PAIR = Pairs(np.array([[0, 2]]), np.array([0.95]), 7)


def inspected(*more: Listed, near: NearDuplicates | None = None) -> Inspection:
    return inspect(snapshot_of(*SOUND, *more), near, 224)


def test_images_that_are_apart_are_sound_and_nothing_is_said() -> None:
    found = inspected(near=NearDuplicates(0.9, NO_PAIRS, NO_PAIRS))
    assert found.sound
    described = found.describe()
    assert described["sound"] is True and described["images"] == 4
    assert described["identical"] == {
        "in_two_splits": [],
        "in_two_classes": [],
        "within_a_split": [],
    }
    assert described["near_duplicates"]["in_two_splits"] == {"count": 0, "pairs": []}
    assert described["imbalance"] == 1 and described["out_of_balance"] is False
    assert not any(described[name] for name in ("missing", "unreadable", "tiny", "odd", "headers"))
    json.dumps(described, allow_nan=False)


def test_a_copy_in_another_split_makes_results_wrong() -> None:
    found = inspected(Listed("val/ants/copy.jpg", 1))
    assert not found.sound
    assert found.describe()["identical"] == {
        "in_two_splits": [
            [
                {"path": "train/ants/1.jpg", "split": "train", "class": "ants"},
                {"path": "val/ants/copy.jpg", "split": "val", "class": "ants"},
            ]
        ],
        "in_two_classes": [],
        "within_a_split": [],
    }
    assert str(fault_of(found)) == (
        "/nowhere: expected each image in one split and one class, found 1 image in two splits; "
        "keep one of each pair, or put both into the same split and class, then train again"
    )


def test_a_copy_in_another_class_makes_results_wrong() -> None:
    found = inspected(Listed("train/bees/copy.jpg", 1), Listed("train/bees/copy 2.jpg", 1))
    assert not found.sound
    assert [g.tolist() for g in found.contradicting] == [[0, 4, 5]]
    assert found.leaking == [] and found.repeated == []
    assert "found 1 image in two classes;" in str(fault_of(found))


def test_a_copy_in_another_split_and_class_is_both() -> None:
    found = inspected(Listed("val/bees/copy.jpg", 1), Listed("test/bees/copy.jpg", 2))
    assert [g.tolist() for g in found.leaking] == [[0, 4], [1, 5]]
    assert [g.tolist() for g in found.contradicting] == [[0, 4]]
    assert "found 2 images in two splits, 1 image in two classes;" in str(fault_of(found))


def test_a_copy_in_its_own_split_and_class_is_only_said() -> None:
    found = inspected(Listed("val/ants/copy.jpg", 3))
    assert found.sound
    assert [g.tolist() for g in found.repeated] == [[2, 4]]


def test_near_duplicates_make_results_wrong_across_splits_alone() -> None:
    within = inspected(near=NearDuplicates(0.9, NO_PAIRS, ONE_PAIR))
    assert within.sound and within.describe()["near_duplicates"]["in_train"]["count"] == 7
    across = inspected(near=NearDuplicates(0.9, ONE_PAIR, NO_PAIRS))
    assert not across.sound
    assert across.describe()["near_duplicates"]["in_two_splits"] == {
        "count": 7,
        "pairs": [
            {
                "similarity": 0.95,
                "images": [
                    {"path": "train/ants/1.jpg", "split": "train", "class": "ants"},
                    {"path": "val/ants/3.jpg", "split": "val", "class": "ants"},
                ],
            }
        ],
    }
    assert "found 7 near duplicates in two splits;" in str(fault_of(across))


def test_where_no_features_were_looked_at_near_duplicates_are_null() -> None:
    assert inspected().describe()["near_duplicates"] is None


def test_balance_is_the_largest_class_of_train_over_the_smallest() -> None:
    three_more = [Listed(f"train/bees/{i}.jpg", i) for i in range(10, 13)]
    found = inspect(snapshot_of(*SOUND, *three_more), None, 224, most_imbalance=4)
    assert found.imbalance == 4 and not found.describe()["out_of_balance"]
    found = inspect(snapshot_of(*SOUND, *three_more), None, 224, most_imbalance=3.9)
    assert found.describe()["out_of_balance"] and found.sound


def test_a_class_without_an_image_in_a_split_is_said() -> None:
    found = inspect(snapshot_of(*SOUND[:3], Listed("test/bees/9.jpg", 9)), None, 224)
    assert found.missing == [("val", "bees"), ("test", "ants")]
    assert found.describe()["classes"]["val"] == {"ants": 1, "bees": 0}


def small_files(folder: Path) -> Snapshot:
    for i, (split, name) in enumerate((s, c) for s in ("train", "val") for c in ("ants", "bees")):
        (folder / split / name).mkdir(parents=True)
        Image.new("RGB", (40 + i, 50), (i, 0, 0)).save(folder / split / name / "1.png")
    Image.new("RGBA", (20, 90)).save(folder / "train" / "ants" / "2.png")
    (folder / "train" / "ants" / "3.png").write_text("no image")
    (folder / "val" / "bees" / "4.png").symlink_to("nowhere")
    return take_snapshot(scan(folder))


def test_headers_tell_tiny_odd_and_unreadable_files(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    snapshot = small_files(tmp_path)
    found = inspect(snapshot, None, 42, progress=lambda *at: told.append(at))
    described = found.describe()
    assert described["tiny"] == [
        {"path": "train/ants/1.png", "width": 40, "height": 50},
        {"path": "train/ants/2.png", "width": 20, "height": 90},
        {"path": "train/bees/1.png", "width": 41, "height": 50},
    ]
    assert described["odd"] == [
        {"path": "train/ants/2.png", "what": "transparency, which is dropped"}
    ]
    assert described["unreadable"] == [
        {"path": "train/ants/3.png", "reason": "no image"},
        {"path": "val/bees/4.png", "reason": "No such file or directory"},
    ]
    assert (described["crop"], described["headers"], found.sound) == (42, True, True)
    assert told[-1] == (6, 6)


def test_a_file_that_was_found_unreadable_is_told_once(tmp_path: Path) -> None:
    snapshot = small_files(tmp_path)
    snapshot.reasons[snapshot.dataset.paths.index("train/ants/3.png")] = "bytes of no image"
    (first, _) = inspect(snapshot, None, 42).describe()["unreadable"]
    assert first == {"path": "train/ants/3.png", "reason": "bytes of no image"}


def test_found_pairs_are_those_of_the_features() -> None:
    snapshot = snapshot_of(*SOUND)
    features = np.array([[1, 0], [0, 1], [1, 0.01], [0.5, 1]], np.float32)
    found = inspect(snapshot, near_duplicates(snapshot, features, 0.99), 224)
    assert found.near_across == 1 and not found.sound


@pytest.mark.parametrize("most", [0.99, 0.0, -3.0, float("nan"), float("inf")])
def test_an_imbalance_that_none_can_keep_to_is_refused(most: float) -> None:
    with pytest.raises(OptionError, match="--imbalance: expected a number from 1 on"):
        check_imbalance(most, "--imbalance")
    with pytest.raises(OptionError):
        inspect(snapshot_of(*SOUND), None, 224, most)


def angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairs.rows.tolist()]


def test_near_duplicates_are_found_across_splits_and_in_train() -> None:
    snapshot = snapshot_of(*SOUND, Listed("test/ants/5.jpg", 5), Listed("test/ants/6.jpg", 6))
    #   train: 0, 90; val: 91, 200; test: 201.5, 202
    found = near_duplicates(snapshot, angles(0, 90, 91, 200, 201.5, 202), 0.999)
    assert listed(found.across) == [(1, 2), (3, 4), (3, 5)]
    expected = np.cos(np.radians([1, 1.5, 2]))
    assert found.across.similarities == pytest.approx(expected, abs=1e-6)
    assert found.across.total == 3 and found.within.total == 0
    near = near_duplicates(snapshot, angles(0, 1, 91, 200, 300, 301), 0.999)
    assert listed(near.within) == [(0, 1)]  # and not the two in test
    assert near.across.total == 0 and near.threshold == 0.999


def test_rows_of_near_duplicates_are_the_snapshot_s_whatever_its_order() -> None:
    mixed = snapshot_of(SOUND[2], SOUND[0], Listed("val/ants/b.jpg", 5, "bad"), *SOUND)
    # Features are of rows 1, 3, 4 (train), then 0, 5, 6 (val); copies are the same image.
    found = near_duplicates(mixed, angles(0, 0, 40, 80, 80, 40.1), 0.9999)
    assert listed(found.across) == [(4, 6)]


def test_copies_are_no_near_duplicates_of_each_other() -> None:
    copied = snapshot_of(*SOUND, Listed("val/ants/copy.jpg", 1))
    found = near_duplicates(copied, angles(0, 40, 80, 120, 0), 0.99)
    assert found.across.total == found.within.total == 0


def test_the_most_similar_pairs_of_all_splits_are_kept() -> None:
    snapshot = snapshot_of(*SOUND, Listed("test/ants/5.jpg", 5))
    found = near_duplicates(snapshot, angles(0, 90, 2, 93.5, 91), 0.99, most=2)
    assert listed(found.across) == [(1, 4), (0, 2)]
    assert found.across.total == 4


def spread(*groups: int, within: float = 1e-3, seed: int = 0) -> tuple[Snapshot, np.ndarray]:
    """Groups of images, each about a direction of its own, in train and val by turns."""
    random, count = np.random.default_rng(seed), sum(groups)
    centres = np.repeat(np.eye(len(groups)), groups, axis=0)
    splits = ("train" if i % 2 else "val" for i in range(count))
    names = (Listed(f"{split}/ants/{i}.jpg", i) for i, split in enumerate(splits))
    ordered = sorted(names, key=lambda image: image.path.startswith("val"))
    rows = np.array([int(image.path.rpartition("/")[2][:-4]) for image in ordered])
    features = np.hstack([centres, within * random.normal(size=(count, 40))])[rows]
    return snapshot_of(*ordered), features.astype(np.float32)


def test_a_threshold_that_everything_is_over_does_not_suit_and_is_no_fault() -> None:
    snapshot, features = spread(200, within=0.03)  # one cone, as of small drawings on white
    near = near_duplicates(snapshot, features, 0.9)
    assert near.across.total > 5000 and (near.group, near.suits) == (200, False)
    found = inspect(snapshot, near, 224)
    assert found.sound and found.near_across == 0 and fault_of(found) is None
    assert found.describe()["near_duplicates"]["suits"] is False
    assert unsuited(near) == (
        "--threshold 0.9 does not suit these images: chains of near pairs connect 200 of 200, so "
        "that near is no duplicate here; look at the most similar ones (--figure) and pass a "
        "higher one"
    )
    assert not any(pair.bad for pair in pairs_to_show(found, snapshot)[1])
    assert all_clear(found).endswith("; near duplicates cannot be told at this threshold")
    leak = features.copy()
    leak[-1] = leak[0] + 1e-4
    near = near_duplicates(snapshot, leak, 0.9999)
    assert (near.across.total, near.group, near.suits) == (1, 2, True)


def test_chains_of_images_that_are_merely_alike_do_not_suit_either() -> None:
    snapshot, features = spread(*[1] * 500)
    turn = np.radians(np.arange(50) * 10)  # each is near its two neighbours alone
    features[225:275] = 0
    features[225:275, 0], features[225:275, 1] = np.cos(turn), np.sin(turn)
    features[225:261, 2] = features[261:275, 3] = 0
    near = near_duplicates(snapshot, features, 0.98)
    assert near.group > 25 and near.tightness < 0.3 and not near.suits


def test_many_duplicates_in_small_or_in_tight_groups_are_found_however_many() -> None:
    for groups in ([2] * 50, [10] * 10, [30, *[1] * 70], [45, 45, 10]):
        near = near_duplicates(*spread(*groups), 0.9)
        assert near.suits and (near.group, near.tightness > 0.7) == (max(groups), True)
        assert not inspect(spread(*groups)[0], near, 224).sound
    few = near_duplicates(*spread(8), 0.9)
    assert few.group == 8 and few.suits


def test_a_split_alone_has_no_pairs_across() -> None:
    found = near_duplicates(snapshot_of(*SOUND[:2]), angles(0, 1), 0.9)
    assert listed(found.across) == [] and listed(found.within) == [(0, 1)]


def test_progress_goes_through_all_pairs_of_splits() -> None:
    told: list[tuple[int, int]] = []
    near_duplicates(
        snapshot_of(*SOUND), angles(0, 1, 2, 3), 0.9, progress=lambda *at: told.append(at)
    )
    assert told == sorted(told) and told[-1] == (8, 8)


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(OptionError, match=r"up to 1, found 1\.5"):
        near_duplicates(snapshot_of(*SOUND), angles(0, 1, 2, 3), 1.5)
