"""tlcache's commands as tests call them: in this process, or alone in one of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner, Result

from tlcache.cli import app

Call = Callable[..., Result]

RANDOM = ("--trunk", "mobilenet_v3_small", "--weights", "random")
SMALL = (*RANDOM, "--resize", "32", "--crop", "32")


def tlcache(*arguments: object, stdin: bytes | None = None) -> Result:
    """What a command did, in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def failed(result: Result, *words: str, code: int | None = None) -> None:
    """The exit code, and a last line on stderr that is clear and holds the words.

    Without a code it is that of the error's class.
    """
    error = getattr(result.exception, "__context__", None)
    assert result.exit_code == (code or getattr(error, "exit_code", 1)), result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: "), result.stderr
    for word in words:
        assert word in line, line
    assert "Traceback" not in result.output


def alone(*arguments: object, folder: Path | None = None) -> tuple[str, set[str]]:
    """What a command that succeeds prints in a process of its own, and the modules it loaded.

    There every warning is an error.
    """
    code = (
        "import sys, tlcache.cli\n"
        "try: tlcache.cli.app(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split())
