"""Votes of the nearest: equal to DINO's own steps and scikit-learn's, k chosen on train alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tlcache.core.errors import DataError, OptionError, TlcacheError
from tlcache.evaluation.metrics import wilson_interval
from tlcache.studies.knn import KnnResult, knn_accuracy, predictions
from tlcache.studies.neighbours import nearest

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Labelled = tuple[Floats, Labels]


def drawn(count: int, seed: int, classes: int = 4, dim: int = 12) -> Labelled:
    """Classes that overlap, so that k matters."""
    centres = np.random.default_rng(99).standard_normal((classes, dim))
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    rows = centres[labels] + 1.3 * random.standard_normal((count, dim))
    return rows.astype(np.float32), labels


TRAIN, VAL, TEST = drawn(150, 0), drawn(60, 1), drawn(40, 2)


def accuracies(train: Labelled = TRAIN, **how: Any) -> KnnResult:
    judged = how.pop("judged", {"val": VAL})
    return knn_accuracy(train, judged, how.pop("classes", 4), **how)


def dino(train: Labelled, val: Labelled, k: int, temperature: float, classes: int) -> Labels:
    """The steps of DINO's eval_knn.py, in float64."""
    rows, queries = (
        torch.nn.functional.normalize(torch.from_numpy(part[0]).double(), dim=1)
        for part in (train, val)
    )
    distances, indices = (queries @ rows.T).topk(k, largest=True, sorted=True)
    retrieved = torch.from_numpy(train[1])[indices]
    one_hot = torch.nn.functional.one_hot(retrieved, classes)
    weights = distances.clone().div_(temperature).exp_()
    votes = (one_hot * weights[:, :, None]).sum(1)
    return np.asarray(votes.sort(1, descending=True).indices[:, 0].numpy())


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0, 100.0])
def test_classes_are_those_of_dino_s_own_steps(temperature: float) -> None:
    ks = [1, 2, 5, 10, 20, 50, 100, 150]
    (near,) = nearest(VAL[0], TRAIN[0], 150)
    guesses = predictions(near, TRAIN[1], ks, 4, temperature)
    for k, guess in zip(ks, guesses, strict=True):
        assert np.array_equal(guess, dino(TRAIN, VAL, k, temperature, 4)), k


def test_classes_are_scikit_learn_s_with_the_same_weights() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    (near,) = nearest(VAL[0], TRAIN[0], 20)
    for k in (1, 5, 20):
        classifier = KNeighborsClassifier(
            k, weights=lambda d: np.exp((1 - d) / 0.07), algorithm="brute", metric="cosine"
        )
        expected = classifier.fit(*TRAIN).predict(VAL[0])
        assert np.array_equal(predictions(near, TRAIN[1], [k], 4, 0.07)[0], expected)


def test_the_scores_count_the_images_that_are_right() -> None:
    result = accuracies(judged={"val": VAL, "test": TEST}, ks=[3, 1, 40])
    assert result.ks == (1, 3, 40)
    for name, split in (("val", VAL), ("test", TEST)):
        for k, score in zip(result.ks, result.scores[name], strict=True):
            right = int((dino(TRAIN, split, k, 0.07, 4) == split[1]).sum())
            assert (score.n, score.right) == (len(split[1]), right)
            assert score.to_dict() == {
                "n": score.n,
                "accuracy": right / score.n,
                "accuracy_ci95": list(wilson_interval(right, score.n)),
            }


def test_left_out_rows_are_judged_by_all_others() -> None:
    result = accuracies(ks=[1, 7, 30])
    for k, score in zip(result.ks, result.left_out, strict=True):
        right = 0
        for i in range(len(TRAIN[0])):
            others = np.delete(TRAIN[0], i, 0), np.delete(TRAIN[1], i)
            alone = TRAIN[0][i : i + 1], TRAIN[1][i : i + 1]
            right += int(dino(others, alone, k, 0.07, 4)[0] == alone[1][0])
        assert (score.n, score.right) == (len(TRAIN[0]), right)


def test_k_is_chosen_on_the_left_out_rows_and_val_has_no_say() -> None:
    result = accuracies()
    best = max(score.right for score in result.left_out)
    assert result.k == next(
        k for k, score in zip(result.ks, result.left_out, strict=True) if score.right == best
    )
    assert result.k > 1
    wrong = VAL[0], (VAL[1] + 1) % 4
    assert accuracies(judged={"val": wrong}).k == result.k
    described = result.describe()
    assert described["selected_on"] == "train (leave-one-out)"
    at = result.ks.index(result.k)
    assert described["evaluation"]["val"] == result.scores["val"][at].to_dict()
    assert described["by_k"][at]["left_out"] == result.left_out[at].to_dict()
    assert [row["k"] for row in described["by_k"]] == list(result.ks)


def test_of_equally_good_k_the_lowest_is_chosen() -> None:
    rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    train = rows, np.array([0, 0, 1, 1])
    result = knn_accuracy(train, {"val": train}, 2, ks=[3, 1, 2])
    assert [score.right for score in result.left_out] == [4, 4, 4]
    assert result.k == 1


def test_copies_of_an_image_do_not_give_it_away() -> None:
    # Every row twice and labels at random: a copy knows the label, nobody else does.
    random = np.random.default_rng(0)
    rows = np.repeat(random.standard_normal((80, 12), np.float32), 2, axis=0)
    train = rows, np.repeat(random.integers(0, 2, 80), 2)
    given_away = accuracies(train, judged={}, classes=2, ks=[1])
    assert given_away.left_out[0].accuracy == 1
    honest = accuracies(train, judged={}, classes=2, ks=[1], copies=np.arange(160) // 2)
    assert 0.3 < honest.left_out[0].accuracy < 0.7


def test_more_neighbours_than_rows_are_all_rows() -> None:
    result = accuracies(drawn(30, 0), ks=[5, 30, 31, 200])
    assert result.ks == (5, 30) and result.capped
    assert not accuracies(drawn(31, 0), ks=[5, 31]).capped


def test_where_rows_are_many_a_seeded_draw_of_them_chooses_k() -> None:
    results = [accuracies(most_left_out=40, seed=seed) for seed in (0, 0, 1)]
    first, again, other = [[score.right for score in r.left_out] for r in results]
    assert {score.n for score in results[0].left_out} == {40}
    assert first == again != other
    assert results[0].scores == results[2].scores


def test_the_result_does_not_depend_on_the_memory() -> None:
    assert accuracies(memory=5_000) == accuracies()


def test_more_classes_than_votes_are_counted_at_once() -> None:
    many = 2**18
    labels = np.multiply(TRAIN[1], many // 4)
    (near,) = nearest(VAL[0], TRAIN[0], 20)
    few = predictions(near, TRAIN[1], [5, 20], 4, 0.07)
    assert np.array_equal(predictions(near, labels, [5, 20], many, 0.07), few * (many // 4))


@pytest.mark.parametrize("temperature", [5e-324, 1e-5, 1e300])
def test_no_temperature_is_too_low_or_too_high(temperature: float) -> None:
    result = accuracies(ks=[1, 150], temperature=temperature)
    nearest_one, everybody = (score.right for score in result.scores["val"])
    if temperature < 1:
        assert everybody == nearest_one  # only the nearest weighs anything
    else:
        assert everybody == (np.bincount(TRAIN[1]).argmax() == VAL[1]).sum()


def test_progress_counts_every_similarity_once() -> None:
    told: list[tuple[int, int]] = []
    accuracies(
        judged={"val": VAL, "test": TEST}, progress=lambda *at: told.append(at), memory=9_000
    )
    assert told == sorted(told)
    assert told[-1] == (150 * (150 + 60 + 40),) * 2


NONE: Labelled = (np.empty((0, 12), np.float32), np.empty(0, np.int64))
ONE_CLASS = TRAIN[0], np.zeros(150, np.int64)


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ({"ks": []}, OptionError, "whole numbers from 1 to 1000, found none"),
        ({"ks": [5, 0]}, OptionError, "from 1 to 1000, found 0"),
        ({"ks": [1001]}, OptionError, "from 1 to 1000, found 1001"),
        ({"ks": [1.5]}, OptionError, "found 1.5"),
        ({"temperature": 0.0}, OptionError, "finite number over 0, found 0.0"),
        ({"temperature": -1.0}, OptionError, "over 0, found -1.0"),
        ({"temperature": float("nan")}, OptionError, "over 0, found nan"),
        ({"temperature": float("inf")}, OptionError, "over 0, found inf"),
        ({"seed": -1}, OptionError, "0 or more, found -1"),
        ({"train": NONE}, DataError, "train: expected at least one image, found none"),
        ({"judged": {"val": NONE}}, DataError, "val: expected at least one image, found none"),
        ({"train": ONE_CLASS}, DataError, "at least two classes, found one class only"),
        ({"classes": 3}, DataError, "classes from 0 to 2, found 0 to 3"),
        ({"train": (TRAIN[0], TRAIN[1][:-1])}, DataError, "150 integers, found int64 (149,)"),
        ({"train": (TRAIN[0], TRAIN[1] * 1.0)}, DataError, "150 integers, found float64"),
        ({"copies": np.zeros(150, int)}, DataError, "two different images, found copies of one"),
        ({"copies": np.zeros(3, int)}, DataError, "150 integers, found (3,)"),
        ({"judged": {"val": (VAL[0][:, :5], VAL[1])}}, DataError, "(n, D) and (m, D)"),
    ],
)
def test_what_makes_no_sense_is_refused(
    how: dict[str, Any], kind: type[TlcacheError], words: str
) -> None:
    with pytest.raises(kind) as error:
        accuracies(**how)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
