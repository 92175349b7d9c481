from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from called import Call

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread per worker, before torch or a BLAS starts its pool: workers share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests see no GPU, wherever they run, but those of ``-m gpu``."""
    marked = {item.get_closest_marker("gpu") is not None for item in session.items}
    if marked == {True, False}:
        raise pytest.UsageError("tests marked gpu run by themselves: pass -m gpu")
    if marked != {True}:
        # CUDA looks when it is first asked for something, which no test module does as it loads.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU that torch can use")


_BESIDE_REPOSITORY = Path(__file__).resolve().parent.parent.parent / "shared"


def _shared(item: str) -> Path:
    """A real file or folder: required once TLCACHE_SHARED is set, otherwise used if it is there."""
    named = os.environ.get("TLCACHE_SHARED")
    path = (Path(named) if named else _BESIDE_REPOSITORY) / item
    if path.exists():
        return path
    if named:
        pytest.fail(f"TLCACHE_SHARED is set, but {path} is not there", pytrace=False)
    pytest.skip(f"needs {item}; name the folder that holds it with TLCACHE_SHARED")


@pytest.fixture(scope="session")
def photos() -> Path:
    """The real ants-and-bees photos, with train/ and val/."""
    return _shared("data/hymenoptera_data")


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """The real ImageNet weights of torchvision's mobilenet_v2, ``features.*`` only."""
    return _shared("weights/mobilenet_v2_features.pth")


@pytest.fixture(scope="session", autouse=True)
def _sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test draws on a screen, or reads or writes a user's home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")
        patch.setenv("HOME", str(home))
        for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR"):
            patch.setenv(name, str(home / name.lower()))
        yield


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command that is stopped ignores signals from then on, as its process is about to end."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A folder with 8 train and 4 val images of each of "ants" and "bees", 48 wide and 40 high.

    Ants are reddish, bees bluish, under noise; the first half of a class is JPEG, the rest PNG.
    """
    folder = tmp_path / "data"
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, colour in (("ants", (150, 110, 90)), ("bees", (90, 110, 150))):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.normal(colour, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                suffix = "jpg" if i < count // 2 else "png"
                Image.fromarray(pixels).save(folder / split / name / f"{i}.{suffix}")
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount: {error}")
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run tlcache in a folder of the test's own."""
    from called import tlcache

    monkeypatch.chdir(tmp_path)
    return tlcache


@pytest.fixture
def pets(call: Call) -> Path:
    """The snapshot in ``./cache`` of ten images, six in train and four in val."""
    from small_cache import small_cache

    store, _ = small_cache(Path("cache"))
    return store.snapshot_path("pets")
