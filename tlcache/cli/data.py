"""``data``, ``check``, ``embed`` and ``export-features``: images, and features in the cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, counts_of, tell_embedding
from tlcache.core.errors import OptionError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tlcache.data.folders import ImageDataset
    from tlcache.studies.check import Inspection
    from tlcache.studies.neighbours import Pairs

EXAMPLES = ("hymenoptera", "digits")

_SHOWN = 5


@o.command("tlcache data hymenoptera hymenoptera_data")
def data(
    name: Annotated[
        str,
        typer.Argument(
            metavar="hymenoptera|digits",
            help="Which.",
            show_default=False,
            autocompletion=o.one_of(*EXAMPLES),
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="A new folder.", show_default=False)
    ],
    out: Output,
    archive: Annotated[
        Path | None,
        typer.Option("--from", help="The tutorial's zip, if it is at hand.", show_default=False),
    ] = None,
) -> None:
    """Get a data set to start with, checked to the last byte.

    hymenoptera: the 397 ants and bees of PyTorch's transfer-learning tutorial, downloaded.
    digits: scikit-learn's 1,797 handwritten digits, written out; needs no network.
    """
    from tlcache.data.examples import fetch_hymenoptera, write_digits

    if name not in EXAMPLES or (archive and name != "hymenoptera"):
        raise OptionError(
            "tlcache data",
            expected=" or ".join(EXAMPLES) + "; --from goes with hymenoptera",
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


@o.command("tlcache embed hymenoptera_data --trunk mobilenet_v2 --weights mobilenet_v2.pth")
def embed(source: o.Source, features: o.PassFeatures, out: Output) -> None:
    """Put the features of a data set into the cache. What is there is not made again."""
    from tlcache.features.embed import embedding_of
    from tlcache.features.read import UnreadableImagesError

    try:
        embedding = embedding_of(source.named(), features.spec(), out.reporter)
    except UnreadableImagesError as error:
        for path, reason in error.embedding.unreadable:
            out.note(f"cannot be read: {path} ({reason})")
        out.result(error.embedding.describe())
        raise
    tell_embedding(out, embedding)
    out.result(embedding.describe())


@o.command("tlcache export-features hymenoptera_data features.npz --on train")
def export_features(
    source: o.Source,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Ends in .npz, .parquet or .h5.", show_default=False),
    ],
    features: o.FeatureOptions,
    out: Output,
    on: Annotated[
        str,
        typer.Option(
            help="train, val, test or all.", autocompletion=o.one_of("train", "val", "test", "all")
        ),
    ] = "all",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write features with their paths, labels and splits; what is not in the cache is made first.

    numpy reads .npz, h5py reads .h5, and pandas, polars and DuckDB read .parquet, which needs the
    package pyarrow. Numbers are float32. A folder of classes without --split is all train.
    """
    from tlcache.features.embed import embedding_of
    from tlcache.features.files import check_target, spool_for, write_features
    from tlcache.features.read import check_on
    from tlcache.networks.checks import no_split

    check_on(on)
    check_target(file, force=force)
    embedding = embedding_of(source.named(unsplit=on == "all"), features.spec(), out.reporter)
    tell_embedding(out, embedding)
    rows = embedding.read(spool_for(embedding, file)).to_numpy(on)
    if not len(rows.y):
        raise no_split(embedding.snapshot.dataset, on)
    classes, about = embedding.snapshot.dataset.classes, embedding.stores[0].identity.to_json()
    with out.progress("writing") as tick:
        write_features(file, rows, classes, about.decode(), force=force, progress=tick)
    names, size = rows.splits.tolist(), file.stat().st_size
    splits = {name: names.count(name) for name in dict.fromkeys(names)}
    counts = ", ".join(f"{n} of {name}" for name, n in splits.items())
    out.line(f"{file}: {len(rows.y)} rows of {rows.X.shape[1]} numbers ({counts}), {size:,} bytes")
    result: dict[str, Any] = {"file": str(file), "bytes": size, "images": len(rows.y)}
    result |= {"splits": splits, "dim": rows.X.shape[1], "classes": list(classes)}
    result["identity"] = embedding.describe()["identity"]
    out.result(result | counts_of(embedding))


@dataclasses.dataclass(frozen=True)
class _Checked(o.Source):
    seed: Annotated[int, o.in_data(help="Of --split.")] = 0


@dataclasses.dataclass(frozen=True)
class _Limits:
    threshold: Annotated[
        float, typer.Option(help="Cosine similarity from which features are near duplicates.")
    ] = 0.9
    no_features: Annotated[
        bool,
        typer.Option("--no-features", help="Look for no near duplicates; no network is needed."),
    ] = False
    imbalance: Annotated[
        float, typer.Option(help="How many times the smallest class the largest may be.")
    ] = 3.0


@o.command("tlcache check hymenoptera_data --figure pairs.png")
def check(
    source: _Checked,
    features: o.FeatureOptions,
    limits: _Limits,
    out: Output,
    stream: o.Stream = False,
    figure: Annotated[
        Path | None,
        o.in_output(help="A PNG of the worst pairs, side by side.", show_default=False),
    ] = None,
) -> None:
    """Look for images that must not be where they are, and for files that load oddly.

    Exits with 1 if a result would be wrong: an image, or a near duplicate of it, is in two splits,
    or an image has two classes; and if files cannot be read, unless they are to be skipped. Near
    duplicates do not count where the threshold does not suit the images, and a line says so.
    Everything else is only said: copies in one split, classes out of balance, tiny and odd files.
    Exits with 0 then, and if there is nothing to say.
    """
    from tlcache.data.transforms import Transform
    from tlcache.features.embed import embedding_of
    from tlcache.figures.style import save_png
    from tlcache.reports.pictures import pair_picture
    from tlcache.studies import check as study
    from tlcache.studies.neighbours import check_threshold

    check_threshold(limits.threshold, "--threshold")
    study.check_imbalance(limits.imbalance, "--imbalance")
    asked, rows, near = source.named(unsplit=True), None, None
    if limits.no_features:
        snapshot, transform = study.digested(asked, out.reporter), Transform(**features.changes())
    else:
        spec = dataclasses.replace(features.spec(), skip_unreadable=True)
        embedding = embedding_of(asked, spec, out.reporter, warn=False)
        snapshot, transform = embedding.snapshot, embedding.stores[0].identity.transform
        rows = embedding.read(embedding.stores[0].folder if stream else None).features
        with out.progress("comparing", "pairs") as tick:
            near = study.near_duplicates(snapshot, rows, limits.threshold, progress=tick)
    with out.progress("reading headers") as tick:
        found = study.inspect(snapshot, near, transform.crop, limits.imbalance, progress=tick)
    _tell(out, found)
    out.result(found.describe())
    if figure is not None:
        title, pairs = study.pairs_to_show(found, snapshot, rows)
        if pairs:
            save_png(pair_picture(found.dataset, pairs, title), figure)
            out.line(f"picture: {figure}")
        else:
            out.note("no picture: there is no pair to show")
    if found.near is not None and not found.near.suits:
        out.note(study.unsuited(found.near))
    if fault := study.fault_of(found, skip_unreadable=features.skip_unreadable):
        raise fault
    out.line(study.all_clear(found))


def _tell(out: Output, found: Inspection) -> None:
    """What was found, for people: a line a kind, the first few of each."""
    dataset, near = found.dataset, found.near
    sizes = ", ".join(f"{split} {sum(n.values()):,}" for split, n in found.counts.items())
    out.line(f"{len(dataset):,} images ({sizes}), {len(dataset.classes):,} classes")
    _tell_kind(out, "images in two splits", [_same(dataset, g) for g in found.leaking])
    if near is not None:
        title = f"near duplicates in two splits (similarity {near.threshold:g} or more)"
        _tell_kind(out, title, _near(dataset, near.across), near.across.total)
    _tell_kind(out, "images in two classes", [_same(dataset, g) for g in found.contradicting])
    _tell_kind(out, "copies in one split", [_same(dataset, g) for g in found.repeated])
    if near is not None:
        _tell_kind(out, "near duplicates in train", _near(dataset, near.within), near.within.total)
    amiss = " out of balance:" if found.imbalance > found.most_imbalance else ""
    out.line(f"classes:{amiss} the largest is {found.imbalance:.3g} times the smallest in train")
    _tell_kind(
        out, "classes without an image", [f"{one_line(name)} in {s}" for s, name in found.missing]
    )
    paths = [one_line(path) for path in dataset.paths]
    unreadable = [f"{paths[i]} ({reason})" for i, reason in found.unreadable]
    _tell_kind(out, "unreadable files", unreadable)
    if not found.headers:
        out.note(f"no images at {dataset.root}: their sizes and kinds were not looked at")
        return
    tiny = [f"{paths[i]} ({width} x {height})" for i, width, height in found.tiny]
    _tell_kind(out, f"images smaller than the crop of {found.crop}", tiny)
    _tell_kind(out, "files that load oddly", [f"{paths[i]} ({what})" for i, what in found.odd])


def _tell_kind(out: Output, what: str, lines: list[str], total: int | None = None) -> None:
    total = len(lines) if total is None else total
    out.line(f"{what}: {total:,}" if total else f"{what}: none")
    for line in lines[:_SHOWN]:
        out.line(f"    {line}")
    if total > _SHOWN and lines:
        out.line(f"    … and {total - _SHOWN:,} more (--json lists them)")


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
    from tlcache.data.folders import SPLITS

    path, split = one_line(dataset.paths[row]), SPLITS[dataset.splits[row]]
    return path if path.startswith(f"{split}/") else f"{path} [{split}]"
