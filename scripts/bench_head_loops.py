"""Ways to train heads on arrays: the tutorial's, a plain loop of torch's, and tlcache's by numba.

Rows are drawn at random around a centre for each class, and are as positive as a ResNet's.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tlcache.heads.model import initial_head
from tlcache.heads.recipe import Recipe
from tlcache.heads.steps import Rates, compiled_steps

Array = NDArray[np.float32]
Arrays = tuple[Array, NDArray[np.int64], Array, NDArray[np.int64]]
"""(N, D) rows and (N,) labels to train on, (M, D) and (M,) to judge on: ``train_head``'s."""


@dataclasses.dataclass(frozen=True)
class Tutorial:
    """What the tutorial's loop took.

    Attributes:
        seconds: Of the whole run; an estimate where only a part was run.
        share: How much of the training steps was run.
    """

    seconds: float
    share: float


def drawn(n: int, val: int, dim: int, classes: int) -> Arrays:
    """Always the same rows."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((classes, dim), np.float32)

    def some(count: int) -> tuple[Array, NDArray[np.int64]]:
        labels = random.integers(0, classes, count)
        noise = random.standard_normal((count, dim), np.float32)
        return np.maximum(centres[labels] + 2 * noise, 0), labels

    return *some(n), *some(val)


def tutorial(arrays: Arrays, classes: int, recipe: Recipe, most_steps: int) -> Tutorial:
    """``nn.Linear`` under a shuffling DataLoader: a train and a val phase an epoch.

    Where an epoch has more than ``most_steps`` steps, so many are timed, and as many of the val
    phase as are their share; the seconds of the whole are these, scaled.
    """
    rows, labels, val, val_labels = (torch.from_numpy(array) for array in arrays)
    phases = {"train": TensorDataset(rows, labels), "val": TensorDataset(val, val_labels)}
    loaders = {p: DataLoader(d, recipe.batch_size, shuffle=True) for p, d in phases.items()}
    share = min(1.0, most_steps / len(loaders["train"]))
    part = share < 1
    head = nn.Linear(rows.shape[1], classes)
    optimiser = torch.optim.SGD(
        head.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, recipe.step_size, recipe.gamma)
    seconds = 0.0
    for _ in range(1 if part else recipe.epochs):
        started = time.perf_counter()
        for phase, loader in loaders.items():
            head.train(phase == "train")
            steps = max(1, round(share * len(loader)))
            _phase(head, optimiser, loader, steps, phase == "train")
        schedule.step()
        seconds += time.perf_counter() - started
    return Tutorial(seconds / share * recipe.epochs if part else seconds, share)


def _phase(
    head: nn.Module, optimiser: torch.optim.Optimizer, loader: DataLoader, most: int, train: bool
) -> None:
    """The tutorial's own lines."""
    loss_of, running_loss, hits = nn.CrossEntropyLoss(), 0.0, torch.tensor(0)
    for _, (inputs, labels) in zip(range(most), loader, strict=False):
        optimiser.zero_grad()
        with torch.set_grad_enabled(train):
            outputs = head(inputs)
            _, predicted = torch.max(outputs, 1)
            loss = loss_of(outputs, labels)
            if train:
                loss.backward()
                optimiser.step()
        running_loss += loss.item() * inputs.size(0)
        hits += torch.sum(predicted == labels.data)


def by_torch(arrays: Arrays, classes: int, recipe: Recipe) -> Array:
    """(C, D + 1): weights and biases by torch's autograd and SGD, in the recipe's orders."""
    rows, labels = (torch.from_numpy(array) for array in arrays[:2])
    begun = initial_head(classes, rows.shape[1], recipe.seed)
    head = nn.Linear(rows.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(begun.weight))
        head.bias.copy_(torch.from_numpy(begun.bias))
    optimiser = torch.optim.SGD(
        head.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    for epoch in range(recipe.epochs):
        optimiser.param_groups[0]["lr"] = recipe.learning_rate(epoch)
        order = torch.from_numpy(recipe.epoch_order(epoch, len(rows)))
        for batch in order.split(recipe.batch_size):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(rows[batch]), labels[batch]).backward()
            optimiser.step()
    return np.column_stack([head.weight.detach().numpy(), head.bias.detach().numpy()])


def first_steps(kept: Path) -> dict[str, float]:
    """Seconds until numba's steps have run once; for a process that has not loaded it yet.

    Args:
        kept: Where numba keeps what it compiles.
    """
    os.environ["NUMBA_CACHE_DIR"] = str(kept)
    weight, rows, rate = np.zeros((1, 2, 4), np.float32), np.ones((4, 4), np.float32), np.zeros(1)
    rates = Rates(*[rate.astype(np.float32)] * 3)
    started = time.perf_counter()
    compiled_steps()(weight, weight.copy(), rows, np.zeros(4, np.int64), 4, rates)
    return {"seconds": time.perf_counter() - started}
