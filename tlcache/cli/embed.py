"""``tlcache embed``: fill the cache, and say what was embedded and what was there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cli import options as o
from tlcache.cli.output import Output

if TYPE_CHECKING:
    from tlcache.data.folders import DataSource, ImageDataset
    from tlcache.features.read import Embedding

EXAMPLES = "tlcache embed hymenoptera_data --trunk mobilenet_v2 --weights mobilenet_v2.pth"


def run(
    data: o.Data,
    split: o.Split = None,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    views: o.Views = 0,
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
    """Put the features of a data set into the cache. What is there is not made again."""
    from tlcache.features.read import UnreadableImagesError

    out = Output(as_json, quiet)
    try:
        embedding = embedding_of(
            out,
            data,
            split=split,
            seed=seed,
            trunk=trunk,
            weights=weights,
            cache=cache_dir,
            views=views,
            precision=precision,
            dtype=dtype,
            engine=engine,
            device=device,
            workers=o.worker_count(workers),
            skip_unreadable=skip_unreadable,
            rehash=rehash,
            transform=o.transform_changes(resize, crop, interpolation, mean, std),
        )
    except UnreadableImagesError as error:
        for path, reason in error.embedding.unreadable:
            out.note(f"cannot be read: {path} ({reason})")
        out.result(error.embedding.describe())
        raise
    out.line(summary(embedding))
    out.result(embedding.describe())


def embedding_of(
    out: Output,
    data: Path,
    *,
    split: str | None,
    seed: int,
    unsplit: bool = False,
    warn: bool = True,
    check: Callable[[ImageDataset], object] | None = None,
    **how: Any,
) -> Embedding:
    """The data set that ``DATA`` names, with its rows in the cache.

    Args:
        out: The command's voice.
        data: A folder of images, or a snapshot.
        split, seed: How to split a folder of classes.
        unsplit: Take such a folder as it is where nothing says how to split it.
        warn: Say so in one line if an image is in two splits.
        check: Raises what makes the data set useless for the command, before the long work.
        how: All that :func:`tlcache.features.embed.embed` takes.
    """
    from tlcache.core.machine import Compute
    from tlcache.core.progress import Reporter
    from tlcache.features import embed
    from tlcache.features.stores import FeatureSpec

    compute = Compute(**{k: how.pop(k) for k in ("device", "engine", "workers") if k in how})
    source, tell = source_of(data, split, seed, unsplit), Reporter(out.note, out.progress)
    return embed.embedding_of(
        source, FeatureSpec(compute=compute, **how), tell, check=check, warn=warn
    )


def source_of(data: Path, split: str | None, seed: int, unsplit: bool) -> DataSource:
    """What ``DATA`` and ``--split`` name."""
    from tlcache.data.folders import DataSource

    return DataSource(data, o.fractions(split), seed, unsplit)


def scanned(out: Output, data: Path, split: str | None, seed: int, *, unsplit: bool = False) -> Any:
    """The data set in a folder; says in one line what was ignored."""
    return source_of(data, split, seed, unsplit).scan(out.note)


def summary(embedding: Embedding) -> str:
    """One line for people."""
    done = embedding.describe()
    speed = f" at {done['images_per_second']:.0f} images/s" if done["embedded"] else ""
    left_out = f", {len(embedding.unreadable)} cannot be read" if embedding.unreadable else ""
    return (
        f"{done['images']} images: {done['embedded']} embedded{speed}, "
        f"{done['reused']} were in the cache{left_out} ({done['seconds']:.1f} s)"
    )
