from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t

from tlcache.core.errors import DataError, OptionError
from tlcache.evaluation.metrics import (
    calibration_bins,
    corrected_resampled_interval,
    evaluate,
    share_interval,
    softmax,
    variance_by_groups,
    wilson_interval,
)

LN2 = math.log(2)


def predicting(predictions: list[int], classes: int) -> NDArray[np.float32]:
    """Logits whose largest is the prediction, by a margin that makes it certain."""
    return np.eye(classes, dtype=np.float32)[predictions] * 100


@pytest.fixture
def random_case() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 200).astype(np.int32)
    logits = random.normal(size=(200, 5)).astype(np.float32)
    logits[np.arange(200), labels] += 1
    return logits, labels


def test_values_agree_with_those_worked_out_by_hand() -> None:
    # Truths a a a b b c; predictions a a b b b a.
    result = evaluate(predicting([0, 0, 1, 1, 1, 0], 3), [0, 0, 0, 1, 1, 2], ("a", "b", "c"))
    assert result.n == 6
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.confusion == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert result.per_class == {
        "a": pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}),
        "b": pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2}),
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    }
    assert result.macro_f1 == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    assert result.loss == pytest.approx(2 * 100 / 6)
    assert result.ece == pytest.approx(1 - 4 / 6)


def test_loss_of_even_odds_is_ln_2() -> None:
    assert evaluate([[3.0, 3.0], [-1.0, -1.0]], [0, 1], ("a", "b")).loss == pytest.approx(LN2)


def test_scikit_learn_agrees(
    random_case: tuple[NDArray[np.float32], NDArray[np.int32]],
) -> None:
    from sklearn import metrics

    logits, labels = random_case
    predictions = logits.argmax(axis=1)
    result = evaluate(logits, labels, "abcde")
    assert result.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert result.loss == pytest.approx(metrics.log_loss(labels, softmax(logits)))
    assert result.macro_f1 == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))
    assert result.confusion == metrics.confusion_matrix(labels, predictions).tolist()


def test_calibration_error_worked_out_by_hand() -> None:
    # Twice 0.9 (one right) in one bin, 0.6 (right) in another: |1 - 1.8| + |1 - 0.6|.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert evaluate(logits, [0, 1, 1], ("a", "b")).ece == pytest.approx((0.8 + 0.4) / 3)


def test_calibration_error_lets_gaps_of_one_bin_cancel_but_not_of_two() -> None:
    one_bin = np.log([[0.61, 0.39], [0.65, 0.35]])  # (0.6, 0.667]
    two_bins = np.log([[0.61, 0.39], [0.70, 0.30]])
    assert evaluate(one_bin, [0, 1], ("a", "b")).ece == pytest.approx(abs(1 - 1.26) / 2)
    assert evaluate(two_bins, [0, 1], ("a", "b")).ece == pytest.approx((0.39 + 0.70) / 2)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    # 0.2 = 3/15 closes the third bin; were it to open the fourth, it would cancel with 0.25.
    logits = np.log([[0.2] * 5, [0.25, 0.24, 0.23, 0.22, 0.06]])
    assert softmax(logits)[0].max() == pytest.approx(0.2)
    exact = np.zeros((2, 5))
    exact[1] = logits[1]
    assert softmax(exact)[0].max() == 0.2
    assert evaluate(exact, [0, 1], "abcde").ece == pytest.approx((0.8 + 0.25) / 2)


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_extreme_logits_neither_overflow_nor_saturate(size: float) -> None:
    result = evaluate([[size, -size], [size, -size]], [0, 1], ("a", "b"))
    assert result.loss == pytest.approx(size)
    assert result.ece == pytest.approx(0.5)
    np.testing.assert_array_equal(softmax([[size, -size]]), [[1.0, 0.0]])


def test_softmax_does_not_care_about_a_constant_and_sums_to_one() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, -5.0]])
    np.testing.assert_allclose(softmax(logits), softmax(logits + 5000), rtol=1e-12)
    np.testing.assert_allclose(softmax(logits).sum(axis=1), 1, rtol=1e-12)
    assert softmax(np.array([[0, 0]]))[0, 0] == 0.5


def test_a_class_without_images_is_zero_and_left_out_of_macro_f1() -> None:
    result = evaluate(predicting([0, 1, 1, 1], 3), [0, 1, 1, 0], ("a", "b", "none"))
    assert result.per_class["none"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert result.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert result.confusion[2] == [0, 0, 0]


def test_images_put_into_a_class_without_images_cost_their_own_class() -> None:
    result = evaluate(predicting([0, 2], 3), [0, 0], ("a", "b", "c"))
    assert result.macro_f1 == pytest.approx(2 / 3)
    assert result.per_class["c"]["support"] == 0


def test_a_single_class_and_a_single_image_are_evaluated() -> None:
    result = evaluate([[0.3]], [0], ("only",))
    assert (result.accuracy, result.loss, result.macro_f1, result.ece) == (1.0, 0.0, 1.0, 0.0)
    assert result.confusion == [[1]]


def test_of_equal_logits_the_first_is_the_prediction() -> None:
    assert evaluate([[1.0, 1.0]], [0], ("a", "b")).accuracy == 1.0
    assert evaluate([[1.0, 1.0]], [1], ("a", "b")).accuracy == 0.0


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_gives_the_published_values(
    successes: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_agrees_with_scipy_and_stays_within_0_and_1() -> None:
    from scipy.stats import binomtest

    for n in (1, 2, 7, 153, 10**6):
        for successes in {0, 1, n // 2, n - 1, n}:
            low, high = wilson_interval(successes, n)
            theirs = binomtest(successes, n).proportion_ci(method="wilson")
            assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
            assert 0 <= low <= successes / n <= high <= 1
    assert wilson_interval(0, 153)[0] == 0.0
    assert wilson_interval(153, 153)[1] == 1.0


def test_evaluation_carries_the_interval_of_its_accuracy() -> None:
    result = evaluate(predicting([0, 0, 1], 2), [0, 0, 0], ("a", "b"))
    assert result.accuracy_ci95 == wilson_interval(2, 3)


def test_bins_of_calibration_add_up_to_the_evaluation(
    random_case: tuple[NDArray[np.float32], NDArray[np.int32]],
) -> None:
    result, bins = evaluate(*random_case, "abcde"), calibration_bins(*random_case)
    confidence = softmax(random_case[0]).max(axis=1)
    assert sum(each.count for each in bins) == result.n
    assert sum(each.right for each in bins) == round(result.accuracy * result.n)
    gaps = [each.count * abs(each.accuracy - each.confidence) for each in bins]
    assert sum(gaps) / result.n == pytest.approx(result.ece)
    for each in bins:
        inside = (each.low < confidence) & (confidence <= each.high)
        assert inside.sum() == each.count > 0
        assert each.confidence == pytest.approx(confidence[inside].mean())
        assert each.accuracy_ci95 == wilson_interval(each.right, each.count)
        assert each.high - each.low == pytest.approx(1 / 15)


def test_to_dict_has_the_promised_keys_and_survives_json(
    random_case: tuple[NDArray[np.float32], NDArray[np.int32]],
) -> None:
    plain = evaluate(*random_case, [*"abcd", "벌"]).to_dict()
    promised = "n accuracy accuracy_ci95 loss macro_f1 ece classes per_class confusion"
    assert list(plain) == promised.split()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert list(plain["per_class"]) == plain["classes"] == [*"abcd", "벌"]
    assert set(plain["per_class"]["a"]) == {"precision", "recall", "f1", "support"}
    assert type(plain["per_class"]["a"]["support"]) is type(plain["confusion"][0][0]) is int


def test_summary_is_one_line() -> None:
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert evaluate(logits, [0, 0, 1], ("a", "b")).summary() == (
        "accuracy 1.000 (95% 0.439-1.000, n=3), loss 0.241, macro-F1 1.000, ECE 0.200"
    )


def test_an_evaluation_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluate([[1.0]], [0], ("a",)).accuracy = 1.0  # type: ignore[misc]


def test_any_real_type_of_array_will_do() -> None:
    labels = np.array([0, 1], dtype=np.uint8)
    wanted = evaluate([[2.0, 0.0], [2.0, 0.0]], [0, 1], ("a", "b"))
    for dtype in (np.float16, np.float32, np.int64, np.int8):
        assert evaluate(np.array([[2, 0], [2, 0]], dtype), labels, ("a", "b")) == wanted


BAD: list[tuple[Any, Any, Any, str]] = [
    ([1.0, 2.0], [0], "ab", "real numbers of shape (N, C), N >= 1 and C >= 1, found float64 (2,)"),
    (np.zeros((0, 2)), [], "ab", "logits: expected real numbers .* found float64 (0, 2)"),
    (np.zeros((2, 0)), [0, 0], "", "found float64 (2, 0); give one row an image"),
    ([["x", "y"]], [0], "ab", "expected real numbers"),
    ([[1, 2j]], [0], "ab", "found complex128 (1, 2)"),
    (
        [[1.0, 2.0], [0.0, math.nan]],
        [0, 0],
        "ab",
        "logits, row 1, column 1: expected finite float32 numbers, found nan; "
        "a model gives such logits when its training diverged: lower the learning rate",
    ),
    ([[math.inf, 0.0]], [0], "ab", "row 0, column 0: expected finite float32 numbers, found inf"),
    ([[0.0, -1e300]], [0], "ab", "row 0, column 1: expected finite float32 numbers, found -1e+300"),
    ([[1.0, 2.0]], [0, 1], "ab", "labels: expected 1 integers, one a row of the logits, found"),
    ([[1.0, 2.0]], [0.0], "ab", "found float64 (1,); give logits and labels of the same images"),
    ([[1.0, 2.0]], [[0]], "ab", "found int64 (1, 1); give logits"),
    ([[1.0, 2.0]], [True], "ab", "found bool (1,)"),
    ([[1.0, 2.0]], [2], "ab", "labels, row 0: expected a class number from 0 to 1, found 2; "),
    ([[1.0, 2.0]] * 2, [0, -1], "ab", "labels, row 1: expected a class number from 0 to 1, found"),
    ([[1.0, 2.0]], [0], "abc", "classes: expected 2 different names, one a column of the logits"),
    ([[1.0, 2.0]], [0], "aa", "found 2, 1 of them different; give the classes that the model was"),
]


@pytest.mark.parametrize(("logits", "labels", "classes", "words"), BAD)
def test_what_cannot_be_evaluated_is_said_in_one_line(
    logits: Any, labels: Any, classes: Any, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(logits, labels, classes)
    for part in words.split(" .* "):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_a_share_that_is_none_is_refused(successes: int, n: int) -> None:
    with pytest.raises(OptionError) as caught:
        wilson_interval(successes, n)
    assert str(caught.value) == (
        f"successes of n: expected 0 <= successes <= n and n >= 1, found {successes} of {n}; "
        "count the images that are right and all images"
    )


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
