"""``tlcache check``: what in a data set makes results wrong, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tlcache.cache.snapshots import Snapshot
    from tlcache.data.folders import ImageDataset
    from tlcache.reports.pictures import FoundPair
    from tlcache.studies.check import Inspection
    from tlcache.studies.neighbours import Pairs, Rows

EXAMPLES = "tlcache check hymenoptera_data --figure pairs.png"

_SHOWN, _DRAWN = 5, 12


def run(
    data: o.Data,
    split: o.Split = None,
    threshold: Annotated[
        float, typer.Option(help="Cosine similarity from which features are near duplicates.")
    ] = 0.9,
    no_features: Annotated[
        bool,
        typer.Option("--no-features", help="Look for no near duplicates; no network is needed."),
    ] = False,
    imbalance: Annotated[
        float, typer.Option(help="How many times the smallest class the largest may be.")
    ] = 3.0,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    precision: o.Precision = "fp32",
    dtype: o.Dtype = "float32",
    device: o.Device = "auto",
    engine: o.Engine = "auto",
    workers: o.Workers = "auto",
    rehash: o.Rehash = False,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    mean: o.Mean = None,
    std: o.Std = None,
    seed: Annotated[int, typer.Option(help="Of --split.")] = 0,
    stream: o.Stream = False,
    figure: Annotated[
        Path | None,
        typer.Option(help="A PNG of the worst pairs, side by side.", show_default=False),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Look for images that must not be where they are, and for files that load oddly.

    Exits with 1 if a result would be wrong: an image, or a near duplicate of it, is in two splits,
    or an image has two classes. Everything else is only said: copies in one split, classes out of
    balance, unreadable, tiny and odd files. Exits with 0 then, and if there is nothing to say.
    """
    from tlcache.cli.embed import embedding_of
    from tlcache.data.transforms import Transform
    from tlcache.studies.check import check_imbalance, inspect, near_duplicates, unsound
    from tlcache.studies.neighbours import check_threshold

    out = Output(as_json, quiet)
    check_threshold(threshold, "--threshold")
    check_imbalance(imbalance, "--imbalance")
    changes = o.transform_changes(resize, crop, interpolation, mean, std)
    rows, near = None, None
    if not no_features:
        embedding = embedding_of(
            out,
            data,
            split=split,
            seed=seed,
            unsplit=True,
            warn=False,
            trunk=trunk,
            weights=weights,
            cache=cache_dir,
            views=0,
            precision=precision,
            dtype=dtype,
            engine=engine,
            device=device,
            workers=o.worker_count(workers),
            skip_unreadable=True,
            rehash=rehash,
            transform=changes,
        )
        snapshot, transform = embedding.snapshot, embedding.stores[0].identity.transform
        rows = embedding.read(embedding.stores[0].folder if stream else None).features
        with out.progress("comparing", "pairs") as tick:
            near = near_duplicates(snapshot, rows, threshold, progress=tick)
    else:
        snapshot, transform = _snapshot(out, data, split, seed), Transform(**changes)
    with out.progress("reading headers") as tick:
        found = inspect(snapshot, near, transform.crop, imbalance, progress=tick)
    tell(out, found)
    out.result(found.describe())
    if figure is not None:
        _draw(out, found, snapshot, rows, figure)
    if not found.sound:
        raise unsound(found)
    out.line("nothing makes results wrong")


def tell(out: Output, found: Inspection) -> None:
    """What was found, for people: a line a kind, the first few of each."""
    from tlcache.core.errors import one_line

    dataset, near = found.dataset, found.near
    sizes = ", ".join(f"{split} {sum(n.values()):,}" for split, n in found.counts.items())
    out.line(f"{len(dataset):,} images ({sizes}), {len(dataset.classes):,} classes")
    _tell(out, "images in two splits", [_same(dataset, g) for g in found.leaking])
    if near is not None:
        title = f"near duplicates in two splits (similarity {near.threshold:g} or more)"
        _tell(out, title, _near(dataset, near.across), near.across.total)
    _tell(out, "images in two classes", [_same(dataset, g) for g in found.contradicting])
    _tell(out, "copies in one split", [_same(dataset, g) for g in found.repeated])
    if near is not None:
        _tell(out, "near duplicates in train", _near(dataset, near.within), near.within.total)
    amiss = " out of balance:" if found.imbalance > found.most_imbalance else ""
    out.line(f"classes:{amiss} the largest is {found.imbalance:.3g} times the smallest in train")
    _tell(
        out, "classes without an image", [f"{one_line(name)} in {s}" for s, name in found.missing]
    )
    paths = [one_line(path) for path in dataset.paths]
    _tell(out, "unreadable files", [f"{paths[i]} ({reason})" for i, reason in found.unreadable])
    if not found.headers:
        out.note(f"no images at {dataset.root}: their sizes and kinds were not looked at")
        return
    tiny = [f"{paths[i]} ({width} x {height})" for i, width, height in found.tiny]
    _tell(out, f"images smaller than the crop of {found.crop}", tiny)
    _tell(out, "files that load oddly", [f"{paths[i]} ({what})" for i, what in found.odd])


def _tell(out: Output, what: str, lines: list[str], count: int | None = None) -> None:
    count = len(lines) if count is None else count
    out.line(f"{what}: {count:,}" if count else f"{what}: none")
    for line in lines[:_SHOWN]:
        out.line(f"    {line}")
    if count > _SHOWN and lines:
        out.line(f"    … and {count - _SHOWN:,} more (--json lists them)")


def _same(dataset: ImageDataset, group: NDArray[np.int64]) -> str:
    listed = " = ".join(_image(dataset, row) for row in group[:_SHOWN])
    return f"{listed} = … ({len(group):,})" if len(group) > _SHOWN else listed


def _near(dataset: ImageDataset, pairs: Pairs) -> list[str]:
    shown = zip(pairs.rows[: _SHOWN + 1], pairs.similarities, strict=False)
    return [
        f"{similarity:.3f}  {_image(dataset, a)}  {_image(dataset, b)}"
        for (a, b), similarity in shown
    ]


def _image(dataset: ImageDataset, row: int) -> str:
    """A path, with split and class where they do not begin it."""
    from tlcache.core.errors import one_line
    from tlcache.data.folders import SPLITS

    path, split = one_line(dataset.paths[row]), SPLITS[dataset.splits[row]]
    return path if path.startswith(f"{split}/") else f"{path} [{split}]"


def _draw(out: Output, found: Inspection, snapshot: Snapshot, rows: Rows | None, to: Path) -> None:
    """The worst pairs; where there is none, the nearest, which tell whether the threshold suits."""
    from tlcache.figures.style import save_png
    from tlcache.reports.pictures import pair_picture

    title, pairs = (
        "Images that are alike, the worst pairs first (red: results are wrong)",
        _worst(found),
    )
    if not any(pair.bad for pair in pairs):
        title = "Copies and near duplicates in one split"
    if not pairs and rows is not None:
        title, pairs = (
            "The most similar pairs: none is over the threshold",
            _nearest(snapshot, rows),
        )
    if not pairs:
        out.note("no picture: there is no pair to show")
        return
    save_png(pair_picture(found.dataset, pairs, title), to)
    out.line(f"picture: {to}")


def _worst(found: Inspection) -> list[FoundPair]:
    """The pairs that are worst to have, first those that make results wrong."""
    from tlcache.reports.pictures import FoundPair

    dataset, pairs = found.dataset, dict[tuple[int, int], FoundPair]()
    for column, groups, verdict in (
        (dataset.splits, found.leaking, "one file in two splits"),
        (dataset.labels, found.contradicting, "one file in two classes"),
        (None, found.repeated, "one file twice"),
    ):
        for group in groups:
            other = group[column[group] != column[group[0]]][0] if column is not None else group[1]
            rows = int(group[0]), int(other)
            pairs.setdefault(rows, FoundPair(rows, verdict, column is not None))
    listed = list(pairs.values())
    if found.near is not None:
        listed += _found(found.near.across, bad=True) + _found(found.near.within, bad=False)
    return sorted(listed, key=lambda pair: not pair.bad)[:_DRAWN]


def _nearest(snapshot: Snapshot, rows: Rows) -> list[FoundPair]:
    """The most similar pairs, whatever the threshold."""
    from tlcache.studies.check import near_duplicates

    near = near_duplicates(snapshot, rows, 1e-3, most=_DRAWN)
    pairs = _found(near.across, bad=False) + _found(near.within, bad=False)
    return sorted(pairs, key=lambda pair: pair.verdict, reverse=True)[:_DRAWN]


def _found(pairs: Pairs, *, bad: bool) -> list[FoundPair]:
    from tlcache.reports.pictures import FoundPair

    listed = zip(pairs.rows.tolist(), pairs.similarities.tolist(), strict=True)
    return [FoundPair((a, b), f"similarity {value:.3f}", bad) for (a, b), value in listed]


def _snapshot(out: Output, data: Path, split: str | None, seed: int) -> Snapshot:
    """The digests alone: no network, no cache."""
    from tlcache.cache.snapshots import load_snapshot, take_snapshot
    from tlcache.cli.embed import scanned
    from tlcache.core.errors import OptionError

    if data.is_file() and split is not None:
        raise OptionError(
            "--split",
            expected="none beside a snapshot, which has its own",
            found=split,
            remedy="leave it out, or name the folder of images",
        )
    if data.is_file():
        return load_snapshot(data)
    with out.progress("reading files") as tick:
        return take_snapshot(scanned(out, data, split, seed, unsplit=True), progress=tick)
