"""A trunk made fast: what computes its features, to how many digits.

Precision is a word of the identity; the engine is not: whichever computes a feature, it is within
the word's bound of torch's eager fp32. torch is always there, with its batch norms folded into the
convolutions; MNN (extra ``mnn``) is faster on a CPU. Covers no images and no batches of them
(``forward_pass``).
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tlcache.core.errors import OptionError, UnmetError, strerror, to_install
from tlcache.core.progress import Report, no_report
from tlcache.data.transforms import Transform, normalisation
from tlcache.trunks.mnn_engine import mnn_runs
from tlcache.trunks.torch_engine import Run, cpu_run, cuda_runs

if TYPE_CHECKING:
    import torch

BOUNDS = {"fp32": 5e-6, "fast": 5e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Each precision, and how far its features may be from torch's eager fp32: the largest difference
over the largest feature of a batch. Other images in a batch move a feature by less than half of it,
as another order of additions does; the same batch gives the same bits in any thread."""
ENGINES = ("auto", "torch", "mnn")

MNN_IMAGES = 1000
"""From how many images on ``auto`` takes MNN: converting a network takes it some seconds."""

_CHECKED_ON = 8  # images of noise


@dataclasses.dataclass(frozen=True)
class Engine:
    """What computes features.

    Attributes:
        name: ``torch`` or ``mnn``.
        new_run: Makes a function that one thread may call; every thread needs its own. To be
            called before there are threads.
        raw: Whether it takes 8-bit pixels, and normalises them itself; else normalised float32.
    """

    name: str
    new_run: Callable[[], Run]
    raw: bool = False


def make_engine(
    module: torch.nn.Module,
    transform: Transform,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    device: torch.device,
    images: int = 0,
    report: Report = no_report,
) -> Engine:
    """The engine that is asked for, or for ``auto`` the fastest one that is there.

    Args:
        module: Takes (N, 3, crop, crop) float32 to (N, D), in eval mode. It is left as it is.
        transform: Of the images; train views are cropped and normalised to the same.
        engine: One of ``ENGINES``.
        precision: One of ``BOUNDS``.
        images: How many are to come: for a few, a fast engine takes longer to set up than it saves.
        report: Is told where ``auto`` falls back.

    Raises:
        OptionError: If it is not installed, cannot compute in this precision on this device or
            cannot take this network, or if it misses the precision's bound on this machine.
    """
    if engine not in ENGINES:
        raise OptionError("--engine", " or ".join(ENGINES), engine, "name one of them")
    suits_mnn = device.type == "cpu" and precision in ("fp32", "fast")
    has_mnn = importlib.util.find_spec("MNN") is not None
    if engine == "auto" and suits_mnn and has_mnn and images >= MNN_IMAGES:
        try:
            return _mnn_engine(module, transform.crop, precision)
        except OptionError as error:  # what MNN cannot do well, torch does
            report(f"computed by torch, not MNN: {strerror(error)}")
    if engine in ("auto", "torch"):
        if device.type == "cuda":
            runs = cuda_runs(module, precision, device, normalisation(transform))
            return Engine("torch", runs, raw=True)
        run = cpu_run(module, precision)
        return Engine("torch", lambda: run)
    if not suits_mnn:
        expected = "--device cpu with --precision fp32 or fast"
        remedy = "leave --engine out"
        raise OptionError("--engine mnn", expected, f"{device.type} with {precision}", remedy)
    if not has_mnn:
        raise UnmetError("--engine mnn", "MNN", "no such package", to_install("mnn"))
    return _mnn_engine(module, transform.crop, precision)


def _mnn_engine(module: torch.nn.Module, crop: int, precision: str) -> Engine:
    return _checked(Engine("mnn", mnn_runs(module, crop, precision)), module, crop, precision)


def _checked(engine: Engine, module: torch.nn.Module, crop: int, precision: str) -> Engine:
    """The engine, if it keeps the precision's bound on noise, on this very machine."""
    import torch

    random = np.random.default_rng(0)
    pixels = random.standard_normal((_CHECKED_ON, crop, crop, 3), np.float32)
    with torch.inference_mode():
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        expected = module(inputs).numpy()
    off = float(np.abs(engine.new_run()(pixels) - expected).max() / np.abs(expected).max())
    if not off <= BOUNDS[precision]:
        raise UnmetError(
            f"--engine {engine.name}",
            f"features within {BOUNDS[precision]:g} of torch's",
            f"a difference of {off:.1e}",
            "pass --engine torch",
        )
    return engine
