"""A trunk made fast: what computes its features, to how many digits.

Precision is a word of the identity; the engine is not: whichever computes a feature, it is within
the word's bound of what the network makes in float64. torch is always there, with its batch norms
folded into the convolutions; MNN (extra ``mnn``) is faster on a CPU. One that misses the bound on
the first images of a pass is left for the next, down to torch's eager fp32. Covers no images and no
batches of them (``forward_pass``).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import (
    OptionError,
    TlcacheError,
    UnmetError,
    error_in_a_line,
    strerror,
    to_install,
)
from tlcache.core.progress import Report, no_report
from tlcache.data.transforms import Transform, normalisation
from tlcache.trunks.mnn_engine import mnn_runs
from tlcache.trunks.torch_engine import Run, cpu_run, cuda_runs, eager_run

if TYPE_CHECKING:
    import torch

BOUNDS = {"fp32": 2e-4, "fast": 5e-4, "fp16": 1e-1, "bf16": 1.0}
"""Each precision, and how far its features may be from the same network's in float64: the largest
difference over the largest number of a batch. Half of it is for what torch's eager fp32 is off
itself (at most 3.5e-5 was measured, of plain colours alone in their batch), half for the engine's
difference from that. Other images in a batch move a feature by less than half of it, as another
order of additions does; the same batch gives the same bits in any thread."""
ENGINES = ("auto", "torch", "mnn")

MNN_IMAGES = 1000
"""From how many images on ``auto`` takes MNN: converting a network takes it some seconds."""

_CHECKED_ON = 4  # images of each thread's first batch: on a GPU's machine the CPU is slow at them


@dataclasses.dataclass(frozen=True)
class Engine:
    """What computes features.

    Attributes:
        name: ``torch`` or ``mnn``.
        new_run: Makes a function that one thread may call; every thread needs its own. To be
            called before there are threads.
        raw: Whether it takes 8-bit pixels, and normalises them itself; else normalised float32.
    """

    name: str
    new_run: Callable[[], Run]
    raw: bool = False


@dataclasses.dataclass(frozen=True)
class _Way:
    """One way to compute features.

    Attributes:
        make: Called when it is come to; raises ``OptionError`` if it cannot take the network.
        exact: Whether it is eager torch itself, which is not checked against anything.
    """

    name: str
    make: Callable[[], Callable[[], Run]]
    exact: bool = False


def make_engine(
    module: torch.nn.Module,
    transform: Transform,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    device: torch.device,
    images: int = 0,
    report: Report = no_report,
) -> Engine:
    """The engine that is asked for, or for ``auto`` the fastest one that is there.

    Each of its runs compares its first features with torch's eager fp32, made on the CPU of the
    same pixels. Where they differ too much, or the engine fails, nothing of them is handed on, and
    the next engine computes in every thread: torch without folding, in fp32, is the last. ``mnn``
    by name has none after it, so that it ends in an error, as where it cannot be had at all.

    Args:
        module: Takes (N, 3, crop, crop) float32 to (N, D), in eval mode. It is left as it is.
        transform: Of the images; train views are cropped and normalised to the same.
        engine: One of ``ENGINES``.
        precision: One of ``BOUNDS``.
        images: How many are to come: for a few, a fast engine takes longer to set up than it saves.
        report: Is told, from any thread, where another engine has to do it.

    Raises:
        OptionError: If it is not installed, cannot compute in this precision on this device or
            cannot take this network, or if it misses the precision's bound on this machine.
    """
    if engine not in ENGINES:
        raise OptionError("--engine", " or ".join(ENGINES), engine, "name one of them")
    suits_mnn = device.type == "cpu" and precision in ("fp32", "fast")
    has_mnn = importlib.util.find_spec("MNN") is not None
    if engine == "mnn" and not suits_mnn:
        expected = "--device cpu with --precision fp32 or fast"
        remedy = "leave --engine out"
        raise OptionError("--engine mnn", expected, f"{device.type} with {precision}", remedy)
    if engine == "mnn" and not has_mnn:
        raise UnmetError("--engine mnn", "MNN", "no such package", to_install("mnn"))
    table = normalisation(transform)
    raw = device.type == "cuda"
    eager = eager_run(module, table if raw else None)

    def by_mnn() -> Callable[[], Run]:
        runs = mnn_runs(module, transform.crop, precision)
        trials = _trials(transform.crop, table)
        _check(runs()(trials), eager(trials), "mnn", precision)
        return runs

    def by_torch() -> Callable[[], Run]:
        if raw:
            return cuda_runs(module, precision, device, table)
        run = cpu_run(module, precision)
        return lambda: run

    def by_eager() -> Callable[[], Run]:
        return cuda_runs(module, "fp32", device, table, fold=False) if raw else lambda: eager

    ways = [_Way("torch", by_torch), _Way("eager torch", by_eager, exact=True)]
    if engine == "mnn":
        ways = [_Way("MNN", by_mnn)]
    elif engine == "auto" and suits_mnn and has_mnn and images >= MNN_IMAGES:
        ways.insert(0, _Way("MNN", by_mnn))
    name, new_run = _first_good(ways, eager, precision, report)
    return Engine("mnn" if name == "MNN" else "torch", new_run, raw)


def _first_good(
    ways: Sequence[_Way], eager: Run, precision: str, report: Report
) -> tuple[str, Callable[[], Run]]:
    """The name of the first way that can be had, and what makes runs of whichever is good."""
    lock, made = threading.Lock(), list[tuple[int, Callable[[], Run]]]()  # the last one counts

    def leave(left: int, error: TlcacheError | None) -> None:
        """Come to the way after this one, for every thread."""
        with lock:
            if made and made[-1][0] != left:  # another thread was here before
                return
            for at in range(left + 1, len(ways)):
                if error:
                    better, worse = ways[at].name, ways[at - 1].name
                    report(f"computed by {better}, not {worse}: {strerror(error)}")
                try:
                    made.append((at, ways[at].make()))
                    return
                except OptionError as unable:
                    error = unable
        if error:
            raise error

    def new_run() -> Run:
        at, make = made[-1]
        own, checked = make(), False

        def run(pixels: NDArray[Any]) -> NDArray[np.float32]:
            nonlocal at, own, checked
            while True:
                way = ways[at]
                try:
                    rows = own(pixels)
                    if not (checked or way.exact):
                        few = slice(_CHECKED_ON)
                        _check(rows[few], eager(pixels[few]), way.name.lower(), precision)
                        checked = True
                    if at == made[-1][0]:
                        return rows
                except TlcacheError as error:
                    leave(at, error)
                except Exception as error:  # whatever an engine raises at what it cannot do
                    if way.exact:
                        raise
                    leave(at, _unable(way.name.lower(), error_in_a_line(error)))
                at, make = made[-1]
                own, checked = make(), False

        return run

    leave(-1, None)
    return ways[made[-1][0]].name, new_run


def _check(
    ours: NDArray[np.float32], eager: NDArray[np.float32], engine: str, precision: str
) -> None:
    """Refuses (n, D) features that are not eager torch's as closely as the precision's word says.

    A row that is not finite there is not compared, nor one that half a precision cannot hold: that
    is its image's own fault, and no reason to compute all others more slowly.
    """
    usable = np.isfinite(eager).all(axis=1)
    if precision in ("fp16", "bf16"):
        usable &= np.isfinite(ours).all(axis=1)
    if not usable.any():
        return
    bound, largest = BOUNDS[precision] / 2, np.abs(eager[usable]).max()
    away = np.abs(ours[usable] - eager[usable]).max()
    if not away <= bound * largest:
        expected = f"features within {bound:g} of eager torch's"
        found = f"a difference of {away / (largest or 1):.1e}"
        raise UnmetError(f"--engine {engine}", expected, found, "pass --engine torch")


def _unable(engine: str, found: str) -> UnmetError:
    return UnmetError(f"--engine {engine}", "a network it can run", found, "pass --engine torch")


def _trials(crop: int, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """(8, crop, crop, 3) normalised: plain, noise, little on much; what digits are lost on."""
    random, half = np.random.default_rng(0), crop // 2
    pixels = np.zeros((8, crop, crop, 3), np.uint8)
    pixels[1], pixels[2], pixels[3] = 128, 255, (255, 0, 0)
    for at, (low, high) in enumerate(((0, 256), (0, 26), (230, 256), (0, 256)), 4):
        pixels[at] = random.integers(low, high, (crop, crop, 3))
    pixels[7, : half + half // 2] = 255
    return np.stack([table[c][pixels[..., c]] for c in range(3)], axis=-1)
