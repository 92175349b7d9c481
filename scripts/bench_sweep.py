"""Seconds of many heads side by side, beside one and as many apart; L-BFGS beside scikit-learn.

Takes the features of a data set, or rows drawn at random.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bench_head_loops import drawn
from bench_rounds import JsonFile, alternated, keep, print_table, ratios, run, say, shown, spread

import tlcache
from tlcache.core.machine import describe_machine
from tlcache.features.read import Features
from tlcache.heads.logistic import logistic_path
from tlcache.heads.model import Head
from tlcache.heads.rows import HeadData, scaling_of
from tlcache.heads.steps import can_compile
from tlcache.studies.settings import Setting, Space, grid
from tlcache.studies.sweep import fit_settings, sweep_heads

ONE, OWN = "one head", "tlcache logistic_path"

Values = dict[str, Any]


def main(
    data: Annotated[
        Path | None, typer.Argument(help="A folder with train/ and val/, or a snapshot.")
    ] = None,
    trunk: Annotated[str, typer.Option(help="The frozen network.")] = "resnet18",
    weights: Annotated[str, typer.Option(help="imagenet, a file, or random.")] = "imagenet",
    cache_dir: Annotated[Path, typer.Option(help="Where features are kept.")] = Path("cache"),
    rows: Annotated[int, typer.Option(min=10, help="To train on, without DATA.")] = 244,
    val: Annotated[int, typer.Option(min=1, help="To judge on, without DATA.")] = 153,
    dim: Annotated[int, typer.Option(min=1, help="Length of a row, without DATA.")] = 1280,
    side: Annotated[int, typer.Option(min=1, help="Learning rates, and decays.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Of every head.")] = 25,
    many_rows: Annotated[int, typer.Option(min=20, help="Of L-BFGS's case of 10 classes.")] = 3_000,
    strengths: Annotated[int, typer.Option(min=1, help="Along L-BFGS's path.")] = 9,
    rounds: Annotated[int, typer.Option(min=1, help="Of everything.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Time a sweep of 4 x SIDE x SIDE heads, and a path of penalties.

    Where other programs share the machine, OPENBLAS_NUM_THREADS=1 keeps BLAS's threads from waiting
    for each other.
    """
    if data is None:
        features = _drawn(rows, val, dim, 2)
    else:
        features = _cached(data, trunk, weights, cache_dir)
    values: Values = describe_machine(trunk)
    values["heads"] = _heads(features, side, epochs, rounds)
    path = np.logspace(-4, 4, strengths).tolist()
    values["lbfgs"] = [
        _lbfgs(case, path, rounds) for case in (features, _drawn(many_rows, 10, 512, 10))
    ]
    _print(values)
    keep(values, json_file)


def _cached(data: Path, trunk: str, weights: str, cache: Path) -> Features:
    if data.is_file():
        return tlcache.open_snapshot(data).read()
    return tlcache.embed(tlcache.scan(data), trunk, weights, cache=cache, report=say).read()


def _drawn(rows: int, val: int, dim: int, classes: int) -> Features:
    train, labels, judge, truths = drawn(rows, val, dim, classes)
    return Features(
        features=np.concatenate([train, judge]),
        labels=np.concatenate([labels, truths]).astype(np.int32),
        splits=np.repeat([0, 1], [rows, val]).astype(np.int8),
        paths=[str(i) for i in range(rows + val)],
        classes=tuple(str(i) for i in range(classes)),
    )


def _seconds(work: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def _heads(features: Features, side: int, epochs: int, rounds: int) -> Values:
    """One head, a sweep of many, and as many heads apart; and whether they are the same."""
    space = Space(
        tlcache.Recipe(epochs=epochs),
        lr=np.geomspace(1e-5, 1e-2, side).tolist(),
        weight_decay=np.geomspace(1e-5, 1e-2, side).tolist(),
        schedule=("step", "cosine"),
        features=("raw", "standardised"),
        solver=("sgd",),
    )
    settings = grid(space)
    count = len(settings)
    middle = settings[count // 4]

    def apart() -> list[Head]:
        return [_alone(features, setting) for setting in settings]

    contenders = {
        ONE: _seconds(lambda: _alone(features, middle)),
        f"{count} heads, sweep": _seconds(lambda: sweep_heads(features, settings)),
        f"{count} heads, one by one": _seconds(apart),
    }
    say(f"{count} heads: comparing weights")  # which warms everybody up
    compiled = can_compile()  # as so many heads side by side are, where numba is installed
    same = [_alone(features, setting, compiled) for setting in settings]
    off = [_largest_difference(features, settings, heads) for heads in (same, apart())]
    sweep_heads(features, settings)
    say(f"{count} heads: {rounds} rounds")
    seconds = alternated(contenders, rounds)
    return {
        "title": f"{count} heads, {_shape(features)}, {epochs} epochs",
        "heads": count,
        "seconds": {name: spread(one) for name, one in seconds.items()},
        "over_one_head": {name: ratios(one, seconds[ONE]) for name, one in seconds.items()},
        "largest_difference": off[0],
        "largest_difference_of_other_steps": off[1],
    }


def _alone(features: Features, setting: Setting, compiled: bool | None = None) -> Head:
    """A head by itself, from features as they are to features as they are."""
    train, labels = features.split("train")
    val, truths = features.split("val")
    scaling, classes = scaling_of(setting.features, train), len(features.classes)
    rows = scaling.scaled(train), labels, scaling.scaled(val), truths
    recipes = [setting.recipe or tlcache.Recipe()]
    (trained,) = tlcache.train_heads(*rows, recipes, classes=classes, compiled=compiled)
    return scaling.on_raw_rows(trained.last)


def _largest_difference(features: Features, settings: list[Setting], apart: list[Head]) -> float:
    """Of weights and biases, between heads side by side and apart."""
    train, labels = features.split("train")
    data = HeadData(train[None], labels, *features.split("val"), len(features.classes))
    off = 0.0
    for fit in fit_settings(dict(enumerate(settings)), data):
        one, other = fit.head or Head(*np.full((2, 1), np.nan)), apart[fit.setting]
        for a, b in ((one.weight, other.weight), (one.bias, other.bias)):
            off = max(off, float(np.abs(a - b).max()))
    return off


def _lbfgs(features: Features, path: list[float], rounds: int) -> Values:
    """A path of C by tlcache and by scikit-learn: seconds, and how far above the least loss."""
    rows, labels = features.split("train")
    classes = len(features.classes)

    def own() -> list[Head]:
        return [fit.head for fit in logistic_path(rows, labels, path, classes=classes)]

    ways: dict[str, Callable[[], list[Head]]] = {OWN: own}
    for tolerance in (1e-4, 1e-6, 1e-8):
        name = f"scikit-learn, tol {tolerance:.0e}"
        ways[name] = lambda tol=tolerance: _by_scikit_learn(rows, labels, path, tol)
    say(f"L-BFGS, {_shape(features)}: {rounds} rounds")
    losses = {
        name: [_loss(head, rows, labels, c) for head, c in zip(way(), path, strict=True)]
        for name, way in ways.items()
    }
    least = np.min(list(losses.values()), axis=0)
    seconds = alternated({name: _seconds(way) for name, way in ways.items()}, rounds)
    return {
        "title": f"{len(path)} × C, {_shape(features)}",
        "c": path,
        "seconds": {name: spread(one) for name, one in seconds.items()},
        "over_own": {name: ratios(one, seconds[OWN]) for name, one in seconds.items()},
        "above_least": {name: (np.array(one) / least - 1).tolist() for name, one in losses.items()},
    }


def _by_scikit_learn(rows: Any, labels: Any, path: list[float], tolerance: float) -> list[Head]:
    """On centred rows, warm-started from the strongest penalty on."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(tol=tolerance, max_iter=100_000, warm_start=True)
    centre, heads = rows.mean(axis=0, dtype=np.float64), []
    centred = rows - centre
    for c in path:
        model.set_params(C=c).fit(centred, labels)
        weight, bias = model.coef_.copy(), model.intercept_.copy()
        if len(weight) == 1:  # of two classes, the difference
            weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        heads.append(Head(weight, bias - weight @ centre))
    return heads


def _loss(head: Head, rows: Any, labels: Any, c: float) -> float:
    """What scikit-learn minimises."""
    weight = head.weight.astype(np.float64)
    logits = rows.astype(np.float64) @ weight.T + head.bias
    logits -= logits.max(axis=1, keepdims=True)
    entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    free = weight[1:] - weight[:1] if len(weight) == 2 else weight
    return float(c * entropy.sum() + 0.5 * (free**2).sum())


def _shape(features: Features) -> str:
    rows, dim = features.split("train")[0].shape
    return f"{rows:,} × {dim}, {len(features.classes)} classes"


def _print(values: Values) -> None:
    machine, heads = values["machine"], values["heads"]
    print(f"{machine['processor']}, {machine['cores']} cores")
    print(
        f"weights side by side and apart differ by {heads['largest_difference']:.1e} at most, and "
        f"by {heads['largest_difference_of_other_steps']:.1e} from those of numpy's steps\n"
    )
    print_table(
        (heads["title"], "s", "× one head's"),
        [
            (name, shown(one, ".3f"), shown(heads["over_one_head"][name], ".1f"))
            for name, one in heads["seconds"].items()
        ],
    )
    for case in values["lbfgs"]:
        print()
        print_table(
            (case["title"], "s", f"× {OWN}", "loss above the least, worst"),
            [
                (
                    name,
                    shown(one, ".3f"),
                    shown(case["over_own"][name], ".2f"),
                    f"{max(case['above_least'][name]):.0e}",
                )
                for name, one in case["seconds"].items()
            ],
        )


if __name__ == "__main__":
    run(main)
