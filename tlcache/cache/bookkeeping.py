"""What a store has besides rows: its identity's description, and its snapshots of data sets.

Of the latter: what was known, drafts of what is being read, and what is kept. Covers no reading of
the images' files (``snapshots``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tlcache.cache.identity import FILE, what_is_new
from tlcache.cache.snapshots import Snapshot, load_snapshot, save_snapshot
from tlcache.cache.store import FeatureStore
from tlcache.core.errors import CacheError, DamageError
from tlcache.core.files import TEMPORARY, is_gone


def announce(store: FeatureStore, report: Callable[[str], None]) -> None:
    """One line on what makes this identity new, where the cache holds another."""
    if not store.folder.exists() and (changed := what_is_new(store.folder.parent, store.identity)):
        report(f"new identity {store.identity.key[:8]}: {', '.join(changed)}")


def keep_description(store: FeatureStore, report: Callable[[str], None]) -> None:
    """Write ``identity.json`` anew where the rows have lost it; those who only read need it."""
    try:
        if store.folder.exists():  # else the first commit makes it
            store.prepare()
    except CacheError as error:
        report(f"{FILE} was not kept: {error}")


def known_snapshots(
    store: FeatureStore, dataset: str, report: Callable[[str], None]
) -> tuple[Snapshot | None, Snapshot | None]:
    """This identity's snapshot of the data set; and the newest one to take digests from.

    Digests do not depend on the identity: others' serve where this one has none. And an
    interrupted run may have left a draft that knows more.
    """
    name, folders = glob.escape(dataset), store.folder.parent
    own = _loaded([store.snapshot_path(dataset)], report)
    found = own + _loaded(sorted(folders.glob(f"*/snapshots/.{name}{TEMPORARY}")), report)
    if not found:
        found = _loaded(sorted(folders.glob(f"*/snapshots/{name}.h5")), report)
    best = max(found, key=lambda snapshot: snapshot.taken_ns, default=None)
    if best is not None and not own:  # why an image is unreadable may depend on the identity
        best = dataclasses.replace(best, reasons=[""] * len(best.reasons))
    return own[0] if own else None, best


def draft_of(store: FeatureStore, dataset: str) -> Callable[[Snapshot], None]:
    """Keeps what is known of a data set's files while they are being read."""

    def keep(snapshot: Snapshot) -> None:
        with contextlib.suppress(CacheError):  # whoever goes on then reads the files again
            store.prepare_snapshot(dataset)
            save_snapshot(store.draft_path(dataset), snapshot)

    return keep


def keep_snapshot(
    snapshot: Snapshot, own: Snapshot | None, store: FeatureStore, report: Callable[[str], None]
) -> Snapshot | None:
    """Save a snapshot, unless the store's own says as much; what the store has from then on."""
    if own is not None and np.array_equal(own.digests, snapshot.digests):
        # To ask for fewer views takes none away.
        snapshot = dataclasses.replace(snapshot, views=max(own.views, snapshot.views))
        if own.says_the_same(snapshot):
            _forget_draft(store, snapshot.dataset.name)
            return own
    try:
        save_snapshot(store.prepare_snapshot(snapshot.dataset.name), snapshot)
        _forget_draft(store, snapshot.dataset.name)
    except CacheError as error:
        # Without it everything still works, but the next run digests the files again.
        report(f"the snapshot was not kept: {error}")
        return own
    return snapshot


def with_reasons(snapshot: Snapshot, reasons: dict[bytes, str]) -> Snapshot:
    """The snapshot, with why images cannot be read, by their digests."""
    rows = zip(snapshot.reasons, snapshot.digests, strict=True)
    return dataclasses.replace(
        snapshot, reasons=[old or reasons.get(digest.tobytes(), "") for old, digest in rows]
    )


def _forget_draft(store: FeatureStore, dataset: str) -> None:
    with contextlib.suppress(OSError):  # a draft that stays is passed over for a newer snapshot
        store.draft_path(dataset).unlink(missing_ok=True)


def _loaded(paths: Sequence[Path], report: Callable[[str], None]) -> list[Snapshot]:
    snapshots = []
    for path in paths:
        try:
            snapshots.append(load_snapshot(path))
        except DamageError as error:
            report(f"passed over: {error}")
        except CacheError as error:
            if not is_gone(error):  # or another run has just been done with its draft
                raise
    return snapshots
