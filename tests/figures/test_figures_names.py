from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from drawn_figures import contender, drawn, photos_of, texts
from matplotlib.figure import Figure
from matplotlib.text import Text

from tlcache.figures import style as text
from tlcache.figures.bars import benchmark_figure
from tlcache.figures.confusion import confusion_figure
from tlcache.figures.grids import image_grid, prediction_grid

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
