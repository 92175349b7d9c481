"""``tlcache cache``: look after a cache; one file per command."""

from __future__ import annotations

import typer

from tlcache.cli.cache import diff, gc, info, ls, verify

app = typer.Typer(
    no_args_is_help=True,
    help="Look after a cache: what it holds, and whether all of it is sound.",
    epilog="Begin with: tlcache cache ls",
)
for command in (ls, info, verify, diff, gc):
    app.command(name=command.__name__.rsplit(".", 1)[1], epilog=command.EXAMPLES)(command.run)
