"""All that a feature depends on besides the image, as plain values with one key.

Labels, splits, file names, batch size, worker count, engine and device are not in it: they do not
change a feature beyond what its precision's word promises. Covers the identities that a cache
holds, but not their rows (``store``).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlcache.core.errors import CacheError, DamageError, OptionError
from tlcache.core.files import is_gone, list_folder, read_capped
from tlcache.core.progress import Report
from tlcache.data.transforms import Transform

FORMAT = 1
"""Version of the cache's format; a feature kept under another version is another feature."""
FILE = "identity.json"

PRECISIONS = ("fp32", "fast", "fp16", "bf16")
"""How close features are to torch's eager fp32; ``engines`` has the bounds."""
DTYPES = ("float32", "float16")
"""Of the numbers in a shard; float16 takes half the space and keeps about three digits."""

ANEW = "run `tlcache embed` again, with the same trunk and transform: it writes it anew"
_MAX_DIM = 1 << 20
_MAX_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RELEASED = re.compile(r"(\d+(?:\.\d+)*)(?:\.post\d+)?(?:\+.*)?")
# What a Pillow without them cannot read, and what identities did not always name: where one of two
# identities names none, that tells them not apart.
_DECODERS = ("libavif", "libwebp", "openjpeg")


@dataclasses.dataclass(frozen=True)
class Identity:
    """What makes two features of one image the same.

    Attributes:
        trunk: Name of the network.
        weights: Hex SHA-256 of its weights and buffers (``weights.state_digest``).
        dim: Length D of a feature.
        transform: Of the image; a train transform has as many views as are asked for.
        versions: Of the libraries that decode and compute, each by its :func:`series`.
        cut: Where the features leave the network: ``head-input`` is what its own head would get.
        precision: A word: ``fp32`` is within 2e-4 relative of float64 (``engines.BOUNDS``).
        dtype: Of the stored numbers, one of ``DTYPES``.

    Raises:
        OptionError: If a value cannot be described, or makes no sense.
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

    def __post_init__(self) -> None:
        for name in ("trunk", "cut", "precision"):
            word = getattr(self, name)
            _check(isinstance(word, str) and word != "", name, "a word", word)
        hexadecimal = isinstance(self.weights, str) and _SHA256.fullmatch(self.weights)
        _check(bool(hexadecimal), "weights", "a SHA-256 in lower-case hex", self.weights)
        good_dim = type(self.dim) is int and 0 < self.dim <= _MAX_DIM
        _check(good_dim, "dim", f"a whole number from 1 to {_MAX_DIM:,}", self.dim)
        _check(type(self.format) is int, "format", "a whole number", self.format)
        _check(self.dtype in DTYPES, "dtype", " or ".join(DTYPES), self.dtype)
        good_transform = isinstance(self.transform, Transform)
        _check(good_transform, "transform", "a Transform", self.transform)
        versions = dict(self.versions)
        texts = all(isinstance(text, str) for pair in versions.items() for text in pair)
        _check(texts, "versions", "pairs of words", self.versions)
        object.__setattr__(self, "versions", tuple(sorted(versions.items())))

    def describe(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"transform": self.transform.describe(), "versions": dict(self.versions)}

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, ASCII."""
        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode("ascii")

    def as_train(self) -> Identity:
        """The identity of the augmented views that belong to these features."""
        return dataclasses.replace(self, transform=self.transform.as_train())

    @functools.cached_property  # each shard that is read is compared with it
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


def series(library: str, version: str) -> str:
    """What of a library's version a feature may depend on: ``2.14`` of ``2.14.1+cu130``.

    How a wheel was built is none of it, nor is a patch release. What was never released, a build of
    some day or commit, is named in full. timm counts its releases by the third number.
    """
    if not (released := _RELEASED.fullmatch(version)):
        return version
    return ".".join(released[1].split(".")[: 3 if library == "timm" else 2])


def folder_name(identity: Identity, label: str) -> str:
    """Readable words and 8 hex digits of the key: ``resnet18-imagenet1k-eval-3f9c2a1b``."""
    words = f"{identity.trunk}-{label}-{identity.transform.kind}"
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', words)}-{identity.key[:8]}"


def read_identity(folder: Path) -> Identity:
    """The identity of a folder of a cache.

    Raises:
        CacheError: If ``identity.json`` cannot be read.
        DamageError: If it is damaged, or not the folder's own.
    """
    identity = read_description(folder)
    if not folder.name.endswith(identity.key[:8]):
        expected = "an identity whose key's first 8 digits end the folder's name"
        remedy = f"give the folder its own name back; or, if {FILE} is at fault, {ANEW}"
        raise DamageError(folder / FILE, expected, identity.key[:8], remedy)
    return identity


def read_description(folder: Path) -> Identity:
    """The identity that ``identity.json`` describes, whatever the folder is called.

    Raises:
        CacheError: If it cannot be read.
        DamageError: If it is damaged.
    """
    return Identity.from_json(read_capped(folder / FILE, _MAX_BYTES), folder / FILE)


def identities(cache: Path, report: Report | None = None) -> Iterator[tuple[Path, Identity]]:
    """Every identity folder of a cache, in the order of names; ``report`` is told of unusable ones.

    Raises:
        CacheError: If the cache folder cannot be read.
    """
    try:
        folders = list_folder(cache)
    except CacheError as error:
        if is_gone(error):  # there is no cache yet
            return
        raise
    for folder in folders:
        try:
            known = read_identity(folder) if (folder / FILE).exists() else None
        except (CacheError, OSError) as error:  # somebody else's, say: ours may be beside it
            if report is not None:
                report(f"passed over: {error}")
        else:
            if known is not None:
                yield folder, known


def what_is_new(cache: Path, identity: Identity) -> list[str]:
    """How an identity differs from the nearest one in the cache; empty where there is none."""
    known = [differences(other, identity) for _, other in identities(cache)]
    return min(known, key=len, default=[])


def differences(old: Identity, new: Identity) -> list[str]:
    """What differs, each in a few words: ``pillow 12.0 → 13.0``.

    Empty where a feature of one is a feature of the other, though their keys may differ: other
    words for the same versions make no other feature.
    """
    before, after = _flat(old), _flat(new)
    untold = {name for name in _DECODERS if name not in before or name not in after}
    return [
        f"{name} {_short(before.get(name))} → {_short(after.get(name))}"
        for name in sorted((before.keys() | after.keys()) - untold)
        if before.get(name) != after.get(name)
    ]


def _flat(identity: Identity) -> dict[str, Any]:
    values = identity.describe()
    values |= {name: series(name, version) for name, version in values.pop("versions").items()}
    return values | values.pop("transform")


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:8]}…" if _SHA256.fullmatch(text) else text


def _check(good: bool, name: str, expected: str, found: object) -> None:
    if not good:
        raise OptionError(f"identity: {name}", expected, repr(found), "correct it")


def _not_an_identity(where: object, found: str) -> DamageError:
    return DamageError(where, f"the identity of a cache of format {FORMAT}", found, ANEW)
