"""A trunk made fast: what computes its features, to how many digits.

Precision is a word of the identity; the engine is not: whichever computes a feature, it is within
the word's bound of torch's eager fp32. torch is always there, with its batch norms folded into the
convolutions; MNN (extra ``mnn``) is faster on a CPU. Covers no images and no batches of them
(``forward_pass``).
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.errors import OptionError

if TYPE_CHECKING:
    import torch

BOUNDS = {"fp32": 5e-6, "fast": 5e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Each precision, and how far its features may be from torch's eager fp32: the largest difference
over the largest feature of a batch. Other images in a batch move a feature by less than half of it,
as another order of additions does; the same batch gives the same bits in any thread."""
ENGINES = ("auto", "torch", "mnn")

MNN_IMAGES = 1000
"""From how many images on ``auto`` takes MNN: converting a network takes it some seconds."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(n, H, W, 3) pixels, normalised, to (n, D) features."""

_MNN_BATCH = 8
# Not MNN.tools.mnnconvert: that installs a package by pip and reports each conversion to a server.
_CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
_MNN_WINOGRAD_LEVEL = 3  # a session's hint; at 1 its transforms keep fp32's digits


@dataclasses.dataclass(frozen=True)
class Engine:
    """What computes features.

    Attributes:
        name: ``torch`` or ``mnn``.
        new_run: Makes a function that one thread may call; every thread needs its own. To be
            called before there are threads.
    """

    name: str
    new_run: Callable[[], Run]


def make_engine(
    module: torch.nn.Module,
    crop: int,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    device: torch.device,
    images: int = 0,
) -> Engine:
    """The engine that is asked for, or for ``auto`` the fastest one that is there.

    Args:
        module: Takes (N, 3, crop, crop) float32 to (N, D), in eval mode. It is left as it is.
        engine: One of ``ENGINES``.
        precision: One of ``BOUNDS``.
        images: How many are to come: for a few, a fast engine takes longer to set up than it saves.

    Raises:
        OptionError: If it is not installed, cannot compute in this precision on this device or
            cannot take this network, or if it misses the precision's bound on this machine.
    """
    if engine not in ENGINES:
        raise _wrong("--engine", " or ".join(ENGINES), engine, "name one of them")
    suits_mnn = device.type == "cpu" and precision in ("fp32", "fast")
    if engine == "auto" and suits_mnn and images >= MNN_IMAGES and _installed("MNN"):
        with contextlib.suppress(OptionError):  # what MNN cannot do well, torch does
            return _checked(_mnn_engine(module, crop, precision), module, crop, precision)
    if engine in ("auto", "torch"):
        return _torch_engine(module, precision, device)
    if not suits_mnn:
        raise _wrong(
            "--engine mnn",
            "--device cpu with --precision fp32 or fast",
            f"{device.type} with {precision}",
            "leave --engine out",
        )
    if not _installed("MNN"):
        raise _wrong("--engine mnn", "MNN", "no such package", "pip install 'tlcache[mnn]'")
    return _checked(_mnn_engine(module, crop, precision), module, crop, precision)


def folded(module: torch.nn.Module) -> torch.nn.Module:
    """A copy with each batch norm folded into the convolution before it, where that can be seen.

    A network that torch.fx cannot trace is copied as it is: it computes the same, only slower.
    """
    import torch

    module = copy.deepcopy(module)
    try:
        graph = torch.fx.symbolic_trace(module)
    except Exception:  # whatever a network's own code does with a stand-in for its input
        return module
    parts = dict(graph.named_modules())
    calls = collections.Counter(n.target for n in graph.graph.nodes if n.op == "call_module")
    for node in list(graph.graph.nodes):
        before = node.all_input_nodes[0] if node.all_input_nodes else node
        if not all(n.op == "call_module" for n in (before, node)):
            continue
        convolution, norm = parts[before.target], parts[node.target]
        alone = calls[before.target] == 1 and len(before.users) == 1
        if alone and _can_fold(convolution, norm):
            _put(graph, before.target, _fused(convolution, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _can_fold(convolution: Any, norm: Any) -> bool:
    import torch

    # A hook may make the weights anew before each call (weight_norm does).
    hooked = convolution._forward_pre_hooks or convolution._forward_hooks or norm._forward_hooks
    plain = type(convolution) is torch.nn.Conv2d and type(norm) is torch.nn.BatchNorm2d
    return plain and norm.running_mean is not None and not hooked


def _fused(convolution: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.nn.Conv2d:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    # In float64: rounded once, the folded weights are as good as those that they come from.
    exact = copy.deepcopy(convolution).double(), copy.deepcopy(norm).double()
    return fuse_conv_bn_eval(*exact).to(dtype=convolution.weight.dtype)


def _put(module: torch.nn.Module, name: str, part: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, part)


def _torch_engine(module: torch.nn.Module, precision: str, device: torch.device) -> Engine:
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = kinds.get(precision, torch.float32)
    network = folded(module).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(inputs: torch.Tensor) -> NDArray[np.float32]:
        channels_first = inputs.permute(0, 3, 1, 2)  # for torch; in memory they stay last
        moved = channels_first.to(device, dtype, non_blocking=True)
        features: NDArray[np.float32] = network(moved).float().cpu().numpy()
        return features

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return compute(torch.from_numpy(pixels))

    def new_cuda_run() -> Run:
        # A stream for each thread: one's copies overlap with another's computing.
        stream = torch.cuda.Stream(device)

        def run_on_stream(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.inference_mode(), torch.cuda.stream(stream):
                return compute(torch.from_numpy(pixels).pin_memory())

        return run_on_stream

    return Engine("torch", new_cuda_run if device.type == "cuda" else lambda: run)


def _mnn_engine(module: torch.nn.Module, crop: int, precision: str) -> Engine:
    with tempfile.TemporaryDirectory() as folder:
        model = _converted(module, crop, Path(folder)).read_bytes()

    def new_run() -> Run:
        with _silence(), tempfile.TemporaryDirectory() as folder:
            import MNN

            file = Path(folder) / "trunk.mnn"
            file.write_bytes(model)
            interpreter = MNN.Interpreter(str(file))
            if precision == "fp32":
                interpreter.setSessionHint(_MNN_WINOGRAD_LEVEL, 1)
            session = interpreter.createSession(
                {"backend": "CPU", "numThread": 1, "precision": "high"}
            )

        def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            parts = range(0, len(pixels), _MNN_BATCH)
            rows = [_mnn_batch(interpreter, session, pixels[at : at + _MNN_BATCH]) for at in parts]
            return np.concatenate(rows)

        return run

    return Engine("mnn", new_run)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on the process's stdout, where a program may be reading JSON.

    MNN greets there, and torch's exporter prints what it cannot express, both past Python's stdout.
    """
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _mnn_batch(interpreter: Any, session: Any, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    import MNN

    full = np.zeros((_MNN_BATCH, *pixels.shape[1:]), np.float32)
    full[: len(pixels)] = pixels
    kind, last = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Tensorflow
    interpreter.getSessionInput(session).copyFrom(MNN.Tensor(full.shape, kind, full, last))
    interpreter.runSession(session)
    output = interpreter.getSessionOutput(session)
    rows = np.empty(output.getShape(), np.float32)
    target = MNN.Tensor(rows.shape, kind, rows, MNN.Tensor_DimensionType_Caffe)
    output.copyToHostTensor(target)
    features = np.array(target.getNumpyData(), np.float32)
    return features.reshape(_MNN_BATCH, -1)[: len(pixels)]


def _converted(module: torch.nn.Module, crop: int, folder: Path) -> Path:
    """The network as a file of MNN's.

    Raises:
        OptionError: If it cannot be converted.
    """
    import torch

    onnx, mnn = folder / "trunk.onnx", folder / "trunk.mnn"
    example = torch.zeros(_MNN_BATCH, 3, crop, crop)
    try:
        with _silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the older exporter, which needs no more packages
            torch.onnx.export(folded(module), (example,), str(onnx), opset_version=17, dynamo=False)
        command = [sys.executable, "-c", _CONVERT, "-f", "ONNX", "--bizCode", "MNN"]
        command += ["--modelFile", str(onnx), "--MNNModel", str(mnn)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stderr or done.stdout)[-200:] or f"exit code {done.returncode}"
        failed = "" if done.returncode == 0 and mnn.is_file() else said
    except Exception as error:  # whatever the exporter cannot express
        failed = f"{type(error).__name__}: {error}"
    if failed:
        found = f"one that cannot be converted ({' '.join(failed.split())[:200]})"
        raise _wrong("--engine mnn", "a network that MNN takes", found, "pass --engine torch")
    return mnn


def _checked(engine: Engine, module: torch.nn.Module, crop: int, precision: str) -> Engine:
    """The engine, if it keeps the precision's bound on noise, on this very machine."""
    import torch

    random = np.random.default_rng(0)
    pixels = random.standard_normal((_MNN_BATCH, crop, crop, 3), np.float32)
    with torch.inference_mode():
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        expected = module(inputs).numpy()
    off = float(np.abs(engine.new_run()(pixels) - expected).max() / np.abs(expected).max())
    if not off <= BOUNDS[precision]:
        raise _wrong(
            f"--engine {engine.name}",
            f"features within {BOUNDS[precision]:g} of torch's",
            f"a difference of {off:.1e}",
            "pass --engine torch",
        )
    return engine


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _wrong(where: str, expected: str, found: str, remedy: str) -> OptionError:
    return OptionError(where, expected=expected, found=found, remedy=remedy)
