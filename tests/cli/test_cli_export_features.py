"""``tlcache export-features``, from photos and from a snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_cache import DIM, IDENTITY, IMAGES, TRAINED, small_cache
from typer.testing import CliRunner, Result

import tlcache.cli.export_features
from tlcache.cli import app
from tlcache.features.read import open_snapshot

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run tlcache in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["export-features", *map(str, arguments)])

    return run


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    small_cache(tmp_path / "cache")
    return next((tmp_path / "cache").glob("*/snapshots/pets.h5"))


def _failed(result: Result, words: str) -> None:
    assert result.exit_code == 1, result.output
    assert words in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("spooled", [False, True])
def test_a_snapshot_s_features_are_written_without_its_images(
    call: Call, snapshot: Path, spooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spooled:
        monkeypatch.setattr("tlcache.core.machine.physical_memory", lambda: 4 * IMAGES * DIM)
    result = call(snapshot, "f.npz", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["file"], told["images"], told["dim"]) == ("f.npz", IMAGES, DIM)
    assert told["splits"] == {"train": TRAINED, "val": IMAGES - TRAINED}
    assert told["bytes"] == Path("f.npz").stat().st_size
    assert told["identity"] == IDENTITY.key
    features = open_snapshot(snapshot).read()
    with np.load("f.npz") as file:
        np.testing.assert_array_equal(file["features"], features.features)
        assert file["paths"].tolist() == features.paths
        assert file["identity"].item() == IDENTITY.to_json().decode()
    assert sorted(p.name for p in Path().iterdir()) == ["cache", "f.npz"]


def test_one_split_is_written_and_what_stands_in_the_way_is_refused(
    call: Call, snapshot: Path
) -> None:
    done = call(snapshot, "val.npz", "--on", "val")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith(
        f"val.npz: {IMAGES - TRAINED} rows of {DIM} numbers ({IMAGES - TRAINED} of val), "
    )
    with np.load("val.npz") as file:
        assert set(file["splits"].tolist()) == {"val"}
    _failed(call(snapshot, "val.npz"), "val.npz: expected a new file, found one that is there")
    assert call(snapshot, "val.npz", "--force", "--quiet").exit_code == 0
    _failed(call(snapshot, "f.npz", "--on", "test"), "expected images in test/, found only train")
    _failed(call(snapshot, "f.npz", "--on", "tset"), "--on: expected train, val, test or all")
    _failed(call(snapshot, "f.csv"), "f.csv: expected a file's name that ends in one of .npz")
    _failed(call("nowhere", "f.npz"), "nowhere: expected")
    assert not Path("f.npz").exists()


def test_photos_are_embedded_first_and_a_folder_of_classes_is_all_train(
    call: Call, tiny_data: Path
) -> None:
    words = "--trunk mobilenet_v3_small --weights random --resize 36 --crop 32 --json"
    small = words.split()
    told = json.loads(call(tiny_data, "all.h5", *small).stdout)
    assert (told["embedded"], told["images"], told["splits"]) == (24, 24, {"train": 16, "val": 8})
    flat = json.loads(call(tiny_data / "train", "flat.h5", *small).stdout)
    assert (flat["embedded"], flat["splits"]) == (0, {"train": 16})
    (tiny_data / "val" / "ants" / "0.jpg").write_bytes(b"")
    unread = "expected images that can be read, found 1 that cannot"
    assert unread in call(tiny_data, "bad.h5", *small).stderr
    assert not Path("bad.h5").exists()
    skipped = json.loads(call(tiny_data, "bad.h5", *small, "--skip-unreadable").stdout)
    assert (skipped["images"], skipped["unreadable"][0]["path"]) == (23, "val/ants/0.jpg")


def test_features_that_would_crowd_the_memory_lie_beside_the_file(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding, file = open_snapshot(snapshot), snapshot.with_name("f.npz")
    size = 4 * IMAGES * DIM
    for memory, spool in ((4 * size, None), (4 * size - 1, file.parent)):
        monkeypatch.setattr("tlcache.core.machine.physical_memory", lambda memory=memory: memory)
        assert tlcache.cli.export_features._spool(embedding, file) == spool
