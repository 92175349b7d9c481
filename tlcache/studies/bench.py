"""Cached against the frozen loop against finetuning, from a random head or from the cached one.

One recipe, one run, one evaluation; every second is measured here, from a cold feature cache.
Covers no printing and no pictures.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tlcache.core.errors import OptionError
from tlcache.core.files import StrPath, as_path
from tlcache.core.machine import Compute, describe_machine
from tlcache.core.progress import Report, no_report
from tlcache.data.folders import ImageDataset, check_dataset
from tlcache.evaluation.comparison import Comparison, compare
from tlcache.evaluation.metrics import Evaluation, evaluate
from tlcache.evaluation.roles import final_split
from tlcache.features.embed import embed
from tlcache.heads.model import Head
from tlcache.heads.recipe import EpochRecord, Recipe
from tlcache.heads.train import train_head
from tlcache.networks.finetune import finetune
from tlcache.networks.scoring import Scored, load_network, score_features, score_split
from tlcache.trunks.info import as_weights, note_transform
from tlcache.trunks.load import Trunk, load_trunk

NAMES = ("cached", "frozen", "finetune", "lp-ft")


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to train, of ``NAMES``, and its seconds by stage.

    What is scored and evaluated, on the split that is judged, is the model of the epoch that is
    best on val. Its network ran in ``precision`` while it trained: a GPU's is not fp32 where the
    network is finetuned.
    """

    name: str
    seconds: dict[str, float]
    scored: Scored
    evaluation: Evaluation
    precision: str = "fp32"

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
            "precision": self.precision,
            "accuracy": self.evaluation.accuracy,
            "accuracy_ci95": list(self.evaluation.accuracy_ci95),
        }


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        contenders: In the order of ``NAMES``.
        head_seconds: Of training one more head from the filled cache; None where there was none.
        recipe: That all of them followed.
        trunk: Name of the network.
        weights: Where its weights came from.
        judged_on: The split of the accuracies: test where there is one, else val, which chose the
            epochs.
    """

    contenders: Sequence[Contender]
    head_seconds: float | None
    recipe: Recipe
    trunk: str
    weights: str
    judged_on: str = "val"

    def get(self, name: str) -> Contender | None:
        """A contender; None if it was not measured."""
        return next((one for one in self.contenders if one.name == name), None)

    @property
    def speedup(self) -> float | None:
        """The frozen loop's seconds over the cached way's, its pass included; None without both."""
        cached, frozen = self.get("cached"), self.get("frozen")
        return frozen.total / cached.total if cached and frozen else None

    @property
    def break_even_heads(self) -> int | None:
        """From how many heads on the cached way costs less than the frozen loop.

        None if never, or unless both were measured.
        """
        cached, frozen = self.get("cached"), self.get("frozen")
        if cached is None or frozen is None or self.head_seconds is None:
            return None
        saved = frozen.total - self.head_seconds
        filling = cached.total - cached.seconds["train"]
        return max(1, math.floor(filling / saved) + 1) if saved > 0 else None

    def paired(self, a: str, b: str) -> Comparison | None:
        """Two contenders on the same images; None unless both were measured."""
        one, other = self.get(a), self.get(b)
        if one is None or other is None:
            return None
        return compare(one.scored.logits, other.scored.logits, one.scored.labels)

    def _paired_values(self, a: str, b: str) -> dict[str, Any] | None:
        paired = self.paired(a, b)
        return paired.to_dict() | {"sentence": paired.sentence(a, b)} if paired else None

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        return {
            **{contender.name: contender.describe() for contender in self.contenders},
            "head_seconds": self.head_seconds,
            "speedup": self.speedup,
            "break_even_heads": self.break_even_heads,
            "judged_on": self.judged_on,
            "selected_on": "val",
            "comparison": self._paired_values("cached", "finetune"),
            "lp_ft_gain": self._paired_values("lp-ft", "finetune"),
            "trunk": self.trunk,
            "weights": self.weights,
            "recipe": self.recipe.describe(),
            **describe_machine(self.trunk),
        }


def benchmark(
    dataset: ImageDataset,
    trunk: str = "resnet18",
    weights: StrPath = "imagenet",
    recipe: Recipe | None = None,
    *,
    contenders: Sequence[str] = NAMES,
    views: int = 0,
    device: str = "auto",
    workers: int | None = None,
    memo: StrPath | None = None,
    report: Report | None = None,
    on_start: Report | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Benchmark:
    """Train several ways by one recipe, and judge each on test, or on val where there is no test.

    ``cached`` trains a head on cached features and ``frozen`` in the loop; ``finetune`` trains the
    whole network from a random head, and ``lp-ft`` from the cached one, for as many epochs: Kumar
    et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
    ICLR 2022. The seconds of ``lp-ft`` are those of its head too, and of a look at val before the
    first epoch.

    Args:
        contenders: Some of ``NAMES``.
        views: Augmented views that the cached way trains on; 0: the plain images.
        memo: Folder of the memo of digested weights.
        report: Is told, in a line, which transform a weights file takes.
        on_start: Is told which contender begins.
        on_epoch: Is told each epoch of each.

    Raises:
        TlcacheError: If the data, the trunk or an option is at fault.
    """
    unknown = [name for name in contenders if name not in NAMES]
    if unknown or not contenders:
        remedy = "name them with commas between, or leave it out for all"
        found = ", ".join(unknown) or "none"
        raise OptionError("--contenders", f"some of {', '.join(NAMES)}", found, remedy)
    check_dataset(dataset)
    weights, memo = as_weights(weights), None if memo is None else as_path("memo", memo)
    recipe = recipe or Recipe()
    compute = Compute(device=device, workers=workers)
    loaded = load_trunk(trunk, weights, memo)
    note_transform(loaded, {}, report or no_report)
    measured, first = [], None
    for name in (name for name in NAMES if name in contenders):
        if on_start is not None:
            on_start(name)
        if first is None and name in ("cached", "lp-ft"):
            first = _cached(dataset, loaded, recipe, views, compute, on_epoch)
        if name == "cached" and first:
            measured.append(first.contender)
        else:
            measured.append(_loop(name, dataset, loaded, recipe, first, compute, on_epoch))
    judged_on = final_split(dataset.present_splits())
    again = first.again if first else None
    return Benchmark(measured, again, recipe, trunk, weights, judged_on)


@dataclasses.dataclass(frozen=True)
class _Cached:
    """The cached way, its head, and the seconds of training one more."""

    contender: Contender
    head: Head
    again: float


def _cached(
    dataset: ImageDataset,
    trunk: Trunk,
    recipe: Recipe,
    views: int,
    compute: Compute,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> _Cached:
    with tempfile.TemporaryDirectory(prefix="tlcache-bench-") as cold:
        device, workers = compute.device, compute.workers
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
    scored = score_features(trained.head, features, judged_on)
    seconds = {"embed": embedding.seconds, "read": read_seconds, "train": trained.seconds}
    judged = evaluate(scored.logits, scored.labels, dataset.classes)
    return _Cached(Contender("cached", seconds, scored, judged), trained.head, again.seconds)


def _loop(
    name: str,
    dataset: ImageDataset,
    trunk: Trunk,
    recipe: Recipe,
    first: _Cached | None,
    compute: Compute,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> Contender:
    """A loop that pays for the network in every epoch: ``frozen``, ``finetune`` or ``lp-ft``."""
    from_cache = first if name == "lp-ft" else None
    started = time.perf_counter()
    tuned = finetune(
        dataset,
        trunk,
        recipe,
        head=from_cache.head if from_cache else None,
        freeze=name == "frozen",
        device=compute.device,
        workers=compute.workers,
        on_epoch=on_epoch,
    )
    took = time.perf_counter() - started
    seconds = from_cache.contender.seconds | {"finetune": took} if from_cache else {"train": took}
    model = tuned.model(trunk, dataset.classes)
    network = trunk.module if model.network is None else load_network(model)
    judged_on = final_split(dataset.present_splits())
    scored = score_split(model, network, dataset, judged_on, compute=compute)
    judged = evaluate(scored.logits, scored.labels, model.classes)
    return Contender(name, seconds, scored, judged, tuned.precision)
