from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_cache import (
    IDENTITY,
    NAMED,
    check_held,
    files,
    flip,
    messy,
    name_rows,
    rows,
    small_shards,
    store_in,
)
from typer.testing import CliRunner, Result

from tlcache.cache.store import FeatureStore
from tlcache.cli import app
from tlcache.features.read import open_snapshot


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.chdir(tmp_path)
    store = store_in(Path("cache"))
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        messy(store)
    (store.folder / "shards" / "x.h5.bad").write_bytes(b"12345")
    return store


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cache", "gc", *arguments])


NAME = f"resnet18-imagenet1k-eval-{IDENTITY.key[:8]}"


def test_the_json_says_what_was_done(store: FeatureStore) -> None:
    foretold, done = (json.loads(call(*a, "--json").stdout) for a in (["--dry-run"], []))
    shards = list((store.folder / "shards").iterdir())
    assert len(shards) == 1
    values = done["identities"][0]
    assert values.pop("bytes_before") > values.pop("bytes_after") == shards[0].stat().st_size
    assert values == {
        "folder": f"cache/{NAME}",
        "rows": 28,
        "unnamed": 3,
        "duplicate": 5,
        "shards_before": 7,
        "shards_after": 1,
        "set_aside": 1,
        "temporary": 0,
        "kept_because": "",
    }
    assert foretold.pop("dry_run") and not done.pop("dry_run")
    for name in ("bytes_before", "bytes_after"):
        foretold["identities"][0].pop(name)
    assert foretold == done


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(store: FeatureStore) -> None:
    before = files(store)
    result = call("--dry-run")
    titles, line, last = result.stdout.splitlines()
    assert " ".join(titles.split()) == "name rows unnamed duplicate shards size other files"
    assert line.startswith(f"{NAME}    28        3          5   7 → 1  ") and line.endswith(" 1")
    assert last.endswith(" KiB would be freed; nothing was changed")
    assert files(store) == before


def test_without_it_the_same_is_done(store: FeatureStore) -> None:
    foretold, done = call("--dry-run").stdout.splitlines(), call().stdout.splitlines()
    assert done[:2] == foretold[:2]
    assert foretold[2] == done[2].replace("freed", "would be freed; nothing was changed")
    check_held(store, NAMED)


def test_a_snapshot_reads_the_same_to_the_bit_and_all_is_sound(store: FeatureStore) -> None:
    path = store.snapshot_path("photos")
    before = open_snapshot(path).read()
    assert call("--quiet").output == ""
    after = open_snapshot(path).read()
    np.testing.assert_array_equal(before.features, after.features)
    np.testing.assert_array_equal(before.labels, after.labels)
    assert before.paths == after.paths
    verified = CliRunner().invoke(app, ["cache", "verify"])
    assert verified.exit_code == 0
    assert verified.stdout == "1 shard, 20 rows, 1 snapshot: all sound\n"


def test_why_every_row_is_kept_and_what_is_damaged_is_said(store: FeatureStore) -> None:
    path = name_rows(store, rows(1).images, "bees")
    flip(path)
    shard = store.commit(rows(2, 40))
    flip(shard)
    result = call()
    assert result.exit_code == 0
    damaged, kept = result.stderr.splitlines()
    assert damaged.startswith(f"left alone: {shard}: expected bytes whose SHA-256 is its name")
    assert kept.startswith(f"{NAME}: every row counts as named: {path}: expected a snapshot")


def test_identities_can_be_named(store: FeatureStore) -> None:
    for name in (NAME, f"cache/{NAME}", IDENTITY.key[:6]):
        assert json.loads(call(name, "--json").stdout)["identities"][0]["folder"] == (
            f"cache/{NAME}"
        )
    refused = call("nothing")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: nothing: expected the name, the path or the key of")


def test_a_cache_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = call("--cache-dir", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'none'}: expected a cache folder that can be read" in result.stderr


def test_files_beside_the_memos_of_weights_are_said(store: FeatureStore) -> None:
    Path("cache/weights").mkdir()
    Path("cache/weights/x.json.bad").write_bytes(b"12345")
    assert "weights: 1 other file, 5 B\n" in call("--dry-run").stdout
    assert Path("cache/weights/x.json.bad").exists()
    call()
    assert not Path("cache/weights/x.json.bad").exists()


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    result = call()
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: cache/{NAME}/shards/x.h5.bad: expected a cache that can be written, "
        "found Read-only file system; "
        "check its permissions; every row that a snapshot names is kept\n"
    )
    check_held(store, NAMED)
