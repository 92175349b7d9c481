"""``tlcache evaluate``: the shared evaluation of a model on a split of a data set."""

from __future__ import annotations

from pathlib import Path

from tlcache.cli import options as o
from tlcache.cli.output import Output

EXAMPLES = "tlcache evaluate runs/ants hymenoptera_data --on val"


def run(
    model: o.ModelFile,
    data: o.Data,
    on: o.JudgedOn = "val",
    split: o.Split = None,
    seed: o.Seed = 0,
    weights: o.WeightsAtHand = None,
    cache_dir: o.CacheDir = Path("cache"),
    device: o.Device = "auto",
    workers: o.Workers = "auto",
    skip_unreadable: o.SkipUnreadable = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Judge a model on a split: accuracy with its interval, loss, F1, calibration, confusion."""
    from tlcache.core.machine import Compute
    from tlcache.core.progress import Reporter
    from tlcache.evaluation.metrics import evaluate
    from tlcache.evaluation.roles import standing_of
    from tlcache.heads.model import load_model
    from tlcache.networks.scoring import JudgedSplit, score
    from tlcache.reports.run import read_run

    out = Output(as_json, quiet)
    loaded = load_model(model)
    scored = score(
        loaded,
        JudgedSplit(data, on, o.fractions(split), seed, skip_unreadable),
        cache_dir,
        weights=weights,
        compute=Compute(device, workers=o.worker_count(workers)),
        tell=Reporter(out.note, out.progress),
    )
    evaluation = evaluate(scored.logits, scored.labels, loaded.classes)
    standing = standing_of(read_run(model), data, on, split, seed)
    out.line(f"{standing.label}: {evaluation.summary()}")
    for name, row in evaluation.per_class.items():
        out.line(
            f"  {name}: precision {row['precision']:.3f}, recall {row['recall']:.3f}, "
            f"F1 {row['f1']:.3f}, {row['support']:.0f} images"
        )
    if standing.note:
        out.note(f"{on}: this model {standing.note}")
    out.result(evaluation.to_dict() | standing.describe())
