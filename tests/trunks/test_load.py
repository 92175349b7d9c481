"""Trunks: networks without their heads; names that are none, and weights that do not fit."""

from __future__ import annotations

import dataclasses
import random
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from small_trunk import small_trunk
from torch import Tensor, nn
from torch.nn import functional

from tlcache.core.errors import OptionError, TrunkError
from tlcache.data.transforms import Transform
from tlcache.trunks import load as trunk_module
from tlcache.trunks.info import TrunkInfo, recall
from tlcache.trunks.load import Trunk, check_crop, load_trunk
from tlcache.trunks.published import published_with
from tlcache.trunks.weights import State, state_digest

REAL_MOBILENET = "1a12f75ba2737b23a6f5b205906fa143081b0f6295644ac420f48226d02025cf"


def whole_network(name: str, **options: Any) -> nn.Module:
    """A torchvision network with its head, its BatchNorm buffers as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = torchvision.models.get_model(name, weights=None, **options)
        for buffer_name, buffer in module.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.normal_(0, 0.05)
            elif buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return module.eval()


def images(count: int = 2, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def save(state: Any, tmp_path: Path) -> str:
    torch.save(state, tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


# --- the head is what is taken off, and nothing else


@pytest.mark.parametrize(
    ("name", "head", "dim"),
    [
        ("resnet18", "fc", 512),
        ("mobilenet_v2", "classifier.1", 1280),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("efficientnet_b0", "classifier.1", 1280),
        ("densenet121", "classifier", 1024),
        ("shufflenet_v2_x0_5", "fc", 1024),
        ("regnet_y_400mf", "fc", 440),
        ("mnasnet0_5", "classifier.1", 1280),
    ],
)
def test_a_feature_is_what_the_head_would_get(
    tmp_path: Path, name: str, head: str, dim: int
) -> None:
    whole = whole_network(name)
    trunk = load_trunk(name, save(whole.state_dict(), tmp_path))
    layer = whole.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        features, logits = trunk.module(images()), whole(images())
    assert (trunk.dim, features.shape) == (dim, (2, dim))
    assert logits.std() > 0
    torch.testing.assert_close(functional.linear(features, layer.weight, layer.bias), logits)


def test_the_pooling_after_a_convolutional_head_stays() -> None:
    trunk = load_trunk("squeezenet1_1", "random")
    features = trunk.module(images())
    assert features.shape == (2, trunk.dim) == (2, 512)
    assert features.min() >= 0


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inception_networks_are_built_as_their_published_weights_need_them(
    tmp_path: Path, name: str
) -> None:
    side = 80
    whole = whole_network(name, aux_logits=True, init_weights=False, transform_input=True)
    trunk = load_trunk(name, save(whole.state_dict(), tmp_path))
    with torch.no_grad():
        logits = whole.fc(trunk.module(images(side=side)))  # type: ignore[operator]
        torch.testing.assert_close(logits, whole(images(side=side)))


@pytest.mark.parametrize(
    ("name", "crop", "head", "dim"),
    [
        ("vgg11", 224, "classifier.6.", 4096),
        ("alexnet", 224, "classifier.6.", 4096),
        ("convnext_tiny", 224, "classifier.2.", 768),
        ("vit_b_16", 224, "heads.head.", 768),
        ("vit_b_16", 384, "heads.head.", 768),
        ("swin_t", 224, "head.", 768),
        ("swin_v2_t", 256, "head.", 768),
        ("maxvit_t", 224, "classifier.5.", 512),
        ("resnet50", 224, "fc.", 2048),
        ("inception_v3", 299, "fc.", 2048),
        ("efficientnet_v2_s", 384, "classifier.1.", 1280),
    ],
)
def test_large_networks_lose_their_heads_too(name: str, crop: int, head: str, dim: int) -> None:
    with torch.device("meta"):  # shapes without numbers: fast, and no memory
        module, extra = trunk_module._without_head(name, crop)
        assert trunk_module._dim(name, module, crop) == dim
    assert extra[0] == head


def test_layers_that_were_renamed_since_a_file_was_published_are_found(tmp_path: Path) -> None:
    whole = whole_network("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(norm|conv))([12])\.", r"\1.\3.", name): tensor
        for name, tensor in whole.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    new = load_trunk("densenet121", save(whole.state_dict(), tmp_path)).digest
    assert load_trunk("densenet121", save(old, tmp_path)).digest == new


def test_the_old_names_of_a_vision_transformer_are_found() -> None:
    old = {f"encoder.layers.l.mlp.linear_{i}.bias": torch.zeros(1) for i in (1, 2)}
    new = trunk_module._with_new_names("vit_b_16", old)
    assert list(new) == ["encoder.layers.l.mlp.0.bias", "encoder.layers.l.mlp.3.bias"]
    assert trunk_module._with_new_names("timm/vit_tiny_patch16_224", old) == old


@pytest.mark.parametrize(
    ("name", "dim"), [("timm/resnet10t", 512), ("timm/levit_128s", 384), ("timm/test_vit", 64)]
)
def test_timm_networks_are_trunks_too(tmp_path: Path, name: str, dim: int) -> None:
    import timm

    with torch.random.fork_rng(devices=[]):
        whole = timm.create_model(name.removeprefix("timm/"), num_classes=3).eval()
    trunk = load_trunk(name, save(whole.state_dict(), tmp_path))
    side = 160 if "vit" in name and "levit" not in name else 224
    with torch.no_grad():
        features = trunk.module(images(side=side))
        whole.reset_classifier(0)  # type: ignore[operator]
        torch.testing.assert_close(features, whole(images(side=side)))
    assert (trunk.dim, features.shape) == (dim, (2, dim))


# --- frozen


def test_a_trunk_is_frozen_and_in_eval_mode() -> None:
    trunk = load_trunk("resnet18", "random")
    assert not any(module.training for module in trunk.module.modules())
    assert not any(parameter.requires_grad for parameter in trunk.module.parameters())
    first = trunk.module(images())
    assert torch.equal(trunk.module(images()), first)
    assert state_digest(trunk.module.state_dict()) == trunk.digest


def test_a_trunk_can_be_trained_afterwards() -> None:
    module = load_trunk("resnet18", "random").module.train().requires_grad_(True)
    module(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_trunk_has_a_description_that_does_not_hold_its_weights() -> None:
    trunk = load_trunk("squeezenet1_1", "random:3")
    assert type(trunk.info) is TrunkInfo
    assert not hasattr(trunk.info, "module")
    names = ("name", "weights", "label", "digest", "dim", "transform", "source")
    for name in names:
        assert getattr(trunk.info, name) == getattr(trunk, name)
    assert (trunk.name, trunk.weights, trunk.label) == ("squeezenet1_1", "random:3", "random3")
    assert (trunk.transform, trunk.source) == (Transform(), None)
    assert "Conv2d" not in repr(trunk)


# --- random weights


def test_a_seed_makes_the_same_trunk_and_another_seed_another() -> None:
    digests = [
        load_trunk("resnet18", weights).digest for weights in ("random", "random:0", "random:1")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_loading_does_not_touch_anyones_random_numbers(tmp_path: Path) -> None:
    file = save(whole_network("squeezenet1_1").state_dict(), tmp_path)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    for weights in ("random:1", file):
        load_trunk("squeezenet1_1", weights)
        load_trunk("timm/test_vit", "random")
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert str(before[2]) == str(after[2])


# --- a weights file


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {k: v for k, v in state.items() if not k.startswith("fc.")},
        lambda state: state | {"fc.weight": torch.zeros(2, 1024), "fc.bias": torch.zeros(2)},
        lambda state: {k: v for k, v in state.items() if "num_batches_tracked" not in k},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    ],
    ids=["whole", "no head", "another head", "no counters", "checkpoint"],
)
def test_the_head_and_the_counters_do_not_matter(
    tmp_path: Path, change: Callable[[State], Any]
) -> None:
    state = whole_network("shufflenet_v2_x0_5").state_dict()
    expected = {k: v for k, v in state.items() if not k.startswith("fc.")}
    trunk = load_trunk("shufflenet_v2_x0_5", save(change(state), tmp_path))
    assert trunk.digest == state_digest(expected)
    assert (trunk.label, trunk.transform) == ("w", Transform())
    assert trunk.source is not None and trunk.source.path == str(tmp_path / "w.pth")


def test_one_ulp_in_a_batchnorm_buffer_of_a_file_is_another_trunk(tmp_path: Path) -> None:
    state = whole_network("shufflenet_v2_x0_5").state_dict()
    before = load_trunk("shufflenet_v2_x0_5", save(state, tmp_path)).digest
    mean = state["conv1.1.running_mean"]
    mean[0] = torch.nextafter(mean[0], torch.tensor(9.0))
    assert load_trunk("shufflenet_v2_x0_5", save(state, tmp_path)).digest != before


def test_real_weights_make_real_features(mobilenet_weights: Path) -> None:
    trunk = load_trunk("mobilenet_v2", str(mobilenet_weights))
    assert trunk.digest == REAL_MOBILENET
    assert (trunk.dim, trunk.label) == (1280, "mobilenet_v2_features")
    features = trunk.module(images(side=224))
    assert features.isfinite().all() and features.std() > 0.1


"""A digest must not change with a version of torch: it would disown every cache."""


# --- the memo


def test_a_loaded_trunk_is_remembered(tmp_path: Path) -> None:
    trunk = load_trunk("squeezenet1_1", "random", tmp_path / "memo")
    assert recall(tmp_path / "memo", "squeezenet1_1", "random") == trunk.info


def test_a_memo_that_cannot_be_written_does_not_stop_a_trunk(tmp_path: Path) -> None:
    (tmp_path / "memo").touch()
    assert isinstance(load_trunk("squeezenet1_1", "random", tmp_path / "memo"), Trunk)


def test_loading_never_believes_a_memo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_trunk("squeezenet1_1", "random", tmp_path / "memo")
    (path,) = (tmp_path / "memo").iterdir()
    path.write_bytes(path.read_bytes().replace(first.digest.encode(), b"0" * 64))
    assert load_trunk("squeezenet1_1", "random", tmp_path / "memo").digest == first.digest
    assert recall(tmp_path / "memo", "squeezenet1_1", "random") == first.info


# --- what is unknown, no trunk, or does not fit


@pytest.fixture
def squeezenet() -> State:
    """The state of a whole squeezenet1_1."""
    with torch.random.fork_rng(devices=[]):
        return torchvision.models.squeezenet1_1().state_dict()


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


def test_a_network_that_does_not_take_224_pixels_takes_its_own_and_no_other_crop(
    tmp_path: Path,
) -> None:
    name = "timm/vit_tiny_patch16_384"
    trunk = load_trunk(name, "random")
    assert trunk.transform.crop == 384
    file = save(trunk.module.state_dict(), tmp_path)
    assert load_trunk(name, file).transform == published_with(name)[0].transform == trunk.transform
    words = (
        f"^--crop 64: expected a crop that {name} takes, found AssertionError: .*64.*; "
        "leave --crop out for its own, 384$"
    )
    with pytest.raises(OptionError, match=words):
        check_crop(trunk, 64)


def test_a_crop_that_makes_features_of_another_length_is_refused() -> None:
    trunk = dataclasses.replace(small_trunk(), module=nn.Flatten(), dim=3 * 32 * 32)
    check_crop(trunk, 32)
    with pytest.raises(OptionError, match="found 12288 numbers where its own are 3072;"):
        check_crop(trunk, 64)
    with pytest.raises(TrunkError, match="found 3072 numbers where its own are 9; choose"):
        check_crop(dataclasses.replace(trunk, dim=9), 32)
    broken = dataclasses.replace(trunk, module=nn.Linear(5, 5))
    with pytest.raises(TrunkError, match=r"^--trunk small: .* 32 x 32 .* RuntimeError"):
        check_crop(broken, 32)


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


def test_weights_of_a_seed_are_the_same_whatever_the_process_has_set_and_draws_at_once() -> None:
    expected, digests = load_trunk("squeezenet1_1", "random").digest, list[str]()

    def load() -> None:
        digests.append(load_trunk("squeezenet1_1", "random").digest)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            load()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert digests == [expected] * 5
