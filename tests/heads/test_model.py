from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from tlcache.core.errors import CacheError, ModelError
from tlcache.data.transforms import Transform
from tlcache.heads.model import Head, Model, initial_head, load_model, save_model

REMEDY = "train one with `tlcache train` or `tlcache finetune`"
EXPECTED = "expected a model that tlcache wrote (model.safetensors, or its run folder)"


def _model(network: dict[str, NDArray[Any]] | None = None) -> Model:
    return Model(
        head=initial_head(2, 5, 3),
        classes=("ants", "꿀벌 과"),
        trunk="resnet18",
        weights="imagenet",
        digest="0123456789abcdef" * 4,
        transform=Transform(resize=232, crop=200, interpolation="bicubic", mean=(0, 0, 0)),
        network=network,
    )


def _network() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    return {
        "conv1.weight": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "bn1.running_var": random.random(4).astype(np.float32),
        "bn1.num_batches_tracked": np.array(7, np.int64),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "half": np.ones(3, np.float16),
        "mask": np.array([0, -np.inf], np.float32),
    }


def _edited(path: Path, tensors: dict[str, Any], about: dict[str, Any]) -> Path:
    """A saved model with other arrays or other words; None removes."""
    save_model(path, _model())
    arrays: dict[str, NDArray[Any]] = dict(load_file(path)) | tensors
    described: dict[str, Any] = _model().describe() | about
    kept = {name: array for name, array in arrays.items() if array is not None}
    words = {name: value for name, value in described.items() if value is not None}
    path.write_bytes(save(kept, {"tlcache": json.dumps(words)}))
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    words = str(caught.value)
    assert words.startswith(f"{caught.value.where}: {EXPECTED}, found ")
    assert words.endswith(f"; {REMEDY}")
    return caught.value.found


def test_logits_are_those_of_a_linear_layer() -> None:
    head = initial_head(3, 16, 1)
    features = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    layer = torch.nn.Linear(16, 3)
    layer.load_state_dict(
        {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
    )
    logits = head.logits(features)
    assert logits.shape == (7, 3)
    assert logits.dtype == np.float32
    expected = layer(torch.from_numpy(features)).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)


def test_a_fresh_head_never_changes() -> None:
    head = initial_head(2, 3, 0)
    assert head.weight.tolist() == [
        [0.15814973413944244, -0.2658274173736572, -0.5300381183624268],
        [0.3617333173751831, 0.47660908102989197, 0.1231323853135109],
    ]
    assert head.bias.tolist() == [-0.5582658052444458, 0.2649998068809509]


def test_a_fresh_head_is_spread_as_torchs() -> None:
    head = initial_head(100, 64, 0)
    theirs = torch.nn.Linear(64, 100)
    assert head.weight.shape == tuple(theirs.weight.shape)
    assert head.bias.shape == tuple(theirs.bias.shape)
    for ours, other in ((head.weight, theirs.weight), (head.bias, theirs.bias)):
        assert ours.dtype == np.float32
        assert ours.flags.c_contiguous
        assert np.abs(ours).max() <= 1 / 8
        assert float(other.detach().abs().max()) <= 1 / 8
        assert np.abs(ours).max() > 0.95 / 8
    assert head.weight.std() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.03)
    assert abs(head.weight.mean()) < 0.004


def test_seeds_give_different_heads() -> None:
    heads = [initial_head(2, 8, seed).weight.tobytes() for seed in (0, 1, 2**63 - 1, 0)]
    assert len(set(heads)) == 3
    assert heads[0] == heads[3]


def test_a_head_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, _model())
    loaded = load_model(path)
    assert loaded.network is None
    assert loaded.describe() == _model().describe()
    assert loaded.classes == ("ants", "꿀벌 과")
    assert loaded.transform == _model().transform
    assert loaded.head.weight.tobytes() == _model().head.weight.tobytes()
    assert loaded.head.bias.tobytes() == _model().head.bias.tobytes()


def test_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", _model(_network()))
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.network is not None
    assert loaded.network.keys() == _network().keys()
    for name, tensor in _network().items():
        assert loaded.network[name].shape == tensor.shape, name
        assert loaded.network[name].dtype == tensor.dtype, name
        assert np.array_equal(loaded.network[name], tensor), name
    assert loaded.describe()["kind"] == "network"


def test_a_run_folder_stands_for_its_model(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", _model())
    assert load_model(tmp_path).describe() == _model().describe()


def test_a_head_on_rows_of_length_one_scales_every_row_and_comes_back_as_it_was(
    tmp_path: Path,
) -> None:
    head = dataclasses.replace(initial_head(2, 5, 3), normalise=True)
    model, path = dataclasses.replace(_model(), head=head), tmp_path / "model.safetensors"
    save_model(path, model)
    loaded = load_model(path)
    assert loaded.head.normalise
    assert loaded.describe() == model.describe()
    assert (model.describe()["format"], model.describe()["normalise"]) == (3, True)
    rows = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = units @ head.weight.T + head.bias
    for scale in (1, 1e-3, 1e3):
        found = loaded.head.logits(rows * np.float32(scale))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"run-\xff")
    folder.mkdir()
    model = dataclasses.replace(_model(), classes=("ants", os.fsdecode(b"bees-\xff")))
    save_model(folder / "model.safetensors", model)
    assert load_model(folder).classes == model.classes


def test_what_a_model_says_of_itself() -> None:
    assert _model().describe() == {
        "format": 2,
        "kind": "head",
        "classes": ["ants", "꿀벌 과"],
        "trunk": "resnet18",
        "weights": "imagenet",
        "digest": "0123456789abcdef" * 4,
        "transform": {
            "kind": "eval",
            "resize": 232,
            "crop": 200,
            "interpolation": "bicubic",
            "mean": [0.0, 0.0, 0.0],
            "std": [0.229, 0.224, 0.225],
        },
        "precision": "fp32",
        "dtype": "float32",
    }


def test_saving_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="expected a file that can be written, found No such file"):
        save_model(tmp_path / "nowhere" / "model.safetensors", _model())


def test_no_model_there(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "model.safetensors") == "no such file"
    assert _refusal(tmp_path) == "no such file"


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert "Permission denied" in _refusal(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"PK\x03\x04" + bytes(100), bytes(range(256))])
def test_bytes_that_are_no_safetensors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert _refusal(path).startswith("SafetensorError: ")


def test_a_model_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, _model())
    path.write_bytes(path.read_bytes()[:-1])
    assert _refusal(path).startswith("SafetensorError: ")


def test_somebody_elses_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(save({"fc.weight": np.ones((2, 3), np.float32)}, metadata))
        assert _refusal(path) == "a safetensors file of another program"


@pytest.mark.parametrize(
    ("tensors", "about", "found"),
    [
        ({"tlcache.head.bias": None}, {}, "a safetensors file of another program"),
        ({}, {"format": 1}, "a model of format 1"),
        ({}, {"format": 3}, "a model of another version"),
        ({}, {"normalise": True}, "a model of another version"),
        ({}, {"format": 3, "normalise": False}, "a model of another version"),
        ({}, {"format": 4}, "a model of format 4"),
        ({}, {"trunk": None}, "KeyError: 'trunk'"),
        ({}, {"trunk": 5}, "a model of another version"),
        ({}, {"extra": 5}, "a model of another version"),
        ({}, {"kind": "ensemble"}, "a model of another version"),
        ({"conv.weight": np.ones(3, np.float32)}, {}, "a model of another version"),
        ({}, {"transform": {"crop": 0}}, "OptionError: transform crop: expected 1 to 4096"),
        ({}, {"transform": {"kind": "eval"}}, "OptionError: transform: expected the values of"),
        ({}, {"classes": ["a", "b", "c"]}, "a head of float32 (2, 5) and float32 (2,) for 3 cl"),
        (
            {"tlcache.head.bias": np.zeros(3, np.float32)},
            {},
            "a head of float32 (2, 5) and float32 (3,) for 2 classes",
        ),
        (
            {"tlcache.head.weight": np.zeros(2, np.float32)},
            {},
            "a head of float32 (2,) and float32 (2,) for 2 classes",
        ),
        (
            {"tlcache.head.weight": np.zeros((2, 5), np.float64)},
            {},
            "a head of float64 (2, 5) and float32 (2,) for 2 classes",
        ),
        (
            {"tlcache.head.weight": np.full((2, 5), np.nan, np.float32)},
            {},
            "a head with values that are not finite",
        ),
        (
            {"tlcache.head.bias": np.array([0, np.inf], np.float32)},
            {},
            "a head with values that are not finite",
        ),
        (
            {"bn1.running_var": np.array([1, np.nan], np.float32)},
            {"kind": "network"},
            "a network with NaN in bn1.running_var",
        ),
    ],
)
def test_an_edited_model_is_refused(
    tmp_path: Path, tensors: dict[str, Any], about: dict[str, Any], found: str
) -> None:
    path = _edited(tmp_path / "model.safetensors", tensors, about)
    assert re.match(re.escape(found), _refusal(path))


def test_an_unedited_model_is_not(tmp_path: Path) -> None:
    assert load_model(_edited(tmp_path / "model.safetensors", {}, {})).describe() == (
        _model().describe()
    )


def test_metadata_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, _model())
    path.write_bytes(save(load_file(path), {"tlcache": "{"}))
    assert _refusal(path).startswith("JSONDecodeError: ")
    path.write_bytes(save(load_file(path), {"tlcache": "[" * 100_000}))
    assert _refusal(path).startswith("RecursionError: ")


def test_a_head_is_a_plain_pair_of_arrays() -> None:
    head = Head(np.eye(2, dtype=np.float32), np.array([1, 2], np.float32))
    assert head.logits(np.array([[3, 4]], np.float32)).tolist() == [[4, 6]]
