"""Finetuning that starts from a model: what is checked, where it begins, and how it goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_trunk import DIM, TRANSFORM, small_trunk

import tlcache.networks.finetune
from tlcache.core.errors import DataError, ModelError, OptionError
from tlcache.core.machine import Compute
from tlcache.data.folders import ImageDataset, scan
from tlcache.heads.model import Head, Model, initial_head
from tlcache.heads.recipe import EpochRecord, Recipe, StartRecord
from tlcache.networks.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlcache.networks.checks import check_name
from tlcache.networks.finetune import Finetuned, finetune, trunk_of
from tlcache.networks.network import restore_network
from tlcache.networks.scoring import score_split
from tlcache.trunks.load import Trunk

CPU = Compute("cpu")

RECIPE = Recipe(epochs=3, batch_size=4, lr=0.02, seed=5)
HEAD = initial_head(2, DIM, 11)
UNIT = dataclasses.replace(HEAD, normalise=True)


@pytest.fixture
def dataset(tiny_data: Path) -> ImageDataset:
    return scan(tiny_data)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trunks of the name ``small``, and the weights that were asked for."""
    asked = []

    def load(name: str, weights: str, memo: Path | None = None) -> Trunk:
        asked.append(weights)
        return small_trunk(seed=int(weights.partition(":")[2] or 0))

    monkeypatch.setattr(tlcache.networks.finetune, "load_trunk", load)
    return asked


def _tune(dataset: ImageDataset, trunk: Trunk | None = None, **options: Any) -> Finetuned:
    defaults: dict[str, Any] = {"recipe": RECIPE, "device": "cpu", "workers": 0}
    return finetune(dataset, trunk or small_trunk(), **(defaults | options))


def _model(head: Head = HEAD, **changes: Any) -> Model:
    trunk = small_trunk()
    values: dict[str, Any] = {
        "head": head,
        "classes": ("ants", "bees"),
        "trunk": "small",
        "weights": "random:0",
        "digest": trunk.digest,
        "transform": TRANSFORM,
    }
    return Model(**(values | changes))


@pytest.mark.parametrize("head", [HEAD, UNIT])
def test_the_start_is_what_the_model_itself_says_of_val(dataset: ImageDataset, head: Head) -> None:
    seen: list[StartRecord] = []
    tuned = _tune(dataset, head=head, on_start=seen.append)
    scored = score_split(_model(head), small_trunk().module, dataset, "val", compute=CPU)
    shifted = scored.logits.astype(np.float64)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(8), scored.labels]
    assert tuned.start is not None and seen == [tuned.start]
    assert tuned.start.n == 8
    assert tuned.start.val_accuracy == (scored.logits.argmax(1) == scored.labels).mean()
    assert tuned.start.val_loss == pytest.approx(losses.mean(), rel=1e-5)


def test_a_fresh_head_is_not_judged_before_it_is_trained(dataset: ImageDataset) -> None:
    def never(record: StartRecord) -> None:
        raise AssertionError

    assert _tune(dataset, on_start=never).start is None


def test_the_best_epoch_is_one_that_trained_even_if_the_start_was_better(
    dataset: ImageDataset,
) -> None:
    good = _tune(dataset, recipe=Recipe(epochs=4, batch_size=2, lr=0.05, seed=1))
    model = good.model(small_trunk(), dataset.classes)
    trunk = dataclasses.replace(
        small_trunk(), module=restore_network(small_trunk(), model), digest=model.digest
    )
    ruined = _tune(dataset, trunk, head=good.head, recipe=Recipe(epochs=2, batch_size=2, lr=30.0))
    assert ruined.start is not None
    assert ruined.start.val_accuracy > max(r.val_accuracy for r in ruined.history)
    assert [record.epoch for record in ruined.history] == [1, 2]
    assert ruined.best_epoch in (1, 2)
    assert not np.array_equal(ruined.head.weight, good.head.weight)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("options", [{}, {"freeze": True}, {"head": UNIT}])
def test_a_stopped_run_from_a_head_ends_as_if_it_had_not(
    dataset: ImageDataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    def stop(record: EpochRecord) -> None:
        raise _Killed

    options = {"head": HEAD} | options
    whole = _tune(dataset, **options)
    with pytest.raises(_Killed):
        _tune(dataset, checkpoint=tmp_path / "c", on_epoch=stop, **options)
    torch.manual_seed(99)
    started: list[StartRecord] = []
    ticks: list[tuple[int, int]] = []
    resumed = _tune(
        dataset,
        checkpoint=tmp_path / "c",
        on_start=started.append,
        progress=lambda *tick: ticks.append(tick),
        **options,
    )
    assert started == [whole.start] == [resumed.start]
    assert resumed.head.weight.tobytes() == whole.head.weight.tobytes()
    assert resumed.head.bias.tobytes() == whole.head.bias.tobytes()
    assert resumed.head.normalise == whole.head.normalise
    assert (resumed.digest, resumed.best_epoch) == (whole.digest, whole.best_epoch)
    assert [r.val_loss for r in resumed.history] == [r.val_loss for r in whole.history]
    assert ticks[0] == (8 + 24 + 4, 8 + 3 * 24) and ticks[-1] == (8 + 3 * 24, 8 + 3 * 24)


def test_progress_counts_the_images_before_the_first_epoch(dataset: ImageDataset) -> None:
    ticks: list[tuple[int, int]] = []
    _tune(dataset, head=HEAD, progress=lambda *tick: ticks.append(tick))
    assert ticks[0][0] == 8 and ticks[-1] == (8 + 3 * 24, 8 + 3 * 24)


def test_a_checkpoint_of_before_goes_on_without_a_start(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(record: EpochRecord) -> None:
        raise _Killed

    plans: list[Any] = []

    def save(path: Path, saved: Checkpoint, plan: Any) -> None:
        plans.append(plan)
        save_checkpoint(path, saved, plan)

    monkeypatch.setattr(tlcache.networks.finetune, "save_checkpoint", save)
    with pytest.raises(_Killed):
        _tune(dataset, head=HEAD, checkpoint=tmp_path / "c", on_epoch=stop)
    old = dataclasses.replace(load_checkpoint(tmp_path / "c", plans[0]), start=None)
    save_checkpoint(tmp_path / "c", old, plans[0])
    assert _tune(dataset, head=HEAD, checkpoint=tmp_path / "c").start is None


def test_a_head_whose_loss_is_not_finite_is_refused(dataset: ImageDataset) -> None:
    wild = Head(np.full((2, DIM), 3e38, np.float32), np.zeros(2, np.float32))
    with pytest.raises(DataError, match="the network as it came: expected a finite loss, found"):
        _tune(dataset, head=wild)


def test_a_head_brings_its_trunk_with_its_own_transform(loaded: list[str]) -> None:
    own = dataclasses.replace(TRANSFORM, resize=40)
    trunk = trunk_of(_model(transform=own))
    assert loaded == ["random:0"]
    assert (trunk.digest, trunk.transform) == (small_trunk().digest, own)
    assert trunk_of(_model(), "random:0").weights == "random:0"


def test_other_weights_than_the_head_s_are_refused(loaded: list[str]) -> None:
    with pytest.raises(ModelError, match=r"expected small with the weights \w+ it was trained on"):
        trunk_of(_model(), "random:3")


def test_a_head_of_a_snapshot_asks_for_the_weights(loaded: list[str]) -> None:
    with pytest.raises(OptionError, match=r"--weights: expected the weights of small .*snapshot"):
        trunk_of(_model(weights="unknown"))
    assert loaded == []
    assert trunk_of(_model(weights="unknown"), "random:0").digest == small_trunk().digest


def test_another_network_s_name_is_refused() -> None:
    check_name(_model(), "small")
    with pytest.raises(ModelError) as refused:
        check_name(_model(), "resnet18")
    assert str(refused.value) == (
        "--trunk: expected small, which the model's head sits on, found resnet18; "
        "leave it out, or start from a model on that network"
    )


def test_a_finetuned_model_goes_on_with_its_own_network(
    dataset: ImageDataset, loaded: list[str]
) -> None:
    tuned = _tune(dataset)
    model = tuned.model(small_trunk(), dataset.classes)
    trunk = trunk_of(model)
    assert (trunk.digest, trunk.weights) == (tuned.digest, "random:0")
    assert not any(p.requires_grad for p in trunk.module.parameters())
    further = _tune(dataset, trunk, head=model.head)
    best = tuned.history[tuned.best_epoch - 1]
    assert further.start is not None
    assert further.start.val_accuracy == best.val_accuracy
    assert further.start.val_loss == pytest.approx(best.val_loss, rel=1e-5)
    assert further.digest != tuned.digest
    with pytest.raises(OptionError, match="--weights: expected none beside a finetuned model"):
        trunk_of(model, "random:0")


def test_a_frozen_finetuned_network_is_kept_with_its_new_head(
    dataset: ImageDataset, loaded: list[str]
) -> None:
    first = _tune(dataset).model(small_trunk(), dataset.classes)
    trunk = trunk_of(first)
    tuned = _tune(dataset, trunk, head=first.head, freeze=True)
    assert tuned.network is None
    model = tuned.model(trunk, dataset.classes, first)
    assert model.network is not None and model.digest == first.digest
    network = restore_network(small_trunk(seed=4), model)
    images = torch.zeros(1, 3, 32, 32)
    assert torch.equal(network(images), trunk.module(images))
