"""What a sweep tries: every combination of values, or a random draw of them.

Covers no training (``sweep``).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlcache.core.errors import OptionError, nearest
from tlcache.heads.recipe import SCHEDULES, Recipe
from tlcache.heads.rows import WAYS

SOLVERS = ("sgd", "lbfgs")
MOST_HEADS = 10_000
_SWEPT = ("lr", "weight_decay", "schedule", "batch_size")
_WORDS = {"schedule": SCHEDULES, "features": WAYS, "solver": SOLVERS}
_DRAWS = (0, 0)  # a spawn key unlike those of the epochs of a recipe of the same seed


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to train a head.

    Attributes:
        features: One of ``heads.rows.WAYS``.
        recipe: Of SGD, with the first seed; None for L-BFGS.
        c: Of L-BFGS, scikit-learn's inverse of the penalty; None for SGD.
    """

    features: str
    recipe: Recipe | None = None
    c: float | None = None

    def describe(self) -> dict[str, Any]:
        """What is swept over, as plain JSON values."""
        if self.recipe is None:
            return {"solver": "lbfgs", "features": self.features, "c": self.c}
        swept = {name: getattr(self.recipe, name) for name in _SWEPT}
        return {"solver": "sgd", "features": self.features} | swept


@dataclasses.dataclass(frozen=True)
class Space:
    """The values that are swept over.

    Attributes:
        base: What all heads of SGD share: epochs, momentum, step size, gamma and the first seed.
        lr, weight_decay, schedule, batch_size: Of SGD.
        features: Of ``heads.rows.WAYS``.
        solver: Of ``SOLVERS``.
        c: Of L-BFGS.
        seeds: How many heads of SGD a setting has, of the base's seed and those after it.

    Raises:
        OptionError: If a value makes no sense, or there is none.
    """

    base: Recipe = dataclasses.field(default_factory=Recipe)
    lr: Sequence[float] = (1e-4, 1e-3, 1e-2)
    weight_decay: Sequence[float] = (0.0, 1e-4, 1e-2)
    schedule: Sequence[str] = ("step",)
    batch_size: Sequence[int] = (4,)
    features: Sequence[str] = ("raw", "standardised")
    solver: Sequence[str] = SOLVERS
    c: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
    seeds: int = 1

    def __post_init__(self) -> None:
        for name in (*_SWEPT, "features", "solver", "c"):
            if not len(getattr(self, name)):
                raise _wrong(name, "at least one value", "none", "name some, or leave it out")
        for name, known in _WORDS.items():
            for word in getattr(self, name):
                if word not in known:
                    near = nearest(word, known, 1)
                    remedy = f"did you mean {near}?" if near else "name one of them, or several"
                    raise _wrong(name, " or ".join(known), word or "nothing", remedy)
        for name in _SWEPT:
            for value in getattr(self, name):
                dataclasses.replace(self.base, **{name: value})  # which refuses what makes no sense
        for value in self.c:
            if not (math.isfinite(value) and value > 0):
                raise _wrong("c", "numbers over 0", f"{value:g}", "correct it, or leave it out")
        if self.seeds < 1:
            raise _wrong("seeds", "1 or more", str(self.seeds), "leave it out for one")
        dataclasses.replace(self.base, seed=self.base.seed + self.seeds - 1)


def grid(space: Space) -> list[Setting]:
    """Every combination, in the order of the values.

    Raises:
        OptionError: If there are too many.
    """
    swept = {name: tuple(dict.fromkeys(getattr(space, name))) for name in _SWEPT}
    ways, strengths = dict.fromkeys(space.features), dict.fromkeys(space.c)
    counts = {name: len(v) for name, v in swept.items()} | {"features": len(ways)}
    heads = math.prod(counts.values()) * space.seeds if "sgd" in space.solver else 0
    heads += len(strengths) * len(ways) if "lbfgs" in space.solver else 0
    _check_heads("the grid", heads, counts | {"seeds": space.seeds})
    made: list[Setting] = []
    for solver in dict.fromkeys(space.solver):
        if solver == "lbfgs":
            made += [Setting(way, c=c) for way, c in itertools.product(ways, strengths)]
            continue
        for way, *values in itertools.product(ways, *swept.values()):
            changes = dict(zip(swept, values, strict=True))
            made.append(Setting(way, dataclasses.replace(space.base, **changes)))
    return made


def drawn(space: Space, count: int) -> list[Setting]:
    """Settings at random; those that are alike are one.

    Learning rate, weight decay and C are log-uniform between the least and the greatest value over
    0; where 0 is one of k values, one draw in k takes it. Of other values, each is as likely:
    Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 2012.

    Args:
        space: Its base's seed is that of the draw, too.
        count: How many.

    Raises:
        OptionError: If there are none, or too many.
    """
    if count < 1:
        raise _wrong("draw", "1 or more", str(count), "leave it out for the grid")
    _check_heads("--draw", count * space.seeds, {"draws": count, "seeds": space.seeds})
    stream = np.random.PCG64(np.random.SeedSequence(space.base.seed, spawn_key=_DRAWS))
    random, made = np.random.Generator(stream), []
    for _ in range(count):  # every number is drawn every time, so that each draw has its own
        solver, way = _one_of(random, space.solver), _one_of(random, space.features)
        changes = {
            "lr": _log_uniform(random, space.lr),
            "weight_decay": _log_uniform(random, space.weight_decay),
            "schedule": _one_of(random, space.schedule),
            "batch_size": _one_of(random, space.batch_size),
        }
        c, recipe = _log_uniform(random, space.c), dataclasses.replace(space.base, **changes)
        made.append(Setting(way, c=c) if solver == "lbfgs" else Setting(way, recipe))
    return list(dict.fromkeys(made))


def _one_of(random: np.random.Generator, values: Sequence[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def _log_uniform(random: np.random.Generator, values: Sequence[float]) -> float:
    place, lot = random.random(2)
    over = [value for value in values if value > 0]
    if lot * len(values) >= len(over):
        return 0.0
    low, high = min(over), max(over)
    return float(min(max(low * (high / low) ** place, low), high))


def _wrong(name: str, expected: str, found: str, remedy: str) -> OptionError:
    return OptionError(f"--{name.replace('_', '-')}", expected, found, remedy)


def _check_heads(where: str, heads: int, counts: dict[str, int]) -> None:
    if heads > MOST_HEADS:
        listed = " × ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n > 1)
        remedy = "give fewer values, or draw some of the combinations with --draw 200"
        raise OptionError(where, f"at most {MOST_HEADS:,} heads", f"{heads:,} ({listed})", remedy)
