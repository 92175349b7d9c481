"""The PyTorch transfer-learning tutorial's end-to-end loop: every epoch, every image, every layer.

Deterministic on a CPU, and resumable: a run that was stopped ends with the weights of one that was
not. On a GPU it takes the same steps, but cuDNN picks its convolutions by trying them and adds in
no fixed order, so weights repeat up to rounding. Epoch e trains on augmented view e of each image,
so neither order nor workers play a part.
Covers no judging (``evaluation``) and no cached features (``heads``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tlcache.core.errors import DataError, ModelError, UnmetError
from tlcache.core.files import StrPath, as_path
from tlcache.core.machine import resolve_device
from tlcache.core.notebook import training_html
from tlcache.core.progress import Report, Tick, no_report
from tlcache.data.folders import ImageDataset, check_dataset
from tlcache.heads.model import Head, Model, initial_head
from tlcache.heads.recipe import EpochRecord, Recipe, StartRecord
from tlcache.networks.checkpoints import Plan, load_checkpoint, save_checkpoint
from tlcache.networks.checks import check_classes, check_transform, check_trunk
from tlcache.networks.loading import ImageLoader, Workers, worker_count
from tlcache.networks.loop import BatchNorm, Run, Tuning
from tlcache.networks.network import gpu_settings, restore_network
from tlcache.trunks.info import note_random, note_transform
from tlcache.trunks.load import Trunk, check_crop, load_trunk
from tlcache.trunks.weights import state_digest

_UNKNOWN = "unknown"  # what a head that was trained on a snapshot says of its trunk's weights


def trunk_of(model: Model, weights: str | None = None, memo: Path | None = None) -> Trunk:
    """The trunk that a model's head sits on, with the model's transform, to go on from.

    That of a finetuned model is its own network, so that finetuning it again continues where it
    ended; its optimiser starts anew.

    Args:
        weights: Where a frozen trunk's weights are, if not where they were at training.
        memo: Folder of the memo of digested weights.

    Raises:
        ModelError: If the weights are not those the head was trained on.
        OptionError: If nobody knows where they are, or a finetuned model was given others.
        TrunkError: If the trunk cannot be had.
    """
    if model.network is not None:
        if weights is not None:
            expected = "none beside a finetuned model, which brings its own network"
            raise UnmetError("--weights", expected, weights, "leave it out")
        trunk = load_trunk(model.trunk, "random")
        return dataclasses.replace(
            trunk,
            weights=model.weights,
            digest=model.digest,
            transform=model.transform,
            module=restore_network(trunk, model),
        )
    if weights is None and model.weights == _UNKNOWN:
        raise UnmetError(
            "--weights",
            expected=f"the weights of {model.trunk} that the model's head was trained on",
            found="none, and a head that was trained on a snapshot does not know where they are",
            remedy="name their file, or imagenet",
        )
    trunk = load_trunk(model.trunk, weights or model.weights, memo)
    check_trunk(model, trunk)
    return dataclasses.replace(trunk, transform=model.transform)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The network that a user asks for; what is left open is that of the model to start from.

    Without a model that is resnet18 with imagenet's weights. ``transform`` holds the fields of the
    images' transform that shall be others than the network's.
    """

    trunk: str | None = None
    weights: str | None = None
    transform: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def trunk_to_tune(
    model: Model | None,
    classes: Sequence[str],
    wanted: Wanted,
    memo: Path | None = None,
    note: Report = no_report,
) -> Trunk:
    """The trunk to finetune: that of the model to start from, which must fit, or one by its name.

    Args:
        classes: Of the images.
        memo: Folder of the memo of digested weights.
        note: Is told of a network that has learned nothing, and of a weights file's transform.

    Raises:
        ModelError: If the model is of other classes, or not of what is wanted.
        OptionError: If the network does not take the crop.
        TlcacheError: If the trunk cannot be had; see :func:`trunk_of`.
    """
    if model is None:
        name, weights = wanted.trunk or "resnet18", wanted.weights or "imagenet"
        note_random(weights, note)
        trunk = load_trunk(name, weights, memo)
        note_transform(trunk, wanted.transform, note)
        transform = dataclasses.replace(trunk.transform, **wanted.transform)
        check_crop(trunk, transform.crop)
        return dataclasses.replace(trunk, transform=transform)
    check_classes(model, classes)
    if wanted.trunk not in (None, model.trunk):
        expected = f"{model.trunk}, which the model's head sits on"
        remedy = "leave it out, or start from a model on that network"
        raise ModelError("--trunk", expected, str(wanted.trunk), remedy)
    asked = dataclasses.replace(model.transform, **wanted.transform)
    remedy = "leave such options out, or start from a model of that transform"
    check_transform(model, asked, "the transform", remedy)
    note_random(wanted.weights or model.weights, note)
    return trunk_of(model, wanted.weights, memo)


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """The network of the best epoch, and how it came about.

    Attributes:
        head: (C, D) and (C,).
        network: The trunk's state by name; None if it never changed.
        digest: Hex SHA-256 of the trunk's state.
        history: One record an epoch.
        best_epoch: Counted from 1: the first with the highest val accuracy.
        unreadable: (path, reason) of the images that were left out.
        seconds: Of all epochs, those before a resumption too.
        start: Where a head was given: what the network made of val before the first epoch. It is no
            candidate: the best epoch is the best of those that trained.
        precision: That the steps were taken in: ``fp32``, ``bf16`` or ``fp16``.
    """

    head: Head = dataclasses.field(repr=False)
    network: dict[str, NDArray[Any]] | None = dataclasses.field(repr=False)
    digest: str
    history: list[EpochRecord] = dataclasses.field(repr=False)
    best_epoch: int
    unreadable: list[tuple[str, str]]
    seconds: float
    start: StartRecord | None = None
    precision: str = "fp32"

    def _repr_html_(self) -> str:
        return training_html(self.history, self.best_epoch, self.seconds)

    def model(self, trunk: Trunk, classes: Sequence[str], start: Model | None = None) -> Model:
        """What can be saved and used: with the trunk's state only if it changed.

        Args:
            trunk: The one that finetuning began with.
            classes: Names, in the order of the logits.
            start: The model whose trunk that was: one that was finetuned itself hands on its state
                where this run left it as it was.
        """
        return Model(
            head=self.head,
            classes=tuple(classes),
            trunk=trunk.name,
            weights=trunk.weights,
            digest=self.digest,
            transform=trunk.transform,
            network=self.network or (start.network if start else None),
        )


def finetune(
    dataset: ImageDataset,
    trunk: Trunk,
    recipe: Recipe | None = None,
    *,
    head: Head | None = None,
    freeze: bool = False,
    bn: BatchNorm = "eval",
    precision: str = "auto",
    device: str = "auto",
    workers: Workers = "auto",
    views: int | None = None,
    skip_unreadable: bool = False,
    checkpoint: StrPath | None = None,
    note: Report = no_report,
    on_start: Callable[[StartRecord], None] | None = None,
    on_resume: Callable[[EpochRecord], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: Tick | None = None,
) -> Finetuned:
    """Train a network on augmented images, and keep the epoch with the best val accuracy.

    Args:
        dataset: With images in train and val.
        trunk: Where to start; it is left as it is.
        recipe: The tutorial's by default.
        head: (C, D) to start from, such as one that was trained on cached features of this trunk:
            Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
            Out-of-Distribution", ICLR 2022 (LP-FT). It is judged on val before the first epoch. A
            fresh one of the recipe's seed by default.
        freeze: Train the head only.
        bn: With ``freeze``: ``eval`` keeps the trunk fixed; ``train`` runs it in training mode, so
            that its BatchNorm statistics drift although its weights stay, as in the tutorial.
        precision: Of the training steps: ``fp32``, ``bf16`` or ``fp16`` (mixed precision: weights,
            and the results on val, stay fp32). ``auto``: fp32 on a CPU and with ``freeze``, else
            bf16, or fp16 on a GPU that has no bf16.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: Threads that read images, see :func:`tlcache.networks.loading.worker_count`.
        views: Augmented views of an image: epoch e takes view e mod ``views``; a new one each epoch
            by default.
        skip_unreadable: Go on without the images that cannot be read.
        checkpoint: A file to write after every epoch, and to go on from if it is there.
        note: Is told of a precision other than fp32, and of a checkpoint of another device.
        on_start: Called with what a head that was given does on val, also by a run that goes on.
        on_resume: Called by a run that goes on with the record of each epoch that is behind it.
        on_epoch: Called with each epoch's record, when its checkpoint has been written.
        progress: Called with how many images were taken, and how many will have been in all.

    Raises:
        DataError: If images cannot be read, a split is empty, or the loss is no longer finite.
        ModelError: If the head does not fit, or the checkpoint is another run's.
        OptionError: If an option makes no sense.
        CacheError: If the checkpoint cannot be written.
    """
    check_dataset(dataset)
    checkpoint = None if checkpoint is None else as_path("checkpoint", checkpoint)
    tuning = Tuning(recipe or Recipe(), freeze, bn, views, precision)
    first = head or initial_head(len(dataset.classes), trunk.dim, tuning.recipe.seed)
    _check(dataset, trunk, first)
    run = Run(trunk, first, tuning, resolve_device(device))
    plan = _plan(dataset, trunk, first, tuning) | {"precision": run.precision}
    if run.precision != "fp32":
        note(f"steps in {run.precision} on {run.device}; weights and results on val in fp32")
    loader = ImageLoader(
        dataset,
        trunk.transform,
        workers=worker_count(workers),
        pin_memory=run.device.type == "cuda",
        skip_unreadable=skip_unreadable,
    )
    with loader, gpu_settings():
        if checkpoint is not None and checkpoint.exists():
            run.resume(saved := load_checkpoint(checkpoint, plan))
            loader.unreadable |= saved.unreadable
            _tell_device(saved.device, run, note)
        if on_resume is not None:
            for record in run.history:
                on_resume(record)
        judge = head is not None and not run.history
        if progress is not None:
            loader.on_images = _counter(progress, dataset, run, judge)
        if judge:
            run.judge_start(dataset, loader)
        if run.start is not None and on_start is not None:
            on_start(run.start)
        while len(run.history) < tuning.recipe.epochs:
            run.epoch(dataset, loader)
            if checkpoint is not None:
                save_checkpoint(checkpoint, run.saved(loader.unreadable), plan)
            if on_epoch is not None:
                on_epoch(run.history[-1])
    return _result(run, trunk, loader.unreadable)


def _result(run: Run, trunk: Trunk, unreadable: dict[str, str]) -> Finetuned:
    """The best epoch's network as arrays."""
    state = {name.removeprefix("trunk."): tensor for name, tensor in run.best.items()}
    weight, bias = state.pop("head.weight").numpy(), state.pop("head.bias").numpy()
    head = Head(weight, bias, normalise=hasattr(run.network, "unit"))
    return Finetuned(
        head=head,
        network={name: tensor.numpy() for name, tensor in state.items()} or None,
        digest=state_digest(state) if state else trunk.digest,
        history=run.history,
        best_epoch=run.best_epoch,
        unreadable=list(unreadable.items()),
        seconds=math.fsum(record.seconds for record in run.history),
        start=run.start,
        precision=run.precision,
    )


def _tell_device(before: str, run: Run, note: Report) -> None:
    """Says where a resumed run goes on by other arithmetic than it began with, or may."""
    now = run.device.type
    if not before:
        said = f"it goes on in {run.precision} on {now}"
        note(f"the checkpoint, of an earlier version, does not say what computed it: {said}")
    elif before != now:
        said = "it will not end with the very weights that it would have there"
        note(f"the checkpoint was computed on {before}, and the run goes on on {now}: {said}")


def _counter(progress: Tick, dataset: ImageDataset, run: Run, judge: bool) -> Callable[[int], None]:
    """Tells how many images a run has taken, and will have, those before its first epoch too."""
    val = len(dataset.indices("val"))
    each, before = len(dataset.indices("train")) + val, val if run.start else 0
    done = len(run.history) * each + before
    total = run.tuning.recipe.epochs * each + (val if judge else before)

    def count(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    return count


def _plan(dataset: ImageDataset, trunk: Trunk, head: Head, tuning: Tuning) -> Plan:
    """All that the outcome depends on, but for the images' bytes, as plain values."""
    images = sorted(
        zip(dataset.paths, dataset.labels.tolist(), dataset.splits.tolist(), strict=True)
    )
    unit = {"normalise": True} if head.normalise else {}
    return tuning.recipe.describe() | {
        **unit,
        "trunk": f"{trunk.name} {trunk.digest}",
        "transform": trunk.transform.describe(),
        "classes": list(dataset.classes),
        "images": hashlib.sha256(json.dumps(images).encode()).hexdigest(),
        "first head": hashlib.sha256(head.weight.tobytes() + head.bias.tobytes()).hexdigest(),
        "freeze": tuning.freeze,
        "bn": tuning.bn if tuning.freeze else None,
        "views": tuning.views,
    }


def _check(dataset: ImageDataset, trunk: Trunk, head: Head) -> None:
    for split in ("train", "val"):
        if not len(dataset.indices(split)):
            remedy = "put images there, or name another split"
            raise DataError(dataset.root, f"images in {split}", "none", remedy)
    wanted = (len(dataset.classes), trunk.dim)
    if head.weight.shape != wanted:
        expected, found = f"{wanted[0]} classes x {wanted[1]} features", head.weight.shape
        remedy = "pass one for this trunk and these classes, or none for a fresh one"
        raise ModelError("the first head", expected, " x ".join(map(str, found)), remedy)
