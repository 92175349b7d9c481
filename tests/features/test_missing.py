"""Which rows a cache lacks, and what becomes of images whose row cannot be made."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_cache import DIM, TRAIN, joined, named, snapshot, store_in
from small_trunk import small_model, small_trunk
from torch import Tensor, nn

import tlcache.cache.snapshots
import tlcache.core.files
import tlcache.features.missing
from tlcache.cache.gc import collect_garbage
from tlcache.cache.shards import Rows
from tlcache.cache.store import keep_snapshot
from tlcache.data.folders import ImageDataset, scan
from tlcache.features.embed import embed
from tlcache.features.missing import missing_rows
from tlcache.features.read import UnreadableImagesError
from tlcache.networks.scoring import feature_store_of, score_images
from tlcache.sklearn import FeatureExtractor
from tlcache.trunks import forward_pass
from tlcache.trunks.forward_pass import Job
from tlcache.trunks.load import Trunk
from tlcache.trunks.weights import state_digest

WHITE = "train/ants/white.png"
NOT_FINITE = "expected a feature of finite numbers, found NaN or Inf"
TOO_LARGE = "expected a feature of at most 65,504, as float16 holds, found 70,000"


class _Spike(nn.Module):
    """Features of the small network, to which an image that is white adds a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.inner = small_trunk().module
        self.number = nn.Parameter(torch.tensor(number))

    def forward(self, pixels: Tensor) -> Tensor:
        more = torch.where(pixels.mean((1, 2, 3)) > 2, self.number, torch.zeros(()))
        features: Tensor = self.inner(pixels)
        return features + more[:, None]


def _spiked(number: float) -> Trunk:
    module = _Spike(number).eval().requires_grad_(False)
    digest = state_digest(module.state_dict())
    return dataclasses.replace(small_trunk(), module=module, digest=digest)


@pytest.fixture
def data(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    """24 images and a white one, at rest for a long time; a read that fails is tried at once."""
    Image.new("RGB", (40, 40), "white").save(tiny_data / WHITE)
    monkeypatch.setattr(tlcache.cache.snapshots, "SETTLED_NS", -(10**18))
    monkeypatch.setattr(tlcache.core.files, "PAUSES", (0, 0))
    return scan(tiny_data)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("number", "dtype", "reason"),
    [
        (np.inf, "float32", NOT_FINITE),
        (np.nan, "float16", NOT_FINITE),
        (70_000.0, "float16", TOO_LARGE),
    ],
)
@pytest.mark.parametrize("views", [0, 2])
def test_an_image_whose_feature_cannot_be_kept_is_named_and_all_others_are_kept(
    data: ImageDataset, cache: Path, number: float, dtype: str, reason: str, views: int
) -> None:
    how: dict[str, Any] = {"cache": cache, "dtype": dtype, "views": views}
    with pytest.raises(UnreadableImagesError) as refused:
        embed(data, _spiked(number), **how)
    assert refused.value.embedding.unreadable == [(WHITE, reason)]
    assert f"{WHITE} ({reason})" in str(refused.value)
    assert refused.value.embedding.embedded == 24
    kept = embed(data, _spiked(number), **how, skip_unreadable=True)
    assert (kept.embedded, kept.reused) == (0, 24)
    assert len(kept.read().features) == 24 and np.isfinite(kept.read().features).all()


def test_what_does_not_fit_one_dtype_is_looked_at_again_for_another(
    data: ImageDataset, cache: Path
) -> None:
    trunk = _spiked(70_000.0)
    half = embed(data, trunk, cache=cache, dtype="float16", skip_unreadable=True)
    assert half.unreadable == [(WHITE, TOO_LARGE)]
    assert embed(data, trunk, cache=cache).embedded == 25


def test_why_an_image_has_no_feature_is_remembered_for_as_many_views(
    data: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = _counted(monkeypatch)
    for views, looked_at in ((0, 25), (0, 0), (2, 24), (2, 0), (1, 1)):
        done = embed(data, _spiked(np.inf), cache=cache, views=views, skip_unreadable=True)
        assert done.unreadable == [(WHITE, NOT_FINITE)]
        assert len(jobs) == (looked_at if views != 2 or not looked_at else 16)
        jobs.clear()


def test_an_image_whose_view_cannot_be_kept_loses_no_no_plain_row(
    data: ImageDataset, cache: Path
) -> None:
    trunk = small_trunk()
    done = embed(data, trunk, cache=cache)
    bad = done.snapshot.with_reasons({done.snapshot.digests[0].tobytes(): NOT_FINITE})
    keep_snapshot(dataclasses.replace(bad, views=1), done.stores[0])
    collect_garbage(cache)
    again = embed(data, trunk, cache=cache)
    assert (again.embedded, again.reused, again.unreadable) == (0, 25, [])


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The jobs that passes are given."""
    jobs, run_pass = list[object](), forward_pass.run_pass

    def counted(engine: Any, todo: Iterable[Job], **how: Any) -> Any:
        def each() -> Iterator[Job]:
            for job in todo:
                jobs.append(job)
                yield job

        return run_pass(engine, each(), **how)

    monkeypatch.setattr(tlcache.features.missing, "run_pass", counted)
    return jobs


@pytest.mark.parametrize("cached", [False, True])
def test_predictions_name_an_image_whose_feature_is_not_finite(
    data: ImageDataset, cache: Path, cached: bool
) -> None:
    trunk = _spiked(np.nan)
    model, paths = small_model(trunk), [data.path(i) for i in range(len(data))]
    store = feature_store_of(model, cache) if cached else None
    for _ in range(2):
        scored = list(score_images(model, lambda: trunk.module, paths, store=store))
        assert [str(path) for path in paths] == [str(image.path) for image in scored]
        assert [image.reason for image in scored if image.logits is None] == [NOT_FINITE]
    if store is not None:
        assert sum(len(rows.views) for rows in store.rows()) == 24


def test_the_extractor_names_an_image_whose_feature_is_not_finite(
    data: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(data.path(i)) for i in range(len(data))]
    extractor = FeatureExtractor(_spiked(np.inf), cache=cache)
    with pytest.raises(Exception, match="expected images that can be read") as refused:
        extractor.transform(paths)
    assert f"{data.root / WHITE} ({NOT_FINITE})" in str(refused.value)
    fine = [path for path in paths if not path.endswith(WHITE)]
    jobs = _counted(monkeypatch)
    assert len(extractor.transform(fine)) == 24 and jobs == []


def test_what_is_missing_of_many_views_is_found_in_a_few_bytes_a_view(cache: Path) -> None:
    images, views, kept = 20, 10_000, 6_000
    pets = snapshot("pets", views, images)
    stores = [store_in(cache), store_in(cache, TRAIN)]
    stores[0].commit(named(pets.digests[:-1]))
    for at in (0, 3):
        for first in (0, 2 * kept // 3):  # some rows twice, in other shards and in one
            at_hand = np.arange(first, kept, dtype=np.int32)
            again = joined(*(named(pets.digests[at : at + 1], int(v)) for v in (1, 1, views)))
            digests = np.repeat(pets.digests[at : at + 1], len(at_hand), axis=0)
            features = np.zeros((len(at_hand), DIM), np.float32)
            stores[1].commit(joined(Rows(features, digests, at_hand), again))
    missing_rows(pets, stores, 2)  # imports and opens what is needed
    tracemalloc.start()
    missing = missing_rows(pets, stores, views)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert missing.images.tolist() == [0, 1, 2, 3, 4, 5, images - 1] and missing.reused == 13
    assert missing.plain.tolist() == [False] * 6 + [True]
    assert missing.views.sum(axis=1).tolist() == [4000, 10_000, 10_000, 4000, 10_000, 10_000, 0]
    assert not missing.views[[0, 3], :kept].any()
    assert peak < 12 * images * views


# A read that fails


def _failing(read: Callable[..., Any], faults: list[OSError]) -> Callable[..., Any]:
    """A method that reads, which first fails so on the white image."""

    def failing(path: Path, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith(WHITE) and faults:
            raise faults.pop()
        return read(path, *arguments, **options)

    return failing


@pytest.mark.parametrize("where", ["open", "read_bytes"])  # to digest it; in the pass
def test_a_read_that_fails_now_and_then_is_tried_again(
    data: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    faults = [OSError(5, "Input/output error"), OSError(116, "Stale file handle")]
    monkeypatch.setattr(Path, where, _failing(getattr(Path, where), faults))
    assert embed(data, small_trunk(), cache=cache).embedded == 25
    assert faults == []


@pytest.mark.parametrize("where", ["open", "read_bytes"])
def test_an_image_that_could_not_be_read_is_read_in_the_next_run(
    data: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with monkeypatch.context() as patch:
        faults = [OSError(5, "Input/output error") for _ in range(3)]
        patch.setattr(Path, where, _failing(getattr(Path, where), faults))
        done = embed(data, small_trunk(), cache=cache, skip_unreadable=True)
    assert done.unreadable == [(WHITE, "Input/output error")] and done.embedded == 24
    again = embed(data, small_trunk(), cache=cache)
    assert (again.embedded, again.reused, again.unreadable) == (1, 24, [])


def test_a_broken_file_is_not_decoded_in_each_run(
    data: ImageDataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.path(0).write_bytes(b"no image")
    jobs = _counted(monkeypatch)
    for looked_at in (25, 0):
        done = embed(data, small_trunk(), cache=cache, skip_unreadable=True)
        assert len(done.unreadable) == 1 and len(jobs) == looked_at
        jobs.clear()
