"""``tlcache embed``: fill the cache, and say what was embedded and what was there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cli import options as o
from tlcache.cli.output import Output

if TYPE_CHECKING:
    from tlcache.data.folders import ImageDataset
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
    from tlcache.cache.copies import leak_warning
    from tlcache.features.embed import embed
    from tlcache.features.read import open_snapshot

    if data.is_file():
        embedding = open_snapshot(data, how["views"], out.note)
        _check_that_they_are_its_own(embedding, split, how)
    else:
        out.note_random(how["weights"])
        dataset = scanned(out, data, split, seed, unsplit=unsplit)
        if check is not None:
            check(dataset)
        embedding = embed(dataset, report=out.note, progress=out.progress, **how)
    if warn and (line := leak_warning(embedding.snapshot)):
        out.note(f"warning: {line}")
    return embedding


def _check_that_they_are_its_own(embedding: Embedding, split: str | None, how: Any) -> None:
    """A snapshot has its splits and its features: refuse options that ask for others."""
    from tlcache.core.errors import OptionError
    from tlcache.trunks.info import describe_trunk

    identity = embedding.stores[0].identity
    asked = {"--split": (None, split), "--trunk": (identity.trunk, how["trunk"])}
    asked["--precision"] = identity.precision, how["precision"]
    asked["--dtype"] = identity.dtype, how["dtype"]
    for name, value in how["transform"].items():
        asked[f"--{name}"] = getattr(identity.transform, name), value
    if how["weights"] != "imagenet":  # as is written where nothing is
        info = describe_trunk(identity.trunk, how["weights"], how["cache"] / "weights")
        asked["--weights"] = identity.weights[:8], info.digest[:8]
    defaults = {"--trunk": "resnet18", "--precision": "fp32", "--dtype": "float32"}
    for option, (own, value) in asked.items():
        if value not in (own, defaults.get(option)):
            raise OptionError(
                option,
                expected=f"the snapshot's own {own}" if own else "none beside a snapshot",
                found=str(value),
                remedy="leave it out, or name the folder of images",
            )


def scanned(out: Output, data: Path, split: str | None, seed: int, *, unsplit: bool = False) -> Any:
    """The data set in a folder; says in one line what was ignored."""
    from tlcache.data.folders import scan

    dataset = scan(data, o.fractions(split), seed, unsplit=unsplit)
    if dataset.ignored:
        files = "file that is" if dataset.ignored == 1 else "files that are"
        out.note(f"ignored {dataset.ignored} {files} no image by name")
    return dataset


def summary(embedding: Embedding) -> str:
    """One line for people."""
    done = embedding.describe()
    speed = f" at {done['images_per_second']:.0f} images/s" if done["embedded"] else ""
    left_out = f", {len(embedding.unreadable)} cannot be read" if embedding.unreadable else ""
    return (
        f"{done['images']} images: {done['embedded']} embedded{speed}, "
        f"{done['reused']} were in the cache{left_out} ({done['seconds']:.1f} s)"
    )
