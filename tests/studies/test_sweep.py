from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import numpy as np
import pytest

import tlcache.studies.sweep
from tlcache.core.errors import DataError, OptionError
from tlcache.evaluation.metrics import evaluate, wilson_interval
from tlcache.features.read import Features
from tlcache.heads.model import Head
from tlcache.heads.recipe import Recipe
from tlcache.heads.rows import HeadData, scaling_of
from tlcache.heads.train import train_head, train_heads
from tlcache.studies.settings import Setting, Space, grid
from tlcache.studies.sweep import fit_settings, sweep_heads, ticks

DIM, CLASSES = 8, ("ants", "bees", "꿀벌")
SIZES = {"train": 60, "val": 30, "test": 24}


def features(*splits: str, views: int = 0, spread: float = 1.6) -> Features:
    """Three overlapping classes; some features far larger than others."""
    random = np.random.default_rng(1)
    counts = [SIZES[name] if name in splits else 0 for name in SIZES]
    labels = np.concatenate([np.arange(count) % 3 for count in counts]).astype(np.int32)
    centres = random.normal(size=(3, DIM))
    rows = centres[labels] + spread * random.normal(size=(len(labels), DIM))
    made = (rows * np.geomspace(0.1, 10, DIM) + 1).astype(np.float32)
    train = made[: counts[0]]
    return Features(
        features=made,
        labels=labels,
        splits=np.repeat(np.arange(3), counts).astype(np.int8),
        paths=[f"{i}.jpg" for i in range(len(labels))],
        classes=CLASSES,
        train_views=np.stack([train + k for k in range(views)]) if views else None,
    )


def data(of: Features) -> HeadData:
    views = of.to_train_on()
    views = views if views.ndim == 3 else views[None]
    return HeadData(views, of.split("train")[1], *of.split("val"), len(CLASSES))


SPACE = Space(
    Recipe(epochs=5, step_size=2),
    lr=(1e-4, 1e-2),
    weight_decay=(0.0, 0.05),
    schedule=("step", "cosine"),
    batch_size=(4, 7),
    features=("raw", "standardised", "l2"),
    c=(0.01, 1.0),
)
FEW = grid(dataclasses.replace(SPACE, schedule=("step",), batch_size=(4,)))


@pytest.mark.parametrize("worth", [0.0, math.inf])
def test_256_heads_of_different_settings_trained_together_are_those_trained_alone(
    worth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if worth == 0.0:
        pytest.importorskip("numba", reason="compiled steps need numba")
    monkeypatch.setattr("tlcache.heads.train.WORTH_SECONDS", worth)
    wide = dataclasses.replace(
        SPACE, lr=(1e-4, 1e-3, 1e-2), schedule=("step", "constant", "cosine"), solver=("sgd",)
    )
    settings = dict(enumerate(grid(wide)))
    seeds = 3
    of = features("train", "val", views=2)
    together = list(fit_settings(settings, data(of), seeds=seeds))
    assert len(together) == 3 * 2 * 3 * 2 * 3 * seeds == 324 >= 256
    assert [(fit.setting, fit.seed) for fit in together] == [
        (i, k) for i in settings for k in range(seeds)
    ]
    monkeypatch.setattr("tlcache.heads.train.WORTH_SECONDS", math.inf)
    val, truths = of.split("val")
    for fit in together:
        setting = settings[fit.setting]
        assert setting.recipe is not None and fit.head is not None
        scaling = scaling_of(setting.features, of.to_train_on())
        recipe = dataclasses.replace(setting.recipe, seed=fit.seed)
        rows = scaling.scaled(of.to_train_on()), of.split("train")[1], scaling.scaled(val), truths
        alone = scaling.on_raw_rows(train_head(*rows, recipe, classes=3).last)
        np.testing.assert_allclose(fit.head.weight, alone.weight, rtol=0, atol=1e-5)
        np.testing.assert_allclose(fit.head.bias, alone.bias, rtol=0, atol=1e-5)
        assert fit.head.normalise == alone.normalise == (setting.features == "l2")
    weights = {fit.head.weight.tobytes() for fit in together if fit.head is not None}
    assert len(weights) == len(together), "they must differ"


def test_each_head_is_judged_as_the_one_evaluation_judges_it() -> None:
    of = features("train", "val")
    val, labels = of.split("val")
    for fit in fit_settings(dict(enumerate(FEW)), data(of)):
        assert fit.head is not None
        judged = evaluate(fit.head.logits(val), labels, CLASSES)
        assert (fit.accuracy, fit.loss) == (judged.accuracy, judged.loss)
        assert len(fit.history) == (0 if FEW[fit.setting].recipe is None else 5)
        if fit.history:
            assert fit.history[-1].val_loss == pytest.approx(judged.loss, abs=1e-4)


def test_memory_bounds_how_many_heads_are_side_by_side_and_seeds_stay_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, of = dict(enumerate(FEW)), features("train", "val")
    whole = list(fit_settings(settings, data(of), seeds=2))
    counts: list[int] = []

    def counted(*arrays: Any, **how: Any) -> Any:
        counts.append(len(arrays[4]))
        return train_heads(*arrays, **how)

    monkeypatch.setattr(tlcache.studies.sweep, "train_heads", counted)
    monkeypatch.setattr(tlcache.studies.sweep, "_NUMBERS_AT_ONCE", 3 * 3 * (DIM + 1))
    parts = list(fit_settings(settings, data(of), seeds=2))
    assert set(counts) == {2}
    for a, b in zip(whole, parts, strict=True):
        assert (a.setting, a.seed, a.accuracy) == (b.setting, b.seed, b.accuracy)


def test_val_chooses_and_its_head_is_kept_where_there_is_no_test() -> None:
    of = features("train", "val")
    swept = sweep_heads(of, FEW, seeds=2)
    assert (swept.selected_on, swept.fitted_on) == ("val", ("train",))
    best = max(swept.candidates, key=lambda c: (c.accuracy, -c.loss, -c.index))
    assert swept.best == best
    fits = list(fit_settings({0: FEW[best.index]}, data(of), seeds=2))
    for name in ("weight", "bias"):
        expected = getattr(fits[0].head, name)
        np.testing.assert_allclose(getattr(swept.head, name), expected, rtol=0, atol=1e-5)
    assert best.accuracy == pytest.approx(np.mean([fit.accuracy for fit in fits]))
    assert best.accuracy_ci95 == wilson_interval(best.accuracy * 30, 30)
    assert sorted(swept.ranked) == list(range(len(FEW)))
    losses = [swept.candidates[i].accuracy for i in swept.ranked]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) > 2


def test_where_test_is_to_score_the_chosen_setting_is_fitted_to_train_and_val() -> None:
    of = features("train", "val", "test")
    swept = sweep_heads(of, FEW)
    assert (swept.selected_on, swept.fitted_on) == ("val", ("train", "val"))
    assert swept.candidates == sweep_heads(features("train", "val"), FEW).candidates
    both = len(of.split("train")[1]) + len(of.split("val")[1])
    pooled = HeadData(of.features[None, :both], of.labels[:both], *of.split("val"), 3)
    (fit,) = fit_settings({0: FEW[swept.best.index]}, pooled)
    assert fit.head is not None
    np.testing.assert_array_equal(swept.head.weight, fit.head.weight)
    shuffled = dataclasses.replace(of, labels=of.labels.copy())
    shuffled.labels[both:] = 0  # what test says of itself changes nothing
    again = sweep_heads(shuffled, FEW)
    np.testing.assert_array_equal(again.head.weight, swept.head.weight)


@pytest.mark.parametrize("splits", [("train",), ("train", "val"), ("train", "val", "test")])
def test_folds_of_train_choose_and_every_other_split_is_left(splits: tuple[str, ...]) -> None:
    of = features(*splits)
    swept = sweep_heads(of, FEW, folds=4 if len(splits) > 1 else 0, seeds=2)
    folds = 4 if len(splits) > 1 else 5
    assert swept.selected_on == f"{folds}-fold cross-validation on train"
    assert swept.fitted_on == ("train",)
    for candidate in swept.candidates:
        assert candidate.n == 60  # every training image was held out once
        for accuracy in candidate.accuracies:
            assert accuracy * 60 == pytest.approx(round(accuracy * 60), abs=1e-9)
    only = dataclasses.replace(data(features("train", "val")), val=of.split("train")[0][:30])
    (fit,) = fit_settings({0: FEW[swept.best.index]}, only)
    assert fit.head is not None
    np.testing.assert_allclose(swept.head.weight, fit.head.weight, rtol=0, atol=1e-5)
    assert bool(swept.history) == (len(splits) > 1 and swept.best.setting.recipe is not None)


def test_folds_say_what_a_leave_out_by_hand_says() -> None:
    from tlcache.data.splits import draw_folds

    of = features("train")
    rows, labels = of.split("train")
    swept = sweep_heads(of, FEW, folds=3, fold_seed=7)
    chosen = draw_folds(labels, 3, 7, classes=CLASSES)
    hits = np.zeros(len(FEW))
    for fold in range(3):
        kept, held = chosen != fold, chosen == fold
        part = HeadData(rows[None, kept], labels[kept], rows[held], labels[held], 3)
        for fit in fit_settings(dict(enumerate(FEW)), part):
            hits[fit.setting] += fit.accuracy * held.sum()
    np.testing.assert_allclose([c.accuracy for c in swept.candidates], hits / 60)


def test_ties_go_to_the_lower_loss_and_then_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {0: (0.5, 0.1), 1: (0.9, 0.4), 2: (0.9, 0.3), 3: (0.9, 0.3), 4: (math.nan, math.nan)}
    head = Head(np.zeros((3, DIM), np.float32), np.zeros(3, np.float32))

    def made(settings: dict[int, Setting], *_: Any, **__: Any) -> Any:
        for i, (accuracy, loss) in scores.items():
            yield tlcache.studies.sweep.Fit(i, 0, head, [], accuracy, loss)

    monkeypatch.setattr("tlcache.studies.sweep.fit_settings", made)
    settings = [Setting("raw", c=float(i + 1)) for i in range(5)]
    swept = sweep_heads(features("train", "val"), settings)
    assert swept.ranked == [2, 3, 1, 0, 4]
    assert swept.candidates[4].failed


def test_a_head_that_diverges_ranks_last_without_a_number() -> None:
    wild = [Setting("raw", Recipe(lr=1e38, epochs=3)), Setting("raw", Recipe(lr=1e-3, epochs=3))]
    of = features("train", "val")
    swept = sweep_heads(of, wild, seeds=2)
    assert swept.ranked == [1, 0]
    described = swept.candidates[0].describe()
    assert described["failed"] is True
    assert described["accuracies"] == [None, None]
    assert (described["accuracy"], described["accuracy_ci95"], described["loss"]) == (None,) * 3
    with pytest.raises(DataError, match=r"the sweep: expected .* found none among 1 settings; try"):
        sweep_heads(of, wild[:1])


def test_views_count_as_their_image_does() -> None:
    """The same image K times is the image: the same penalty, the same head."""
    of = features("train", "val")
    same = dataclasses.replace(of, train_views=np.stack([of.split("train")[0]] * 3))
    settings = {0: Setting("raw", c=0.1)}
    (once,), (thrice,) = (list(fit_settings(settings, data(x))) for x in (of, same))
    assert once.head is not None and thrice.head is not None
    np.testing.assert_allclose(once.head.weight, thrice.head.weight, atol=1e-4)


def test_views_of_val_are_the_images_where_it_is_trained_on() -> None:
    of = features("train", "val", "test", views=2)
    swept = sweep_heads(of, [Setting("raw", Recipe(epochs=2))])
    assert swept.fitted_on == ("train", "val")
    assert np.isfinite(swept.head.weight).all()


def test_progress_counts_every_epoch_of_every_head_once() -> None:
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def tell(done: int, total: int) -> None:
        with lock:
            seen.append((done, total))

    sweep_heads(features("train", "val"), FEW, seeds=2, folds=3, progress=tell)
    total = 3 * ticks(dict(enumerate(FEW)), 2)
    assert total == 3 * (3 * 2 * 2 * 2 * 5 + 3 * 2)
    assert sorted(seen) == [(i, total) for i in range(1, total + 1)]


def test_the_same_seed_gives_the_same_sweep_whatever_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba", reason="threads train by compiled steps")
    monkeypatch.setattr("tlcache.heads.train.WORTH_SECONDS", 0.0)
    of, found = features("train", "val"), []
    for threads in (1, 3):
        monkeypatch.setattr("tlcache.heads.train.usable_cpus", lambda n=threads: n)
        found.append(sweep_heads(of, FEW))
    assert found[0].candidates == found[1].candidates
    np.testing.assert_array_equal(found[0].head.weight, found[1].head.weight)


@pytest.mark.parametrize(
    ("of", "settings", "folds", "error", "words"),
    [
        (
            features("train", "val"),
            [],
            0,
            OptionError,
            "settings: expected one or more, found none",
        ),
        (
            dataclasses.replace(
                features("train", "val"), labels=np.zeros(SIZES["train"] + SIZES["val"], np.int32)
            ),
            FEW,
            0,
            DataError,
            "the training images: expected images of two classes or more, found only ants; add",
        ),
        (features("val"), FEW, 0, DataError, "found no image"),
        (features("train"), FEW, 21, DataError, "--folds 21: expected at least 21 images of each"),
        (features("train"), FEW, 1, OptionError, "--folds: expected a whole number of at least 2"),
        (features("train"), FEW, -3, OptionError, "--folds: expected a whole number of at least 2"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    of: Features, settings: list[Setting], folds: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as refused:
        sweep_heads(of, settings, folds=folds)
    assert words in str(refused.value)
