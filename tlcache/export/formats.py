"""Formats that a network can leave tlcache in: each a way to write it and a way to run the file.

A file is run by the format's own library, not by tlcache's network. Covers no judging of what it
computes (``export``).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlcache.core.errors import UnmetError, to_install
from tlcache.core.machine import usable_cpus

INPUT, OUTPUT = "images", "probabilities"
METADATA = ("classes", "tlcache")

Metadata = dict[str, str]
"""A JSON text for each name of ``METADATA``; it goes into the file."""
Network = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Images to (N, C) probabilities, computed by what is in a file."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files that hold networks.

    Attributes:
        packages: That it needs, beyond tlcache's own.
        write: Writes a network, traced on an example of its input whose dimensions ``dynamic``
            are free, with its metadata.
        read: The network of a file, ready to run, and the file's metadata.
    """

    packages: tuple[str, ...]
    write: Callable[[Path, nn.Module, Tensor, dict[int, str], Metadata], None]
    read: Callable[[Path], tuple[Network, Metadata]]


def check_installed(name: str) -> None:
    """Refuse a format whose packages are not there.

    Raises:
        OptionError: If one is not.
    """
    packages = FORMATS[name].packages
    if missing := [package for package in packages if not importlib.util.find_spec(package)]:
        raise UnmetError(
            f"--format {name}",
            expected=" and ".join(packages),
            found=f"no {' and no '.join(missing)}",
            remedy=to_install("export"),
        )


def _write_onnx(
    path: Path, network: nn.Module, example: Tensor, dynamic: dict[int, str], metadata: Metadata
) -> None:
    import onnx

    export = functools.partial(
        torch.onnx.export,
        network,
        (example,),
        str(path),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=18,
    )
    shapes, names = _free(dynamic), {INPUT: dynamic, OUTPUT: {0: dynamic[0]}}
    try:
        export(dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    except Exception as error:  # the older exporter follows some code that this one does not
        try:
            export(dynamo=False, dynamic_axes=names)
        except Exception:
            raise error from None
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _read_onnx(path: Path) -> tuple[Network, Metadata]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return lambda images: session.run([OUTPUT], {INPUT: images})[0], metadata


def _write_torchscript(
    path: Path, network: nn.Module, example: Tensor, dynamic: dict[int, str], metadata: Metadata
) -> None:
    # Its check runs the network once more; `export` runs the file itself.
    traced = torch.jit.trace(network, example, check_trace=False)
    torch.jit.save(traced, path, _extra_files=metadata)


def _read_torchscript(path: Path) -> tuple[Network, Metadata]:
    metadata: dict[str, Any] = dict.fromkeys(METADATA, "")
    network = torch.jit.load(path, map_location="cpu", _extra_files=metadata)
    return _run_by_torch(network), _texts(metadata)


def _write_pt2(
    path: Path, network: nn.Module, example: Tensor, dynamic: dict[int, str], metadata: Metadata
) -> None:
    shapes = _free(dynamic)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    # From torch 2.7 on, what converts a tensor asserts that it is where the example was.
    for node in list(program.graph.nodes):
        if str(node.target).startswith("aten._assert_tensor_metadata"):
            program.graph.erase_node(node)
    program.graph_module.recompile()
    torch.export.save(program, path, extra_files=metadata)


def _read_pt2(path: Path) -> tuple[Network, Metadata]:
    metadata: dict[str, Any] = dict.fromkeys(METADATA, "")
    program = torch.export.load(path, extra_files=metadata)
    return _run_by_torch(program.module()), _texts(metadata)


def _free(dynamic: dict[int, str]) -> tuple[dict[int, Any]]:
    return ({at: torch.export.Dim(name) for at, name in dynamic.items()},)


def _texts(metadata: dict[str, Any]) -> Metadata:
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in metadata.items()}


def _run_by_torch(network: Callable[[Tensor], Tensor]) -> Network:
    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
        return probabilities

    return run


FORMATS = {
    "onnx": Format(("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "torchscript": Format((), _write_torchscript, _read_torchscript),
    "pt2": Format((), _write_pt2, _read_pt2),
}
