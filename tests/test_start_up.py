"""What a command loads before it gets to work, and what ``--help`` costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from called import SMALL, Call, alone

HEAVY = {"torch", "torchvision", "numba", "MNN", "matplotlib", "sklearn", "scipy", "timm", "pandas"}


def test_training_on_a_filled_cache_loads_nothing_heavy(call: Call, tiny_data: Path) -> None:
    command = ("train", tiny_data, *SMALL, "--views", "2", "--no-figures", "--json")
    first = call(*command)
    assert first.exit_code == 0, first.output
    said, loaded = alone(*command)
    again = json.loads(said)
    assert again["embedded"] == 0
    assert again["evaluation"] == json.loads(first.stdout)["evaluation"]
    assert "tlcache.heads.steps" in loaded and loaded & HEAVY == set()


def test_no_command_s_help_loads_anything_heavy() -> None:
    code = (
        "import sys, tlcache.cli\n"
        "for word in [one.name for some in tlcache.cli.PANELS.values() for one in some]:\n"
        "    try: tlcache.cli.app([word, '--help'])\n"
        "    except SystemExit as stop: assert not stop.code, (word, stop.code)\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "tlcache.cli.sweep" in loaded and loaded & {*HEAVY, "h5py", "numpy"} == set()
