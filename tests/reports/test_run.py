from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlcache.core.errors import CacheError, ModelError
from tlcache.networks.scoring import Scored
from tlcache.reports.run import load_predictions, save_predictions

VAL = Scored(
    np.array([[0.5, -2, 1e30], [3, 2, 1]], np.float32),
    np.array([2, 0], np.int32),
    ["val/꿀벌/a b.jpg", "val/<b>/\udcff\n'\".png"],
)
TEST = Scored(np.zeros((1, 3), np.float32), np.array([1], np.int32), ["test/x/1.jpg"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.safetensors"
    save_predictions(path, {"test": TEST, "val": VAL})
    return path


def test_what_was_said_comes_back_as_it_was(file: Path) -> None:
    found = load_predictions(file, 3)
    assert list(found) == ["val", "test"]
    for split, of in (("val", VAL), ("test", TEST)):
        assert np.array_equal(found[split].logits, of.logits)
        assert found[split].logits.dtype == np.float32
        assert np.array_equal(found[split].labels, of.labels)
        assert found[split].paths == of.paths


def test_predictions_of_another_model_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match=r"2 classes that tlcache wrote, found logits \(2, 3\)"):
        load_predictions(file, 2)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("val.logits", np.full((2, 3), np.nan, np.float32), "logits in val that are not finite"),
        ("val.logits", np.zeros((2, 3)), "val.logits of float64"),
        ("val.labels", np.array([0, 3], np.int32), "a label without a class in val"),
        ("val.labels", np.array([0, -1], np.int32), "a label without a class in val"),
        ("val.labels", np.array([0], np.int32), "1 labels and 2 paths"),
        ("val.paths", np.frombuffer(b"a\0b", np.uint8), "2 labels and 1 paths"),
        ("val.paths", np.frombuffer(b"a\0../b\0", np.uint8), "leads out of the data set: ../b"),
        ("val.paths", np.frombuffer(b"/etc/x\0b\0", np.uint8), "leads out of the data set: /etc"),
        ("secret.paths", np.zeros(1, np.uint8), "arrays named secret.paths"),
    ],
)
def test_damaged_predictions_are_refused_in_one_line(
    file: Path, name: str, values: np.ndarray, words: str
) -> None:
    save_file(load_file(file) | {name: values}, file)
    with pytest.raises(ModelError) as caught:
        load_predictions(file, 3)
    assert words in str(caught.value)
    assert "remove the file, and the images are scored again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_and_no_file_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ModelError, match="expected predictions of 3 classes"):
        load_predictions(file, 3)
    file.unlink()
    with pytest.raises(CacheError, match="No such file"):
        load_predictions(file, 3)
