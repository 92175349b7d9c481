"""Networks with random weights and unlikely parts, and how far two makings of features differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

CPU = torch.device("cpu")


def randomised(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics in its batch norms as if it had been trained."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
    return module.eval().requires_grad_(False)


def torchvision_network(name: str, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
        return randomised(network)


def noise(count: int, side: int = 64, seed: int = 0) -> np.ndarray:
    """(n, side, side, 3)."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, side, side, 3), np.float32)


def eager(module: nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        features: np.ndarray = module(
            torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        ).numpy()
    return features


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


class Net(nn.Module):
    """3 to 8 channels by ``how``, and their means: (N, 3, H, W) to (N, 8)."""

    def __init__(self, how: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.how = how
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x).mean(dim=(2, 3))


def conv(inputs: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, 8, 3, **({"bias": False} | options))


def norm(**options: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(8, **options)


def in_order(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
