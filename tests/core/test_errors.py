from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from tlcache.core import errors
from tlcache.core.errors import DISTRIBUTION, to_install

METADATA = f"""Metadata-Version: 2.4
Name: {DISTRIBUTION}
Version: 7.8
Requires-Dist: numpy>=1
Requires-Dist: numba>=0.61; extra == 'fast'
Requires-Dist: simplejpeg>=1.8 ; extra == "fast"
Requires-Dist: faster; extra == 'faster'
"""
ORIGINS = ["file:///home/me/tlcache", "file:///dist/tlcache.whl", "https://example.org/tlcache.git"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what is known of an installed tlcache lies, before any other."""
    folder = tmp_path / f"{DISTRIBUTION.replace('-', '_')}-7.8.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_from_an_index_an_extra_is_asked_for_by_the_name_there(installed: Path) -> None:
    assert to_install("fast") == "pip install 'tlcache-features[fast]'"


@pytest.mark.parametrize("origin", ORIGINS)
def test_from_a_folder_or_a_file_its_packages_are_named(installed: Path, origin: str) -> None:
    (installed / "direct_url.json").write_text(f'{{"url": "{origin}"}}')
    assert to_install("fast") == "pip install 'numba>=0.61' 'simplejpeg>=1.8'"


def test_source_that_was_never_installed_is_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", unknown)
    folder = Path(errors.__file__).parents[2]
    assert (folder / "pyproject.toml").is_file()
    monkeypatch.setattr(errors, "__file__", "/my work/tlcache/core/errors.py")
    assert to_install("fast") == "pip install '/my work[fast]'"


@pytest.mark.parametrize("known", [True, False])
def test_the_version_is_that_of_what_is_installed_and_source_needs_none(
    installed: Path, known: bool
) -> None:
    places = [str(Path(errors.__file__).parents[2]), *([str(installed.parent)] if known else [])]
    code = f"import sys; sys.path += {places}; import tlcache; print(tlcache.__version__)"
    # Without site no other installed package is found.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env={}
    )
    assert (done.stdout, done.stderr) == ("7.8\n" if known else "0+unknown\n", "")
