"""Trunks: networks without their heads, frozen, in eval mode, with the digest of their weights.

Networks come from torchvision, from timm (``timm/NAME``), and from a package that carries its own
ImageNet weights (``efficientnet_lite0``). Covers no training and no weights files (``weights``).
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from tlcache.core.errors import (
    OptionError,
    TrunkError,
    TrunkWordError,
    error_in_a_line,
    listed,
    nearest,
)
from tlcache.core.files import StrPath, as_path
from tlcache.data.transforms import Transform
from tlcache.trunks.info import FileStamp, TrunkInfo, as_weights, parse_weights, remember
from tlcache.trunks.published import (
    LITE0,
    LITE0_IN_TIMM,
    TIMM,
    Weights,
    import_timm,
    published_weights,
    published_with,
    transform_for,
)
from tlcache.trunks.weights import (
    State,
    fit_state,
    module_state,
    outside_state,
    read_state,
    state_digest,
)

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # more heads, which only training uses
_OLD_NAMES = (  # of layers in torchvision's own files, and what its networks call them now
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"\bmlp\.linear_1\.", "mlp.0."),
    (r"\bmlp\.linear_2\.", "mlp.3."),
)


@dataclass(frozen=True, kw_only=True)
class Trunk(TrunkInfo):
    """A network that turns images (N, 3, crop, crop) into features (N, D).

    Attributes:
        module: In eval mode, without gradients.
        derived: Digest of the tensors in no state dict that follow from the network's name, as
            they were loaded; empty where there are none, and for a module of the user's own.
    """

    module: nn.Module = field(repr=False, compare=False)
    derived: str = field(default="", repr=False, compare=False)

    @property
    def info(self) -> TrunkInfo:
        """The trunk's description alone, which does not hold on to the weights."""
        return TrunkInfo(**{f.name: getattr(self, f.name) for f in fields(TrunkInfo)})


def load_trunk(
    name: str = "resnet18", weights: StrPath = "imagenet", memo_dir: StrPath | None = None
) -> Trunk:
    """A pretrained (or random) network without its head: a feature is what the head would get.

    ``googlenet`` and ``inception_v3`` take ImageNet-normalised images whatever the weights, and
    turn them into the inputs of their original weights, as torchvision's pretrained ones do.

    A file takes the transform that is published with its network (``published.transform_for``);
    random weights take the default one, where the network takes images of its size.

    Args:
        name: A torchvision classification network, ``timm/NAME`` or ``efficientnet_lite0``.
        weights: ``imagenet`` (the network's published weights, downloaded once), ``random``,
            ``random:SEED`` or a file: ``.safetensors``, or a state dict by ``torch.save``.
        memo_dir: Where to remember the digest for ``info.recall``; it is not read here.

    Raises:
        TrunkError: If the network is unknown, or the weights cannot be had or do not fit it.
    """
    weights = as_weights(weights)
    memo_dir = None if memo_dir is None else as_path("memo_dir", memo_dir)
    wanted = parse_weights(weights)
    _check_known(name)
    with _born_alike():
        if isinstance(wanted, int):
            given, (module, _, dim, transform) = None, _born(name, wanted)
        else:
            given = _weights(name, wanted)
            module, extra, dim, transform = _built(name, given.transform)
            fit_state(module, _with_new_names(name, given.state), given.source.path, name, extra)
    trunk = Trunk(
        name=name,
        weights=weights,
        digest=state_digest(module.state_dict()),
        dim=dim,
        transform=transform,
        source=given.source if given else None,
        origin=given.origin if given else "",
        module=module,
        derived=_outside_digest(module),
    )
    if memo_dir:
        remember(memo_dir, trunk)
    return trunk


_births = threading.RLock()


@contextlib.contextmanager
def _born_alike() -> Iterator[None]:
    """Networks are born random: one at a time, in fp32 on the CPU, whatever the process has set.

    torch's own random numbers stay as they are.
    """
    with _births, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def as_it_is(trunk: Trunk) -> Trunk:
    """A trunk from whoever held its module, with the digest of what the module holds now.

    Raises:
        TrunkError: If a part of it is in training mode: rows would depend on chance or on their
            batch. Or if its state is not of tensors alone.
    """
    training = [
        name or "the module itself" for name, m in trunk.module.named_modules() if m.training
    ]
    if training:
        expected = "a module in eval mode, whose features depend on the image alone"
        parts = "1 submodule" if len(training) == 1 else f"{len(training)} submodules"
        found = f"{parts} in training mode ({listed(training)})"
        remedy = "call trunk.module.eval() first"
        raise TrunkError(f"trunk {trunk.name}", expected, found, remedy)
    return replace(trunk, digest=digest_of(trunk))


def digest_of(trunk: Trunk) -> str:
    """Hex SHA-256 of the tensors that a trunk's module holds now, see ``weights.state_digest``.

    Those in no state dict are in it, unless they are what a network of this name is loaded with.
    """
    state = module_state(trunk.module, f"trunk {trunk.name}")
    if _outside_digest(trunk.module) != trunk.derived:
        state = state | outside_state(trunk.module)
    return state_digest(state)


def _outside_digest(module: nn.Module) -> str:
    outside = outside_state(module)
    return state_digest(outside) if outside else ""


def _weights(name: str, wanted: str | Path) -> Weights:
    if isinstance(wanted, Path):
        stamp = FileStamp.of(wanted)  # before the bytes: a change in between must not go unseen
        state = read_state(wanted)
        return Weights(state, stamp, *transform_for(name, wanted, state))
    return published_weights(name)


class _Built(NamedTuple):
    """A network without its head, names that a file may have or not, D, and its transform."""

    module: nn.Module
    extra: tuple[str, ...]
    dim: int
    transform: Transform


def _built(name: str, transform: Transform, seed: int = 0) -> _Built:
    torch.default_generator.manual_seed(seed)
    module, extra = _without_head(name, transform.crop)
    return _Built(module, extra, _dim(name, module, transform.crop), transform)


def _born(name: str, seed: int) -> _Built:
    """A network of random weights: they expect nothing, but it may not take 224 pixels."""
    try:
        return _built(name, Transform(), seed)
    except TrunkError:
        for each in published_with(name):
            if each.transform.crop != Transform().crop:
                return _built(name, each.transform, seed)
        raise


def _with_new_names(name: str, state: State) -> State:
    if name != LITE0 and not name.startswith(TIMM):
        for old, new in _OLD_NAMES:
            state = {re.sub(old, new, key): tensor for key, tensor in state.items()}
    return state


def _check_known(name: str) -> None:
    if name.startswith(TIMM):
        timm = import_timm(name)
        known = [TIMM + n for n in (*timm.list_models(), *timm.list_pretrained())]
    else:
        known = [*torchvision.models.list_models(module=torchvision.models), LITE0]
    if name not in known:
        close = nearest(name, known)
        expected = "a classification network of torchvision, timm/NAME or efficientnet_lite0"
        remedy = f"the nearest names are: {close}" if close else "correct the name"
        raise TrunkWordError(f"--trunk {name}", expected, "no such network", remedy)


_Headless = tuple[nn.Module, tuple[str, ...]]
"""A network; and beginnings of names that a weights file may have or not."""


def _without_head(name: str, crop: int) -> _Headless:
    if name == LITE0:
        name = LITE0_IN_TIMM
    module, extra = _of_timm(name) if name.startswith(TIMM) else _of_torchvision(name, crop)
    return module.eval().requires_grad_(False), extra


def _of_timm(name: str) -> _Headless:
    timm, own_name = import_timm(name), name.removeprefix(TIMM)
    module = timm.create_model(own_name, pretrained=False, num_classes=0)
    with torch.device("meta"):  # for its names, without the numbers
        whole = timm.create_model(own_name, pretrained=False)
    return module, tuple(whole.state_dict().keys() - module.state_dict().keys())


def _of_torchvision(name: str, crop: int) -> _Headless:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False, "transform_input": True}
    elif name.startswith("vit_"):
        options = {"image_size": crop}
    module = torchvision.models.get_model(name, weights=None, **options).eval()
    head = _find_head(name, module, crop)
    module.set_submodule(head, nn.Identity())
    return module, (f"{head}.", *_AUXILIARY)


def _find_head(name: str, module: nn.Module, crop: int) -> str:
    """The last layer that runs and is as wide as the logits: after it there is only pooling."""
    ran: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, path=path: ran.append(path))
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    classes = _run(name, module, crop).shape[-1]
    for hook in hooks:
        hook.remove()
    for path in reversed(ran):
        layer = module.get_submodule(path)
        if classes == getattr(layer, "out_features", getattr(layer, "out_channels", None)):
            return path
    raise _unfit(name, crop, f"no layer that makes its {classes} logits")


def check_crop(trunk: Trunk, crop: int) -> None:
    """Refuse a crop that a network does not take, before anything is made for it.

    Raises:
        OptionError: If it makes no feature of a crop of this size, or one of another length.
        TrunkError: If it is the trunk's own crop.
    """
    try:
        if (dim := _dim(trunk.name, trunk.module, crop)) != trunk.dim:
            raise _unfit(trunk.name, crop, f"{dim} numbers where its own are {trunk.dim}")
    except TrunkError as error:
        if crop == trunk.transform.crop:
            raise
        expected = f"a crop that {trunk.name} takes"
        remedy = f"leave --crop out for its own, {trunk.transform.crop}"
        raise OptionError(f"--crop {crop}", expected, error.found, remedy) from error


def _dim(name: str, module: nn.Module, crop: int) -> int:
    shape = tuple(_run(name, module, crop).shape)
    if len(shape) != 2:
        raise _unfit(name, crop, f"features of shape {shape}")
    return shape[1]


def _run(name: str, module: nn.Module, crop: int) -> Tensor:
    own = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    try:
        with torch.no_grad():
            output = module(torch.zeros(1, 3, crop, crop, device=own.device, dtype=own.dtype))
    except Exception as error:  # whatever a network raises at images that it is not made for
        raise _unfit(name, crop, error_in_a_line(error)) from error
    if not isinstance(output, Tensor):
        raise _unfit(name, crop, f"an output of type {type(output).__name__}")
    return output


def _unfit(name: str, crop: int, found: str) -> TrunkError:
    expected = f"a network that makes one vector of an image of {crop} x {crop} pixels"
    return TrunkError(f"--trunk {name}", expected, found, "choose another network")
