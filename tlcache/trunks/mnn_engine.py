"""MNN (extra ``mnn``) as what computes a trunk's features on a CPU: faster than torch there.

Covers no choosing and no check of its digits (``engines``).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import UnmetError
from tlcache.core.machine import silent_stdout
from tlcache.trunks.torch_engine import Run, folded

if TYPE_CHECKING:
    import torch

_BATCH = 8
# Not MNN.tools.mnnconvert: that installs a package by pip and reports each conversion to a server.
_CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
_WINOGRAD_LEVEL = 3  # a session's hint; at 1 its transforms keep fp32's digits

Array = NDArray[np.float32]


def mnn_runs(module: torch.nn.Module, crop: int, precision: str) -> Callable[[], Run]:
    """Makes functions that take (n, crop, crop, 3) normalised pixels to (n, D) features.

    Args:
        precision: ``fp32`` or ``fast``.

    Raises:
        UnmetError: If MNN does not take this network.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = _converted(module, crop, Path(folder)).read_bytes()

    def new_run() -> Run:
        with silent_stdout(), tempfile.TemporaryDirectory() as folder:
            import MNN

            file = Path(folder) / "trunk.mnn"
            file.write_bytes(model)
            interpreter = MNN.Interpreter(str(file))
            if precision == "fp32":
                interpreter.setSessionHint(_WINOGRAD_LEVEL, 1)
            session = interpreter.createSession(
                {"backend": "CPU", "numThread": 1, "precision": "high"}
            )

        def run(pixels: Array) -> Array:
            parts = range(0, len(pixels), _BATCH)
            rows = [_batch(interpreter, session, pixels[at : at + _BATCH]) for at in parts]
            return np.concatenate(rows)

        return run

    return new_run


def _batch(interpreter: Any, session: Any, pixels: Array) -> Array:
    import MNN

    full = np.zeros((_BATCH, *pixels.shape[1:]), np.float32)
    full[: len(pixels)] = pixels
    kind, last = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Tensorflow
    interpreter.getSessionInput(session).copyFrom(MNN.Tensor(full.shape, kind, full, last))
    if code := interpreter.runSession(session):
        raise RuntimeError(f"MNN's error {code}")
    output = interpreter.getSessionOutput(session)
    rows = np.empty(output.getShape(), np.float32)
    target = MNN.Tensor(rows.shape, kind, rows, MNN.Tensor_DimensionType_Caffe)
    output.copyToHostTensor(target)
    features = np.array(target.getNumpyData(), np.float32)
    return features.reshape(_BATCH, -1)[: len(pixels)]


def _converted(module: torch.nn.Module, crop: int, folder: Path) -> Path:
    """The network as a file of MNN's."""
    import torch

    graph = folded(module)
    if not isinstance(graph, torch.fx.GraphModule):
        # The exporter would keep the one branch that its example takes.
        raise _unfit("one that torch.fx cannot trace: it may branch on what is in an image")
    onnx, mnn = folder / "trunk.onnx", folder / "trunk.mnn"
    example = torch.zeros(_BATCH, 3, crop, crop)
    try:
        with silent_stdout(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the older exporter, which needs no more packages
            torch.onnx.export(graph, (example,), str(onnx), opset_version=17, dynamo=False)
        command = [sys.executable, "-c", _CONVERT, "-f", "ONNX", "--bizCode", "MNN"]
        command += ["--modelFile", str(onnx), "--MNNModel", str(mnn)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stderr or done.stdout)[-200:] or f"exit code {done.returncode}"
        failed = "" if done.returncode == 0 and mnn.is_file() else said
    except Exception as error:  # whatever the exporter cannot express
        failed = f"{type(error).__name__}: {error}"
    if failed:
        raise _unfit(f"one that cannot be converted ({' '.join(failed.split())[:200]})")
    return mnn


def _unfit(found: str) -> UnmetError:
    return UnmetError("--engine mnn", "a network that MNN takes", found, "pass --engine torch")
