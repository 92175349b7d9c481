"""The wheel and the source package: all that tlcache needs, and nothing that lies about."""

from __future__ import annotations

import configparser
import email
import itertools
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from tlcache.core.errors import DISTRIBUTION

ROOT = Path(__file__).parent.parent
INFO = "tlcache_features-0.1.0.dist-info"


def project() -> dict[str, Any]:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table: dict[str, Any] = tables["project"]
    return table


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Built as ``python -m build`` builds it, without its environment of its own."""
    folder = tmp_path_factory.mktemp("dist")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return path


@pytest.fixture(scope="module")
def wheel(built: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(built)


def of_the_package() -> set[str]:
    """Files of the package in the tree, bytecode and what numba compiled aside."""
    files = (ROOT / "tlcache").rglob("*")
    here = (path for path in files if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in here}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if not name.startswith(INFO)}
    assert names == of_the_package()


def test_the_wheel_holds_templates_the_marker_of_types_and_the_licence(
    wheel: zipfile.ZipFile,
) -> None:
    names = wheel.namelist()
    assert "tlcache/py.typed" in names
    assert "tlcache/reports/templates/page.html" in names
    licence = wheel.read(f"{INFO}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_no_bytecode_no_test_and_no_feature_is_in_it(wheel: zipfile.ZipFile) -> None:
    for name in wheel.namelist():
        assert name.split("/")[0] in ("tlcache", INFO)
        assert not name.endswith((".pyc", ".nbi", ".nbc", ".h5", ".safetensors", ".png"))


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    points = configparser.ConfigParser()
    points.read_string(wheel.read(f"{INFO}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == {"tlcache": "tlcache.cli:main"}


def test_its_metadata_name_what_it_needs(wheel: zipfile.ZipFile) -> None:
    about = email.message_from_bytes(wheel.read(f"{INFO}/METADATA"))
    assert about["Name"] == DISTRIBUTION and about["License-Expression"] == "MIT"
    extras = set(about.get_all("Provides-Extra", []))
    assert extras >= {"fast", "mnn", "offline", "export", "parquet", "tensorboard", "test"}
    core = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(core) == sorted(project()["dependencies"])


def test_installed_out_of_a_file_it_says_how_to_get_each_extra(built: str, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, f"--target={tmp_path}", built], check=True)
    needed = project()["optional-dependencies"]
    del needed["test"]
    code = "import sys, tlcache.core.errors as e\n"
    code += "print(e.__file__, *map(e.to_install, sys.argv[1:]), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code, *needed],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    file, *commands = done.stdout.splitlines()
    assert file.startswith(str(tmp_path))
    for command, packages in zip(commands, needed.values(), strict=True):
        assert command.lower() == shlex.join(["pip", "install", *packages]).lower()
    # All of them are here, so there is nothing to fetch.
    subprocess.run([*pip, "--dry-run", *itertools.chain(*needed.values())], check=True)


def test_every_dependency_that_is_the_cores_own_has_its_reason() -> None:
    pages = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = " ".join(re.findall(r"^\| ([A-Za-z, 0-9-]+) \| .* \| [\d.]+ \|", pages, re.M)).lower()
    named = {re.split("[<>=]", line)[0] for line in project()["dependencies"]}
    given = {"torch", "torchvision", "h5py", "numpy", "scikit-learn", "typer", "matplotlib"}
    assert named - given <= set(rows.replace(",", "").split())


def test_the_source_package_holds_what_is_needed_to_build_and_test_it(tmp_path: Path) -> None:
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= of_the_package()
    assert names >= {"pyproject.toml", "LICENSE", "Makefile", "tests/conftest.py"}
    assert {name for name in names if name.startswith("cache/")} == {"cache/README.md"}
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = named["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert {name.split("/")[0] for name in names} <= {*named, "cache", "PKG-INFO"}
