"""A disk that fills up at each of the files that a run writes, one after the other."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from interrupted import Outcome, check_same, committed, images_of, run_pass
from isolated import isolated
from small_trunk import make_images

import tlcache.core.files
from tlcache.core.errors import CacheError

IMAGES, VIEWS, ROWS = 12, 2, 12 + 2 * 8
WRITES = 12  # a memo, a draft, a snapshot, two identity.json, seven shards
REMEDY = (
    "; free some space or choose another folder; "
    "what was written before is intact, and the same command goes on from there"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "data", train=4, val=2)


@pytest.fixture(scope="module")
def whole(data: Path) -> Outcome:
    """What comes of a run with room enough."""
    return run_pass(data, data.parent / "whole", VIEWS)


def run_until_full(data: Path, cache: Path, at: int, fill: Callable[[Path], None]) -> str:
    """A run whose disk is full from the given write on; the words of its error."""
    write, count = tlcache.core.files._write, 0

    def counted(path: Path, parts: Sequence[bytes]) -> None:
        nonlocal count
        if count == at:
            fill(cache)
        count += 1
        write(path, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tlcache.core.files, "_write", counted)
        try:
            run_pass(data, cache, VIEWS)
        except CacheError as error:
            return str(error)
    raise AssertionError(f"ended well after {count} writes")


def fill_disk(cache: Path) -> None:
    """Leave no block free."""
    with (cache.parent / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass


def forbid_to_grow(cache: Path) -> None:
    """No file of this process may hold more than 100 bytes from now on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def _check(error: str, reason: str, data: Path, cache: Path, whole: Outcome) -> None:
    """The error says what to do; what was committed is sound; there is nothing half-made.

    Once there is room, the next run makes the rest.
    """
    assert error.startswith(f"{cache}{os.sep}") and error.endswith(REMEDY), error
    assert f": expected a file that can be written, found {reason};" in error
    before = committed(cache)
    drafts = {path.name for path in cache.glob("*/snapshots/.data-*.tmp")}
    assert {path.name for path in cache.rglob(".*")} == drafts
    outcome = run_pass(data, cache, VIEWS)
    after = committed(cache)
    assert outcome.said == [] and outcome.embedded == len(images_of(after.keys() - before.keys()))
    assert len(after) == ROWS and not list(cache.rglob(".*"))
    check_same(outcome.features, whole.features)


@pytest.mark.parametrize("at", range(WRITES))
def test_a_disk_that_is_full_at_any_file_loses_nothing(
    at: int, data: Path, whole: Outcome, disk: Path
) -> None:
    error = run_until_full(data, disk / "cache", at, fill_disk)
    assert os.statvfs(disk).f_bavail * 4096 < 100_000  # nothing of weight was removed
    (disk / "ballast").unlink()
    _check(error, "No space left on device", data, disk / "cache", whole)


@pytest.mark.parametrize("at", range(WRITES))
def test_files_that_may_grow_no_further_lose_nothing(
    at: int, data: Path, whole: Outcome, tmp_path: Path
) -> None:
    arguments = data, tmp_path / "cache", at, forbid_to_grow
    ended = isolated(run_until_full, *arguments, limit=60)
    assert ended.code == 0, ended.error
    _check(ended.value, "File too large", data, tmp_path / "cache", whole)


def test_rows_that_are_there_serve_without_room_for_a_snapshot(
    data: Path, whole: Outcome, disk: Path
) -> None:
    run_pass(data, disk / "cache", VIEWS)
    (snapshot,) = disk.glob("cache/*/snapshots/*.h5")
    snapshot.unlink()
    fill_disk(disk / "cache")
    outcome = run_pass(data, disk / "cache", VIEWS)
    words = f"expected a file that can be written, found No space left on device{REMEDY}"
    assert outcome.said == [f"the snapshot was not kept: {snapshot}: {words}"]
    assert outcome.embedded == 0 and not list(disk.rglob(".*"))
    check_same(outcome.features, whole.features)


def test_these_are_all_the_files_that_a_run_writes(
    data: Path, whole: Outcome, tmp_path: Path
) -> None:
    assert whole.embedded == IMAGES and whole.said == []
    with pytest.raises(AssertionError, match=f"ended well after {WRITES} writes"):
        run_until_full(data, tmp_path / "cache", -1, fill_disk)
