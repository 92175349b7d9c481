"""Other people's libraries kept from printing where a program reads our results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Nothing on the process's stdout, where a program may be reading JSON.

    MNN greets there, and torch's exporter prints what it cannot express, both past Python's stdout.
    """
    try:
        sys.stdout.flush()
        stdout = os.dup(1)
    except (AttributeError, ValueError, OSError):  # closed: nobody reads it
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
