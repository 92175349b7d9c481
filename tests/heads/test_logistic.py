from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tlcache.heads.logistic
from tlcache.core.errors import DataError
from tlcache.heads.logistic import logistic_path
from tlcache.heads.model import Head
from tlcache.heads.rows import Array, Labels

PATH = [1e-4, 1e-2, 1.0, 100.0]


def rows(classes: int, n: int = 90, dim: int = 12) -> tuple[Array, Labels]:
    """Overlapping classes off the origin."""
    random, labels = np.random.default_rng(classes), np.arange(n) % classes
    centres = random.normal(size=(classes, dim))
    return (centres[labels] + 2 * random.normal(size=(n, dim)) + 5).astype(np.float32), labels


def scikit_learns(features: Array, labels: Labels, c: float) -> tuple[Head, LogisticRegression]:
    model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(features.astype("f8"), labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: the difference between their rows
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(weight, bias), model


def loss(head: Head, features: Array, labels: Labels, c: float) -> float:
    """Scikit-learn's: C times the summed cross-entropy, plus half the squared weights."""
    weight = head.weight.astype(np.float64)
    logits = features.astype(np.float64) @ weight.T + head.bias
    logits -= logits.max(axis=1, keepdims=True)
    entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    free = weight[1:] - weight[:1] if len(weight) == 2 else weight
    return float(c * entropy.sum() + 0.5 * (free**2).sum())


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("dim", [12, 200])
def test_the_loss_is_scikit_learns_within_a_millionth(classes: int, dim: int) -> None:
    features, labels = rows(classes, dim=dim)
    for c, fit in zip(PATH, logistic_path(features, labels, PATH, classes=classes), strict=True):
        theirs, model = scikit_learns(features, labels, c)
        expected = loss(theirs, features, labels, c)
        assert fit.converged
        assert loss(fit.head, features, labels, c) == pytest.approx(expected, rel=1e-6)
        found = fit.head.logits(features).argmax(axis=1)
        assert (found == model.predict(features.astype("f8"))).mean() > 0.98


def test_heads_come_in_the_order_of_the_strengths_each_on_the_way_to_the_next() -> None:
    features, labels = rows(3)
    mixed = [1.0, 1e-4, 100.0, 1e-2, 1.0]
    found = logistic_path(features, labels, mixed, classes=3)
    expected = dict(zip(PATH, logistic_path(features, labels, PATH, classes=3), strict=True))
    for c, fit in zip(mixed, found, strict=True):
        assert fit.head is not expected[c].head
        np.testing.assert_array_equal(fit.head.weight, expected[c].head.weight)
    apart = sum(logistic_path(features, labels, [c], classes=3)[0].iterations for c in PATH)
    assert sum(fit.iterations for fit in expected.values()) < apart


def test_the_penalty_leaves_no_common_part_in_the_weights() -> None:
    features, labels = rows(4)
    (fit,) = logistic_path(features, labels, [1.0], classes=4)
    np.testing.assert_allclose(fit.head.weight.sum(axis=0), 0, atol=1e-5)
    assert fit.head.weight.dtype == fit.head.bias.dtype == np.float32


def test_a_way_that_is_cut_short_is_not_called_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlcache.heads.logistic, "_MOST_ITERATIONS", 2)
    features, labels = rows(3)
    (fit,) = logistic_path(features, labels, [10.0], classes=3)
    assert (fit.converged, fit.iterations) == (False, 2)


def test_each_head_is_told_once() -> None:
    features, labels = rows(2)
    seen: list[tuple[int, int]] = []
    logistic_path(features, labels, PATH, classes=2, progress=lambda *told: seen.append(told))
    assert seen == [(done, len(PATH)) for done in range(1, len(PATH) + 1)]


def test_a_class_without_a_training_row_is_never_predicted() -> None:
    features, labels = rows(2)
    (fit,) = logistic_path(features, labels, [1.0], classes=3)
    assert np.isfinite(fit.head.bias).all()
    assert set(fit.head.logits(features).argmax(axis=1)) == {0, 1}


def test_rows_that_do_not_fit_into_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = rows(2)
    monkeypatch.setattr(
        tlcache.heads.logistic, "physical_memory", lambda: 2 * 8 * features.size - 1
    )
    with pytest.raises(DataError, match=r"L-BFGS: expected training rows that fit .* lbfgs out"):
        logistic_path(features, labels, [1.0], classes=2)
