"""The eval transform as a part of a network makes the transform's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlcache.core.errors import OptionError
from tlcache.data.transforms import Transform, apply
from tlcache.export.preprocess import Preprocessing

SHAPES = [(37, 50), (50, 37), (40, 40), (32, 33), (1, 1), (1, 9), (90, 310), (200, 101), (31, 31)]
LEVEL = 1 / 255 / 0.225  # of the darkest channel's normalised values


def pixels(height: int, width: int) -> np.ndarray:
    """Noise, with edges that a filter overshoots at."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("resize", "crop"), [(36, 32), (35, 32), (30, 48), (31, 48), (64, 64)])
def test_it_makes_the_very_numbers_of_the_transform(
    interpolation: str, resize: int, crop: int
) -> None:
    transform = Transform(resize=resize, crop=crop, interpolation=interpolation)
    preprocessing = Preprocessing(transform)
    for shape in SHAPES:
        image = pixels(*shape)
        made = preprocessing(torch.from_numpy(image[None]))[0].numpy()
        np.testing.assert_array_equal(made, apply(image, transform), err_msg=str(shape))


def test_a_batch_is_its_images_one_by_one() -> None:
    batch = np.stack([pixels(45, 60), pixels(60, 45).transpose(1, 0, 2)])
    preprocessing = Preprocessing(Transform(resize=36, crop=32))
    whole = preprocessing(torch.from_numpy(batch))
    for image, made in zip(batch, whole, strict=True):
        assert torch.equal(preprocessing(torch.from_numpy(image[None]))[0], made)


def test_very_tall_images_differ_by_a_level_at_most() -> None:
    transform = Transform(resize=36, crop=32)
    image = pixels(300, 90)
    made = Preprocessing(transform)(torch.from_numpy(image[None]))[0].numpy()
    assert np.abs(made - apply(image, transform)).max() < 1.01 * LEVEL


def test_an_interpolation_without_weights_is_refused() -> None:
    with pytest.raises(OptionError, match="--preprocess: expected an interpolation of bilinear"):
        Preprocessing(Transform(interpolation="nearest"))
