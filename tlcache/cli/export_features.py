"""``tlcache export-features``: cached features as a file that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.options import one_of
from tlcache.cli.output import Output

if TYPE_CHECKING:
    from tlcache.features.read import Embedding

EXAMPLES = "tlcache export-features hymenoptera_data features.npz --on train"


def run(
    data: o.Data,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Ends in .npz, .parquet or .h5.", show_default=False),
    ],
    on: Annotated[
        str,
        typer.Option(
            help="train, val, test or all.", autocompletion=one_of("train", "val", "test", "all")
        ),
    ] = "all",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    split: o.Split = None,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    precision: o.Precision = "fp32",
    dtype: o.Dtype = "float32",
    device: o.Device = "auto",
    engine: o.Engine = "auto",
    workers: o.Workers = "auto",
    skip_unreadable: o.SkipUnreadable = False,
    rehash: o.Rehash = False,
    resize: o.Resize = None,
    crop: o.Crop = None,
    interpolation: o.Interpolation = None,
    mean: o.Mean = None,
    std: o.Std = None,
    seed: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write features with their paths, labels and splits; what is not in the cache is made first.

    numpy reads .npz, h5py reads .h5, and pandas, polars and DuckDB read .parquet, which needs the
    package pyarrow. Numbers are float32. A folder of classes without --split is all train.
    """
    from tlcache.cli.embed import embedding_of, summary
    from tlcache.features.files import check_target, write_features
    from tlcache.features.read import check_on
    from tlcache.networks.checks import no_split

    out = Output(as_json, quiet)
    check_on(on)
    check_target(file, force=force)
    embedding = embedding_of(
        out,
        data,
        split=split,
        seed=seed,
        unsplit=on == "all",
        trunk=trunk,
        weights=weights,
        cache=cache_dir,
        views=0,
        precision=precision,
        dtype=dtype,
        engine=engine,
        device=device,
        workers=o.worker_count(workers),
        skip_unreadable=skip_unreadable,
        rehash=rehash,
        transform=o.transform_changes(resize, crop, interpolation, mean, std),
    )
    out.line(summary(embedding))
    rows = embedding.read(_spool(embedding, file)).to_numpy(on)
    if not len(rows.y):
        raise no_split(embedding.snapshot.dataset, on)
    classes, identity = embedding.snapshot.dataset.classes, embedding.stores[0].identity
    with out.progress("writing") as tick:
        about = identity.to_json().decode()
        write_features(file, rows, classes, about, force=force, progress=tick)
    splits = {
        name: int((rows.splits == name).sum()) for name in dict.fromkeys(rows.splits.tolist())
    }
    counts, size = ", ".join(f"{n} of {name}" for name, n in splits.items()), file.stat().st_size
    out.line(f"{file}: {len(rows.y)} rows of {rows.X.shape[1]} numbers ({counts}), {size:,} bytes")
    told = embedding.describe()
    result: dict[str, Any] = {"file": str(file), "bytes": size, "images": len(rows.y)}
    result |= {"splits": splits, "dim": rows.X.shape[1], "classes": list(classes)}
    more = ("identity", "embedded", "reused", "unreadable")
    out.result(result | {name: told[name] for name in more})


def _spool(embedding: Embedding, file: Path) -> Path | None:
    """A folder for features that would crowd the memory: that of the file, which needs the room."""
    from tlcache.core.machine import physical_memory

    size = 4 * embedding.trunk.dim * int(embedding.snapshot.readable().sum())
    return file.absolute().parent if size > physical_memory() / 4 else None
