from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from isolated import Running, isolated


def _doubled(number: int) -> int:
    return 2 * number


def test_a_value_comes_back() -> None:
    ended = isolated(_doubled, 21)
    assert (ended.code, ended.value, ended.error) == (0, 42, "")


def test_an_error_comes_back_as_text() -> None:
    ended = isolated(_doubled)
    assert ended.code == 1 and ended.value is None
    assert "missing 1 required positional argument" in ended.error


def test_a_crash_is_told_from_an_error() -> None:
    ended = isolated(os.kill, os.getpid(), 0)
    assert ended.code == 0
    assert isolated(os.abort).code == -signal.SIGABRT


def test_a_hang_is_ended() -> None:
    assert isolated(time.sleep, 60.0, limit=0.5).code is None


def test_a_call_is_killed_when_it_is_time() -> None:
    ended = Running(time.sleep, 60.0).end(signal=signal.SIGKILL, after=0.1)
    assert ended.code == -signal.SIGKILL and ended.value is None


def test_no_thread_is_inherited() -> None:
    assert isolated(_threads).value == 1


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
