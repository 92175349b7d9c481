"""One epoch at a time, against the loop that anybody would write."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_trunk import DIM, TRANSFORM, small_trunk
from torch import Tensor, nn

from tlcache.core.errors import DataError
from tlcache.data.folders import ImageDataset, scan
from tlcache.data.images import decode
from tlcache.data.transforms import apply
from tlcache.heads.model import initial_head
from tlcache.heads.recipe import Recipe
from tlcache.networks.loading import ImageLoader
from tlcache.networks.loop import BatchNorm, Run, Tuning
from tlcache.networks.network import join
from tlcache.trunks.load import Trunk

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch_size=3, lr=0.01, weight_decay=0.01, step_size=2, gamma=0.5, seed=5)
MODES = [(True, "eval"), (True, "train"), (False, "eval")]


@pytest.fixture
def dataset(tiny_data: Path) -> ImageDataset:
    return scan(tiny_data)


def _run(
    trunk: Trunk, freeze: bool, bn: BatchNorm, recipe: Recipe = RECIPE, views: int | None = None
) -> Run:
    head = initial_head(2, DIM, recipe.seed)
    return Run(trunk, head, Tuning(recipe, freeze, bn, views), CPU)


def _epochs(run: Run, dataset: ImageDataset, count: int) -> None:
    with ImageLoader(dataset, TRANSFORM) as loader:
        for _ in range(count):
            run.epoch(dataset, loader)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def _view(dataset: ImageDataset, i: int, view: int | None) -> Tensor:
    data = dataset.path(i).read_bytes()
    transform = TRANSFORM if view is None else TRANSFORM.as_train()
    pixels = apply(decode(data, ""), transform, hashlib.sha256(data).digest(), view or 0)
    return torch.from_numpy(pixels)


def _plain_loop(trunk: Trunk, dataset: ImageDataset, freeze: bool, bn: BatchNorm) -> nn.Module:
    """The tutorial's loop, written out with torch's own optimiser and schedule."""
    network = join(copy.deepcopy(trunk.module), initial_head(2, DIM, RECIPE.seed))
    network.get_submodule("trunk").requires_grad_(not freeze)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=RECIPE.lr, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, RECIPE.step_size, RECIPE.gamma)
    train = dataset.indices("train")
    for epoch in range(RECIPE.epochs):
        network.train(not freeze or bn == "train")
        order = train[RECIPE.epoch_order(epoch, len(train))]
        for start in range(0, len(order), RECIPE.batch_size):
            chosen = order[start : start + RECIPE.batch_size]
            images = torch.stack([_view(dataset, int(i), epoch) for i in chosen])
            labels = torch.from_numpy(dataset.labels[chosen]).long()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
    return network


@pytest.mark.parametrize(("freeze", "bn"), MODES)
def test_the_weights_are_those_of_a_plain_loop(
    dataset: ImageDataset, freeze: bool, bn: BatchNorm
) -> None:
    trunk = small_trunk(dropout=0.0)
    run = _run(trunk, freeze, bn)
    before = _state(run.network)
    _epochs(run, dataset, RECIPE.epochs)
    plain = _plain_loop(trunk, dataset, freeze, bn).state_dict()
    for name, tensor in run.network.state_dict().items():
        torch.testing.assert_close(tensor, plain[name], rtol=0, atol=1e-6)
    assert "head.weight" in _changed(before, plain)


def test_frozen_in_eval_mode_only_the_head_changes(dataset: ImageDataset) -> None:
    run = _run(small_trunk(), freeze=True, bn="eval")
    before = _state(run.network)
    _epochs(run, dataset, 1)
    assert _changed(before, _state(run.network)) == {"head.weight", "head.bias"}


def test_frozen_in_train_mode_the_batchnorm_statistics_drift(dataset: ImageDataset) -> None:
    run = _run(small_trunk(), freeze=True, bn="train")
    before = _state(run.network)
    _epochs(run, dataset, 1)
    statistics = {f"trunk.norm.{x}" for x in ("running_mean", "running_var", "num_batches_tracked")}
    assert _changed(before, _state(run.network)) == {"head.weight", "head.bias", *statistics}


def test_finetuning_changes_everything(dataset: ImageDataset) -> None:
    run = _run(small_trunk(), freeze=False, bn="eval")
    before = _state(run.network)
    _epochs(run, dataset, 1)
    assert _changed(before, _state(run.network)) == before.keys()


@pytest.mark.parametrize(("freeze", "bn"), MODES)
def test_the_trunk_given_and_torchs_numbers_stay_as_they_were(
    dataset: ImageDataset, freeze: bool, bn: BatchNorm
) -> None:
    trunk, numbers = small_trunk(), torch.get_rng_state()
    before = _state(trunk.module)
    _epochs(_run(trunk, freeze, bn), dataset, 1)
    assert not _changed(before, _state(trunk.module))
    assert not trunk.module.training
    assert not any(p.requires_grad for p in trunk.module.parameters())
    assert torch.equal(torch.get_rng_state(), numbers)


def test_dropout_is_seeded_by_seed_and_epoch_alone(dataset: ImageDataset) -> None:
    heads = []
    for dropout, global_seed in ((0.5, 1), (0.5, 2), (0.0, 1)):
        run = _run(small_trunk(dropout), True, "train")
        torch.manual_seed(global_seed)
        _epochs(run, dataset, 2)
        heads.append(_state(run.network)["head.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(
    ("options", "bf16", "precision"),
    [
        ({"freeze": True}, True, "fp32"),
        ({"freeze": True, "bn": "train"}, False, "fp32"),
        ({}, True, "bf16"),
        ({}, False, "fp16"),
        ({"precision": "fp32"}, True, "fp32"),
    ],
)
def test_on_a_gpu_all_but_a_frozen_trunk_trains_in_what_is_fast_there(
    options: dict[str, Any], bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    tuning = Tuning(RECIPE, **options)
    assert tuning.precision_on(torch.device("cuda", 0)) == precision
    assert tuning.precision_on(CPU) == "fp32"


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_steps_run_in_the_precision_that_is_asked_for_and_val_in_fp32(
    dataset: ImageDataset, precision: str, kind: torch.dtype
) -> None:
    tuning = Tuning(RECIPE, precision=precision)
    run = Run(small_trunk(), initial_head(2, DIM, 5), tuning, CPU)
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def note(layer: nn.Module, _: object, made: Tensor) -> None:
        seen[layer.training].add(made.dtype)

    run.network.get_submodule("head").register_forward_hook(note)
    _epochs(run, dataset, 1)
    assert seen == {True: {kind}, False: {torch.float32}}
    assert {p.dtype for p in run.network.parameters()} == {torch.float32}


def test_labels_are_moved_without_waiting_for_the_gpu(
    dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Labels(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is Tensor.to and isinstance(args[0], Labels):
                asked.append(kwargs)
            return super().__torch_function__(function, types, args, kwargs)

    class Loader(ImageLoader):
        def batches(self, *which):  # type: ignore[no-untyped-def]
            for batch in super().batches(*which):
                yield batch._replace(labels=batch.labels.as_subclass(Labels))

    asked = list[object]()
    with Loader(dataset, TRANSFORM) as loader:
        _run(small_trunk(), False, "eval").epoch(dataset, loader)
    assert asked and all(given == {"non_blocking": True} for given in asked)


def test_momentum_that_is_taken_up_again_lies_in_memory_as_its_parameter(
    dataset: ImageDataset,
) -> None:
    run, again = (_run(small_trunk(), False, "eval") for _ in range(2))
    _epochs(run, dataset, 1)
    again.resume(run.saved({}))
    for parameter in again.network.parameters():
        buffer = again.optimizer.state[parameter]["momentum_buffer"]
        assert (buffer.stride(), buffer.requires_grad) == (parameter.stride(), False)
    assert not again.network.get_parameter("trunk.conv.weight").is_contiguous()


def test_every_epoch_draws_dropout_anew(dataset: ImageDataset) -> None:
    run, seeds = _run(small_trunk(), True, "train"), set[int]()

    def note(dropout: nn.Module, *_: object) -> None:
        if dropout.training:
            seeds.add(torch.initial_seed())

    run.network.get_submodule("trunk.dropout").register_forward_hook(note)
    _epochs(run, dataset, 3)
    assert len(seeds) == 3


def test_epochs_take_the_views_in_turn(dataset: ImageDataset) -> None:
    asked = list[int | None]()

    class Loader(ImageLoader):
        def batches(self, images, size, view=None):  # type: ignore[no-untyped-def]
            asked.append(view)
            return super().batches(images, size, view)

    with Loader(dataset, TRANSFORM) as loader:
        for views in (None, 2):
            run = _run(small_trunk(), True, "eval", views=views)
            for _ in range(4):
                run.epoch(dataset, loader)
    assert asked == [0, None, 1, None, 2, None, 3, None, 0, None, 1, None, 0, None, 1, None]


def test_a_record_holds_the_schedule_and_what_the_network_did(dataset: ImageDataset) -> None:
    run = _run(small_trunk(dropout=0.0), True, "eval")
    _epochs(run, dataset, 3)
    assert [r.epoch for r in run.history] == [1, 2, 3]
    assert [r.learning_rate for r in run.history] == [0.01, 0.01, 0.005]
    val = dataset.indices("val")
    with torch.no_grad():
        logits = run.network(torch.stack([_view(dataset, int(i), None) for i in val]))
    labels = torch.from_numpy(dataset.labels[val]).long()
    last = run.history[-1]
    assert last.val_loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert last.val_accuracy == (logits.argmax(1) == labels).float().mean().item()
    assert last.seconds > 0


def test_running_means_weigh_a_smaller_last_batch_by_its_images(dataset: ImageDataset) -> None:
    recipe = Recipe(
        epochs=1, batch_size=15, lr=1e-9
    )  # 16 images: 15 and 1, weights as good as fixed
    run = _run(small_trunk(dropout=0.0), True, "eval", recipe)
    _epochs(run, dataset, 1)
    train = dataset.indices("train")
    with torch.no_grad():
        logits = run.network(torch.stack([_view(dataset, int(i), 0) for i in train]))
    labels = torch.from_numpy(dataset.labels[train]).long()
    expected = nn.functional.cross_entropy(logits, labels).item()
    assert run.history[0].train_loss == pytest.approx(expected, abs=1e-6)
    assert run.history[0].train_accuracy == (logits.argmax(1) == labels).float().mean().item()


def test_results_on_val_do_not_depend_on_its_batches(
    dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = []
    for size in (1, 3, 64):
        monkeypatch.setattr("tlcache.networks.loop.batch_size_for", lambda device, n=size: n)
        run = _run(small_trunk(), False, "eval")
        _epochs(run, dataset, 2)
        records.append(run.history[-1])
    assert len({record.val_accuracy for record in records}) == 1
    np.testing.assert_allclose([r.val_loss for r in records], records[0].val_loss, atol=1e-6)


def test_a_loss_that_is_no_longer_finite_stops_the_run(dataset: ImageDataset) -> None:
    run = _run(small_trunk(), False, "eval", Recipe(epochs=2, lr=1e30))
    with pytest.raises(DataError) as raised:
        _epochs(run, dataset, 1)
    assert str(raised.value) == (
        "epoch 1: expected a finite loss, found nan; lower the learning rate (it was 1e+30)"
    )
