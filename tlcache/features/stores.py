"""Which features are wanted, of which trunk, and the stores that keep them in a cache.

Covers no making of features (``embed``) and no reading of them (``read``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cache.identity import DTYPES, PRECISIONS, Identity, series
from tlcache.cache.store import FeatureStore, open_store
from tlcache.core.errors import OptionError, TrunkError
from tlcache.core.machine import Compute, library_versions
from tlcache.core.progress import Report, no_report
from tlcache.trunks.info import TrunkInfo, note_transform, recall

if TYPE_CHECKING:
    from tlcache.trunks.load import Trunk


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """The features that are wanted, where they are kept, and how to make those that are missing.

    Attributes:
        compute: Where the network runs; not part of what the features are. All others are what
            the arguments of these names are to :func:`tlcache.features.embed.embed`.

    Raises:
        OptionError: If a word or a number makes no sense.
    """

    trunk: str | Trunk = "resnet18"
    weights: str = "imagenet"
    cache: Path = Path("cache")
    views: int = 0
    transform: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    precision: str = "fp32"
    dtype: str = "float32"
    skip_unreadable: bool = False
    rehash: bool = False
    compute: Compute = dataclasses.field(default_factory=Compute)

    def __post_init__(self) -> None:
        if self.views < 0:
            raise OptionError("--views", "0 or more", str(self.views), "correct it")
        for option, known in (("dtype", DTYPES), ("precision", PRECISIONS)):
            if (word := getattr(self, option)) not in known:
                expected, remedy = " or ".join(known), "name one of them"
                raise OptionError(f"--{option}", expected, str(word), remedy)


def describe_trunk(
    trunk: str | Trunk, weights: str, memo: Path | None, note: Report = no_report
) -> tuple[TrunkInfo, Callable[[], Trunk]]:
    """What is known of a trunk, and how to load it; torch is imported only if no memo tells.

    A memo may be stale: see :func:`moved_on`.

    Args:
        memo: Folder of the memo of digested weights, where there is one.
        note: Is told of a damaged memo.

    Raises:
        TrunkError: If the network is unknown, or the weights cannot be had or do not fit it; or
            if a module of the user's own is in training mode, or changes before it is run.
    """
    if isinstance(trunk, str):
        if memo and (info := recall(memo, trunk, weights, note)):
            return info, functools.cache(functools.partial(_loaded, trunk, weights, memo))
        loaded = _loaded(trunk, weights, memo)
        return loaded.info, lambda: loaded
    from tlcache.trunks.load import as_it_is

    given = as_it_is(trunk)
    return given.info, lambda: _unchanged(given)


def described_as(digest: str, trunk: str, weights: str, memo: Path) -> TrunkInfo:
    """What is known of the trunk that should have a digest: no stale memo may deny it."""
    info, load = describe_trunk(trunk, weights, memo)
    return info if info.digest == digest else load().info


def _loaded(name: str, weights: str, memo: Path | None) -> Trunk:
    from tlcache.trunks.load import load_trunk

    return load_trunk(name, weights, memo)


def _unchanged(trunk: Trunk) -> Trunk:
    from tlcache.trunks.load import as_it_is

    if (now := as_it_is(trunk).digest) != trunk.digest:
        expected = f"the weights {trunk.digest[:8]} that the module had a moment ago"
        remedy = "let nothing train it meanwhile, and run again"
        raise TrunkError(f"trunk {trunk.name}", expected, now[:8], remedy)
    return trunk


def moved_on(trunk: Trunk, digest: str, note: Report) -> bool:
    """Whether a loaded trunk is not the one that a memo described; says so in one line.

    As where a hub has a newer file, or random numbers of another processor. The memo is then
    written anew already; whoever has asked goes on with the trunk itself.
    """
    if trunk.digest == digest:
        return False
    weights = f"{trunk.weights} of {trunk.name} are {trunk.digest[:8]}, and not {digest[:8]}"
    note(f"weights: {weights} as when they were digested: from here on features are of those")
    return True


def stores_of(spec: FeatureSpec, info: TrunkInfo, note: Report = no_report) -> list[FeatureStore]:
    """The store of the eval transform, and that of the train transform where views are wanted.

    They tell ``note`` of damaged files; it is told of the transform of a user's weights file, too.

    Raises:
        CacheError: If the cache cannot be read.
        OptionError: If the transform makes no sense.
    """
    fields, remedy = [field.name for field in dataclasses.fields(info.transform)], "correct it"
    if spec.transform.get("kind", "eval") != "eval":
        expected = "the eval transform, beside which augmented views are made"
        raise OptionError("transform", expected, spec.transform["kind"], remedy)
    if unknown := [name for name in spec.transform if name not in fields]:
        expected, found = f"some of {', '.join(fields)}", ", ".join(map(str, unknown))
        raise OptionError("transform", expected, found, remedy)
    try:
        transform = dataclasses.replace(info.transform, **spec.transform)
    except (TypeError, ValueError) as error:
        expected, found = "values of the transform's own kinds", f"{dict(spec.transform)} ({error})"
        raise OptionError("transform", expected, found, remedy) from error
    note_transform(info, spec.transform, note)
    identity = Identity(
        trunk=info.name,
        weights=info.digest,
        dim=info.dim,
        transform=transform,
        versions=tuple((name, series(name, v)) for name, v in library_versions(info.name)),
        precision=spec.precision,
        dtype=spec.dtype,
    )
    stores = [open_store(spec.cache, identity, info.label, note)]
    if spec.views:
        known = stores[0].identity.as_train()
        stores.append(open_store(spec.cache, identity.as_train(), info.label, note, known))
    return stores
