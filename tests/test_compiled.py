"""What numba compiles, where it can keep nothing beside the package and nobody has a home."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tlcache


def test_it_works_where_nothing_can_be_kept(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="needs numba")
    package = Path(tlcache.__file__).parent
    copied = tmp_path / "site" / "tlcache"
    shutil.copytree(package, copied, ignore=shutil.ignore_patterns("__pycache__"))
    no_folder = copied / "__pycache__"
    no_folder.touch()
    code = (
        "import sys, tlcache.data.resampling as r, tlcache.heads.steps as h\n"
        "assert r.__file__.startswith(sys.argv[1])\n"
        "print(r.can_resample((9, 9), (8, 8), 'bicubic'), h.compiled_steps() is not h.steps)"
    )
    names = ("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME")
    nowhere = dict.fromkeys(names, str(no_folder / "x"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(copied)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | nowhere | {"PYTHONPATH": str(tmp_path / "site")},
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True True\n", "", 0)
