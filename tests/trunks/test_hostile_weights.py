"""Weights, models and checkpoints with code in them: it never runs, and one line says why not.

Each command runs in a process of its own, in ten seconds.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from isolated import isolated
from torch import nn
from whole_cache import called


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def saved(trap: Trap, path: Path) -> None:
    torch.save({"conv.weight": trap, "fc.weight": torch.zeros(2)}, path)


def saved_long_ago(trap: Trap, path: Path) -> None:
    torch.save({"conv.weight": trap}, path, _use_new_zipfile_serialization=False)


def in_a_wrapper(trap: Trap, path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "optimizer": [trap]}, path)


def plain_pickle(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps(trap))


def old_plain_pickle(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": trap}, protocol=0))


def compiled(trap: Trap, path: Path) -> None:
    """TorchScript: an archive with code of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


FORGERS = [saved, saved_long_ago, in_a_wrapper, plain_pickle, old_plain_pickle, compiled]
Forge = Callable[[Trap, Path], None]


def refused(command: list[object], forged: Path, environment: dict[str, str]) -> str:
    """The one line that a command says of a forged file."""
    ended = isolated(_called_in, environment, command)
    assert ended.code == 0, ended
    code, _, errors = ended.value
    *notes, line = errors.splitlines()
    assert code == 1 and line.startswith("error: ") and str(forged) in line, errors
    assert ": expected " in line and "weights_only" not in line and len(line) < 500
    assert all(note.startswith("weights: random") for note in notes), notes
    return str(line)


def _called_in(environment: dict[str, str], command: list[object]) -> tuple[int, str, str]:
    os.environ.update(environment)
    return called(*command)


def test_the_trap_works(tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    for forge in FORGERS[:-1]:
        trap, path = Trap(tmp_path / f"ran-{forge.__name__}"), tmp_path / "w"
        forge(trap, path)
        if forge in (plain_pickle, old_plain_pickle):
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert Path(trap.path).exists(), forge


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w", "w.safetensors"])
@pytest.mark.parametrize("forge", FORGERS)
def test_code_in_weights_never_runs(
    forge: Forge, name: str, tiny_data: Path, tmp_path: Path
) -> None:
    trap, path = Trap(tmp_path / "ran"), tmp_path / name
    forge(trap, path)
    how = ["--trunk", "squeezenet1_1", "--weights", path, "--cache-dir", tmp_path / "cache"]
    refused(["embed", tiny_data, *how], path, {})
    assert not (tmp_path / "ran").exists() and not list((tmp_path / "cache").rglob("*.*"))


@pytest.mark.parametrize("forge", FORGERS)
def test_no_switch_and_no_command_makes_it_run(
    forge: Forge, tiny_data: Path, tmp_path: Path
) -> None:
    """Torch has a switch that turns its protection off for those who leave the choice to it."""
    trap, path = Trap(tmp_path / "ran"), tmp_path / "w.pth"
    forge(trap, path)
    for command in ("embed", "train", "finetune"):
        how = ["--trunk", "squeezenet1_1", "--weights", path, "--cache-dir", tmp_path / "cache"]
        refused([command, tiny_data, *how], path, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("forge", FORGERS)
def test_code_in_a_model_never_runs(forge: Forge, tiny_data: Path, tmp_path: Path) -> None:
    trap, run = Trap(tmp_path / "ran"), tmp_path / "run"
    run.mkdir()
    forge(trap, run / "model.safetensors")
    forge(trap, tmp_path / "model.pth")
    image = tiny_data / "val/ants/0.jpg"
    for model in (run, run / "model.safetensors", tmp_path / "model.pth"):
        path = model / "model.safetensors" if model == run else model
        for command in (["evaluate", model, tiny_data], ["predict", model, image], ["show", model]):
            assert "expected a model that tlcache wrote" in refused(command, path, {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("forge", FORGERS)
def test_code_in_a_checkpoint_never_runs(forge: Forge, tiny_data: Path, tmp_path: Path) -> None:
    trap, path = Trap(tmp_path / "ran"), tmp_path / "run/checkpoint.safetensors"
    path.parent.mkdir()
    forge(trap, path)
    before = path.read_bytes()
    how = ["--trunk", "squeezenet1_1", "--weights", "random", "--resize", 40, "--crop", 32]
    command = ["finetune", tiny_data, *how, "--resume", "--run-dir", path.parent]
    line = refused([*command, "--cache-dir", tmp_path / "cache", "--epochs", 1], path, {})
    assert "expected a checkpoint that tlcache wrote" in line
    assert not (tmp_path / "ran").exists() and path.read_bytes() == before


def test_code_beside_a_model_never_runs(tiny_data: Path, tmp_path: Path) -> None:
    """``run.json`` is read as JSON, whatever it holds."""
    plain_pickle(Trap(tmp_path / "ran"), tmp_path / "run.json")
    (tmp_path / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b'{"a": {}}')
    refused(["show", tmp_path], tmp_path, {})
    assert not (tmp_path / "ran").exists()
