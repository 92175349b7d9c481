"""A finetuning run, an epoch at a time: steps, validation, and the best network so far.

Covers no files: a run gives itself away as a plain value, and goes on from one (``checkpoints``).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tlcache.core.errors import DataError, OptionError
from tlcache.core.machine import batch_size_for
from tlcache.data.folders import ImageDataset
from tlcache.heads.model import Head
from tlcache.heads.recipe import EpochRecord, Recipe, StartRecord
from tlcache.networks.checkpoints import Checkpoint
from tlcache.networks.loading import Batch, ImageLoader
from tlcache.networks.network import join, logits_of, to_device
from tlcache.trunks.load import Trunk

BatchNorm = Literal["eval", "train"]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""Of training steps. ``auto``: fp32 on a CPU or where the trunk is frozen, else what a GPU is fast
in: bf16, or fp16 where it has none."""

_COMPUTED_IN = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How a network is finetuned.

    Attributes:
        recipe: Epochs, batches, rates and the seed.
        freeze: Train the head only.
        bn: With ``freeze``: ``eval`` keeps the trunk fixed, ``train`` runs it in training mode.
        views: Of an image: epoch e takes view e mod ``views``; None: a new one each epoch.
        precision: Of the steps, one of ``PRECISIONS``; with ``freeze`` always fp32, as cached
            features are. Weights, and what is said of val, are fp32.

    Raises:
        OptionError: If a word or a number makes no sense.
    """

    recipe: Recipe
    freeze: bool = False
    bn: BatchNorm = "eval"
    views: int | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.bn not in ("eval", "train"):
            raise OptionError("--bn", expected="eval or train", found=self.bn, remedy="choose one")
        if self.views is not None and self.views < 1:
            raise OptionError("--views", "1 or more", str(self.views), "correct it")
        if self.precision not in PRECISIONS:
            expected = " or ".join(PRECISIONS)
            raise OptionError("--precision", expected, self.precision, "choose one")
        if self.freeze and self.precision not in ("auto", "fp32"):
            remedy = "leave it out: cached features, which this is compared with, are fp32"
            raise OptionError("--precision", "fp32 with --freeze", self.precision, remedy)

    @property
    def trunk_trains(self) -> bool:
        """In mode, if not in weights."""
        return not self.freeze or self.bn == "train"

    def precision_on(self, device: torch.device) -> str:
        """The precision, once it is known where steps are taken."""
        if self.precision != "auto":
            return self.precision
        if self.freeze or device.type == "cpu":
            return "fp32"
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class Run:
    """A run between two epochs: the network, its optimiser, and the best of it so far."""

    def __init__(self, trunk: Trunk, head: Head, tuning: Tuning, device: torch.device) -> None:
        self.tuning, self.device = tuning, device
        recipe, module = tuning.recipe, copy.deepcopy(trunk.module)
        self.network = join(module.requires_grad_(not tuning.freeze), head)
        self.network.to(device).to(memory_format=torch.channels_last)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            trained, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.precision = tuning.precision_on(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.best: dict[str, Tensor] = {}
        self.history: list[EpochRecord] = []
        self.start: StartRecord | None = None

    @property
    def best_epoch(self) -> int:
        """Counted from 1: the first with the highest val accuracy."""
        return max(self.history, key=lambda record: record.val_accuracy).epoch

    def judge_start(self, dataset: ImageDataset, loader: ImageLoader) -> None:
        """Validate the network as it came; it is none of the epochs that may be the best."""
        loss, accuracy, n = self._validated(dataset, loader)
        _check_finite("the network as it came", loss, "start from another head")
        self.start = StartRecord(loss, accuracy, n)

    def epoch(self, dataset: ImageDataset, loader: ImageLoader) -> None:
        """Train on every image once, validate, and remember the network if it is the best."""
        started, epoch, recipe = time.perf_counter(), len(self.history), self.tuning.recipe
        train, lr = dataset.indices("train"), recipe.learning_rate(epoch)
        order = train[recipe.epoch_order(epoch, len(train))]
        view = epoch % self.tuning.views if self.tuning.views else epoch
        with _seeded(self.device, recipe.seed, epoch):
            trained = self._train(loader.batches(order, recipe.batch_size, view), lr)
        validated = self._validated(dataset, loader)[:2]
        seconds = time.perf_counter() - started
        record = EpochRecord(epoch + 1, lr, *trained, *validated, seconds)
        remedy = f"lower the learning rate (it was {lr:g})"
        _check_finite(f"epoch {record.epoch}", record.train_loss + record.val_loss, remedy)
        self.history.append(record)
        if self.best_epoch == record.epoch:
            self.best = self._state()

    def _validated(self, dataset: ImageDataset, loader: ImageLoader) -> tuple[float, float, int]:
        """Loss, accuracy and number of the images of val."""
        val = loader.batches(dataset.indices("val"), batch_size_for(self.device))
        logits, labels = logits_of(self.network, val, self.device)
        losses = cross_entropy(logits.double(), labels, reduction="none")
        return *_means([losses], [logits.argmax(1) == labels]), len(labels)

    def _train(self, batches: Iterator[Batch], lr: float) -> tuple[float, float]:
        """One epoch's steps; running loss and accuracy."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.network.train(self.tuning.trunk_trains)
        losses, hits, kind = [], [], _COMPUTED_IN[self.precision]
        for batch in batches:
            images = to_device(batch.images, self.device)
            labels = batch.labels.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, kind, enabled=kind is not None):
                logits = self.network(images)
            loss = cross_entropy(logits.float(), labels, reduction="none")
            self.optimizer.zero_grad()
            self.scaler.scale(loss.mean()).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            losses.append(loss.detach())
            hits.append(logits.argmax(1) == labels)
        return _means(losses, hits)

    def _state(self) -> dict[str, Tensor]:
        """Copies, on the CPU, of every tensor that can have changed."""
        return {
            name: _copied(tensor.detach())
            for name, tensor in self.network.state_dict().items()
            if self.tuning.trunk_trains or name.startswith("head.")
        }

    def saved(self, unreadable: dict[str, str]) -> Checkpoint:
        """The run as it stands."""
        buffers = {
            name: self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            for name, parameter in self.network.named_parameters()
        }
        return Checkpoint(
            network=self._state(),
            momentum={name: _copied(held) for name, held in buffers.items() if held is not None},
            best=self.best,
            history=self.history,
            unreadable=unreadable,
            scaler=self.scaler.state_dict(),
            start=self.start,
            device=self.device.type,
        )

    def resume(self, saved: Checkpoint) -> None:
        """Be the run that was saved."""
        self.network.load_state_dict(saved.network, strict=self.tuning.trunk_trains)
        for name, parameter in self.network.named_parameters():
            if name in saved.momentum:
                # Laid out as the parameter is: the other way, each step would be slower.
                buffer = torch.empty_like(parameter, requires_grad=False)
                buffer.copy_(saved.momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        if saved.scaler:
            self.scaler.load_state_dict(saved.scaler)
        self.best, self.history, self.start = saved.best, saved.history, saved.start


def _copied(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _means(losses: list[Tensor], hits: list[Tensor]) -> tuple[float, float]:
    return torch.cat(losses).double().mean().item(), torch.cat(hits).double().mean().item()


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int, epoch: int) -> Iterator[None]:
    """Dropout draws from (seed, epoch); torch's own numbers go on afterwards as if it had not."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    before = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _check_finite(where: str, loss: float, remedy: str) -> None:
    if not math.isfinite(loss):
        raise DataError(where, expected="a finite loss", found=str(loss), remedy=remedy)
