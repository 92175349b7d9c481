"""The training recipe that heads and finetuning share: plain numbers, seeded orders, a schedule.

Covers no training: ``train`` and ``networks.finetune`` follow a recipe, each in its own way, and
because both take order and schedule from here, their trajectories can be compared step by step.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import OptionError

SCHEDULES = ("step", "constant", "cosine")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """SGD with momentum and a schedule. The defaults are the tutorial's.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; the last batch of an epoch may be smaller.
        lr: Learning rate of the first epoch.
        momentum: Of SGD, without dampening or Nesterov.
        weight_decay: L2 penalty, added to the gradient as torch's SGD does.
        step_size, gamma: The learning rate is multiplied by ``gamma`` every ``step_size`` epochs,
            where the schedule is ``step``.
        seed: Of the first head and of every epoch's order.
        block: Rows that lie together and are shuffled among themselves, in blocks that are shuffled
            as wholes, so that rows can be read from a disk in turn; 0: all rows are one block.
        schedule: ``step``; ``constant``; or ``cosine``, from ``lr`` to almost 0 along half a cosine
            wave: Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts",
            ICLR 2017, without a restart.

    Raises:
        OptionError: If a value makes no sense.
    """

    epochs: int = 25
    batch_size: int = 4
    lr: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 0.0
    step_size: int = 7
    gamma: float = 0.1
    seed: int = 0
    block: int = 0
    schedule: str = "step"

    def __post_init__(self) -> None:
        whole, positive = "a whole number over 0", "a number over 0"
        good_seed = _whole(self.seed, 0) and self.seed < 2**63
        for good, option, expected, found in (
            (_whole(self.epochs, 1), "--epochs", whole, self.epochs),
            (_whole(self.batch_size, 1), "--batch-size", whole, self.batch_size),
            (0 < self.lr < math.inf, "--lr", positive, self.lr),
            (0 <= self.momentum < 1, "--momentum", "0 <= momentum < 1", self.momentum),
            (0 <= self.weight_decay < math.inf, "--weight-decay", "0 or more", self.weight_decay),
            (_whole(self.step_size, 1), "--step-size", whole, self.step_size),
            (0 < self.gamma < math.inf, "--gamma", positive, self.gamma),
            (_whole(self.block, 0), "block", "a whole number, or 0", self.block),
            (good_seed, "--seed", "a whole number from 0 to 2^63 - 1", self.seed),
            (self.schedule in SCHEDULES, "--schedule", " or ".join(SCHEDULES), self.schedule),
        ):
            if not good:
                remedy = "correct it, or leave it out for the default"
                raise OptionError(option, expected, str(found), remedy)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0 (torch's StepLR or CosineAnnealingLR)."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        rate = self.lr
        for _ in range(epoch // self.step_size):  # a power would round otherwise than StepLR does
            rate *= self.gamma
        return rate

    def epoch_order(self, epoch: int, n: int) -> NDArray[np.int64]:
        """The order in which an epoch, counted from 0, takes the n training images: (n,)."""
        # A spawn key, not [seed, epoch]: those words give epoch 0 the very numbers of the head.
        stream = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        random, size = np.random.Generator(stream), self.block or n
        if size >= n:
            return random.permutation(n)
        starts = random.permutation(np.arange(0, n, size))
        blocks = [start + random.permutation(min(size, n - start)) for start in starts]
        return np.concatenate(blocks)

    def describe(self) -> dict[str, Any]:
        """Every option as a plain value; the schedule where it is not the tutorial's.

        Runs that were described before there was another one thus stay what they are.
        """
        values = dataclasses.asdict(self)
        if self.schedule == "step":
            del values["schedule"]
        return values


def reseeded(recipe: Recipe, *key: int) -> Recipe:
    """The recipe with a seed made of its own and a key: another one, the same everywhere.

    The key has two numbers at least, lest the seed be made as an epoch's order is.
    """
    drawn = np.random.SeedSequence(recipe.seed, spawn_key=key).generate_state(1, np.uint64)
    return dataclasses.replace(recipe, seed=int(drawn[0] >> np.uint64(1)))


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: Counted from 1.
        learning_rate: Of this epoch.
        train_loss, train_accuracy: Running means over the epoch's own steps, as the tutorial
            prints them: the weights move while they are taken.
        val_loss, val_accuracy: After the epoch.
        seconds: Of both phases.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float

    def line(self, epochs: int) -> str:
        """The epoch in one line, for people."""
        return (
            f"epoch {self.epoch:>{len(str(epochs))}}/{epochs}  "
            f"train loss {self.train_loss:.4f} acc {self.train_accuracy:.4f}  "
            f"val loss {self.val_loss:.4f} acc {self.val_accuracy:.4f}  {self.seconds:.2f} s"
        )


@dataclasses.dataclass(frozen=True)
class StartRecord:
    """What a network that has learned before makes of the n images of val, ahead of any epoch."""

    val_loss: float
    val_accuracy: float
    n: int

    def line(self, epochs: int) -> str:
        """The start as if it were an epoch, for people."""
        before = f"epoch {0:>{len(str(epochs))}}/{epochs}  {'as it came':<29}"
        return f"{before}  val loss {self.val_loss:.4f} acc {self.val_accuracy:.4f}"


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and value >= least
