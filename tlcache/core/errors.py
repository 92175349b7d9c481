"""What can go wrong, said in one line: where, what was expected, what was found, what to do.

Every error that a user can cause is a :class:`TlcacheError`. The command line prints it as
``error: …`` and exits with its ``exit_code``; anything else is a defect of tlcache itself.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

DISTRIBUTION = "tlcache-features"
"""What package indexes call this package: ``tlcache`` is somebody else's there."""


class TlcacheError(Exception):
    """One fault in one line; its four parts may go without their names, in this order.

    Args:
        where: The file, folder, option or value at fault.
        expected: What was expected there.
        found: What was found instead.
        remedy: What the user can do about it.

    Attributes:
        exit_code: 1: it could not be done. 2: wrong usage, which is wrong on any machine and with
            any data, as where Typer notices it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, where: object, expected: str, found: str, remedy: str) -> None:
        super().__init__(str(where), expected, found, remedy)
        self.where = str(where)
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: expected {self.expected}, found {self.found}; {self.remedy}"
        return one_line(text)


class DataError(TlcacheError):
    """A data set that is not laid out as expected."""


class InputError(DataError, ValueError):
    """A value handed to a function that makes no sense; a ``ValueError``, as scikit-learn wants."""


class ImageError(TlcacheError):
    """An image file that cannot be read."""


class TrunkError(TlcacheError):
    """An unknown network, or weights that do not fit it."""


class CacheError(TlcacheError):
    """A cache that cannot be read or written."""


class DamageError(CacheError):
    """A file of a cache that does not hold what was written into it."""


class ModelError(TlcacheError):
    """A model file that cannot be used."""


class TrunkWordError(TrunkError):
    """A word for a network or for weights that nobody knows."""

    exit_code = 2


class OptionError(TlcacheError):
    """An option whose value makes no sense, or not beside the others."""

    exit_code = 2


class UnmetError(OptionError):
    """An option that asks for what is not here: a device, a package, a free place, fitting data."""

    exit_code = 1


class DownloadError(TlcacheError):
    """A download that failed or is not what it should be."""


def to_install(extra: str) -> str:
    """The command that brings the packages of an extra, for a remedy.

    It names the extra where this package came from an index. One that was installed out of a folder
    or a file is on none, perhaps, and where it lay may be gone: then it names the packages
    themselves. Source that was never installed is its own folder.
    """
    from importlib import metadata  # dear to import, and few ask

    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return shlex.join(["pip", "install", f"{Path(__file__).resolve().parents[2]}[{extra}]"])
    if installed.read_text("direct_url.json") is None:
        return shlex.join(["pip", "install", f"{DISTRIBUTION}[{extra}]"])
    lines = (line.partition(";") for line in installed.requires or ())
    condition = re.compile(rf" *extra == ['\"]{extra}['\"]")
    packages = [package.strip() for package, _, when in lines if condition.fullmatch(when)]
    return shlex.join(["pip", "install", *packages])


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """The known words closest to ``word``, for a remedy: ``resnet18, resnet34`` (may be empty)."""
    return ", ".join(difflib.get_close_matches(word, list(known), n=count, cutoff=0.6))


def listed(names: Sequence[str], separator: str = ", ", most: int = 6) -> str:
    """Names in a line, of which there may be thousands."""
    shown = separator.join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def one_line(text: str, keep: str = "") -> str:
    """A text as it can be shown in a line: no character that breaks it or moves what is around it.

    Each that is no print (a control, half of a character, a direction) becomes its escape, such as
    ``\\n``, but for those to ``keep``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def strerror(error: Exception) -> str:
    """What is wrong, in the system's words and without its paths: ``No space left on device``.

    Of one of ours, what was expected and what was found; of another, its own words.
    """
    if isinstance(error, TlcacheError):
        return f"expected {error.expected}, found {error.found}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextlib.contextmanager
def faults_as(
    kind: type[TlcacheError], where: object, expected: str, remedy: str, *, closer: bool = False
) -> Iterator[None]:
    """What the system finds wrong in this block, as an error of ours.

    Args:
        kind, where, expected, remedy: Of that error.
        closer: Name the very file that the system names, if it names one, in place of ``where``.
    """
    try:
        yield
    except OSError as error:
        at = error.filename if closer and error.filename else where
        raise kind(at, expected, strerror(error), remedy) from error


def error_in_a_line(error: Exception) -> str:
    """The kind of an error of somebody else's code and the first line of its words."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": ")
