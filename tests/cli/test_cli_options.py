"""Options in groups, and what a shell is told of them when a user presses Tab."""

from __future__ import annotations

import dataclasses
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tlcache.cache.identity import DTYPES
from tlcache.cli import app
from tlcache.cli import options as o
from tlcache.cli.data import EXAMPLES as DATA_SETS
from tlcache.data.folders import SPLITS
from tlcache.export.export import SUFFIXES
from tlcache.features.projection import METHODS
from tlcache.features.read import EVERY
from tlcache.heads.recipe import SCHEDULES
from tlcache.heads.rows import WAYS
from tlcache.networks.loop import PRECISIONS as TRAINING_PRECISIONS
from tlcache.studies.bench import NAMES as CONTENDERS
from tlcache.studies.settings import SOLVERS
from tlcache.trunks.engines import BOUNDS, ENGINES

OFFERED = {
    "train --precision": BOUNDS,
    "embed --engine": ENGINES,
    "train --dtype": DTYPES,
    "train --device": ("auto", "cpu", "cuda", "cuda:0"),
    "train --interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "train --weights": ("imagenet", "random"),
    "finetune --bn": ("eval", "train"),
    "finetune --precision": TRAINING_PRECISIONS,
    "evaluate --on": SPLITS,
    "compare --on": SPLITS,
    "map --on": SPLITS,
    "show --on": SPLITS,
    "fewshot --on": ("val", "test"),
    "export-features --on": (*SPLITS, EVERY),
    "map --method": METHODS,
    "export --format": SUFFIXES,
    "sweep --schedule": SCHEDULES,
    "sweep --features": WAYS,
    "sweep --solver": SOLVERS,
    "bench --contenders": CONTENDERS,
    "data": DATA_SETS,
    "cache": ("ls", "info", "verify", "diff", "gc"),
}


@dataclasses.dataclass(frozen=True)
class Words:
    word: Annotated[str, o.in_data(help="A word.")] = "a"
    number: int = 3  # no option


@dataclasses.dataclass(frozen=True)
class More(Words):
    number: Annotated[int, o.in_output("--count", help="A number.")] = 4


def test_a_command_is_handed_its_groups_and_may_lay_them_flat_again() -> None:
    seen: list[object] = []

    @o.command("tlcache say a --own 2")
    def say_it(first: Annotated[Path, typer.Argument()], more: More, own: float = 1.5) -> None:
        seen.extend([more, o.plain(locals())])

    app = typer.Typer()
    app.command(say_it.name)(say_it.run)
    result = CliRunner().invoke(app, ["here", "--count", "5", "--own", "2"])
    assert (say_it.name, result.exit_code) == ("say-it", 0), result.output
    assert seen[0] == More("a", 5)
    assert seen[1] == {"first": "here", "word": "a", "number": 5, "own": 2.0} | {"seen": seen}
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert shown.index("--own") < shown.index("─ Data ─") < shown.index("─ Output ─")


def test_a_field_that_is_no_option_keeps_its_default() -> None:
    seen: list[Words] = []

    def say(words: Words) -> None:
        seen.append(words)

    run = o.spread(say)
    assert list(inspect.signature(run).parameters) == ["word"]
    run(word="b")
    assert seen == [Words("b", 3)]
    assert o.plain({"words": seen[0]}) == {"word": "b"}


def test_two_groups_with_one_option_are_refused() -> None:
    def twice(one: Words, other: More) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'word'"):
        o.spread(twice)


def in_bash(typed: str) -> list[str]:
    """The words that are offered in the place of the last one; it may be empty."""
    words = f"tlcache {typed}"
    at = str(words.count(" "))
    env = {"_TLCACHE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": at}
    return CliRunner().invoke(app, [], prog_name="tlcache", env=env).stdout.split()


def in_zsh_or_fish(shell: str, typed: str) -> str:
    env = {"_TLCACHE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": f"tlcache {typed}"}
    env["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    return CliRunner().invoke(app, [], prog_name="tlcache", env=env).stdout


@pytest.mark.parametrize("typed", OFFERED)
def test_words_of_a_fixed_set_are_offered_and_are_those_that_are_taken(typed: str) -> None:
    assert sorted(in_bash(f"{typed} ")) == sorted(OFFERED[typed])


def test_the_beginning_of_a_command_is_completed_in_every_shell() -> None:
    assert in_bash("tr") == ["train"]
    assert '"train":"Train a head on cached features' in in_zsh_or_fish("zsh", "tr")
    assert in_zsh_or_fish("fish", "tr").startswith("train\tTrain a head on cached features")


def test_the_beginning_of_a_word_and_of_an_option_is_completed() -> None:
    assert in_bash("train --precision f") == ["fp32", "fast", "fp16"]
    assert in_bash("train --prec") == ["--precision"]
    assert in_bash("train --precision x") == []


def test_of_several_words_the_last_is_completed_by_one_that_is_not_there_yet() -> None:
    assert in_bash("bench --contenders cached,f") == ["cached,frozen", "cached,finetune"]
    assert in_bash("sweep --solver sgd,") == ["sgd,lbfgs"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str) -> None:
    env = {"_TLCACHE_COMPLETE": f"source_{shell}"}
    shown = CliRunner().invoke(app, [], prog_name="tlcache", env=env)
    assert shown.exit_code == 0 and f"_TLCACHE_COMPLETE=complete_{shell}" in shown.stdout


def test_completion_can_be_installed_and_shown() -> None:
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    assert "--install-completion" in said and "--show-completion" in said


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes_by_the_script(tmp_path: Path) -> None:
    command = tmp_path / "tlcache"
    command.write_text(f"#!{sys.executable}\nfrom tlcache.cli import main\nmain()\n")
    command.chmod(0o755)
    script = (
        'eval "$(_TLCACHE_COMPLETE=source_bash tlcache)"\n'
        "COMP_WORDS=(tlcache tr) COMP_CWORD=1\n"
        "_tlcache_completion tlcache\n"
        "echo ${COMPREPLY[@]}"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["train"], done.stderr
