"""``tlcache map``: a picture of the features of a split, in which near dots are alike images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlcache.cli import options as o
from tlcache.cli.options import one_of
from tlcache.cli.output import Output

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from tlcache.heads.model import Model
    from tlcache.networks.scoring import Scored

EXAMPLES = "tlcache map runs/ants hymenoptera_data --method tsne --figure map.png"
TITLES = {"pca": "principal components", "tsne": "t-SNE (distances between groups mean little)"}


def run(
    model: o.ModelFile,
    data: o.Data,
    on: o.JudgedOn = "val",
    method: Annotated[
        str,
        typer.Option(
            help="pca: principal components; tsne: neighbours stay neighbours, slower.",
            autocompletion=one_of("pca", "tsne"),
        ),
    ] = "pca",
    points: Annotated[
        int, typer.Option(min=4, max=20_000, help="Images to show; of more, so many are drawn.")
    ] = 3000,
    figure: Annotated[Path, typer.Option(help="The PNG.")] = Path("map.png"),
    split: o.Split = None,
    seed: Annotated[int, typer.Option(min=0, help="Of --split, of the choice and of tsne.")] = 0,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    skip_unreadable: o.SkipUnreadable = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Draw a split's features in the plane, coloured by class, with the model's errors ringed."""
    from tlcache.core.machine import Compute
    from tlcache.core.progress import Reporter
    from tlcache.evaluation.metrics import evaluate
    from tlcache.evaluation.roles import standing_of
    from tlcache.features.projection import check_method
    from tlcache.figures.style import save_png
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import JudgedSplit, bare, score
    from tlcache.reports.run import read_run

    out = Output(as_json, quiet)
    check_method(method)
    loaded = load_model(model)
    standing = standing_of(read_run(model), data, on, split, seed)
    features = score(
        bare(loaded),
        JudgedSplit(data, on, o.fractions(split), seed, skip_unreadable),
        cache_dir,
        weights=weights,
        compute=Compute(device, workers=o.worker_count(workers)),
        tell=Reporter(out.note, out.progress),
    )
    logits = loaded.head.logits(features.logits)
    evaluation = evaluate(logits, features.labels, loaded.classes)
    rows = _chosen(out, features, points, seed)
    drawn, shares = _drawn(loaded, features, logits, rows, method=method, seed=seed, on=on)
    out.line(f"{standing.label}: {evaluation.summary()}")
    save_png(drawn, figure)
    out.line(f"picture: {figure}")
    if standing.note:
        out.note(f"{on}: this model {standing.note}")
    about = {
        "picture": str(figure),
        "method": method,
        "shown": len(rows),
        "shares_of_variance": shares,
        "accuracy": evaluation.accuracy,
        "accuracy_ci95": list(evaluation.accuracy_ci95),
        "n": evaluation.n,
    }
    out.result(about | standing.describe())


def _chosen(out: Output, features: Scored, points: int, seed: int) -> NDArray[np.int64]:
    """Which images are shown: all, or so many with each class's share of them."""
    import numpy as np

    from tlcache.data.splits import sample

    count = len(features.paths)
    if count <= points:
        return np.arange(count)
    out.note(f"{points:,} of {count:,} images are shown, drawn by --seed; --points shows more")
    return sample(features.paths, features.labels, points, seed)


def _drawn(
    model: Model,
    features: Scored,
    logits: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    method: str,
    seed: int,
    on: str,
) -> tuple[Figure, list[float] | None]:
    from tlcache.features.projection import project
    from tlcache.figures.feature_map import feature_map_figure

    places, shares = project(features.logits[rows], method, seed)
    axis_names: Any = None
    if shares is not None:
        axis_names = tuple(
            f"component {i} ({share:.1%} of the variance)" for i, share in enumerate(shares, 1)
        )
    figure = feature_map_figure(
        places,
        features.labels[rows],
        logits[rows].argmax(axis=1),
        model.classes,
        title=f"{model.trunk} features of {len(rows):,} images of {on}: {TITLES[method]}",
        axis_names=axis_names,
    )
    return figure, None if shares is None else shares.tolist()
