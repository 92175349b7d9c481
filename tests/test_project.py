from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import tlcache

HEAVY = {"torch", "torchvision", "sklearn", "matplotlib", "h5py", "scipy", "timm"}
CONFTEST = Path(__file__).with_name("conftest.py")


def _run_probe(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh pytest with this project's conftest and one test that asks for the photos."""
    tests = folder / "project" / "tests"
    tests.mkdir(parents=True)
    (tests / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (tests / "test_probe.py").write_text("def test_photos(photos):\n    assert photos.is_dir()\n")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TLCACHE_"))}
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider"]
    command += [f"--confcutdir={tests}", str(tests)]
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True
    )


def test_named_shared_folder_without_the_photos_fails(tmp_path: Path) -> None:
    result = _run_probe(tmp_path, TLCACHE_SHARED=str(tmp_path / "nowhere"))
    assert result.returncode == 1
    assert "TLCACHE_SHARED is set, but" in result.stdout
    assert "skipped" not in result.stdout


def test_photos_are_skipped_with_a_reason_where_nobody_named_them(tmp_path: Path) -> None:
    result = _run_probe(tmp_path)
    assert result.returncode == 0
    assert "1 skipped" in result.stdout
    assert "needs data/hymenoptera_data" in result.stdout


def test_named_shared_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "mine" / "data" / "hymenoptera_data").mkdir(parents=True)
    result = _run_probe(tmp_path, TLCACHE_SHARED=str(tmp_path / "mine"))
    assert result.returncode == 0
    assert "1 passed" in result.stdout


@pytest.mark.parametrize("module", ["tlcache", "tlcache.cli"])
def test_importing_starts_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*{HEAVY!r} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_a_public_name_is_the_same_thing_however_often_it_is_asked_for() -> None:
    modules = {path.name.removesuffix(".py") for path in Path(tlcache.__file__).parent.iterdir()}
    assert not modules & set(tlcache.__all__)  # else importing a module would put it in the place
    for name in tlcache.__all__:
        first, again = getattr(tlcache, name), getattr(tlcache, name)
        assert first is again and not isinstance(again, types.ModuleType), name
