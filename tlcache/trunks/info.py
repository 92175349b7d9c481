"""What is known of a trunk without loading it: its digest, its length D, its transform.

A memo in the cache spares the next run from importing torch and digesting the weights again. It is
believed only while the weights file is the very file that was digested: same path, size, mtime,
ctime and inode, and at rest for two seconds before it was read. Covers no loading (``load``),
and imports no torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import time_ns
from typing import Any

from tlcache.core.errors import (
    CacheError,
    DamageError,
    TlcacheError,
    TrunkError,
    TrunkWordError,
    strerror,
)
from tlcache.core.files import StrPath, as_path, read_capped, write_atomically
from tlcache.core.progress import Report, no_report
from tlcache.data.transforms import Transform

FORMAT = 1
"""Version of the memo, and of how a trunk is built and digested."""
SETTLE_NS = 2_000_000_000
"""A file that changed this shortly before it was read may change again with the same stamp."""

_CAP = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FileStamp:
    """Which file, in which state: another stamp says that the file may hold other bytes.

    Attributes:
        taken_ns: When the stamp was taken, before the file was read.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    taken_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """The stamp of a weights file, now.

        Raises:
            TrunkError: If there is no regular file.
        """
        path, now = path.absolute(), time_ns()
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            nearest = next(p for p in path.parents if p.exists())
            found = f"nothing there (what exists of the path is {nearest})"
            raise _no_file(path, found) from error
        except (OSError, ValueError) as error:
            raise _no_file(path, strerror(error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise _no_file(path, "a folder" if stat.S_ISDIR(status.st_mode) else "a special file")
        return cls(
            path=str(path),
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            inode=status.st_ino,
            taken_ns=now,
        )

    def holds(self) -> bool:
        """Whether the file is still in the state that was read, for all that its stamp can tell."""
        try:
            now = FileStamp.of(Path(self.path))
        except TrunkError:
            return False
        settled = self.taken_ns - max(self.mtime_ns, self.ctime_ns) > SETTLE_NS
        return settled and replace(now, taken_ns=self.taken_ns) == self


@dataclass(frozen=True, kw_only=True)
class TrunkInfo:
    """A trunk without its numbers.

    Attributes:
        name: Of the network: ``resnet18``, ``timm/convnext_nano``, ``efficientnet_lite0``.
        weights: As they were asked for: ``imagenet``, ``random``, ``random:SEED`` or a file.
        digest: Hex SHA-256 of the weights and buffers, see ``weights.state_digest``.
        dim: Length D of a feature.
        transform: The eval transform that the weights expect.
        source: The weights file as it was when it was read; None for random weights.
        origin: Of a user's file: whence its transform is, in words; else empty.
    """

    name: str
    weights: str
    digest: str
    dim: int
    transform: Transform
    source: FileStamp | None = field(default=None, compare=False)
    origin: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The weights in a word for a folder's name: at most 24 of a-z, 0-9 and _."""
        wanted = parse_weights(self.weights)
        if isinstance(wanted, int):
            return f"random{wanted}"
        if isinstance(wanted, str):
            return "imagenet1k"
        return re.sub(r"[^a-z0-9]+", "_", wanted.stem.lower())[:24].strip("_") or "weights"


def as_weights(weights: StrPath) -> str:
    """What the caller of a public function hands over as ``weights``, in a word or as a path.

    Raises:
        InputError: If it is nothing of the kind.
    """
    if isinstance(weights, str) and weights:
        return weights
    text = str(as_path("weights", weights, "imagenet, random or a file"))
    # A path is a file's, even if that bears one of the words.
    a_word = text == "imagenet" or text.partition(":")[0] == "random"
    return f"./{text}" if a_word else text


def parse_weights(weights: str) -> str | int | Path:
    """What a ``--weights`` value asks for: ``"imagenet"``, the seed of random weights, or a file.

    Raises:
        TrunkError: If a seed is no number from 0 to 4294967295.
    """
    if weights == "imagenet":
        return weights
    word, colon, seed = weights.partition(":")
    if word != "random":
        return Path(weights)
    if not colon:
        return 0
    if re.fullmatch(r"[0-9]{1,10}", seed) and int(seed) < 2**32:
        return int(seed)
    expected = "random:SEED with a seed from 0 to 4294967295"
    remedy = "give another seed, or a file's path as ./FILE"
    raise TrunkWordError(weights, expected, f"the seed {seed!r}", remedy)


def note_random(weights: str, note: Report) -> None:
    """Say in one line that a network has learned nothing, where that is what was asked for."""
    if isinstance(parse_weights(weights), int):
        note(f"weights: {weights}, of a network that has learned nothing")


def note_transform(info: TrunkInfo, changes: Mapping[str, Any], note: Report) -> None:
    """Say in one line which transform a user's weights file is taken to expect, and why.

    Args:
        changes: Fields of the transform that the user has chosen; where that is all of them,
            nothing is said.
    """
    fields = asdict(info.transform).keys() - {"kind"}
    if info.origin and fields - changes.keys():
        asked = [f"--{name}" for name in changes]
        besides = f"; as asked: {', '.join(asked)}" if asked else ""
        words = replace(info.transform, **changes).in_words()
        note(f"transform: {words} ({info.origin}{besides})")


def recall(memo_dir: Path, name: str, weights: str, report: Report = no_report) -> TrunkInfo | None:
    """What :func:`remember` kept, or None where nothing is, or nothing that can be believed.

    Args:
        report: Is told, in one line, of a damaged memo; the next :func:`remember` replaces it.

    Raises:
        TrunkError: If ``weights`` makes no sense.
    """
    path = _memo_path(memo_dir, _key(name, weights))
    try:
        info = read_memo(path)
    except CacheError as error:  # a memo that is absent or damaged is as good as none
        if isinstance(error, DamageError):
            report(f"passed over: {error}")
        return None
    if isinstance(parse_weights(weights), Path) and not info.origin:
        return None  # of a version that gave every file the same transform
    return replace(info, weights=weights) if not info.source or info.source.holds() else None


def remember(memo_dir: Path, info: TrunkInfo) -> bool:
    """Keep a trunk's description for :func:`recall`: a JSON file named by its key's SHA-256.

    Returns False, and leaves things as they were, where the folder cannot be written: a read-only
    cache is still a cache, it just digests the weights each time.
    """
    key = _key(info.name, info.weights)
    value = {
        "digest": info.digest,
        "dim": info.dim,
        "transform": info.transform.describe(),
        "source": info.source and asdict(info.source),
        "origin": info.origin,
    }
    memo = {"key": key, "value": value, "sha256": _sha256([key, value])}
    path = _memo_path(memo_dir, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _canonical(memo))
    except (OSError, CacheError):
        return False
    return True


def read_memo(path: Path) -> TrunkInfo:
    """What a memo's file tells, whichever trunk and machine it is of; not whether it still holds.

    Raises:
        CacheError: If it cannot be read.
        DamageError: If it is not as :func:`remember` wrote it.
    """
    data = read_capped(path, _CAP)
    try:
        memo = json.loads(data)
        key, value, source = memo["key"], memo["value"], memo["value"]["source"]
        if _canonical(memo) != data or memo["sha256"] != _sha256([key, value]):
            raise _damaged(path, "other bytes than were written")
        stamp = None if source is None else FileStamp(**source)
        info = TrunkInfo(
            name=key["name"],
            weights=key["weights"],
            digest=value["digest"],
            dim=value["dim"],
            transform=Transform.from_description(value["transform"]),
            source=stamp,
            origin=value.get("origin", ""),
        )
    except DamageError:
        raise
    except (TlcacheError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, "another kind of file") from None
    texts = [info.name, info.weights, info.digest, info.origin, *([stamp.path] if stamp else [])]
    numbers = [info.dim, *([v for k, v in asdict(stamp).items() if k != "path"] if stamp else [])]
    if {type(t) for t in texts} != {str} or {type(n) for n in numbers} != {int}:
        raise _damaged(path, "values of other kinds")
    if path.name != f"{_sha256(key)}.json":
        raise _damaged(path, "another memo's bytes")
    return info


def _key(name: str, weights: str) -> dict[str, Any]:
    """All that decides which trunk is loaded, save for the weights file's content."""
    wanted = parse_weights(weights)
    spec = f"random:{wanted}" if isinstance(wanted, int) else str(wanted)
    if isinstance(wanted, Path):
        spec = f"file:{wanted.absolute()}"
    return {
        "format": FORMAT,
        "name": name,
        "weights": spec,
        "machine": platform.machine(),  # random numbers differ in their last bit between kinds
        "versions": {package: _version(package) for package in ("torch", "torchvision", "timm")},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memo_path(memo_dir: Path, key: dict[str, Any]) -> Path:
    return memo_dir / f"{_sha256(key)}.json"


def _sha256(value: object) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def _damaged(path: Path, found: str) -> DamageError:
    remedy = "remove it; the weights are then digested again"
    return DamageError(path, "a weights memo that tlcache wrote", found, remedy)


def _no_file(path: Path, found: str) -> TrunkError:
    remedy = "correct --weights: imagenet, random, random:SEED or a file's path"
    return TrunkError(path, "a weights file (.pth, .pt or .safetensors)", found, remedy)
