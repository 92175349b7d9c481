"""Finetuning: what changes nothing, what goes on, where it may start, what is refused."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from small_trunk import DIM, TRANSFORM, small_model, small_trunk

import tlcache.networks.finetune
from tlcache.core.errors import DataError, ModelError, OptionError
from tlcache.core.machine import Compute
from tlcache.data.folders import ImageDataset, scan
from tlcache.evaluation.metrics import evaluate
from tlcache.heads.model import Head, initial_head, load_model, save_model
from tlcache.heads.recipe import EpochRecord, Recipe, StartRecord
from tlcache.networks.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlcache.networks.finetune import Finetuned, Wanted, finetune, trunk_of, trunk_to_tune
from tlcache.networks.loop import Run
from tlcache.networks.network import restore_network
from tlcache.networks.scoring import score_split
from tlcache.trunks.load import Trunk, load_trunk

CPU = Compute("cpu")

RECIPE = Recipe(epochs=4, batch_size=3, lr=0.02, step_size=2, seed=5)
MODES = [
    {"freeze": True},
    {"freeze": True, "bn": "train"},
    {},
    {"views": 2, "workers": 2},
    {"precision": "bf16"},
    {"precision": "fp16"},
]
HEAD = initial_head(2, DIM, 11)
UNIT = dataclasses.replace(HEAD, normalise=True)
FROM: dict[str, Any] = {"head": HEAD, "recipe": Recipe(epochs=3, batch_size=4, lr=0.02, seed=5)}
"""A run that starts from a head."""


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


def _same(a: Finetuned, b: Finetuned) -> bool:
    """Bit for bit, the time taken aside."""
    timeless = [[dataclasses.replace(r, seconds=0.0) for r in x.history] for x in (a, b)]
    states = [{"w": x.head.weight, "b": x.head.bias, **(x.network or {})} for x in (a, b)]
    return (
        timeless[0] == timeless[1]
        and (a.best_epoch, a.digest, a.unreadable) == (b.best_epoch, b.digest, b.unreadable)
        and states[0].keys() == states[1].keys()
        and all(np.array_equal(states[0][k], states[1][k]) for k in states[0])
    )


@pytest.mark.parametrize("options", [{"freeze": True, "bn": "train"}, {}])
def test_results_do_not_depend_on_workers(dataset: ImageDataset, options: dict[str, Any]) -> None:
    alone = _tune(dataset, **options)
    for workers in (1, 2, "auto", None):
        assert _same(alone, _tune(dataset, workers=workers, **options))
    other = dataclasses.replace(RECIPE, seed=6)
    assert not _same(alone, _tune(dataset, recipe=other, **options))


def test_the_network_of_the_best_epoch_is_kept(dataset: ImageDataset) -> None:
    recipe = Recipe(epochs=6, batch_size=2, lr=0.3, seed=1)
    tuned = _tune(dataset, recipe=recipe)
    accuracies = [record.val_accuracy for record in tuned.history]
    assert len(accuracies) == 6
    assert tuned.best_epoch == 1 + accuracies.index(max(accuracies))
    assert tuned.best_epoch < 6, "choose a seed whose best epoch is not the last"
    until_best = dataclasses.replace(recipe, epochs=tuned.best_epoch)
    shorter = _tune(dataset, recipe=until_best)
    assert shorter.best_epoch == tuned.best_epoch
    assert shorter.digest == tuned.digest
    np.testing.assert_array_equal(shorter.head.weight, tuned.head.weight)


def test_a_finetuned_model_says_the_same_after_saving(
    dataset: ImageDataset, tmp_path: Path
) -> None:
    trunk = small_trunk()
    tuned = _tune(dataset, trunk=trunk)
    save_model(tmp_path / "model.safetensors", tuned.model(trunk, dataset.classes))
    model = load_model(tmp_path / "model.safetensors")
    assert (model.classes, model.transform) == (("ants", "bees"), TRANSFORM)
    assert (model.trunk, model.weights) == ("small", "random:0")
    assert model.digest == tuned.digest != trunk.digest
    network = restore_network(small_trunk(seed=9), model)
    scored = score_split(model, network, dataset, "val", compute=CPU)
    accuracy = (scored.logits.argmax(axis=1) == scored.labels).mean()
    assert accuracy == tuned.history[tuned.best_epoch - 1].val_accuracy


def test_a_head_on_rows_of_length_one_stays_one(dataset: ImageDataset) -> None:
    head = dataclasses.replace(initial_head(2, DIM, 5), normalise=True)
    trunk = small_trunk(dropout=0.0)
    tuned = _tune(dataset, trunk=trunk, head=head)
    assert tuned.head.normalise
    model = tuned.model(trunk, dataset.classes)
    scored = score_split(model, restore_network(small_trunk(), model), dataset, "val", compute=CPU)
    judged = evaluate(scored.logits, scored.labels, model.classes)
    best = tuned.history[tuned.best_epoch - 1]
    assert (judged.accuracy, judged.loss) == pytest.approx(
        (best.val_accuracy, best.val_loss), abs=1e-5
    )


def test_a_frozen_trunk_is_not_stored(dataset: ImageDataset) -> None:
    trunk = small_trunk()
    tuned = _tune(dataset, trunk=trunk, freeze=True)
    model = tuned.model(trunk, dataset.classes)
    assert model.network is None
    assert model.digest == trunk.digest
    assert restore_network(trunk, model) is trunk.module


def test_a_drifting_trunk_is_stored(dataset: ImageDataset) -> None:
    trunk = small_trunk()
    tuned = _tune(dataset, trunk=trunk, freeze=True, bn="train")
    assert tuned.network is not None
    state = trunk.module.state_dict()
    np.testing.assert_array_equal(tuned.network["conv.weight"], state["conv.weight"])
    assert not np.array_equal(tuned.network["norm.running_mean"], state["norm.running_mean"])
    assert tuned.digest != trunk.digest


def test_training_starts_from_the_head_given(dataset: ImageDataset) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1)
    default = _tune(dataset, recipe=recipe)
    assert _same(default, _tune(dataset, recipe=recipe, head=initial_head(2, DIM, RECIPE.seed)))
    assert not _same(default, _tune(dataset, recipe=recipe, head=initial_head(2, DIM, 77)))


def test_progress_counts_every_image_once(dataset: ImageDataset, tmp_path: Path) -> None:
    ticks = list[tuple[int, int]]()
    checkpoint = tmp_path / "c"
    _stop_after(1, dataset, checkpoint=checkpoint, progress=lambda *tick: ticks.append(tick))
    _tune(dataset, checkpoint=checkpoint, progress=lambda *tick: ticks.append(tick))
    done = [done for done, _ in ticks]
    assert {total for _, total in ticks} == {4 * (16 + 8)}
    assert done == sorted(set(done))
    assert done[-1] == 4 * (16 + 8)


def test_seconds_are_those_of_all_epochs(dataset: ImageDataset) -> None:
    tuned = _tune(dataset)
    assert tuned.seconds == pytest.approx(sum(record.seconds for record in tuned.history))


class _Killed(Exception):
    pass


def _stop_after(epochs: int, dataset: ImageDataset, **options: Any) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == epochs:
            raise _Killed

    with pytest.raises(_Killed):
        _tune(dataset, on_epoch=stop, **options)


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_stopped_run_ends_as_if_it_had_not(
    dataset: ImageDataset, tmp_path: Path, options: dict[str, Any], epochs: int
) -> None:
    whole = _tune(dataset, **options)
    checkpoint, seen = tmp_path / "c", list[int]()
    _stop_after(epochs, dataset, checkpoint=checkpoint, **options)
    torch.manual_seed(99)
    resumed = _tune(
        dataset, checkpoint=checkpoint, on_epoch=lambda r: seen.append(r.epoch), **options
    )
    assert seen == [1, 2, 3, 4][epochs:]
    assert _same(whole, resumed)


def test_a_run_stopped_within_an_epoch_goes_on_after_the_last_whole_one(
    dataset: ImageDataset, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done > total * 0.6:
            raise _Killed

    checkpoint = tmp_path / "c"
    with pytest.raises(_Killed):
        _tune(dataset, checkpoint=checkpoint, progress=stop)
    assert _same(_tune(dataset), _tune(dataset, checkpoint=checkpoint))


def test_without_momentum_there_is_none_to_save(dataset: ImageDataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, momentum=0.0)
    _stop_after(2, dataset, recipe=recipe, checkpoint=tmp_path / "c")
    resumed = _tune(dataset, recipe=recipe, checkpoint=tmp_path / "c")
    assert _same(_tune(dataset, recipe=recipe), resumed)


def test_a_finished_run_is_not_run_again(dataset: ImageDataset, tmp_path: Path) -> None:
    first = _tune(dataset, checkpoint=tmp_path / "c")
    written = (tmp_path / "c").stat().st_mtime_ns

    def never(*_: object) -> None:
        raise AssertionError

    again = _tune(dataset, checkpoint=tmp_path / "c", on_epoch=never, progress=never)
    assert _same(first, again)
    assert again.seconds == first.seconds
    assert (tmp_path / "c").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"recipe": dataclasses.replace(RECIPE, lr=0.5)}, r"lr 0\.02 \(now 0\.5\)"),
        ({"trunk": small_trunk(seed=3)}, r'trunk "small [0-9a-f]{37} … \(now "small [0-9a-f]+ …\)'),
        ({"freeze": True}, r'freeze false \(now true\), bn null \(now "eval"\)'),
        ({"views": 3}, r"views null \(now 3\)"),
        ({"precision": "bf16"}, r'precision "fp32" \(now "bf16"\)'),
        ({"head": initial_head(2, DIM, 8)}, r'first head "[0-9a-f]+ … \(now "[0-9a-f]+ …\)'),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(
    dataset: ImageDataset, tmp_path: Path, options: dict[str, Any], found: str
) -> None:
    _stop_after(1, dataset, checkpoint=tmp_path / "c")
    with pytest.raises(ModelError, match=rf"this very run, found one with {found}; go on with"):
        _tune(dataset, checkpoint=tmp_path / "c", **options)


def test_a_precision_that_is_not_fp32_is_said_and_changes_the_steps(dataset: ImageDataset) -> None:
    said = list[str]()
    exact, rough = (
        _tune(dataset, note=said.append),
        _tune(dataset, precision="bf16", note=said.append),
    )
    assert said == ["steps in bf16 on cpu; weights and results on val in fp32"]
    assert (exact.precision, rough.precision) == ("fp32", "bf16")
    np.testing.assert_allclose(exact.head.weight, rough.head.weight, atol=0.02)
    assert not np.array_equal(exact.head.weight, rough.head.weight)


@pytest.mark.gpu
@pytest.mark.parametrize("options", MODES)
def test_a_stopped_run_on_a_gpu_ends_close_to_one_that_was_not(
    dataset: ImageDataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    gpu = options | {"device": "cuda", "checkpoint": tmp_path / "c"}
    _stop_after(2, dataset, **gpu)
    resumed, whole = _tune(dataset, **gpu), _tune(dataset, **options | {"device": "cuda"})
    assert resumed.precision == whole.precision
    assert (whole.precision == "fp32") == ("freeze" in options)
    np.testing.assert_allclose(resumed.head.weight, whole.head.weight, atol=0.02)


def test_a_run_that_goes_on_on_another_device_says_so(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, saved = list[str](), Run.saved

    def on_a_gpu(run: Run, unreadable: dict[str, str]) -> Checkpoint:
        made = saved(run, unreadable)
        assert made.device == "cpu"
        return dataclasses.replace(made, device="cuda")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "saved", on_a_gpu)
        _stop_after(1, dataset, checkpoint=tmp_path / "c")
    _tune(dataset, checkpoint=tmp_path / "c", note=said.append)
    assert said == [
        "the checkpoint was computed on cuda, and the run goes on on cpu: it will not end with the "
        "very weights that it would have there"
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_of_an_earlier_version_goes_on_and_says_in_what(
    dataset: ImageDataset, tmp_path: Path, precision: str
) -> None:
    said, path = list[str](), tmp_path / "c"
    _stop_after(2, dataset, checkpoint=path, precision=precision)
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["tlcache"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del values["device"], values["plan"]["precision"]
    safetensors.torch.save_file(tensors, path, {"tlcache": json.dumps(values)})
    whole = _tune(dataset, precision=precision)
    assert _same(whole, _tune(dataset, checkpoint=path, precision=precision, note=said.append))
    assert said[-1] == (
        "the checkpoint, of an earlier version, does not say what computed it: "
        f"it goes on in {precision} on cpu"
    )


def test_the_checkpoint_of_other_data_is_refused(dataset: ImageDataset, tmp_path: Path) -> None:
    _stop_after(1, dataset, checkpoint=tmp_path / "c")
    swapped = dataclasses.replace(dataset, labels=1 - dataset.labels)
    with pytest.raises(ModelError, match=r"found one with images \"[0-9a-f]+ … \(now"):
        _tune(swapped, checkpoint=tmp_path / "c")
    renamed = dataclasses.replace(dataset, classes=("ants", "wasps"))
    with pytest.raises(ModelError, match=r'classes \["ants", "bees"\] \(now \["ants", "wasps"\]\)'):
        _tune(renamed, checkpoint=tmp_path / "c")


def test_unreadable_images_are_listed_before_a_step_is_wasted(
    dataset: ImageDataset, tiny_data: Path
) -> None:
    for name in ("train/bees/2.jpg", "val/ants/1.jpg"):
        (tiny_data / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 that cannot: train/bees/2\.jpg .*; val/ants/1\.jpg "):
        _tune(dataset)


def test_skipped_images_are_listed_also_by_a_run_that_went_on(
    dataset: ImageDataset, tiny_data: Path, tmp_path: Path
) -> None:
    for name in ("train/bees/2.jpg", "val/ants/1.jpg"):
        (tiny_data / name).write_bytes(b"")
    options: dict[str, Any] = {"skip_unreadable": True, "workers": 2}
    whole = _tune(dataset, **options)
    reason = "expected an image, found an empty file (0 bytes)"
    assert whole.unreadable == [("train/bees/2.jpg", reason), ("val/ants/1.jpg", reason)]
    _stop_after(4, dataset, checkpoint=tmp_path / "c", **options)
    assert _same(whole, _tune(dataset, checkpoint=tmp_path / "c", **options))


def test_ctrl_c_ends_the_threads_and_passes_through(dataset: ImageDataset) -> None:
    before = threading.active_count()

    def interrupt(done: int, total: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _tune(dataset, workers=2, progress=interrupt)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bn": "test"}, OptionError, "--bn: expected eval or train, found test; choose one"),
        ({"views": 0}, OptionError, "--views: expected 1 or more, found 0; correct it"),
        (
            {"precision": "fast"},
            OptionError,
            "--precision: expected auto or fp32 or bf16 or fp16, found fast; choose one",
        ),
        (
            {"precision": "bf16", "freeze": True},
            OptionError,
            "--precision: expected fp32 with --freeze, found bf16; leave it out: cached features, "
            "which this is compared with, are fp32",
        ),
        (
            {"head": Head(np.zeros((3, DIM), np.float32), np.zeros(3, np.float32))},
            ModelError,
            f"the first head: expected 2 classes x {DIM} features, found 3 x {DIM}; "
            "pass one for this trunk and these classes, or none for a fresh one",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(
    dataset: ImageDataset, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        _tune(dataset, **options)
    assert str(raised.value) == words


def test_an_empty_split_is_refused(dataset: ImageDataset) -> None:
    only_train = dataclasses.replace(dataset, splits=np.zeros_like(dataset.splits))
    with pytest.raises(DataError) as refused:
        _tune(only_train)
    assert str(refused.value) == (
        f"{dataset.root}: expected images in val, found none; put images there, or name another "
        "split"
    )


def test_a_real_network_is_finetuned(dataset: ImageDataset) -> None:
    trunk: Trunk = load_trunk("resnet18", "random")
    trunk = dataclasses.replace(trunk, transform=dataclasses.replace(TRANSFORM, resize=64, crop=64))
    recipe = Recipe(epochs=1, batch_size=8)
    tuned = _tune(dataset, trunk=trunk, recipe=recipe, workers=2)
    assert tuned.network is not None
    assert tuned.network.keys() == trunk.module.state_dict().keys()
    restore_network(trunk, tuned.model(trunk, dataset.classes))


@pytest.mark.parametrize("head", [HEAD, UNIT])
def test_the_start_is_what_the_model_itself_says_of_val(dataset: ImageDataset, head: Head) -> None:
    seen: list[StartRecord] = []
    tuned = _tune(dataset, **FROM | {"head": head}, on_start=seen.append)
    scored = score_split(small_model(head=head), small_trunk().module, dataset, "val", compute=CPU)
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


@pytest.mark.parametrize("options", [{}, {"freeze": True}, {"head": UNIT}])
def test_a_stopped_run_from_a_head_ends_as_if_it_had_not(
    dataset: ImageDataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = FROM | options
    whole = _tune(dataset, **options)
    _stop_after(1, dataset, checkpoint=tmp_path / "c", **options)
    torch.manual_seed(99)
    started: list[StartRecord] = []
    ticks = list[tuple[int, int]]()
    resumed = _tune(
        dataset,
        checkpoint=tmp_path / "c",
        on_start=started.append,
        progress=lambda *tick: ticks.append(tick),
        **options,
    )
    assert started == [whole.start] == [resumed.start]
    assert _same(whole, resumed)
    assert resumed.head.normalise == whole.head.normalise
    assert ticks[0] == (8 + 24 + 4, 8 + 3 * 24) and ticks[-1] == (8 + 3 * 24, 8 + 3 * 24)


def test_progress_counts_the_images_before_the_first_epoch(dataset: ImageDataset) -> None:
    ticks = list[tuple[int, int]]()
    _tune(dataset, **FROM, progress=lambda *tick: ticks.append(tick))
    assert ticks[0][0] == 8 and ticks[-1] == (8 + 3 * 24, 8 + 3 * 24)


def test_a_checkpoint_of_before_goes_on_without_a_start(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []

    def save(path: Path, saved: Checkpoint, plan: Any) -> None:
        plans.append(plan)
        save_checkpoint(path, saved, plan)

    monkeypatch.setattr(tlcache.networks.finetune, "save_checkpoint", save)
    _stop_after(1, dataset, checkpoint=tmp_path / "c", **FROM)
    old = dataclasses.replace(load_checkpoint(tmp_path / "c", plans[0]), start=None)
    save_checkpoint(tmp_path / "c", old, plans[0])
    assert _tune(dataset, checkpoint=tmp_path / "c", **FROM).start is None


def test_a_head_whose_loss_is_not_finite_is_refused(dataset: ImageDataset) -> None:
    wild = Head(np.full((2, DIM), 3e38, np.float32), np.zeros(2, np.float32))
    with pytest.raises(DataError, match="the network as it came: expected a finite loss, found"):
        _tune(dataset, head=wild)


def test_a_head_brings_its_trunk_with_its_own_transform(loaded: list[str]) -> None:
    own = dataclasses.replace(TRANSFORM, resize=40)
    trunk = trunk_of(small_model(transform=own))
    assert loaded == ["random:0"]
    assert (trunk.digest, trunk.transform) == (small_trunk().digest, own)
    assert trunk_of(small_model(), "random:0").weights == "random:0"


def test_other_weights_than_the_head_s_are_refused(loaded: list[str]) -> None:
    with pytest.raises(ModelError, match=r"expected small with the weights \w+ it was trained on"):
        trunk_of(small_model(), "random:3")


def test_another_network_than_the_model_s_is_refused(loaded: list[str]) -> None:
    model = small_model()
    with pytest.raises(ModelError) as refused:
        trunk_to_tune(model, model.classes, Wanted("resnet18"))
    assert str(refused.value) == (
        "--trunk: expected small, which the model's head sits on, found resnet18; leave it out, or "
        "start from a model on that network"
    )
    assert loaded == []
    for named in (Wanted("small"), Wanted()):
        assert trunk_to_tune(model, model.classes, named).digest == model.digest


def test_a_weights_file_s_transform_is_said_and_a_crop_that_is_refused_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trunk = dataclasses.replace(small_trunk(), origin="published with small")
    monkeypatch.setattr(tlcache.networks.finetune, "load_trunk", lambda *_: trunk)
    said: list[str] = []
    wanted = Wanted("small", "w.pth", {"resize": 40})
    assert trunk_to_tune(None, ("ants",), wanted, note=said.append).transform.resize == 40
    assert said == [
        "transform: resize 40, crop 32, bilinear, mean 0.485 0.456 0.406, std 0.229 0.224 0.225 "
        "(published with small; as asked: --resize)"
    ]
    with pytest.raises(OptionError, match="--crop 1: expected a crop that small takes"):
        trunk_to_tune(None, ("ants",), Wanted("small", "w.pth", {"crop": 1}))


def test_a_head_of_a_snapshot_asks_for_the_weights(loaded: list[str]) -> None:
    with pytest.raises(OptionError, match=r"--weights: expected the weights of small .*snapshot"):
        trunk_of(small_model(weights="unknown"))
    assert loaded == []
    assert trunk_of(small_model(weights="unknown"), "random:0").digest == small_trunk().digest


def test_a_finetuned_model_goes_on_with_its_own_network(
    dataset: ImageDataset, loaded: list[str]
) -> None:
    tuned = _tune(dataset, recipe=FROM["recipe"])
    model = tuned.model(small_trunk(), dataset.classes)
    trunk = trunk_of(model)
    assert (trunk.digest, trunk.weights) == (tuned.digest, "random:0")
    assert not any(p.requires_grad for p in trunk.module.parameters())
    further = _tune(dataset, trunk, **FROM | {"head": model.head})
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
    first = _tune(dataset, recipe=FROM["recipe"]).model(small_trunk(), dataset.classes)
    trunk = trunk_of(first)
    tuned = _tune(dataset, trunk, **FROM | {"head": first.head}, freeze=True)
    assert tuned.network is None
    model = tuned.model(trunk, dataset.classes, first)
    assert model.network is not None and model.digest == first.digest
    network = restore_network(small_trunk(seed=4), model)
    images = torch.zeros(1, 3, 32, 32)
    assert torch.equal(network(images), trunk.module(images))
