"""What a feature does not depend on makes a hit: nothing is embedded, and the rows are the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from small_cache import pretend
from small_trunk import small_trunk
from typer.testing import CliRunner

from tlcache.cli import app
from tlcache.data.folders import ImageDataset, scan
from tlcache.features.embed import embed
from tlcache.features.read import Embedding, Features
from tlcache.trunks.load import load_trunk

IMAGES = 24  # of tiny_data
TRUNK = small_trunk()
PUBLISHED = ("mobilenet_v3_small", "random")
SMALL = {"resize": 40, "crop": 32}  # for a network of published size


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def rows(embedding: Embedding) -> dict[bytes, bytes]:
    """Every image's feature, to the bit, by the image's digest."""
    features = embedding.read().features
    names = embedding.snapshot.digests
    return {name.tobytes(): row.tobytes() for name, row in zip(names, features, strict=True)}


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/shards/*"))


def hit(dataset: ImageDataset, cache: Path, filled: Embedding, **how: Any) -> Features:
    """Embed what the cache holds: nothing is made or said, and every row is one of the filled."""
    said: list[str] = []
    kept, how = shards(cache), {"trunk": TRUNK} | how
    found = embed(dataset, cache=cache, report=said.append, **how)
    said = [line for line in said if not line.startswith("transform: ")]  # each file's own
    assert (found.embedded, said, shards(cache)) == (0, [], kept)
    assert found.reused == len(rows(found))
    assert rows(found).items() <= rows(filled).items()
    return found.read()


# --- libraries


@pytest.mark.parametrize(
    ("library", "old", "new"),
    [
        ("torch", "2.14.1+cpu", "2.14.1+cu130"),
        ("torch", "2.14.1", "2.14.2.post1+cpu"),
        ("torchvision", "0.29.1+cu130", "0.29.1"),
        ("pillow", "12.0.0", "12.0.1"),
        ("libjpeg-turbo", "3.1.0", "3.1.3"),
        ("libwebp", "1.6.0", ""),
    ],
)
def test_another_wheel_or_patch_release_of_a_library(
    tiny_data: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    old: str,
    new: str,
) -> None:
    pretend(monkeypatch, library, old)
    filled = embed(scan(tiny_data), TRUNK, cache=cache)
    pretend(monkeypatch, library, new)
    hit(scan(tiny_data), cache, filled)
    assert len(list(cache.glob("small-*"))) == 1


# --- how it is run


@pytest.mark.parametrize(
    "how", [{"batch_size": 1}, {"batch_size": 7}, {"workers": 1}, {"workers": 3}, {"rehash": True}]
)
def test_another_batch_size_or_number_of_workers(
    tiny_data: Path, cache: Path, how: dict[str, Any]
) -> None:
    filled = embed(scan(tiny_data), TRUNK, cache=cache, batch_size=4, workers=2)
    hit(scan(tiny_data), cache, filled, **how)


PROCESS = """
import hashlib, json, sys
from pathlib import Path
from tlcache import embed, scan
said = []
data, cache, trunk, weights, transform = sys.argv[1:]
how = {"cache": Path(cache), "transform": json.loads(transform), "report": said.append}
done = embed(scan(Path(data)), trunk, weights, **how)
read = hashlib.sha256(done.read().features.tobytes()).hexdigest()
print(json.dumps([done.embedded, done.reused, said, read, str(hash("tlcache"))]))
"""


def in_another_process(hash_seed: int, where: Path, *arguments: object) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROCESS, *map(str, arguments), json.dumps(SMALL)],
        capture_output=True,
        text=True,
        cwd=where,
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_new_processes_with_other_hash_seeds_and_working_directories(
    tiny_data: Path, cache: Path, tmp_path: Path
) -> None:
    filled = embed(scan(tiny_data), *PUBLISHED, cache=cache, transform=SMALL)
    read = hashlib.sha256(filled.read().features.tobytes()).hexdigest()
    (tmp_path / "elsewhere").mkdir()
    absolute = in_another_process(1, tmp_path / "elsewhere", tiny_data, cache, *PUBLISHED)
    relative = in_another_process(2, tmp_path, "data", "cache", *PUBLISHED)
    assert absolute[:-1] == relative[:-1] == [0, IMAGES, [], read]
    assert absolute[-1] != relative[-1]  # the hash seeds took effect


def test_the_same_weights_in_another_file_of_another_kind(
    tiny_data: Path, cache: Path, tmp_path: Path
) -> None:
    first, copy, other = (tmp_path / n for n in ("a.pth", "far/b-best.pt", "c.safetensors"))
    state = load_trunk(*PUBLISHED).module.state_dict()
    torch.save(state, first)
    copy.parent.mkdir()
    shutil.copyfile(first, copy)
    safetensors.torch.save_file(state, other)
    how: dict[str, Any] = {"trunk": PUBLISHED[0], "transform": SMALL}
    filled = embed(scan(tiny_data), weights=str(first), cache=cache, **how)
    hit(scan(tiny_data), cache, filled, weights=str(copy), **how)
    hit(scan(tiny_data), cache, filled, weights=str(other), **how)
    hit(scan(tiny_data), cache, filled, weights="random", **how)


# --- where the images are, and what is said of them


@pytest.fixture
def filled(tiny_data: Path, cache: Path) -> Embedding:
    return embed(scan(tiny_data), TRUNK, cache=cache)


def test_renamed_and_touched_images(tiny_data: Path, cache: Path, filled: Embedding) -> None:
    ants = tiny_data / "train" / "ants"
    (ants / "0.jpg").rename(ants / "zebra, of all things.jpeg")
    (ants / "1.jpg").rename(ants / "swap")
    (ants / "2.jpg").rename(ants / "1.jpg")
    (ants / "swap").rename(ants / "2.jpg")
    for path in (tiny_data / "val").rglob("*.*"):
        os.utime(path, (0, 0))
    before, after = filled.read(), hit(scan(tiny_data), cache, filled)
    old, new = (f.features[f.paths.index("train/ants/1.jpg")] for f in (before, after))
    assert (old != new).any()
    assert "train/ants/zebra, of all things.jpeg" in after.paths


def test_a_moved_folder(tiny_data: Path, cache: Path, filled: Embedding) -> None:
    moved = tiny_data.with_name("to") / "another place"
    moved.parent.mkdir()
    tiny_data.rename(moved)
    np.testing.assert_array_equal(
        hit(scan(moved), cache, filled).features, filled.read().features, strict=True
    )


def test_relabelled_images(tiny_data: Path, cache: Path, filled: Embedding) -> None:
    train = tiny_data / "train"
    for name in ("0.jpg", "5.png"):
        (train / "ants" / name).rename(train / "bees" / f"no ant {name}")
    after = hit(scan(tiny_data), cache, filled)
    assert np.bincount(after.split("train")[1]).tolist() == [6, 10]
    (train / "ants").rename(train / "wasps")
    (tiny_data / "val" / "ants").rename(tiny_data / "val" / "wasps")
    assert hit(scan(tiny_data), cache, filled).classes == ("bees", "wasps")


def test_images_moved_from_train_to_val(tiny_data: Path, cache: Path, filled: Embedding) -> None:
    for name in ("0.jpg", "5.png"):
        (tiny_data / "train" / "ants" / name).rename(tiny_data / "val" / "ants" / f"more {name}")
    after = hit(scan(tiny_data), cache, filled)
    assert (len(after.split("train")[0]), len(after.split("val")[0])) == (14, 10)


def test_another_seed_of_the_split(tiny_data: Path, cache: Path) -> None:
    folder = tiny_data / "train"
    filled = embed(scan(folder, (0.75, 0.25), seed=0), TRUNK, cache=cache)
    after = hit(scan(folder, (0.75, 0.25), seed=1), cache, filled)
    assert sorted(after.paths) == sorted(filled.read().paths)
    assert set(after.split_paths("val")) != set(filled.read().split_paths("val"))
    assert len(hit(scan(folder, (0.5, 0.5), seed=1), cache, filled).split_paths("val")) == 8


def test_a_second_data_set_that_shares_images(
    tiny_data: Path, cache: Path, filled: Embedding, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    for source, split in (("train", "val"), ("val", "train")):
        for name, cls in (("ants", "animals"), ("bees", "beasts")):
            shutil.copytree(tiny_data / source / name, second / split / cls)
    hit(scan(second), cache, filled)
    for i, path in enumerate(sorted((second / "val" / "animals").iterdir())[:3]):
        path.write_bytes(path.read_bytes() + bytes([i]))  # other files, whose pixels are the same
    mixed = embed(scan(second), TRUNK, cache=cache)
    assert (mixed.embedded, mixed.reused) == (3, IMAGES - 3)
    hit(scan(tiny_data), cache, filled)


# --- images that come and go


def run(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    assert "new identity" not in done.stderr
    return dict(json.loads(done.stdout))


def test_ten_photos_more_embed_ten_and_ten_fewer_embed_none_and_are_not_trained_on(
    photos: Path, mobilenet_weights: Path, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    for name in ("ants", "bees"):
        (folder / name).mkdir(parents=True)
        for source in (photos / "train" / name).glob("*.jp*g"):
            (folder / name / source.name).symlink_to(source)
    network = ("--trunk", "mobilenet_v2", "--weights", mobilenet_weights)
    how = ("--split", "0.8,0.2", *network, "--cache-dir", cache)
    assert run("embed", folder, *how)["embedded"] == 244
    for name in ("ants", "bees"):
        for source in sorted((photos / "val" / name).glob("*.jp*g"))[:5]:
            (folder / name / f"new {source.name}").symlink_to(source)
    more = run("embed", folder, *how)
    assert (more["images"], more["embedded"], more["reused"]) == (254, 10, 244)
    for name in ("ants", "bees"):
        for path in sorted((folder / name).glob("[0-9]*"))[:10]:
            path.unlink()
    trained = run("train", folder, *how, "--no-figures", "--run-dir", tmp_path / "run")
    assert (trained["embedded"], trained["reused"]) == (0, 234)
    assert sum(trained["evaluation"][split]["n"] for split in ("train", "val")) == 234
    dataset = scan(folder, (0.8, 0.2))
    left = embed(dataset, "mobilenet_v2", str(mobilenet_weights), cache=cache)
    assert (left.embedded, left.read().paths) == (0, dataset.paths)
