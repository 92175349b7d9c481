"""A damaged cache never gives a wrong number: the file is named, and what it held is made again.

Every case works on a copy of a whole cache, in a process of its own and in ten seconds.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from isolated import isolated
from whole_cache import SECONDS, Case, Seen, Sound, make_sound, opened, survive

FLIPS, AT_ONCE = 1000, 25


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    whole = make_sound(tmp_path_factory.mktemp("sound"))
    assert len(whole.files("*eval*/shards/*.h5")) >= 4
    assert len(whole.files("*train*/shards/*.h5")) >= 3
    assert len(whole.files("**/*.json")) == 3 and len(whole.files("**/snapshots/*.h5")) == 1
    return whole


@pytest.fixture(scope="module")
def other(sound: Sound) -> Sound:
    """The same images under another identity, in another cache."""
    whole = make_sound(sound.cache.with_name("other"), 7)
    assert whole.numbers != sound.numbers
    return whole


def survived(
    sound: Sound, folder: Path, cases: Sequence[Case], *, look_again: bool = True
) -> list[Seen]:
    """What became of each case, after what must hold whatever was done."""
    ended = isolated(survive, sound, folder, cases, look_again, limit=SECONDS * len(cases))
    assert ended.code == 0, (ended, cases)
    for (damage, files), seen in zip(cases, ended.value, strict=True):
        assert seen.numbers == sound.numbers, (damage, files)
        assert seen.embedded == len(sound.images(*files)), (damage, files)
        assert not seen.touched, (damage, files)
        for line in seen.said:
            assert any(f"{file}: expected " in line for file in files), (damage, line)
    return list(ended.value)


def named(seen: Seen, file: str) -> bool:
    """Whether a line says that the file was refused or set aside."""
    starts = ("set aside as ", "passed over: ")
    return any(line.startswith(starts) and f"/{file}: expected " in line for line in seen.said)


def kind(file: str) -> str:
    """``shards``, ``snapshots``, ``identity.json`` or ``weights``."""
    path = Path(file)
    return path.name if path.name == "identity.json" else path.parent.name


# --- one byte


def flip(at: int, mask: int, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


@pytest.mark.parametrize("group", range(FLIPS // AT_ONCE))
def test_any_changed_byte_is_noticed(sound: Sound, group: int, tmp_path: Path) -> None:
    random, every = np.random.default_rng(group), sound.files("**/*")
    cases: list[Case] = []
    for i in range(AT_ONCE):
        file = every[(group * AT_ONCE + i) % len(every)]
        at = int(random.integers((sound.cache / file).stat().st_size))
        cases.append((functools.partial(flip, at, int(random.integers(1, 256))), [file]))
    results = survived(sound, tmp_path, cases, look_again=False)
    for (damage, (file,)), seen in zip(cases, results, strict=True):
        assert named(seen, file), (damage, seen)
        assert file in seen.faults, (damage, seen)
        check_opened(sound, file, seen)


# --- the whole file


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def cut_to_a_byte(path: Path) -> None:
    os.truncate(path, 1)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_by_a_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def zero(path: Path) -> None:
    """What a power cut can leave of a file that was not fsynced."""
    path.write_bytes(bytes(path.stat().st_size))


def delete(path: Path) -> None:
    path.unlink()


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "anything").touch()


@pytest.mark.parametrize(
    "damage", [cut_to_nothing, cut_to_a_byte, cut_in_half, cut_by_a_byte, append_a_byte, zero]
)
def test_a_file_of_another_length_or_of_zeros_is_named_and_mended(
    damage: Callable[[Path], None], sound: Sound, tmp_path: Path
) -> None:
    every = sound.files("**/*")
    cases = [(damage, [file]) for file in every]
    for file, seen in zip(every, survived(sound, tmp_path, cases), strict=True):
        assert named(seen, file), seen
        assert file in seen.faults and seen.left == [], seen
        assert seen.reopened == sound.numbers
        check_opened(sound, file, seen)


def check_opened(sound: Sound, file: str, seen: Seen) -> None:
    """How a snapshot opens beside a damaged file: refused by the file's name, or as it was."""
    if file in sound.files("*/snapshots/*") + sound.files("*eval*/identity.json"):
        assert seen.opened.startswith("DamageError: ") and f"/{file}: expected " in seen.opened
    elif kind(file) == "identity.json":  # of the augmented views: nobody knows whose they are
        assert seen.opened.startswith("CacheError: ") and "of them missing" in seen.opened
    else:
        assert seen.opened == ("" if kind(file) == "shards" else sound.numbers)


def test_a_file_that_is_gone_is_missed_or_written_again(sound: Sound, tmp_path: Path) -> None:
    """Nobody can know of a shard but by its rows, of which the snapshot knows."""
    (snapshot,) = sound.files("*/snapshots/*")
    known_by = {"shards": [snapshot], "snapshots": [str(Path(snapshot).parent)], "weights": []}
    every = sound.files("**/*")
    cases: list[Case] = [(delete, [file]) for file in every]
    for file, seen in zip(every, survived(sound, tmp_path, cases), strict=True):
        assert seen.said == []
        assert set(known_by.get(kind(file), [file])) <= set(seen.faults), seen
        assert seen.left == [] and seen.reopened == sound.numbers
        assert (seen.opened == sound.numbers) == (kind(file) == "weights")


def test_a_folder_in_the_place_of_a_file_is_named_and_never_in_the_way(
    sound: Sound, tmp_path: Path
) -> None:
    every = sound.files("**/*")
    cases: list[Case] = [(make_a_folder, [file]) for file in every]
    for file, seen in zip(every, survived(sound, tmp_path, cases), strict=True):
        assert named(seen, file), seen
        assert file in seen.faults, seen
        # A shard and a description are renamed; what only speeds things up stays for the user.
        renamed = kind(file) in ("shards", "identity.json")
        assert seen.left == ([] if renamed else [file]), seen
        assert seen.reopened == (seen.opened if kind(file) == "snapshots" else sound.numbers)
        check_opened(sound, file, seen)


def test_a_snapshot_that_lacks_rows_is_not_read_in_part(sound: Sound, tmp_path: Path) -> None:
    shards = sound.files("*/shards/*")
    cases: list[Case] = [(how, [file]) for how in (zero, delete, cut_in_half) for file in shards]
    ended = isolated(opened, sound, tmp_path, cases, limit=SECONDS * len(cases))
    assert ended.code == 0, ended
    assert len(ended.value) == len(cases)
    for words in ended.value:
        assert words.startswith("CacheError: ") and "of them missing; run `tlcache embed`" in words


# --- whole files in each other's place


def swap(one: Path, two: Path) -> None:
    third = one.with_name("third")
    one.rename(third)
    two.rename(one)
    third.rename(two)


def test_two_files_that_swapped_names_are_both_named(sound: Sound, tmp_path: Path) -> None:
    own, augmented = sound.files("*eval*/shards/*"), sound.files("*train*/shards/*")
    pairs = [own[:2], own[2:4], augmented[:2], [own[0], augmented[0]]]
    pairs.append(sound.files("*/identity.json"))
    for pair, seen in zip(
        pairs, survived(sound, tmp_path, [(swap, pair) for pair in pairs]), strict=True
    ):
        for file in pair:
            assert named(seen, file) and file in seen.faults, seen
        assert seen.left == [] and seen.reopened == sound.numbers


def put(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def test_what_is_anothers_is_named_whatever_place_it_takes(
    sound: Sound, other: Sound, tmp_path: Path
) -> None:
    cases: list[Case] = []
    for pattern in ("*eval*/shards/*", "*train*/shards/*", "*eval*/identity.json", "weights/*"):
        theirs = other.cache / other.files(pattern)[0]
        cases.append((functools.partial(put, theirs), sound.files(pattern)[:1]))
    for (_, (file,)), seen in zip(cases, survived(sound, tmp_path, cases), strict=True):
        assert named(seen, file) and file in seen.faults, seen
        assert seen.left == [] and seen.reopened == sound.numbers


def test_a_shard_of_another_identity_under_its_own_name_is_passed_over(
    sound: Sound, other: Sound, tmp_path: Path
) -> None:
    """Rightly named by its checksum, and no damage to a byte; but no row of it is ours."""
    folder = Path(sound.files("*eval*/shards/*")[0]).parent
    strays = [other.cache / other.files("*eval*/shards/*")[0]]
    strays.append(sound.cache / sound.files("*train*/shards/*")[0])
    cases: list[Case] = [
        (functools.partial(put, stray), [str(folder / stray.name)]) for stray in strays
    ]
    ended = isolated(survive, sound, tmp_path, cases, True, limit=SECONDS * len(cases))
    for (_, (file,)), seen in zip(cases, ended.value, strict=True):
        assert (seen.numbers, seen.embedded) == (sound.numbers, 0)
        assert named(seen, file) and "found another's" in seen.said[0]
        assert seen.faults == seen.left == [file]
