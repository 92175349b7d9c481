"""Cached against the frozen loop against finetuning: one recipe, one run, one evaluation.

Covers no printing and no pictures. Every second is measured here, from a cold feature cache.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tlcache.comparison import compare
from tlcache.embedding import embed
from tlcache.evaluation import Evaluation, evaluate
from tlcache.finetuning import finetune
from tlcache.head_training import train_head
from tlcache.recipe import EpochRecord, Recipe
from tlcache.runs import describe_machine
from tlcache.samples import ImageDataset
from tlcache.scoring import Scored, load_network, score_split
from tlcache.selection import final_split
from tlcache.trunk import Trunk, load_trunk

NAMES = ("cached", "frozen", "finetune")


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
        name: One of ``NAMES``.
        seconds: By stage.
        scored: The model of the epoch that is best on val, on the split that is judged.
        evaluation: Of it.
    """

    name: str
    seconds: dict[str, float]
    scored: Scored
    evaluation: Evaluation

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "name": self.name,
            "seconds": self.total,
            "seconds_by_stage": self.seconds,
            "accuracy": self.evaluation.accuracy,
            "accuracy_ci95": list(self.evaluation.accuracy_ci95),
        }


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        contenders: In the order of ``NAMES``.
        head_seconds: Of training one more head from the filled cache.
        recipe: That all of them followed.
        trunk: Name of the network.
        weights: Where its weights came from.
        judged_on: The split of the accuracies: test where there is one, else val, which chose the
            epochs.
    """

    contenders: Sequence[Contender]
    head_seconds: float
    recipe: Recipe
    trunk: str
    weights: str
    judged_on: str = "val"

    @property
    def speedup(self) -> float:
        """Seconds of the frozen loop over seconds of the cached way, its pass included."""
        cached, frozen, _ = self.contenders
        return frozen.total / cached.total

    @property
    def break_even_heads(self) -> int | None:
        """From how many heads on the cached way costs less than the frozen loop; None if never."""
        cached, frozen, _ = self.contenders
        saved = frozen.total - self.head_seconds
        filling = cached.total - cached.seconds["train"]
        return max(1, math.floor(filling / saved) + 1) if saved > 0 else None

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        cached, _, tuned = self.contenders
        paired = compare(cached.scored.logits, tuned.scored.logits, cached.scored.labels)
        return {
            **{contender.name: contender.describe() for contender in self.contenders},
            "head_seconds": self.head_seconds,
            "speedup": self.speedup,
            "break_even_heads": self.break_even_heads,
            "judged_on": self.judged_on,
            "selected_on": "val",
            "comparison": paired.to_dict() | {"sentence": paired.sentence("cached", "finetune")},
            "trunk": self.trunk,
            "weights": self.weights,
            "recipe": self.recipe.describe(),
            **describe_machine(self.trunk),
        }


def benchmark(
    dataset: ImageDataset,
    trunk: str = "resnet18",
    weights: str = "imagenet",
    recipe: Recipe | None = None,
    *,
    views: int = 0,
    device: str = "auto",
    workers: int | None = None,
    memo: Path | None = None,
    on_start: Callable[[str], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Benchmark:
    """Train three ways by one recipe, and judge each on test, or on val where there is no test.

    Args:
        views: Augmented views that the cached way trains on; 0: the plain images.
        memo: Folder of the memo of digested weights.
        on_start: Is told which contender begins.
        on_epoch: Is told each epoch of each.

    Raises:
        TlcacheError: If the data, the trunk or an option is at fault.
    """
    recipe = recipe or Recipe()
    start = on_start or (lambda name: None)
    loaded = load_trunk(trunk, weights, memo)
    start("cached")
    cached, head_seconds = _cached(
        dataset, loaded, recipe, views=views, device=device, workers=workers, on_epoch=on_epoch
    )
    loops = []
    for name in NAMES[1:]:
        start(name)
        loops.append(
            _loop(name, dataset, loaded, recipe, device=device, workers=workers, on_epoch=on_epoch)
        )
    judged_on = final_split(dataset.present_splits())
    return Benchmark([cached, *loops], head_seconds, recipe, trunk, weights, judged_on)


def _cached(
    dataset: ImageDataset,
    trunk: Trunk,
    recipe: Recipe,
    *,
    views: int,
    device: str,
    workers: int | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> tuple[Contender, float]:
    """The cached way from a cold cache, and the seconds of one more head."""
    with tempfile.TemporaryDirectory(prefix="tlcache-bench-") as cold:
        embedding = embed(
            dataset, trunk, cache=Path(cold), views=views, device=device, workers=workers
        )
        started = time.perf_counter()
        features = embedding.read()
        read_seconds = time.perf_counter() - started
    arrays = (features.to_train_on(), features.split("train")[1], *features.split("val"))
    classes = len(dataset.classes)
    trained = train_head(*arrays, recipe, classes=classes, on_epoch=on_epoch)
    again = train_head(*arrays, dataclasses.replace(recipe, seed=recipe.seed + 1), classes=classes)
    judged_on = final_split(features.present_splits())
    rows, labels = features.split(judged_on)
    scored = Scored(trained.head.logits(rows), labels, features.split_paths(judged_on))
    seconds = {"embed": embedding.seconds, "read": read_seconds, "train": trained.seconds}
    judged = evaluate(scored.logits, labels, dataset.classes)
    return Contender("cached", seconds, scored, judged), again.seconds


def _loop(
    name: str,
    dataset: ImageDataset,
    trunk: Trunk,
    recipe: Recipe,
    *,
    device: str,
    workers: int | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> Contender:
    """A loop that pays for the network in every epoch: ``frozen`` or ``finetune``."""
    started = time.perf_counter()
    tuned = finetune(
        dataset,
        trunk,
        recipe,
        freeze=name == "frozen",
        device=device,
        workers="auto" if workers is None else workers,
        on_epoch=on_epoch,
    )
    seconds = {"train": time.perf_counter() - started}
    model = tuned.model(trunk, dataset.classes)
    network = trunk.module if model.network is None else load_network(model)
    judged_on = final_split(dataset.present_splits())
    scored = score_split(model, network, dataset, judged_on, device=device, workers=workers)
    return Contender(name, seconds, scored, evaluate(scored.logits, scored.labels, model.classes))
