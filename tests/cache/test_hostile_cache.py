"""Files that are made to mislead, rightly named by their checksums, in a whole cache.

Each is refused with its reason, its rows are made again, and nothing else is opened. Every case
has a process of its own, ten seconds, and little memory.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
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
from whole_cache import SECONDS, Case, Seen, Sound, make_sound, survive_in_little_memory

from tlcache.cache.identity import read_identity
from tlcache.cache.shards import read_shard
from tlcache.core.errors import DamageError
from tlcache.core.hdf5 import pack

LITTLE = 128 << 20  # what importing the command line takes is part of it
CHANGES, AT_ONCE = 2000, 500
LEADING_OUT = ["external link", "soft link out", "external storage", "virtual data set"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return make_sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def shard(sound: Sound) -> str:
    return sound.files("*eval*/shards/*")[1]


@pytest.fixture
def elsewhere(sound: Sound, shard: str, tmp_path: Path) -> Path:
    make_targets(tmp_path / "elsewhere", arrays_of((sound.cache / shard).read_bytes())["features"])
    return tmp_path / "elsewhere"


def named_by_checksum(data: bytes, folder: Path) -> Path:
    path = folder / f"{hashlib.sha256(data).hexdigest()}.h5"
    path.write_bytes(data)
    return path


def supplant(source: Path, path: Path) -> None:
    path.unlink()
    shutil.copyfile(source, path.with_name(source.name))


def survived(sound: Sound, folder: Path, cases: list[Case], *, stays: bool = True) -> list[Seen]:
    """What became of each; ``stays``: a file whose bytes are its name's is nobody's to rename."""
    ended = isolated(survive_in_little_memory, sound, folder / "copies", cases, True,
                     limit=SECONDS * len(cases))  # fmt: skip
    assert ended.code == 0, ended
    results, growth = ended.value
    for (_, files), seen in zip(cases, results, strict=True):
        assert seen.numbers == seen.reopened == sound.numbers, files
        assert seen.embedded == len(sound.images(*files)), files
        shards = [file for file in seen.faults if stays and "/shards/" in file]
        assert seen.left == shards and not seen.touched, files
    assert growth < LITTLE
    return list(results)


def check_refused(seen: Seen, name: str, expected: str, found: str) -> None:
    """That one line names the file and the reason, and that verify knows of it, too."""
    (line,) = seen.said
    assert line.startswith("passed over: ")  # it is as it was named: others may be able to read it
    assert f"/shards/{name}: expected {expected}" in line
    assert found in line.partition(", found ")[2]
    assert any(fault.endswith(f"/{name}") for fault in seen.faults)


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_shard_is_refused_with_its_reason_and_its_rows_are_made_again(
    how: str, sound: Sound, shard: str, elsewhere: Path, tmp_path: Path
) -> None:
    arrays = arrays_of((sound.cache / shard).read_bytes())
    data = hostile_bytes(arrays, "features", HOSTILE[how].make, elsewhere)
    source = named_by_checksum(data, tmp_path)
    (seen,) = survived(sound, tmp_path, [(functools.partial(supplant, source), [shard])])
    check_refused(seen, source.name, *words(HOSTILE[how], arrays, "features"))


@pytest.mark.parametrize("name", ["features", "identity", "images", "views"])
def test_no_data_set_is_as_large_as_it_claims(
    name: str, sound: Sound, shard: str, elsewhere: Path, tmp_path: Path
) -> None:
    arrays = arrays_of((sound.cache / shard).read_bytes())
    makes = (four_tebibytes, unallocated)
    sources = [
        named_by_checksum(hostile_bytes(arrays, name, make, elsewhere), tmp_path) for make in makes
    ]
    cases: list[Case] = [(functools.partial(supplant, source), [shard]) for source in sources]
    for source, seen in zip(sources, survived(sound, tmp_path, cases), strict=True):
        check_refused(seen, source.name, f"/{name} inside the file", "shape (")


@pytest.mark.parametrize(
    ("value", "columns", "expected", "found"),
    [
        (np.nan, 24, "finite features", "NaN or Inf"),
        (np.inf, 24, "finite features", "NaN or Inf"),
        (-np.inf, 24, "finite features", "NaN or Inf"),
        (0.0, 23, "features (3, 24), images (3, 32)", "features (3, 23), images (3, 32)"),
        (0.0, 25, "features (3, 24), images (3, 32)", "features (3, 25), images (3, 32)"),
    ],
)
def test_numbers_that_are_none_and_rows_of_another_length_are_refused(
    value: float, columns: int, expected: str, found: str, sound: Sound, shard: str, tmp_path: Path
) -> None:
    arrays = arrays_of((sound.cache / shard).read_bytes())
    arrays["features"] = np.resize(arrays["features"], (3, columns))
    arrays["features"][1, 2] = value
    source = named_by_checksum(pack(arrays), tmp_path)
    (seen,) = survived(sound, tmp_path, [(functools.partial(supplant, source), [shard])])
    check_refused(seen, source.name, expected, found)


# --- structure that is broken in any way


def read_changed(shard: Path, folder: Path, seeds: range) -> tuple[int, int]:
    """Read a shard with bytes of its structure changed; how many were read, how many refused."""
    whole, identity = shard.read_bytes(), read_identity(shard.parents[1])
    with h5py.File(shard) as file:  # HDF5 puts the numbers behind the structure
        structure = min(file[name].id.get_offset() for name in file)
    read = 0
    for seed in seeds:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        random, data = np.random.default_rng(seed), bytearray(whole)
        for at in random.integers(structure, size=random.integers(1, 5)):
            data[at] = random.choice(np.array([0, 1, 255, random.integers(256)]))
        path = named_by_checksum(bytes(data), folder)
        try:
            read_shard(path, identity)
            read += 1
        except DamageError as error:
            assert str(error).startswith(f"{path}: expected ")
        path.unlink(missing_ok=True)
    return read, len(seeds) - read


@pytest.mark.parametrize("start", range(0, CHANGES, AT_ONCE))
def test_a_broken_structure_under_a_right_checksum_is_an_error_and_no_crash(
    sound: Sound, shard: str, start: int, tmp_path: Path
) -> None:
    seeds = range(start, start + AT_ONCE)
    ended = isolated(read_changed, sound.cache / shard, tmp_path, seeds, limit=SECONDS * AT_ONCE)
    assert ended.code == 0, ended
    read, refused = ended.value
    assert refused > AT_ONCE // 4 and read > 0  # not every byte of the structure says something


# --- what is no regular file


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_socket(path: Path) -> None:
    path.unlink()
    os.chdir(path.parent)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)


def become_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def become_a_link_to_another_file(path: Path) -> None:
    path.unlink()
    path.symlink_to(__file__)


@pytest.mark.parametrize(
    "become", [become_a_pipe, become_a_socket, become_a_device, become_a_link_to_another_file]
)
def test_what_is_no_file_of_ours_is_named_and_not_waited_for(
    become: Callable[[Path], None], sound: Sound, tmp_path: Path
) -> None:
    before = Path(__file__).read_bytes()
    every = sound.files("**/*")
    cases: list[Case] = [(become, [file]) for file in every]
    for file, seen in zip(every, survived(sound, tmp_path, cases, stays=False), strict=True):
        assert any(f"/{file}: expected " in line for line in seen.said), seen
        assert file in seen.faults
    assert Path(__file__).read_bytes() == before


def move_out_and_link(path: Path) -> None:
    target = path.parents[2] / path.name
    path.rename(target)
    path.symlink_to(target)


def test_a_link_to_a_sound_shard_is_as_good(sound: Sound, shard: str, tmp_path: Path) -> None:
    """Its content is what its name says, wherever it is."""
    cases = [(move_out_and_link, [shard])]
    ended = isolated(survive_in_little_memory, sound, tmp_path, cases, True)
    (seen,), _ = ended.value
    assert (seen.numbers, seen.embedded, seen.said) == (sound.numbers, 0, [])
    assert seen.faults == seen.left == []


# --- no other file is opened

READ = """
import contextlib, sys
from pathlib import Path
import h5py
from tlcache.cli import app
from tlcache.core.errors import TlcacheError
from tlcache.features.read import open_snapshot
cache, mark, *forged = sys.argv[1:]
snapshots = sorted(Path(cache).glob("*/snapshots/*.h5"))
for command in (["ls"], ["info", snapshots[0].parents[1].name], ["verify"]):
    with contextlib.suppress(SystemExit):
        app(["cache", *command, "--cache-dir", cache, "--json"])
for path in snapshots:
    try:
        open_snapshot(path, 2, print).read()
    except TlcacheError as error:
        print(error)
Path(mark).exists()
for path in forged:
    with h5py.File(path) as file:
        for name in set(file) - {"out"}:
            with contextlib.suppress(OSError):
                file[name][...]
"""


def forge(sound: Sound, cache: Path, elsewhere: Path) -> list[Path]:
    """Put shards and snapshots that lead out into a cache; the HDF5 files in them."""
    forged = []
    for file in [*sound.files("*/shards/*")[:1], *sound.files("*/snapshots/*")]:
        data, of_snapshot = (sound.cache / file).read_bytes(), "/snapshots/" in file
        arrays = arrays_of(data[512 * of_snapshot :])
        for name, how in itertools.product(arrays, LEADING_OUT):
            body = hostile_bytes(arrays, name, HOSTILE[how].make, elsewhere)
            forged.append(named_by_checksum(body, cache.parent))
            header = f"tlcache snapshot 1\n{forged[-1].stem}\n".encode().ljust(512, b"\0")
            target = (cache / file).with_name(forged[-1].name)
            target.write_bytes(header * of_snapshot + body)
    return forged


def test_no_other_file_is_opened(sound: Sound, elsewhere: Path, tmp_path: Path) -> None:
    """Seen by strace; and plain h5py opens them, else this would prove nothing."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    cache, log, mark = (tmp_path / name for name in ("cache", "log", "from-here-on-plain-h5py"))
    shutil.copytree(sound.cache, cache)
    forged = forge(sound, cache, elsewhere)
    strace = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o"]
    command = [*strace, log, sys.executable, "-c", READ, cache, mark, *forged]
    traced = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    assert traced.returncode == 0, traced.stderr
    assert all(f"{path.name}: expected " in traced.stdout for path in forged)
    calls = [line for line in log.read_text().splitlines() if "execve(" not in line]
    (at,) = (at for at, line in enumerate(calls) if mark.name in line)
    ours, plain = "".join(calls[:at]), "".join(calls[at:])
    assert all(path.name in ours for path in forged)
    assert str(elsewhere) not in ours
    assert str(elsewhere / "other.h5") in plain and str(elsewhere / "other.raw") in plain
