"""The page in a browser: it loads nothing, sorts, shows images on hover, and is accessible."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_runs import answers, images, written_run

from tlcache.reports.material import Material
from tlcache.reports.page import ROOMS
from tlcache.reports.records import read_record
from tlcache.reports.sections import bench_page, runs_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium on the PATH, as Debian's package of that name puts it"
)
CLASSES = ("<b>ants</b>", "bées \"'", "نحل")
SIZES = [(1280, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs whose images are there."""
    folder = tmp_path_factory.mktemp("report")
    paths = [f"val/{i}'\"<b>.png" for i in range(15)]
    images(folder, paths)
    scored = answers(15, 3, wrong=4, paths=paths)
    features = np.random.default_rng(0).normal(size=(15, 5)).astype(np.float32)
    materials = []
    for name in ("first", "second"):
        splits = {"train": answers(9, 3, 0), "val": scored}
        record = read_record(written_run(folder / name, splits, CLASSES, root=folder))
        materials.append(Material(record, scored, np.arange(15), features, folder))
    page = folder / "report.html"
    page.write_bytes(runs_page(materials, ["Both are right as often."], ROOMS[0]))
    return page


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("benchmark") / "bench.html"
    page.write_bytes(bench_page(MEASURED, "/photos", {"train": 20, "val": 10}))
    return page


MEASURED: dict[str, Any] = {
    **{
        name: {
            "name": name,
            "seconds": seconds,
            "seconds_by_stage": {"embed": seconds / 2, "train": seconds / 2},
            "accuracy": 0.9,
            "accuracy_ci95": [0.596, 0.982],
        }
        for name, seconds in (("cached", 8.0), ("frozen", 60.0), ("finetune", 120.0))
    },
    "head_seconds": 0.03,
    "speedup": 7.5,
    "break_even_heads": 1,
    "judged_on": "val",
    "selected_on": "val",
    "comparison": {"sentence": "cached gets 9 of 10 images right and finetune 9: the very same."},
    "trunk": "mobilenet_v2",
    "weights": "imagenet",
    "recipe": {"epochs": 1, "lr": 0.001},
    "versions": {"torch": "2.9"},
    "machine": {"cores": 2},
}


def opened(browser: Any, page: Path, width: int = 1280, theme: str = "light") -> Any:
    """The page, which asked for nothing and complained of nothing."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, offline=True
    )
    tab = context.new_page()
    tab.set_default_timeout(5000)
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    return tab


@pytest.mark.parametrize(("width", "theme"), SIZES)
@pytest.mark.parametrize("kind", ["report", "benchmark"])
def test_it_loads_alone_and_fits_the_screen(
    browser: Any, kind: str, width: int, theme: str, request: pytest.FixtureRequest
) -> None:
    tab = opened(browser, request.getfixturevalue(kind), width, theme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert tab.evaluate(broken) == 0
    tab.context.close()


@pytest.mark.parametrize(("width", "theme"), SIZES)
@pytest.mark.parametrize("kind", ["report", "benchmark"])
def test_axe_finds_nothing_to_complain_of(
    browser: Any, kind: str, width: int, theme: str, request: pytest.FixtureRequest
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    tab = opened(browser, request.getfixturevalue(kind), width, theme)
    for summary in tab.locator("summary").all():
        summary.click()
    found = Axe().run(tab).response
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found["violations"]] == []
    if kind == "report":
        shades = tab.locator("td.s9, td.s8").first.evaluate(
            "e => getComputedStyle(e).backgroundColor"
        )
        assert shades not in ("rgba(0, 0, 0, 0)", "")
    tab.context.close()


def test_a_table_sorts_by_mouse_and_by_keyboard(browser: Any, report: Path) -> None:
    tab = opened(browser, report)
    table = tab.locator("table.classes").first
    names = table.locator("tbody th")
    assert names.all_inner_texts() == list(CLASSES)
    heading = table.locator("thead th").nth(4)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    column = table.locator("tbody td:nth-child(5)").all_inner_texts()
    assert column == sorted(column, reverse=True) and len(set(column)) > 1
    by_name = table.locator("thead th").first
    by_name.locator("button").focus()
    tab.keyboard.press("Enter")
    assert by_name.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None
    up = names.all_inner_texts()
    tab.keyboard.press("Space")
    assert by_name.get_attribute("aria-sort") == "descending"
    assert names.all_inner_texts() == up[::-1] and sorted(up) == sorted(CLASSES)
    tab.context.close()


def test_numbers_sort_as_numbers(browser: Any, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(3), (2, 10, 9)).astype(np.int32)
    scored = answers(21, 3, 0)
    from tlcache.networks.scoring import Scored

    logits = np.eye(3, dtype=np.float32)[labels]
    folder = written_run(tmp_path / "run", {"val": Scored(logits, labels, scored.paths)}, CLASSES)
    page = tmp_path / "page.html"
    page.write_bytes(runs_page([Material(read_record(folder))], [], ROOMS[0]))
    tab = opened(browser, page)
    table = tab.locator("table.classes")
    table.locator("thead button").nth(1).click()
    assert table.locator("tbody td:nth-child(2)").all_inner_texts() == ["10", "9", "2"]
    tab.context.close()


def test_a_point_shows_its_image_on_hover(browser: Any, report: Path) -> None:
    tab = opened(browser, report)
    preview = tab.locator("#run-1 .preview")
    assert preview.locator("img").count() == 0
    tab.locator("#run-1 .point").nth(7).hover(force=True)
    picture = preview.locator("img")
    assert picture.evaluate("e => e.complete && e.naturalWidth") == 60
    words = preview.inner_text()
    assert "val/7'\"<b>.png" in words and "bées \"'" in words and "taken for (" in words
    assert tab.locator("#run-2 .preview img").count() == 0
    tab.context.close()


def test_the_map_is_one_stop_of_the_tab_key_and_arrows_go_through_it(
    browser: Any, report: Path
) -> None:
    tab = opened(browser, report)
    points = tab.locator("#run-1 .point")
    stops = "e => e.querySelectorAll('.point[tabindex=\"0\"]').length"
    chart = tab.locator("#run-1 .map")
    points.first.focus()
    first = chart.locator(".path").inner_text()
    seen = {first}
    for _ in range(14):
        tab.keyboard.press("ArrowRight")
        seen.add(chart.locator(".path").inner_text())
        assert chart.evaluate(stops) == 1
    assert len(seen) == 15
    tab.keyboard.press("ArrowRight")
    assert chart.locator(".path").inner_text() == first
    tab.keyboard.press("ArrowDown")
    assert chart.locator("[aria-selected=true]").count() == 1
    assert tab.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    tab.context.close()


def test_a_name_of_markup_makes_no_element(browser: Any, report: Path) -> None:
    tab = opened(browser, report)
    tab.locator("#run-1 .point").nth(3).hover(force=True)
    assert tab.locator("b").count() == 0
    assert tab.locator("table.classes tbody th").first.inner_text() == "<b>ants</b>"
    tab.context.close()


def test_without_script_everything_but_sorting_and_the_preview_is_there(
    browser: Any, report: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(report.as_uri())
    assert tab.locator(".mistakes img").count() == 8
    assert tab.locator("button").count() == 0
    context.close()


def test_in_print_the_page_is_light_and_its_tables_are_whole(browser: Any, report: Path) -> None:
    tab = opened(browser, report, theme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(back) != "rgb(255, 255, 255)"
    tab.emulate_media(media="print")
    assert tab.evaluate(back) == "rgb(255, 255, 255)"
    assert not tab.locator(".preview").first.is_visible()
    scroll = "getComputedStyle(document.querySelector('.scroll')).overflowX"
    assert tab.evaluate(scroll) == "visible"
    tab.context.close()
