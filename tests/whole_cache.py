"""A cache with every kind of file in it, and what becomes of it when something is done to it.

The functions that embed are meant for a process of their own (``isolated``): they replace the
loading of a network by that of a small one, and take every file to be at rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from isolated import isolated
from small_trunk import load_small, make_images
from typer.main import get_command

import tlcache.cache.snapshots
import tlcache.features.missing
import tlcache.trunks.load
from tlcache.cache.identity import read_identity
from tlcache.cache.shards import read_shard
from tlcache.cli import app
from tlcache.core.errors import TlcacheError
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.features.read import Embedding, open_snapshot

VIEWS = 2
SECONDS = 10.0
"""The longest that one case may take."""

Case = tuple[Callable[..., None], Sequence[str]]
"""What is done, and the files that it is done to, as texts relative to the cache."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """A sound cache: ``numbers`` is the SHA-256 of all features in it."""

    data: Path
    cache: Path
    numbers: str

    def files(self, pattern: str) -> list[str]:
        """Those that match a pattern, relative to the cache, in the order of names."""
        found = self.cache.glob(pattern)
        return sorted(str(path.relative_to(self.cache)) for path in found if path.is_file())

    def images(self, *files: str) -> set[bytes]:
        """Digests of the images of which any of the files, where they are shards, has rows."""
        shards = [self.cache / file for file in files if file.endswith(".h5")]
        read = [
            read_shard(shard, read_identity(shard.parents[1])).images
            for shard in shards
            if shard.parent.name == "shards"
        ]
        return {digest.tobytes() for images in read for digest in images}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What became of a damaged cache.

    Attributes:
        faults: Files with which ``tlcache cache verify`` found fault, relative to the cache.
        touched: Whether it changed anything.
        opened: The snapshot, opened by itself before anything else: SHA-256 of its features, or
            the error. Empty where a shard is damaged, as that would set it aside.
        embedded: Images of which ``embed`` made rows.
        said: The lines that it reported.
        numbers: SHA-256 of all features that were read in the end.
        reopened: As ``opened``, in the end.
        left: As ``faults``, in the end. Both are empty where nobody looked.
    """

    faults: list[str]
    touched: bool
    opened: str
    embedded: int
    said: list[str]
    numbers: str
    reopened: str
    left: list[str]


def make_sound(folder: Path, seed: int = 0) -> Sound:
    """A cache in a folder of its own."""
    folder.mkdir(exist_ok=True)
    ended = isolated(fill, make_images(folder / "data", 4, 2), folder / "cache", seed)
    assert ended.code == 0, ended.error
    whole: Sound = ended.value
    return whole


def fill(data: Path, cache: Path, seed: int = 0) -> Sound:
    """Make a cache of the images, in many shards of few rows."""
    tlcache.features.missing.COMMIT_BYTES = 600
    done = _embed(data, cache, [], seed)
    assert done.embedded == 12
    return Sound(data, cache, _numbers(done))


def survive(sound: Sound, copies: Path, cases: Sequence[Case], look_again: bool) -> list[Seen]:
    """Damage a copy of the cache in each of the ways, and embed the images again.

    Each case has ``SECONDS``; the alarm kills the process.
    """
    seen = []
    for copy, files in _damaged(sound, copies, cases):
        opening = not any("/shards/" in file for file in files)
        seen.append(_survived(sound, copy, opening, look_again))
    return seen


def opened(sound: Sound, copies: Path, cases: Sequence[Case]) -> list[str]:
    """Damage a copy in each of the ways, and open the snapshot by itself: see ``Seen.opened``."""
    (snapshot,) = sound.files("*/snapshots/*.h5")
    return [_opened(copy / snapshot) for copy, _ in _damaged(sound, copies, cases)]


def _damaged(
    sound: Sound, copies: Path, cases: Sequence[Case]
) -> Iterator[tuple[Path, Sequence[str]]]:
    for at, (damage, files) in enumerate(cases):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        copy = copies / str(at)
        shutil.copytree(sound.cache, copy)
        damage(*(copy / file for file in files))
        yield copy, files
        shutil.rmtree(copy)


def survive_in_little_memory(*arguments: Any) -> tuple[list[Seen], int]:
    """As :func:`survive`, and by how many bytes the memory grew; 2 GiB of addresses are spare."""
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (addresses + (2 << 30), resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = survive(*arguments)
    return seen, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def called(*arguments: object) -> tuple[int, str, str]:
    """A command of tlcache: its exit code, stdout and stderr."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        _command()([str(argument) for argument in arguments])
    return int(ended.value.code or 0), out.getvalue(), errors.getvalue()


def _survived(sound: Sound, cache: Path, opening: bool, look_again: bool) -> Seen:
    (snapshot,) = (cache / file for file in sound.files("*/snapshots/*.h5"))
    before, faults = _stamps(cache), _faults(cache)
    touched, said = _stamps(cache) != before, list[str]()
    opened = _opened(snapshot) if opening else ""
    done = _embed(sound.data, cache, said)
    numbers = _numbers(done)
    again, left = (_opened(snapshot), _faults(cache)) if look_again else ("", [])
    return Seen(faults, touched, opened, done.embedded, said, numbers, again, left)


def _embed(data: Path, cache: Path, said: list[str], seed: int = 0) -> Embedding:
    tlcache.trunks.load.load_trunk = load_small
    tlcache.cache.snapshots.SETTLED_NS = -(10**18)
    # One crop at a time: the bits of a feature may depend on its batch.
    return embed(
        scan(data), "small", f"random:{seed}", cache=cache, views=VIEWS,
        workers=1, batch_size=1, report=said.append,
    )  # fmt: skip


def _numbers(done: Embedding) -> str:
    read = done.read()
    assert read.train_views is not None
    return hashlib.sha256(read.features.tobytes() + read.train_views.tobytes()).hexdigest()


def _opened(snapshot: Path) -> str:
    try:
        return _numbers(open_snapshot(snapshot, VIEWS))
    except TlcacheError as error:
        return f"{type(error).__name__}: {error}"


def _faults(cache: Path) -> list[str]:
    code, out, errors = called("cache", "verify", "--cache-dir", cache, "--json")
    files = [finding["file"] for finding in json.loads(out)["findings"]]
    assert code == (1 if files else 0), errors
    assert errors.startswith(f"error: {cache}: expected every" if files else "")
    return [str(Path(file).relative_to(cache)) for file in files]


@functools.cache
def _command() -> Callable[[list[str]], None]:
    """The command line; to make it anew each time would take longer than to verify."""
    return get_command(app)


def _stamps(cache: Path) -> dict[Path, tuple[int, int, int]]:
    found = ((path, path.lstat()) for path in cache.rglob("*"))
    return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found}
