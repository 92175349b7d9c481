from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import small_cache
import torch
from small_trunk import DIM, small_trunk
from typer.testing import CliRunner

import tlcache.features.read
from tlcache.cli import app
from tlcache.core.errors import CacheError, OptionError
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.features.read import Embedding, Features, open_snapshot
from tlcache.heads.recipe import Recipe
from tlcache.heads.train import train_head


@pytest.fixture
def embedding(tiny_data: Path, tmp_path: Path) -> Embedding:
    return embed(scan(tiny_data), small_trunk(), cache=tmp_path / "cache", views=2)


def test_splits_are_parts_of_the_whole_and_no_copies(embedding: Embedding) -> None:
    features = embedding.read()
    assert features.splits.tolist() == [0] * 16 + [1] * 8
    for name, count in (("train", 16), ("val", 8), ("test", 0)):
        rows, labels = features.split(name)
        assert rows.shape == (count, DIM) and len(labels) == count
        assert rows.base is not None and np.shares_memory(rows, features.features) == (count > 0)
        assert all(path.startswith(f"{name}/") for path in features.split_paths(name))
    assert len(features.split_paths("train")) == 16


def test_a_shuffled_split_is_in_order_too(tiny_data: Path, tmp_path: Path) -> None:
    dataset = scan(tiny_data / "train", (0.5, 0.5), 3)
    embedding = embed(dataset, small_trunk(), cache=tmp_path / "cache")
    features = embedding.read()
    assert (np.diff(features.splits) >= 0).all()
    of = dict(zip(dataset.paths, zip(dataset.splits, dataset.labels, strict=True), strict=True))
    for path, split, label in zip(features.paths, features.splits, features.labels, strict=True):
        assert of[path] == (split, label)


def test_features_on_a_disk_are_those_in_memory(embedding: Embedding, tmp_path: Path) -> None:
    whole, spooled = embedding.read(), embedding.read(tmp_path)
    np.testing.assert_array_equal(spooled.features, whole.features)
    assert spooled.train_views is not None and whole.train_views is not None
    np.testing.assert_array_equal(spooled.train_views, whole.train_views)
    recipe, classes = Recipe(epochs=3, block=5), len(whole.classes)
    heads = [
        train_head(f.to_train_on(), f.split("train")[1], *f.split("val"), recipe, classes=classes)
        for f in (whole, spooled)
    ]
    np.testing.assert_array_equal(heads[0].last.weight, heads[1].last.weight)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_features_that_are_larger_than_the_memory(
    embedding: Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.features.read, "physical_memory", lambda: 1000)
    with pytest.raises(CacheError) as refused:
        embedding.read()
    assert str(refused.value) == (
        f"{embedding.stores[1].folder}: expected features that fit into 0.0 GB of memory, "
        "found 0.0 GB; pass --stream, which reads them from a disk as they are needed"
    )
    assert embedding.read(tmp_path).features.shape == (24, DIM)


@pytest.mark.parametrize("how", ["posix_fallocate", "write"])
def test_a_disk_without_room(
    how: str, embedding: Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if how == "write":  # a system that cannot reserve
        monkeypatch.delattr(os, "posix_fallocate")
        assert embedding.read(tmp_path).features.any()
    monkeypatch.setattr(os, how, refuse)
    with pytest.raises(CacheError) as refused:
        embedding.read(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}: expected a disk with 0.0 GB of room, found No space left on device; "
        "free some space, or choose another --cache-dir"
    )


def test_train_streams(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tlcache.cli.train, "STREAMED_ROWS", 4)
    options = ["--trunk", "mobilenet_v3_small", "--weights", "random", "--no-figures", "--json"]
    results = []
    for stream in ([], ["--stream"]):
        run = ["--run-dir", f"run{len(stream)}"]
        done = CliRunner().invoke(app, ["train", str(tiny_data), *options, *stream, *run])
        assert done.exit_code == 0, done.output
        results.append(json.loads(done.stdout))
    assert results[0]["evaluation"]["val"]["loss"] != results[1]["evaluation"]["val"]["loss"]
    assert results[1]["embedded"] == 0
    assert list(Path("cache").rglob("tmp*")) == []


# --- as other libraries take them


@pytest.fixture
def features(tmp_path: Path) -> Features:
    small_cache.small_cache(tmp_path)
    return open_snapshot(next(tmp_path.glob("*/snapshots/*.h5"))).read()


def test_numpy_gets_rows_with_their_labels_paths_and_splits(features: Features) -> None:
    x, y, paths, splits = rows = features.to_numpy()
    assert rows.X.shape == (small_cache.IMAGES, small_cache.DIM) and rows.X.dtype == np.float32
    assert y.dtype == np.int64 and y.tolist() == features.labels.tolist()
    assert paths.tolist() == features.paths
    assert splits.tolist() == ["train"] * small_cache.TRAINED + ["val"] * (
        small_cache.IMAGES - small_cache.TRAINED
    )
    np.testing.assert_array_equal(x[splits == "val"], features.split("val")[0])
    assert all(path.startswith("val/") for path in paths[splits == "val"])
    assert np.shares_memory(x, features.features)


def test_one_split_alone(features: Features) -> None:
    rows = features.to_numpy("val")
    np.testing.assert_array_equal(rows.X, features.split("val")[0])
    np.testing.assert_array_equal(rows.y, features.split("val")[1])
    assert rows.paths.tolist() == features.split_paths("val")
    assert features.to_numpy("test").X.shape == (0, small_cache.DIM)


def test_each_row_keeps_what_is_its_own() -> None:
    numbers, splits = np.arange(9, dtype=np.int32), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2], np.int8)
    paths = [f"{i}.jpg" for i in numbers]
    for on, wanted in (("train", [0, 1, 2]), ("val", [3, 4, 5, 6]), ("test", [7, 8])):
        rows = Features(numbers[:, None] * np.float32(1), numbers, splits, paths, ()).to_numpy(on)
        assert rows.X[:, 0].tolist() == rows.y.tolist() == wanted
        assert rows.paths.tolist() == [f"{i}.jpg" for i in wanted]
        assert set(rows.splits.tolist()) == {on}


def test_torch_gets_tensors_that_share_their_memory(features: Features) -> None:
    rows = features.to_torch("train")
    assert (rows.X.dtype, rows.y.dtype) == (torch.float32, torch.int64)
    dataset = torch.utils.data.TensorDataset(rows.X, rows.y)
    assert len(dataset) == small_cache.TRAINED
    features.features[0, 0] = 77
    assert rows.X[0, 0] == 77
    logits = torch.nn.Linear(small_cache.DIM, 2)(rows.X)
    assert torch.nn.functional.cross_entropy(logits, rows.y).isfinite()


def test_rows_that_cannot_be_written_to_become_tensors_too(features: Features) -> None:
    features.features.flags.writeable = False
    np.testing.assert_array_equal(features.to_torch().X.numpy(), features.features)


def test_a_split_that_there_is_not_is_refused(features: Features) -> None:
    with pytest.raises(OptionError) as refused:
        features.to_torch("tset")
    assert str(refused.value) == (
        "--on: expected train, val, test or all, found tset; name one of them"
    )
