"""Jobs of small images, and an engine that remembers what it was asked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from small_trunk import TRANSFORM

from tlcache.trunks.engines import Engine
from tlcache.trunks.forward_pass import Job
from tlcache.trunks.torch_engine import Run

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
