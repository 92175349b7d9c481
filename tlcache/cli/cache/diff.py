"""``tlcache cache diff``: what differs between two identities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output

EXAMPLES = "tlcache cache diff 3f9c2a1b 7baa4df3"

_HELP = "A folder, its name in the cache, or the beginning of its key (four digits or more)."


def run(
    a: Annotated[str, typer.Argument(metavar="A", help=_HELP, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.", show_default=False)],
    cache_dir: o.CacheDir = Path("cache"),
    as_json: o.Json = False,
) -> None:
    """Tell in words what differs between two identities: why a feature of one is none of the other.

    A and B may be folders of different caches.
    """
    from tlcache.cache.contents import find_folder, own_identity
    from tlcache.cache.identity import differences

    out = Output(as_json)
    old, new = (own_identity(find_folder(cache_dir, text)) for text in (a, b))
    lines = differences(old, new)
    for line in lines or ["no difference"]:
        out.line(line)
    out.result({"a": old.key, "b": new.key, "differences": lines})
