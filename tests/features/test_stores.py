from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from time import time_ns
from typing import Any

import pytest
import safetensors.torch
import torch
from small_trunk import small_trunk
from torch import nn

from tlcache.core.errors import TrunkError
from tlcache.data.transforms import Transform
from tlcache.features.stores import describe_trunk
from tlcache.trunks import info as trunk_info
from tlcache.trunks.info import TrunkInfo, remember
from tlcache.trunks.load import load_trunk


@pytest.fixture
def memo(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


def test_a_trunk_is_loaded_once_and_then_described_from_memory(
    memo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = describe_trunk("squeezenet1_1", "random:5", memo)
    assert type(first) is TrunkInfo
    assert first == load_trunk("squeezenet1_1", "random:5").info
    with monkeypatch.context() as patch:
        patch.setattr("tlcache.trunks.load.load_trunk", lambda *_: pytest.fail("loaded again"))
        assert describe_trunk("squeezenet1_1", "random:5", memo)[0] == first
    assert describe_trunk("squeezenet1_1", "random:5", None)[0] == first


def test_new_weights_in_the_same_file_are_described_anew(
    memo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The file has been at rest for a minute.
    monkeypatch.setattr(trunk_info, "time_ns", lambda: time_ns() + 60 * 10**9)
    file = tmp_path / "w.safetensors"
    digests = []
    for seed in (1, 2):
        module = load_trunk("squeezenet1_1", f"random:{seed}").module
        safetensors.torch.save_file(module.state_dict(), file)
        digests.append(describe_trunk("squeezenet1_1", str(file), memo)[0].digest)
        assert describe_trunk("squeezenet1_1", str(file), memo)[0].digest == digests[-1]
    assert digests[0] != digests[1]
    assert len(list(memo.iterdir())) == 1


def test_recalling_does_not_import_torch(memo: Path) -> None:
    info = TrunkInfo(
        name="resnet18", weights="random", digest="ab" * 32, dim=512, transform=Transform()
    )
    remember(memo, info)
    code = (
        "import sys; from pathlib import Path; from tlcache.features.stores import describe_trunk;"
        "info, _ = describe_trunk('resnet18', 'random', Path(sys.argv[1]));"
        "print(info.digest, {'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, memo], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["ab" * 32, "set()"]


# --- a module of the user's own


def test_a_module_in_training_mode_is_refused() -> None:
    trunk = small_trunk()
    trunk.module.get_submodule("dropout").train()
    words = (
        r"^trunk small: expected a module in eval mode, .*, "
        r"found 1 submodule in training mode \(dropout\); call trunk\.module\.eval\(\) first$"
    )
    with pytest.raises(TrunkError, match=words):
        describe_trunk(trunk, "", None)


def test_weights_that_changed_since_a_trunk_was_made_are_described_as_they_are() -> None:
    trunk = small_trunk()
    before, _ = describe_trunk(trunk, "", None)
    assert before.digest == trunk.digest
    with torch.no_grad():
        trunk.module.get_parameter("norm.bias")[0] += 1
    after, load = describe_trunk(trunk, "", None)
    assert after.digest != before.digest == trunk.digest
    assert load().digest == after.digest


def test_weights_that_change_before_the_pass_begins_are_refused() -> None:
    trunk = small_trunk()
    info, load = describe_trunk(trunk, "", None)
    trunk.module.get_buffer("norm.running_mean")[0] += 1
    words = rf"^trunk small: expected the weights {info.digest[:8]} .*, found [0-9a-f]{{8}}; let"
    with pytest.raises(TrunkError, match=words):
        load()


class Shifted(nn.Module):
    """Adds a number that is in no state dict, and may have a state that is no tensor."""

    def __init__(self, shift: float, **options: Any) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([shift]), persistent=False)
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + self.get_buffer("shift")

    def get_extra_state(self) -> dict[str, Any]:
        return self.options


def test_a_buffer_that_is_in_no_state_dict_is_part_of_the_weights() -> None:
    def digest(module: nn.Module) -> str:
        trunk = dataclasses.replace(small_trunk(), module=module.eval(), dim=3)
        return describe_trunk(trunk, "", None)[0].digest

    class Plain(Shifted):
        get_extra_state = nn.Module.get_extra_state

    assert digest(Plain(1)) == digest(Plain(1)) != digest(Plain(2))
    words = (
        "expected a state of tensors alone, found '_extra_state' of type dict; hold it in a buffer"
    )
    with pytest.raises(TrunkError, match=words):
        digest(Shifted(1, scale=2))
    for empty in (nn.LazyLinear(3), nn.Linear(3, 3, device="meta")):
        with pytest.raises(TrunkError, match="tensors alone, found 'weight', which has no numbers"):
            digest(empty)


def test_a_loaded_network_is_the_same_one_by_its_name(memo: Path) -> None:
    name = "timm/levit_128s"  # has buffers that follow from its architecture, in no state dict
    trunk = load_trunk(name, "random")
    assert describe_trunk(trunk, "", None)[0] == describe_trunk(name, "random", memo)[0]
    trunk.module.get_buffer("stages.0.blocks.0.attn.attention_bias_idxs")[0, 0] += 1
    assert describe_trunk(trunk, "", None)[0].digest != trunk.digest
