"""The demo: what a small data set costs once in the cache, head after head, and in finetuning.

Covers no printing and no pictures. What is shown is the tutorial's own where it can be had, else
what needs no network. How the ways compare on one recipe is measured in ``bench``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tlcache.core.errors import DownloadError, TrunkError
from tlcache.core.machine import Compute
from tlcache.core.progress import OpenTick, Report, Reporter
from tlcache.data.examples import fetch_hymenoptera, write_digits
from tlcache.data.folders import ImageDataset, subset
from tlcache.evaluation.metrics import Evaluation, evaluate
from tlcache.evaluation.roles import final_split
from tlcache.features.embed import embed
from tlcache.features.read import Embedding
from tlcache.features.stores import describe_trunk
from tlcache.heads.model import Model
from tlcache.heads.recipe import Recipe
from tlcache.heads.train import TrainedHead, train_head
from tlcache.networks.finetune import finetune
from tlcache.networks.scoring import Scored, load_network, score_features, score_split
from tlcache.trunks.load import Trunk, load_trunk

FINETUNED_IMAGES = 160
"""An epoch of finetuning more than this would take minutes on two cores."""


@dataclasses.dataclass(frozen=True)
class Step:
    """Something that was done, the seconds it took, and how good a model came of it, if one did."""

    name: str
    seconds: float
    evaluation: Evaluation | None = None

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        judged = self.evaluation
        return {
            "step": self.name,
            "seconds": self.seconds,
            "accuracy": judged and judged.accuracy,
            "accuracy_ci95": judged and list(judged.accuracy_ci95),
        }


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """What was shown.

    Attributes:
        embedding: Of the data set, with the seconds of its pass.
        first: The first head.
        model: With that head.
        scored: What it says of val.
        steps: Embedding, two heads, and an epoch of finetuning on a part of the images.
        judged_on: The split of the accuracies: test where there is one, else val.
    """

    embedding: Embedding
    first: TrainedHead
    model: Model
    scored: Scored
    steps: Sequence[Step]
    judged_on: str

    def bars(self) -> list[dict[str, Any]]:
        """The three ways to a model, for a figure: each with its seconds by stage."""
        embedded, *trained = self.steps
        names = "first head", "next head", "finetune a part"
        bars = [
            step.describe() | {"name": name, "seconds_by_stage": {"train": step.seconds}}
            for name, step in zip(names, trained, strict=True)
        ]
        stages = bars[0]["seconds_by_stage"]
        bars[0]["seconds_by_stage"] = {"embed": embedded.seconds, **stages}
        return bars

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        return {
            "trunk": self.model.trunk,
            "embedded": self.embedding.embedded,
            "reused": self.embedding.reused,
            "selected_on": "val",
            "judged_on": self.judged_on,
            "steps": [step.describe() for step in self.steps],
        }


def fetch_material(
    folder: Path,
    report: Report,
    progress: Callable[[str, str], AbstractContextManager[OpenTick]],
) -> tuple[Path, str]:
    """Images below a folder, and the name of a trunk: the tutorial's where they can be had.

    Args:
        folder: For the images, and for a cache whose memo knows the trunk's weights.
        report: Is told why it is something else.
        progress: Makes a progress bar with the given title and unit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        describe_trunk("resnet18", "imagenet", folder / "cache" / "weights")
        with progress("downloading", "bytes") as tick:
            fetch_hymenoptera(folder / "hymenoptera", None, tick)
        return folder / "hymenoptera", "resnet18"
    except (DownloadError, TrunkError) as error:
        report(
            f"no ResNet18 or no photos here ({error.where}: {error.found}), so digits and the "
            "packaged EfficientNet-Lite0 instead"
        )
    write_digits(folder / "digits")
    return folder / "digits", "efficientnet_lite0"


def demonstrate(
    dataset: ImageDataset, trunk: str, cache: Path, compute: Compute, tell: Reporter
) -> Demonstration:
    """Embed a data set once, train two heads from the cache, and finetune for an epoch on a part.

    Raises:
        TlcacheError: If the data or the trunk is at fault.
    """
    loaded = load_trunk(trunk, "imagenet", cache / "weights")
    embedding = embed(
        dataset,
        loaded,
        cache=cache,
        device=compute.device,
        workers=compute.workers,
        report=tell.note,
        progress=tell.progress,
    )
    features = embedding.read()
    judged_on = final_split(features.present_splits())
    arrays = *features.split("train"), *features.split("val")
    rows, labels = features.split(judged_on)
    heads, steps = [], [Step(f"embed {embedding.embedded} images, once", embedding.seconds)]
    for seed, name in enumerate(("train a head, 25 epochs", "train another, 25 epochs")):
        trained = train_head(*arrays, Recipe(seed=seed), classes=len(features.classes))
        judged = evaluate(trained.head.logits(rows), labels, features.classes)
        steps.append(Step(name, trained.seconds, judged))
        heads.append(trained)
    part = subset(dataset, FINETUNED_IMAGES, FINETUNED_IMAGES, seed=0)
    steps.append(_finetuned(part, loaded, judged_on, compute, tell))
    scored = score_features(heads[0].head, features, "val")
    return Demonstration(
        embedding, heads[0], embedding.model(heads[0].head), scored, steps, judged_on
    )


def _finetuned(
    part: ImageDataset, trunk: Trunk, judged_on: str, compute: Compute, tell: Reporter
) -> Step:
    """One epoch of finetuning."""
    device, workers = compute.device, compute.workers
    with tell.progress("finetuning") as tick:
        tuned = finetune(
            part, trunk, Recipe(epochs=1), progress=tick, device=device, workers=workers
        )
    model = tuned.model(trunk, part.classes)
    with tell.progress("evaluating") as tick:
        network = load_network(model)
        scored = score_split(model, network, part, judged_on, compute=compute, progress=tick)
    return Step(
        f"finetune, 1 epoch on {len(part.indices('train'))} of the training images",
        tuned.seconds,
        evaluate(scored.logits, scored.labels, part.classes),
    )
