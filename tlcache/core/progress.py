"""What a user is told while work goes on: lines worth knowing, and how far it has come.

Library code tells a :class:`Reporter` and knows no terminal. Progress bars are drawn in a terminal,
as HTML in a notebook, and nowhere where nobody looks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

Tick = Callable[[int, int], None]
"""Is told how many are done, and of how many."""
OpenTick = Callable[[int, int | None], None]
"""A tick that can also be told that the whole is not known."""
ProgressMaker = Callable[[str], contextlib.AbstractContextManager[Tick]]
"""Makes a progress bar with the given title, open while its block runs."""
Report = Callable[[str], None]
"""Is told, a line at a time, what a user should know."""


def no_tick(done: int, total: int | None) -> None:
    """A tick that tells nobody."""


def no_report(line: str) -> None:
    """A report that tells nobody."""


def part_of(progress: Tick | None, before: int, whole: int) -> Tick | None:
    """The tick of one part of the work, where ``before`` are done of the parts before it."""
    return None if progress is None else lambda done, _: progress(before + done, whole)


@contextlib.contextmanager
def no_progress(title: str) -> Iterator[Tick]:
    """A maker of progress bars that nobody sees."""
    yield no_tick


def said_once(report: Report) -> Report:
    """Passes on a line the first time: several parts of a run meet the same damaged file."""
    said: set[str] = set()

    def tell(line: str) -> None:
        if line not in said:
            said.add(line)
            report(line)

    return tell


@dataclasses.dataclass(frozen=True)
class Reporter:
    """Whom a piece of work tells; silent by default.

    Attributes:
        note: Is told, a line at a time, what a user should know.
        progress: Makes a progress bar with the given title.
    """

    note: Report = no_report
    progress: ProgressMaker = no_progress

    @staticmethod
    def of(report: Report | None, progress: ProgressMaker | None) -> Reporter:
        """The reporter of two optional arguments; each line is passed on once."""
        return Reporter(said_once(report or no_report), progress or no_progress)


_EVERY_SECONDS = 0.1  # a notebook's page is told; a page that is told too often hangs


@contextlib.contextmanager
def progress_bar(title: str, unit: str = "images") -> Iterator[OpenTick]:
    """A progress bar with the speed and the time left; only where a person can see it.

    Fit for ``progress`` of :func:`tlcache.embed`; what it yields, for that of
    :func:`tlcache.finetune`. In a notebook a line stays that says how long it took.

    Args:
        title: What is done.
        unit: What is counted.
    """
    if _in_notebook():
        with _html_bar(title, unit) as tick:
            yield tick
    elif sys.stderr.isatty():
        with _terminal_bar(title, unit) as tick:
            yield tick
    else:
        yield no_tick


def _in_notebook() -> bool:
    """Whether what is displayed goes to a page: a kernel runs this, no terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


@contextlib.contextmanager
def _terminal_bar(title: str, unit: str) -> Iterator[OpenTick]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeLeft(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # else results would go to the screen, not there
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=None, speed="")

        def tick(done: int, total: int | None) -> None:
            speed = _speed(done, bar.tasks[0].elapsed or 0.0, unit)
            bar.update(task, completed=done, total=total, speed=speed)

        yield tick


@contextlib.contextmanager
def _html_bar(title: str, unit: str) -> Iterator[OpenTick]:
    from IPython.display import display

    started, count = time.monotonic(), 0
    told = float("-inf")
    page: Any = None

    def show(words: str, bar: str = "") -> None:
        nonlocal page
        text = f"{title}: {words}"
        # The words alone where a page shows no HTML, and in what a notebook keeps in the end.
        bundle = {"text/plain": text, "text/html": f"<div>{bar}{escape(text)}</div>"}
        if page is None:
            page = display(bundle, raw=True, display_id=True)
        else:
            page.update(bundle, raw=True)

    def tick(done: int, total: int | None) -> None:
        nonlocal told, count
        now, count = time.monotonic(), done
        if now - told >= _EVERY_SECONDS:
            told = now
            place = f' value="{done}" max="{total}"' if total else ""
            bar = f'<progress{place} style="width:16em;vertical-align:middle"></progress> '
            show(_words(done, total, now - started, unit), bar)

    try:
        yield tick
    except BaseException:
        show(f"stopped after {count:,} {unit}")
        raise
    if count:
        seconds = time.monotonic() - started
        words = [f"{count:,} {unit} in {seconds:.1f} s", _speed(count, seconds, unit)]
        show(", ".join(filter(None, words)))


def _words(done: int, total: int | None, seconds: float, unit: str) -> str:
    of = f"{done:,} of {total:,}" if total else f"{done:,}"
    parts = [f"{of} {unit}", _speed(done, seconds, unit)]
    if total and done and seconds > 0.5:
        parts.append(f"{seconds * (total - done) / done:,.0f} s left")
    return ", ".join(filter(None, parts))


def _speed(done: int, seconds: float, unit: str) -> str:
    return f"{done / seconds:,.0f} {unit}/s" if seconds > 0.5 else ""
