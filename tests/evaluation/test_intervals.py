from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from tlcache.evaluation.intervals import (
    corrected_resampled_interval,
    share_interval,
    variance_by_groups,
)
from tlcache.evaluation.metrics import wilson_interval


def test_the_corrected_interval_is_nadeau_and_bengio_s() -> None:
    accuracies = np.array([[0.9, 0.8, 0.85], [0.95, 0.75, 0.9]])
    low, high = corrected_resampled_interval(accuracies, 1 / 2)
    half = t.ppf(0.975, 5) * math.sqrt((1 / 6 + 1 / 2) * np.var(accuracies, ddof=1))
    assert (low, high) == pytest.approx((0.8583333333 - half, min(1, 0.8583333333 + half)))


def test_the_corrected_interval_stays_within_0_and_1() -> None:
    assert corrected_resampled_interval([0.0, 1.0], 1.0) == (0.0, 1.0)


def test_the_corrected_interval_covers_where_that_of_independent_folds_does_not() -> None:
    """Nearest means of two Gaussians on one axis, five folds, three repeats, by simulation."""
    random, n, folds, repeats, draws = np.random.default_rng(0), 60, 5, 3, 400
    # The threshold lies at 0 ± 1/√48, and Φ(1) + Φ''(1)/96 is the accuracy to expect of it.
    truth, covered, naive = 0.8388, 0, 0
    labels = np.arange(n) % 2
    for _ in range(draws):
        rows = random.normal(size=n) + np.where(labels == 1, 1.0, -1.0)
        accuracies = []
        for _ in range(repeats):
            fold = np.empty(n, int)
            for label in (0, 1):
                fold[labels == label] = random.permutation(np.arange(n // 2) % folds)
            for k in range(folds):
                seen = fold != k
                means = [rows[seen & (labels == label)].mean() for label in (0, 1)]
                said = np.abs(rows[~seen] - means[1]) < np.abs(rows[~seen] - means[0])
                accuracies.append(float((said == labels[~seen]).mean()))
        low, high = corrected_resampled_interval(accuracies, 1 / (folds - 1))
        covered += low <= truth <= high
        half = t.ppf(0.975, 14) * np.std(accuracies, ddof=1) / math.sqrt(15)
        naive += abs(np.mean(accuracies) - truth) <= half
    assert 0.93 <= covered / draws <= 0.98
    assert naive / draws < 0.85


def test_independent_images_have_wilson_s_interval() -> None:
    assert share_interval(0.9, 50, []) == wilson_interval(45, 50)


def test_a_share_that_varies_more_has_an_interval_of_fewer_images() -> None:
    share, parts = 0.8, [(0.8 * 0.2 / 25, 10**9)]  # as 25 independent images would
    assert share_interval(share, 400, parts) == pytest.approx(wilson_interval(20, 25), abs=1e-6)


def test_an_interval_is_never_narrower_than_that_of_its_images() -> None:
    assert share_interval(0.8, 100, [(1e-9, 50)]) == wilson_interval(80, 100)


def test_few_degrees_of_freedom_widen_an_interval() -> None:
    worth = 0.8 * 0.2 / 0.001 * (t.ppf(0.975, 1e12) / t.ppf(0.975, 3)) ** 2
    expected = wilson_interval(0.8 * worth, worth)
    assert share_interval(0.8, 400, [(0.001, 3)]) == pytest.approx(expected)


def test_degrees_of_freedom_of_two_parts_are_satterthwaite_s() -> None:
    freedom = 0.003**2 / (0.001**2 / 3 + 0.002**2 / 40)
    two = share_interval(0.8, 400, [(0.001, 3), (0.002, 40), (0.0, 5)])
    worth = 0.8 * 0.2 / 0.003 * (t.ppf(0.975, 1e12) / t.ppf(0.975, freedom)) ** 2
    assert two == pytest.approx(wilson_interval(0.8 * worth, worth))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_nothing_varies_only_what_is_independent_counts(share: float) -> None:
    assert share_interval(share, 100, [(0.0, 9)], 10) == wilson_interval(share * 10, 10)


def test_the_interval_of_two_parts_covers_other_episodes_and_other_images() -> None:
    """Episodes and images with effects of their own, crossed, by simulation."""
    random, truth, covered, alone, draws = np.random.default_rng(0), 0.8, 0, 0, 400
    episodes, images = 10, 60
    for _ in range(draws):
        chance = truth + random.choice([-0.1, 0.1], (episodes, 1))
        chance = chance + random.choice([-0.1, 0.1], (1, images))
        hits = random.random((episodes, images)) < chance
        accuracies = hits.mean(axis=1)
        over_episodes = float(accuracies.var(ddof=1)) / episodes
        over_images = float(hits.mean(axis=0).var(ddof=1)) / images
        parts = [(over_episodes, episodes - 1), (over_images, images - 1)]
        low, high = share_interval(float(hits.mean()), images, parts)
        covered += low <= truth <= high
        low, high = wilson_interval(int(hits.sum()), hits.size)  # as if all were independent
        alone += low <= truth <= high
    assert covered / draws >= 0.94
    assert alone / draws < 0.75


def test_images_in_groups_have_an_interval_that_covers() -> None:
    """Groups of ten that are right or wrong nearly as one, by simulation."""
    random, truth, count, draws = np.random.default_rng(1), 0.7, 40, 500
    groups = np.repeat(np.arange(count), 10)
    covered = alone = 0
    for _ in range(draws):
        hits = (random.random(count) < truth).astype(float)[groups]
        low, high = share_interval(
            hits.mean(), len(hits), [(variance_by_groups(hits, groups), count - 1)], count
        )
        covered += low <= truth <= high
        low, high = wilson_interval(hits.sum(), len(hits))
        alone += low <= truth <= high
    assert 0.93 <= covered / draws <= 0.97
    assert alone / draws < 0.6
