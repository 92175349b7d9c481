"""How the code is built: few parameters, short commands, no command that needs another."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "tlcache"
MODULES = sorted(ROOT.rglob("*.py"))
PUBLIC = set(re.findall(r"import (\w+) as", (ROOT / "__init__.pyi").read_text(encoding="utf-8")))
SHARED = {"options", "output"}
"""Modules of ``cli`` that are no command's."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[Path, str, Function]]:
    """Every function with its file and its name, that of its class before it."""
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = {f: c.name for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
        for node in ast.walk(tree):
            if isinstance(node, Function):
                name = f"{classes[node]}.{node.name}" if node in classes else node.name
                yield path.relative_to(ROOT), name, node


def parameters(function: Function) -> list[str]:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [one.arg for one in named if one.arg not in ("self", "cls")]


def is_public(path: Path, name: str) -> bool:
    return name in PUBLIC or (path.name, name.partition(".")[2]) == ("sklearn.py", "__init__")


def is_command(path: Path, function: Function) -> bool:
    """Whether its parameters are a command's options."""
    return path.parts[0] == "cli" and bool(function.decorator_list)


def test_no_function_but_the_public_ones_has_more_than_seven_parameters() -> None:
    wide = {
        f"{path}: {name}"
        for path, name, function in functions()
        if not is_public(path, name) and not is_command(path, function)
        if len(parameters(function)) > 7
    }
    assert wide == set()


def test_no_function_of_the_command_line_is_longer_than_sixty_lines() -> None:
    lengths = {
        f"{path}: {name}": (function.end_lineno or 0) - function.lineno + 1
        for path, name, function in functions()
        if path.parts[0] == "cli"
    }
    assert {where: lines for where, lines in lengths.items() if lines > 60} == {}


def test_no_command_imports_anothers_module() -> None:
    for path in (ROOT / "cli").rglob("*.py"):
        if path.name == "__init__.py":  # where commands are named
            continue
        text = path.read_text(encoding="utf-8")
        homes = re.findall(r"(?:from|import) tlcache\.cli\.(\w+)", text)
        homes += re.findall(r"from tlcache\.cli import (\w+)", text)
        assert set(homes) <= SHARED, f"{path}: {homes}"


def test_modules_that_a_docstring_points_to_are_there() -> None:
    known = {path.parent.name if path.stem == "__init__" else path.stem for path in MODULES}
    gone = set()
    for path in MODULES:
        said = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split())
        # "Covers no files (``exporting``)."; "Makes no feature (``features``)."
        pointed = re.findall(r" no [^.(]*\(``([\w.]+)``", said)
        if path.name == "__init__.py":  # "Read ``identity`` first, then ``shards``."
            pointed += re.findall(r"``(\w+)`` first", said)
        away = (word for word in pointed if word.rpartition(".")[2] not in known)
        gone |= {f"{path.relative_to(ROOT)}: {word}" for word in away}
    assert gone == set()
