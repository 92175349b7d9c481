"""``tlcache data``: fetch the ants and bees, or write out the digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.options import one_of
from tlcache.cli.output import Output

EXAMPLES = "tlcache data hymenoptera hymenoptera_data"
NAMES = ("hymenoptera", "digits")


def run(
    name: Annotated[
        str,
        typer.Argument(
            metavar="hymenoptera|digits",
            help="Which.",
            show_default=False,
            autocompletion=one_of("hymenoptera", "digits"),
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="A new folder.", show_default=False)
    ],
    archive: Annotated[
        Path | None,
        typer.Option("--from", help="The tutorial's zip, if it is at hand.", show_default=False),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Get a data set to start with, checked to the last byte.

    hymenoptera: the 397 ants and bees of PyTorch's transfer-learning tutorial, downloaded.
    digits: scikit-learn's 1,797 handwritten digits, written out; needs no network.
    """
    from tlcache.core.errors import OptionError
    from tlcache.data.examples import fetch_hymenoptera, write_digits

    out = Output(as_json, quiet)
    if name not in NAMES or (archive and name != "hymenoptera"):
        raise OptionError(
            "tlcache data",
            expected=" or ".join(NAMES) + "; --from goes with hymenoptera",
            found=f"{name} --from {archive}" if archive else name,
            remedy="see tlcache data --help",
        )
    if name == "digits":
        new = write_digits(destination)
    else:
        with out.progress("downloading", "bytes") as tick:
            new = fetch_hymenoptera(destination, archive, tick)
    out.line(f"{destination}: {'written' if new else 'was there already'}, every file checked")
    out.result({"data": str(destination), "new": new})
