from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler, normalize

from tlcache.heads.model import initial_head, unit_rows
from tlcache.heads.rows import WAYS, scaling_of

RANDOM = np.random.default_rng(0)
TRAIN = (RANDOM.normal(size=(40, 6)) * [1, 5, 0.01, 1, 100, 1] + [0, 3, 1, -2, 50, 0]).astype("f4")
VAL = (RANDOM.normal(size=(9, 6)) * [1, 5, 0.01, 1, 100, 1]).astype("f4")


def test_standardised_rows_are_those_of_scikit_learn_fitted_to_the_training_rows() -> None:
    expected = StandardScaler().fit(TRAIN.astype("f8")).transform(VAL.astype("f8"))
    found = scaling_of("standardised", TRAIN).scaled(VAL)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_length_one_are_those_of_scikit_learn() -> None:
    found = scaling_of("l2", TRAIN).scaled(VAL)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, normalize(VAL.astype("f8")), rtol=1e-6)


def test_rows_as_they_are_are_not_copied() -> None:
    assert scaling_of("raw", TRAIN).scaled(VAL) is VAL


@pytest.mark.parametrize("way", WAYS)
def test_a_head_says_of_raw_rows_what_it_said_of_scaled_ones(way: str) -> None:
    scaling, head = scaling_of(way, TRAIN), initial_head(3, 6, 1)
    raw = scaling.on_raw_rows(head)
    assert raw.normalise == (way == "l2")
    expected = head.logits(scaling.scaled(VAL))
    np.testing.assert_allclose(raw.logits(VAL), expected, rtol=0, atol=2e-5)
    if way != "raw":
        assert np.abs(head.logits(VAL) - expected).max() > 0.1, "scaling must matter"


@pytest.mark.parametrize("value", [0.0, 3.7, -1e-20, 1e20])
def test_a_feature_that_never_changes_is_left_in_its_size(value: float) -> None:
    rows = TRAIN.copy()
    rows[:, 2] = value
    scaling = scaling_of("standardised", rows)
    assert scaling.deviation[2] == 1
    scaled = scaling.scaled(rows)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaled[:, 2], 0, atol=1e-6 * abs(value))


def test_views_are_rows_of_the_same_mean_however_many_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = np.stack([TRAIN[:20], TRAIN[20:]])
    whole = scaling_of("standardised", TRAIN)
    monkeypatch.setattr("tlcache.heads.rows._ROWS_AT_ONCE", 7)
    found = scaling_of("standardised", views)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(found.deviation, whole.deviation, rtol=1e-6)
    assert found.scaled(views).shape == views.shape


def test_unit_rows_survive_zeros_and_what_squares_to_more_than_float32_holds() -> None:
    rows = np.array([[0, 0], [3e30, 4e30], [3e-30, 4e-30]], np.float32)
    expected = np.array([[0, 0], [0.6, 0.8], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(unit_rows(rows), expected, rtol=1e-6)
