"""torch as what computes a trunk's features: folded, channels last, on a CPU or on a GPU.

Covers no choosing (``engines``).
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def folded(module: torch.nn.Module) -> torch.nn.Module:
    """A copy with each batch norm folded into the convolution before it, where that can be seen.

    A network that torch.fx cannot trace is copied as it is: it computes the same, only slower.
    """
    import torch

    module = copy.deepcopy(module)
    try:
        graph = torch.fx.symbolic_trace(module)
    except Exception:  # whatever a network's own code does with a stand-in for its input
        return module
    parts = dict(graph.named_modules())
    calls = collections.Counter(n.target for n in graph.graph.nodes if n.op == "call_module")
    for node in list(graph.graph.nodes):
        before = node.all_input_nodes[0] if node.all_input_nodes else node
        if not all(n.op == "call_module" for n in (before, node)):
            continue
        convolution, norm = parts[before.target], parts[node.target]
        alone = calls[before.target] == 1 and len(before.users) == 1
        if alone and _can_fold(convolution, norm):
            graph.set_submodule(before.target, _fused(convolution, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _can_fold(convolution: Any, norm: Any) -> bool:
    import torch

    # A hook may make the weights anew before each call (weight_norm does).
    hooked = convolution._forward_pre_hooks or convolution._forward_hooks or norm._forward_hooks
    plain = type(convolution) is torch.nn.Conv2d and type(norm) is torch.nn.BatchNorm2d
    return plain and norm.running_mean is not None and not hooked


def _fused(convolution: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.nn.Conv2d:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    # In float64: rounded once, the folded weights are as good as those that they come from.
    exact = copy.deepcopy(convolution).double(), copy.deepcopy(norm).double()
    return fuse_conv_bn_eval(*exact).to(dtype=convolution.weight.dtype)


Run = Callable[[NDArray[Any]], NDArray[np.float32]]
"""(n, H, W, 3) pixels to (n, D) features."""


def cpu_run(module: torch.nn.Module, precision: str) -> Run:
    """A function that any thread may call: (n, H, W, 3) normalised pixels to (n, D) features."""
    import torch

    network, dtype = _made_fast(module, precision, torch.device("cpu"))

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # in memory still last
            features: NDArray[np.float32] = network(channels_first.to(dtype)).float().numpy()
            return features

    return run


def cuda_runs(
    module: torch.nn.Module,
    precision: str,
    device: torch.device,
    normalisation: NDArray[np.float32],
) -> Callable[[], Run]:
    """Makes functions for one thread each: (n, H, W, 3) 8-bit pixels to (n, D) features.

    Bytes are copied to the GPU, a quarter of what normalised pixels would be, from memory that is
    pinned once, and on a stream of the thread's own: while one thread's pixels are on their way or
    in the network, the others decode theirs into buffers of their own.

    Args:
        normalisation: (3, 256): what each value of each channel becomes.
    """
    import torch

    network, dtype = _made_fast(module, precision, device)
    table = torch.from_numpy(normalisation).to(device)

    def new_run() -> Run:
        stream, pinned = torch.cuda.Stream(device), torch.empty(0, dtype=torch.uint8)

        def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            nonlocal pinned
            with torch.inference_mode(), torch.cuda.stream(stream):
                if pinned.shape[1:] != pixels.shape[1:] or len(pinned) < len(pixels):
                    pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
                held = pinned[: len(pixels)].copy_(torch.from_numpy(pixels))
                inputs = normalised(held.to(device, non_blocking=True), table)
                features = network(inputs.permute(0, 3, 1, 2).to(dtype)).float()
                rows: NDArray[np.float32] = features.cpu().numpy()  # waits for this stream alone
                return rows

        return run

    return new_run


def normalised(pixels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(n, H, W, 3) bytes, looked up in the (3, 256) table of the same device: the CPU's bits."""
    import torch

    channels = torch.arange(3, device=pixels.device)
    return table[channels, pixels.long()]


def _made_fast(
    module: torch.nn.Module, precision: str, device: torch.device
) -> tuple[torch.nn.Module, torch.dtype]:
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = kinds.get(precision, torch.float32)
    network = folded(module).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, dtype
