from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import tlcache.core.machine
import tlcache.heads.train
from tlcache.core.errors import DataError, OptionError
from tlcache.heads.model import Head, initial_head
from tlcache.heads.recipe import EpochRecord, Recipe
from tlcache.heads.train import TrainedHead, train_head, train_heads, train_separately

N, DIM = 30, 7


def arrays(classes: int = 3, views: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(N) % classes
    shape = (N, DIM) if views is None else (views, N, DIM)
    return (random.normal(size=shape) + 0.3 * labels[:, None]).astype(np.float32), labels


def plain_torch(
    features: np.ndarray, labels: np.ndarray, recipe: Recipe, start: Head
) -> tuple[Head, list[float]]:
    """The tutorial's loop over a linear layer, by torch's autograd, SGD and StepLR."""
    classes, dim = start.weight.shape
    layer = torch.nn.Linear(dim, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start.weight))
        layer.bias.copy_(torch.from_numpy(start.bias))
    sgd = torch.optim.SGD(
        layer.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.StepLR(sgd, recipe.step_size, recipe.gamma)
    views, losses = features if features.ndim == 3 else features[None], []
    for epoch in range(recipe.epochs):
        order, running = recipe.epoch_order(epoch, len(labels)), 0.0
        for at in range(0, len(order), recipe.batch_size):
            batch = order[at : at + recipe.batch_size]
            sgd.zero_grad()
            logits = layer(torch.from_numpy(views[epoch % len(views)][batch]))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]))
            loss.backward()
            sgd.step()
            running += loss.item() * len(batch)
        schedule.step()
        losses.append(running / len(order))
    return Head(layer.weight.detach().numpy(), layer.bias.detach().numpy()), losses


@pytest.mark.parametrize(
    ("recipe", "classes", "views"),
    [
        (Recipe(), 2, None),
        (Recipe(lr=0.02, weight_decay=0.1, batch_size=7), 3, None),
        (Recipe(epochs=1, lr=0.5, momentum=0.0), 2, None),
        (Recipe(epochs=9, lr=0.02, step_size=2, gamma=0.5, seed=4), 3, 4),
        (Recipe(epochs=3, lr=0.02, batch_size=1), 3, 3),
        (Recipe(epochs=5, lr=0.05, batch_size=100), 20, None),
        (Recipe(epochs=4, lr=0.02), 100, 1),
    ],
)
def test_the_closed_form_takes_the_path_of_torch(
    recipe: Recipe, classes: int, views: int | None
) -> None:
    features, labels = arrays(classes, views)
    val, val_labels = arrays(classes)
    start = initial_head(classes, DIM, recipe.seed)
    trained = train_head(features, labels, val, val_labels, recipe, classes=classes)
    theirs, losses = plain_torch(features, labels, recipe, start)
    np.testing.assert_allclose(trained.last.weight, theirs.weight, rtol=0, atol=1e-6)
    np.testing.assert_allclose(trained.last.bias, theirs.bias, rtol=0, atol=1e-6)
    np.testing.assert_allclose([r.train_loss for r in trained.history], losses, rtol=1e-5)
    assert np.abs(trained.last.weight - start.weight).max() > 1e-3, "it must have moved"


def test_the_given_head_is_where_training_starts_and_is_left_as_it_was() -> None:
    features, labels = arrays()
    start = Head(np.full((3, DIM), 0.25, np.float32), np.array([0.5, 0, -0.5], np.float32))
    kept = Head(start.weight.copy(), start.bias.copy())
    recipe = Recipe(epochs=2, lr=0.02)
    trained = train_head(features, labels, features, labels, recipe, classes=3, head=start)
    theirs, _ = plain_torch(features, labels, recipe, kept)
    np.testing.assert_allclose(trained.last.weight, theirs.weight, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(start.weight, kept.weight)
    np.testing.assert_array_equal(start.bias, kept.bias)


def test_epoch_e_sees_view_e_mod_v_and_no_other() -> None:
    features, labels = arrays(views=3)
    recipe = Recipe(epochs=2, lr=0.02)
    unseen = features.copy()
    unseen[2] += 100

    def weight(views: np.ndarray) -> np.ndarray:
        return train_head(views, labels, views[0], labels, recipe, classes=3).last.weight

    np.testing.assert_array_equal(weight(features), weight(unseen))
    assert np.abs(weight(features) - weight(features[::-1])).max() > 1e-4


def test_training_repeats_and_a_seed_changes_it() -> None:
    features, labels = arrays()

    def weight(seed: int) -> np.ndarray:
        recipe = Recipe(seed=seed)
        return train_head(features, labels, features, labels, recipe, classes=3).last.weight

    np.testing.assert_array_equal(weight(1), weight(1))
    assert np.abs(weight(1) - weight(2)).max() > 1e-3


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_floats_are_taken_as_float32(dtype: type) -> None:
    features, labels = arrays()
    features = features.astype(np.float16)

    def weight(features: np.ndarray) -> np.ndarray:
        return train_head(features, labels, features, labels, classes=3).last.weight

    np.testing.assert_array_equal(weight(features.astype(dtype)), weight(features))
    assert weight(features.astype(dtype)).dtype == np.float32


def test_the_first_of_equally_good_epochs_is_kept() -> None:
    features, labels = arrays(2)
    seen: list[EpochRecord] = []
    trained = train_head(
        features, labels, features, labels, Recipe(lr=0.05), classes=2, on_epoch=seen.append
    )
    assert trained.history == seen
    assert [record.epoch for record in seen] == list(range(1, 26))
    assert [record.learning_rate for record in seen[6:8]] == [0.05, pytest.approx(0.005)]
    accuracies = [record.val_accuracy for record in seen]
    assert len(set(accuracies)) > 1 and accuracies.count(max(accuracies)) > 1
    assert trained.best_epoch == 1 + accuracies.index(max(accuracies)) > 1

    until = Recipe(lr=0.05, epochs=trained.best_epoch)
    best = train_head(features, labels, features, labels, until, classes=2).last
    np.testing.assert_array_equal(trained.head.weight, best.weight)
    np.testing.assert_array_equal(trained.head.bias, best.bias)
    assert np.abs(trained.head.weight - trained.last.weight).max() > 0


def test_a_record_says_what_the_head_does_after_the_epoch() -> None:
    features, labels = arrays()
    val, val_labels = arrays()[0][::-1] + np.float32(0.1), labels[::-1]
    trained = train_head(features, labels, val, val_labels, Recipe(epochs=3), classes=3)
    logits = torch.from_numpy(trained.last.logits(val))
    truth = torch.from_numpy(val_labels.copy())
    last = trained.history[-1]
    assert last.val_loss == pytest.approx(torch.nn.functional.cross_entropy(logits, truth).item())
    assert last.val_accuracy == (logits.argmax(dim=1) == truth).double().mean().item()
    assert 0 < last.seconds < trained.seconds


def test_huge_logits_are_no_trouble() -> None:
    features, labels = arrays()
    start = Head(np.zeros((3, DIM), np.float32), np.array([1e30, 0, -1e30], np.float32))
    trained = train_head(
        features, labels, features, labels, Recipe(epochs=2), classes=3, head=start
    )
    assert np.isfinite(trained.last.weight).all()
    assert trained.history[0].train_loss == pytest.approx(1e30, rel=0.01)  # (0 + 1 + 2) / 3


def test_a_loss_that_is_no_longer_finite_says_to_lower_the_learning_rate() -> None:
    features, labels = arrays()
    with pytest.raises(DataError) as refused:
        train_head(
            features * np.float32(1e20), labels, features, labels, Recipe(lr=1e20), classes=3
        )
    assert str(refused.value) == (
        "epoch 1: expected a finite loss, found nan in training, nan on val; "
        "lower the learning rate (it was 1e+20)"
    )


def test_a_loss_that_only_val_shows_is_found_too() -> None:
    features, labels = arrays()
    recipe = Recipe(epochs=1, lr=1e30, batch_size=N)
    words = r"epoch 1: expected a finite loss, found [\d.]+ in training, (nan|inf) on val"
    with pytest.raises(DataError, match=words):
        train_head(features, labels, features * np.float32(1e10), labels, recipe, classes=3)


X, Y = arrays()
NAN = np.where(np.arange(DIM) == 2, np.float32(np.nan), X)
ONE_LABEL_A_ROW = "expected (N, D) features with (N,) labels, N at least 1, found "


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"labels": Y[:-1]},
            f"training features: {ONE_LABEL_A_ROW}(30, 7) with (29,); pass one label a row",
        ),
        ({"labels": Y[:, None]}, f"training features: {ONE_LABEL_A_ROW}(30, 7) with (30, 1)"),
        ({"features": X[0]}, f"training features: {ONE_LABEL_A_ROW}(7,) with (30,)"),
        ({"features": X[:0], "labels": Y[:0]}, f"training features: {ONE_LABEL_A_ROW}(0, 7) with"),
        ({"features": X[None][:0]}, f"training features: {ONE_LABEL_A_ROW}(30, 7) with"),
        ({"val_labels": Y[:-1]}, f"val features: {ONE_LABEL_A_ROW}(30, 7) with (29,)"),
        ({"val_features": X[None]}, f"val features: {ONE_LABEL_A_ROW}(1, 30, 7) with (30,)"),
        ({"val_features": X[:0], "val_labels": Y[:0]}, f"val features: {ONE_LABEL_A_ROW}(0, 7)"),
        (
            {"features": NAN},
            "training features: expected finite numbers, found NaN or Inf; "
            "correct or leave out those rows",
        ),
        ({"val_features": NAN}, "val features: expected finite numbers, found NaN or Inf"),
        (
            {"features": X.astype(np.float64) * 1e300},
            "training features: expected finite numbers, found NaN or Inf",
        ),
        (
            {"classes": 2},
            "training labels: expected labels from 0 to 1, found 0 to 2; "
            "correct the labels or the number of classes",
        ),
        ({"labels": Y - 1}, "training labels: expected labels from 0 to 2, found -1 to 1"),
        ({"val_labels": Y + 1}, "val labels: expected labels from 0 to 2, found 1 to 3"),
        ({"labels": Y * 1.0}, "training labels: expected labels from 0 to 2, found float64"),
        (
            {"val_features": X[:, :6]},
            "val features and head: expected (M, 7) features, a (3, 7) head with (3,) biases, "
            "found (M, 6), (3, 7) with (3,); take all of them from one trunk and one data set",
        ),
        ({"head": initial_head(4, DIM, 0)}, "found (M, 7), (4, 7) with (4,)"),
        ({"head": initial_head(3, 6, 0)}, "found (M, 7), (3, 6) with (3,)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    fitting: dict[str, Any] = {
        "features": X,
        "labels": Y,
        "val_features": X,
        "val_labels": Y,
        "classes": 3,
    }
    with pytest.raises(DataError, match=re.escape(words)):
        train_head(**fitting | changes)


def test_training_a_head_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np; from tlcache.heads.train import train_head\n"
        "x, y = np.eye(2, dtype='f4'), np.arange(2); train_head(x, y, x, y, classes=2)\n"
        "print(*{'torch', 'h5py', 'sklearn', 'scipy'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


RECIPES = [
    Recipe(epochs=4, lr=lr, momentum=momentum, weight_decay=decay, batch_size=size, seed=seed)
    for lr in (0.001, 0.02)
    for momentum in (0.0, 0.9)
    for decay in (0.0, 0.05)
    for size in (1, 4, 7)
    for seed in (0, 3)
]


@pytest.mark.parametrize("seconds", [np.inf, 0.0])
@pytest.mark.parametrize("views", [None, 3])
def test_heads_trained_side_by_side_end_as_each_would_alone(
    views: int | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = arrays(views=views)
    data = features, labels, arrays()[0], labels
    alone = [train_head(*data, recipe, classes=3) for recipe in RECIPES]
    if seconds == 0.0:
        pytest.importorskip("numba", reason="compiled steps need numba")
    monkeypatch.setattr(tlcache.heads.train, "WORTH_SECONDS", seconds)
    together = train_heads(*data, RECIPES, classes=3)
    assert len({head.head.weight.tobytes() for head in together}) == len(RECIPES)
    for one, other in zip(alone, together, strict=True):
        assert one.best_epoch == other.best_epoch
        for kind in ("head", "last"):
            a, b = getattr(one, kind), getattr(other, kind)
            np.testing.assert_allclose(a.weight, b.weight, atol=1e-5)
            np.testing.assert_allclose(a.bias, b.bias, atol=1e-5)
        for a, b in zip(one.history, other.history, strict=True):
            assert a.train_loss == pytest.approx(b.train_loss, abs=1e-5)
            assert (a.epoch, a.learning_rate, a.val_accuracy) == (
                b.epoch,
                b.learning_rate,
                b.val_accuracy,
            )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("at_once", [1 << 24, 3000])
def test_by_the_same_steps_a_head_ends_side_by_side_with_the_very_weights_it_has_alone(
    compiled: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled:
        pytest.importorskip("numba", reason="compiled steps need numba")
    monkeypatch.setattr(tlcache.heads.train, "_NUMBERS_AT_ONCE", at_once)
    random = np.random.default_rng(1)
    features, val = (random.normal(size=(n, 200)).astype(np.float32) for n in (90, 70))
    data = features, random.integers(0, 3, 90), val, random.integers(0, 3, 70)
    recipes = [Recipe(epochs=8, lr=float(lr)) for lr in np.geomspace(1e-4, 0.1, 12)]
    together = train_heads(*data, recipes, classes=3, compiled=compiled)
    for recipe, other in zip(recipes, together, strict=True):
        (one,) = train_heads(*data, [recipe], classes=3, compiled=compiled)
        assert one.best_epoch == other.best_epoch
        for kind in ("head", "last"):
            a, b = getattr(one, kind), getattr(other, kind)
            np.testing.assert_array_equal(a.weight, b.weight)
            np.testing.assert_array_equal(a.bias, b.bias)
        for a, b in zip(one.history, other.history, strict=True):
            assert (a.val_accuracy, a.train_accuracy) == (b.val_accuracy, b.train_accuracy)
            assert a.val_loss == pytest.approx(b.val_loss, rel=1e-12)


def test_small_products_are_made_by_one_thread_of_the_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, matmul = set[int](), np.matmul

    def threads(*given: Any, **options: Any) -> Any:
        seen.update(pool["num_threads"] for pool in blas.info())
        return matmul(*given, **options)

    blas = tlcache.core.machine._blas()
    if not blas.info():
        pytest.skip("numpy's BLAS here is none whose threads can be limited")
    monkeypatch.setattr(np, "matmul", threads)
    features, labels = arrays()
    with blas.limit(limits=2):
        train_heads(features, labels, features, labels, [Recipe(), Recipe()], classes=3)
        assert {pool["num_threads"] for pool in blas.info()} == {2}
    assert seen == {1}


def test_compiled_steps_that_are_asked_for_and_not_installed_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tlcache.heads.train, "can_compile", lambda: False)
    features, labels = arrays()
    with pytest.raises(OptionError, match=r"compiled steps: expected numba, .*; pip install "):
        train_heads(features, labels, features, labels, [Recipe()], classes=3, compiled=True)


@pytest.mark.parametrize("seconds", [np.inf, 0.0])
def test_a_head_that_diverges_leaves_the_others_alone(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seconds == 0.0:
        pytest.importorskip("numba", reason="compiled steps need numba")
    monkeypatch.setattr(tlcache.heads.train, "WORTH_SECONDS", seconds)
    features, labels = arrays()
    told: list[tuple[int, int]] = []

    def train(middle: float) -> list[TrainedHead]:
        told.clear()
        return train_heads(
            features * 100,
            labels,
            features,
            labels,
            [Recipe(lr=lr) for lr in (0.01, middle, 0.01)],
            classes=3,
            on_epoch=lambda head, record: told.append((head, record.epoch)),
        )

    sound, trained = train(0.02), train(1e38)
    assert not any(head.diverged for head in sound)
    assert [head.diverged for head in trained] == [False, True, False]
    assert [len(head.history) for head in trained] == [25, told.count((1, 1)), 25]
    for i in (0, 2):  # in its place: a BLAS may sum a row's products in another order elsewhere
        np.testing.assert_array_equal(trained[i].last.weight, sound[i].last.weight)


def test_an_interruption_ends_the_heads_of_other_threads_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba", reason="threads train by compiled steps")
    monkeypatch.setattr(tlcache.heads.train, "usable_cpus", lambda: 2)
    features, labels = arrays()
    recipes = [Recipe(epochs=5000, seed=seed) for seed in (0, 1)]
    told = [0, 0]

    def stop(head: int, _: EpochRecord) -> None:
        told[head] += 1
        if head == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data = features, labels, features, labels
        train_heads(*data, recipes, classes=3, on_epoch=stop, compiled=True)
    assert told[0] == 1 and told[1] < 5000


def test_memory_does_not_depend_on_how_many_rows_are_judged_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = arrays()
    data = features, labels, features, labels
    whole = train_heads(*data, RECIPES[:6], classes=3)
    monkeypatch.setattr(tlcache.heads.train, "_NUMBERS_AT_ONCE", 1)
    for a, b in zip(whole, train_heads(*data, RECIPES[:6], classes=3), strict=True):
        np.testing.assert_allclose(a.last.weight, b.last.weight, atol=1e-6)
        assert a.history[-1].val_loss == pytest.approx(b.history[-1].val_loss, abs=1e-6)


def test_a_gpu_that_is_asked_for_and_not_there_is_refused() -> None:
    features, labels = np.ones((3, 2), np.float32), np.arange(3)
    with pytest.raises(OptionError, match="--device cuda: expected a CUDA GPU, found none"):
        train_heads(features, labels, features, labels, [Recipe()], classes=3, device="cuda")


@pytest.mark.gpu
def test_heads_trained_on_a_gpu_are_those_of_the_cpu() -> None:
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(90, 16)).astype(np.float32), random.integers(0, 3, 90)
    recipes = [Recipe(epochs=4, lr=lr) for lr in (0.001, 0.01, 0.1)]
    given = features, labels, features, labels, recipes
    here, there = (train_heads(*given, classes=3, device=d) for d in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one.last.weight, other.last.weight, rtol=0, atol=1e-5)


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
    monkeypatch.setattr(tlcache.heads.train, "WORTH_SECONDS", 0.0)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(tlcache.heads.train, "usable_cpus", lambda threads=threads: threads)
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
