"""All that a feature depends on besides the image, as plain values with one key.

Labels, splits, file names, batch size, worker count, engine and device are not in it: they do not
change a feature beyond what its precision's word promises.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from typing import Any

from PIL import features

from tlcache.errors import DamageError
from tlcache.transforms import Transform

FORMAT = 1
"""Version of the cache's format; a feature kept under another version is another feature."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """What makes two features of one image the same.

    Attributes:
        trunk: Name of the network.
        weights: Hex SHA-256 of its weights and buffers (``trunk.state_digest``).
        dim: Length D of a feature.
        transform: Of the image; a train transform has as many views as are asked for.
        versions: Of the libraries that decode and compute.
        cut: Where the features leave the network: ``head-input`` is what its own head would get.
        precision: A word: ``fp32`` is within 5e-6 relative of torch's eager fp32.
        dtype: Of the stored numbers.
    """

    trunk: str
    weights: str
    dim: int
    transform: Transform
    versions: tuple[tuple[str, str], ...]
    cut: str = "head-input"
    precision: str = "fp32"
    dtype: str = "float32"
    format: int = FORMAT

    def describe(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"transform": self.transform.describe(), "versions": dict(self.versions)}

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, ASCII."""
        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode("ascii")

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON, 32 bytes."""
        return hashlib.sha256(self.to_json()).digest()

    @property
    def key(self) -> str:
        """The digest in hex."""
        return self.digest.hex()

    @classmethod
    def from_json(cls, data: bytes, where: object) -> Identity:
        """The inverse of :meth:`to_json`.

        Raises:
            DamageError: If ``data`` is not the canonical JSON of an identity of this format.
        """
        try:
            values = json.loads(data)
            values["transform"] = Transform.from_description(values["transform"])
            values["versions"] = tuple(sorted(values["versions"].items()))
            identity = cls(**values)
            faithful = identity.to_json() == data and identity.format == FORMAT
        except Exception as error:  # any malformed JSON ends up here, whatever it trips over
            raise _not_an_identity(where, f"{type(error).__name__}: {error}") from error
        if not faithful:
            raise _not_an_identity(where, "another format, or an edited file")
        return identity


def library_versions(trunk: str) -> tuple[tuple[str, str], ...]:
    """Versions of what decodes the images and computes the features of a trunk, sorted by name."""
    packages = ["torch", "torchvision", "pillow"]
    if trunk.startswith("timm/") or trunk == "efficientnet_lite0":
        packages.append("timm")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["libjpeg-turbo"] = features.version("libjpeg_turbo") or "none"
    return tuple(sorted(versions.items()))


def folder_name(identity: Identity, label: str) -> str:
    """Readable words and 8 hex digits of the key: ``resnet18-imagenet1k-eval-3f9c2a1b``."""
    words = f"{identity.trunk}-{label}-{identity.transform.kind}"
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', words)}-{identity.key[:8]}"


def differences(old: Identity, new: Identity) -> list[str]:
    """What differs, each in a few words: ``pillow 12.0 → 13.0``; empty when nothing does."""
    before, after = _flat(old.describe()), _flat(new.describe())
    return [
        f"{name} {_short(before.get(name))} → {_short(after.get(name))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:8]}…" if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _not_an_identity(where: object, found: str) -> DamageError:
    return DamageError(
        where,
        expected=f"the identity of a cache of format {FORMAT}",
        found=found,
        remedy="use another --cache-dir, or remove this folder; its features are then made again",
    )
