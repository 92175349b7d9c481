"""torch on a GPU, on a CPU that stands in for one: its slots, its memory, its streams."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trial_networks import CPU, eager, off, randomised, torchvision_network

from tlcache.core.errors import UnmetError
from tlcache.data.transforms import Transform, normalisation
from tlcache.trunks.engines import BOUNDS
from tlcache.trunks.torch_engine import GPU_SLOTS, cuda_runs

TABLE = normalisation(Transform())


def bytes_of(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def normal(pixels: np.ndarray) -> np.ndarray:
    return np.stack([TABLE[c][pixels[..., c]] for c in range(3)], axis=-1)


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The CPU as a GPU; what was done to its streams."""
    done, empty = list[str](), torch.empty

    @contextlib.contextmanager
    def on(stream: object) -> Iterator[None]:
        done.append("used")
        yield

    def stream(device: torch.device) -> object:
        done.append("made")
        return object()

    def unpinned(*shape: object, pin_memory: bool = False, **how: object) -> Tensor:
        return empty(*shape, **how)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("waited"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(torch, "empty", unpinned)
    return done


class Limited(nn.Module):
    """A network whose images must be few: a GPU's memory. Remembers how many it was given."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes, self.at_once, self.largest = most, list[int](), 0, 0
        self.lock, self.go = threading.Lock(), threading.Event()

    def __deepcopy__(self, memo: object) -> Limited:
        return self

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate much")
        with self.lock:
            self.sizes.append(len(x))
            self.at_once += 1
            self.largest = max(self.largest, self.at_once)
        self.go.wait(10)
        with self.lock:
            self.at_once -= 1
        return x.mean(dim=(2, 3))


def test_what_does_not_fit_is_halved_and_so_is_all_that_comes_after(order: list[str]) -> None:
    network, pixels = Limited(5), bytes_of(17)
    network.go.set()
    new_run = cuda_runs(network, "fp32", CPU, TABLE, fold=False)
    rows = new_run()(pixels)
    np.testing.assert_allclose(rows, normal(pixels).mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
    assert network.sizes == [4, 4, 4, 4, 1] and order.count("emptied") == 2
    network.sizes.clear()
    new_run()(pixels[:9])
    assert network.sizes == [4, 4, 1], "another thread's batches, too"


def test_one_crop_that_does_not_fit_is_an_error_in_a_line(order: list[str]) -> None:
    run = cuda_runs(Limited(0), "fp32", CPU, TABLE, fold=False)()
    with pytest.raises(UnmetError) as refused:
        run(bytes_of(3))
    assert str(refused.value) == (
        "--device cpu: expected memory, found too little for one crop (OutOfMemoryError: CUDA out "
        "of memory.); end what else uses it, or pass --device cpu"
    )


def test_no_more_batches_are_on_a_gpu_than_it_has_slots_whatever_the_threads(
    order: list[str],
) -> None:
    network, pixels = Limited(8), bytes_of(2)
    new_run = cuda_runs(network, "fp32", CPU, TABLE, fold=False)
    assert order == ["made"] * GPU_SLOTS + ["waited"], "no stream overtakes the weights"
    threads = [threading.Thread(target=new_run(), args=(pixels,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    while network.at_once < GPU_SLOTS:
        threads[0].join(0.01)
    network.go.set()
    for thread in threads:
        thread.join()
    assert len(network.sizes) == 12 and network.largest == GPU_SLOTS


@pytest.mark.parametrize("fold", [True, False])
def test_bytes_become_the_features_of_normalised_pixels(order: list[str], fold: bool) -> None:
    module, pixels = randomised(torchvision_network("resnet18")), bytes_of(3, 64)
    run = cuda_runs(module, "fp32", CPU, TABLE, fold)()
    expected = eager(module, normal(pixels))
    for part in (pixels, pixels[:2], pixels):  # buffers are used again
        assert off(run(part), expected[: len(part)]) <= BOUNDS["fp32"] / 2
