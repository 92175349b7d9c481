from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_trunk import TRANSFORM, load_small, small_model, small_trunk

from tlcache.core.errors import DataError, ImageError
from tlcache.core.machine import Compute
from tlcache.data.folders import DataSource, scan
from tlcache.data.images import decode
from tlcache.data.transforms import apply
from tlcache.features.embed import embedding_of
from tlcache.features.stores import FeatureSpec
from tlcache.networks.scoring import JudgedSplit, Scored, aligned, score, score_split
from tlcache.trunks.info import remember

TRUNK = small_trunk()
MODEL = small_model(TRUNK)


def test_logits_are_those_of_the_head_on_the_eval_transform(tiny_data: Path) -> None:
    (tiny_data / "val" / "bees" / "0.jpg").write_bytes(b"")
    dataset = scan(tiny_data)
    scored = score_split(
        MODEL, TRUNK.module, dataset, "val", compute=Compute(workers=2), skip_unreadable=True
    )
    assert scored.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert "val/bees/0.jpg" not in scored.paths
    images = [decode((tiny_data / p).read_bytes(), p) for p in scored.paths]
    with torch.no_grad():
        features = TRUNK.module(torch.from_numpy(np.stack([apply(i, TRANSFORM) for i in images])))
    np.testing.assert_allclose(scored.logits, MODEL.head.logits(features.numpy()), atol=1e-5)


def test_unreadable_images_are_an_error_unless_skipped(tiny_data: Path) -> None:
    (tiny_data / "val" / "bees" / "0.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"found 1 that cannot: val/bees/0\.jpg .*skip-unreadable"):
        score_split(MODEL, TRUNK.module, scan(tiny_data), "val")


def test_a_split_that_is_not_there_is_refused(tiny_data: Path) -> None:
    with pytest.raises(DataError, match="expected images in test/, found only train and val"):
        score_split(MODEL, TRUNK.module, scan(tiny_data), "test")


def test_a_stale_memo_of_weights_keeps_nobody_from_the_right_ones(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlcache.trunks.load.load_trunk", load_small)
    cache = tmp_path / "cache"
    stale = dataclasses.replace(small_trunk(seed=1).info, weights="random:0")
    remember(cache / "weights", stale)
    assert len(score(MODEL, JudgedSplit(DataSource(tiny_data)), cache).paths) == 8
    (snapshot,) = cache.glob("*/snapshots/*.h5")
    remember(cache / "weights", stale)
    spec = FeatureSpec(weights="random:0", cache=cache)
    assert embedding_of(DataSource(snapshot), spec).trunk.digest == TRUNK.digest


def said(paths: list[str], labels: list[int], logits: list[float]) -> Scored:
    return Scored(
        np.array(logits, np.float32)[:, None], np.array(labels, np.int32), [*map(str, paths)]
    )


def test_images_are_aligned_by_their_paths() -> None:
    a = said(["x", "y", "z"], [0, 1, 0], [1, 2, 3])
    b = said(["z", "x", "y"], [0, 0, 1], [30, 10, 20])
    assert aligned(a, b)[:, 0].tolist() == [10, 20, 30]


def test_other_images_or_labels_are_refused() -> None:
    a = said(["x", "y"], [0, 1], [1, 2])
    with pytest.raises(DataError) as caught:
        aligned(a, said(["x"], [0], [1]))
    assert str(caught.value) == (
        "the images of A and B: expected the same ones, found 1 that only one was judged on, y the "
        "first; compare again, when no other program changes the images"
    )
    with pytest.raises(DataError, match=r"the label of y: expected the same one .* found 1 and 0"):
        aligned(a, said(["y", "x"], [0, 0], [1, 2]))
