"""A call in a process of its own, which may crash, hang or be killed without harm to the test.

The processes come from a fork server that has loaded what a pass needs (``preloaded``) and run
nothing of torch's, so that one costs some milliseconds and inherits no thread.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["preloaded"])


@functools.cache
def _start_server() -> None:
    """Start it where it finds ``preloaded``: it is told no path but the environment's."""
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        multiprocessing.forkserver.ensure_running()


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        code: The exit code, or minus the signal that killed it; None if it had to be ended.
        value: What it returned; None if it did not return.
        error: What it raised, as text with its traceback; empty if it did not raise.
    """

    code: int | None
    value: Any
    error: str


class Running:
    """A call that is under way: ``function(*arguments)``; both must be picklable."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        _start_server()
        self._receiver, sender = _SERVER.Pipe(duplex=False)
        self.process: BaseProcess = _SERVER.Process(
            target=_run, args=(sender, function, arguments), daemon=True
        )
        self.process.start()
        sender.close()

    def end(self, limit: float = 10.0, signal: int | None = None, after: float = 0.0) -> Ended:
        """Wait for it; send it a signal first, some seconds from now, where one is given."""
        until = time.monotonic() + limit
        payload = b""
        if signal is not None:
            payload = self._receive(after)
            if self.process.is_alive() and self.process.pid is not None:
                os.kill(self.process.pid, signal)
        payload = payload or self._receive(until - time.monotonic())
        self.process.join(max(0.0, until - time.monotonic()))
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        self._receiver.close()
        value, error = pickle.loads(payload) if payload else (None, "")
        return Ended(code, value, error)

    def _receive(self, seconds: float) -> bytes:
        if not wait([self._receiver], max(0.0, seconds)):
            return b""
        try:
            return self._receiver.recv_bytes()
        except EOFError:
            return b""


def isolated(function: Callable[..., Any], *arguments: Any, limit: float = 10.0) -> Ended:
    """Call a function in a process of its own, for at most ``limit`` seconds."""
    return Running(function, *arguments).end(limit)


def _run(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer, code = (function(*arguments), ""), 0
    except BaseException:
        answer, code = (None, traceback.format_exc()), 1
    sender.send_bytes(pickle.dumps(answer))
    sender.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
