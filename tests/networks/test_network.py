from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_trunk import DIM, small_trunk
from torch import Tensor

from tlcache.core.errors import DataError, ModelError
from tlcache.data.folders import scan
from tlcache.heads.model import Model, initial_head
from tlcache.networks.checks import check_split
from tlcache.networks.network import gpu_settings, join, restore_network
from tlcache.trunks.load import Trunk


def _model(trunk: Trunk, *, finetuned: bool) -> Model:
    state = {name: tensor.numpy() for name, tensor in trunk.module.state_dict().items()}
    return Model(
        head=initial_head(2, DIM, 0),
        classes=("ants", "bees"),
        trunk=trunk.name,
        weights=trunk.weights,
        digest=trunk.digest,
        transform=trunk.transform,
        network=state if finetuned else None,
    )


def _images() -> Tensor:
    return torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def test_a_joined_network_is_the_trunk_and_then_the_head() -> None:
    trunk, head = small_trunk(), initial_head(3, DIM, 1)
    numbers = torch.get_rng_state()
    network = join(trunk.module, head)
    assert torch.equal(torch.get_rng_state(), numbers)
    with torch.no_grad():
        expected = head.logits(trunk.module(_images()).numpy())
        np.testing.assert_allclose(network(_images()).numpy(), expected, atol=1e-6)
    assert {name.partition(".")[0] for name in network.state_dict()} == {"trunk", "head"}
    with torch.no_grad():
        network.get_submodule("head").weight.zero_()  # type: ignore[operator]
    assert head.weight.any()


def test_a_joined_network_scales_features_for_a_head_that_wants_length_one() -> None:
    trunk, head = small_trunk(), dataclasses.replace(initial_head(3, DIM, 1), normalise=True)
    with torch.no_grad():
        features = trunk.module(_images()).numpy()
        found = join(trunk.module, head)(_images()).numpy()
    np.testing.assert_allclose(found, head.logits(features), atol=1e-6)
    plain = dataclasses.replace(head, normalise=False).logits(features)
    assert np.abs(found - plain).max() > 1e-3
    assert {name.partition(".")[0] for name in join(trunk.module, head).state_dict()} == {
        "trunk",
        "head",
    }


def test_a_finetuned_network_is_restored_onto_any_trunk_of_its_name() -> None:
    tuned, other = small_trunk(seed=1), small_trunk(seed=2)
    restored = restore_network(other, _model(tuned, finetuned=True))
    with torch.no_grad():
        assert torch.equal(restored(_images()), tuned.module(_images()))
        assert not torch.equal(other.module(_images()), tuned.module(_images()))
    assert not restored.training


def test_a_frozen_model_goes_with_the_weights_it_was_trained_on() -> None:
    trunk = small_trunk(seed=1)
    assert restore_network(trunk, _model(trunk, finetuned=False)) is trunk.module
    other = small_trunk(seed=2)
    with pytest.raises(ModelError) as raised:
        restore_network(other, _model(trunk, finetuned=False))
    assert str(raised.value) == (
        f"the model's trunk: expected small with weights {trunk.digest[:8]}, "
        f"found {other.digest[:8]}; load the network and weights that the model was trained on"
    )


def test_a_model_of_another_network_is_refused() -> None:
    model = dataclasses.replace(_model(small_trunk(), finetuned=True), trunk="resnet18")
    with pytest.raises(ModelError, match="expected resnet18, found small; load the network"):
        restore_network(small_trunk(), model)


def _drop(state: dict[str, np.ndarray]) -> None:
    del state["conv.weight"]


def _reshape(state: dict[str, np.ndarray]) -> None:
    state["conv.weight"] = state["conv.weight"][:, :2]


def _not_finite(state: dict[str, np.ndarray]) -> None:
    state["conv.weight"] = state["conv.weight"] * np.float32(np.nan)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_drop, r"1 missing \(conv\.weight\)"),
        (_reshape, r"1 of another shape \(conv\.weight 6 x 2 x 3 x 3 for 6 x 3 x 3 x 3\)"),
        (_not_finite, r"1 with NaN or infinite values \(conv\.weight\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(damage, found: str) -> None:  # type: ignore[no-untyped-def]
    model = _model(small_trunk(), finetuned=True)
    assert model.network is not None
    damage(model.network)
    with pytest.raises(ModelError, match=rf"the model's network: .* found {found}; finetune again"):
        restore_network(small_trunk(), model)


def test_a_state_that_is_not_the_models_is_refused() -> None:
    model = dataclasses.replace(_model(small_trunk(), finetuned=True), digest="0" * 64)
    with pytest.raises(ModelError, match="expected small with weights 00000000, found"):
        restore_network(small_trunk(), model)


def test_an_empty_split_is_refused(tiny_data: Path) -> None:
    with pytest.raises(DataError) as raised:
        check_split(scan(tiny_data), "test")
    assert str(raised.value) == (
        f"{tiny_data}: expected images in test, found none; put images there, or name another split"
    )


def test_torchs_settings_come_back() -> None:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    with pytest.raises(KeyboardInterrupt), gpu_settings():
        assert (cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32) == (True, False, False)
        raise KeyboardInterrupt
    assert (cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32) == before
