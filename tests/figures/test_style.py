"""What all figures share: names, files, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from drawn_figures import contender, drawn, photos_of, record, texts
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from tlcache.core.errors import CacheError, DataError
from tlcache.figures import style as text
from tlcache.figures.curves import learning_curves
from tlcache.figures.grids import image_grid, prediction_grid
from tlcache.figures.heatmap import confusion_figure
from tlcache.figures.spreads import accuracy_spread, benchmark_figure
from tlcache.figures.style import save_png

HOSTILE = (
    *("개미", "벌 🐝", "$x_1$", "cost $5 & $6", r"\frac{a}{b}", "_hidden", "", " ", "%d {0}"),
    *("line\nbreak\ttab", "\u202eevil\x00\x1b[31m", "lone \ud800 surrogate", "W" * 5000),
)


@pytest.mark.parametrize(
    "draw",
    [
        lambda names: image_grid(photos_of(len(names)), names, title="$".join(names)),
        lambda names: prediction_grid(
            photos_of(len(names)), names, names[::-1], np.linspace(0, 1, len(names))
        ),
        lambda names: confusion_figure(np.eye(len(names), dtype=int), names),
        lambda names: confusion_figure(np.eye(2 * len(names), dtype=int), [*names, *names]),
        lambda names: benchmark_figure([contender(name, **{f"$s_{name}": 1.0}) for name in names]),
    ],
    ids=["images", "predictions", "confusion", "large confusion", "benchmark"],
)
def test_hostile_names_are_drawn_on_one_line_without_a_warning(
    draw: Callable[[tuple[str, ...]], Figure],
) -> None:
    figure = draw(HOSTILE)
    assert drawn(figure).size[0] > 100  # warnings are errors
    shown = texts(figure)
    assert any("$x_1$" in text for text in shown)
    assert any("line break tab" in text for text in shown)
    assert any("□evil□□[31m" in text for text in shown)
    assert not any(text.get_parse_math() for text in figure.findobj(Text))
    assert max(len(text) for text in shown) < 200


def test_a_name_never_reaches_tex_even_where_a_user_set_it_so() -> None:
    with matplotlib.rc_context({"text.usetex": True}):
        figure = confusion_figure([[1]], [r"\input{secret}"])
    assert not any(text.get_usetex() for text in figure.findobj(Text) if text.get_text())


def test_a_korean_name_spelled_decomposed_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_characters", lambda: {ord("벌"), ord("-")})
    assert text.drawable("\u1107\u1165\u11af-x") == "벌-□"


def test_a_long_name_keeps_its_ends_around_an_ellipsis() -> None:
    name = "n02085620-Chihuahua-" + "very-" * 50 + "small-dog"
    (shown,) = texts(image_grid(photos_of(1), [name]))
    head, tail = shown.split("…")
    assert name.startswith(head) and name.endswith(tail) and min(len(head), len(tail)) > 3


def test_names_are_cut_by_their_width_not_their_length() -> None:
    narrow, wide = texts(image_grid(photos_of(2), ["i" * 30, "W" * 30]))
    assert narrow == "i" * 30
    assert "…" in wide


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
        "from tlcache.figures.heatmap import confusion_figure\n"
        "import io; confusion_figure([[1]], ['a']).savefig(io.BytesIO(), format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, tlcache.figures; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


BAD: list[tuple[Callable[[], Figure], str]] = [
    (lambda: image_grid([], []), "images: expected at least one, found none; pass some"),
    (
        lambda: image_grid(photos_of(2), ["a"]),
        "titles: expected 2, as many as images, found 1; pass one for each",
    ),
    (
        lambda: image_grid(photos_of(1), ["a"], colours=["red", "blue"]),
        "colours: expected 1, as many as images, found 2; pass one for each",
    ),
    (
        lambda: image_grid(photos_of(1).astype(np.float32), ["a"]),
        "image: expected uint8 of shape (H, W, 3), found float32 (12, 16, 3); "
        "decode or denormalise it first",
    ),
    (
        lambda: image_grid([np.zeros((3, 8, 8), np.uint8)], ["a"]),
        "image: expected uint8 of shape (H, W, 3), found uint8 (3, 8, 8); "
        "decode or denormalise it first",
    ),
    (
        lambda: prediction_grid(photos_of(1), ["a"], ["a"], [0.5, 0.5]),
        "probabilities: expected 1, as many as images, found 2; pass one for each",
    ),
    (
        lambda: learning_curves([]),
        "history: expected at least one epoch, found none; train for an epoch or more",
    ),
    (
        lambda: learning_curves([record(1)], best_epoch=2),
        "best epoch: expected one of the history, found 2; pass the same run's",
    ),
    (
        lambda: confusion_figure([[1, 2, 3], [4, 5, 6]], ["a", "b"]),
        "confusion: expected shape (2, 2), one row and one column a class, and at least one "
        "class, found (2, 3); pass the confusion and the classes of one evaluation",
    ),
    (
        lambda: benchmark_figure([]),
        "contenders: expected at least one, found none; benchmark something first",
    ),
    (
        lambda: accuracy_spread([], []),
        "accuracies: expected at least one, found none; pass some",
    ),
    (
        lambda: accuracy_spread([0.9], [1.0, 2.0]),
        "seconds: expected 1, as many as accuracies, found 2; pass one for each",
    ),
]


@pytest.mark.parametrize(("draw", "words"), BAD)
def test_what_cannot_be_drawn_is_said_in_one_line(draw: Callable[[], Figure], words: str) -> None:
    with pytest.raises(DataError) as caught:
        draw()
    assert str(caught.value) == words
