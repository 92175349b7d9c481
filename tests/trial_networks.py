"""What the pass and its engines are tried on: networks of unlikely parts, jobs of small images."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from small_trunk import TRANSFORM
from torch import Tensor, nn

from tlcache.data.transforms import Transform, normalisation
from tlcache.trunks.engines import Engine
from tlcache.trunks.forward_pass import Job
from tlcache.trunks.torch_engine import Run

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


def adversarial(side: int) -> np.ndarray:
    """(n, side, side, 3) normalised images that digits are lost on: plain, noise, a spot."""
    random, half = np.random.default_rng(3), side // 2
    plain = [(grey,) * 3 for grey in (0, 64, 100, 116, 128, 255)]
    plain += [(255, 0, 0), (124, 116, 104), (164, 164, 97), (243, 8, 36)]
    pixels = [np.full((side, side, 3), colour, np.uint8) for colour in plain]
    for low, high in ((0, 256), (0, 20), (235, 256)):
        pixels.append(random.integers(low, high, (side, side, 3), np.uint8))
    for ground in (0, 255):
        pixels.append(np.full((side, side, 3), ground, np.uint8))
        pixels[-1][half : half + 8, half : half + 8] = random.integers(0, 256, (8, 8, 3))
    table = normalisation(Transform())
    return np.stack([table[c][np.stack(pixels)[..., c]] for c in range(3)], axis=-1)


def in_float64(module: nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).double()
        made: np.ndarray = copy.deepcopy(module).double()(inputs).numpy()
    return made


def off_alone(ours: np.ndarray, exact: np.ndarray) -> float:
    """As if each image were alone in its batch: the strictest that a bound can be taken."""
    assert ours.shape == exact.shape
    return float((np.abs(ours - exact).max(axis=1) / np.abs(exact).max(axis=1)).max())


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


TRANSFORMS = [TRANSFORM, TRANSFORM.as_train()]


class Watched:
    """An engine whose features are each crop's mean and corner; it remembers what it was asked."""

    def __init__(self, raw: bool = False) -> None:
        self.made_by: list[int] = []  # threads that called new_run
        self.calls: list[tuple[int, int, int]] = []  # run, thread, crops of each batch
        self.engine = Engine("watched", self._new_run, raw)

    def _new_run(self) -> Run:
        which = len(self.made_by)
        self.made_by.append(threading.get_ident())

        def run(pixels: np.ndarray) -> np.ndarray:
            assert pixels.dtype == (np.uint8 if self.engine.raw else np.float32)
            assert pixels.flags.c_contiguous
            self.calls.append((which, threading.get_ident(), len(pixels)))
            return features_of(pixels)

        return run

    @property
    def sizes(self) -> list[int]:
        return [size for _, _, size in self.calls]


def features_of(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels.mean(axis=(1, 2, 3)), pixels[:, 0, 0, 1]], axis=1)


def image_jobs(folder: Path, count: int, crops: Sequence[tuple[int, int]] = ((0, 0),)) -> list[Job]:
    """Distinct images, and the crops that are wanted of each."""
    folder.mkdir(exist_ok=True)
    made, random = [], np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (40, 44, 3), np.uint8)).save(path)
        made.append(Job(path, hashlib.sha256(path.read_bytes()).digest(), crops))
    return made
