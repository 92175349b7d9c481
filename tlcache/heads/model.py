"""Heads and models: a linear classifier on features, alone or with the trunk that was finetuned.

Covers no training. A model file is safetensors: arrays and JSON, never code.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import ModelError
from tlcache.core.files import StrPath, as_path, write_atomically
from tlcache.data.transforms import Transform

MODEL_FORMAT = 2
_NORMALISING_FORMAT = 3  # apart, so that a program that cannot normalise refuses such a model
_WORDS = ("trunk", "weights", "digest", "precision", "dtype")
_WEIGHT, _BIAS = "tlcache.head.weight", "tlcache.head.bias"


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear classifier.

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
        normalise: Whether it was trained on rows of length 1, and scales every row to that first.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    normalise: bool = False

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) features to (N, C) logits."""
        rows = unit_rows(features) if self.normalise else features
        return rows @ self.weight.T + self.bias


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (…, D), each divided by its Euclidean length; one of zeros stays as it is."""
    squares = np.einsum("...d,...d->...", features, features, dtype=np.float64, casting="safe")
    lengths = np.sqrt(squares)[..., None]
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def initial_head(classes: int, dim: int, seed: int) -> Head:
    """A fresh (C, D) head, drawn as torch's ``nn.Linear`` draws: uniform in ±1/√D.

    The same seed gives the same head, everywhere.
    """
    bound = 1.0 / np.sqrt(dim)
    values = np.random.Generator(np.random.PCG64(seed)).uniform(-bound, bound, (classes, dim + 1))
    values = values.astype(np.float32)
    return Head(np.ascontiguousarray(values[:, :dim]), np.ascontiguousarray(values[:, dim]))


@dataclasses.dataclass(frozen=True)
class Model:
    """Everything that is needed to classify an image, but for a frozen trunk's weights.

    Attributes:
        head: The classifier.
        classes: Names, in the order of the logits.
        trunk: Name of the network.
        weights: Where the trunk's weights came from (``--weights``).
        digest: Hex SHA-256 of the trunk's state: the head is worth nothing on any other.
        transform: Of an image that is to be classified.
        precision, dtype: Of the features that the head was trained on.
        network: State of the finetuned trunk by name; None when the trunk was left frozen.
    """

    head: Head
    classes: tuple[str, ...]
    trunk: str
    weights: str
    digest: str
    transform: Transform
    precision: str = "fp32"
    dtype: str = "float32"
    network: dict[str, NDArray[Any]] | None = None

    def describe(self) -> dict[str, Any]:
        """The model's metadata as plain JSON values."""
        return {
            "format": _NORMALISING_FORMAT if self.head.normalise else MODEL_FORMAT,
            "kind": "head" if self.network is None else "network",
            "classes": list(self.classes),
            **{name: getattr(self, name) for name in _WORDS},
            "transform": self.transform.describe(),
            **({"normalise": True} if self.head.normalise else {}),
        }


def save_model(path: StrPath, model: Model) -> None:
    """Write a model file, whole or not at all.

    Raises:
        CacheError: If it cannot be written.
    """
    from safetensors.numpy import save

    path = as_path("path", path)
    tensors = {_WEIGHT: model.head.weight, _BIAS: model.head.bias, **(model.network or {})}
    metadata = {"tlcache": json.dumps(model.describe(), sort_keys=True)}
    contiguous = {name: np.require(t, requirements="C") for name, t in tensors.items()}
    write_atomically(path, save(contiguous, metadata))


def load_model(path: StrPath) -> Model:
    """Read a model file.

    Args:
        path: The file, or the run folder that holds it as ``model.safetensors``.

    Raises:
        ModelError: If there is no such file or it is no model of tlcache.
    """
    from safetensors import safe_open

    path = as_path("path", path)
    try:
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise _no_model(path, "no such file")
        with safe_open(path, framework="np") as file:
            metadata, names = file.metadata() or {}, file.keys()  # there is no iterator
            tensors = {name: file.get_tensor(name) for name in names}
        if "tlcache" not in metadata or not {_WEIGHT, _BIAS} <= tensors.keys():
            raise _no_model(path, "a safetensors file of another program")
        return _assembled(path, json.loads(metadata["tlcache"]), tensors)
    except ModelError:
        raise
    except Exception as error:  # whatever a malformed file trips over, the file is at fault
        raise _no_model(path, f"{type(error).__name__}: {error}") from error


def _assembled(path: Path, values: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Model:
    if values["format"] not in (MODEL_FORMAT, _NORMALISING_FORMAT):
        raise _no_model(path, f"a model of format {values['format']}")
    normalise = values["format"] == _NORMALISING_FORMAT
    head = Head(tensors.pop(_WEIGHT), tensors.pop(_BIAS), normalise)
    _check_head(path, head, values["classes"])
    for name, tensor in tensors.items():
        if np.isnan(tensor).any():
            raise _no_model(path, f"a network with NaN in {name}")
    model = Model(
        head=head,
        classes=tuple(values["classes"]),
        transform=Transform.from_description(values["transform"]),
        network=tensors if values["kind"] == "network" else None,
        **{name: str(values[name]) for name in _WORDS},
    )
    if model.describe() != values or (tensors and model.network is None):
        raise _no_model(path, "a model of another version")
    return model


def _check_head(path: Path, head: Head, classes: list[str]) -> None:
    fits = head.weight.ndim == 2 and head.bias.shape == (len(head.weight),) == (len(classes),)
    if not fits or head.weight.dtype != np.float32 or head.bias.dtype != np.float32:
        arrays = " and ".join(f"{a.dtype} {a.shape}" for a in (head.weight, head.bias))
        raise _no_model(path, f"a head of {arrays} for {len(classes)} classes")
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        raise _no_model(path, "a head with values that are not finite")


def _no_model(path: Path, found: str) -> ModelError:
    expected = "a model that tlcache wrote (model.safetensors, or its run folder)"
    remedy = "train one with `tlcache train` or `tlcache finetune`"
    return ModelError(path, expected, found, remedy)
