"""A trunk and a head as one network: put together, asked for its logits, restored from a model.

Covers no training.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from tlcache.core.errors import ModelError, TrunkError
from tlcache.core.machine import exact_arithmetic, held
from tlcache.heads.model import Head, Model
from tlcache.networks.loading import Batch
from tlcache.trunks.load import Trunk, digest_of
from tlcache.trunks.weights import fit_state, state_digest


def restore_network(trunk: Trunk, model: Model) -> nn.Module:
    """The network that a model's head sits on, in eval mode: a finetuned one, or the trunk's own.

    Args:
        trunk: Of the model's name; its weights matter only where the model has none of its own.

    Raises:
        ModelError: If the model was trained on another network or other weights, or its state
            does not fit.
    """
    if model.trunk != trunk.name:
        raise _other_trunk(model.trunk, trunk.name)
    module = trunk.module
    if model.network is not None:
        module = copy.deepcopy(module)
        state = {name: torch.from_numpy(np.array(v)) for name, v in model.network.items()}
        try:
            fit_state(module, state, "the model's network", trunk.name)
        except TrunkError as error:
            raise ModelError(error.where, error.expected, error.found, "finetune again") from error
    own = model.network is not None
    digest = state_digest(module.state_dict()) if own else digest_of(trunk)
    if digest != model.digest:
        raise _other_trunk(f"{model.trunk} with weights {model.digest[:8]}", digest[:8])
    return module.eval()


@torch.no_grad()
def logits_of(
    network: nn.Module, batches: Iterator[Batch], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(n, C) float32 logits in eval mode and (n,) labels, on the CPU."""
    network.eval()
    made = [(network(to_device(batch.images, device)).cpu(), batch.labels) for batch in batches]
    logits, labels = zip(*made, strict=True)
    return torch.cat(logits), torch.cat(labels)


class UnitRows(nn.Module):
    """Features (N, D), each row scaled to length 1 (``Head.normalise``)."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features)


def join(trunk: nn.Module, head: Head) -> nn.Sequential:
    """The trunk, then the head as a layer of its own, under these names.

    Between them ``unit``, where the head wants rows of length 1.
    """
    classes, dim = head.weight.shape
    linear = nn.utils.skip_init(nn.Linear, dim, classes)  # draws nothing from torch's own numbers
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight))
        linear.bias.copy_(torch.from_numpy(head.bias))
    unit = {"unit": UnitRows()} if head.normalise else {}
    return nn.Sequential(collections.OrderedDict(trunk=trunk, **unit, head=linear))


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """On the device, channels last: the layout that convolutions are fastest in, on CPUs too."""
    return images.to(device, non_blocking=True).to(memory_format=torch.channels_last)


@contextlib.contextmanager
def gpu_settings() -> Iterator[None]:
    """The fastest convolutions, and fp32 without TF32; torch's settings come back afterwards."""
    with exact_arithmetic(), held("cudnn.benchmark", _benchmark):
        yield


def _benchmark() -> Callable[[], None]:
    cudnn = torch.backends.cudnn
    back = functools.partial(setattr, cudnn, "benchmark", cudnn.benchmark)
    cudnn.benchmark = True
    return back


def _other_trunk(expected: str, found: str) -> ModelError:
    remedy = "load the network and weights that the model was trained on"
    return ModelError("the model's trunk", expected, found, remedy)
