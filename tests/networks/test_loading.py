from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tlcache.core.errors import DataError, OptionError
from tlcache.data.folders import ImageDataset, scan
from tlcache.data.transforms import Transform, apply
from tlcache.networks.loading import MOST_WORKERS, Batch, ImageLoader, Workers, worker_count

TRANSFORM = Transform(resize=36, crop=32)


def _batches(dataset: ImageDataset, workers: int = 0, view: int | None = 0) -> list[Batch]:
    with ImageLoader(dataset, TRANSFORM, workers=workers) as loader:
        return list(loader.batches(dataset.indices("train"), 5, view))


def _break(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"no image")


def test_a_batch_holds_the_views_and_labels_asked_for_in_order(tiny_data: Path) -> None:
    dataset = scan(tiny_data)
    with ImageLoader(dataset, TRANSFORM) as loader:
        batches = list(loader.batches(np.array([9, 2, 4]), 2, view=3))
    assert [len(batch.labels) for batch in batches] == [2, 1]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [1, 0, 0]
    digest = hashlib.sha256(dataset.path(2).read_bytes()).digest()
    image = Image.open(dataset.path(2)).convert("RGB")
    expected = apply(np.asarray(image), TRANSFORM.as_train(), digest, 3)
    np.testing.assert_array_equal(batches[0].images[1].numpy(), expected)


def test_without_a_view_images_are_as_the_eval_transform_makes_them(tiny_data: Path) -> None:
    dataset = scan(tiny_data)
    with ImageLoader(dataset, TRANSFORM.as_train()) as loader:
        (batch,) = loader.batches(np.array([7]), 1)
    expected = apply(np.asarray(Image.open(dataset.path(7)).convert("RGB")), TRANSFORM)
    np.testing.assert_array_equal(batch.images[0].numpy(), expected)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_do_not_depend_on_workers(tiny_data: Path, workers: int) -> None:
    dataset = scan(tiny_data)
    for ours, alone in zip(_batches(dataset, workers), _batches(dataset), strict=True):
        assert torch.equal(ours.images, alone.images)
        assert torch.equal(ours.labels, alone.labels)


def test_leaving_ends_the_threads_even_in_the_middle_of_a_pass(tiny_data: Path) -> None:
    dataset, before = scan(tiny_data), threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        ImageLoader(dataset, TRANSFORM, workers=2) as loader,
    ):
        for _ in loader.batches(dataset.indices("train"), 1, 0):
            assert threading.active_count() > before
            raise KeyboardInterrupt
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_all_found_at_once(tiny_data: Path, workers: int) -> None:
    _break(tiny_data, "train/ants/1.jpg", "val/bees/3.png")
    dataset = scan(tiny_data)
    (tiny_data / "train/bees/2.jpg").unlink()
    with pytest.raises(DataError) as raised:
        _batches(dataset, workers)
    assert str(raised.value) == (
        f"{tiny_data}: expected images that can be read, found 3 that cannot: "
        "train/ants/1.jpg (expected an image, found bytes that are no image); "
        "train/bees/2.jpg (No such file or directory); "
        "val/bees/3.png (expected an image, found bytes that are no image); "
        "replace or remove them, or pass --skip-unreadable"
    )


def test_of_many_unreadable_images_the_first_five_are_named(tiny_data: Path) -> None:
    _break(tiny_data, *(f"train/ants/{i}.jpg" for i in range(4)), "train/ants/4.png")
    _break(tiny_data, "train/ants/5.png")
    with pytest.raises(
        DataError, match=r"found 6 that cannot: .*4\.png \([^)]*\) and 1 more; replace"
    ):
        _batches(scan(tiny_data))


def test_skipped_images_leave_their_batch_and_are_listed(tiny_data: Path) -> None:
    _break(tiny_data, "train/ants/1.jpg", "train/ants/3.jpg", "train/ants/2.jpg")
    dataset, counts = scan(tiny_data), list[int]()
    with ImageLoader(dataset, TRANSFORM, skip_unreadable=True, on_images=counts.append) as loader:
        batches = list(loader.batches(np.array([0, 1, 2, 3, 4]), 2, 0))
    assert [len(batch.labels) for batch in batches] == [1, 1]  # the batch without any is not there
    assert counts == [2, 2, 1]
    assert list(loader.unreadable) == [f"train/ants/{i}.jpg" for i in (1, 2, 3)]
    assert set(loader.unreadable.values()) == {"expected an image, found bytes that are no image"}


def test_a_split_without_a_readable_image_is_refused(tiny_data: Path) -> None:
    _break(tiny_data, "train/ants/0.jpg")
    dataset = scan(tiny_data)
    with (
        ImageLoader(dataset, TRANSFORM, skip_unreadable=True) as loader,
        pytest.raises(DataError, match=r"found 1 that cannot: train/ants/0\.jpg .*replace them$"),
    ):
        list(loader.batches(np.array([0]), 2, 0))


def test_worker_count_never_exceeds_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlcache.networks.loading.usable_cpus", lambda: 3)
    assert worker_count() == worker_count(None) == worker_count("auto") == worker_count(64) == 3
    assert (worker_count(0), worker_count(2)) == (0, 2)
    monkeypatch.setattr("tlcache.networks.loading.usable_cpus", lambda: 96)
    assert worker_count("auto") == MOST_WORKERS
    assert worker_count(64) == 64


@pytest.mark.parametrize("workers", [-1, "many", 1.5])
def test_a_worker_count_that_makes_no_sense_is_refused(workers: Workers) -> None:
    with pytest.raises(OptionError) as raised:
        worker_count(workers)
    assert str(raised.value) == (
        f"--workers: expected auto, or 0 or more, found {workers}; leave it out for auto"
    )


def test_a_folder_in_an_images_place_is_unreadable(tiny_data: Path) -> None:
    dataset = scan(tiny_data)
    (tiny_data / "train/ants/0.jpg").unlink()
    (tiny_data / "train/ants/0.jpg").mkdir()
    with pytest.raises(DataError, match=r"train/ants/0\.jpg \(Is a directory\)"):
        _batches(dataset)
