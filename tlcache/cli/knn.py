"""``tlcache knn``: what the features are worth before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlcache.cli import options as o
from tlcache.cli.output import Output, accuracy_text

if TYPE_CHECKING:
    from tlcache.studies.knn import KnnResult, Score

EXAMPLES = "tlcache knn hymenoptera_data --trunk mobilenet_v2 --weights mobilenet_v2.pth"


def run(
    data: o.Data,
    split: o.Split = None,
    k: Annotated[
        str, typer.Option("--k", help="Numbers of neighbours to try.")
    ] = "1,2,5,10,20,50,100,200",
    temperature: Annotated[
        float, typer.Option(help="Of the votes, exp(similarity / temperature).")
    ] = 0.07,
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
    seed: Annotated[
        int, typer.Option(help="Of --split, and of the images left out where they are many.")
    ] = 0,
    stream: o.Stream = False,
    figure: Annotated[
        Path | None, typer.Option(help="A PNG of accuracy over k.", show_default=False)
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Classify val (and test) by the weighted votes of the most similar training images.

    k is chosen on train alone, by leaving each image out in turn, so that the accuracies on val and
    test are those of images that chose nothing.
    """
    from tlcache.cache.copies import copy_ids, rows_of_features
    from tlcache.cli.embed import embedding_of, summary
    from tlcache.studies.knn import check_ks, check_seed, check_temperature, knn_accuracy

    out = Output(as_json, quiet)
    ks = check_ks(_numbers(k), "--k")
    check_temperature(temperature, "--temperature")
    check_seed(seed, "--seed")
    embedding = embedding_of(
        out,
        data,
        split=split,
        seed=seed,
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
    snapshot = embedding.snapshot
    features = embedding.read(embedding.stores[0].folder if stream else None)
    judged = _judged(features.present_splits(), snapshot.dataset.root)
    train = features.split("train")
    digests = snapshot.digests[rows_of_features(snapshot)[: len(train[0])]]
    with out.progress("comparing", "pairs") as tick:
        found = knn_accuracy(
            train,
            {name: features.split(name) for name in judged},
            len(features.classes),
            ks=ks,
            temperature=temperature,
            copies=copy_ids(digests),
            seed=seed,
            progress=tick,
        )
    tell(out, found, len(train[0]))
    about = embedding.describe()
    names = "identity", "trunk", "weights", "dataset", "images", "embedded", "reused", "unreadable"
    out.result({name: about[name] for name in names} | found.describe())
    if figure is not None:
        draw(found, figure)
        out.line(f"picture: {figure}")


def tell(out: Output, found: KnnResult, trained: int) -> None:
    """The table, the result, and what is to be known about it."""
    from tlcache.evaluation.roles import split_role
    from tlcache.studies.knn import SELECTED_ON

    if found.capped:
        out.note(f"k ends at {found.ks[-1]}: there are {trained} training images")
    left_out = found.left_out[0].n
    if left_out < trained:
        out.note(f"{left_out:,} of {trained:,} training images, drawn by --seed, choose k")
    columns = {"train, left out": found.left_out, **found.scores}
    out.line(f"{'k':>5}   " + "".join(f"{name:22}" for name in columns).rstrip())
    for at, k in enumerate(found.ks):
        cells = [_cell(scores[at]) for scores in columns.values()]
        mark = "<- chosen" if k == found.k else ""
        out.line(f"{k:5}   {''.join(f'{cell:22}' for cell in cells)}{mark}".rstrip())
    out.line(f"k = {found.k}, chosen on {SELECTED_ON}: no other split had a say in it")
    for name, score in found.chosen().items():
        role = split_role(name, SELECTED_ON)
        out.line(f"{name} ({role}): {accuracy_text(score.to_dict())}")


def _judged(present: list[str], root: Path) -> list[str]:
    """The splits to judge: all but train, whose images vote."""
    from tlcache.core.errors import DataError

    if "train" not in present or len(present) < 2:
        raise DataError(
            root,
            expected="images in train, which vote, and in val or test, which are judged",
            found=f"images in {' and '.join(present)} only",
            remedy="add the other, or pass --split 0.8,0.2 for a folder of classes",
        )
    return [name for name in present if name != "train"]


def _cell(score: Score) -> str:
    low, high = score.interval
    return f"{score.accuracy:.3f} ({low:.3f}-{high:.3f})"


def _numbers(text: str) -> list[int]:
    from tlcache.core.errors import OptionError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(
            "--k",
            expected="whole numbers with commas between them",
            found=text or "nothing",
            remedy="write it like 1,5,20",
        ) from None


def draw(found: KnnResult, path: Path) -> None:
    """The figure of a result."""
    from tlcache.figures.curves import neighbours_figure
    from tlcache.figures.style import save_png
    from tlcache.studies.knn import SELECTED_ON

    columns = {"train, left out": found.left_out, **found.scores}
    figure = neighbours_figure(
        found.ks,
        {name: [score.accuracy for score in scores] for name, scores in columns.items()},
        {name: [score.interval for score in scores] for name, scores in columns.items()},
        found.k,
        SELECTED_ON,
    )
    save_png(figure, path)
