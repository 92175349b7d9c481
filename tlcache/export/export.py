"""Models as files that run without tlcache: written, run on images, and kept only if they agree.

Covers no format (``formats``) and no choice of images (``trials``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import ModelError, OptionError, UnmetError, error_in_a_line, faults_as
from tlcache.core.files import StrPath, as_path, as_paths, write_atomically
from tlcache.core.machine import silent_stdout
from tlcache.evaluation.metrics import softmax
from tlcache.export.trials import BATCHES, largest_difference, trials_of, usable_pixels
from tlcache.heads.model import Model, load_model, save_model
from tlcache.networks.scoring import load_network
from tlcache.trunks.info import as_weights

if TYPE_CHECKING:
    import torch

    from tlcache.export.formats import Metadata, Network

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2", "safetensors": ".safetensors"}
"""Of the files of each format."""
BOUND = 1e-4
"""How far a probability may be from tlcache's own."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written and agreed.

    Attributes:
        file: Its path.
        format: Of it.
        size: In bytes.
        images: How many it was run on.
        difference: The largest between one of its probabilities and tlcache's own.
        contract: What goes in and what comes out, as plain JSON values.
    """

    file: Path
    format: str
    size: int
    images: int
    difference: float
    contract: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """What programs may rely on, as plain JSON values."""
        return {
            "file": str(self.file),
            "format": self.format,
            "bytes": self.size,
            "images": self.images,
            "batch_sizes": list(BATCHES),
            "largest_difference": self.difference,
            "bound": BOUND,
            **self.contract,
        }


def export_model(
    model: Model,
    output: StrPath,
    format: str = "onnx",
    *,
    images: Sequence[StrPath],
    preprocess: bool = False,
    weights: StrPath | None = None,
    memo: StrPath | None = None,
    force: bool = False,
) -> Exported:
    """Write a model as a file that runs without tlcache: trunk, head and softmax.

    The file is run on images, in batches of 1 and of 8, before it gets its name; where its
    probabilities are not tlcache's own (of ``fp32``, on the CPU) there is no file.

    Args:
        output: The file.
        format: ``onnx``, ``torchscript``, ``pt2`` (torch.export), or ``safetensors``: the numbers
            alone, a model file with its network.
        images: Files to run it on; those that cannot be read are left out.
        preprocess: The file takes (N, H, W, 3) uint8 RGB of any size, and resizes, crops and
            normalises it; without, (N, 3, crop, crop) float32 for which that was done.
        weights: Where a frozen trunk's weights are, if not where they were at training.
        memo: Folder of the memo of digested weights.
        force: Replace a file that is there.

    Raises:
        OptionError: If the format or its packages cannot be had, the file cannot be written or is
            there, or the format cannot express the network.
        ModelError: If the weights are not the model's, or the file's probabilities differ.
        DataError: If no image can be read.
    """
    output, memo = as_path("output", output), None if memo is None else as_path("memo", memo)
    weights = None if weights is None else as_weights(weights)
    check_export(format, preprocess)
    _check_output(output, force)
    pixels = usable_pixels(as_paths("images", images), preprocess)
    network = load_network(model, weights, memo)
    trials = list(trials_of(model, network, pixels, preprocess))
    contract = _contract(model, preprocess)
    where, remedy = f"--output {output}", "name a file in another folder"
    with faults_as(UnmetError, where, "a folder that can be written", remedy):
        beside = tempfile.TemporaryDirectory(prefix=".tlcache-", dir=output.absolute().parent)
    with beside as folder:
        temporary = Path(folder, f"model{SUFFIXES[format]}")
        metadata = {
            "classes": json.dumps(model.classes),
            "tlcache": json.dumps(model.describe() | contract, sort_keys=True),
        }
        # No exporter's greetings, hints and warnings of what is out of date.
        with _in_words(format), silent_stdout(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if format == "safetensors":
                state = {
                    name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()
                }
                save_model(temporary, dataclasses.replace(model, network=state))
                run = _run_of(temporary)
            else:
                run = _written(temporary, format, model, network, preprocess, metadata)
            difference = largest_difference(run, trials)
        if not difference <= BOUND:  # NaN is no agreement either
            raise ModelError(
                f"the model as {format}",
                expected=f"probabilities within {BOUND:g} of tlcache's own",
                found=f"a difference of {difference:.1e}",
                remedy="choose another --format; nothing was written",
            )
        data = temporary.read_bytes()
        write_atomically(output, data)
    return Exported(output, format, len(data), len(pixels), difference, contract)


def check_export(format: str, preprocess: bool) -> None:
    """Refuse a format that is unknown, not installed, or cannot hold what is asked for.

    Raises:
        OptionError: If it is.
    """
    if format not in SUFFIXES:
        raise OptionError(
            "--format", " or ".join(SUFFIXES), format or "nothing", "name one of them"
        )
    if format == "safetensors":
        if preprocess:
            raise OptionError(
                "--preprocess",
                expected="a format that holds operations",
                found="safetensors, which holds numbers",
                remedy="leave it out: the metadata says how images are prepared",
            )
        return
    from tlcache.export.formats import check_installed

    check_installed(format)


def _check_output(output: Path, force: bool) -> None:
    found = "a folder" if output.is_dir() else "one that is there"
    if output.is_dir() or (output.exists() and not force):
        raise UnmetError(
            f"--output {output}",
            expected="a new file",
            found=found,
            remedy="name another file" + (", or pass --force" if output.is_file() else ""),
        )


def _contract(model: Model, preprocess: bool) -> dict[str, Any]:
    """What goes in and what comes out."""
    from tlcache.export.formats import INPUT, OUTPUT

    t = model.transform
    if preprocess:
        dtype, shape, values = "uint8", ["N", "H", "W", 3], "RGB, 0 to 255"
    else:
        dtype, shape = "float32", ["N", 3, t.crop, t.crop]
        values = (
            f"RGB, shorter side resized to {t.resize} ({t.interpolation}, antialiased), centre "
            f"crop of {t.crop}, (value / 255 - mean) / std with mean {list(t.mean)}, "
            f"std {list(t.std)}"
        )
    return {
        "input": {"name": INPUT, "dtype": dtype, "shape": shape, "values": values},
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["N", len(model.classes)]},
        "classes": list(model.classes),
    }


def _written(
    path: Path,
    format: str,
    model: Model,
    network: torch.nn.Module,
    preprocess: bool,
    metadata: Metadata,
) -> Network:
    """What a file of the format computes, once it is written."""
    import torch
    from torch import nn

    from tlcache.export.formats import FORMATS
    from tlcache.export.preprocess import Preprocessing
    from tlcache.networks.network import join

    t = model.transform
    parts = [join(network, model.head), nn.Softmax(dim=1)]
    # Sizes that nothing else has: a tracer takes equal ones for one and the same.
    example, dynamic = torch.zeros(2, 3, t.crop, t.crop), {0: "batch"}
    if preprocess:
        parts.insert(0, Preprocessing(t))
        example = torch.zeros(2, t.resize + 5, t.resize + 18, 3, dtype=torch.uint8)
        dynamic |= {1: "height", 2: "width"}
    whole = nn.Sequential(*parts).eval().requires_grad_(False)
    with torch.no_grad():
        FORMATS[format].write(path, whole, example, dynamic, metadata)
    run, found = FORMATS[format].read(path)
    if found != metadata:
        raise ValueError("the file's metadata are not what was written")
    return run


def _run_of(path: Path) -> Network:
    """What the numbers in a model file compute."""
    import torch

    model = load_model(path)
    network = load_network(model)

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            features = network(torch.from_numpy(images)).numpy()
        return softmax(model.head.logits(features)).astype(np.float32)

    return run


@contextlib.contextmanager
def _in_words(format: str) -> Iterator[None]:
    """Whatever an exporter or a runtime trips over, in one line."""
    try:
        yield
    except Exception as error:
        raise UnmetError(
            f"--format {format}",
            expected="a network that can be written and run in this format",
            found=error_in_a_line(error),
            remedy="choose another format",
        ) from error
