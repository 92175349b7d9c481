"""``tlcache train``: embed what is missing, then train the head on the cached features."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tlcache.cli import options as o
from tlcache.cli.output import Output, tell_result

if TYPE_CHECKING:
    from tlcache.heads.recipe import EpochRecord

STREAMED_ROWS = 1 << 16

EXAMPLES = "tlcache train hymenoptera_data --trunk mobilenet_v2 --weights mobilenet_v2.pth"


def run(
    data: o.Data,
    split: o.Split = None,
    trunk: o.Trunk = "resnet18",
    weights: o.Weights = "imagenet",
    cache_dir: o.CacheDir = Path("cache"),
    views: o.Views = 0,
    precision: o.Precision = "fp32",
    dtype: o.Dtype = "float32",
    epochs: o.Epochs = 25,
    batch_size: o.BatchSize = 4,
    lr: o.LearningRate = 0.001,
    momentum: o.Momentum = 0.9,
    weight_decay: o.WeightDecay = 0.0,
    step_size: o.StepSize = 7,
    gamma: o.Gamma = 0.1,
    seed: o.Seed = 0,
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
    stream: o.Stream = False,
    run_dir: o.RunDir = None,
    csv: o.Csv = None,
    tensorboard: o.TensorBoard = None,
    no_figures: o.NoFigures = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a head on cached features; images that are not in the cache are embedded first."""
    options = o.plain(locals())
    from tlcache.cli.embed import embedding_of, summary
    from tlcache.heads.recipe import Recipe
    from tlcache.heads.train import train_head
    from tlcache.networks.scoring import Scored
    from tlcache.reports.run import Run, finish_run, start_run
    from tlcache.reports.watching import watched

    out = Output(as_json, quiet)
    block = STREAMED_ROWS if stream else 0
    recipe = Recipe(epochs, batch_size, lr, momentum, weight_decay, step_size, gamma, seed, block)
    with watched(csv, tensorboard) as watch:

        def tell(record: EpochRecord) -> None:
            watch(record)
            out.line(record.line(epochs))

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
        out.line(summary(embedding))
        folder = start_run(run_dir, "train", embedding.snapshot.dataset.name)
        started = time.perf_counter()
        features = embedding.read(embedding.stores[0].folder if stream else None)
        read_seconds = time.perf_counter() - started
        trained = train_head(
            features.to_train_on(),
            features.split("train")[1],
            *features.split("val"),
            recipe,
            classes=len(features.classes),
            on_epoch=tell,
        )
    scored = {
        name: Scored(trained.head.logits(rows), labels, features.split_paths(name))
        for name in features.present_splits()
        for rows, labels in [features.split(name)]
    }
    run = Run(
        command="train",
        options=options,
        dataset=embedding.snapshot.dataset,
        model=embedding.model(trained.head),
        history=trained.history,
        best_epoch=trained.best_epoch,
        scored=scored,
        seconds={"embed": embedding.seconds, "read": read_seconds, "train": trained.seconds},
        identity=embedding.stores[0].identity.key,
    )
    result = finish_run(folder, run, figures=not no_figures)
    tell_result(out, result, folder)
    counts = embedding.describe()
    out.result({name: counts[name] for name in ("embedded", "reused", "unreadable")} | result)
