"""The command line: commands beside their kin, each of which parses, calls the library and prints.

``options`` has the options, their groups, and how a function becomes a command; ``output`` has what
commands print. Begin with ``data.embed``. Here commands stand in their panels, and here each ends:
an error as one line, Ctrl-C and SIGTERM too. No command imports another's module, and none imports
anything heavy before it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tlcache.cli import bench, cache, data, judge, pictures, runs, studies, sweep, train
from tlcache.cli.options import Command
from tlcache.core.errors import TlcacheError

_TYPED = "tlcache.typed"  # of a context: the command as it was typed
_STOPS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_SECONDS = 3.0  # for what was made to be committed, before another Ctrl-C cuts that short


# What holds when a command has been stopped, unless the interrupt itself has been told better.
_FROM_CACHE = "features that were made are in the cache, and the same command begins the rest anew"
_ANEW = "nothing is left half done, and the same command begins anew"
_GOES_ON = "what was finished is kept, and the same command goes on from there"
_STOPPED = {
    **dict.fromkeys(("embed", "data"), _GOES_ON),
    **dict.fromkeys(("finetune", "predict", "export", "bench", "cache", "runs"), _ANEW),
    "train": f"{_FROM_CACHE} (--csv and --tensorboard want new places)",
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as cleanly as Ctrl-C."""


class _Commands(TyperGroup):
    """Every command's errors, as one line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = shlex.join(["tlcache", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TlcacheError as error:
            if os.environ.get("TLCACHE_DEBUG") == "1":
                raise
            _say(f"error: {error}")
            sys.exit(error.exit_code)
        except KeyboardInterrupt as stop:
            for number in _STOPS:  # who presses twice is to see this line too, and no traceback
                signal.signal(number, signal.SIG_IGN)
            known = _STOPPED.get(ctx.invoked_subcommand, _FROM_CACHE)
            words = getattr(stop, "__notes__", [known])[-1]
            _say(f"stopped; {words.replace('{command}', ctx.meta[_TYPED])}")
            sys.exit(143 if isinstance(stop, _Terminated) else 130)
        except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Embed images once with a frozen network, then train heads on the cached features.",
    epilog="Begin with: tlcache demo",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import tlcache

        print(f"tlcache {tlcache.__version__}")
        raise typer.Exit


@app.callback()
def _before_commands(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Nothing: an option of ``tlcache`` itself needs a function to stand at."""


PANELS: dict[str, list[Command]] = {
    "Start": [bench.demo, data.data, data.check, pictures.show],
    "Train": [data.embed, train.train, train.finetune],
    "Judge": [judge.evaluate, judge.compare, judge.predict, pictures.map_],
    "Study": [sweep.sweep, studies.crossval, studies.fewshot, studies.knn, bench.bench],
    "Share": [runs.report, runs.export, data.export_features],
}
for panel, commands in PANELS.items():
    for one in commands:
        app.command(one.name, epilog=one.example, rich_help_panel=panel)(one.run)
app.add_typer(cache.app, name="cache", rich_help_panel="Look after")
app.add_typer(runs.app, name="runs", rich_help_panel="Look after")


def main() -> None:
    """The console script."""
    stop = _stop_once()
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as nohup does
        signal.signal(signal.SIGINT, stop)
    sys.unraisablehook = _stop_again
    app()


def _stop_once() -> Callable[[int, FrameType | None], None]:
    """Stops a command at the first signal; those that follow at once mean the same one."""
    last = float("-inf")

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > _PATIENCE_SECONDS:
            last = time.monotonic()
            raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt

    return stop


def _stop_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal anew that came during a finaliser: Python drops what is raised there."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGTERM if isinstance(lost.exc_value, _Terminated) else signal.SIGINT
    signal.signal(number, _stop_once())
    again = threading.Timer(0.01, os.kill, (os.getpid(), number))  # once the finaliser is behind
    again.daemon = True
    again.start()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
