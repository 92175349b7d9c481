"""Runs that nobody trained: their folders as ``finish_run`` writes them, of given answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlcache.data.folders import ImageDataset
from tlcache.data.transforms import Transform
from tlcache.heads.model import Model, initial_head
from tlcache.heads.recipe import EpochRecord
from tlcache.networks.scoring import Scored
from tlcache.reports.run import Run, finish_run

DIM = 5


def answers(
    count: int,
    classes: int,
    wrong: int,
    paths: Sequence[str] = (),
    blocks: bool = False,
) -> Scored:
    """Logits of images, the first ``wrong`` of which are put into the class after theirs.

    Args:
        blocks: All of the first class come first; else the classes take turns.
    """
    random = np.random.default_rng(0)
    order = np.arange(count)
    labels = (order * classes // count if blocks else order % classes).astype(np.int32)
    said = np.where(np.arange(count) < wrong, (labels + 1) % classes, labels)
    logits = random.normal(0, 0.3, (count, classes)).astype(np.float32)
    logits[np.arange(count), said] += random.uniform(2, 6, count).astype(np.float32)
    return Scored(logits, labels, list(paths) or [f"val/{i}.png" for i in range(count)])


def written_run(
    folder: Path,
    scored: dict[str, Scored],
    classes: Sequence[str] = ("ants", "bees"),
    root: Path = Path("/nowhere"),
    epochs: int = 3,
    model: Model | None = None,
    **more: Any,
) -> Path:
    """The folder of a run of a head on a frozen trunk."""
    folder.mkdir(parents=True)
    head = initial_head(len(classes), DIM, 0)
    own = Model(head, tuple(classes), "resnet18", "random", "ab" * 32, Transform())
    history = [
        EpochRecord(i, 0.1, 1 / i, 1 - 0.5 / i, 1.2 / i, 1 - 0.6 / i, 0.01)
        for i in range(1, epochs + 1)
    ]
    none = np.zeros(0, np.int32), np.zeros(0, np.int8)
    values: dict[str, Any] = {
        "command": "train",
        "options": {"data": str(root), "seed": 0, "split": None, "lr": 0.001},
        "dataset": ImageDataset("pets", root, tuple(classes), [], *none),
        "model": model or own,
        "history": history,
        "best_epoch": epochs or None,
        "scored": scored,
        "seconds": {"embed": 1.5, "train": 0.25},
        "identity": "cd" * 32,
    }
    finish_run(folder, Run(**values | more), figures=False)
    return folder


def images(root: Path, paths: Sequence[str]) -> None:
    """A small image file at each path, each of its own colour."""
    for i, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((40, 60, 3), (50 * i % 256, 80, 120), np.uint8)
        with file.open("wb") as target:
            Image.fromarray(pixels).save(target, "PNG")
