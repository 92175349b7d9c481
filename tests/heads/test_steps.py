"""Steps by numpy, by numba and by torch are those of torch's SGD on each head alone."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tlcache.core import machine
from tlcache.heads.steps import Rates, Steps, can_compile, compiled_steps, steps, steps_on

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="needs the optional package numba")


class Given(NamedTuple):
    """What steps take, in their order."""

    weight: np.ndarray
    velocity: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    batch_size: int
    rates: Rates

    def by(self, make: Callable[[np.ndarray], np.ndarray]) -> Given:
        """The same with every array made anew."""
        weight, velocity, rows, labels = map(make, self[:4])
        rates = Rates(*map(make, self.rates))
        return Given(weight, velocity, rows, labels, self.batch_size, rates)


def given(heads: int, classes: int, n: int, batch_size: int, width: int = 9) -> Given:
    """Heads that differ in every rate; the last column of the rows is ones, as for a bias."""
    random = np.random.default_rng(classes * 1000 + batch_size)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    rows = np.column_stack([normal(n, width), np.ones(n, np.float32)])
    weight, velocity = normal(heads, classes, width + 1) / 3, normal(heads, classes, width + 1) / 10
    drawn = np.linspace(0.01, 0.2, heads), np.linspace(0, 0.95, heads), np.arange(heads) % 3 / 50
    labels = random.integers(0, classes, n)
    rates = Rates(*(rate.astype(np.float32) for rate in drawn))
    return Given(weight, velocity, rows, labels, batch_size, rates)


def exact_steps(g: Given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, velocities and logits after all steps, one head and row at a time, in float64."""
    weight, velocity = g.weight.astype(np.float64), g.velocity.astype(np.float64)
    seen = np.empty((len(g.rows), *g.weight.shape[:2]))
    for head, (w, v) in enumerate(zip(weight, velocity, strict=True)):
        for start in range(0, len(g.rows), g.batch_size):
            gradient = np.zeros_like(w)
            rows = g.rows[start : start + g.batch_size].astype(np.float64)
            for i, row in enumerate(rows, start):
                seen[i, head] = logits = w @ row
                error = np.exp(logits - logits.max())
                error /= error.sum()
                error[g.labels[i]] -= 1
                gradient += np.outer(error, row) / len(rows)
            v *= float(g.rates.momentum[head])
            v += gradient + float(g.rates.weight_decay[head]) * w
            w -= float(g.rates.lr[head]) * v
    return weight, velocity, seen


def torch_steps(g: Given) -> np.ndarray:
    """Weights after all steps from rest, by autograd and torch's SGD, head by head."""
    ended = []
    for head in range(len(g.weight)):
        weight = torch.tensor(g.weight[head], requires_grad=True)
        sgd = torch.optim.SGD(
            [weight],
            float(g.rates.lr[head]),
            float(g.rates.momentum[head]),
            0,
            float(g.rates.weight_decay[head]),
        )
        for start in range(0, len(g.rows), g.batch_size):
            batch = slice(start, start + g.batch_size)
            logits = torch.from_numpy(g.rows[batch]) @ weight.T
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(g.labels[batch])).backward()
            sgd.step()
        ended.append(weight.detach().numpy())
    return np.stack(ended)


WAYS = [
    "numpy",
    pytest.param("numba", marks=needs_numba),
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=WAYS)
def take(request: pytest.FixtureRequest) -> Steps:
    if request.param in ("cpu", "cuda"):
        return steps_on(torch.device(request.param))
    chosen = steps if request.param == "numpy" else compiled_steps()
    assert (chosen is steps) == (request.param == "numpy")
    return chosen


CASES = [
    (heads, classes, n, batch_size)
    for heads, classes, n in [(1, 2, 11), (3, 2, 66), (4, 5, 23), (2, 37, 13), (3, 100, 9)]
    for batch_size in (1, 3, 4, 5, 64)
]


@pytest.mark.parametrize(("heads", "classes", "n", "batch_size"), CASES)
def test_steps_are_those_of_float64(
    take: Steps, heads: int, classes: int, n: int, batch_size: int
) -> None:
    g = given(heads, classes, n, batch_size)
    weight, velocity, seen = exact_steps(g)
    logits = take(*g)
    assert logits.shape == seen.shape and logits.dtype == np.float32
    # Sums run in another order on another processor, and err by the size of what they add up.
    np.testing.assert_allclose(logits, seen, rtol=0, atol=3e-6 * max(1, np.abs(seen).max()))
    np.testing.assert_allclose(g.weight, weight, rtol=0, atol=1e-5)
    np.testing.assert_allclose(g.velocity, velocity, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("heads", "classes", "n", "batch_size"), CASES[5:15])
def test_steps_are_those_of_torch(
    take: Steps, heads: int, classes: int, n: int, batch_size: int
) -> None:
    g = given(heads, classes, n, batch_size)
    g.velocity[:] = 0
    expected, before = torch_steps(g), g.weight.copy()
    take(*g)
    np.testing.assert_allclose(g.weight, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - before).max() > 1e-2, "it must have moved"


def test_heads_of_the_same_rates_end_as_the_same_wherever_they_stand(take: Steps) -> None:
    g = given(5, 4, 22, 4)
    for values in (*g[:2], *g.rates):
        values[3] = values[0]
    take(*g)
    np.testing.assert_allclose(g.weight[3], g.weight[0], rtol=0, atol=1e-6)
    assert np.abs(g.weight[1] - g.weight[0]).max() > 1e-3


@pytest.mark.parametrize(("heads", "classes", "n", "batch_size"), [c for c in CASES if c[0] > 1])
@pytest.mark.parametrize("take", WAYS[:2], indirect=True)
def test_a_head_takes_the_same_steps_to_the_bit_whatever_heads_stand_beside_it(
    take: Steps, heads: int, classes: int, n: int, batch_size: int
) -> None:
    together, one = (given(heads, classes, n, batch_size, width=300) for _ in range(2))
    logits = take(*together)
    for g in range(heads):
        mine = one.by(lambda array, g=g: array[g : g + 1].copy())  # type: ignore[misc]
        mine = mine._replace(rows=one.rows, labels=one.labels)
        np.testing.assert_array_equal(take(*mine)[:, 0], logits[:, g])
        for kind in ("weight", "velocity"):
            np.testing.assert_array_equal(getattr(mine, kind)[0], getattr(together, kind)[g])


def test_steps_by_torch_are_taken_while_its_arithmetic_is_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, mm = list[bool](), torch.mm

    def spied(*given: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.append("torch's arithmetic" in machine._holders)
        return mm(*given, out=out)

    monkeypatch.setattr(torch, "mm", spied)
    steps_on(torch.device("cpu"))(*given(2, 3, 8, 4))
    assert seen == [True, True]
    assert "torch's arithmetic" not in machine._holders


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_what_is_not_finite_is_never_made_finite(take: Steps, bad: float, batch_size: int) -> None:
    for where in ("rows", "weight", "velocity"):
        g = given(2, 3, 11, batch_size)
        clean = g.by(np.copy)
        take(*clean)
        getattr(g, where)[(6, 2) if where == "rows" else (0, 1, 2)] = bad
        with np.errstate(invalid="ignore", over="ignore"):
            take(*g)
        assert not np.isfinite(g.weight[0, 1]).all(), where
        if where == "rows":  # the softmax hands it to every class
            assert np.isnan(g.weight[:, :, 2]).all()
        else:
            np.testing.assert_allclose(g.weight[1], clean.weight[1], rtol=0, atol=1e-6)


def test_logits_of_any_size_are_no_trouble(take: Steps) -> None:
    g = given(2, 3, 8, 4)
    g.weight[:] *= np.float32(1e30)
    weight, _, seen = exact_steps(g)
    logits = take(*g)
    np.testing.assert_allclose(logits[:4], seen[:4], rtol=1e-4)
    assert np.isfinite(g.weight).all()
    np.testing.assert_allclose(g.weight, weight, rtol=1e-4, atol=1e24)


@pytest.mark.parametrize(("heads", "classes", "n", "batch_size"), CASES[::3])
def test_nothing_beside_the_arrays_is_written(
    take: Steps, heads: int, classes: int, n: int, batch_size: int
) -> None:
    plain = given(heads, classes, n, batch_size)
    guards: list[np.ndarray] = []

    def guarded(values: np.ndarray) -> np.ndarray:
        """The same values between two stretches that nobody may touch."""
        whole = np.full(values.size + 512, 77, values.dtype)
        inner = whole[256:-256].reshape(values.shape)
        inner[...] = values
        guards.append(whole)
        return inner

    within = plain.by(guarded)
    np.testing.assert_array_equal(take(*within), take(*plain.by(np.copy)))
    for whole in guards:
        assert (whole[:256] == 77).all() and (whole[-256:] == 77).all()
    before = given(heads, classes, n, batch_size)
    for name in ("rows", "labels", "rates"):
        np.testing.assert_array_equal(getattr(within, name), getattr(before, name))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_labels_may_be_any_integers(take: Steps, dtype: type) -> None:
    g, other = given(2, 5, 11, 4), given(2, 5, 11, 4)
    logits = take(*g)
    np.testing.assert_array_equal(take(*other._replace(labels=g.labels.astype(dtype))), logits)


def test_no_rows_are_no_steps(take: Steps) -> None:
    g = given(2, 3, 0, 4)
    before = g.weight.copy()
    assert take(*g).shape == (0, 2, 3)
    np.testing.assert_array_equal(g.weight, before)


@pytest.fixture
def forgotten() -> Iterator[None]:
    compiled_steps.cache_clear()
    yield
    compiled_steps.cache_clear()


def test_without_numba_there_is_nothing_to_compile(
    forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not can_compile()


def test_a_numba_that_cannot_be_imported_leaves_it_to_numpy(
    forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert compiled_steps() is steps
