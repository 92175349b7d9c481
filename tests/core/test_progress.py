"""Progress bars where a person can see them: on a terminal, on a notebook's page, or nowhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import types
from typing import Any

import pytest

import tlcache
import tlcache.core.progress
from tlcache.core.progress import progress_bar


class _Clock:
    """Time that passes when it is told to."""

    now = 100.0

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


class _Notebook:
    """A kernel's page: what was displayed, and how often."""

    def __init__(self) -> None:
        self.pages: list[dict[str, str]] = []
        self.told = 0

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        self.told += 1
        self.pages.append(bundle)
        at = len(self.pages) - 1
        return types.SimpleNamespace(update=lambda new, *, raw: self._update(at, new))

    def _update(self, at: int, bundle: dict[str, str]) -> None:
        self.told += 1
        self.pages[at] = bundle


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> _Notebook:
    """As if a kernel ran this."""
    made, display = _Notebook(), types.ModuleType("IPython.display")
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.display = made.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(tlcache.core.progress, "time", _Clock)
    _Clock.now = 100.0
    return made


def test_a_notebook_s_bar_becomes_a_line(notebook: _Notebook) -> None:
    with tlcache.progress_bar("embedding <i>") as tick:
        assert notebook.pages == []
        tick(1, 40)
        (page,) = notebook.pages
        assert page["text/plain"] == "embedding <i>: 1 of 40 images"
        assert '<progress value="1" max="40"' in page["text/html"]
        assert "embedding &lt;i&gt;: 1 of 40 images" in page["text/html"]
        _Clock.now += 2
        tick(10, 40)
        (page,) = notebook.pages
        assert page["text/plain"].endswith("10 of 40 images, 5 images/s, 6 s left")
        _Clock.now += 6
        tick(40, 40)
    (page,) = notebook.pages
    assert page["text/plain"] == "embedding <i>: 40 images in 8.0 s, 5 images/s"
    assert "progress" not in page["text/html"]


def test_a_notebook_s_page_is_told_ten_times_a_second_at_most(notebook: _Notebook) -> None:
    with progress_bar("embedding") as tick:
        for done in range(10_000):
            _Clock.now += 0.001
            tick(done, None)
    assert 90 < notebook.told < 105
    assert notebook.pages[0]["text/plain"].startswith("embedding: 9,999 images in 10.0 s")


def test_a_bar_of_an_unknown_end_is_shown_without_one(notebook: _Notebook) -> None:
    with progress_bar("predicting", "rows") as tick:
        tick(3, None)
        assert notebook.pages[0]["text/plain"] == "predicting: 3 rows"
        assert "<progress style" in notebook.pages[0]["text/html"]


def test_what_is_stopped_says_so_and_what_had_nothing_to_do_says_nothing(
    notebook: _Notebook,
) -> None:
    with pytest.raises(KeyboardInterrupt), progress_bar("embedding") as tick:
        tick(3, 40)
        raise KeyboardInterrupt
    assert notebook.pages[0]["text/plain"] == "embedding: stopped after 3 images"
    with progress_bar("reading"):
        pass
    assert len(notebook.pages) == 1


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("embedding") as tick:
        tick(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_s_bar_moves_and_goes() -> None:
    code = (
        "import tlcache\n"
        "with tlcache.progress_bar('embedding') as tick:\n"
        "    tick(7, 40)\n"
        "print('done')"
    )
    leader, follower = pty.openpty()
    words = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(words, stdout=follower, stderr=follower, env=environment) as running:
        os.close(follower)
        seen = b""
        while part := _read(leader):
            seen += part
    os.close(leader)
    assert running.returncode == 0, seen
    assert re.search(rb"embedding .*7/40", seen)
    last = seen.rpartition(b"7/40")[2]
    assert b"\x1b[1A\x1b[2K" in last and last.rstrip().endswith(b"done")  # its line is cleared


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the program on its other end is done
        return b""
