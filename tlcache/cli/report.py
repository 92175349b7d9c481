"""``tlcache report``: one HTML page of one or several runs, to be looked at and sent."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, accuracy_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tlcache.networks.scoring import Scored
    from tlcache.reports.records import RunRecord
    from tlcache.reports.sections import Material

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
    from tlcache.reports.page import check_output, save_page
    from tlcache.reports.records import read_record
    from tlcache.reports.sections import runs_page

    out = Output(as_json, quiet)
    check_output(output, force)
    _check_data(data)
    records = [read_record(path) for path in runs]
    passing: dict[str, Any] = {"device": device, "workers": o.worker_count(workers)}
    materials = [_material(out, one, data, weights, cache_dir, passing) for one in records]
    comparisons = _comparisons(materials)
    with out.progress("writing", "pages") as tick:
        tick(0, None)
        size = save_page(output, lambda room: runs_page(materials, comparisons, room))
    for material in materials:
        record = material.record
        found = record.evaluations[record.split].to_dict()
        out.line(f"{record.name}: {record.split} {accuracy_text(found)}")
        for note in material.notes:
            out.note(f"{record.name}: {note}")
    out.line(f"report: {output} ({size / 1e3:.0f} KB)")
    out.result({"report": str(output), "bytes": size, "runs": [_describe(m) for m in materials]})


def _check_data(data: Path | None) -> None:
    from tlcache.core.errors import OptionError

    try:
        found = "" if data is None or data.exists() else f"no {data}"
    except OSError as error:  # a name too long, say
        found = error.strerror or type(error).__name__
    if found:
        raise OptionError(
            "--data",
            expected="a folder of images, or a snapshot of them",
            found=found,
            remedy="name where the images are now",
        )


def _material(
    out: Output,
    record: RunRecord,
    data: Path | None,
    weights: str | None,
    cache: Path,
    passing: dict[str, Any],
) -> Material:
    """A run with what can be had: a part that cannot costs a note, not the page."""
    from tlcache.core.errors import TlcacheError
    from tlcache.reports.sections import Material

    found = Material(record, root=record.root if data is None or data.is_file() else data)
    notes = []
    try:
        found = dataclasses.replace(
            found, scored=_scored(out, record, data, weights, cache, passing)
        )
    except TlcacheError as error:
        notes.append(f"Mistakes, calibration and map are left out: {error}.")
        return dataclasses.replace(found, notes=tuple(notes))
    try:
        rows, features = _features(out, found, data, weights, cache, passing)
        found = dataclasses.replace(found, rows=rows, features=features)
    except TlcacheError as error:
        notes.append(f"The map of the features is left out: {error}.")
    return dataclasses.replace(found, notes=tuple(notes))


def _scored(
    out: Output,
    record: RunRecord,
    data: Path | None,
    weights: str | None,
    cache: Path,
    passing: dict[str, Any],
) -> Scored:
    """What the run kept of its model's answers; else the images are scored again."""
    from tlcache.cli.evaluate import scores
    from tlcache.reports.run import PREDICTIONS, load_predictions

    kept = record.folder / PREDICTIONS
    if kept.is_file():
        found = load_predictions(kept, len(record.model.classes))
        if record.split in found:
            return found[record.split]
    options = record.about["options"]
    return scores(
        out,
        record.model,
        data or _source(record),
        on=record.split,
        split=options.get("split"),
        seed=options.get("seed", 0),
        weights=weights,
        cache_dir=cache,
        skip_unreadable=True,
        **passing,
    )


def _source(record: RunRecord) -> Path:
    """Where the run's features or images came from: a snapshot, if it read one."""
    named = Path(str(record.about["options"].get("data", "")))
    return named if named.is_file() else record.root


def _features(
    out: Output,
    material: Material,
    data: Path | None,
    weights: str | None,
    cache: Path,
    passing: dict[str, Any],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which images the map shows, and their features: from the cache, else by the network."""
    import numpy as np

    from tlcache.reports.sections import map_rows

    record, scored = material.record, material.scored
    assert scored is not None
    rows, source = map_rows(scored, record.model.classes), data or _source(record)
    if source.is_file():
        found = _from_snapshot(out, record, source, [scored.paths[i] for i in rows])
    else:
        found = _from_images(
            out, record, source, [scored.paths[i] for i in rows], weights, cache, passing
        )
    there = [at for at, feature in enumerate(found) if feature is not None]
    features = [feature for feature in found if feature is not None]
    dim = record.model.head.weight.shape[1]
    return rows[there], np.stack(features) if features else np.zeros((0, dim), np.float32)


def _from_snapshot(
    out: Output, record: RunRecord, snapshot: Path, paths: list[str]
) -> list[NDArray[np.float32] | None]:
    from tlcache.features.read import open_snapshot
    from tlcache.networks.scoring import check_transform, check_trunk

    embedding = open_snapshot(snapshot, 0, out.note)
    check_trunk(record.model, embedding.trunk)
    check_transform(record.model, embedding.stores[0].identity.transform)
    features = embedding.read()
    at = {path: row for row, path in enumerate(features.paths)}
    return [features.features[at[path]] if path in at else None for path in paths]


def _from_images(
    out: Output,
    record: RunRecord,
    root: Path,
    names: list[str],
    weights: str | None,
    cache: Path,
    passing: dict[str, Any],
) -> list[NDArray[np.float32] | None]:
    import numpy as np

    from tlcache.core.errors import DataError
    from tlcache.heads.model import Head
    from tlcache.networks.scoring import feature_store_of, load_network, score_images

    paths = [root / name for name in names]
    if not any(path.is_file() for path in paths):
        raise DataError(
            root,
            expected="the images of the run",
            found="none of them",
            remedy="pass --data with the folder where they are now",
        )
    model = record.model
    dim = model.head.weight.shape[1]
    # A head that hands on what it is given: its logits are the features.
    bare = dataclasses.replace(model, head=Head(np.eye(dim, dtype=np.float32), np.zeros(dim, "f4")))
    store = None if model.network is not None else feature_store_of(model, cache, out.note)
    found = []
    with out.progress("reading features") as tick:
        for image in score_images(
            bare,
            lambda: load_network(model, weights, cache / "weights"),
            paths,
            store=store,
            images=len(paths),
            **passing,
        ):
            found.append(image.logits)
            tick(len(found), len(paths))
    return found


def _comparisons(materials: list[Material]) -> list[str]:
    """The first run beside each other one that was judged on the same images, in a sentence."""
    from tlcache.cli.compare import aligned
    from tlcache.core.errors import DataError
    from tlcache.evaluation.comparison import compare

    first, sentences = materials[0], []
    for other in materials[1:]:
        same = other.record.model.classes == first.record.model.classes
        if not same or first.scored is None or other.scored is None:
            continue
        try:
            logits = aligned(first.scored, other.scored)
        except DataError:  # other images: no pairs to compare
            continue
        compared = compare(first.scored.logits, logits, first.scored.labels)
        sentences.append(f"{compared.sentence(first.record.name, other.record.name)}")
    return sentences


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
