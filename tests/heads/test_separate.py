from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlcache.core.errors import DataError
from tlcache.heads import separate as separate_heads
from tlcache.heads.model import Head
from tlcache.heads.recipe import Recipe
from tlcache.heads.separate import reseeded, train_separately
from tlcache.heads.train import train_head

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(40, 6)).astype(np.float32)
LABELS = RANDOM.integers(0, 3, 40).astype(np.int32)
CHOICES = [RANDOM.permutation(40)[:count] for count in (40, 12, 7, 30, 30, 5)]
RECIPES = [Recipe(epochs=4, lr=0.05, seed=seed) for seed in range(len(CHOICES))]


def heads_of(features: np.ndarray = FEATURES, **how: Any) -> list[Head]:
    given: dict[str, Any] = {
        "choices": CHOICES,
        "recipes": RECIPES,
        "judge": lambda i, head: head,
    } | how
    return train_separately(features, LABELS, classes=3, **given)


@pytest.mark.parametrize("views", [0, 3])
def test_each_head_is_that_of_the_last_epoch_of_its_own_training(views: int) -> None:
    features = (
        RANDOM.normal(size=(views, *FEATURES.shape)).astype(np.float32) if views else FEATURES
    )
    for head, rows, recipe in zip(heads_of(features), CHOICES, RECIPES, strict=True):
        mine = features[..., rows, :]
        alone = train_head(mine, LABELS[rows], FEATURES, LABELS, recipe, classes=3).last
        np.testing.assert_allclose(head.weight, alone.weight, atol=1e-5)
        np.testing.assert_allclose(head.bias, alone.bias, atol=1e-5)


def test_heads_are_the_same_whatever_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(separate_heads, "WORTH_SECONDS", 0.0)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(separate_heads, "usable_cpus", lambda threads=threads: threads)
        found.append(heads_of())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)


def test_rows_that_are_not_chosen_are_not_looked_at() -> None:
    features = FEATURES.copy()
    features[0] = np.nan
    heads_of(features, choices=[np.arange(1, 40)], recipes=RECIPES[:1])


def test_progress_counts_the_heads() -> None:
    seen: list[tuple[int, int]] = []
    heads_of(progress=lambda *told: seen.append(told))
    assert seen == [(i + 1, 6) for i in range(6)]


def test_a_head_that_diverges_is_one_error() -> None:
    with pytest.raises(DataError, match=r"epoch 1: expected a finite loss.*lower the learning"):
        heads_of(FEATURES * np.float32(1e25))


def test_an_interruption_ends_the_heads_that_wait() -> None:
    judged: list[int] = []

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    many: dict[str, Any] = {"choices": [np.arange(40)] * 300, "recipes": [Recipe(epochs=4)] * 300}
    with pytest.raises(KeyboardInterrupt):
        heads_of(**many, judge=lambda i, head: judged.append(i), progress=interrupt)
    assert len(judged) < 300


def test_seeds_are_made_of_seed_and_key() -> None:
    seeds = {reseeded(Recipe(seed=s), *key).seed for s in (0, 1) for key in ((0, 1), (1, 1))}
    assert len(seeds) == 4
    again = reseeded(Recipe(lr=0.5, seed=0), 0, 1)
    assert (again.seed, again.lr) == (7449029282396566744, 0.5)
