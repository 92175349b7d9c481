"""A training run on disk between two epochs, so that it can be stopped at any moment and go on.

One safetensors file, replaced atomically after each epoch: arrays and JSON, never code. It goes on
only with the plan that it was made with. Covers no training.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from tlcache.core.errors import ModelError
from tlcache.core.files import write_atomically
from tlcache.heads.recipe import EpochRecord, StartRecord
from tlcache.trunks.weights import state_digest

CHECKPOINT_FORMAT = 1

Plan = dict[str, Any]
"""All that a run's outcome depends on, as plain JSON values by name."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        network: Every tensor that may have changed, by name, after the last finished epoch.
        momentum: SGD's momentum buffers, by the name of their parameter.
        best: As ``network``, after the best epoch.
        history: One record a finished epoch.
        unreadable: Reason by path of the images that were left out.
        scaler: State of the gradient scaler; empty where there is none.
        start: What the network made of val before the first epoch; None where nobody asked.
        device: What kind computed it: ``cpu`` or ``cuda``; empty in those of earlier versions.
    """

    network: dict[str, Tensor]
    momentum: dict[str, Tensor]
    best: dict[str, Tensor]
    history: list[EpochRecord]
    unreadable: dict[str, str]
    scaler: dict[str, Any]
    start: StartRecord | None = None
    device: str = ""


_TENSORS = ("network", "momentum", "best")


def save_checkpoint(path: Path, checkpoint: Checkpoint, plan: Plan) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        checkpoint: Its tensors are contiguous, on the CPU, and share no memory.

    Raises:
        CacheError: If it cannot be written.
    """
    tensors = {
        f"{part}/{name}": tensor
        for part in _TENSORS
        for name, tensor in getattr(checkpoint, part).items()
    }
    values = {
        "format": CHECKPOINT_FORMAT,
        "plan": plan,
        "digest": state_digest(tensors),
        "history": [dataclasses.asdict(record) for record in checkpoint.history],
        "unreadable": checkpoint.unreadable,
        "scaler": checkpoint.scaler,
        "start": checkpoint.start and dataclasses.asdict(checkpoint.start),
        "device": checkpoint.device,
    }
    write_atomically(path, safetensors.torch.save(tensors, {"tlcache": json.dumps(values)}))


def load_checkpoint(path: Path, plan: Plan) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: If it is none, is damaged, or was made with another plan.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["tlcache"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if values["format"] != CHECKPOINT_FORMAT:
            raise _no_checkpoint(path, f"format {values['format']}")
        if values["digest"] != state_digest(tensors):
            raise _no_checkpoint(path, "tensors that are not those that were written")
        ours = json.loads(json.dumps(plan))
        # Those of earlier versions do not say what they were computed in (nor does ``device``).
        unsaid = {"precision": ours.get("precision")} if "device" not in values else {}
        _check_plan(path, unsaid | values["plan"], ours)
        return Checkpoint(
            history=[EpochRecord(**record) for record in values["history"]],
            unreadable=values["unreadable"],
            scaler=values["scaler"],
            # Absent from the checkpoints of earlier versions.
            start=StartRecord(**start) if (start := values.get("start")) else None,
            device=values.get("device", ""),
            **{part: _part(tensors, f"{part}/") for part in _TENSORS},
        )
    except ModelError:
        raise
    except Exception as error:  # whatever a malformed file trips over, the file is at fault
        raise _no_checkpoint(path, f"{type(error).__name__}: {error}") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _check_plan(path: Path, theirs: Plan, ours: Plan) -> None:
    differing = [
        f"{name} {_short(theirs.get(name))} (now {_short(ours.get(name))})"
        for name in {**ours, **theirs}
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        remedy = "go on with the options and data it was made with, or remove it to start anew"
        found = f"one with {', '.join(differing)}"
        raise ModelError(path, "a checkpoint of this very run", found, remedy)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else f"{text[:44]} …"


def _no_checkpoint(path: Path, found: str) -> ModelError:
    return ModelError(path, "a checkpoint that tlcache wrote", found, "remove it to start anew")
