"""The promises that make a cached feature as good as a computed one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms as tv

from tlcache.core.machine import resolve_device
from tlcache.data.folders import ImageDataset, scan
from tlcache.data.transforms import Transform
from tlcache.features.embed import embed
from tlcache.heads.recipe import Recipe
from tlcache.heads.train import train_head
from tlcache.networks.finetune import finetune
from tlcache.trunks.engines import BOUNDS, make_engine
from tlcache.trunks.forward_pass import Job, run_pass
from tlcache.trunks.load import Trunk, load_trunk

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "colour.jpg": ("RGB", {"quality": 90}),
    "cmyk.jpg": ("CMYK", {}),
    "grey.jpg": ("L", {}),
    "colour.png": ("RGB", {}),
    "grey.png": ("L", {}),
    "palette.png": ("P", {}),
    "alpha.png": ("RGBA", {}),
    "photo.webp": ("RGB", {}),
    "photo.tiff": ("RGB", {}),
    "photo.bmp": ("RGB", {}),
}


@pytest.fixture(scope="module")
def trunk(mobilenet_weights: Path) -> Trunk:
    return load_trunk("mobilenet_v2", str(mobilenet_weights))


@pytest.fixture(scope="module")
def few_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Ten real photos a class to train on, five to validate."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 10), ("val", 5)):
        for name in ("ants", "bees"):
            (folder / split / name).mkdir(parents=True)
            for source in sorted((photos / split / name).glob("*.jp*g"))[:count]:
                (folder / split / name / source.name).symlink_to(source)
    return scan(folder)


def test_a_cached_row_is_what_torchvision_computes_for_every_format(
    photos: Path, trunk: Trunk, mobilenet_weights: Path, tmp_path: Path
) -> None:
    photo = Image.open(next((photos / "val" / "ants").glob("*.jpg")))
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
    for file, (mode, options) in FORMATS.items():
        photo.convert(mode).save(tmp_path / "data" / "train" / "a" / file, **options)
    for at, (split, name) in enumerate((("train", "b"), ("val", "a"), ("val", "b"))):
        photo.rotate(90 * at + 90).save(tmp_path / "data" / split / name / "photo.png")

    dataset = scan(tmp_path / "data")
    features = embed(dataset, trunk, cache=tmp_path / "cache").read()

    plain_network = torchvision.models.mobilenet_v2()
    plain_network.load_state_dict(torch.load(mobilenet_weights, weights_only=True), strict=False)
    plain_network.classifier = torch.nn.Identity()
    plain_network.eval()
    plain_transform = tv.Compose(
        [
            tv.Resize(256),
            tv.CenterCrop(224),
            tv.ToTensor(),
            tv.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    assert len(features.paths) == len(FORMATS) + 3
    for path, row in zip(features.paths, features.features, strict=True):
        image = Image.open(tmp_path / "data" / path).convert("RGB")
        with torch.no_grad():
            plain = plain_network(plain_transform(image)[None])[0].numpy()
        assert np.linalg.norm(row - plain) <= 1e-5 * np.linalg.norm(plain), path


def test_a_head_on_cached_views_takes_the_path_of_the_frozen_loop(
    few_photos: ImageDataset, trunk: Trunk, tmp_path: Path
) -> None:
    recipe = Recipe(epochs=4, batch_size=4, lr=0.01, step_size=2, seed=3)
    loop = finetune(few_photos, trunk, recipe, freeze=True, workers=2)

    embedding = embed(few_photos, trunk, cache=tmp_path, views=recipe.epochs)
    features = embedding.read()
    cached = train_head(
        features.to_train_on(),
        features.split("train")[1],
        *features.split("val"),
        recipe,
        classes=2,
    )

    np.testing.assert_allclose(cached.head.weight, loop.head.weight, rtol=0, atol=1e-5)
    np.testing.assert_allclose(cached.head.bias, loop.head.bias, rtol=0, atol=1e-5)
    assert cached.best_epoch == loop.best_epoch
    for ours, theirs in zip(cached.history, loop.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-4)
        assert ours.val_accuracy == theirs.val_accuracy
    # The test could pass by never moving: it must have moved, and views must differ.
    assert np.abs(cached.last.weight - _first_weight(recipe, trunk.dim)).max() > 1e-3
    assert features.train_views is not None
    assert np.abs(features.train_views[0] - features.train_views[1]).max() > 0.1


def _first_weight(recipe: Recipe, dim: int) -> np.ndarray:
    from tlcache.heads.model import initial_head

    return initial_head(2, dim, recipe.seed).weight


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (2, 3), (3, 64)])
def test_a_view_is_the_same_whatever_the_order_batch_size_and_workers(
    few_photos: ImageDataset, trunk: Trunk, workers: int, batch_size: int
) -> None:
    paths = [few_photos.path(i) for i in few_photos.indices("train")]
    train = Transform(kind="train")

    def rows(order: list[int], workers: int, batch_size: int) -> dict[bytes, np.ndarray]:
        jobs = [
            Job(paths[i], hashlib.sha256(paths[i].read_bytes()).digest(), ((0, 0), (0, 5)))
            for i in order
        ]
        made = run_pass(
            make_engine(trunk.module, Transform(crop=224), device=resolve_device("cpu")),
            jobs,
            [train],
            workers=workers,
            batch_size=batch_size,
        )
        return {m.job.digest: m.features for m in made}

    straight = rows(list(range(len(paths))), 2, 8)
    other = rows(list(np.random.default_rng(0).permutation(len(paths))), workers, batch_size)
    for digest, features in straight.items():
        bound = BOUNDS["fp32"] / 2 * np.linalg.norm(features, axis=1)
        assert (np.linalg.norm(features - other[digest], axis=1) <= bound).all(), digest.hex()
        assert np.abs(features[0] - features[1]).max() > 0.1  # two views, not one
