from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score

from tlcache.core.errors import DataError, InputError
from tlcache.evaluation.metrics import softmax
from tlcache.heads.recipe import Recipe
from tlcache.heads.train import train_head
from tlcache.sklearn import HeadClassifier


def blobs(classes: int, count: int = 60, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows around a centre a class, and their labels; every class has as many."""
    random = np.random.default_rng(classes)
    labels = np.arange(count) % classes
    centres = random.normal(size=(classes, dim))
    return (centres[labels] + random.normal(size=(count, dim))).astype(np.float32), labels


def test_of_three_classes_the_head_is_that_of_the_trainers_last_epoch() -> None:
    rows, labels = blobs(3)
    recipe = Recipe(epochs=9, batch_size=8, lr=0.05, weight_decay=0.01, gamma=0.5, seed=3)
    last = train_head(rows, labels, rows[50:], labels[50:], recipe, classes=3).last
    how = {name: getattr(recipe, name) for name in ("epochs", "batch_size", "lr", "gamma")}
    head = HeadClassifier(**how, weight_decay=0.01, random_state=3).fit(rows, labels)
    np.testing.assert_array_equal(head.coef_, last.weight)
    np.testing.assert_array_equal(head.intercept_, last.bias)
    np.testing.assert_array_equal(head.decision_function(rows), last.logits(rows))
    np.testing.assert_array_equal(head.predict(rows), last.logits(rows).argmax(axis=1))
    np.testing.assert_array_equal(head.predict_proba(rows), softmax(last.logits(rows)))
    assert (head.n_iter_, head.n_features_in_) == (9, 6)


def test_of_two_classes_the_scores_are_of_the_second_against_the_first() -> None:
    rows, labels = blobs(2)
    last = train_head(rows, labels, rows, labels, classes=2).last
    head = HeadClassifier().fit(rows, np.array(["bees", "ants"])[labels])
    assert head.classes_.tolist() == ["ants", "bees"]
    swapped = HeadClassifier().fit(rows, labels)
    np.testing.assert_array_equal(swapped.coef_, last.weight[1:] - last.weight[:1])
    assert swapped.coef_.shape == (1, 6) and swapped.intercept_.shape == (1,)
    scores, shares = swapped.decision_function(rows), swapped.predict_proba(rows)
    assert scores.shape == (60,) and shares.shape == (60, 2)
    np.testing.assert_array_equal(swapped.predict(rows), scores > 0)
    np.testing.assert_allclose(shares, softmax(last.logits(rows)), rtol=1e-5)
    named = swapped.predict(rows[:20]) == 1
    assert 0 < named.sum() < 20
    assert set(head.predict(rows)) == {"ants", "bees"}


def test_the_last_epoch_counts_even_if_an_earlier_one_was_better() -> None:
    rows, labels = blobs(2, count=8)
    long = HeadClassifier(epochs=5, step_size=100, lr=0.1).fit(rows, labels)
    short = HeadClassifier(epochs=1, step_size=100, lr=0.1).fit(rows, labels)
    assert long.score(rows[:1], labels[:1]) == short.score(rows[:1], labels[:1]) == 1
    assert not np.array_equal(long.coef_, short.coef_)


def test_a_seed_decides_and_none_does_not() -> None:
    rows, labels = blobs(2)

    def coef(random_state: Any) -> bytes:
        return HeadClassifier(epochs=1, random_state=random_state).fit(rows, labels).coef_.tobytes()

    assert coef(7) == coef(np.int64(7)) != coef(8)
    assert coef(np.random.RandomState(0)) == coef(np.random.RandomState(0))
    assert coef(None) != coef(None)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"lr": -1.0}, "lr: expected a number over 0, found -1.0; "),
        ({"lr": np.nan}, "lr: expected a number over 0, found nan; "),
        ({"lr": "fast"}, "lr: expected a number, found 'fast'; "),
        ({"epochs": 0}, "epochs: expected a whole number over 0, found 0; "),
        ({"epochs": 2.5}, "epochs: expected a whole number over 0, found 2.5; "),
        ({"batch_size": None}, "batch_size: expected a number, found None; "),
        ({"momentum": 1.0}, "momentum: expected 0 <= momentum < 1, found 1.0; "),
        ({"weight_decay": -1e-9}, "weight_decay: expected 0 or more, found -1e-09; "),
        ({"step_size": 0}, "step_size: expected a whole number over 0, found 0; "),
        ({"random_state": -1}, "random_state: expected a whole number from 0 to 2^63 - 1, found -"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        HeadClassifier(**parameters).fit(*blobs(2))
    assert isinstance(caught.value, InputError)
    assert str(caught.value).startswith(words)


def test_one_class_is_refused() -> None:
    rows, _ = blobs(2)
    with pytest.raises(InputError) as caught:
        HeadClassifier().fit(rows, ["ants"] * 60)
    assert str(caught.value) == (
        "y: expected labels of two classes or more, found 1 class, ants; add rows of another class"
    )


def test_a_head_that_diverges_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"expected a finite loss, .* lower the learning rate"):
        HeadClassifier(lr=3e38).fit(*blobs(3))


def test_clones_are_cross_validated_alike() -> None:
    rows, labels = blobs(3)
    head = HeadClassifier(lr=0.05, random_state=2).fit(rows, labels)
    fresh = clone(head)
    assert fresh.get_params() == head.get_params() and not hasattr(fresh, "coef_")
    scores = cross_val_score(head, rows, labels, cv=3)
    assert scores.tolist() == cross_val_score(fresh, rows, labels, cv=3).tolist()
    assert scores.mean() > 0.7


def test_searches_set_numbers_of_numpy() -> None:
    rows, labels = blobs(2)
    grid = {"epochs": np.arange(1, 4), "lr": np.geomspace(1e-4, 1e-1, 2).astype(np.float32)}
    found = GridSearchCV(HeadClassifier(), grid, cv=2, error_score="raise").fit(rows, labels)
    assert found.best_score_ > 0.5 and len(found.cv_results_["params"]) == 6
    drawn = RandomizedSearchCV(
        HeadClassifier(), grid, n_iter=2, cv=2, random_state=0, error_score="raise"
    )
    assert drawn.fit(rows, labels).best_estimator_.n_iter_ in (1, 2, 3)
