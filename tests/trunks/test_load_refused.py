"""Networks that are unknown or no trunks, and weights files that do not fit them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tlcache.core.errors import TrunkError
from tlcache.trunks.load import load_trunk
from tlcache.trunks.weights import State


@pytest.fixture
def squeezenet() -> State:
    """The state of a whole squeezenet1_1."""
    with torch.random.fork_rng(devices=[]):
        return torchvision.models.squeezenet1_1().state_dict()


def save(state: State, tmp_path: Path) -> str:
    torch.save(state, tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("resnet81", "the nearest names are: resnet18"),
        ("mobilenetv2", "the nearest names are: mobilenet_v2"),
        ("mobilenet_v3_smal", "mobilenet_v3_small"),
        ("efficientnet_lite", "efficientnet_lite0"),
        ("timm/resnet10", "the nearest names are: timm/resnet"),
        ("timm/resnet18.nobody", "timm/resnet18"),
        ("timm/hf-hub:some/one", "correct the name"),
        ("fcn_resnet50", "the nearest names are"),
        ("", "correct the name"),
        ("../../x", "correct the name"),
    ],
)
def test_an_unknown_network_is_refused_with_the_nearest_names(name: str, remedy: str) -> None:
    words = f"--trunk {name}: expected a classification network of torchvision, timm/NAME or"
    with pytest.raises(TrunkError, match=rf"^{re.escape(words)} .*{re.escape(remedy)}"):
        load_trunk(name, "random")


def test_timm_networks_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TrunkError, match=r"expected the package timm, .*; pip install timm$"):
        load_trunk("timm/resnet18", "random")
    with pytest.raises(TrunkError, match=r"expected the package timm, .*; pip install timm$"):
        load_trunk("efficientnet_lite0", "random")


def test_a_network_that_cannot_take_the_crop_is_refused() -> None:
    words = (
        "^--trunk timm/vit_tiny_patch16_384: expected a network that makes one vector of an image "
        "of 224 x 224 pixels, found AssertionError: .*384.*; choose another network$"
    )
    with pytest.raises(TrunkError, match=words):
        load_trunk("timm/vit_tiny_patch16_384", "random")


class Odd(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 1)
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(self.convolution(x))


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda x: {"out": x}, "an output of type dict"),
        (lambda x: x.mean((2, 3))[:, :4], "no layer that makes its 4 logits"),
        (lambda x: x.mean((2, 3))[:, None] if x.shape[1] == 3 else x.mean((2, 3)),
         r"features of shape \(1, 1, 3\)"),
    ],
)  # fmt: skip
def test_a_network_of_another_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, output: Callable[[Tensor], Any], found: str
) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: Odd(output))
    with pytest.raises(TrunkError, match=f"expected a network that makes one vector .*{found}"):
        load_trunk("resnet18", "random")


def test_another_networks_file_is_refused(squeezenet: State, tmp_path: Path) -> None:
    file = save(squeezenet, tmp_path)
    words = (
        rf"^{file}: expected the weights of resnet18 \(100 tensors\), "
        r"found 100 missing \(conv1\.weight, .* and 94 more\), "
        r"52 unexpected \(features\.0\.weight, .* and 46 more\);"
    )
    with pytest.raises(TrunkError, match=words):
        load_trunk("resnet18", file)


def test_missing_and_unexpected_names_are_listed(squeezenet: State, tmp_path: Path) -> None:
    del squeezenet["features.0.weight"]
    squeezenet["features.99.weight"] = torch.zeros(1)
    words = (
        r"expected the weights of squeezenet1_1 \(50 tensors\), "
        r"found 1 missing \(features\.0\.weight\), 1 unexpected \(features\.99\.weight\);"
    )
    with pytest.raises(TrunkError, match=words):
        load_trunk("squeezenet1_1", save(squeezenet, tmp_path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrunkError, match=r"no\.pth: expected a weights file .*found nothing there"):
        load_trunk("resnet18", str(tmp_path / "no.pth"))
    with pytest.raises(TrunkError, match="found a folder"):
        load_trunk("resnet18", str(tmp_path))
