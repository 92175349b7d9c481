"""The machine and what is installed on it: devices, cores, memory, versions of libraries.

And what its threads share: settings that several hold, values that one of them makes. Covers no
computing. Torch and Pillow are imported only when something of theirs is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tlcache.core.errors import OptionError, UnmetError

if TYPE_CHECKING:
    import torch
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")

WORDS = "auto, cpu, cuda or cuda:N"


@dataclasses.dataclass(frozen=True)
class Compute:
    """Where a network runs, and with how much; none of it changes what is computed.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, for :func:`resolve_device`.
        engine: What computes: ``auto``, ``torch`` or ``mnn``.
        workers: Threads that read images; None for :func:`thread_count`.
        batch_size: Images that go through the network at once; None for :func:`batch_size_for`.
    """

    device: str = "auto"
    engine: str = "auto"
    workers: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuses numbers that are none of threads or images, with ``OptionError``."""
        for option, number in (("--workers", self.workers), ("--batch-size", self.batch_size)):
            if number is not None and number <= 0:
                expected = "a whole number over 0"
                raise OptionError(option, expected, str(number), "leave it out for what suits")


def resolve_device(word: str) -> torch.device:
    """The device that ``--device`` names; a GPU always with its number.

    Args:
        word: ``auto`` (the current GPU if there is one, else the CPU), ``cpu``, ``cuda`` (the
            current GPU) or ``cuda:N``.

    Raises:
        OptionError: If it is another word, or a GPU that is not there.
    """
    import torch

    option = f"--device {word}"
    if word not in ("auto", "cpu") and not re.fullmatch(r"cuda(:[0-9]{1,3})?", word):
        raise OptionError(option, WORDS, "another word", f"choose among {WORDS}")
    if word == "cpu" or (word == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        remedy = "pass --device cpu, or install a torch built for CUDA and its driver"
        found = f"none that torch {torch.__version__} can use"
        raise UnmetError(option, "a CUDA GPU", found, remedy)
    number = int(word[5:]) if ":" in word else torch.cuda.current_device()
    if number >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        remedy = f"pass --device {there}"
        raise UnmetError(option, f"one of {count} GPUs", "a higher number", remedy)
    return torch.device("cuda", number)


def usable_cpus() -> int:
    """Logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(device: torch.device) -> int:
    """Threads of the pass: one a core, and on a GPU a few more, since some always wait for it."""
    cores = usable_cpus()
    return cores if device.type == "cpu" else cores + max(1, cores // 4)


def physical_memory() -> int:
    """Bytes of this machine's memory; where that is not told, more than any array needs."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def batch_size_for(device: torch.device, crop: int | None = None) -> int:
    """Images at once where nothing else decides; on a CPU, more do not fit its caches.

    On a GPU 128; of crops of this side no more than a sixth of its free memory holds, as three
    batches are there at once, and a network may take 200 bytes a pixel (EfficientNet-B7 does).
    """
    if device.type == "cpu" or crop is None:
        return 8 if device.type == "cpu" else 128
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(min(128, max(1, free // 6 // (200 * crop**2))))


def library_versions(trunk: str) -> tuple[tuple[str, str], ...]:
    """Versions of what decodes the images and computes the features of a trunk, sorted by name."""
    from PIL import features

    packages = ["torch", "torchvision", "pillow"]
    if trunk.startswith("timm/") or trunk == "efficientnet_lite0":
        packages.append("timm")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["libjpeg-turbo"] = features.version("libjpeg_turbo") or "none"
    # Beside it, the decoders of lossy images: what pixels they make is their own choice.
    for name, codec in (("libavif", "avif"), ("libwebp", "webp"), ("openjpeg", "jpg_2000")):
        if version := features.version(codec):
            versions[name] = version
    return tuple(sorted(versions.items()))


def describe_machine(trunk: str) -> dict[str, Any]:
    """Versions and machine, as plain JSON values."""
    try:
        versions = dict(library_versions(trunk))
    except importlib.metadata.PackageNotFoundError:
        # Heads train on copied features where the package of their trunk is not installed.
        versions = dict(library_versions(""))
    return {
        "versions": versions | {"python": platform.python_version()},
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
    }


def place_of(folder: Path) -> str:
    """16 hex digits for a folder: those of the same path on the same file system and machine.

    ``/data`` is another folder on another machine, and in every container another may be mounted
    there. What is in the folder, and whether it was made anew, does not matter.
    """
    root, source, inside = _mount_of(os.path.abspath(folder))  # noqa: PTH100 -- follows no link
    try:
        file_system = str(os.statvfs(folder).f_fsid or source)
    except (AttributeError, OSError):  # Windows; a folder that is gone
        file_system = source
    parts = "\0".join((platform.node(), file_system, root, inside))
    machine = _said_by("/etc/machine-id")
    return hashlib.sha256(os.fsencode(parts) + b"\0" + machine).hexdigest()[:16]


def _mount_of(path: str) -> tuple[str, str, str]:
    """What is mounted where a path leads through: folder and source; and the rest of the path.

    Nothing is known of that but on Linux, where each may be mounted anywhere.
    """
    for character in "\\ \t\n":  # as the system writes them there
        path = path.replace(character, f"\\{ord(character):03o}")
    found = "", "", path
    for line in os.fsdecode(_said_by("/proc/self/mountinfo")).split("\n")[:-1]:
        fields = line.split(" ")
        root, point, source = fields[3], fields[4].rstrip("/"), fields[fields.index("-") + 2]
        if f"{path}/".startswith(f"{point}/") and len(path) - len(point) <= len(found[2]):
            found = root, source, path[len(point) :]
    return found


def _said_by(file: str) -> bytes:
    """What a file of the system says; nothing where there is none."""
    with contextlib.suppress(OSError):
        return Path(file).read_bytes()
    return b""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


_holders: dict[str, tuple[int, Callable[[], object]]] = {}
_holding = threading.RLock()


@contextlib.contextmanager
def held(name: str, force: Callable[[], Callable[[], object]]) -> Iterator[None]:
    """A setting of the whole process, forced for as long as any thread holds it.

    Args:
        name: Of the setting.
        force: Sets it, for the first that holds it, and returns what puts back what was there,
            which the last one calls: each on its own, they would put back one another's.
    """
    with _holding:
        count, undo = _holders[name] if name in _holders else (0, force())
        _holders[name] = count + 1, undo
    try:
        yield
    finally:
        with _holding:
            count, undo = _holders.pop(name)
            if count > 1:
                _holders[name] = count - 1, undo
            else:
                undo()


def once(make: Callable[[], T]) -> functools._lru_cache_wrapper[T]:
    """``functools.cache``, but threads that call it at once wait for the one that is making."""
    lock, made = threading.RLock(), functools.cache(make)

    @functools.wraps(made)
    def get() -> T:
        with lock:
            return made()

    get.cache_clear = made.cache_clear  # type: ignore[attr-defined]
    return get  # type: ignore[return-value]


_THREADED_FLOPS = 1 << 30
"""Of one product, from which on it pays a BLAS to share it out: its threads wait for each other, on
cores that other work shares for a slice of time, and a small product takes many times as long."""


def blas_for(flops: float) -> contextlib.AbstractContextManager[object]:
    """One thread of numpy's BLAS, where products take few operations each; else as many as it has.

    Other threads' products are made by one thread too while this one's are.
    """
    return (
        contextlib.nullcontext()
        if flops >= _THREADED_FLOPS
        else held("threads of the BLAS", _one_blas_thread)
    )


def _one_blas_thread() -> Callable[[], None]:
    return _blas().limit(limits=1).restore_original_limits


@functools.cache
def _blas() -> ThreadpoolController:
    """What is loaded when this is first asked for, numpy's too; a search takes a millisecond."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def exact_arithmetic() -> contextlib.AbstractContextManager[None]:
    """fp32 that is fp32, for the whole process: no TF32 on a GPU, no bfloat16 in a CPU's products.

    Whatever the process has set, by torch's old words or its new ones, comes back afterwards, with
    the number of torch's threads. Until then newer torches refuse to tell the old words.
    """
    return held("torch's arithmetic", _force_exact)


def _force_exact() -> Callable[[], None]:
    import torch

    back = contextlib.ExitStack()
    backends: Any = torch.backends  # what it has depends on torch's version
    back.callback(torch.set_num_threads, torch.get_num_threads())
    if not hasattr(backends, "fp32_precision"):  # before torch 2.9
        back.callback(setattr, backends.cudnn, "allow_tf32", backends.cudnn.allow_tf32)
        back.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        return back.close
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    # What is unset follows what is above it: set from above, it stays unset.
    above = backends, cudnn, mkldnn
    below = backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn
    for place in (*above, *below):
        if (before := place.fp32_precision) != "ieee":
            back.callback(setattr, place, "fp32_precision", before)
            setattr(place, "fp32_precision", "ieee")  # noqa: B010
    return back.close


def silent_stdout() -> contextlib.AbstractContextManager[None]:
    """Nothing on the process's stdout, where a program may be reading JSON.

    MNN greets there, and torch's exporter prints what it cannot express, both past Python's stdout.
    """
    return held("stdout", _to_nowhere)


def _to_nowhere() -> Callable[[], object]:
    try:
        sys.stdout.flush()
        stdout = os.dup(1)
    except (AttributeError, ValueError, OSError):  # closed: nobody reads it
        return lambda: None
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)

    def back() -> None:
        os.dup2(stdout, 1)
        os.close(stdout)

    return back
