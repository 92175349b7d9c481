"""Ways to turn a folder of images into features: the tutorial's loop and tlcache's.

Each takes a data set and gives its features in the data set's order. All compute with the very
weights of one trunk, on a CPU; loading those is in nobody's time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import transforms as tv

import tlcache
import tlcache.trunks.engines
from tlcache.data.folders import ImageDataset
from tlcache.data.transforms import Transform
from tlcache.trunks.load import Trunk

WORKERS = 4
"""Of the tutorial's DataLoader, and of timm's."""
TUTORIAL_BATCH = 4

# The tutorial has its 4 workers on any machine, so a reader is told once: in the table.
warnings.filterwarnings("ignore", "This DataLoader will create")

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Passed:
    """Features of a data set, and what they took.

    Attributes:
        features: (n, D), in the data set's order.
        seconds: Of everything.
        setup_seconds: Of setting up an engine, which are part of ``seconds``.
        pass_seconds: Of the pass, without that and without reading the files' digests.
    """

    features: Array
    seconds: float
    setup_seconds: float
    pass_seconds: float


Contender = Callable[[ImageDataset], Passed]


def tutorial(trunk: Trunk) -> Contender:
    """The tutorial's loop: ImageFolder, its val transform, batch 4, ``eval()``, no gradients."""

    def features(dataset: ImageDataset) -> Array:
        folders = [image_folder(dataset, split) for split in dataset.present_splits()]
        for folder in folders:
            folder.transform = eval_transform(trunk.transform)
        found = forward(trunk.module, loader(ConcatDataset(folders), TUTORIAL_BATCH))
        return in_order(dataset, [path for f in folders for path, _ in f.samples], found)

    return timed(features)


def cached(trunk: Trunk, engine: str, precision: str) -> Contender:
    """``tlcache.embed`` into a cache that is new each time."""

    def run(dataset: ImageDataset) -> Passed:
        setting_up = _SettingUp()
        with tempfile.TemporaryDirectory() as cold, setting_up.measured():
            embedding = tlcache.embed(
                dataset,
                trunk,
                cache=Path(cold),
                engine=engine,
                precision=precision,
                device="cpu",
            )
            features = embedding.read().features
        alone = embedding.pass_seconds - setting_up.seconds
        return Passed(features, embedding.seconds, setting_up.seconds, alone)

    return run


def ours(trunk: Trunk) -> tuple[dict[str, Contender], dict[str, str]]:
    """tlcache by each engine and precision; and why those are left out that are."""
    contenders, left_out = {"tlcache torch fp32": cached(trunk, "torch", "fp32")}, {}
    for precision in ("fp32", "fast"):
        name = f"tlcache mnn {precision}"
        if importlib.util.find_spec("MNN"):
            contenders[name] = cached(trunk, "mnn", precision)
        else:
            left_out[name] = "MNN is not installed"
    if _has_fast_bf16():
        contenders["tlcache torch bf16"] = cached(trunk, "torch", "bf16")
    else:
        left_out["tlcache torch bf16"] = "this CPU has neither avx512_bf16 nor AMX"
    return contenders, left_out


def image_folder(dataset: ImageDataset, split: str) -> torchvision.datasets.ImageFolder:
    """torchvision's ImageFolder of a split, of this data set's images alone."""
    folder = torchvision.datasets.ImageFolder(str(dataset.root / split))
    folder.samples = folder.imgs = wanted(dataset, folder.samples)
    return folder


def eval_transform(t: Transform) -> tv.Compose:
    """The tutorial's val transform, with the trunk's numbers."""
    return tv.Compose(
        [
            tv.Resize(t.resize, tv.InterpolationMode(t.interpolation)),
            tv.CenterCrop(t.crop),
            tv.ToTensor(),
            tv.Normalize(t.mean, t.std),
        ]
    )


def loader(dataset: Dataset[Any], batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """With the tutorial's workers, however few the cores."""
    return DataLoader(dataset, batch_size, shuffle, num_workers=WORKERS)


def forward(module: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, Any]]) -> Array:
    """Features of all batches, without gradients."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(images) for images, _ in batches]).numpy()


def in_order(dataset: ImageDataset, paths: Sequence[str], features: Array) -> Array:
    """Features of paths in any order, in the data set's."""
    at = {os.path.abspath(path): row for row, path in enumerate(paths)}  # noqa: PTH100 -- speed
    return features[[at[str(dataset.path(i))] for i in range(len(dataset))]]


def wanted(dataset: ImageDataset, samples: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Those samples, a path first, that are the data set's."""
    known = {str(dataset.path(i)) for i in range(len(dataset))}
    return [one for one in samples if os.path.abspath(one[0]) in known]  # noqa: PTH100 -- speed


def timed(features: Callable[[ImageDataset], Array]) -> Contender:
    """A contender that does nothing but its pass."""

    def run(dataset: ImageDataset) -> Passed:
        started = time.perf_counter()
        found = features(dataset)
        seconds = time.perf_counter() - started
        return Passed(found, seconds, 0.0, seconds)

    return run


class _SettingUp:
    """Seconds that ``embed`` spends on making an engine and one run for each of its threads."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def measured(self) -> Any:
        make = tlcache.trunks.engines.make_engine

        def made(*arguments: Any, **options: Any) -> tlcache.trunks.engines.Engine:
            engine = self._counted(make)(*arguments, **options)
            return dataclasses.replace(engine, new_run=self._counted(engine.new_run))

        with mock.patch("tlcache.features.missing.make_engine", made):
            yield

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return counted


def _has_fast_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
