"""Every block of code in the documentation runs: shell lines by the CLI, Python as it stands.

What stands in for real photos, weights and long runs is below, and so is every block that cannot
run here, with its reason: a block that is in neither is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tlcache.cache.identity import Identity
from tlcache.cli import app

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]

NOT_RUN = {
    "by-make": "sets up an environment of its own, and takes minutes",
    "by-pip": "installs packages; tests/test_wheel.py builds what is installed",
    "in-the-repository": "the project's own checks and benchmarks, by the names make gives them",
}
NO_CODE = ("text", "json")
"""Output, trees and a file's content; the one JSON text is checked below."""
ELSEWHERE = ["docs/export.md"]
"""tests/test_docs_export.py runs it, on a network that is small enough."""

TRUNK = "--trunk mobilenet_v2 --weights mobilenet_v2.pth"
"""Where a command leaves the trunk at ResNet18's published weights; the file's are random here."""
STAND_INS = {"hymenoptera photos": "digits digits", "--views 25": "--views 2"}
"""What a command says, and what is run instead."""
LESS = {
    "bench": "--epochs 1",
    "fewshot": "--shots 1,2 --episodes 2",
    "finetune": "--epochs 1",
    "show": "--no-window",
    "sweep": "--lr 1e-3 --c 1 --weight-decay 0",
}
"""What comes last counts: less work, and no window on the developer's screen."""
EXIT_CODES = {"check": (0, 1)}
"""A network that learned nothing takes all images for near duplicates, which check reports so."""


def blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: what stands after the fence, and the text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Several wait for each other at every step, for long where others have the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages name: photos, an image, weights, and the README's run."""
    import torch
    import torchvision

    folder = tmp_path_factory.mktemp("scene")
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for name, colour in (("ants", (150, 110, 90)), ("bees", (90, 110, 150))):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.normal(colour, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{i}.jpg")
    shutil.copy(folder / "photos/val/ants/0.jpg", folder / "photo.jpg")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(state, folder / "mobilenet_v2.pth")
    with contextlib.chdir(folder):
        run_line("tlcache train photos --run-dir runs/ants")
    return folder


@pytest.fixture
def here(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to work in, cache included."""
    folder = tmp_path / "work"
    shutil.copytree(scene, folder, copy_function=shutil.copy2)
    monkeypatch.chdir(folder)
    yield folder


def stood_in(line: str) -> list[str]:
    """The words of a documented command, with what stands in for what it needs."""
    for said, instead in STAND_INS.items():
        line = line.replace(said, instead)
    words = shlex.split(line, comments=True)
    assert words[0] == "tlcache", f"{line}: no command of ours; mark its block and list it here"
    group = typer.main.get_command(app)
    command = group.commands[words[1]]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts}
    if "--trunk" in options and not {"--trunk", "--from"} & set(words):
        words += shlex.split(TRUNK)
    return words[1:] + shlex.split(LESS.get(words[1], ""))


def run_line(line: str) -> None:
    words = stood_in(line)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code in EXIT_CODES.get(words[0], (0,)), f"{line}\n{done.output}"


def run_python(page: str, block: str) -> None:
    """Run it; what it prints is what a comment behind the print says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block, page, "exec"), {"__name__": "__main__"})
    for expected in re.findall(r"^print\(.*\) +# (.*)$", block, re.M):
        assert expected in said.getvalue().splitlines()


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_every_block_of_a_page_runs(page: str, here: Path) -> None:
    if page == "README.md":  # which makes it
        shutil.rmtree(here / "runs")
    for info, block in blocks(page):
        language, _, word = info.partition(" ")
        if word in NOT_RUN or language in NO_CODE:
            continue
        if language == "sh":
            for line in filter(
                None, (line.partition(" #")[0].strip() for line in block.splitlines())
            ):
                run_line(line)
        else:
            run_python(page, block)


def test_every_block_says_what_it_is_and_none_is_left_out_unseen() -> None:
    infos = {info for page in PAGES for info, _ in blocks(page)}
    assert infos == {"sh", "python", *NO_CODE, *(f"sh {word}" for word in NOT_RUN)}


def test_fences_are_all_of_one_kind() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert len(re.findall(r"^\s*(?:```|~~~)", text, re.M)) == 2 * len(blocks(page)), page


def test_the_identity_on_the_formats_page_has_the_key_that_it_says() -> None:
    text = (ROOT / "docs/cache-format.md").read_text(encoding="utf-8")
    (described,) = (block for info, block in blocks("docs/cache-format.md") if info == "json")
    key = hashlib.sha256(described.strip().encode()).hexdigest()
    assert key in text
    assert Identity.from_json(described.strip().encode(), "the page").key == key
    assert json.loads(described)["format"] == 1


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, "README.ko.md", "CHANGELOG.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / page).parent.joinpath(link).is_file(), f"{page}: {link}"


def test_pages_are_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in [*PAGES[1:], "README.ko.md", "CHANGELOG.md"]:
        assert f"({page})" in text


def test_files_and_tests_that_pages_name_are_there() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for path in re.findall(r"\b(?:tests|scripts|docs|tlcache)/[\w/.-]+\.(?:py|md|png)", text):
            assert (ROOT / path).is_file(), f"{page}: {path}"
        for path in re.findall(r"`(\w+/[\w/]+\.py)`", text):  # of a wing, as people say it
            assert (ROOT / path).is_file() or (ROOT / "tlcache" / path).is_file(), f"{page}: {path}"
        assert not re.search(r"`[a-z]\w*\.py`", text), f"{page}: a module without its wing"


def test_the_layers_on_the_page_for_contributors_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "```text\n" + "\n".join(layers[1:]) + "\n```" in page


def test_words_that_select_tests_are_in_the_file_that_is_named() -> None:
    said = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    selections = re.findall(r"(tests/(?:\w+/)?test_\w+\.py) -k (?:\"([^\"]+)\"|(\w+))", said)
    assert len(selections) > 20
    for file, several, one in selections:
        text = (ROOT / file).read_text(encoding="utf-8")
        for word in (several or one).split(" or "):
            assert word.lower() in text.lower(), f"{file} -k {word}"
