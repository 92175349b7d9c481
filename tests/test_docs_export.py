"""Every block of Python in the page on exported files runs, on files that were exported for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from small_trunk import small_trunk

import tlcache.exporting
from tlcache.exporting import SUFFIXES, export_model
from tlcache.heads import Model, initial_head
from tlcache.trunk import Trunk, load_trunk

PAGE = Path(__file__).parent.parent / "docs" / "export.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


CLASSES = ("ants", "bees")


def export(trunk: Trunk, format: str, image: Path) -> None:
    """A file where the page has it."""
    how = trunk.name, trunk.weights, trunk.digest, trunk.transform
    model = Model(initial_head(2, trunk.dim, 0), CLASSES, *how)
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
    monkeypatch.setattr(tlcache.exporting, "load_network", lambda *_: trunk.module)
    for format in ("onnx", "torchscript", "pt2"):
        export(trunk, format, image)
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    assert said.splitlines()[0] in CLASSES
    assert said.count("['ants', 'bees'] tensor([[") == 2
