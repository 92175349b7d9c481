"""An image that was edited gets a new row, however like the old one its file looks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_trunk import small_trunk

from tlcache.cache import snapshots
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.trunks.engines import BOUNDS

IMAGES = 24  # of tiny_data
TRUNK = small_trunk()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def photo(tiny_data: Path) -> Path:
    """An image whose size does not depend on its pixels."""
    path = tiny_data / "train" / "ants" / "0.jpg"
    with Image.open(path) as image:
        image.save(path.with_suffix(".bmp"))
    path.unlink()
    return path.with_suffix(".bmp")


def set_clock(monkeypatch: pytest.MonkeyPatch, time_ns: Callable[[], int]) -> None:
    """What a snapshot takes the time to be."""
    clock = SimpleNamespace(**vars(time) | {"time_ns": time_ns})
    monkeypatch.setattr(snapshots, "time", clock)


def other_pixels(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[-400:] = bytes(byte ^ 0xFF for byte in data[-400:])
    return bytes(data)


def overwrite(path: Path) -> None:
    path.write_bytes(other_pixels(path))


def replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(other_pixels(path))
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)


def made_that_row_again(data: Path, cache: Path, path: Path, edit: Callable[[Path], None]) -> None:
    """Embed, edit one image under its old size and mtime, embed: its row alone is a new one."""
    before = embed(scan(data), TRUNK, cache=cache).read()
    old = path.stat()
    edit(path)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    said: list[str] = []
    made = embed(scan(data), TRUNK, cache=cache, report=said.append)
    assert (made.embedded, made.reused, said) == (1, IMAGES - 1, [])
    after = made.read()
    anew = embed(scan(data), TRUNK, cache=cache.with_name("anew")).read()
    assert after.paths == anew.paths
    np.testing.assert_allclose(
        after.features, anew.features, rtol=0, atol=BOUNDS["fp32"] / 2 * np.abs(anew.features).max()
    )
    changed = (before.features != after.features).any(axis=1)
    assert [after.paths[i] for i in np.flatnonzero(changed)] == [path.relative_to(data).as_posix()]


@pytest.mark.parametrize("edit", [overwrite, replace])
def test_an_edit_that_keeps_size_and_mtime(
    tiny_data: Path, cache: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, edit: Any
) -> None:
    set_clock(monkeypatch, lambda: time.time_ns() + 60 * 10**9)
    digest, digested = snapshots.digest_file, []

    def spy(path: Path) -> Any:
        digested.append(path)
        return digest(path)

    monkeypatch.setattr(snapshots, "digest_file", spy)
    made_that_row_again(tiny_data, cache, photo, edit)
    # The files looked long at rest, so but for the edit the second run had no reason to read one.
    assert digested[IMAGES : IMAGES + 1] == [photo]
    assert len(digested) == IMAGES + 1 + IMAGES


@pytest.mark.parametrize("edit", [overwrite, replace])
def test_an_edit_within_two_seconds_that_no_time_or_inode_tells_of(
    tiny_data: Path, cache: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, edit: Any
) -> None:
    def columns(status: os.stat_result) -> tuple[int, int, int, int]:
        return status.st_size, status.st_mtime_ns, status.st_mtime_ns, 0

    newest = max(path.stat().st_mtime_ns for path in tiny_data.rglob("*.*"))
    monkeypatch.setattr(snapshots, "_columns", columns)
    set_clock(monkeypatch, lambda: newest + 1_900_000_000)
    made_that_row_again(tiny_data, cache, photo, edit)
