"""A network small enough to be trained in a test, and images small enough for it."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tlcache.core.files import StrPath
from tlcache.data.transforms import Transform
from tlcache.heads.model import Model, initial_head
from tlcache.trunks.info import remember
from tlcache.trunks.load import Trunk
from tlcache.trunks.weights import state_digest

TRANSFORM = Transform(resize=36, crop=32)
DIM = 24


def small_trunk(dropout: float = 0.3, seed: int = 0) -> Trunk:
    """Convolution, BatchNorm and dropout, all delicate to finetune: (N, 3, 32, 32) to (N, 24)."""
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


def small_model(of: Trunk | None = None, /, **changes: Any) -> Model:
    """A head of ants and bees, not trained, on the small network."""
    trunk = of or small_trunk()
    own: dict[str, Any] = {
        "head": initial_head(2, DIM, 0),
        "classes": ("ants", "bees"),
        "trunk": trunk.name,
        "weights": trunk.weights,
        "digest": trunk.digest,
        "transform": trunk.transform,
    }
    return Model(**(own | changes))


def load_small(
    name: str = "small", weights: StrPath = "", memo_dir: StrPath | None = None
) -> Trunk:
    """In place of ``tlcache.trunks.load.load_trunk``, for any name and ``random:SEED``."""
    trunk = small_trunk(seed=int(str(weights).partition(":")[2] or 0))
    if memo_dir is not None:
        remember(Path(memo_dir), trunk.info)
    return trunk


def make_images(folder: Path, train: int, val: int) -> Path:
    """Small images of noise in two classes, always the same; so many of each class."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, i in itertools.product(("ants", "bees"), range(count)):
            path = folder / split / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return folder
