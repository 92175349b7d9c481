"""Runs that are stopped before each thing they do to a cache, or take turns there."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tlcache.cache.compaction
import tlcache.cache.gc
import tlcache.cache.rows
import tlcache.cache.store
from tlcache.cache.shards import Rows

_STEPS = (
    (tlcache.cache.compaction, "read_shard"),
    (tlcache.cache.rows, "load_snapshot"),
    (tlcache.cache.compaction, "write_atomically"),
    (tlcache.cache.store, "write_atomically"),
    (tlcache.cache.compaction, "_move"),
    (tlcache.cache.compaction, "delete"),
    (tlcache.cache.compaction, "_superfluous"),
    (tlcache.cache.gc, "delete"),
    (tlcache.cache.store, "list_folder"),
)


class Killed(BaseException):
    """As if by SIGKILL: nothing that the run does afterwards reaches the disk."""


def call_before(
    steps: Iterable[tuple[ModuleType, str]], patch: pytest.MonkeyPatch, call: Callable[[str], None]
) -> None:
    """``call`` is told the name of each function before it is called where a module has it."""

    def wrapped(step: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            call(name)
            return step(*arguments)

        return run

    for home, name in steps:
        patch.setattr(home, name, wrapped(getattr(home, name), name))


def call_before_each_step(patch: pytest.MonkeyPatch, call: Callable[[str], None]) -> None:
    """The same of each step of a clean-up, and of whoever commits or reads meanwhile."""
    call_before(_STEPS, patch, call)

    def one_by_one(
        paths: Sequence[Path], read: Callable[[Path], Rows]
    ) -> Iterator[tuple[Path, concurrent.futures.Future[Rows]]]:
        for path in paths:
            call("read_shard")
            reading: concurrent.futures.Future[Rows] = concurrent.futures.Future()
            try:
                reading.set_result(read(path))
            except Exception as error:
                reading.set_exception(error)
            yield path, reading

    patch.setattr(tlcache.cache.store, "_read_ahead", one_by_one)


@dataclasses.dataclass
class Kill:
    """Kills at the given step, and counts the steps."""

    at: int
    count: int = 0

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.count > self.at:
            raise Killed


@dataclasses.dataclass
class Interrupt:
    """Calls at the given step, once; the steps of the call are not counted."""

    at: int
    action: Callable[[], object]
    count: int = 0
    busy: bool = False

    def __call__(self, name: str) -> None:
        if self.busy:
            return
        self.count += 1
        if self.count == self.at:
            self.busy = True
            self.action()
            self.busy = False


class Turns:
    """Runs in threads of which one at a time takes one step, in an order that a seed decides."""

    def __init__(self, actions: Sequence[Callable[[], object]], seed: int) -> None:
        self._actions, self._random = actions, random.Random(seed)
        self._mine = threading.local()
        self._paused = threading.Semaphore(0)

    def __call__(self, name: str) -> None:
        go = getattr(self._mine, "go", None)
        if go is not None:
            self._paused.release()
            go.acquire()

    def run(self) -> None:
        """All to their ends; raises what any of them raised."""
        with concurrent.futures.ThreadPoolExecutor(len(self._actions)) as pool:
            goes = [threading.Semaphore(0) for _ in self._actions]
            pairs = zip(self._actions, goes, strict=True)
            running = {pool.submit(self._start, *pair): pair[1] for pair in pairs}
            results = list(running)
            while running:
                chosen = self._random.choice(list(running))
                running[chosen].release()
                self._paused.acquire()
                running = {f: go for f, go in running.items() if not getattr(go, "ended", False)}
        for result in results:
            result.result()

    def _start(self, action: Callable[[], object], go: threading.Semaphore) -> None:
        self._mine.go = go
        go.acquire()
        try:
            action()
        finally:
            del self._mine.go
            go.ended = True  # type: ignore[attr-defined]
            self._paused.release()
