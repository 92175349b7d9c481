"""What a model is refused for, in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from small_trunk import TRANSFORM, small_model, small_trunk

from tlcache.core.errors import ModelError
from tlcache.networks.checks import (
    check_classes,
    check_same_classes,
    check_transform,
    check_trunk,
)

TRUNK = small_trunk()
MODEL = small_model(TRUNK)
SWAPPED = ("bees", "ants")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (
            lambda: check_classes(MODEL, SWAPPED),
            "the data set's classes: expected ants, bees (2 in all), found bees, ants (2 in all); "
            "name a data set with the classes that the model was trained on",
        ),
        (
            lambda: check_same_classes(MODEL, dataclasses.replace(MODEL, classes=SWAPPED)),
            "B's classes: expected A's ants, bees (2 in all), found bees, ants (2 in all); "
            "compare two models that were trained on the same classes",
        ),
        (
            lambda: check_trunk(MODEL, dataclasses.replace(TRUNK.info, digest="0" * 64)),
            f"the model's trunk: expected small with the weights {TRUNK.digest[:8]} it was trained "
            "on, found small with 00000000 (random:0); name the right file with --weights, or a "
            "snapshot of its own features",
        ),
        (
            lambda: check_transform(MODEL, dataclasses.replace(TRANSFORM, resize=40), "it", "no"),
            "it: expected resize 36, found resize 40; no",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(check: Callable[[], None], words: str) -> None:
    with pytest.raises(ModelError) as refused:
        check()
    assert str(refused.value) == words


def test_what_fits_passes() -> None:
    check_classes(MODEL, ["ants", "bees"])
    check_same_classes(MODEL, MODEL)
    check_trunk(MODEL, TRUNK.info)
    check_transform(MODEL, TRANSFORM)
