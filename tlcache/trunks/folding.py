"""Batch norms folded into the convolutions before them: the same features in fewer steps.

Covers no computing (``engines``).
"""

from __future__ import annotations

import collections
import copy
from typing import TYPE_CHECKING, Any

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
            _put(graph, before.target, _fused(convolution, norm))
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


def _put(module: torch.nn.Module, name: str, part: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, part)
