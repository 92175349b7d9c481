"""``tlcache evaluate``: the shared evaluation of a model on a split of a data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cli import options as o
from tlcache.cli.output import Output

if TYPE_CHECKING:
    from tlcache.heads.model import Model
    from tlcache.networks.scoring import Scored

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
    from tlcache.evaluation.metrics import evaluate
    from tlcache.evaluation.roles import standing_of
    from tlcache.heads.model import load_model
    from tlcache.reports.run import read_run

    out = Output(as_json, quiet)
    loaded = load_model(model)
    scored = scores(
        out,
        loaded,
        data,
        on=on,
        split=split,
        seed=seed,
        weights=weights,
        cache_dir=cache_dir,
        device=device,
        workers=o.worker_count(workers),
        skip_unreadable=skip_unreadable,
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


def scores(
    out: Output,
    model: Model,
    data: Path,
    *,
    on: str,
    split: str | None,
    seed: int,
    weights: str | None,
    cache_dir: Path,
    device: str,
    workers: int | None,
    skip_unreadable: bool,
) -> Scored:
    """What a model says of a split: from cached features for a head, else through its network."""
    from tlcache.cli.embed import embedding_of, scanned
    from tlcache.core.errors import OptionError
    from tlcache.data.folders import SPLITS
    from tlcache.features.read import open_snapshot
    from tlcache.networks.scoring import (
        Scored,
        check_classes,
        check_transform,
        check_trunk,
        load_network,
        no_split,
        score_split,
    )
    from tlcache.trunks.info import describe_trunk

    if on not in SPLITS:
        raise OptionError("--on", expected=" or ".join(SPLITS), found=on, remedy="name one of them")
    passing: dict[str, Any] = {
        "device": device,
        "workers": workers,
        "skip_unreadable": skip_unreadable,
    }
    if model.network is not None:
        out.note_random(model.weights)
        dataset, network = scanned(out, data, split, seed), load_network(model)
        with out.progress("evaluating") as tick:
            return score_split(model, network, dataset, on, progress=tick, **passing)
    found = weights or model.weights
    if not data.is_file():  # before anything is embedded with the wrong weights
        check_trunk(model, describe_trunk(model.trunk, found, cache_dir / "weights"))
        embedding = embedding_of(
            out,
            data,
            split=split,
            seed=seed,
            trunk=model.trunk,
            weights=found,
            cache=cache_dir,
            views=0,
            transform=dataclasses.asdict(model.transform),
            precision=model.precision,
            dtype=model.dtype,
            **passing,
        )
    else:
        embedding = open_snapshot(data, 0, out.note)
    check_trunk(model, embedding.trunk)
    check_transform(model, embedding.stores[0].identity.transform)
    features = embedding.read()
    check_classes(model, features.classes)
    rows, labels = features.split(on)
    if not len(rows):
        raise no_split(embedding.snapshot.dataset, on)
    return Scored(model.head.logits(rows), labels, features.split_paths(on))
