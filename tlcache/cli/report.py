"""``tlcache report``: one HTML page of one or several runs, to be looked at and sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, accuracy_text

if TYPE_CHECKING:
    from tlcache.reports.material import Material

EXAMPLES = "tlcache report runs/ants runs/bees --output report.html"


def run(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders that train, finetune or sweep wrote.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Where the images of the runs are now, or a snapshot of them.",
            show_default="where they were",
        ),
    ] = None,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a page that is there.")] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write one self-contained HTML page: what was done, curves, confusion, mistakes, map.

    The page loads nothing from elsewhere and stays under 3 MB. What needs images that are gone is
    left out, and the page says so.
    """
    from tlcache.core.machine import Compute
    from tlcache.core.progress import Reporter
    from tlcache.reports.material import AtHand, comparisons, material_of
    from tlcache.reports.page import check_output, save_page
    from tlcache.reports.records import read_record
    from tlcache.reports.sections import runs_page

    out = Output(as_json, quiet)
    check_output(output, force)
    compute = Compute(device, workers=o.worker_count(workers))
    at_hand = AtHand(data, weights, cache_dir, compute)
    at_hand.check()
    tell = Reporter(out.note, out.progress)
    materials = [material_of(record, at_hand, tell) for record in map(read_record, runs)]
    compared = comparisons(materials)
    with out.progress("writing", "pages") as tick:
        tick(0, None)
        size = save_page(output, lambda room: runs_page(materials, compared, room))
    for material in materials:
        record = material.record
        found = record.evaluations[record.split].to_dict()
        out.line(f"{record.name}: {record.split} {accuracy_text(found)}")
        for note in material.notes:
            out.note(f"{record.name}: {note}")
    out.line(f"report: {output} ({size / 1e3:.0f} KB)")
    out.result({"report": str(output), "bytes": size, "runs": [_describe(m) for m in materials]})


def _describe(material: Material) -> dict[str, Any]:
    record = material.record
    found = record.evaluations[record.split]
    return {
        "run": str(record.folder),
        "split": record.split,
        "selected_on": record.selected_on,
        "fitted_on": list(record.fitted_on),
        "accuracy": found.accuracy,
        "accuracy_ci95": list(found.accuracy_ci95),
        "n": found.n,
        "notes": list(material.notes),
    }
