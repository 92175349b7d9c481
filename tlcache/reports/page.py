"""A page: written once it fits, templates filled in, everything escaped, numbers as texts."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.core.errors import UnmetError, one_line, strerror
from tlcache.core.files import write_atomically
from tlcache.figures.style import seconds_text

if TYPE_CHECKING:
    from jinja2 import Environment


MAX_BYTES = 3_000_000
_BEGINNING = b"<!doctype html>"
_JOINERS = "\u200c\u200d"  # invisible, but parts of Persian words and of emoji


@dataclasses.dataclass(frozen=True)
class Room:
    """How much of what may be without end a page shows, of each run."""

    points: int  # images on the map
    mistakes: int  # the worst ones
    classes: int  # rows of their table
    pictures: bool = True  # thumbnails


ROOMS = (
    Room(300, 24, 300),
    Room(150, 24, 300),
    Room(60, 12, 100),
    Room(20, 6, 30),
    Room(20, 6, 10, pictures=False),
)


def check_output(path: Path, force: bool) -> None:
    """Refuse a file that is there, or a place where none can be, before any work is done.

    Raises:
        OptionError: If the file may not be written.
    """
    try:
        there, folder = path.exists(), path.is_dir()
        writable = path.parent.is_dir() and os.access(path.parent, os.W_OK)
        found = "" if writable else f"no folder {path.parent} that can be"
    except OSError as error:  # a name too long, say
        there, folder, found = False, False, strerror(error)
    if folder or found:
        expected = "a file in a folder that can be written"
        raise UnmetError(path, expected, found or "a folder", "name another file")
    page = there and _is_page(path)
    if there and not (force and page):
        found = "an earlier page" if page else "a file that is no page"
        remedy = "pass --force to replace it, or name another" if page else "name another file"
        raise UnmetError(path, "a new file", found, remedy)


def _is_page(path: Path) -> bool:
    """Whether it is fit to be replaced: no model is, of a hasty --output."""
    try:
        with path.open("rb") as file:
            return file.read(len(_BEGINNING)).lower() == _BEGINNING
    except OSError:
        return False


def save_page(path: Path, render: Callable[[Room], bytes]) -> int:
    """Write a page with as much as fits into it; gives its size in bytes.

    Raises:
        OptionError: If it is too large with the least in it.
        CacheError: If it cannot be written.
    """
    page = b""
    for room in ROOMS:
        page = render(room)
        if len(page) <= MAX_BYTES:
            write_atomically(path, page)
            return len(page)
    expected = f"a page of at most {MAX_BYTES / 1e6:.0f} MB"
    found = f"{len(page) / 1e6:.1f} MB without a picture"
    raise UnmetError(path, expected, found, "report fewer runs at once")


def rendered(template: str, values: Mapping[str, Any]) -> bytes:
    """A template filled in, with style and script inside and a policy that admits them alone."""
    from markupsafe import Markup

    folder = resources.files("tlcache.reports") / "templates"
    style, script = ((folder / f"page.{of}").read_text(encoding="utf-8") for of in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    # The two are our own files, and hold nothing that a user named.
    own = {"style": Markup(style), "script": Markup(script), "policy": Markup(policy)}
    return _environment().get_template(template).render(**values, **own).encode("utf-8")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tlcache.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    for put in (share, interval, percent, seconds, count, shortened, times):
        environment.filters[put.__name__] = put
    return environment


def _digest(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode('ascii')}"


def shown(text: str) -> str:
    """The text with an escape for each character that is no print: control, half, direction.

    None of them may reach a page: half characters are no UTF-8, a direction would turn round
    what stands beside it.
    """
    return one_line(text, keep=_JOINERS)


def shortened(text: str, most: int = 60) -> str:
    """At most so many characters: the middle gives way to an ellipsis."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) :]}"


def share(value: float) -> str:
    """An accuracy or a loss: three places, or fewer figures where it is huge."""
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.2e}"


def interval(bounds: Sequence[float]) -> str:
    """A 95% interval."""
    low, high = bounds
    return f"{low:.3f}–{high:.3f}"


def percent(value: float) -> str:
    """A probability, never rounded to certainty."""
    if 0.995 <= value < 1:
        return f"{min(value, 0.9999):.2%}"
    return f"{value:.0%}" if value >= 0.01 or value == 0 else "<1%"


def seconds(value: float) -> str:
    """A time with the figures that matter: 0.042 s, 6.3 s, 207 s; what is shorter is no time."""
    return seconds_text(value) if value >= 0.01 else "<0.01 s"


def count(value: float) -> str:
    """A whole number with its thousands parted."""
    return f"{value:,.0f}"


def times(value: float) -> str:
    """A ratio: 6.3×, 84×."""
    return f"{value:,.0f}×" if value >= 10 else f"{value:.2g}×"
