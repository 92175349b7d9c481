from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from tlcache.core.errors import OptionError
from tlcache.heads.model import initial_head
from tlcache.heads.recipe import EpochRecord, Recipe, reseeded


def test_the_defaults_are_the_tutorials() -> None:
    assert Recipe().describe() == {
        "epochs": 25,
        "batch_size": 4,
        "lr": 0.001,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "step_size": 7,
        "gamma": 0.1,
        "seed": 0,
        "block": 0,
    }


def test_a_description_makes_the_recipe_again() -> None:
    recipe = Recipe(epochs=3, lr=0.1 + 0.2, seed=2**63 - 1)
    assert Recipe(**json.loads(json.dumps(recipe.describe()))) == recipe


@pytest.mark.parametrize(
    ("lr", "step_size", "gamma"), [(0.001, 7, 0.1), (0.003, 1, 0.7), (0.1, 100, 0.1), (1, 2, 1.5)]
)
def test_learning_rates_are_those_of_torchs_step_lr(
    lr: float, step_size: int, gamma: float
) -> None:
    recipe = Recipe(lr=lr, step_size=step_size, gamma=gamma)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma)
    theirs = []
    for _ in range(25):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [recipe.learning_rate(epoch) for epoch in range(25)] == theirs


@pytest.mark.parametrize("epochs", [1, 2, 25])
def test_a_cosine_is_that_of_torch(epochs: int) -> None:
    recipe = Recipe(lr=0.003, epochs=epochs, schedule="cosine")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        theirs = optimizer.param_groups[0]["lr"]
        assert recipe.learning_rate(epoch) == pytest.approx(theirs, rel=1e-9, abs=1e-12)
        optimizer.step()
        schedule.step()
    assert recipe.learning_rate(0) == 0.003


def test_a_constant_learning_rate_stays() -> None:
    recipe = Recipe(lr=0.003, schedule="constant")
    assert {recipe.learning_rate(epoch) for epoch in range(25)} == {0.003}


def test_another_schedule_is_described_and_the_tutorials_is_as_it_always_was() -> None:
    assert "schedule" not in Recipe(schedule="step").describe()
    recipe = Recipe(schedule="cosine")
    assert recipe.describe()["schedule"] == "cosine"
    assert Recipe(**json.loads(json.dumps(recipe.describe()))) == recipe


def test_orders_never_change() -> None:
    assert Recipe().epoch_order(0, 10).tolist() == [4, 9, 8, 7, 5, 3, 0, 1, 2, 6]
    assert Recipe().epoch_order(1, 10).tolist() == [3, 8, 9, 4, 6, 7, 2, 0, 1, 5]
    assert Recipe(seed=7).epoch_order(24, 10).tolist() == [4, 0, 3, 7, 5, 6, 2, 8, 9, 1]


@pytest.mark.parametrize("n", [1, 2, 244])
def test_an_order_takes_every_image_once(n: int) -> None:
    for epoch in range(5):
        order = Recipe().epoch_order(epoch, n)
        assert order.dtype == np.int64
        assert sorted(order) == list(range(n))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = [Recipe(seed=seed).epoch_order(epoch, 50) for seed in range(4) for epoch in range(4)]
    assert len({order.tobytes() for order in orders}) == 16
    assert np.array_equal(orders[0], Recipe().epoch_order(0, 50))


def test_the_first_order_does_not_use_the_numbers_of_the_head() -> None:
    of_the_head = np.random.Generator(np.random.PCG64(5))
    assert initial_head(2, 1, 5).weight[0, 0] == np.float32(of_the_head.uniform(-1, 1))
    of_the_head = np.random.Generator(np.random.PCG64(5))
    assert not np.array_equal(Recipe(seed=5).epoch_order(0, 50), of_the_head.permutation(50))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "--epochs: expected a whole number over 0, found 0"),
        ({"epochs": 2.5}, "--epochs: expected a whole number over 0, found 2.5"),
        ({"batch_size": 0}, "--batch-size: expected a whole number over 0, found 0"),
        ({"lr": 0}, "--lr: expected a number over 0, found 0"),
        ({"lr": -1.0}, "--lr: expected a number over 0, found -1.0"),
        ({"lr": math.inf}, "--lr: expected a number over 0, found inf"),
        ({"lr": math.nan}, "--lr: expected a number over 0, found nan"),
        ({"momentum": 1}, "--momentum: expected 0 <= momentum < 1, found 1"),
        ({"momentum": -0.1}, "--momentum: expected 0 <= momentum < 1, found -0.1"),
        ({"momentum": math.nan}, "--momentum: expected 0 <= momentum < 1, found nan"),
        ({"weight_decay": -1e-4}, "--weight-decay: expected 0 or more, found -0.0001"),
        ({"weight_decay": math.inf}, "--weight-decay: expected 0 or more, found inf"),
        ({"step_size": 0}, "--step-size: expected a whole number over 0, found 0"),
        ({"gamma": 0}, "--gamma: expected a number over 0, found 0"),
        ({"gamma": math.nan}, "--gamma: expected a number over 0, found nan"),
        ({"schedule": "cos"}, "--schedule: expected step or constant or cosine, found cos"),
        ({"seed": -1}, "--seed: expected a whole number from 0 to 2^63 - 1, found -1"),
        (
            {"seed": 2**63},
            "--seed: expected a whole number from 0 to 2^63 - 1, found 9223372036854775808",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        Recipe(**values)
    assert str(caught.value) == f"{words}; correct it, or leave it out for the default"


def test_an_epoch_in_one_line() -> None:
    record = EpochRecord(3, 0.001, 0.5, 0.75, 0.25, 0.96732, 1.5)
    assert record.line(25) == (
        "epoch  3/25  train loss 0.5000 acc 0.7500  val loss 0.2500 acc 0.9673  1.50 s"
    )


def test_blocks_are_shuffled_as_wholes_and_in_themselves() -> None:
    recipe = Recipe(block=10)
    orders = [recipe.epoch_order(epoch, 95) for epoch in range(3)]
    starts = []
    for order in orders:
        assert sorted(order) == list(range(95))
        # One block after the other: what is not yet read lies elsewhere.
        changes = np.flatnonzero(np.diff(order // 10)) + 1
        parts = np.split(order, changes)
        assert len(parts) == 10 and sorted(map(len, parts)) == [5] + [10] * 9
        assert any((np.diff(part) < 0).any() for part in parts)
        starts.append([int(part[0]) // 10 for part in parts])
    assert starts[0] != sorted(starts[0]) and starts[0] != starts[1] != starts[2]


@pytest.mark.parametrize("block", [0, 95, 1000])
def test_one_block_is_the_whole_order(block: int) -> None:
    np.testing.assert_array_equal(
        Recipe(block=block).epoch_order(1, 95), Recipe().epoch_order(1, 95)
    )


def test_seeds_are_made_of_seed_and_key() -> None:
    seeds = {reseeded(Recipe(seed=s), *key).seed for s in (0, 1) for key in ((0, 1), (1, 1))}
    assert len(seeds) == 4
    again = reseeded(Recipe(lr=0.5, seed=0), 0, 1)
    assert (again.seed, again.lr) == (7449029282396566744, 0.5)
