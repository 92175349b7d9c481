from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from tlcache.core.errors import DataError
from tlcache.evaluation.comparison import Comparison, bootstrap_interval, compare, mcnemar_p


def predicting(predictions: list[int]) -> NDArray[np.float32]:
    """Logits of two classes whose larger is the prediction."""
    return np.eye(2, dtype=np.float32)[predictions]


def paired(both: int, only_a: int, only_b: int, neither: int) -> Comparison:
    a = [0] * both + [0] * only_a + [1] * only_b + [1] * neither
    b = [0] * both + [1] * only_a + [0] * only_b + [1] * neither
    return compare(predicting(a), predicting(b), np.zeros(len(a), dtype=int))


def test_comparison_counts_who_is_right() -> None:
    result = paired(both=90, only_a=8, only_b=1, neither=4)
    assert dataclasses.astuple(result)[:5] == (103, 90, 8, 1, 4)
    assert result.accuracy_a == pytest.approx(98 / 103)
    assert result.accuracy_b == pytest.approx(91 / 103)
    assert result.difference == pytest.approx(7 / 103)
    assert result.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # two tails of 9 fair coins
    assert result.difference_ci95 == bootstrap_interval(90, 8, 1, 4)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        # statsmodels 0.15.0, mcnemar(table, exact=True).pvalue.
        (8, 1, 0.0390625),
        (2, 5, 0.453125),
        (6, 16, 0.052478790283203125),
        (40, 12, 0.0001275387838557407),
        (900, 1000, 0.023108845108901193),
        (7, 7, 1.0),
        (0, 0, 1.0),
        (121, 59, 4.4344492637551645e-06),
        # Agresti's ratings of a prime minister ("Categorical Data Analysis", table 10.1).
        (86, 150, 3.7159361395713866e-05),
    ],
)
def test_mcnemar_s_p_is_that_of_statsmodels(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_p(only_a, only_b) == pytest.approx(p, rel=1e-9)


def test_mcnemar_s_p_is_scipy_s_binomial_test_for_every_small_table_and_some_large() -> None:
    from scipy.stats import binomtest

    large = [(0, 500), (480, 520), (5_000, 5_200), (30_000, 31_000)]
    for only_a, only_b in [*itertools.product(range(13), repeat=2), *large]:
        theirs = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert mcnemar_p(only_a, only_b) == pytest.approx(theirs, rel=1e-9, abs=1e-12)
        assert mcnemar_p(only_b, only_a) == mcnemar_p(only_a, only_b) <= 1.0


def exact_interval(both: int, only_a: int, only_b: int, neither: int) -> list[float]:
    """The bootstrap's points without its draws: differences of all resamples by their chances."""
    n = both + only_a + only_b + neither
    a, b = (only_a + 0.5) / (n + 2), (only_b + 0.5) / (n + 2)
    chances = np.ones(1)
    for _ in range(n):
        chances = np.convolve(chances, [b, 1 - a - b, a])
    at = np.searchsorted(chances.cumsum(), [0.025, 0.975])
    return [(i - n) / n for i in at]


@pytest.mark.parametrize(
    "cells",
    [(90, 8, 1, 4), (140, 2, 5, 6), (3, 0, 0, 2), (0, 30, 0, 0), (0, 0, 0, 9), (1, 0, 0, 0)],
)
def test_the_interval_is_the_bootstrap_s_without_its_noise_give_or_take_an_image(
    cells: tuple[int, int, int, int],
) -> None:
    n = sum(cells)
    found = bootstrap_interval(*cells)
    assert found == pytest.approx(exact_interval(*cells), abs=1.001 / n)
    assert found[0] <= (cells[1] - cells[2]) / n <= found[1]
    assert bootstrap_interval(*cells) == found
    assert bootstrap_interval(*cells, seed=1) == pytest.approx(found, abs=2.001 / n)


def test_another_seed_draws_other_images() -> None:
    cells = (500_000, 40_000, 30_000, 9)
    assert bootstrap_interval(*cells, seed=1) != bootstrap_interval(*cells)


def test_the_interval_narrows_with_the_root_of_the_images_however_many_there_are() -> None:
    widths = [
        np.diff(bootstrap_interval(80 * n, 8 * n, 2 * n, 10 * n)).item() for n in (1, 100, 10**7)
    ]
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.1)
    assert widths[1] / widths[2] == pytest.approx(10**2.5, rel=0.05)


def test_models_that_differ_on_no_image_may_differ_on_others() -> None:
    low, high = bootstrap_interval(20, 0, 0, 0)
    assert -0.15 <= low < 0 < high <= 0.15


def test_a_and_b_exchanged_give_the_mirrored_comparison() -> None:
    there, back = paired(50, 3, 1, 2), paired(50, 1, 3, 2)
    assert there.difference == -back.difference
    assert there.difference_ci95 == tuple(-end for end in back.difference_ci95[::-1])
    assert there.p_value == back.p_value


def test_models_that_never_differ_have_a_p_of_1() -> None:
    result = paired(3, 0, 0, 2)
    assert (result.p_value, result.difference) == (1.0, 0.0)
    assert result.sentence() == (
        "A gets 3 of 5 images right and B 3: the very same ones "
        "(difference 0, 95% -0.400 to +0.400)."
    )


def test_the_sentence_says_whether_chance_may_be_behind_it() -> None:
    assert paired(140, 2, 5, 6).sentence("cached", "finetune") == (
        "cached gets 142 of 153 images right and finetune 145 (difference -0.020, 95% -0.059 to "
        "+0.013; 2 only cached, 5 only finetune), which may well be chance (McNemar's exact test, "
        "p = 0.45)."
    )
    assert "10 only A, 0 only B), which is unlikely to be chance" in (
        paired(190, 10, 0, 3).sentence()
    )


def test_comparison_survives_json() -> None:
    plain = paired(2, 1, 0, 0).to_dict()
    promised = (
        "n both only_a only_b neither accuracy_a accuracy_b difference difference_ci95 p_value"
    )
    assert list(plain) == promised.split()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_models_of_different_shapes_are_not_compared() -> None:
    with pytest.raises(DataError) as caught:
        compare([[1.0, 2.0]], [[1.0, 2.0, 3.0]], [0])
    assert str(caught.value) == (
        "logits: expected two models' logits of one shape, as (1, 2), found (1, 3); "
        "compare two models on the same images and classes"
    )


@pytest.mark.parametrize("labels", [[0, 1], [5]])
def test_comparison_checks_labels_as_evaluation_does(labels: list[int]) -> None:
    with pytest.raises(DataError, match="labels"):
        compare([[1.0, 2.0]], [[1.0, 2.0]], labels)
