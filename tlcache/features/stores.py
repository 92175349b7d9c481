"""A trunk by its name, and the stores that keep its features in a cache.

Covers no making of features (``embedding``) and no reading of them (``features``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcache.cache.identity import DTYPES, PRECISIONS, Identity
from tlcache.cache.store import FeatureStore, open_store
from tlcache.core.errors import OptionError, TrunkError
from tlcache.core.machine import library_versions
from tlcache.core.progress import Report
from tlcache.trunks.info import TrunkInfo, recall

if TYPE_CHECKING:
    from tlcache.trunks.load import Trunk


def check_words(precision: str, dtype: str) -> None:
    """Refuse words that name no precision or dtype of features.

    Raises:
        OptionError: If one does not.
    """
    for option, word, known in (("dtype", dtype, DTYPES), ("precision", precision, PRECISIONS)):
        if word not in known:
            expected, remedy = " or ".join(known), "name one of them"
            raise OptionError(f"--{option}", expected=expected, found=str(word), remedy=remedy)


def described(
    trunk: str | Trunk, weights: str, memo: Path, report: Report
) -> tuple[TrunkInfo, Callable[[], Trunk]]:
    """What is known of a trunk, from the memo where it can be, and how to load it.

    Args:
        memo: Folder of the memo of digested weights.
        report: Is told of a damaged memo.

    Raises:
        TrunkError: If the network is unknown, or the weights cannot be had or do not fit it.
    """
    if isinstance(trunk, str):
        if info := recall(memo, trunk, weights, report):
            return info, lambda: _load_as_described(info)
        from tlcache.trunks.load import load_trunk

        trunk = load_trunk(trunk, weights, memo)
    loaded = trunk
    return loaded.info, lambda: loaded


def _load_as_described(info: TrunkInfo) -> Trunk:
    from tlcache.trunks.load import load_trunk

    trunk = load_trunk(info.name, info.weights)
    if trunk.digest != info.digest:
        raise TrunkError(
            info.weights,
            expected=f"the weights {info.digest[:8]} that were digested earlier",
            found=trunk.digest[:8],
            remedy="let the file come to rest and run again",
        )
    return trunk


def stores_of(
    cache: Path,
    info: TrunkInfo,
    changes: dict[str, Any],
    precision: str,
    dtype: str,
    views: int,
    report: Report,
) -> list[FeatureStore]:
    """The store of the eval transform, and that of the train transform where views are wanted.

    Args:
        changes: Fields of the weights' own transform to change.

    Raises:
        CacheError: If the cache cannot be read.
        OptionError: If the transform makes no sense.
    """
    fields = [field.name for field in dataclasses.fields(info.transform)]
    if changes.get("kind", "eval") != "eval":
        raise _wrong("the eval transform, beside which augmented views are made", changes["kind"])
    if unknown := [name for name in changes if name not in fields]:
        raise _wrong(f"some of {', '.join(fields)}", ", ".join(map(str, unknown)))
    try:
        transform = dataclasses.replace(info.transform, **changes)
    except (TypeError, ValueError) as error:
        raise _wrong("values of the transform's own kinds", f"{changes} ({error})") from error
    versions = library_versions(info.name)
    kinds = [transform, transform.as_train()] if views else [transform]
    identities = [
        Identity(info.name, info.digest, info.dim, kind, versions, precision=precision, dtype=dtype)
        for kind in kinds
    ]
    return [open_store(cache, identity, info.label, report) for identity in identities]


def _wrong(expected: str, found: str) -> OptionError:
    return OptionError("transform", expected=expected, found=found, remedy="correct it")
