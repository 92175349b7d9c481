from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from tlcache.errors import DataError
from tlcache.head_training import train_head
from tlcache.heads import Head, initial_head
from tlcache.recipe import Recipe

N, DIM = 30, 7


def arrays(classes: int = 3, views: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, N)
    shape = (N, DIM) if views is None else (views, N, DIM)
    return (random.normal(size=shape) + 0.3 * labels[:, None]).astype(np.float32), labels


def plain_torch(features: np.ndarray, labels: np.ndarray, recipe: Recipe, classes: int) -> Head:
    """The tutorial's loop over a linear layer, by torch's autograd, SGD and StepLR."""
    start = initial_head(classes, DIM, recipe.seed)
    layer = torch.nn.Linear(DIM, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start.weight))
        layer.bias.copy_(torch.from_numpy(start.bias))
    sgd = torch.optim.SGD(
        layer.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.StepLR(sgd, recipe.step_size, recipe.gamma)
    views = features if features.ndim == 3 else features[None]
    for epoch in range(recipe.epochs):
        order = recipe.epoch_order(epoch, len(labels))
        for at in range(0, len(order), recipe.batch_size):
            batch = order[at : at + recipe.batch_size]
            sgd.zero_grad()
            logits = layer(torch.from_numpy(views[epoch % len(views)][batch]))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch])).backward()
            sgd.step()
        schedule.step()
    return Head(layer.weight.detach().numpy(), layer.bias.detach().numpy())


@pytest.mark.parametrize(
    ("recipe", "classes", "views"),
    [
        (Recipe(lr=0.05), 3, None),
        (Recipe(lr=0.05, weight_decay=0.1, batch_size=7), 3, None),
        (Recipe(epochs=1, lr=0.5, momentum=0.0), 2, None),
        (Recipe(epochs=9, lr=0.05, step_size=2, gamma=0.5, seed=4), 3, 4),
        (Recipe(epochs=5, lr=0.05, batch_size=100), 20, None),
    ],
)
def test_the_closed_form_takes_the_path_of_torch(
    recipe: Recipe, classes: int, views: int | None
) -> None:
    features, labels = arrays(classes, views)
    val, val_labels = arrays(classes)
    ours = train_head(features, labels, val, val_labels, recipe, classes=classes).last
    theirs = plain_torch(features, labels, recipe, classes)
    np.testing.assert_allclose(ours.weight, theirs.weight, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours.bias, theirs.bias, rtol=0, atol=2e-6)


def test_training_repeats_and_a_seed_changes_it() -> None:
    features, labels = arrays()

    def weights(seed: int) -> np.ndarray:
        recipe = Recipe(seed=seed)
        return train_head(features, labels, features, labels, recipe, classes=3).last.weight

    np.testing.assert_array_equal(weights(1), weights(1))
    assert np.abs(weights(1) - weights(2)).max() > 1e-3


def test_the_first_of_equally_good_epochs_is_kept() -> None:
    features, labels = arrays(2)
    heads: list[int] = []
    trained = train_head(
        features,
        labels,
        features,
        labels,
        Recipe(lr=0.05),
        classes=2,
        on_epoch=lambda record: heads.append(record.epoch),
    )
    accuracies = [record.val_accuracy for record in trained.history]
    assert trained.best_epoch == 1 + accuracies.index(max(accuracies))
    assert heads == list(range(1, 26))
    hits = trained.head.logits(features).argmax(axis=1) == labels
    assert hits.mean() == max(accuracies)


def test_a_loss_that_overflows_says_to_lower_the_learning_rate() -> None:
    features, labels = arrays()
    with pytest.raises(DataError, match="lower the learning rate"):
        train_head(
            features * np.float32(1e20),
            labels,
            features,
            labels,
            Recipe(lr=1e20, epochs=5),
            classes=3,
        )


def test_arrays_that_do_not_fit_are_refused() -> None:
    features, labels = arrays()
    with pytest.raises(DataError, match="one label a row"):
        train_head(features, labels[:-1], features, labels, classes=3)
    with pytest.raises(DataError, match="expected labels from 0 to 1, found 0 to 2"):
        train_head(features, labels, features, labels, classes=2)


def test_training_a_head_needs_no_torch() -> None:
    code = "import sys, tlcache.head_training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
