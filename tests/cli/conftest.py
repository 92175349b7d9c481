"""A folder of its own for each test of a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from called import Call, tlcache
from small_cache import small_cache


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run tlcache in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tlcache


@pytest.fixture
def pets(call: Call) -> Path:
    """The snapshot in ``./cache`` of ten images, six in train and four in val."""
    store, _ = small_cache(Path("cache"))
    return store.snapshot_path("pets")
