"""Snapshots that are made to mislead, under a right checksum: refused, and bounded in memory.

Each is opened by itself and met by ``embed`` in a whole cache, in a process of its own, in ten
seconds and in little memory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import (
    HOSTILE,
    arrays_of,
    four_tebibytes,
    hostile_bytes,
    make_targets,
    unallocated,
    words,
)
from isolated import isolated
from numpy.typing import NDArray
from whole_cache import SECONDS, Case, Seen, Sound, called, make_sound, survive_in_little_memory

import tlcache.cache.snapshots
from tlcache.cache.snapshots import HEADER, MAGIC, load_snapshot, save_snapshot
from tlcache.core.errors import DamageError
from tlcache.core.hdf5 import pack

LITTLE = 256 << 20  # what importing numba takes is part of it
CHANGES, AT_ONCE = 1000, 500
COLUMNS = ["about", "digests", "labels", "paths", "reasons", "splits", "status"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return make_sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def file(sound: Sound) -> str:
    (file,) = sound.files("*/snapshots/*")
    return file


@pytest.fixture
def arrays(sound: Sound, file: str) -> dict[str, NDArray[Any]]:
    return arrays_of((sound.cache / file).read_bytes()[HEADER:])


def written(body: bytes, path: Path) -> Path:
    header = MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n"
    path.write_bytes(header.ljust(HEADER, b"\0") + body)
    return path


def put(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def refused(sound: Sound, folder: Path, case: Case, most: int = LITTLE) -> Seen:
    """What became of a file that is no shard: nothing was lost by it, and it is named."""
    ended = isolated(survive_in_little_memory, sound, folder / "copies", [case], True)
    assert ended.code == 0, ended
    (seen,), growth = ended.value
    assert seen.numbers == seen.reopened == sound.numbers
    assert (seen.embedded, seen.left, seen.touched) == (0, [], False)
    assert case[1][0] in seen.faults and growth < most
    result: Seen = seen
    return result


def check(seen: Seen, file: str, expected: str, found: str) -> None:
    """That the snapshot is refused by name and with the reason, by itself and by ``embed``."""
    (line,) = seen.said
    for said, start in ((line, "passed over: "), (seen.opened, "DamageError: ")):
        assert said.startswith(start)
        assert f"/{file}: expected {expected}" in said
        assert found in said.partition(", found ")[2]


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_snapshot_is_refused_with_its_reason(
    how: str, sound: Sound, file: str, arrays: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    make_targets(tmp_path / "elsewhere", arrays["digests"])
    body = hostile_bytes(arrays, "digests", HOSTILE[how].make, tmp_path / "elsewhere")
    source = written(body, tmp_path / "source")
    seen = refused(sound, tmp_path, (functools.partial(put, source), [file]))
    check(seen, file, *words(HOSTILE[how], arrays, "digests"))


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("make", [four_tebibytes, unallocated])
def test_no_column_is_as_large_as_it_claims(
    make: Callable[..., None],
    name: str,
    sound: Sound,
    file: str,
    arrays: dict[str, NDArray[Any]],
    tmp_path: Path,
) -> None:
    source = written(hostile_bytes(arrays, name, make, tmp_path), tmp_path / "source")
    seen = refused(sound, tmp_path, (functools.partial(put, source), [file]))
    check(seen, file, f"/{name} inside the file", "shape (")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "..", "../x.png", "train/../../x.png", "train/ants/..", "", "//x"]
)
def test_a_snapshot_whose_paths_lead_out_is_refused(
    path: str, sound: Sound, file: str, tmp_path: Path
) -> None:
    snapshot = load_snapshot(sound.cache / file)
    paths = [*snapshot.dataset.paths[:-1], path]
    dataset = dataclasses.replace(snapshot.dataset, paths=paths)
    source = tmp_path / "source"
    save_snapshot(source, dataclasses.replace(snapshot, dataset=dataset))
    seen = refused(sound, tmp_path, (functools.partial(put, source), [file]))
    check(seen, file, "a snapshot", f"a path that leads out of the data set: {path}")
    code, out, errors = called("embed", source)
    assert (code, out) == (1, "") and errors.startswith(f"error: {source}: expected a snapshot")


@pytest.mark.parametrize("path", ["..\\x.png", "a\\..\\..\\x.png", "C:\\x.png", "C:x.png", "\\x"])
def test_paths_of_windows_lead_out_there_and_are_plain_names_elsewhere(
    path: str, sound: Sound, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = load_snapshot(sound.cache / file)
    paths = [*snapshot.dataset.paths[:-1], path]
    dataset = dataclasses.replace(snapshot.dataset, paths=paths)
    save_snapshot(tmp_path / "source", dataclasses.replace(snapshot, dataset=dataset))
    if os.name != "nt":
        assert load_snapshot(tmp_path / "source").dataset.path(11) == dataset.root / path
        assert (dataset.root / path).parent == dataset.root
    monkeypatch.setattr(tlcache.cache.snapshots, "_ON_WINDOWS", True)
    assert load_snapshot(sound.cache / file).dataset.paths == snapshot.dataset.paths
    with pytest.raises(DamageError) as caught:
        load_snapshot(tmp_path / "source")
    assert caught.value.found == f"a path that leads out of the data set: {path}"


# --- what is small and becomes large, or is large


def many_texts(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Texts without rows: as a list, they would take eight bytes for each of theirs."""
    return arrays | {"reasons": np.zeros(32 << 20, np.uint8)}


def many_words(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """JSON that would take twenty times its bytes."""
    about = json.dumps(json.loads(arrays["about"].tobytes()) | {"more": [{}] * (5 << 20)})
    return arrays | {"about": np.frombuffer(about.encode(), np.uint8)}


def deep_words(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return arrays | {"about": np.frombuffer(b"[" * (1 << 20), np.uint8)}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (many_texts, "columns of different lengths"),
        (many_words, "a description of 2"),
        (deep_words, "no description of a data set"),
    ],
)
def test_what_would_unpack_to_far_more_is_refused_before_it_does(
    change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    found: str,
    sound: Sound,
    file: str,
    arrays: dict[str, NDArray[Any]],
    tmp_path: Path,
) -> None:
    source = written(pack(change(arrays)), tmp_path / "source")
    most = LITTLE + 3 * source.stat().st_size
    seen = refused(sound, tmp_path, (functools.partial(put, source), [file]), most)
    check(seen, file, "a snapshot that tlcache wrote", found)


def claim_to_be_longer(path: Path) -> None:
    """HDF5's superblock says where the file ends."""
    body = bytearray(path.read_bytes()[HEADER:])
    body[40:48] = (1 << 60).to_bytes(8, "little")
    written(bytes(body), path)


def test_a_header_that_claims_a_huge_body_is_refused(
    sound: Sound, file: str, tmp_path: Path
) -> None:
    seen = refused(sound, tmp_path, (claim_to_be_longer, [file]))
    check(seen, file, "an HDF5 file", "truncated file")


def grow(size: int, *paths: Path) -> None:
    """To sparse files, which take no room on the disk."""
    for path in paths:
        os.truncate(path, size)


@pytest.mark.parametrize(
    ("pattern", "cap"),
    [
        ("*/snapshots/*", 8 << 30),
        ("*eval*/identity.json", 1 << 20),
        ("*train*/identity.json", 1 << 20),
        ("weights/*", 1 << 16),
    ],
)
@pytest.mark.parametrize("size", [None, 1 << 40])
def test_a_huge_sparse_file_is_not_read(
    pattern: str, cap: int, size: int | None, sound: Sound, tmp_path: Path
) -> None:
    (file,) = sound.files(pattern)
    seen = refused(sound, tmp_path, (functools.partial(grow, size or cap + 1), [file]))
    assert f"/{file}: expected at most {cap:,} bytes, found {size or cap + 1:,}" in seen.said[0]


def test_a_huge_sparse_shard_is_not_read_either(sound: Sound, tmp_path: Path) -> None:
    every = sound.files("*/shards/*")
    cases: list[Case] = [(functools.partial(grow, (1 << 30) + 1), every)]
    ended = isolated(survive_in_little_memory, sound, tmp_path, cases, True)
    assert ended.code == 0, ended
    (seen,), growth = ended.value
    assert (seen.numbers, seen.embedded, seen.left) == (sound.numbers, 12, [])
    assert growth < LITTLE and len(seen.said) == len(every)
    assert all("expected at most 1,073,741,824 bytes" in line for line in seen.said)


# --- structure that is broken in any way


def load_changed(snapshot: Path, path: Path, seeds: range) -> tuple[int, int]:
    """Load a snapshot with bytes of its body changed; how many were loaded, how many refused."""
    whole, loaded = snapshot.read_bytes()[HEADER:], 0
    for seed in seeds:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        random, body = np.random.default_rng(seed), bytearray(whole)
        for at in random.integers(len(body), size=random.integers(1, 5)):
            body[at] = random.choice(np.array([0, 1, 255, random.integers(256)]))
        try:
            load_snapshot(written(bytes(body), path))
            loaded += 1
        except DamageError as error:
            assert str(error).startswith(f"{path}: expected ")
    return loaded, len(seeds) - loaded


@pytest.mark.parametrize("start", range(0, CHANGES, AT_ONCE))
def test_a_broken_body_under_a_right_checksum_is_an_error_and_no_crash(
    sound: Sound, file: str, start: int, tmp_path: Path
) -> None:
    seeds, path = range(start, start + AT_ONCE), tmp_path / "s.h5"
    ended = isolated(load_changed, sound.cache / file, path, seeds, limit=SECONDS * AT_ONCE)
    assert ended.code == 0, ended
    loaded, refusals = ended.value
    assert refusals > AT_ONCE // 5 and loaded > 0
