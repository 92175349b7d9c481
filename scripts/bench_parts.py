"""Parts of the pass by themselves: an engine's forward alone, preprocessing alone, an epoch.

Preprocessing is measured on one core, an engine on all: a thread a core, each with one thread of
its own, as in the pass.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import hashlib
import io
import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from bench_contenders import TUTORIAL_BATCH, eval_transform, image_folder, loader
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms as tv

from tlcache.core.machine import usable_cpus
from tlcache.data.folders import ImageDataset
from tlcache.data.images import decode
from tlcache.data.transforms import Transform, apply
from tlcache.trunks.engines import Engine, make_engine
from tlcache.trunks.load import Trunk

FORWARD_BATCH = 8


def pure_forward(
    trunk: Trunk, engine_name: str, precision: str, images: int
) -> Callable[[], float]:
    """Measures how many images of noise a second an engine takes; it is set up here, once."""
    crop = trunk.transform.crop
    engine = make_engine(
        trunk.module,
        trunk.transform,
        engine=engine_name,
        precision=precision,
        device=torch.device("cpu"),
    )
    pixels = np.random.default_rng(0).standard_normal((FORWARD_BATCH, crop, crop, 3), np.float32)
    batches = -(-images // (FORWARD_BATCH * usable_cpus()))
    return lambda: _images_a_second(engine, pixels, batches)


def _images_a_second(engine: Engine, pixels: NDArray[np.float32], batches: int) -> float:
    """Every thread runs so many batches, after one that warms it up."""
    threads = usable_cpus()
    runs = queue.SimpleQueue()
    for _ in range(threads):
        runs.put(engine.new_run())
    ready = threading.Barrier(threads + 1)

    def work() -> None:
        torch.set_num_threads(1)
        run = runs.get()
        run(pixels)
        ready.wait()
        for _ in range(batches):
            run(pixels)

    with _torch_threads_kept(), concurrent.futures.ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work) for _ in range(threads)]
        ready.wait()
        started = time.perf_counter()
        for one in working:
            one.result()
        seconds = time.perf_counter() - started
    return batches * threads * len(pixels) / seconds


def preprocessors(dataset: ImageDataset, t: Transform) -> dict[str, Callable[[], float]]:
    """Each measures its seconds an image, from the file's bytes to the network's input."""
    files = [dataset.path(i).read_bytes() for i in range(len(dataset))]
    theirs = eval_transform(t)

    def by_torchvision() -> float:
        with _torch_threads_kept():
            torch.set_num_threads(1)
            started = time.perf_counter()
            for data in files:
                theirs(Image.open(io.BytesIO(data)).convert("RGB"))
            return (time.perf_counter() - started) / len(files)

    def by_tlcache() -> float:
        started = time.perf_counter()
        for data in files:
            apply(decode(data, "a file"), t, hashlib.sha256(data).digest())
        return (time.perf_counter() - started) / len(files)

    return {"PIL + torchvision": by_torchvision, "tlcache": by_tlcache}


def identical_inputs(dataset: ImageDataset, t: Transform) -> int:
    """For how many images tlcache makes the very bits of PIL and torchvision."""
    theirs, same = eval_transform(t), 0
    for i in range(len(dataset)):
        data = dataset.path(i).read_bytes()
        expected = theirs(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
        same += np.array_equal(apply(decode(data, dataset.path(i)), t), expected)
    return same


def tutorial_epoch(trunk: Trunk, dataset: ImageDataset, freeze: bool = True) -> float:
    """Seconds of one epoch of the tutorial's own loop: its train phase, and its val phase.

    As in the tutorial, the network is in training mode in the one, frozen or not, and the data are
    augmented.
    """
    network = nn.Sequential(
        copy.deepcopy(trunk.module).requires_grad_(not freeze),
        nn.Linear(trunk.dim, len(dataset.classes)),
    )
    trained = network[1] if freeze else network
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.001, momentum=0.9)
    loss_of, batches = nn.CrossEntropyLoss(), _augmented(trunk.transform, dataset)
    started = time.perf_counter()
    for phase, loaded in batches.items():
        network.train(phase == "train")
        running_loss, hits = 0.0, torch.tensor(0)
        for images, labels in loaded:
            optimiser.zero_grad()
            with torch.set_grad_enabled(phase == "train"):
                logits = network(images)
                loss = loss_of(logits, labels)
                if phase == "train":
                    loss.backward()
                    optimiser.step()
            running_loss += loss.item() * len(images)
            hits += torch.sum(logits.argmax(1) == labels)
    return time.perf_counter() - started


def _augmented(t: Transform, dataset: ImageDataset) -> dict[str, DataLoader]:
    """The tutorial's two loaders."""
    interpolation = tv.InterpolationMode(t.interpolation)
    augment = tv.Compose(
        [
            tv.RandomResizedCrop(t.crop, t.scale, t.ratio, interpolation),
            tv.RandomHorizontalFlip(t.hflip),
            tv.ToTensor(),
            tv.Normalize(t.mean, t.std),
        ]
    )
    loaders = {}
    for split, transform in (("train", augment), ("val", eval_transform(t))):
        folder = image_folder(dataset, split)
        folder.transform = transform
        loaders[split] = loader(folder, TUTORIAL_BATCH, shuffle=True)
    return loaders


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
