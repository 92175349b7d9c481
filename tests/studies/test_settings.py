from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tlcache.core.errors import OptionError
from tlcache.heads.recipe import Recipe
from tlcache.studies.settings import Setting, Space, drawn, grid

WIDE: dict[str, Any] = {
    "lr": (1e-5, 1.0),
    "weight_decay": (0.0, 1e-6, 1e-2),
    "schedule": ("step", "cosine"),
    "batch_size": (4, 16),
    "features": ("raw", "l2"),
    "c": (1e-3, 1e3),
}


def test_a_grid_is_every_combination_once_in_the_order_of_the_values() -> None:
    base = Recipe(epochs=3, momentum=0.5)
    space = Space(
        base,
        lr=(0.1, 0.01, 0.1),
        weight_decay=(0.0, 1e-4),
        schedule=("cosine",),
        batch_size=(8, 4),
        features=("raw", "l2"),
        solver=("lbfgs", "sgd"),
        c=(1.0, 10.0),
    )
    found = grid(space)
    assert found[:4] == [Setting(w, c=c) for w in ("raw", "l2") for c in (1.0, 10.0)]
    assert found[4:] == [
        Setting(way, Recipe(3, size, lr, 0.5, decay, schedule="cosine"))
        for way in ("raw", "l2")
        for lr in (0.1, 0.01)
        for decay in (0.0, 1e-4)
        for size in (8, 4)
    ]


def test_the_defaults_are_few_and_name_both_solvers() -> None:
    found = grid(Space())
    assert len(found) == 2 * (9 + 7)
    assert {setting.describe()["solver"] for setting in found} == {"sgd", "lbfgs"}


def test_a_setting_says_what_it_is_in_plain_values() -> None:
    assert json.loads(json.dumps(Setting("l2", c=0.5).describe())) == {
        "solver": "lbfgs",
        "features": "l2",
        "c": 0.5,
    }
    assert Setting("raw", Recipe(lr=0.1, schedule="cosine")).describe() == {
        "solver": "sgd",
        "features": "raw",
        "lr": 0.1,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "batch_size": 4,
    }


def test_a_draw_is_log_uniform_within_the_bounds() -> None:
    found = drawn(Space(**WIDE), 2000)
    recipes = [setting.recipe for setting in found if setting.recipe is not None]
    strengths = [setting.c for setting in found if setting.c is not None]
    assert len(recipes) + len(strengths) == 2000
    for values, low, high in (
        ([recipe.lr for recipe in recipes], 1e-5, 1.0),
        (strengths, 1e-3, 1e3),
        ([r.weight_decay for r in recipes if r.weight_decay], 1e-6, 1e-2),
    ):
        assert all(low <= value <= high for value in values)
        middle = (low * high) ** 0.5
        assert sum(value < middle for value in values) / len(values) == pytest.approx(0.5, abs=0.06)
    zeros = sum(recipe.weight_decay == 0 for recipe in recipes)
    assert zeros / len(recipes) == pytest.approx(1 / 3, abs=0.06)
    assert len(recipes) == pytest.approx(1000, abs=120)
    for name in ("schedule", "batch_size"):
        first = sum(getattr(recipe, name) == WIDE[name][0] for recipe in recipes)
        assert first / len(recipes) == pytest.approx(0.5, abs=0.06)


def test_a_draw_is_the_same_everywhere_and_a_longer_one_begins_with_it() -> None:
    few = drawn(Space(**WIDE), 3)
    assert few == drawn(Space(**WIDE), 10)[:3]
    assert few != drawn(Space(Recipe(seed=1), **WIDE), 3)
    assert few[1].describe() == {
        "solver": "sgd",
        "features": "l2",
        "lr": pytest.approx(2.746992670731898e-05, rel=1e-12),
        "weight_decay": pytest.approx(0.0005475171468747955, rel=1e-12),
        "schedule": "step",
        "batch_size": 4,
    }


def test_draws_that_are_alike_are_one() -> None:
    fixed = Space(lr=(0.1,), weight_decay=(0.0,), features=("raw",), solver=("sgd",))
    assert len(drawn(fixed, 50)) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": ()}, "--lr: expected at least one value, found none; name some, or leave it out"),
        ({"weight_decay": ()}, "--weight-decay: expected at least one value"),
        ({"solver": ()}, "--solver: expected at least one value"),
        ({"c": ()}, "--c: expected at least one value"),
        ({"lr": (0.1, float("nan"))}, "--lr: expected a number over 0, found nan"),
        ({"lr": (-0.1,)}, "--lr: expected a number over 0, found -0.1"),
        ({"lr": (0.0,)}, "--lr: expected a number over 0, found 0.0"),
        ({"weight_decay": (-1e-4,)}, "--weight-decay: expected 0 or more, found -0.0001"),
        ({"batch_size": (0,)}, "--batch-size: expected a whole number over 0, found 0"),
        ({"c": (0.0,)}, "--c: expected numbers over 0, found 0"),
        ({"c": (float("inf"),)}, "--c: expected numbers over 0, found inf"),
        (
            {"solver": ("sgd", "lbfsg")},
            "--solver: expected sgd or lbfgs, found lbfsg; did you mean lbfgs?",
        ),
        ({"solver": ("adam",)}, "found adam; name one of them, or several"),
        ({"schedule": ("cosin",)}, "--schedule: expected step or constant or cosine, found cosin"),
        ({"features": ("",)}, "--features: expected raw or standardised or l2, found nothing"),
        ({"seeds": 0}, "--seeds: expected 1 or more, found 0; leave it out for one"),
        ({"base": Recipe(seed=2**63 - 1), "seeds": 2}, "--seed: expected a whole number from 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as refused:
        Space(**values)
    assert words in str(refused.value)


MANY: dict[str, Any] = {
    "lr": tuple(0.001 * i for i in range(1, 101)),
    "weight_decay": (0.0, 0.1),
    "seeds": 30,
}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: grid(Space(**MANY)),
            "the grid: expected at most 10,000 heads, found 12,014 "
            "(100 lr × 2 weight decay × 2 features × 30 seeds); "
            "give fewer values, or draw some of the combinations with --draw 200",
        ),
        (
            lambda: drawn(Space(seeds=30), 400),
            "--draw: expected at most 10,000 heads, found 12,000",
        ),
        (lambda: drawn(Space(), 0), "--draw: expected 1 or more, found 0"),
    ],
)
def test_too_many_heads_are_refused_before_any_is_made(
    make: Callable[[], object], words: str
) -> None:
    with pytest.raises(OptionError) as refused:
        make()
    assert words in str(refused.value)
