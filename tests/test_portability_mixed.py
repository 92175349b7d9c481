"""Two identities are told apart, and no folder ever holds features of both.

Pillow's versions stand for whatever two machines may have of their own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_cache import pretend
from small_trunk import small_trunk
from typer.testing import CliRunner

from tlcache.cache.shards import read_shard
from tlcache.cli import app
from tlcache.core.errors import CacheError, DamageError
from tlcache.data.folders import scan
from tlcache.features.embed import embed
from tlcache.features.read import Embedding, open_snapshot

TRUNK = small_trunk()


@pytest.fixture
def two(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Embedding]:
    """The same images under Pillow 12.0 and 13.0, in caches of their own; 13.0 is installed."""
    made = []
    for version in ("12.0", "13.0"):
        pretend(monkeypatch, "pillow", version)
        made.append(embed(scan(tiny_data), TRUNK, cache=tmp_path / version))
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_two_identities_are_told_apart_in_words(two: list[Embedding]) -> None:
    old, new = (embedding.stores[0].folder for embedding in two)
    told = CliRunner().invoke(app, ["cache", "diff", str(old), str(new)])
    assert (told.exit_code, told.stdout) == (0, "pillow 12.0 → 13.0\n")
    told = CliRunner().invoke(app, ["cache", "diff", str(new), str(old), "--json"])
    assert json.loads(told.stdout)["differences"] == ["pillow 13.0 → 12.0"]


def test_a_copy_from_another_machine_gets_a_folder_beside_it(
    tiny_data: Path, two: list[Embedding]
) -> None:
    theirs, before = two[0].stores[0].folder, content(two[0].stores[0].folder)
    lines: list[str] = []
    made = embed(scan(tiny_data), TRUNK, cache=theirs.parent, report=lines.append)
    ours = made.stores[0]
    assert made.embedded == 24
    assert lines == [f"new identity {ours.identity.key[:8]}: pillow 12.0 → 13.0"]
    assert ours.folder != theirs and content(theirs) == before


def swapped(theirs: Path, ours: Path) -> None:
    """Our own folder says that it is theirs."""
    shutil.copyfile(theirs / "identity.json", ours / "identity.json")


def moved_in(theirs: Path, ours: Path) -> None:
    """Their folder lies where ours would be."""
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)


def emptied(theirs: Path, ours: Path) -> None:
    """Our own folder says that it is theirs, and no row tells otherwise."""
    swapped(theirs, ours)
    shutil.rmtree(ours / "shards")


def add_an_image(data: Path) -> None:
    Image.new("RGB", (48, 40), "red").save(data / "train" / "ants" / "new.png")


@pytest.mark.parametrize("mix", [moved_in, emptied])
def test_a_folder_that_is_anothers_is_refused_and_left_alone(
    tiny_data: Path, two: list[Embedding], mix: Callable[[Path, Path], None]
) -> None:
    theirs, ours = (embedding.stores[0].folder for embedding in two)
    mix(theirs, ours)
    before = content(ours)
    add_an_image(tiny_data)
    with pytest.raises(CacheError) as refused:
        embed(scan(tiny_data), TRUNK, cache=ours.parent)
    keys = [embedding.stores[0].identity.key[:8] for embedding in two]
    assert str(refused.value) == (
        f"{ours}: expected the cache of identity {keys[1]}, found that of {keys[0]}; give the "
        "folder back its own name and identity.json, or use another --cache-dir"
    )
    with pytest.raises(DamageError, match=f"first 8 digits .* found {keys[0]}"):
        open_snapshot(next(ours.glob("snapshots/*")))
    assert content(ours) == before


def test_anothers_description_over_our_own_rows_is_replaced_by_our_own(
    tiny_data: Path, two: list[Embedding]
) -> None:
    theirs, ours = (embedding.stores[0].folder for embedding in two)
    before = content(ours)
    swapped(theirs, ours)
    add_an_image(tiny_data)
    lines: list[str] = []
    made = embed(scan(tiny_data), TRUNK, cache=ours.parent, report=lines.append)
    assert (made.embedded, made.reused) == (1, 24)
    assert any(line.startswith("set aside as identity.json.bad: ") for line in lines)
    after = content(ours)
    assert after["identity.json.bad"] == (theirs / "identity.json").read_bytes()
    kept = {name: data for name, data in before.items() if not name.startswith("snapshots")}
    assert kept.items() <= after.items()
    for path in ours.glob("shards/*"):
        read_shard(path, two[1].stores[0].identity)
        with pytest.raises(DamageError, match="another's"):
            read_shard(path, two[0].stores[0].identity)


def test_a_folder_under_a_false_name_is_neither_read_nor_written(
    tiny_data: Path, two: list[Embedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = (embedding.stores[0].folder for embedding in two)
    swapped(theirs, ours)
    before = content(ours)
    pretend(monkeypatch, "pillow", "12.0")
    lines: list[str] = []
    made = embed(scan(tiny_data), TRUNK, cache=ours.parent, report=lines.append)
    assert made.embedded == 24
    assert made.stores[0].folder == ours.with_name(theirs.name)
    assert content(ours) == before
    (line,) = lines
    assert line.startswith(f"passed over: {ours / 'identity.json'}: expected an identity whose key")


def test_rows_under_a_whole_false_identity_are_passed_over(
    tiny_data: Path, two: list[Embedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = (embedding.stores[0].folder for embedding in two)
    swapped(theirs, ours)
    ours = ours.rename(ours.with_name(theirs.name))
    (shard,) = ours.glob("shards/*")
    bytes_before = shard.read_bytes()
    pretend(monkeypatch, "pillow", "12.0")
    lines: list[str] = []
    made = embed(scan(tiny_data), TRUNK, cache=ours.parent, report=lines.append)
    assert (made.embedded, made.reused) == (24, 0)
    (line,) = lines
    key = made.stores[0].identity.key[:8]
    assert line.startswith(f"passed over: {shard}: expected rows of identity")
    assert f"{key}, found another's" in line
    assert shard.read_bytes() == bytes_before
    np.testing.assert_array_equal(made.read().features, two[0].read().features, strict=True)
