from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_trunk import DIM, small_model, small_trunk
from torch import Tensor

from tlcache.core.errors import ModelError
from tlcache.heads.model import Model, initial_head
from tlcache.networks.network import gpu_settings, join, restore_network


def _tuned(seed: int = 0, **changes: Any) -> Model:
    """A model with a network of its own."""
    trunk = small_trunk(seed=seed)
    state = {name: tensor.numpy() for name, tensor in trunk.module.state_dict().items()}
    return small_model(trunk, network=state, **changes)


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
    names = join(trunk.module, head).state_dict()
    assert {name.partition(".")[0] for name in names} == {"trunk", "head"}


def test_a_finetuned_network_is_restored_onto_any_trunk_of_its_name() -> None:
    tuned, other = small_trunk(seed=1), small_trunk(seed=2)
    restored = restore_network(other, _tuned(seed=1))
    with torch.no_grad():
        assert torch.equal(restored(_images()), tuned.module(_images()))
        assert not torch.equal(other.module(_images()), tuned.module(_images()))
    assert not restored.training


def test_a_frozen_model_goes_with_the_weights_it_was_trained_on() -> None:
    trunk = small_trunk(seed=1)
    assert restore_network(trunk, small_model(trunk)) is trunk.module
    other = small_trunk(seed=2)
    with pytest.raises(ModelError) as raised:
        restore_network(other, small_model(trunk))
    assert str(raised.value) == (
        f"the model's trunk: expected small with weights {trunk.digest[:8]}, "
        f"found {other.digest[:8]}; load the network and weights that the model was trained on"
    )


def test_a_model_of_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match="expected resnet18, found small; load the network"):
        restore_network(small_trunk(), _tuned(trunk="resnet18"))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda s: s.pop("conv.weight"), r"1 missing \(conv\.weight\)"),
        (
            lambda s: s.update({"conv.weight": s["conv.weight"][:, :2]}),
            r"1 of another shape \(conv\.weight 6 x 2 x 3 x 3 for 6 x 3 x 3 x 3\)",
        ),
        (
            lambda s: s.update({"conv.weight": s["conv.weight"] * np.float32(np.nan)}),
            r"1 with NaN or infinite values \(conv\.weight\)",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    damage: Callable[[dict[str, NDArray[Any]]], object], found: str
) -> None:
    model = _tuned()
    assert model.network is not None
    damage(model.network)
    with pytest.raises(ModelError, match=rf"the model's network: .* found {found}; finetune again"):
        restore_network(small_trunk(), model)


def test_a_state_that_is_not_the_models_is_refused() -> None:
    with pytest.raises(ModelError, match="expected small with weights 00000000, found"):
        restore_network(small_trunk(), _tuned(digest="0" * 64))


def test_torchs_settings_come_back_when_the_last_run_ends() -> None:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    first, second = gpu_settings(), gpu_settings()
    with pytest.raises(KeyboardInterrupt), second:
        with first:
            assert cudnn.benchmark and not products.allow_tf32
        assert cudnn.benchmark, "the second still runs"
        raise KeyboardInterrupt
    assert (cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32) == before
