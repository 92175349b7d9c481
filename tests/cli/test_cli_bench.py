"""What a user of `tlcache bench` and `demo` meets: a page, a table, pictures."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from called import Call, failed, tlcache
from small_trunk import small_trunk
from written_runs import answers

import tlcache.reports.page as tlcache_page
import tlcache.studies.bench as tlcache_benchmark
import tlcache.studies.demo as tlcache_demo
from tlcache.core.errors import CacheError
from tlcache.evaluation.metrics import evaluate
from tlcache.heads.recipe import Recipe
from tlcache.studies.bench import Benchmark, Contender


def measured(*_: object, **__: object) -> Benchmark:
    """A benchmark that nobody ran."""
    contenders = []
    for name, wrong in (("cached", 1), ("frozen", 1), ("finetune", 3)):
        scored = answers(8, 2, wrong)
        judged = evaluate(scored.logits, scored.labels, ("ants", "bees"))
        contenders.append(Contender(name, {"embed": 2.0, "train": wrong * 3.5}, scored, judged))
    return Benchmark(contenders, 0.02, Recipe(), "resnet18", "imagenet")


def test_a_benchmark_becomes_a_page(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_data.parent)
    monkeypatch.setattr(tlcache_benchmark, "benchmark", measured)
    result = tlcache("bench", "data", "--report", "bench.html", "--json")
    assert result.exit_code == 0, result.output
    said, text = json.loads(result.stdout), Path("bench.html").read_text(encoding="utf-8")
    assert said["comparison"]["sentence"] in html.unescape(text)
    assert "Seconds by stage" in text and "On val (chose the epoch), 8 images." in text
    for name in ("cached", "frozen", "finetune"):
        low, high = said[name]["accuracy_ci95"]
        assert f"(95%&nbsp;{low:.3f}–{high:.3f})" in text
    again = tlcache("bench", "data", "--report", "bench.html")
    failed(again, "bench.html: expected a new file, found an earlier page; pass --force")
    assert tlcache("bench", "data", "--report", "bench.html", "--force").exit_code == 0


def full(path: Path, data: bytes) -> None:
    raise CacheError(path, expected="room", found="No space left on device", remedy="free some")


def test_a_benchmark_whose_page_cannot_be_written_says_its_result_first(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_benchmark, "benchmark", measured)
    monkeypatch.setattr(tlcache_page, "write_atomically", full)
    result = tlcache("bench", tiny_data, "--report", tiny_data / "bench.html", "--json")
    assert result.exit_code == 1 and "found No space left on device" in result.stderr
    assert json.loads(result.stdout)["break_even_heads"] == 1


def test_the_demo_tells_four_steps_and_draws_four_pictures(
    call: Call, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlcache_demo, "fetch_material", lambda *_: (Path("data"), "small"))
    monkeypatch.setattr(tlcache_demo, "load_trunk", lambda *_: small_trunk())
    monkeypatch.setattr(tlcache_demo, "load_network", lambda *_: small_trunk().module)
    result = call("demo")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "24 images of 2 classes in data, trunk small"
    assert lines[1].endswith("seconds   Accuracy on val (chose the epoch), 95% interval")
    assert lines[2].startswith("embed 24 images, once ")
    names = ("augmented", "comparison", "curves", "predictions")
    assert lines[6] == f"pictures: {', '.join(f'demo/{name}.png' for name in names)}"
    assert lines[7] == "next: tlcache train data --trunk small --cache-dir demo/cache"
    found = json.loads(call("demo", "--json").stdout)
    assert (found["embedded"], found["reused"], found["judged_on"]) == (0, 24, "val")
    assert [step["step"].split()[0] for step in found["steps"]] == [
        *("embed", "train", "train", "finetune,")
    ]
    assert [step["accuracy"] is None for step in found["steps"]] == [True, False, False, False]
