"""Every block of the page on exported files runs: its commands on a small model, its Python on
files that were exported for it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from small_trunk import small_trunk
from typer.testing import CliRunner

import tlcache.export.export
from tlcache.cli import app
from tlcache.export.export import SUFFIXES, export_model
from tlcache.heads.model import Model, initial_head, save_model
from tlcache.trunks.load import Trunk, load_trunk

PAGE = Path(__file__).parent.parent / "docs" / "export.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
COMMANDS = re.findall(r"^tlcache .*$", TEXT, re.M)


CLASSES = ("ants", "bees")


def model_on(trunk: Trunk) -> Model:
    how = trunk.name, trunk.weights, trunk.digest, trunk.transform
    return Model(initial_head(2, trunk.dim, 0), CLASSES, *how)


def export(trunk: Trunk, format: str, image: Path) -> None:
    """A file where the page has it."""
    model = model_on(trunk)
    output = Path(f"runs/ants/exported{SUFFIXES[format]}")
    export_model(model, output, format, images=[image], preprocess=format != "safetensors")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_every_block_runs(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    image = tiny_data / "val" / "ants" / "0.jpg"
    Image.open(image).save("photo.jpg")
    Path("runs/ants").mkdir(parents=True)
    export(load_trunk("mobilenet_v2", "random"), "safetensors", image)
    trunk = small_trunk()
    monkeypatch.setattr(tlcache.export.export, "load_network", lambda *_: trunk.module)
    for format in ("onnx", "torchscript", "pt2"):
        export(trunk, format, image)
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    assert said.splitlines()[0] in CLASSES
    assert said.count("['ants', 'bees'] tensor([[") == 2


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_every_command_runs_in_the_order_of_the_page(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/ants").mkdir(parents=True)
    trunk = small_trunk()
    save_model(Path("runs/ants/model.safetensors"), model_on(trunk))
    monkeypatch.setattr(tlcache.export.export, "load_network", lambda *_: trunk.module)
    assert len(COMMANDS) == 5
    for line in COMMANDS:
        words = [*shlex.split(line, comments=True)[1:], "--data", str(tiny_data)]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, f"{line}\n{done.output}"
    assert {path.suffix for path in Path("runs/ants").glob("exported.*")} == set(SUFFIXES.values())
