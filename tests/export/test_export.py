"""Exported files compute the model's probabilities without tlcache, or there is none."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_trunk import DIM, TRANSFORM, small_trunk
from torch import Tensor, nn

import tlcache.export.export
from tlcache.core.errors import DataError, ModelError, OptionError, to_install
from tlcache.data.images import decode
from tlcache.data.transforms import apply
from tlcache.export import formats as export_formats
from tlcache.export.export import BOUND, export_model
from tlcache.heads.model import Head, Model, load_model
from tlcache.networks.scoring import load_network, score_images
from tlcache.trunks.load import load_trunk
from tlcache.trunks.weights import state_digest

TRUNK = small_trunk()
CLASSES = ("ants", "bées", "a\nline")
FILES = ("onnx", "torchscript", "pt2")


def head(dim: int) -> Head:
    """One that is sure of some things."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, dim), scale=2 / np.sqrt(dim)).astype(np.float32)
    return Head(weight, np.array([0.1, 0, -0.1], np.float32))


MODEL = Model(head(DIM), CLASSES, TRUNK.name, TRUNK.weights, TRUNK.digest, TRANSFORM)


@pytest.fixture
def images(tiny_data: Path) -> list[Path]:
    return sorted((tiny_data / "val").rglob("*.*"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small network is every model's."""
    monkeypatch.setattr(tlcache.export.export, "load_network", lambda *_: TRUNK.module)


def run_file(path: Path, format: str, batch: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """What a file says of a batch, and its metadata, without tlcache."""
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        texts = session.get_modelmeta().custom_metadata_map
        made = session.run(["probabilities"], {"images": batch})[0]
    else:
        texts = {"classes": "", "tlcache": ""}
        if format == "torchscript":
            network = torch.jit.load(path, _extra_files=texts)
        else:
            network = torch.export.load(path, extra_files=texts).module()
        made = network(torch.from_numpy(batch)).numpy()
    return made, {name: json.loads(text) for name, text in texts.items()}


def probabilities(model: Model, network: nn.Module, crops: NDArray[np.float32]) -> NDArray[Any]:
    with torch.inference_mode():
        logits = network(torch.from_numpy(crops)) @ torch.from_numpy(model.head.weight).T
        logits += torch.from_numpy(model.head.bias)
        return logits.softmax(dim=1).numpy()


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("preprocess", [False, True])
@pytest.mark.parametrize("format", FILES)
def test_a_file_computes_the_models_probabilities_without_tlcache(
    small: None, images: list[Path], tmp_path: Path, format: str, preprocess: bool
) -> None:
    path = tmp_path / "model.file"
    done = export_model(MODEL, path, format, images=images, preprocess=preprocess)
    pixels = [decode(image.read_bytes(), image) for image in images][:5]
    crops = np.stack([apply(image, TRANSFORM) for image in pixels])
    batch = np.stack(pixels) if preprocess else np.ascontiguousarray(crops)
    made, about = run_file(path, format, batch)
    np.testing.assert_allclose(made, probabilities(MODEL, TRUNK.module, crops), atol=1e-5)
    assert np.ptp(made[:, 0]) > 1e-3  # or any constant would do
    assert about["classes"] == list(CLASSES)
    assert about["tlcache"]["input"] == done.contract["input"]
    assert list(batch.shape[1:])[-1 if preprocess else 0] == 3
    assert str(batch.dtype) == done.contract["input"]["dtype"]
    assert done.images == len(images) == 8
    assert 0 <= done.difference < 1e-5
    assert done.size == path.stat().st_size
    assert not list(tmp_path.glob(".tlcache*"))


@pytest.mark.parametrize("format", FILES)
def test_a_head_on_rows_of_length_1_scales_them_in_the_file_too(
    small: None, images: list[Path], tmp_path: Path, format: str
) -> None:
    scaling = dataclasses.replace(MODEL.head, normalise=True)
    model = dataclasses.replace(MODEL, head=scaling)
    assert export_model(model, tmp_path / "m", format, images=images).difference < 1e-5


def tuned_model() -> Model:
    """A network that is nobody's but the model's."""
    trunk = load_trunk("mobilenet_v3_small", "random:1")
    state = trunk.module.state_dict()
    return Model(
        head(trunk.dim),
        CLASSES,
        trunk.name,
        "random",
        state_digest(state),
        trunk.transform,
        network={name: tensor.numpy() for name, tensor in state.items()},
    )


def test_safetensors_load_into_torchvisions_network_without_tlcache(
    images: list[Path], tmp_path: Path
) -> None:
    import torchvision
    from safetensors.torch import load_file

    trunk = load_trunk("mobilenet_v3_small", "random")
    how = trunk.name, trunk.weights, trunk.digest, trunk.transform
    model = Model(head(trunk.dim), CLASSES, *how)
    done = export_model(model, tmp_path / "m.safetensors", "safetensors", images=images)
    assert done.difference < 1e-5
    state = load_file(tmp_path / "m.safetensors")
    for name in ("weight", "bias"):
        state[f"classifier.3.{name}"] = state.pop(f"tlcache.head.{name}")
    network = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    network.load_state_dict(state)
    crops = np.stack([apply(decode(i.read_bytes(), i), trunk.transform) for i in images])
    with torch.inference_mode():
        made = network(torch.from_numpy(crops)).softmax(dim=1).numpy()
    np.testing.assert_allclose(made, probabilities(model, trunk.module, crops), atol=1e-5)
    # And it is a model like any other, which needs no weights file.
    again = load_model(tmp_path / "m.safetensors")
    assert again.classes == CLASSES
    scored = list(score_images(again, lambda: load_network(again, "nowhere"), images))
    expected = list(score_images(model, lambda: trunk.module, images))
    for a, b in zip(scored, expected, strict=True):
        np.testing.assert_array_equal(a.logits, b.logits)


@pytest.mark.parametrize("format", [*FILES, "safetensors"])
def test_a_finetuned_network_is_exported_with_its_own_numbers(
    images: list[Path], tmp_path: Path, format: str
) -> None:
    model = tuned_model()
    done = export_model(model, tmp_path / "m.file", format, images=images[:2])
    assert done.difference < 1e-5
    other = dataclasses.replace(model, network=None, weights="random:2")
    with pytest.raises(ModelError, match="the model's trunk: expected mobilenet_v3_small with"):
        export_model(other, tmp_path / "other.file", format, images=images[:2])
    assert not (tmp_path / "other.file").exists()


def replaced(patch: pytest.MonkeyPatch, run: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """TorchScript's files compute something else."""
    format = export_formats.FORMATS["torchscript"]

    def read(path: Path) -> tuple[Any, dict[str, str]]:
        real, metadata = format.read(path)
        return lambda batch: run(real(batch)), metadata

    patch.setitem(export_formats.FORMATS, "torchscript", dataclasses.replace(format, read=read))


@pytest.mark.parametrize(
    ("change", "words"), [(2 * BOUND, "a difference of 2.0e-04"), (np.nan, "a difference of nan")]
)
def test_a_file_that_computes_something_else_does_not_stay(
    small: None,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: float,
    words: str,
) -> None:
    replaced(monkeypatch, lambda made: made + np.float32(change))
    (tmp_path / "old").write_text("as it was")
    for name in ("new", "old"):
        with pytest.raises(ModelError, match=f"within 0.0001 of tlcache's own, found {words}"):
            export_model(MODEL, tmp_path / name, "torchscript", images=images, force=True)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old").read_text() == "as it was"
    assert not list(tmp_path.glob(".*"))


def test_one_wrong_batch_among_many_is_enough(
    small: None, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(monkeypatch, lambda made: made if len(made) == 1 else made[::-1])
    with pytest.raises(ModelError, match="found a difference of"):
        export_model(MODEL, tmp_path / "m", "torchscript", images=images)


class OnlyPairs(nn.Module):
    """Once it is traced, it takes that batch and no other."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :DIM].reshape(len(images), DIM)  # a number, to a tracer


def test_a_network_that_is_fixed_to_its_batch_is_refused(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache.export.export, "load_network", lambda *_: OnlyPairs().eval())
    with pytest.raises(OptionError, match="--format torchscript: expected a network that can be"):
        export_model(MODEL, tmp_path / "m", "torchscript", images=images)
    assert not (tmp_path / "m").exists()


def test_the_older_onnx_exporter_helps_where_the_newer_one_fails(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(2))
    network = nn.Sequential(plain, nn.Flatten()).eval()
    monkeypatch.setattr(tlcache.export.export, "load_network", lambda *_: network)
    real, asked = torch.onnx.export, []

    def export(*arguments: Any, dynamo: bool, **options: Any) -> object:
        asked.append(dynamo)
        if dynamo:
            raise NotImplementedError("some operator")
        return real(*arguments, dynamo=False, **options)

    monkeypatch.setattr(torch.onnx, "export", export)
    done = export_model(MODEL, tmp_path / "m.onnx", "onnx", images=images)
    assert asked == [True, False]
    assert done.difference < 1e-5
    monkeypatch.setattr(tlcache.export.export, "load_network", lambda *_: TRUNK.module)
    with pytest.raises(OptionError, match="found NotImplementedError: some operator; choose ano"):
        export_model(MODEL, tmp_path / "n.onnx", "onnx", images=images)  # which pools unevenly
    assert not (tmp_path / "n.onnx").exists()


def test_an_interrupted_export_leaves_nothing(
    small: None, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(made: object) -> NDArray[Any]:
        raise KeyboardInterrupt

    replaced(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        export_model(MODEL, tmp_path / "m", "torchscript", images=images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_what_cannot_be_written_is_said_before_any_work(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object) -> nn.Module:
        return TRUNK.module

    monkeypatch.setattr(tlcache.export.export, "load_network", nobody)
    (tmp_path / "there").write_text("mine")
    for output, options, words in (
        ("m", {"format": "keras"}, "--format: expected onnx or torchscript or pt2 or safetensors"),
        ("there", {}, "expected a new file, found one that is there; name another file, or pass"),
        ("data", {"force": True}, "expected a new file, found a folder; name another file"),
        ("no/folder/m", {}, "expected a folder that can be written, found No such file"),
        ("there/m", {}, "expected a folder that can be written, found Not a directory"),
        ("m", {"format": "safetensors", "preprocess": True}, "which holds numbers; leave it out"),
    ):
        with pytest.raises(OptionError) as failed:
            export_model(MODEL, tmp_path / output, **{"images": images, **options})  # type: ignore[arg-type]
        assert words in str(failed.value)
    assert (tmp_path / "there").read_text() == "mine"


def test_a_missing_package_is_named_with_its_extra(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def hidden(name: str) -> Any:
        return None if "onnx" in name else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    words = f"found no onnx and no onnxscript and no onnxruntime; {to_install('export')}"
    with pytest.raises(OptionError, match=re.escape(words)):
        export_model(MODEL, tmp_path / "m", "onnx", images=images)


def test_images_that_cannot_be_read_are_left_out_and_some_are_needed(
    small: None, images: list[Path], tmp_path: Path
) -> None:
    images[0].write_bytes(b"")
    images[1].unlink()
    done = export_model(MODEL, tmp_path / "m", "torchscript", images=images)
    assert done.images == 6
    with pytest.raises(DataError, match="--data: expected images to run the file on, found 2 of"):
        export_model(MODEL, tmp_path / "n", "torchscript", images=images[:2])


def test_real_weights_and_photos_agree(
    photos: Path, mobilenet_weights: Path, tmp_path: Path
) -> None:
    trunk = load_trunk("mobilenet_v2", str(mobilenet_weights))
    how = trunk.name, trunk.weights, trunk.digest, trunk.transform
    model = Model(head(trunk.dim), CLASSES, *how)
    images = sorted((photos / "val" / "ants").iterdir())[:3]
    done = export_model(model, tmp_path / "m.onnx", "onnx", images=images, preprocess=True)
    assert done.images == 3
    assert done.difference < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("preprocess", [False, True])
def test_a_file_of_torchs_is_bound_to_no_device(
    small: None, images: list[Path], tmp_path: Path, preprocess: bool
) -> None:
    for format in ("torchscript", "pt2"):
        export_model(MODEL, tmp_path / format, format, images=images, preprocess=preprocess)
    graph = torch.jit.load(tmp_path / "torchscript").inlined_graph
    constants = [node.output() for node in graph.findAllNodes("prim::Constant")]
    assert constants and not [one for one in constants if str(one.type()) == "Device"]
    shape, dtype = ((2, 50, 60, 3), torch.uint8) if preprocess else ((2, 3, 32, 32), torch.float32)
    elsewhere = torch.export.load(tmp_path / "pt2").module().to("meta")
    made = elsewhere(torch.empty(shape, dtype=dtype, device="meta"))
    assert (made.device.type, made.shape) == ("meta", (2, 3))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_a_file_of_torchs_that_is_moved_to_a_gpu_says_the_same_there(
    small: None, images: list[Path], tmp_path: Path, format: str
) -> None:
    export_model(MODEL, tmp_path / "file", format, images=images, preprocess=True)
    batch = torch.from_numpy(decode(images[0].read_bytes(), images[0])[None])
    if format == "torchscript":
        here, there = (torch.jit.load(tmp_path / "file", map_location=d) for d in ("cpu", "cuda"))
    else:
        here = torch.export.load(tmp_path / "file").module()
        there = torch.export.load(tmp_path / "file").module().to("cuda")
    made = there(batch.to("cuda"))
    assert made.device.type == "cuda"
    torch.testing.assert_close(made.cpu(), here(batch), rtol=0, atol=BOUND)
