from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tlcache.core.errors import CacheError, ModelError
from tlcache.heads.recipe import EpochRecord
from tlcache.networks.checkpoints import Checkpoint, Plan, load_checkpoint, save_checkpoint

PLAN: Plan = {"lr": 0.001, "classes": ["ants", "bees"], "images": "ab" * 32, "views": None}


def _checkpoint() -> Checkpoint:
    return Checkpoint(
        network={"head.weight": torch.randn(2, 3), "trunk.count": torch.tensor(7)},
        momentum={"head.weight": torch.randn(2, 3)},
        best={"head.weight": torch.randn(2, 3)},
        history=[EpochRecord(1, 0.001, 0.1 + 0.2, 0.5, 1 / 3, 0.75, 1.5)],
        unreadable={"train/ants/ä.jpg": "an empty file (0 bytes)"},
        scaler={"scale": 65536.0, "_growth_tracker": 3},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, _checkpoint(), PLAN)
    return path


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    given = _checkpoint()
    save_checkpoint(tmp_path / "c", given, PLAN)
    got = load_checkpoint(tmp_path / "c", PLAN)
    for part in ("network", "momentum", "best"):
        ours, theirs = getattr(given, part), getattr(got, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
        assert all(ours[k].dtype == theirs[k].dtype for k in ours)
    for part in ("history", "unreadable", "scaler"):
        assert getattr(given, part) == getattr(got, part)


def test_another_plan_is_refused_and_says_what_differs(saved: Path) -> None:
    with pytest.raises(ModelError) as raised:
        load_checkpoint(saved, PLAN | {"lr": 0.01, "views": 4, "images": "cd" * 32})
    assert str(raised.value) == (
        f"{saved}: expected a checkpoint of this very run, found one with lr 0.001 (now 0.01), "
        f'images "{"ab" * 21}a … (now "{"cd" * 21}c …), views null (now 4); '
        "go on with the options and data it was made with, or remove it to start anew"
    )


def test_a_changed_tensor_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ModelError) as raised:
        load_checkpoint(saved, PLAN)
    assert str(raised.value) == (
        f"{saved}: expected a checkpoint that tlcache wrote, found tensors that are not those "
        "that were written; remove it to start anew"
    )


@pytest.mark.parametrize("data", [b"", b"no checkpoint at all"])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="expected a checkpoint that tlcache wrote, found Safet"):
        load_checkpoint(path, PLAN)


def test_a_model_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"tlcache": '{"format": 1}'})
    with pytest.raises(ModelError, match="expected a checkpoint that tlcache wrote, found KeyErr"):
        load_checkpoint(path, PLAN)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"tlcache": '{"format": 9}'})
    with pytest.raises(ModelError, match="found format 9"):
        load_checkpoint(path, PLAN)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(saved: Path) -> None:
    before = saved.read_bytes()
    folder = saved.parent / "nowhere"
    with pytest.raises(CacheError, match="expected a file that can be written"):
        save_checkpoint(folder / saved.name, dataclasses.replace(_checkpoint(), best={}), PLAN)
    assert saved.read_bytes() == before
