"""Weights as tensors by name: read from a file, fitted into a network, digested.

Files are read as data: no code in them runs. Covers no network (``load``) and no download
(``published``).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from tlcache.core.errors import TrunkError, error_in_a_line, listed

State = dict[str, Tensor]


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of a network's state: its weights with its buffers.

    Hashed are, for each entry in the order of the code points of its name, except those named
    ``num_batches_tracked``::

        u64le(len(head)) head u64le(len(data)) data

    where ``head`` is the ASCII JSON ``["name","float32",[64,3,7,7]]`` without spaces and ``data``
    the elements in row-major order, each little-endian. The lengths leave no two states alike.
    """
    digest = hashlib.sha256()
    for name in sorted(without_counters(state)):
        tensor = state[name].detach().cpu()
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        for part in (json.dumps(head, separators=(",", ":")).encode("ascii"), _bytes(tensor)):
            digest.update(struct.pack("<Q", len(part)))
            digest.update(part)
    return digest.hexdigest()


def module_state(module: nn.Module, where: object) -> State:
    """A module's state dict.

    Raises:
        TrunkError: If it holds what is no tensor, of which no digest could tell.
    """
    state: dict[str, Any] = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            found = f"{name!r} of type {type(value).__name__}"
            raise TrunkError(where, "a state of tensors alone", found, "hold it in a buffer")
        if value.is_meta or nn.parameter.is_lazy(value):
            found, remedy = (
                f"{name!r}, which has no numbers yet",
                "run it once, or load its weights",
            )
            raise TrunkError(where, "a state of tensors alone", found, remedy)
    return state


def outside_state(module: nn.Module) -> State:
    """Tensors that a module may compute with and that its state dict lacks."""
    own = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    kept = module.state_dict().keys()
    return {name: tensor for name, tensor in own if name not in kept}


def read_state(path: Path) -> State:
    """The tensors of a ``.safetensors`` file, or of any file that ``torch.save`` wrote.

    They may lie under "state_dict" or "model", and all names may begin with "module.".

    Raises:
        TrunkError: If the file cannot be read, or holds anything but tensors by name.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # of what is refused in a moment
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can make either reader raise almost anything
        raise _unreadable(path, _found(error)) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise _unreadable(path, f"a {type(content).__name__}")
    if not content:
        raise _unreadable(path, "no tensors")
    if strange := [k for k, v in content.items() if not (isinstance(k, str) and _is_plain(v))]:
        raise _unreadable(path, f"{strange[0]!r}, which is no plain tensor")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()}


def fit_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    where: object,
    network: str,
    extra: tuple[str, ...] = (),
) -> None:
    """Copy ``state`` into ``module``, name by name; it must have every tensor and no others.

    Args:
        where: Whence the state came, for an error.
        network: What ``module`` is, for an error.
        extra: Beginnings of names that may be there or not and are left out, as the head's.

    Raises:
        TrunkError: If a name is missing or unexpected, a shape differs, or a value is not finite.
    """
    own = without_counters(module.state_dict())
    given = {
        name: tensor
        for name, tensor in without_counters(state).items()
        if name in own or not name.startswith(extra)
    }
    both = [name for name in own if name in given]
    faults = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {_form(given[name])} for {_form(own[name])}"
            for name in both
            if _form(given[name]) != _form(own[name])
        ],
    }
    if found := [f"{len(of)} {fault} ({listed(of)})" for fault, of in faults.items() if of]:
        expected = f"the weights of {network} ({len(own)} tensors)"
        remedy = "name the network that the file was made for with --trunk, or another file"
        raise TrunkError(where, expected, ", ".join(found), remedy)
    with torch.no_grad():
        for name in both:
            own[name].copy_(given[name])
    check_finite(own, where)


def check_finite(state: Mapping[str, Tensor], where: object) -> None:
    """Refuse weights that would make every feature NaN.

    Raises:
        TrunkError: If a value is infinite or NaN.
    """
    if bad := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        found = f"{len(bad)} with NaN or infinite values ({listed(bad)})"
        remedy = "the training that made them diverged; use other weights"
        raise TrunkError(where, "finite weights", found, remedy)


def without_counters(state: Mapping[str, Tensor]) -> State:
    """A state without ``num_batches_tracked``, which no output depends on."""
    return {k: v for k, v in state.items() if k.rpartition(".")[2] != "num_batches_tracked"}


def _bytes(tensor: Tensor) -> bytes:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).reshape(-1, tensor.element_size())
    if sys.byteorder == "big":
        data = data.flip(1)
    return data.contiguous().numpy().tobytes()


def _is_plain(value: object) -> bool:
    if not isinstance(value, Tensor) or value.is_quantized:
        return False
    return value.device.type == "cpu" and value.layout is torch.strided


def _form(tensor: Tensor) -> str:
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    return shape if tensor.is_floating_point() else f"{shape} {tensor.dtype}"


def _unreadable(path: Path, found: str) -> TrunkError:
    expected = "a state dict (tensors by name) in a .safetensors or torch.save file"
    remedy = "save model.state_dict() anew, or give another file with --weights"
    return TrunkError(path, expected, found, remedy)


def _found(error: Exception) -> str:
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"a pickle with {named[1]}, which could run code"
    if "TorchScript" in str(error):
        return "a TorchScript archive, which holds code"
    if isinstance(error, pickle.UnpicklingError):  # torch advises to run the code all the same
        return "a file that is no pickle of tensors alone"
    return f"a file that cannot be read ({error_in_a_line(error)})"
