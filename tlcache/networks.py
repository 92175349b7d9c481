"""A trunk and a head as one network: put together, asked for its logits, restored from a model.

Covers no training.
"""

from __future__ import annotations

import collections
import contextlib
import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlcache.devices import batch_size_for, resolve_device
from tlcache.errors import DataError, ModelError, TrunkError
from tlcache.heads import Head, Model
from tlcache.loading import Batch, ImageLoader, Workers, worker_count
from tlcache.samples import ImageDataset
from tlcache.transforms import Transform
from tlcache.trunk import Trunk
from tlcache.weights import fit_state, state_digest


def network_logits(
    module: nn.Module,
    head: Head,
    dataset: ImageDataset,
    split: str,
    transform: Transform,
    *,
    device: str = "auto",
    workers: Workers = "auto",
    skip_unreadable: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[tuple[str, str]]]:
    """What a network says of a split: (n, C) logits, (n,) labels, and (path, reason) of the rest.

    Args:
        module: Of a trunk, or from :func:`restore_network`; it is left as it is.
        transform: Its eval transform is used.

    Raises:
        DataError: If images cannot be read, or the split is empty.
        OptionError: If an option makes no sense.
    """
    check_split(dataset, split)
    where = resolve_device(device)
    network = join(copy.deepcopy(module), head).to(where).to(memory_format=torch.channels_last)
    loader = ImageLoader(
        dataset,
        transform,
        workers=worker_count(workers),
        pin_memory=where.type == "cuda",
        skip_unreadable=skip_unreadable,
    )
    with loader, gpu_settings():
        batches = loader.batches(dataset.indices(split), batch_size_for(where))
        logits, labels = logits_of(network, batches, where)
    return logits.numpy(), labels.numpy(), list(loader.unreadable.items())


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
            raise ModelError(
                error.where,
                expected=error.expected,
                found=error.found,
                remedy="finetune again",
            ) from error
    digest = state_digest(module.state_dict())
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


def join(trunk: nn.Module, head: Head) -> nn.Sequential:
    """The trunk, then the head as a layer of its own, under these names."""
    classes, dim = head.weight.shape
    linear = nn.utils.skip_init(nn.Linear, dim, classes)  # draws nothing from torch's own numbers
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight))
        linear.bias.copy_(torch.from_numpy(head.bias))
    return nn.Sequential(collections.OrderedDict(trunk=trunk, head=linear))


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """On the device, channels last: the layout that convolutions are fastest in, on CPUs too."""
    return images.to(device, non_blocking=True).to(memory_format=torch.channels_last)


@contextlib.contextmanager
def gpu_settings() -> Iterator[None]:
    """The fastest convolutions, and fp32 without TF32; torch's settings come back afterwards."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = True, False, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = before


def check_split(dataset: ImageDataset, split: str) -> None:
    """Refuse an empty split.

    Raises:
        DataError: If it is.
    """
    if not len(dataset.indices(split)):
        raise DataError(
            dataset.root,
            expected=f"images in {split}",
            found="none",
            remedy="put images there, or name another split",
        )


def _other_trunk(expected: str, found: str) -> ModelError:
    return ModelError(
        "the model's trunk",
        expected=expected,
        found=found,
        remedy="load the network and weights that the model was trained on",
    )
