from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tlcache.core import machine as devices
from tlcache.core.errors import OptionError
from tlcache.core.machine import (
    batch_size_for,
    blas_for,
    held,
    once,
    place_of,
    resolve_device,
    thread_count,
    usable_cpus,
)


def _pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: count - 1)


def test_tests_that_are_not_marked_gpu_see_none() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert resolve_device("auto") == torch.device("cpu")


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_gpus(monkeypatch, 0)
    assert resolve_device("auto") == torch.device("cpu")


def test_with_gpus_auto_and_cuda_are_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_gpus(monkeypatch, 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("word", ["cuda", "cuda:0"])
def test_asking_for_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    _pretend_gpus(monkeypatch, 0)
    with pytest.raises(OptionError) as raised:
        resolve_device(word)
    assert str(raised.value) == (
        f"--device {word}: expected a CUDA GPU, found none that torch {torch.__version__} can use; "
        "pass --device cpu, or install a torch built for CUDA and its driver"
    )


@pytest.mark.parametrize(("count", "there"), [(1, "cuda:0"), (2, "cuda:0 to cuda:1")])
def test_a_gpu_number_beyond_the_last_is_refused(
    monkeypatch: pytest.MonkeyPatch, count: int, there: str
) -> None:
    _pretend_gpus(monkeypatch, count)
    with pytest.raises(OptionError, match=rf"found a higher number; pass --device {there}$"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("word", ["gpu", "", "cuda:", "cuda:x", "CPU", "mps", "cuda:-1"])
def test_another_word_is_refused(word: str) -> None:
    with pytest.raises(OptionError) as raised:
        resolve_device(word)
    assert str(raised.value) == (
        f"--device {word}: expected auto, cpu, cuda or cuda:N, found another word; "
        "choose among auto, cpu, cuda or cuda:N"
    )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_usable_cpus_are_those_the_process_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cpus() == len(allowed)


def test_a_gpu_takes_more_images_at_once_than_a_cpu() -> None:
    assert batch_size_for(torch.device("cpu"), 600) == batch_size_for(torch.device("cpu"))
    assert batch_size_for(torch.device("cpu")) < batch_size_for(torch.device("cuda", 0))


def test_a_gpu_has_a_few_more_threads_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 2), (2, 3), (16, 20)):
        monkeypatch.setattr(devices, "usable_cpus", lambda cores=cores: cores)
        assert thread_count(torch.device("cpu")) == cores
        assert thread_count(torch.device("cuda", 0)) == threads


def test_the_last_that_holds_a_setting_puts_back_what_the_first_found() -> None:
    value = ["found"]

    def force() -> Callable[[], object]:
        before, value[0] = value[0], "forced"
        return lambda: value.__setitem__(0, before)

    first, second = held("a test's", force), held("a test's", force)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert value == ["forced"]
    second.__exit__(None, None, None)
    assert value == ["found"]
    with pytest.raises(KeyboardInterrupt), held("a test's", force):
        assert value == ["forced"]
        raise KeyboardInterrupt
    assert value == ["found"]


def test_what_threads_ask_for_at_once_is_made_once() -> None:
    made, asked, all_ask = list[int](), list[int](), threading.Event()

    @once
    def slow() -> object:
        made.append(threading.get_ident())
        all_ask.wait(10)
        return object()

    got = list[object]()

    def ask() -> None:
        asked.append(1)
        if len(asked) == 8:
            all_ask.set()
        got.append(slow())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(got) == 8 and len(set(map(id, got))) == 1
    slow.cache_clear()
    assert slow() is not got[0]


def test_a_blas_has_one_thread_for_small_products_and_its_own_number_for_large_ones() -> None:
    blas = devices._blas()

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in blas.info()}

    if not threads():
        pytest.skip("numpy's BLAS here is none whose threads can be limited")
    with blas.limit(limits=3):
        with blas_for(2**29):
            assert threads() == {1}
            with blas_for(10):
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {3}
        with blas_for(2**30):
            assert threads() == {3}


@pytest.mark.parametrize(
    ("gigabytes", "crop", "size"), [(80, 224, 128), (80, 600, 128), (8, 600, 18), (0.1, 600, 1)]
)
def test_on_a_gpu_a_batch_is_what_its_free_memory_holds(
    gigabytes: float, crop: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = int(gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert batch_size_for(torch.device("cuda", 0), crop) == size


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:1 /home/{user}/photos /data rw,relatime - ext4 /dev/sda1 rw
31 22 0:50 / /data/set\\040one rw - nfs4 server:/export rw
"""


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Where /data and its folders lie, and on which machine."""

    def mount(user: str = "me", node: str = "one", machine: str = "1" * 32) -> None:
        files = {"/proc/self/mountinfo": MOUNTS.format(user=user), "/etc/machine-id": machine}
        monkeypatch.setattr(devices, "_said_by", lambda file: files[file].encode())
        monkeypatch.setattr("platform.node", lambda: node)

    return mount


def test_a_place_stays_whatever_is_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    place = place_of(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "before")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").touch()
    assert place_of(tmp_path / "data") == place and re.fullmatch("[0-9a-f]{16}", place)
    assert place_of(tmp_path / "data2") != place


def test_a_place_is_another_on_another_machine_and_where_something_else_is_mounted(
    mounted: Callable[..., None],
) -> None:
    places = []
    for other in ({}, {"user": "you"}, {"node": "two"}, {"machine": "2" * 32}):
        mounted(**other)
        places.append(place_of(Path("/data")))
    assert len(set(places)) == 4
    mounted()
    assert place_of(Path("/data")) == places[0]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/data/set one/train", ("/", "server:/export", "/train")),
        ("/data/set", ("/home/me/photos", "/dev/sda1", "/set")),
        ("/data2", ("/", "/dev/sda1", "/data2")),
        ("/", ("/", "/dev/sda1", "/")),
    ],
)
def test_a_path_leads_through_the_innermost_of_what_is_mounted(
    path: str, found: tuple[str, str, str], mounted: Callable[..., None]
) -> None:
    mounted()
    assert devices._mount_of(path) == found


def test_where_nothing_is_told_of_mounts_the_path_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_said_by", lambda file: b"")
    assert devices._mount_of("/data") == ("", "", "/data")
    assert place_of(Path("/data")) != place_of(Path("/data2"))
