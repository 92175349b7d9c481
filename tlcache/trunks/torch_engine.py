"""torch as what computes a trunk's features: folded, channels last, on a CPU or on a GPU.

Covers no choosing (``engines``).
"""

from __future__ import annotations

import collections
import copy
import itertools
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import UnmetError, error_in_a_line

if TYPE_CHECKING:
    import torch

GPU_SLOTS = 3
"""Batches on a GPU at once: one that arrives, one that is computed, one that is fetched."""


_tracing = threading.Lock()
"""Two traces at once would leave torch.nn.Module as one of them has changed it."""


def folded(module: torch.nn.Module) -> torch.nn.Module:
    """A copy with each batch norm folded into the convolution before it, where that can be seen.

    It takes images alone: arguments that ``forward`` may leave out have their defaults. A network
    that torch.fx cannot trace (it branches on numbers that depend on the image, say) is copied as
    it is: it computes the same, only slower.
    """
    import torch

    class OfImages(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(module)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.network(images)
            return made

    class OneThread(torch.fx.Tracer):
        """torch.fx watches the modules of all threads: those of others just go on."""

        own = threading.get_ident()

        def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
            if threading.get_ident() != self.own:
                return forward(*args, **kwargs)
            return super().call_module(m, forward, args, kwargs)

    whole, tracer = OfImages(), OneThread()
    try:
        with _tracing, torch.no_grad():
            graph = torch.fx.GraphModule(whole, tracer.trace(whole))
    except Exception:  # whatever a network's own code does with a stand-in for its input
        return whole.network
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


def eager_run(module: torch.nn.Module, table: NDArray[np.float32] | None = None) -> Run:
    """The network itself in fp32 on the CPU, nothing made fast; any thread may call it.

    Args:
        table: (3, 256): what each value of each channel becomes, where it is to take 8-bit pixels.
    """
    import torch

    tensors = itertools.chain(module.parameters(), module.buffers())
    elsewhere = any(
        t.device.type != "cpu" or (t.is_floating_point() and t.dtype != torch.float32)
        for t in tensors
    )
    network = copy.deepcopy(module).to("cpu", torch.float32) if elsewhere else module
    lookup = None if table is None else torch.from_numpy(table)

    def run(pixels: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            inputs = torch.from_numpy(pixels)
            inputs = inputs if lookup is None else normalised(inputs, lookup)
            made = network(inputs.permute(0, 3, 1, 2).contiguous())
            features: NDArray[np.float32] = made.float().numpy()
            return features

    return run


def cpu_run(module: torch.nn.Module, precision: str) -> Run:
    """A function that any thread may call: (n, H, W, 3) normalised pixels to (n, D) features."""
    import torch

    network, dtype = _made_fast(module, precision, torch.device("cpu"))

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # in memory still last
            features: NDArray[np.float32] = network(channels_first.to(dtype)).float().numpy()
            return features

    return run


def cuda_runs(
    module: torch.nn.Module,
    precision: str,
    device: torch.device,
    normalisation: NDArray[np.float32],
    fold: bool = True,
) -> Callable[[], Run]:
    """Makes functions for one thread each: (n, H, W, 3) 8-bit pixels to (n, D) features.

    Bytes are copied to the GPU, a quarter of what normalised pixels would be, from memory that is
    pinned once, and on one of ``GPU_SLOTS`` streams: while one thread's pixels are on their way and
    another's in the network, the others decode theirs. So many batches are on the GPU at once,
    however many threads there are. A batch that does not fit its memory is halved, as are all that
    come after it.

    Args:
        normalisation: (3, 256): what each value of each channel becomes.
        fold: Whether to fold batch norms.
    """
    import torch

    network, dtype = _made_fast(module, precision, device, fold)
    table = torch.from_numpy(normalisation).to(device)
    slots: queue.SimpleQueue[tuple[torch.cuda.Stream, torch.Tensor]] = queue.SimpleQueue()
    for _ in range(GPU_SLOTS):
        slots.put((torch.cuda.Stream(device), torch.empty(0, dtype=torch.uint8)))
    torch.cuda.synchronize(device)  # other streams may not overtake the copies of the weights

    def features_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        stream, pinned = slots.get()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, enabled=False),
                torch.cuda.stream(stream),
            ):
                if pinned.shape[1:] != pixels.shape[1:] or len(pinned) < len(pixels):
                    pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
                held = pinned[: len(pixels)].copy_(torch.from_numpy(pixels))
                inputs = normalised(held.to(device, non_blocking=True), table)
                features = network(inputs.permute(0, 3, 1, 2).to(dtype)).float()
                rows: NDArray[np.float32] = features.cpu().numpy()  # waits for this stream alone
                return rows
        finally:
            slots.put((stream, pinned))

    run = _halving(features_of, device)
    return lambda: run


def _halving(run: Run, device: torch.device) -> Run:
    """The same in parts that fit the GPU's memory; any thread may call it."""
    import torch

    most = 1 << 30

    def in_parts(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal most
        rows, at = [], 0
        while at < len(pixels):
            part = pixels[at : at + most]
            try:
                rows.append(run(part))
                at += len(part)
                continue
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    found = f"too little for one crop ({error_in_a_line(error)})"
                    remedy = "end what else uses it, or pass --device cpu"
                    raise UnmetError(f"--device {device}", "memory", found, remedy) from error
            # Beyond the handler: what it caught holds on to what did not fit.
            most = min(most, len(part) // 2)
            torch.cuda.empty_cache()
        return np.concatenate(rows)

    return in_parts


def normalised(pixels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(n, H, W, 3) bytes, looked up in the (3, 256) table of the same device: the CPU's bits."""
    import torch

    channels = torch.arange(3, device=pixels.device)
    return table[channels, pixels.long()]


def _made_fast(
    module: torch.nn.Module, precision: str, device: torch.device, fold: bool = True
) -> tuple[torch.nn.Module, torch.dtype]:
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = kinds.get(precision, torch.float32)
    network = folded(module) if fold else copy.deepcopy(module)
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, dtype
