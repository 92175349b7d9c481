"""A network small enough to be trained in a test, with all that makes finetuning delicate."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from tlcache.data.transforms import Transform
from tlcache.trunks.load import Trunk
from tlcache.trunks.weights import state_digest

TRANSFORM = Transform(resize=36, crop=32)
DIM = 24


def small_trunk(dropout: float = 0.3, seed: int = 0) -> Trunk:
    """Convolution, BatchNorm and dropout: (N, 3, 32, 32) to (N, 24)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = OrderedDict(
            conv=nn.Conv2d(3, 6, 3, stride=2, bias=False),
            norm=nn.BatchNorm2d(6),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flat=nn.Flatten(),
            dropout=nn.Dropout(dropout),
        )
    module = nn.Sequential(layers).eval().requires_grad_(False)
    return Trunk(
        name="small",
        weights=f"random:{seed}",
        digest=state_digest(module.state_dict()),
        dim=DIM,
        transform=TRANSFORM,
        module=module,
    )
