from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_cache import DIM, IMAGES, TRAINED, small_cache

from tlcache.core.errors import OptionError
from tlcache.features.read import Features, labelled_rows, open_snapshot


@pytest.fixture
def features(tmp_path: Path) -> Features:
    small_cache(tmp_path)
    return open_snapshot(next(tmp_path.glob("*/snapshots/*.h5"))).read()


def test_numpy_gets_rows_with_their_labels_paths_and_splits(features: Features) -> None:
    x, y, paths, splits = rows = features.to_numpy()
    assert rows.X.shape == (IMAGES, DIM) and rows.X.dtype == np.float32
    assert y.dtype == np.int64 and y.tolist() == features.labels.tolist()
    assert paths.tolist() == features.paths
    assert splits.tolist() == ["train"] * TRAINED + ["val"] * (IMAGES - TRAINED)
    np.testing.assert_array_equal(x[splits == "val"], features.split("val")[0])
    assert all(path.startswith("val/") for path in paths[splits == "val"])
    assert np.shares_memory(x, features.features)


def test_one_split_alone(features: Features) -> None:
    rows = features.to_numpy("val")
    np.testing.assert_array_equal(rows.X, features.split("val")[0])
    np.testing.assert_array_equal(rows.y, features.split("val")[1])
    assert rows.paths.tolist() == features.split_paths("val")
    assert features.to_numpy("test").X.shape == (0, DIM)


def test_each_row_keeps_what_is_its_own() -> None:
    numbers, splits = np.arange(9), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2], np.int8)
    paths = [f"{i}.jpg" for i in numbers]
    for on, wanted in (("train", [0, 1, 2]), ("val", [3, 4, 5, 6]), ("test", [7, 8])):
        rows = labelled_rows(numbers[:, None].astype(np.float32), numbers, splits, paths, on)
        assert rows.X[:, 0].tolist() == rows.y.tolist() == wanted
        assert rows.paths.tolist() == [f"{i}.jpg" for i in wanted]
        assert set(rows.splits.tolist()) == {on}


def test_torch_gets_tensors_that_share_their_memory(features: Features) -> None:
    rows = features.to_torch("train")
    assert (rows.X.dtype, rows.y.dtype) == (torch.float32, torch.int64)
    dataset = torch.utils.data.TensorDataset(rows.X, rows.y)
    assert len(dataset) == TRAINED
    features.features[0, 0] = 77
    assert rows.X[0, 0] == 77
    logits = torch.nn.Linear(DIM, 2)(rows.X)
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
