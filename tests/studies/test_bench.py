"""The benchmark's contenders: what each does, and what is said where some are left out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trunk import small_trunk
from typer.testing import CliRunner

import tlcache.studies.bench
from tlcache.cli import app
from tlcache.core.errors import OptionError
from tlcache.data.folders import scan
from tlcache.evaluation.comparison import compare
from tlcache.heads.model import Head
from tlcache.heads.recipe import Recipe
from tlcache.heads.train import train_head
from tlcache.networks.finetune import Finetuned, finetune
from tlcache.networks.scoring import load_network
from tlcache.studies.bench import NAMES, Benchmark, Contender, benchmark

RECIPE = Recipe(epochs=2, batch_size=4, lr=0.02, seed=3)
TINY = (
    "--trunk",
    "mobilenet_v3_small",
    "--weights",
    "random",
    "--epochs",
    "1",
    "--batch-size",
    "8",
)


@pytest.fixture
def measure(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Benchmark]:
    """A benchmark of a small network."""
    trunk = small_trunk()

    def restored(model: Any) -> Any:
        monkeypatch.setattr("tlcache.trunks.load.load_trunk", lambda *_: small_trunk())
        return load_network(model)

    monkeypatch.setattr(tlcache.studies.bench, "load_trunk", lambda *_: trunk)
    monkeypatch.setattr(tlcache.studies.bench, "load_network", restored)
    return lambda **options: benchmark(
        scan(tiny_data), "small", "random:0", RECIPE, device="cpu", workers=1, **options
    )


def test_the_transform_of_a_weights_file_is_said(
    measure: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = dataclasses.replace(small_trunk(), origin="published with small")
    monkeypatch.setattr(tlcache.studies.bench, "load_trunk", lambda *_: trunk)
    said: list[str] = []
    measure(contenders=("cached",), report=said.append)
    assert len(said) == 1 and said[0].startswith("transform: resize 36, crop 32, bilinear, ")


def test_lp_ft_is_finetuning_that_starts_from_the_cached_head(
    measure: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Head] = []
    tuned: list[tuple[Head | None, bool, Finetuned]] = []

    def train(*arrays: Any, **options: Any) -> Any:
        result = train_head(*arrays, **options)
        trained.append(result.head)
        return result

    def tune(dataset: Any, trunk: Any, recipe: Recipe, **options: Any) -> Finetuned:
        assert recipe == RECIPE
        result = finetune(dataset, trunk, recipe, **options)
        tuned.append((options["head"], options["freeze"], result))
        return result

    monkeypatch.setattr(tlcache.studies.bench, "train_head", train)
    monkeypatch.setattr(tlcache.studies.bench, "finetune", tune)
    begun: list[str] = []
    measured = measure(on_start=begun.append)
    assert begun == [one.name for one in measured.contenders] == list(NAMES)
    assert [(head is None, frozen) for head, frozen, _ in tuned] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert tuned[2][0] is trained[0]
    assert [len(result.history) for _, _, result in tuned] == [2, 2, 2]
    cached, tuned_from_cache = measured.get("cached"), measured.get("lp-ft")
    assert cached and tuned_from_cache
    assert {values["precision"] for values in map(Contender.describe, measured.contenders)} == {
        "fp32"
    }
    assert tuned_from_cache.seconds.keys() == {"embed", "read", "train", "finetune"}
    assert {k: tuned_from_cache.seconds[k] for k in cached.seconds} == cached.seconds


def test_the_gain_is_that_of_the_cached_head_over_a_random_one(
    measure: Callable[..., Benchmark],
) -> None:
    measured = measure(contenders=("lp-ft", "finetune"))
    values = measured.describe()
    tuned, from_cache = measured.contenders
    assert (tuned.name, from_cache.name) == ("finetune", "lp-ft")
    assert from_cache.scored.paths == tuned.scored.paths
    assert not np.array_equal(from_cache.scored.logits, tuned.scored.logits)
    paired = compare(from_cache.scored.logits, tuned.scored.logits, tuned.scored.labels)
    expected = paired.to_dict() | {"sentence": paired.sentence("lp-ft", "finetune")}
    assert values["lp_ft_gain"] == expected
    difference = values["lp-ft"]["accuracy"] - values["finetune"]["accuracy"]
    assert values["lp_ft_gain"]["difference"] == pytest.approx(difference)


def test_what_was_not_measured_is_null(measure: Callable[..., Benchmark]) -> None:
    frozen = measure(contenders=["frozen"]).describe()
    assert "frozen" in frozen and not {"cached", "finetune", "lp-ft"} & frozen.keys()
    unknown = ("head_seconds", "speedup", "break_even_heads", "comparison", "lp_ft_gain")
    assert [frozen[name] for name in unknown] == [None] * 5
    both = measure(contenders=["frozen", "cached", "cached"])
    assert [one.name for one in both.contenders] == ["cached", "frozen"]
    cached = both.get("cached")
    assert cached and both.speedup == both.contenders[1].total / cached.total
    assert both.head_seconds is not None and both.break_even_heads is not None


@pytest.mark.parametrize(("contenders", "found"), [([], "none"), (["cached", "lpft"], "lpft")])
def test_other_contenders_are_refused_before_anything_is_loaded(
    tiny_data: Path, contenders: list[str], found: str
) -> None:
    with pytest.raises(OptionError) as refused:
        benchmark(scan(tiny_data), "no such network", contenders=contenders)
    assert str(refused.value) == (
        f"--contenders: expected some of cached, frozen, finetune, lp-ft, found {found}; "
        "name them with commas between, or leave it out for all"
    )


def test_the_command_tells_all_four_and_draws_them(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["bench", str(tiny_data), *TINY]
    done = CliRunner().invoke(app, [*command, "--figure", "b.png", "--report", "b.html"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == list(NAMES)
    assert any(line.startswith("lp-ft gets ") for line in lines)
    assert any(line.startswith("cached gets ") for line in lines)
    assert Path("b.png").read_bytes().startswith(b"\x89PNG")
    assert "lp-ft gets " in Path("b.html").read_text()


def test_the_command_tells_only_what_was_measured(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["bench", str(tiny_data), *TINY, "--contenders", "cached, finetune"]
    done = CliRunner().invoke(app, [*command, "--report", "b.html"])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == [
        "cached",
        "finetune",
        "cached",
    ]
    assert "None" not in done.stdout
    assert "None" not in Path("b.html").read_text()
    values = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert values["speedup"] is None and values["comparison"]["sentence"].startswith("cached gets")
