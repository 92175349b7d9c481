from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import time_ns

import pytest
import safetensors.torch

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
