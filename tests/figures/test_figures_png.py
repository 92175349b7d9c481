from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from drawn_figures import record
from PIL import Image

from tlcache.core.errors import CacheError
from tlcache.figures.curves import learning_curves
from tlcache.figures.style import save_png


def test_a_saved_figure_is_a_png_of_150_dots_an_inch(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    save_png(learning_curves([record(1)]), path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        assert image.size == (8 * 150, 465)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_a_figure_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="a file that can be written"):
        save_png(learning_curves([record(1)]), tmp_path / "nowhere" / "figure.png")


def test_no_figure_touches_pyplot_or_a_global_setting() -> None:
    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams)\n"
        "from tlcache.figures.confusion import confusion_figure\n"
        "import io; confusion_figure([[1]], ['a']).savefig(io.BytesIO(), format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, tlcache.figures; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
