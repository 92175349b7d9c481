from __future__ import annotations

import hashlib
import pickle
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tlcache.core.errors import TrunkError
from tlcache.core.files import sha256_of
from tlcache.trunks.weights import State, check_finite, fit_state, read_state, state_digest


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def state() -> State:
    return {name: tensor.clone() for name, tensor in network().state_dict().items()}


def one_ulp_up(tensor: Tensor) -> None:
    flat = tensor.view(-1)
    flat[0] = float(np.nextafter(np.float32(flat[0].item()), np.float32(np.inf)))


# --- state_digest


def test_the_digest_is_that_of_the_documented_bytes() -> None:
    tensors = {
        "w": torch.tensor([[1.0, -2.0]]),
        "b.num_batches_tracked": torch.tensor(7),
        "a": torch.tensor(3, dtype=torch.int64),
    }
    heads = b'["a","int64",[]]', b'["w","float32",[1,2]]'
    data = struct.pack("<q", 3), struct.pack("<2f", 1.0, -2.0)
    parts = (heads[0], data[0], heads[1], data[1])
    framed = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    assert state_digest(tensors) == hashlib.sha256(framed).hexdigest()


@pytest.mark.parametrize("name", ["0.weight", "1.weight", "1.running_mean", "1.running_var"])
def test_one_ulp_in_a_weight_or_a_batchnorm_buffer_is_another_digest(name: str) -> None:
    before, changed = state(), state()
    one_ulp_up(changed[name])
    assert state_digest(changed) != state_digest(before)


def test_the_digest_does_not_depend_on_order_layout_or_the_batches_that_were_tracked() -> None:
    before = state()
    changed = dict(reversed(state().items()))
    changed["1.num_batches_tracked"] += 5
    changed["0.weight"] = changed["0.weight"].to(memory_format=torch.channels_last)
    assert not changed["0.weight"].is_contiguous()
    assert state_digest(changed) == state_digest(before)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": torch.zeros(4)}, {"b": torch.zeros(4)}),
        ({"a": torch.zeros(4)}, {"a": torch.zeros(2, 2)}),
        ({"a": torch.zeros(4)}, {"a": torch.zeros(4, dtype=torch.int32)}),
        ({"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": torch.zeros(4)}),
        ({"a": torch.zeros(0)}, {}),
        ({"a": torch.zeros(0, 3)}, {"a": torch.zeros(3, 0)}),
        ({"a": torch.tensor(0.0)}, {"a": torch.tensor(-0.0)}),
    ],
)
def test_name_shape_type_and_sign_are_part_of_the_digest(one: State, other: State) -> None:
    assert state_digest(one) != state_digest(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8])
def test_types_that_numpy_lacks_have_a_digest_too(dtype: torch.dtype) -> None:
    assert state_digest({"a": torch.ones(3).to(dtype)}) != state_digest(
        {"a": torch.zeros(3).to(dtype)}
    )


def test_a_big_endian_machine_hashes_little_endian_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = np.array([1.0, -2.5], np.float32).byteswap()
    little = state_digest({"a": torch.tensor([1.0, -2.5])})
    monkeypatch.setattr(sys, "byteorder", "big")
    assert state_digest({"a": torch.from_numpy(swapped)}) == little


# --- read_state


def save_with_torch(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {f"module.{name}": tensor for name, tensor in s.items()},
        lambda s: {"state_dict": {f"module.{name}": tensor for name, tensor in s.items()}},
        lambda s: {
            name: nn.Parameter(t, t.is_floating_point()) if t.ndim else t for name, t in s.items()
        },
    ],
    ids=["plain", "state_dict", "model", "module", "both", "parameters"],
)
def test_a_state_is_found_however_it_was_saved(tmp_path: Path, wrap: Any) -> None:
    found = read_state(save_with_torch(wrap(state()), tmp_path / "w.pth"))
    assert list(found) == list(state())
    assert state_digest(found) == state_digest(state())


def test_only_a_prefix_that_all_names_have_is_taken_off(tmp_path: Path) -> None:
    content = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert list(read_state(save_with_torch(content, tmp_path / "w.pt"))) == ["module.a", "b"]


@pytest.mark.parametrize("suffix", [".safetensors", ".SafeTensors"])
def test_safetensors_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    safetensors.torch.save_file(state(), path)
    assert state_digest(read_state(path)) == state_digest(state())


def test_files_of_old_torch_versions_are_read(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert state_digest(read_state(tmp_path / "w.pth")) == state_digest(state())


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_code_in_a_pickle_is_named_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"w": Trap(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(TrunkError, match=r"w\.pth: .*found a pickle with \S*open, which could run"):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pth")
    words = r"found a pickle with torch\.nn\.modules\.container\.Sequential.*save model\.state_dict"
    with pytest.raises(TrunkError, match=words):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(3), "found a Tensor"),
        ([torch.zeros(3)], "found a list"),
        ({}, "found no tensors"),
        ({"state_dict": {}}, "found no tensors"),
        ({"w": torch.zeros(1), "note": "mine"}, "found 'note', which is no plain tensor"),
        ({3: torch.zeros(1)}, "found 3, which is no plain tensor"),
        pytest.param(
            {"w": torch.eye(3).to_sparse()},
            "found 'w', which is no plain tensor",
            marks=pytest.mark.filterwarnings("ignore:Validating sparse"),
        ),
        ({"w": torch.zeros(3, device="meta")}, "found 'w', which is no plain tensor"),
    ],
)
def test_what_is_no_dict_of_tensors_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    words = f"expected a state dict .*{re.escape(found)}"
    with pytest.raises(TrunkError, match=words):
        read_state(save_with_torch(content, tmp_path / "w.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not weights at all",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: bytes(64) + data[64:],
        lambda data: pickle.dumps("hello"),
    ],
    ids=["empty", "text", "half", "short", "zeroed", "pickle"],
)
def test_a_damaged_file_is_an_error_in_one_line(tmp_path: Path, suffix: str, damage: Any) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state(), path)
    else:
        safetensors.torch.save_file(state(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrunkError, match=r"w\.\w+: expected a state dict") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# --- fit_state


def test_a_state_is_copied_whole(tmp_path: Path) -> None:
    given = {name: tensor + 1 for name, tensor in state().items()}
    module = network()
    fit_state(module, given, "w.pth", "small")
    assert state_digest(module.state_dict()) == state_digest(given)


def test_the_counters_may_be_missing_and_the_head_may_be_there() -> None:
    given = state() | {"fc.weight": torch.zeros(7, 7), "aux.b": torch.zeros(1)}
    del given["1.num_batches_tracked"]
    fit_state(network(), given, "w.pth", "small", extra=("fc.", "aux."))


def test_a_name_of_the_network_is_never_left_out() -> None:
    module, given = network(), {name: tensor + 1 for name, tensor in state().items()}
    fit_state(module, given, "w.pth", "small", extra=("0.",))
    assert torch.equal(module.state_dict()["0.bias"], given["0.bias"])


def test_half_precision_is_taken_as_it_is() -> None:
    module = network()
    given = {name: t.half() if t.is_floating_point() else t for name, t in state().items()}
    fit_state(module, given, "w.pth", "small")
    assert module.state_dict()["0.weight"].dtype == torch.float32
    assert torch.equal(module.state_dict()["0.weight"], given["0.weight"].float())


def test_all_faults_of_a_state_are_told_at_once() -> None:
    given = state()
    for name in ("0.weight", "1.running_var"):
        del given[name]
    for i in range(7):
        given[f"x{i}"] = torch.zeros(1)
    given["0.bias"] = torch.zeros(5)
    given["1.bias"] = torch.zeros(4, dtype=torch.int64)
    words = (
        "w.pth: expected the weights of small (8 tensors), "
        "found 2 missing (0.weight, 1.running_var), "
        "7 unexpected (x0, x1, x2, x3, x4, x5 and 1 more), "
        "2 of another shape (0.bias 5 for 4, 1.bias 4 torch.int64 for 4); "
        "name the network that the file was made for with --trunk, or another file"
    )
    module = network()
    with pytest.raises(TrunkError, match=f"^{re.escape(words)}$"):
        fit_state(module, given, "w.pth", "small")
    assert state_digest(module.state_dict()) == state_digest(state())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    given = state()
    given[name] = given[name].double()
    given[name].view(-1)[0] = value
    words = rf"w\.pth: expected finite weights, found 1 with NaN or infinite values \({name}\)"
    with pytest.raises(TrunkError, match=words):
        fit_state(network(), given, "w.pth", "small")


def test_finite_weights_pass() -> None:
    check_finite(state(), "w.pth")


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"bytes")
    assert sha256_of(tmp_path / "w") == hashlib.sha256(b"bytes").hexdigest()
