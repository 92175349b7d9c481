from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from tlcache.errors import TrunkError
from tlcache.transforms import Transform
from tlcache.trunk import load_trunk


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("resnet18", 512),
        ("mobilenet_v2", 1280),
        ("mobilenet_v3_small", 1024),
        ("squeezenet1_1", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("googlenet", 1024),
        ("swin_t", 768),
        ("timm/resnet10t", 512),
    ],
)
def test_the_head_is_taken_off_whatever_the_network(name: str, dim: int) -> None:
    trunk = load_trunk(name, "random")
    with torch.inference_mode():
        features = trunk.module(torch.zeros(2, 3, 224, 224))
    assert trunk.dim == dim
    assert features.shape == (2, dim)
    assert not trunk.module.training
    assert not any(p.requires_grad for p in trunk.module.parameters())


def test_random_weights_are_seeded_and_leave_torchs_own_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again = (load_trunk("mobilenet_v3_small", w) for w in ("random", "random:0"))
    assert torch.equal(torch.rand(3), expected)
    assert first.digest == again.digest
    assert first.digest != load_trunk("mobilenet_v3_small", "random:1").digest


def test_a_file_gives_the_same_trunk_with_the_networks_own_head_or_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = torchvision.models.mobilenet_v3_small().state_dict()
    torch.save(state, tmp_path / "with.pth")
    headless = {k: v for k, v in state.items() if not k.startswith("classifier.3.")}
    torch.save(headless, tmp_path / "without.pth")
    files = [str(tmp_path / f"{word}.pth") for word in ("with", "without")]
    trunks = [load_trunk("mobilenet_v3_small", file) for file in files]
    assert trunks[0].digest == trunks[1].digest
    assert trunks[0].transform == Transform()


@pytest.mark.parametrize("name", ["features.0.0.weight", "features.0.1.running_mean"])
def test_one_ulp_in_a_weight_or_a_batchnorm_buffer_is_another_trunk(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    state = torchvision.models.mobilenet_v3_small().state_dict()
    torch.save(state, tmp_path / "a.pth")
    values = state[name].numpy().ravel()
    values[0] = np.nextafter(values[0], np.float32(9))
    torch.save(state, tmp_path / "b.pth")
    digests = {load_trunk("mobilenet_v3_small", str(tmp_path / f"{f}.pth")).digest for f in "ab"}
    assert len(digests) == 2


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v3_small().state_dict()
    del state["features.0.0.weight"]
    state["features.99.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(TrunkError) as refused:
        load_trunk("mobilenet_v3_small", str(tmp_path / "w.pth"))
    for word in ("features.0.0.weight", "features.99.weight", "mobilenet_v3_small"):
        assert word in str(refused.value)


def test_an_unknown_network_suggests_the_nearest() -> None:
    with pytest.raises(TrunkError, match="mobilenet_v3_small"):
        load_trunk("mobilenet_v3_smal", "random")


def test_the_packaged_network_brings_its_weights_and_transform() -> None:
    trunk = load_trunk("efficientnet_lite0", "imagenet")
    assert trunk.dim == 1280
    assert (trunk.transform.interpolation, trunk.transform.mean) == ("bicubic", (0.5, 0.5, 0.5))


def test_real_weights_load_and_have_the_digest_they_always_had(mobilenet_weights: Path) -> None:
    trunk = load_trunk("mobilenet_v2", str(mobilenet_weights))
    assert trunk.dim == 1280
    assert trunk.digest.startswith("1a12f75ba2737b23")
