"""What a run's model said of each image, kept in the run's folder: logits, labels and paths.

With it a run can be looked at again when its images, weights and cache are gone. The file is
safetensors: arrays, never code. Covers no scoring (``scoring``) and no judging (``evaluation``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import ModelError
from tlcache.core.files import read_capped, write_atomically
from tlcache.data.folders import SPLITS
from tlcache.networks.scoring import Scored

MAX_BYTES = 8 << 30
_FORMAT = "predictions 1"
_COLUMNS = {"logits": np.float32, "labels": np.int32, "paths": np.uint8}


def save_predictions(path: Path, scored: Mapping[str, Scored]) -> None:
    """Write what a model said of some splits, whole or not at all.

    Args:
        scored: By split.

    Raises:
        CacheError: If it cannot be written.
    """
    from safetensors.numpy import save

    tensors = {}
    for split, of in scored.items():
        texts = "".join(f"{name}\0" for name in of.paths).encode("utf-8", "surrogateescape")
        columns = of.logits, of.labels, np.frombuffer(texts, np.uint8)
        for (name, dtype), values in zip(_COLUMNS.items(), columns, strict=True):
            tensors[f"{split}.{name}"] = np.require(values, dtype, "C")
    write_atomically(path, save(tensors, {"tlcache": _FORMAT}))


def load_predictions(path: Path, classes: int) -> dict[str, Scored]:
    """Read what a model said, by split.

    Args:
        classes: How many the model has.

    Raises:
        ModelError: If it is damaged, or of another model.
        CacheError: If it cannot be read.
    """
    data = read_capped(path, MAX_BYTES)
    try:
        return _assembled(data, classes)
    except Exception as error:  # whatever a malformed file trips over, the file is at fault
        raise ModelError(
            path,
            expected=f"predictions of {classes} classes that tlcache wrote",
            found=str(error) or type(error).__name__,
            remedy="remove the file, and the images are scored again",
        ) from error


def _assembled(data: bytes, classes: int) -> dict[str, Scored]:
    from safetensors.numpy import load

    tensors = load(data)
    splits = [split for split in SPLITS if f"{split}.logits" in tensors]
    if set(tensors) != {f"{split}.{name}" for split in splits for name in _COLUMNS}:
        raise ValueError(f"arrays named {', '.join(sorted(tensors)) or 'nothing'}")
    for name, tensor in tensors.items():
        if tensor.dtype != _COLUMNS[name.split(".")[1]]:
            raise ValueError(f"{name} of {tensor.dtype}")
    return {split: _of_split(split, tensors, classes) for split in splits}


def _of_split(split: str, tensors: Mapping[str, NDArray[Any]], classes: int) -> Scored:
    logits, labels, texts = (tensors[f"{split}.{name}"] for name in _COLUMNS)
    paths = texts.tobytes().decode("utf-8", "surrogateescape").split("\0")
    if paths.pop() or not len(paths) == len(labels) > 0:
        raise ValueError(f"{len(labels)} labels and {len(paths)} paths in {split}")
    if logits.shape != (len(labels), classes) or labels.shape != (len(labels),):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} in {split}")
    if not np.isfinite(logits).all():
        raise ValueError(f"logits in {split} that are not finite")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"a label without a class in {split}")
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ValueError(f"a path that leads out of the data set: {path}")
    return Scored(logits, labels, paths)
