from __future__ import annotations

import numpy as np
import pytest

from tlcache.core.errors import DataError, OptionError
from tlcache.evaluation.metrics import share_interval
from tlcache.heads import train as training
from tlcache.heads.recipe import Recipe, reseeded
from tlcache.heads.train import train_head
from tlcache.studies.fewshot import FewShotCurve, _point, draw_shots, few_shot_curve

CLASSES = ("ants", "bees", "cats")
RECIPE = Recipe(epochs=5, lr=0.05, seed=3)
RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(3, 10))
LABELS = (np.arange(60) % 3).astype(np.int32)
ROWS = (CENTRES[LABELS] + RANDOM.normal(size=(60, 10))).astype(np.float32)
VAL_LABELS = RANDOM.integers(0, 3, 50).astype(np.int32)
VAL = (CENTRES[VAL_LABELS] + RANDOM.normal(size=(50, 10))).astype(np.float32)


def curve_of(**how: object) -> FewShotCurve:
    settings: dict = {"classes": CLASSES, "shots": (1, 4), "episodes": 6, "recipe": RECIPE} | how
    return few_shot_curve(ROWS, LABELS, VAL, VAL_LABELS, **settings)


def test_shots_are_drawn_alike_everywhere() -> None:
    assert draw_shots(LABELS[:12], 2, 7, 0).tolist() == [[9, 3], [10, 4], [5, 2]]


def test_shots_are_distinct_images_of_their_class() -> None:
    drawn = draw_shots(LABELS, 20, 0, 1)
    assert drawn.shape == (3, 20)
    for label in range(3):
        assert sorted(drawn[label]) == np.flatnonzero(label == LABELS).tolist()


def test_fewer_shots_are_among_more_and_episodes_differ() -> None:
    np.testing.assert_array_equal(draw_shots(LABELS, 3, 0, 5), draw_shots(LABELS, 9, 0, 5)[:, :3])
    drawn = [draw_shots(LABELS, 9, seed, e).tolist() for seed in (0, 1) for e in range(3)]
    assert all(one != other for i, one in enumerate(drawn) for other in drawn[:i])


def test_points_and_episodes_do_not_depend_on_what_else_is_asked() -> None:
    many = curve_of(shots=(9, 1, 4, 4), episodes=6)
    assert [point.shots for point in many.points] == [1, 4, 9]
    few = curve_of(shots=(4,), episodes=3)
    np.testing.assert_array_equal(few.points[0].accuracies, many.points[1].accuracies[:3])


def test_a_curve_is_the_same_whatever_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "WORTH_SECONDS", 0.0)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(training, "usable_cpus", lambda threads=threads: threads)
        found.append([point.describe() for point in curve_of().points])
    assert found[0] == found[1]


def test_an_episode_is_the_last_epoch_of_a_head_on_its_shots() -> None:
    rows = draw_shots(LABELS, 4, RECIPE.seed, 2).ravel()
    recipe = reseeded(RECIPE, 2, 1)
    head = train_head(ROWS[rows], LABELS[rows], VAL, VAL_LABELS, recipe, classes=3).last
    accuracy = (head.logits(VAL).argmax(axis=1) == VAL_LABELS).mean()
    assert curve_of(least_steps=1).points[1].accuracies[2] == pytest.approx(accuracy)


def test_short_epochs_are_lengthened_and_long_ones_left() -> None:
    plain, longer = curve_of(least_steps=1, shots=(1, 20)), curve_of(least_steps=15, shots=(1, 20))
    assert plain.points[0].accuracies.tolist() != longer.points[0].accuracies.tolist()
    assert plain.points[1].accuracies.tolist() == longer.points[1].accuracies.tolist()
    assert longer.points[0].accuracy > plain.points[0].accuracy


def test_views_are_trained_on_in_turn() -> None:
    views = np.stack([ROWS, ROWS + 1, ROWS - 1]).astype(np.float32)
    how: dict = {"classes": CLASSES, "shots": (3,), "episodes": 2, "recipe": RECIPE}
    found = few_shot_curve(views, LABELS, VAL, VAL_LABELS, **how)
    rows = np.tile(draw_shots(LABELS, 3, 3, 1).ravel(), 5)
    recipe = reseeded(RECIPE, 1, 1)
    head = train_head(views[:, rows], LABELS[rows], VAL, VAL_LABELS, recipe, classes=3).last
    accuracy = (head.logits(VAL).argmax(axis=1) == VAL_LABELS).mean()
    assert found.points[0].accuracies[1] == pytest.approx(accuracy)


def test_band_and_interval_are_those_of_episodes_and_of_images() -> None:
    hits = []
    for episode in range(6):
        rows = np.tile(draw_shots(LABELS, 1, 3, episode).ravel(), 14)
        recipe = reseeded(RECIPE, episode, 1)
        head = train_head(ROWS[rows], LABELS[rows], VAL, VAL_LABELS, recipe, classes=3).last
        hits.append(head.logits(VAL).argmax(axis=1) == VAL_LABELS)
    accuracies = np.mean(hits, axis=1)
    point = curve_of().points[0]
    np.testing.assert_allclose(point.accuracies, accuracies)
    assert point.accuracy == pytest.approx(accuracies.mean())
    assert point.sd == pytest.approx(np.std(accuracies, ddof=1))
    assert point.band == pytest.approx(np.quantile(accuracies, [0.025, 0.975]))
    over_images = float(np.var(np.mean(hits, axis=0), ddof=1)) / 50
    parts = [(float(np.var(accuracies, ddof=1)) / 6, 5), (over_images, 49)]
    assert point.accuracy_ci95 == pytest.approx(share_interval(accuracies.mean(), 50, parts))


def test_images_that_are_right_in_every_episode_widen_the_interval() -> None:
    hits = np.tile(np.arange(40) < 28, (5, 1))
    hits[0, 28:36] = True  # an episode that did better
    point = _point(1, hits)
    only_episodes = share_interval(point.accuracy, 40, [(point.sd**2 / 5, 4)])
    assert point.accuracy_ci95[1] - point.accuracy_ci95[0] > np.diff(only_episodes)[0] + 0.01


def test_one_image_can_judge() -> None:
    point = _point(1, np.array([[True], [False], [True]]))
    low, high = point.accuracy_ci95
    assert low < 0.2 and high > 0.9


def test_the_description_says_that_nothing_was_chosen() -> None:
    values = curve_of().describe()
    assert (values["selected_on"], values["episodes"], values["images"]) == ("none", 6, 50)
    assert [point["shots"] for point in values["curve"]] == [1, 4]
    assert len(values["curve"][0]["accuracies"]) == 6


def test_more_shots_than_images_of_a_class_are_refused() -> None:
    labels = LABELS.copy()
    labels[labels == 1] = 2
    labels[:3] = [0, 1, 1]
    with pytest.raises(DataError, match=r"--shots 5: .* 5 training images of each class, found 2"):
        few_shot_curve(ROWS, labels, VAL, VAL_LABELS, classes=CLASSES, shots=(1, 5))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"shots": ()}, "--shots: expected whole numbers over 0, found none"),
        ({"shots": (0, 2)}, "--shots: expected whole numbers over 0, found 0, 2"),
        ({"episodes": 0}, "--episodes: expected a whole number from 2 to 10000"),
        ({"episodes": 1}, "one draw has no spread"),
        ({"episodes": 10_001}, "--episodes: expected"),
        ({"least_steps": 0}, "--least-steps: expected a whole number from 1 to"),
    ],
)
def test_draws_that_make_no_sense_are_refused(how: dict, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        curve_of(**how)
    assert words in str(caught.value)
