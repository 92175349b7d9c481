from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import shutil
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from at_once import images
from PIL import Image
from small_trunk import load_small, small_trunk
from torch import nn

import tlcache.cache.snapshots
import tlcache.cache.store
import tlcache.features.embed
import tlcache.trunks.engines
from tlcache.cache.gc import collect_garbage
from tlcache.cache.identity import folder_name
from tlcache.cache.snapshots import Snapshot, load_snapshot, pack_snapshot
from tlcache.core.errors import CacheError, DataError, OptionError
from tlcache.data.folders import ImageDataset, scan
from tlcache.data.transforms import Transform
from tlcache.features.embed import embed
from tlcache.features.read import Embedding, open_snapshot
from tlcache.trunks.info import remember
from tlcache.trunks.load import Trunk
from tlcache.trunks.torch_engine import Run, cpu_run


@pytest.fixture
def dataset(tiny_data: Path) -> ImageDataset:
    """Of files that have been at rest for a long time, as a user's photos have."""
    dataset = scan(tiny_data)
    for i in range(len(dataset)):
        os.utime(dataset.path(i), ns=(10**18, 10**18))
    return dataset


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _snapshots(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/snapshots/*.h5"))


def test_features_kept_as_float16_are_the_rounded_ones(dataset: ImageDataset, cache: Path) -> None:
    whole = embed(dataset, small_trunk(), cache=cache).read()
    said: list[str] = []
    half = embed(dataset, small_trunk(), cache=cache, dtype="float16", report=said.append)
    assert half.embedded == len(dataset)
    assert said == [f"new identity {half.stores[0].identity.key[:8]}: dtype float32 → float16"]
    read = half.read().features
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, whole.features.astype(np.float16).astype(np.float32))
    assert embed(dataset, small_trunk(), cache=cache, dtype="float16").embedded == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_no_row_of_an_engine_that_misses_its_word_is_kept(
    dataset: ImageDataset, cache: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, said = small_trunk(), list[str]()
    right = embed(dataset, trunk, cache=cache.with_name("right"), device="cpu").read().features

    def wrong(*of: Any) -> Run:
        run = cpu_run(*of)
        return lambda pixels: run(pixels) * np.float32(1.01)

    monkeypatch.setattr(tlcache.trunks.engines, "cpu_run", wrong)
    how = {"device": "cpu", "workers": workers, "report": said.append}
    done = embed(dataset, trunk, cache=cache, **how)  # type: ignore[arg-type]
    assert done.embedded == len(dataset)
    np.testing.assert_allclose(done.read().features, right, rtol=0, atol=1e-5)
    (line,) = said
    assert line.startswith("computed by eager torch, not torch: expected features within 0.0001 of")


@pytest.mark.parametrize("option", ["workers", "batch_size"])
def test_numbers_of_threads_and_images_are_over_0(
    dataset: ImageDataset, cache: Path, option: str
) -> None:
    with pytest.raises(OptionError, match=r"expected a whole number over 0, found 0; "):
        embed(dataset, small_trunk(), cache=cache, **{option: 0})  # type: ignore[arg-type]
    assert not cache.exists()


def test_a_dtype_that_is_none(dataset: ImageDataset, cache: Path) -> None:
    with pytest.raises(OptionError) as refused:
        embed(dataset, small_trunk(), cache=cache, dtype="bfloat16")
    assert str(refused.value) == (
        "--dtype: expected float32 or float16, found bfloat16; name one of them"
    )
    assert not cache.exists()


def test_every_identity_has_a_snapshot_of_its_own(
    dataset: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An hour later: the first snapshot knows that its files were at rest.
    monkeypatch.setattr(tlcache.cache.snapshots, "SETTLED_NS", -(10**18))
    embed(dataset, small_trunk(), cache=cache)
    embed(dataset, small_trunk(seed=1), cache=cache)
    assert len(_snapshots(cache)) == 2
    read = [open_snapshot(path).read() for path in _snapshots(cache)]
    assert read[0].paths == read[1].paths == dataset.paths


def test_what_was_digested_is_kept_before_the_pass(
    dataset: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tlcache.features.missing, "run_pass", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(dataset, small_trunk(), cache=cache)
    (path,) = _snapshots(cache)
    assert load_snapshot(path).digests.any(axis=1).all()
    with pytest.raises(CacheError) as missing:
        open_snapshot(path).read()
    assert str(missing.value) == (
        f"{path.parents[1]}: expected 24 rows, found 24 of them missing; "
        "run `tlcache embed` on the folder of images"
    )


def test_the_snapshot_says_how_many_views_belong_to_it(dataset: ImageDataset, cache: Path) -> None:
    for views, kept in ((2, 2), (0, 2), (3, 3)):
        embedding = embed(dataset, small_trunk(), cache=cache, views=views)
        (path,) = _snapshots(cache)
        assert load_snapshot(path).views == kept
    read = embedding.read().train_views
    assert read is not None and read.shape == (3, 16, 24)

    (dataset.root / "train/ants/new.png").write_bytes(dataset.path(0).read_bytes() + b"\0")
    embed(scan(dataset.root), small_trunk(), cache=cache)  # the new image has no views
    assert load_snapshot(path).views == 0


def test_the_speed_of_a_pass_with_views_counts_each_of_them(
    dataset: ImageDataset, cache: Path
) -> None:
    told = [embed(dataset, small_trunk(), cache=cache, views=n).describe() for n in (0, 2, 5, 5)]
    images, train = len(dataset), len(dataset.indices("train"))
    made = [(one["embedded"], one["embedded_rows"]) for one in told]
    assert made == [(images, images), (train, 2 * train), (train, 3 * train), (0, 0)]
    rows = [round(one["rows_per_second"] / (one["images_per_second"] or 1), 6) for one in told]
    assert rows == [1, 2, 3, 0]
    (dataset.root / "train/ants/new.png").write_bytes(dataset.path(0).read_bytes() + b"!")
    (dataset.root / "train/ants/bad.png").write_bytes(b"no image")
    grown = embed(scan(dataset.root), small_trunk(), cache=cache, views=5, skip_unreadable=True)
    assert (grown.embedded, grown.embedded_rows) == (1, 6)


def test_views_are_read_in_their_order(dataset: ImageDataset, cache: Path) -> None:
    embedding = embed(dataset, small_trunk(), cache=cache, views=3)
    views = embedding.read().train_views
    assert views is not None
    digests = embedding.snapshot.digests[dataset.indices("train")]
    for view in range(3):
        rows, found = embedding.stores[1].gather(digests, np.full(len(digests), view, np.int32))
        assert found.all()
        np.testing.assert_array_equal(views[view], rows)
    assert not np.array_equal(views[0], views[1])


def test_digests_survive_an_interruption_while_files_are_read(
    dataset: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, done, stop_at = tlcache.cache.snapshots.digest_file, list[Path](), 10

    def counted(path: Path) -> tuple[tuple[int, int, int, int], bytes, str]:
        if len(done) == stop_at:
            raise KeyboardInterrupt
        done.append(path)
        return digest(path)

    monkeypatch.setattr(tlcache.cache.snapshots, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(tlcache.cache.snapshots, "digest_file", counted)
    with pytest.raises(KeyboardInterrupt):
        embed(dataset, small_trunk(), cache=cache)
    (draft,) = cache.glob("*/snapshots/.*.tmp")
    assert load_snapshot(draft).digests.any(axis=1).sum() == 10 and _snapshots(cache) == []

    before, stop_at = set(done), len(dataset)
    done[:] = []
    finished = embed(dataset, small_trunk(), cache=cache)
    assert finished.embedded == len(dataset)
    assert len(done) == len(dataset) - 10 and not before & set(done)
    assert not draft.exists() and len(_snapshots(cache)) == 1


def test_drafts_are_kept_every_few_seconds(
    dataset: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, drafts = itertools.count(), list[int]()
    time = types.SimpleNamespace(monotonic=lambda: next(clock), time_ns=lambda: 2 * 10**18)
    monkeypatch.setattr(tlcache.cache.snapshots, "time", time)  # a second for each file
    monkeypatch.setattr(
        tlcache.cache.store,
        "save_snapshot",
        lambda path, snapshot: drafts.append(int(snapshot.digests.any(axis=1).sum())),
    )
    embed(dataset, small_trunk(), cache=cache)
    assert drafts == [6]  # the next would have come after 20 times a draft's cost


class Strict(nn.Module):
    """Takes images of 32 x 32 pixels alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == 32, f"expected 32, got {x.shape[-1]}"
        return x.mean((2, 3))


def test_a_crop_that_the_network_refuses_leaves_nothing_behind(
    dataset: ImageDataset, cache: Path
) -> None:
    trunk = dataclasses.replace(small_trunk(), module=Strict().eval(), dim=3)
    words = "^--crop 16: expected a crop that small takes, found AssertionError: .*got 16; leave"
    with pytest.raises(OptionError, match=words):
        embed(dataset, trunk, cache=cache, transform={"crop": 16})
    assert not cache.exists()
    done = embed(dataset, trunk, cache=cache)
    # One that an earlier version left behind changes nothing.
    left = dataclasses.replace(done.stores[0].identity, transform=Transform(resize=36, crop=16))
    (cache / folder_name(left, "random0")).mkdir()
    (cache / folder_name(left, "random0") / "identity.json").write_bytes(left.to_json())
    with pytest.raises(OptionError, match=words):
        embed(dataset, trunk, cache=cache, transform={"crop": 16})


@pytest.fixture
def stale(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Trunk:
    """The trunk whose weights a memo takes for those of ``random:0``, and which are others'."""
    monkeypatch.setattr("tlcache.trunks.load.load_trunk", load_small)
    trunk = dataclasses.replace(small_trunk(seed=1), weights="random:0")
    remember(cache / "weights", trunk.info)
    return trunk


def test_a_stale_memo_of_weights_heals_when_an_image_is_new(
    dataset: ImageDataset, cache: Path, stale: Trunk
) -> None:
    said: list[str] = []
    embed(dataset, stale, cache=cache)
    kept = embed(dataset, "small", "random:0", cache=cache, report=said.append)
    assert (kept.embedded, kept.trunk.digest, said) == (0, stale.digest, [])
    dataset.path(0).write_bytes(dataset.path(1).read_bytes() + b" ")
    done, own = embed(dataset, "small", "random:0", cache=cache, report=said.append), small_trunk()
    assert (done.embedded, done.trunk.digest) == (len(dataset), own.digest)
    assert done.stores[0].identity.weights == own.digest
    assert said[0] == (
        f"weights: random:0 of small are {own.digest[:8]}, and not {stale.digest[:8]} as when they "
        "were digested: from here on features are of those"
    )
    said.clear()
    again = embed(dataset, "small", "random:0", cache=cache, report=said.append)
    assert (again.embedded, again.trunk.digest, said) == (0, own.digest, [])


def test_a_stale_memo_of_weights_leaves_no_folder_behind(
    dataset: ImageDataset, cache: Path, stale: Trunk
) -> None:
    assert embed(dataset, "small", "random:0", cache=cache).trunk.digest == small_trunk().digest
    assert len(list(cache.glob("small*"))) == 1


# --- greys of 16 bits, which earlier versions clipped to 255 and kept under the file's own SHA-256


DEEP = ("train/ants/0.png", "train/bees/1.png", "val/ants/2.png")


@pytest.fixture
def deep(dataset: ImageDataset) -> ImageDataset:
    for i, name in enumerate(DEEP):
        ramp = (np.arange(40 * 48).reshape(40, 48) * 30 + i).astype(np.uint16)
        Image.fromarray(ramp).save(dataset.root / name)
    return scan(dataset.root)


def as_before(patch: pytest.MonkeyPatch) -> None:
    """Embed as earlier versions did."""

    def name(file: BinaryIO) -> bytes:
        return hashlib.sha256(file.read()).digest()

    def pack(snapshot: Snapshot) -> tuple[bytes, bytes]:
        return pack_snapshot(dataclasses.replace(snapshot, deep=False, place=""))

    patch.setattr(tlcache.cache.snapshots, "image_digest", name)
    patch.setattr("tlcache.trunks.forward_pass.image_digest", name)
    patch.setattr("tlcache.data.images.deep_bits", lambda *_: 0)  # Pillow clips
    patch.setattr("tlcache.features.embed.deep_rows", lambda *_: [])
    patch.setattr("tlcache.features.read.deep_rows", lambda *_: [])
    patch.setattr(tlcache.cache.store, "pack_snapshot", pack)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files at rest, and the headers that are read of those whose digest is known."""
    names: list[str] = []
    looks: Callable[[Path], bool] = tlcache.cache.snapshots._looks_deep

    def look(path: Path) -> bool:
        names.append(path.name)
        return looks(path)

    monkeypatch.setattr(tlcache.cache.snapshots, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(tlcache.cache.snapshots, "_looks_deep", look)
    return names


@pytest.mark.parametrize("moved", [False, True])
def test_rows_of_clipped_greys_are_made_again_and_named_in_one_line(
    deep: ImageDataset,
    cache: Path,
    tmp_path: Path,
    looked_at: list[str],
    monkeypatch: pytest.MonkeyPatch,
    moved: bool,
) -> None:
    trunk, said = small_trunk(), list[str]()
    with monkeypatch.context() as patch:
        as_before(patch)
        before = embed(deep, trunk, cache=cache, views=1).read()
    if moved:  # no snapshot tells that they were digested before
        deep = scan(deep.root.rename(tmp_path / "elsewhere"))
    after = embed(deep, trunk, cache=cache, views=1, report=said.append)
    assert (after.embedded, after.reused) == (len(DEEP), len(deep) - len(DEEP))
    assert said == [
        f"embedded again: 3 images of 16 bits, clipped to 255 until now ({', '.join(DEEP)})"
    ]
    pngs = sum(path.endswith(".png") for path in deep.paths)
    assert len(looked_at) == len(DEEP) + (0 if moved else pngs)
    wrong = (before.features != after.read().features).any(axis=1)
    assert {path for path, other in zip(before.paths, wrong, strict=True) if other} == set(DEEP)
    np.testing.assert_array_equal(
        after.read().features,
        embed(deep, trunk, cache=tmp_path / "fresh", views=1).read().features,
    )
    looked_at.clear()
    again = embed(deep, trunk, cache=cache, views=1, report=said.append)
    assert (again.embedded, len(said), looked_at) == (0, 1, [])


def test_a_snapshot_of_clipped_greys_is_refused_where_the_images_tell(
    deep: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        as_before(patch)
        embed(deep, small_trunk(), cache=cache)
    (kept,) = _snapshots(cache)
    with pytest.raises(CacheError) as refused:
        open_snapshot(kept)
    assert str(refused.value) == (
        f"{kept}: expected greys of 16 bits that are scaled to 8, found 3 that an earlier version "
        f"clipped to 255 ({', '.join(DEEP)}); run `tlcache embed` on the folder of images"
    )
    made = embed(deep, small_trunk(), cache=cache).read()
    np.testing.assert_array_equal(open_snapshot(kept).read().features, made.features)


def test_no_header_of_a_warm_cache_of_jpegs_is_looked_at(
    tmp_path: Path, cache: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, name in itertools.product(("train", "val"), ("ants", "bees")):
        path = tmp_path / "photos" / split / name / "0.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (48, 40), (len(split) * 20, len(name), ord(name[0]))).save(path)
    dataset = scan(tmp_path / "photos")
    with monkeypatch.context() as patch:
        as_before(patch)
        embed(dataset, small_trunk(), cache=cache)
    (kept,) = _snapshots(cache)
    data = kept.read_bytes()
    for name in ("is_deep", "image_digest"):
        monkeypatch.setattr(tlcache.cache.snapshots, name, lambda _: pytest.fail("opened"))
    assert embed(dataset, small_trunk(), cache=cache).embedded == 0
    assert kept.read_bytes() == data


def test_greys_of_16_bits_are_told_when_they_are_embedded(deep: ImageDataset, cache: Path) -> None:
    said: list[str] = []
    embed(deep, small_trunk(), cache=cache, report=said.append)
    assert said == [f"3 images of 16 bits, of which the upper 8 are used ({', '.join(DEEP)})"]
    embed(deep, small_trunk(), cache=cache, report=said.append)
    assert len(said) == 1


def test_numbers_without_a_range_are_refused_by_name(dataset: ImageDataset, cache: Path) -> None:
    file = dataset.root / "train" / "ants" / "heights.tif"
    Image.new("F", (48, 40), 1000).save(file)
    with pytest.raises(DataError) as refused:
        embed(scan(dataset.root), small_trunk(), cache=cache)
    assert "1 that cannot: train/ants/heights.tif (expected an image of 8 or 16 bits" in str(
        refused.value
    )
    done = embed(scan(dataset.root), small_trunk(), cache=cache, skip_unreadable=True)
    assert len(done.read().paths) == len(dataset)


def _moved_in(data: Path, numbers: Sequence[int]) -> ImageDataset:
    """Other images at the same path, as on another machine."""
    shutil.rmtree(data, ignore_errors=True)
    return scan(images(data, numbers))


def test_rows_of_the_same_path_on_two_machines_stay(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    for machine, numbers in (("one", range(3)), ("two", range(3, 6))):
        monkeypatch.setattr("platform.node", lambda named=machine: named)
        done.append(embed(_moved_in(tmp_path / "data", numbers), small_trunk(), cache=cache))
    collect_garbage(cache)
    for each in done:
        assert each.read().features.shape == (6, 24)
    assert len(_snapshots(cache)) == 2


def test_a_run_that_saves_late_takes_no_row_of_a_later_run(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, later = tlcache.cache.store.keep_snapshot, list[Embedding]()
    dataset = scan(images(tmp_path / "data", range(3)))

    def late(*arguments: Any) -> Any:
        if not later:
            monkeypatch.setattr(tlcache.features.embed, "keep_snapshot", keep)
            grown = scan(images(tmp_path / "data", range(6)))
            later.append(embed(grown, small_trunk(), cache=cache))
        return keep(*arguments)

    monkeypatch.setattr(tlcache.features.embed, "keep_snapshot", late)
    embed(dataset, small_trunk(), cache=cache)
    collect_garbage(cache)
    assert later[0].read().features.shape == (14, 24)
    assert len(_snapshots(cache)) == 1
