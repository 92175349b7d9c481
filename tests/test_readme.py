"""The README is true of the tree, and its Korean version says the same."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tlcache.cli import app

ROOT = Path(__file__).parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "README.ko.md").read_text(encoding="utf-8")
TREE = re.search(r"^```text\n(tlcache/\n.*?)^```$", ENGLISH, re.M | re.S)


def in_the_tree() -> list[str]:
    """Paths of the annotated tree: the words of a line before its description."""
    assert TREE is not None
    names = []
    for line in TREE[1].splitlines():
        for word in line.split():
            if not re.fullmatch(r"[\w/]+(\.py|/)", word):
                break
            names.append(f"tlcache/{word}" if line.startswith(" ") else word)
    return names


def blocks(text: str) -> list[str]:
    return re.findall(r"^```[^\n]*\n.*?^```$", text, re.M | re.S)


def commands(block: str) -> list[str]:
    """The lines of a block without what is said of them; of a tree, the names."""
    if block.startswith("```text"):
        return [re.split(r"(?<=[/y]) {2,}", line)[0] for line in block.splitlines()]
    return [line.partition(" # ")[0].rstrip() for line in block.splitlines()]


def test_every_wing_and_module_beside_them_is_named_in_the_tree() -> None:
    modules = {f"tlcache/{path.name}" for path in (ROOT / "tlcache").glob("*.py")}
    wings = {f"tlcache/{path.parent.name}/" for path in (ROOT / "tlcache").glob("*/__init__.py")}
    assert modules | wings <= set(in_the_tree()), sorted((modules | wings) - set(in_the_tree()))


def test_what_the_tree_names_is_there_and_once() -> None:
    for path in in_the_tree():
        assert (ROOT / path).exists(), path
    assert max(Counter(in_the_tree()).values()) == 1


def test_tests_lie_in_folders_of_the_wings() -> None:
    wings = {path.parent.name for path in (ROOT / "tlcache").glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == wings


def test_every_command_is_named() -> None:
    for command in app.registered_commands:
        assert f"tlcache {command.name}" in ENGLISH, command.name
    for group in app.registered_groups:
        assert f"tlcache {group.name} " in ENGLISH, group.name


def test_every_extra_but_that_of_the_tests_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in project["optional-dependencies"].keys() - {"test"}:
        assert f"[{extra}]" in ENGLISH, extra


def test_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", ENGLISH)
    assert len(pictures) == 2
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 100_000


def test_the_korean_version_has_the_same_blocks() -> None:
    assert list(map(commands, blocks(KOREAN))) == list(map(commands, blocks(ENGLISH)))


@pytest.mark.parametrize("mark", [r"^#+ ", r"^!\[", r"^\|", r"^- ", r"\*\*"])
def test_the_korean_version_has_the_same_shape(mark: str) -> None:
    assert len(re.findall(mark, KOREAN, re.M)) == len(re.findall(mark, ENGLISH, re.M))


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(r"\d+(?:[.,]\d+)*", id="figures"),
        pytest.param(r"`[^`\n]+`", id="code"),
        pytest.param(r"\]\(([^)]+)\)", id="links"),
    ],
)
def test_the_korean_version_says_the_same(what: str) -> None:
    english, korean = (
        Counter(re.findall(what, re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)))
        for text in (ENGLISH.replace("README.ko.md", "README.md"), KOREAN)
    )
    assert english == korean
