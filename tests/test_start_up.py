"""What a command loads before it gets to work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tlcache.cli import app

SMALL = ("--trunk", "mobilenet_v3_small", "--weights", "random", "--crop", "32", "--resize", "32")
HEAVY = {"torch", "torchvision", "numba", "MNN", "matplotlib", "sklearn", "scipy", "timm", "pandas"}


def test_training_on_a_filled_cache_loads_nothing_heavy(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", str(tiny_data), *SMALL, "--views", "2", "--no-figures", "--json"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    code = (
        "import sys, tlcache.cli\n"
        "try: tlcache.cli.app(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-W", "error", "-c", code, *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    again = json.loads(done.stdout)
    assert again["embedded"] == 0
    assert again["evaluation"] == json.loads(first.stdout)["evaluation"]
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "tlcache.heads.steps" in loaded and loaded & HEAVY == set()
