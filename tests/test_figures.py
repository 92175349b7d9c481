from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from tlcache import figures
from tlcache.errors import CacheError, DataError
from tlcache.figures import (
    accuracy_spread,
    benchmark_figure,
    confusion_figure,
    image_grid,
    learning_curves,
    prediction_grid,
    save_png,
)
from tlcache.recipe import EpochRecord

HOSTILE = (
    *("개미", "벌 🐝", "$x_1$", "cost $5 & $6", r"\frac{a}{b}", "_hidden", "", " ", "%d {0}"),
    *("line\nbreak\ttab", "\u202eevil\x00\x1b[31m", "lone \ud800 surrogate", "W" * 5000),
)


def photos_of(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, 12, 16, 3), dtype=np.uint8)


def texts(part: Figure | Axes) -> list[str]:
    return [text.get_text() for text in part.findobj(Text) if text.get_text()]


def drawn(figure: Figure, dpi: int = 50) -> Image.Image:
    """The figure drawn, which is when matplotlib would warn of what it cannot draw."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer)


def record(epoch: int, value: float = 0.5) -> EpochRecord:
    return EpochRecord(epoch, 0.001, value, 0.5, value, 0.6 + epoch / 100, 1.0)


def contender(name: str, **stages: float) -> dict[str, Any]:
    return {
        "name": name,
        "seconds_by_stage": stages,
        "accuracy": 0.961,
        "accuracy_ci95": (0.918, 0.982),
    }


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
        "from tlcache.figures import confusion_figure\n"
        "import io; confusion_figure([[1]], ['a']).savefig(io.BytesIO(), format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, tlcache.figures; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


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
    monkeypatch.setattr(figures, "_characters", lambda: {ord("벌"), ord("-")})
    assert figures._drawable("\u1107\u1165\u11af-x") == "벌-□"


def test_a_long_name_keeps_its_ends_around_an_ellipsis() -> None:
    name = "n02085620-Chihuahua-" + "very-" * 50 + "small-dog"
    (shown,) = texts(image_grid(photos_of(1), [name]))
    head, tail = shown.split("…")
    assert name.startswith(head) and name.endswith(tail) and min(len(head), len(tail)) > 3


def test_names_are_cut_by_their_width_not_their_length() -> None:
    narrow, wide = texts(image_grid(photos_of(2), ["i" * 30, "W" * 30]))
    assert narrow == "i" * 30
    assert "…" in wide


def test_image_grid_shows_every_image_under_its_title() -> None:
    images = photos_of(3)
    figure = image_grid(images, ["ants", "bees", "ants"], title="augmented")
    assert [texts(axes) for axes in figure.axes] == [["ants"], ["bees"], ["ants"]]
    assert "augmented" in texts(figure)
    for axes, image in zip(figure.axes, images, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert not axes.spines["top"].get_visible()


@pytest.mark.parametrize(
    ("n", "columns", "expected"),
    [(1, None, 1), (4, None, 4), (16, None, 4), (12, None, 4), (7, None, 4), (7, 2, 2), (3, 9, 3)],
)
def test_image_grid_chooses_or_takes_its_columns(
    n: int, columns: int | None, expected: int
) -> None:
    figure = image_grid(photos_of(n), ["x"] * n, columns)
    assert len({round(axes.get_position().x0, 4) for axes in figure.axes}) == expected
    assert len({round(axes.get_position().y0, 4) for axes in figure.axes}) == -(-n // expected)


def test_image_grid_frames_images_in_their_colours() -> None:
    figure = image_grid(photos_of(2), ["a", "b"], colours=["#0072B2", "#D55E00"])
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    assert frames == ["#0072b2", "#d55e00"]


def test_images_of_a_grid_do_not_overlap() -> None:
    boxes = [axes.get_position() for axes in image_grid(photos_of(8), ["x"] * 8).axes]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_prediction_grid_marks_right_and_wrong_by_colour_and_by_sign() -> None:
    figure = prediction_grid(photos_of(2), ["ants", "bees"], ["ants", "ants"], [0.981, 0.62])
    right, wrong = figure.axes
    assert set(texts(right)) == {"✓ ants 98%", "true: ants"}
    assert set(texts(wrong)) == {"✗ ants 62%", "true: bees"}
    assert to_hex(right.spines["top"].get_edgecolor()) == "#007a5a"
    assert to_hex(wrong.spines["top"].get_edgecolor()) == "#d55e00"
    assert "1 of 2 right" in texts(figure)


def test_names_cut_alike_are_still_told_apart() -> None:
    truth, prediction = "a" * 300 + "b" * 300, "a" * 300 + "c" + "b" * 299
    assert any(
        "✗" in text for text in texts(prediction_grid(photos_of(1), [truth], [prediction], [1]))
    )


def test_learning_curves_draw_both_parts_of_loss_and_accuracy() -> None:
    history = [record(epoch, 1 / epoch) for epoch in range(1, 26)]
    figure = learning_curves(history, best_epoch=20)
    loss, accuracy = figure.axes
    for axes, title in ((loss, "Loss, nats"), (accuracy, "Accuracy")):
        assert {title, "train", "val", "epoch"} <= set(texts(axes))
    assert loss.lines[0].get_ydata() == pytest.approx([1 / e for e in range(1, 26)])
    assert "best: epoch 20, val 0.050" in texts(loss)
    assert "best: epoch 20, val 0.800" in texts(accuracy)


@pytest.mark.parametrize("epochs", [1, 2, 3, 25, 1000])
def test_epochs_are_ticked_by_whole_numbers(epochs: int) -> None:
    figure = learning_curves([record(epoch) for epoch in range(1, epochs + 1)])
    drawn(figure)
    ticks = [tick for tick in figure.axes[0].get_xticks() if 1 <= tick <= epochs]
    assert 1 <= len(ticks) <= 12
    assert all(tick == int(tick) for tick in ticks)


def test_a_single_epoch_is_drawn_as_points() -> None:
    figure = learning_curves([record(1)], best_epoch=1)
    assert all(line.get_marker() == "o" for line in figure.axes[0].lines[:2])
    drawn(figure)


def test_the_names_of_curves_that_end_together_stay_apart() -> None:
    figure = learning_curves([record(1), record(2)])
    drawn(figure, dpi=150)
    names = [t for t in figure.axes[0].texts if t.get_text() in ("train", "val")]
    one, other = (name.get_window_extent() for name in names)
    assert not one.overlaps(other)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_diverged_is_drawn_as_far_as_it_went(bad: float) -> None:
    figure = learning_curves([record(1), record(2), record(3, bad)], best_epoch=3)
    drawn(figure)
    assert np.asarray(figure.axes[0].lines[0].get_xdata()).tolist() == [1, 2]
    drawn(learning_curves([record(1, bad)]))


def test_confusion_of_few_classes_shows_counts_and_shares() -> None:
    figure = confusion_figure([[67, 3], [4, 79]], ["ants", "bees"])
    assert {"67\n95.7%", "3\n4.3%", "4\n4.8%", "79\n95.2%"} <= set(texts(figure))
    assert {"ants", "bees", "true", "predicted", "146 of 153 right"} <= set(texts(figure))
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares, [[67 / 70, 3 / 70], [4 / 83, 79 / 83]])  # type: ignore


def test_rows_of_the_confusion_are_truths() -> None:
    (axes,) = confusion_figure([[0, 9], [0, 1]], ["a", "b"]).axes
    (nine,) = (text for text in axes.texts if text.get_text().startswith("9\n"))
    assert nine.get_position() == (1, 0)  # column b, row a
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_a_class_without_images_has_an_empty_row_without_a_share() -> None:
    figure = confusion_figure([[2, 0], [0, 0]], ["a", "b"])
    assert texts(figure).count("0") == 2
    drawn(figure)


def test_confusion_of_many_classes_shows_colours_without_numbers() -> None:
    names = [f"class {i}" for i in range(100)]
    figure = confusion_figure(np.eye(100, dtype=int) * 7, names)
    assert set(names) <= set(texts(figure))
    assert not figure.axes[0].texts
    assert "share of the true class" in texts(figure)
    assert max(drawn(figure).size) < 20 * 50


def test_confusion_of_very_many_classes_names_some() -> None:
    names = [f"class {i}" for i in range(300)]
    axes = confusion_figure(np.eye(300, dtype=int), names).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["class 0", "class 3"]
    assert list(axes.get_yticks()[:2]) == [0, 3]


@pytest.mark.parametrize("classes", [1, 2, 5, 20, 21])
def test_no_writing_of_a_confusion_is_cut_off(classes: int) -> None:
    names = [f"a rather long name of class {i}" for i in range(classes)]
    figure = confusion_figure(np.full((classes, classes), 1234), names)
    drawn(figure, dpi=150)
    canvas = figure.bbox
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert canvas.x0 <= box.x0 and box.x1 <= canvas.x1, text
            assert canvas.y0 <= box.y0 and box.y1 <= canvas.y1, text


def test_benchmark_stacks_the_seconds_of_stages() -> None:
    figure = benchmark_figure(
        [contender("cached", embed=4.0, train=0.2), contender("finetune", train=300.0, test=57.0)]
    )
    times, accuracies = figure.axes
    bars = [patch for patch in times.patches if isinstance(patch, Rectangle)]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [
        *((0, 4.0), (0, 0)),  # embed
        *((4.0, pytest.approx(0.2)), (0, 300.0)),  # train
        *((4.2, 0), (300.0, 57.0)),  # test
    ]
    assert {"cached", "finetune", "4.2 s   85×", "357 s", "seconds"} <= set(texts(times))
    legend = times.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["embed", "train", "test"]
    assert texts(accuracies).count("0.961") == 2
    assert np.asarray(accuracies.lines[0].get_xdata()).tolist() == [0.918, 0.982]


def test_the_first_contender_stands_on_top() -> None:
    times = benchmark_figure([contender("a", x=1.0), contender("b", x=2.0)]).axes[0]
    bottom, top = times.get_ylim()
    assert bottom > top


def test_a_benchmark_that_took_no_time_is_drawn() -> None:
    drawn(benchmark_figure([contender("a", x=0.0), contender("b", x=0.0)]))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123, "0.012 s"), (4.26, "4.3 s"), (63.44, "63.4 s"), (12345.6, "12,346 s"), (0.0, "0 s")],
)
def test_seconds_are_said_with_figures_that_matter(seconds: float, words: str) -> None:
    assert words in texts(benchmark_figure([contender("a", x=seconds)]))


def test_spread_of_a_few_heads_shows_a_dot_for_each() -> None:
    figure = accuracy_spread([0.95, 0.96, 0.96, 0.97], [0.01, 0.02, 0.03, 0.06])
    left, right = figure.axes
    assert left.lines[0].get_xdata() == pytest.approx([0.95, 0.96, 0.96, 0.97])
    assert np.asarray(left.lines[0].get_ydata()).tolist() == [1, 1, 2, 1]
    assert "Accuracy of 4 heads: mean 0.9600, sd 0.0082" in texts(left)
    assert "Seconds a head: median 0.025 s" in texts(right)
    assert np.asarray(right.lines[0].get_xdata()).tolist() == [1, 2, 3, 4]


def test_spread_of_many_heads_shows_how_often_each_accuracy_came_out() -> None:
    figure = accuracy_spread(np.repeat([0.95, 0.96], [30, 70]), np.ones(100))
    heights = [patch.get_height() for patch in figure.axes[0].patches]  # type: ignore
    assert heights == [30, 70]


def test_spread_of_very_many_different_accuracies_is_binned() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.01, 1000)
    axes = accuracy_spread(values, np.ones(1000)).axes[0]
    assert len(axes.patches) == 30
    assert sum(patch.get_height() for patch in axes.patches) == 1000  # type: ignore


@pytest.mark.parametrize("n", [1, 5])
def test_spread_of_equal_heads_is_drawn(n: int) -> None:
    figure = accuracy_spread([0.9] * n, [0.0] * n)
    assert f"Accuracy of {n} head{'s' * (n > 1)}: mean 0.9000, sd 0.0000" in texts(figure)
    drawn(figure)


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
