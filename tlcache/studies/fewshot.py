"""The learning curve: how well a recipe's heads do with few images of each class.

In an episode some images of each class, the shots, are drawn from the training images, and a head
is trained on them. Nothing is chosen on the images that it is judged on: the head is that of the
recipe's last epoch. Takes arrays, and draws no picture.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, OptionError, listed
from tlcache.core.progress import Tick
from tlcache.data.folders import ImageDataset
from tlcache.evaluation.metrics import share_interval
from tlcache.heads.recipe import Recipe, reseeded
from tlcache.heads.rows import Array, Labels
from tlcache.heads.train import train_separately
from tlcache.networks.checks import no_split

MOST_EPISODES = 10_000
LEAST_STEPS = 10
"""An epoch's, by default: else a curve would tell of steps that were not taken, not of images."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the curve.

    Attributes:
        shots: Images of each class that a head is trained on.
        accuracies: (E,), one an episode.
        accuracy: Their mean.
        accuracy_ci95: (low, high), of the mean: of other shots and of other images judged.
        band: (low, high): where the middle 95% of the episodes came out.
    """

    shots: int
    accuracies: NDArray[np.float64]
    accuracy: float
    accuracy_ci95: tuple[float, float]
    band: tuple[float, float]

    @property
    def sd(self) -> float:
        """Standard deviation over the episodes."""
        return float(self.accuracies.std(ddof=1))

    def describe(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "shots": self.shots,
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "episodes95": list(self.band),
            "sd_episodes": self.sd,
            "accuracies": self.accuracies.tolist(),
        }


@dataclasses.dataclass(frozen=True)
class FewShotCurve:
    """Accuracy by rising shots, over so many episodes a point.

    Each head is judged on so many images; the seconds are of drawing, training and judging.
    """

    points: list[Point]
    episodes: int
    images: int
    seconds: float

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        return {
            "episodes": self.episodes,
            "images": self.images,
            "selected_on": "none",
            "curve": [point.describe() for point in self.points],
        }


def few_shot_curve(
    features: Array,
    labels: Labels,
    judged_features: Array,
    judged_labels: Labels,
    *,
    classes: Sequence[str],
    shots: Sequence[int] = (1, 2, 5, 10, 20),
    episodes: int = 50,
    recipe: Recipe | None = None,
    least_steps: int = LEAST_STEPS,
    progress: Tick | None = None,
) -> FewShotCurve:
    """Train a head on the shots of each episode, and judge it.

    An episode's fewer shots are among its more: points differ by the shots that come in addition.
    Episodes draw from the same training images. The more of these they take, the more alike they
    are, and the less the band tells of images that nobody has taken yet.

    Args:
        features: (N, D) to draw from, or (V, N, D) for V views: epoch e takes view e mod V.
        labels: (N,), indices into ``classes``.
        judged_features: (M, D).
        judged_labels: (M,).
        classes: Their names.
        shots: Of each class, one number a point.
        episodes: E; each has shots, first head and order of its own.
        recipe: The tutorial's by default; its seed is that of everything.
        least_steps: Of an epoch; fewer shots than that takes are taken several times over.
        progress: Called with how many heads are done, and of how many.

    Raises:
        OptionError: If the shots or episodes make no sense.
        DataError: If a class has fewer images than shots, or a loss is no longer finite.
    """
    started, recipe = time.perf_counter(), recipe or Recipe()
    wanted = sorted(set(shots))
    check_draws(wanted, episodes, least_steps)
    _check_counts(labels, wanted[-1], classes)
    drawn = [draw_shots(labels, wanted[-1], recipe.seed, episode) for episode in range(episodes)]
    heads = [(k, episode) for k in wanted for episode in range(episodes)]
    shown = [drawn[episode][:, :k].ravel() for k, episode in heads]
    least = least_steps * recipe.batch_size
    hits = train_separately(
        features,
        labels,
        [np.tile(rows, -(-least // len(rows))) for rows in shown],
        [reseeded(recipe, episode, 1) for _, episode in heads],
        classes=len(classes),
        judge=lambda _, head: head.logits(judged_features).argmax(axis=1) == judged_labels,
        progress=progress,
    )
    points = [
        _point(k, np.array(hits[at * episodes : (at + 1) * episodes]))
        for at, k in enumerate(wanted)
    ]
    return FewShotCurve(points, episodes, len(judged_labels), time.perf_counter() - started)


def draw_shots(labels: Labels, shots: int, seed: int, episode: int) -> NDArray[np.int64]:
    """An episode's shots: (C, shots) rows, a line a class that there is.

    The first k of each line are the episode's k shots, however many there are of them, of episodes
    and of threads, and on every machine.
    """
    lines = []
    for label in np.unique(labels):
        stream = np.random.SeedSequence(seed, spawn_key=(episode, 0, int(label)))
        random = np.random.Generator(np.random.PCG64(stream))
        lines.append(random.permutation(np.flatnonzero(labels == label))[:shots])
    return np.stack(lines)


def _point(shots: int, hits: NDArray[np.bool_]) -> Point:
    """From which images, (E, M), each episode's head gets right."""
    episodes, images = hits.shape
    accuracies, of_image = hits.mean(axis=1), hits.mean(axis=0)
    parts = [(float(accuracies.var(ddof=1)) / episodes, episodes - 1)]
    if images > 1:
        parts.append((float(of_image.var(ddof=1)) / images, images - 1))
    low, high = np.quantile(accuracies, [0.025, 0.975])
    mean = float(accuracies.mean())
    interval = share_interval(mean, images, parts)
    return Point(shots, accuracies, mean, interval, (float(low), float(high)))


def check_draws(
    shots: Sequence[int], episodes: int, least_steps: int = LEAST_STEPS, on: str = "test"
) -> None:
    """Raise an OptionError for draws, or a split to judge on, that make no sense for any data."""
    if not shots or min(shots) < 1:
        found = ", ".join(map(str, shots)) or "none"
        raise OptionError("--shots", "whole numbers over 0", found, "write them like 1,2,5,10,20")
    bounds = {
        "--episodes": (episodes, 2, MOST_EPISODES, ": one draw has no spread"),
        "--least-steps": (least_steps, 1, 10**6, ""),
    }
    for option, (value, low, high, why) in bounds.items():
        if not low <= value <= high:
            expected = f"a whole number from {low} to {high}{why}"
            remedy = "correct it, or leave it out for the default"
            raise OptionError(option, expected, str(value), remedy)
    if on not in ("val", "test"):
        expected = "val or test: heads train on images of train"
        raise OptionError("--on", expected, on, "name one of them")


def _check_counts(labels: Labels, most: int, classes: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{n} of {name}" for name, n in zip(classes, counts, strict=True) if n < most]
    if few:
        expected = f"at least {most} training images of each class"
        remedy = f"pass --shots of {counts.min()} or less, or add images"
        raise DataError(f"--shots {most}", expected, listed(few), remedy)


def check_dataset(dataset: ImageDataset, on: str, shots: Sequence[int]) -> None:
    """Refuse images that are too few to draw from, or none to judge on, before they are embedded.

    Raises:
        DataError: If split ``on`` has no image, or a class has fewer training images than shots.
    """
    if on not in dataset.present_splits():
        raise no_split(dataset, on)
    _check_counts(dataset.labels[dataset.indices("train")], max(shots), dataset.classes)
