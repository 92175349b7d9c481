"""How often the 95% intervals hold the truth: by simulation, and exactly by summing all outcomes.

Of an accuracy: Wilson's interval, which tlcache prints, beside four others. Of the difference of
two models on the same images: tlcache's paired bootstrap, beside the plain one and BCa.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bench_rounds import run
from numpy.typing import NDArray
from scipy import stats

from tlcache.core.errors import OptionError
from tlcache.evaluation.comparison import DRAWS, bootstrap_interval
from tlcache.evaluation.metrics import wilson_interval

Z = float(stats.norm.ppf(0.975))
PAIRS = ((0.03, 0.01), (0.03, 0.03), (0.06, 0.02), (0.1, 0.06), (0.2, 0.1))
"""Shares of images that only a and only b gets right."""
NEGLIGIBLE = 1e-6  # what all tables left out of a sum may weigh
Ends = tuple[NDArray[np.float64], NDArray[np.float64]]


def main(
    sizes: Annotated[str, typer.Option(help="Numbers of images.")] = "20,50,153,1000",
    accuracies: Annotated[str, typer.Option(help="True ones.")] = "0.6,0.8,0.9,0.96",
    draws: Annotated[int, typer.Option(min=1, help="Simulated test sets of each.")] = 2000,
    resamples: Annotated[int, typer.Option(min=1, help="Of each bootstrap.")] = DRAWS,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    output: Annotated[Path | None, typer.Option("--json", help="A JSON file of all.")] = None,
) -> None:
    """Print three tables: of an accuracy, of intervals on the whole, and of a difference."""
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    ns = [int(n) for n in _numbers("--sizes", sizes, 1, 10_000)]
    shares = _numbers("--accuracies", accuracies, 0, 1)
    of_accuracy = [single(n, p, draws, random) for n in ns for p in shares]
    tell_single(of_accuracy, draws)
    overall = [over_all(n, name) for n in ns for name in INTERVALS]
    tell_overall(overall)
    of_difference = [paired(n, pair, draws, resamples, random) for n in ns for pair in PAIRS]
    tell_paired(of_difference, draws)
    if output is not None:
        found = {"accuracy": of_accuracy, "overall": overall, "difference": of_difference}
        output.write_text(json.dumps({"draws": draws, "seed": seed} | found, indent=2) + "\n")


def _numbers(option: str, text: str, low: float, high: float) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(low <= number <= high for number in found):
        raise OptionError(
            option,
            expected=f"numbers from {low} to {high} with commas between them",
            found=text or "nothing",
            remedy="correct it, or leave it out",
        )
    return found


def wilson(n: int) -> Ends:
    """tlcache's own, of every number of images that can be right."""
    low, high = np.array([wilson_interval(k, n) for k in range(n + 1)]).T
    return low, high


def agresti_coull(n: int) -> Ends:
    """Agresti and Coull, The American Statistician 1998: Wald's with z^2 images more."""
    total = n + Z**2
    share = (np.arange(n + 1) + Z**2 / 2) / total
    half = Z * np.sqrt(share * (1 - share) / total)
    return np.maximum(share - half, 0), np.minimum(share + half, 1)


def clopper_pearson(n: int) -> Ends:
    """Clopper and Pearson, Biometrika 1934: never under 95%."""
    k = np.arange(n + 1)
    low = np.where(k == 0, 0, stats.beta.ppf(0.025, np.maximum(k, 1), n - k + 1))
    high = np.where(k == n, 1, stats.beta.ppf(0.975, k + 1, np.maximum(n - k, 1)))
    return low, high


def jeffreys(n: int) -> Ends:
    """Brown, Cai and DasGupta, Statistical Science 2001, with their ends at 0 and n."""
    k = np.arange(n + 1)
    low = np.where(k == 0, 0, stats.beta.ppf(0.025, k + 0.5, n - k + 0.5))
    high = np.where(k == n, 1, stats.beta.ppf(0.975, k + 0.5, n - k + 0.5))
    return low, high


def mid_p(n: int) -> Ends:
    """Clopper and Pearson's, each tail with half of the outcome that was seen."""
    k = np.arange(n + 1)
    low, high = np.zeros(n + 1), np.ones(n + 1)
    for _ in range(50):
        middle = (low + high) / 2
        below = stats.binom.cdf(k, n, middle) - stats.binom.pmf(k, n, middle) / 2 > 0.025
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    upper = np.where(k == n, 1, low)
    return 1 - upper[::-1], upper


INTERVALS = {
    "Wilson": functools.cache(wilson),
    "Agresti-Coull": functools.cache(agresti_coull),
    "Clopper-Pearson": functools.cache(clopper_pearson),
    "Jeffreys": functools.cache(jeffreys),
    "mid-p": functools.cache(mid_p),
}


def exact_coverage(n: int, share: float, name: str) -> float:
    """The chance that an interval holds the share, summed over all numbers of right images."""
    low, high = INTERVALS[name](n)
    chances = stats.binom.pmf(np.arange(n + 1), n, share)
    return float(chances[(low <= share) & (share <= high)].sum())


def single(n: int, share: float, draws: int, random: np.random.Generator) -> dict[str, Any]:
    """Coverage of one accuracy: Wilson's by simulation, and of every interval exactly."""
    low, high = INTERVALS["Wilson"](n)
    right = random.binomial(n, share, size=draws)
    simulated = float(((low[right] <= share) & (share <= high[right])).mean())
    exact = {name: exact_coverage(n, share, name) for name in INTERVALS}
    return {"n": n, "accuracy": share, "simulated": simulated, "exact": exact}


def over_all(n: int, name: str) -> dict[str, Any]:
    """An interval's exact coverage over accuracies from 0.5 to 0.995, and its mean width."""
    grid = np.arange(0.5, 0.9951, 0.001)
    covered = np.array([exact_coverage(n, share, name) for share in grid])
    low, high = INTERVALS[name](n)
    chances = stats.binom.pmf(np.arange(n + 1)[:, None], n, grid)
    return {
        "n": n,
        "interval": name,
        "mean": float(covered.mean()),
        "least": float(covered.min()),
        "within_93_97": float(((covered >= 0.93) & (covered <= 0.97)).mean()),
        "mean_distance": float(np.abs(covered - 0.95).mean()),
        "mean_width": float(((high - low) @ chances).mean()),
    }


def paired(
    n: int, pair: tuple[float, float], draws: int, resamples: int, random: np.random.Generator
) -> dict[str, Any]:
    """Coverage of a difference: tlcache's bootstrap by simulation, and of all three exactly."""
    chances = np.array([*pair, 1 - sum(pair)])
    counts, times = np.unique(random.multinomial(n, chances, draws), axis=0, return_counts=True)
    held = [_held(n, *row, pair, resamples)[0] for row in counts[:, :2].tolist()]
    tables, weights = _tables(n, chances)
    exact = weights @ np.array([_held(n, *row, pair, resamples) for row in tables])
    names = "tlcache", "plain", "BCa"
    return {
        "n": n,
        "only_a": pair[0],
        "only_b": pair[1],
        "simulated": float(times @ held / draws),
        "exact": dict(zip(names, (exact / weights.sum()).tolist(), strict=True)),
    }


def _tables(n: int, chances: NDArray[np.float64]) -> tuple[list[list[int]], NDArray[np.float64]]:
    """The likeliest tables, as (only a, only b), that together weigh all but nothing."""
    reach = [int(stats.binom.ppf(1 - 1e-9, n, p)) + 1 for p in chances[:2]]
    grid = np.stack(np.meshgrid(*map(np.arange, reach), indexing="ij"), -1).reshape(-1, 2)
    grid = grid[grid.sum(axis=1) <= n]
    weights = stats.multinomial.pmf(np.c_[grid, n - grid.sum(axis=1)], n, chances)
    order = np.argsort(-weights)
    kept = order[: np.searchsorted(weights[order].cumsum(), 1 - NEGLIGIBLE) + 1]
    return grid[kept].tolist(), weights[kept]


def _held(
    n: int, only_a: int, only_b: int, pair: tuple[float, float], resamples: int
) -> NDArray[np.float64]:
    """Which of the three intervals hold the true difference, as 0 and 1."""
    low, high = np.array(_intervals(n, only_a, only_b, resamples)).T
    truth, rounding = pair[0] - pair[1], 1e-9
    return ((low <= truth + rounding) & (truth - rounding <= high)).astype(float)


@functools.cache
def _intervals(n: int, only_a: int, only_b: int, resamples: int) -> list[tuple[float, float]]:
    """tlcache's, the plain percentile's and BCa's, of one table."""
    ours = bootstrap_interval(n - only_a - only_b, only_a, only_b, 0, draws=resamples)
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(1)))
    cells = np.array([only_a, only_b, n - only_a - only_b])
    counts = random.multinomial(n, cells / n, size=resamples)
    differences = (counts[:, 0] - counts[:, 1]) / n
    plain = np.quantile(differences, [0.025, 0.975])
    bca = np.quantile(differences, _bca_points(differences, cells))
    return [ours, tuple(plain.tolist()), tuple(bca.tolist())]


def _bca_points(differences: NDArray[np.float64], cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Which points of the draws BCa takes: Efron and Tibshirani 1993, section 14.3."""
    seen = (cells[0] - cells[1]) / cells.sum()
    below = (differences < seen - 1e-12).mean() + (np.abs(differences - seen) < 1e-12).mean() / 2
    bias = stats.norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    deviations = np.array([1.0, -1.0, 0.0]) - seen
    spread = (cells * deviations**2).sum() ** 1.5
    acceleration = (cells * deviations**3).sum() / (6 * spread) if spread else 0.0
    normal = bias + np.array([-Z, Z])
    return np.asarray(stats.norm.cdf(bias + normal / (1 - acceleration * normal)))


def tell_single(rows: list[dict[str, Any]], draws: int) -> None:
    """Coverage of an accuracy, as a table."""
    print(f"of an accuracy: Wilson's in {draws:,} draws, then exactly")
    print(f"{'n':>5} {'accuracy':>8} {'drawn':>6}  " + _heads(INTERVALS))
    for row in rows:
        values = _values(row["exact"])
        print(f"{row['n']:5} {row['accuracy']:8.3f} {row['simulated']:6.3f}  {values}")


def tell_overall(rows: list[dict[str, Any]]) -> None:
    """What each interval is worth on the whole, as a table."""
    print("\nexactly, over accuracies from 0.5 to 0.995")
    heads = "mean", "least", "93-97%", "|off|", "width"
    print(f"{'n':>5} {'':16} " + "  ".join(f"{head:>6}" for head in heads))
    names = "mean", "least", "within_93_97", "mean_distance", "mean_width"
    for row in rows:
        values = "  ".join(f"{row[name]:6.3f}" for name in names)
        print(f"{row['n']:5} {row['interval']:16} {values}")


def tell_paired(rows: list[dict[str, Any]], draws: int) -> None:
    """Coverage of a difference, as a table."""
    print(f"\nof a difference: tlcache's bootstrap in {draws:,} draws, then exactly")
    print(f"{'n':>5} {'only a':>6} {'only b':>6} {'drawn':>6}  " + _heads(rows[0]["exact"]))
    for row in rows:
        shares = f"{row['only_a']:6.2f} {row['only_b']:6.2f} {row['simulated']:6.3f}"
        print(f"{row['n']:5} {shares}  {_values(row['exact'])}")


def _heads(names: Any) -> str:
    return "  ".join(f"{name:>6}" for name in names)


def _values(exact: dict[str, float]) -> str:
    return "  ".join(f"{value:{max(6, len(name))}.3f}" for name, value in exact.items())


if __name__ == "__main__":
    run(main)
