"""Parts of a data set: shares of its classes, a sample of it, folds for cross-validation.

Seeded and stratified, and the same on every machine. Takes names and arrays: which files there are
is read by ``folders``, and where groups come from by ``groups``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, OptionError, UnmetError, listed

Labels = NDArray[np.integer]


def divide(names: Sequence[str], shares: Sequence[float], seed: int) -> list[list[str]]:
    """Names in parts: shares are rounded, no part is empty, and the first part takes the rest.

    Args:
        names: At least as many as there are shares.
        shares: Of each part; they sum to 1.
    """
    sizes = [max(1, round(len(names) * share)) for share in shares[1:]]
    while sum(sizes) >= len(names):  # nothing would be left for the first part
        sizes[sizes.index(max(sizes))] -= 1
    ends = [len(names) - sum(sizes), *sizes]
    shuffled = iter(sorted(names, key=lambda name: _lot(seed, name)))
    return [[next(shuffled) for _ in range(size)] for size in ends]


def sample(names: Sequence[str], labels: Labels, count: int, seed: int) -> NDArray[np.int64]:
    """Indices of a sample in which classes keep their shares: (about ``count``,), rising.

    Args:
        names: Of n things.
        labels: (n,) classes.
        count: How many to take. Every class gives at least one, even if that makes more; all are
            taken where there are no more.
    """
    order = np.array(sorted(range(len(names)), key=lambda i: _lot(seed, names[i])), np.int64)
    turns = np.empty(len(names))
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turns[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        turns[mine[0]] = 0  # before all that are no class's first
    by_turn = order[np.argsort(turns[order], kind="stable")]
    return np.sort(by_turn[: max(count, np.count_nonzero(turns == 0))])


def check_shares(shares: Sequence[float]) -> None:
    """Refuse, with an OptionError, shares that are not two or three over 0 that sum to 1."""
    total = math.fsum(shares)
    if not (len(shares) in (2, 3) and all(s > 0 for s in shares) and abs(total - 1) < 1e-6):
        expected = "two or three shares over 0 that sum to 1"
        remedy = "pass for example --split 0.8,0.2 or --split 0.7,0.15,0.15"
        raise OptionError("--split", expected, ",".join(f"{share:g}" for share in shares), remedy)


def _lot(seed: int, name: str) -> bytes:
    # surrogateescape: a file's name need not be UTF-8.
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def draw_folds(
    labels: Labels,
    folds: int,
    seed: int,
    *,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    repeat: int = 0,
) -> NDArray[np.int64]:
    """Put each image into a fold, such that classes keep their shares in each of them.

    Args:
        labels: (n,) indices into ``classes``.
        folds: K.
        seed: Of the choice, which is the same on every machine.
        classes: Their names.
        groups: Of each of the n images. Images of a group come into one fold, and the shares of
            the classes are kept as well as that allows.
        repeat: Each gives other folds from the same seed.

    Returns:
        (n,) in [0, K).

    Raises:
        OptionError: If there are fewer than two folds, or more than groups.
        DataError: If a class has too few images or groups to be trained on beside every fold.
    """
    check_folds(folds)
    _check_counts(labels, folds, classes)
    random = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(repeat, 0)))
    if groups is None:
        return _drawn(labels, folds, random)
    _, of_group = np.unique(np.asarray(groups, object), return_inverse=True)
    _check_groups(of_group, labels, folds, classes)
    chosen = _drawn(labels, folds, random, of_group)
    _check_trained(chosen, labels, folds, classes)
    return chosen


def check_folds(folds: int) -> None:
    """Refuse fewer than two folds, with an OptionError."""
    if folds < 2:
        remedy = "correct it, or leave it out for the default"
        raise OptionError("--folds", "a whole number of at least 2", str(folds), remedy)


def _drawn(
    labels: Labels, folds: int, random: np.random.PCG64, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is None:
        state = np.random.RandomState(random)
        split = StratifiedKFold(folds, shuffle=True, random_state=state).split(labels, labels)
    else:
        # Shuffled here: scikit-learn before 1.8 loses the strata when it shuffles groups.
        shuffled = np.random.Generator(random).permutation(int(groups.max()) + 1)[groups]
        split = StratifiedGroupKFold(folds).split(labels, labels, shuffled)
    chosen = np.empty(len(labels), np.int64)
    for number, (_, held_out) in enumerate(split):
        chosen[held_out] = number
    return chosen


def _check_counts(labels: Labels, folds: int, classes: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{n} of {name}" for name, n in zip(classes, counts, strict=True) if n < folds]
    if few:
        least = int(counts.min())
        fewer = f"pass --folds {least} or less, or add images" if least > 1 else "add images"
        alone = "; one image cannot be both trained on and held out" if least == 1 else ""
        expected = f"at least {folds} images of each class, one a fold"
        remedy = f"{fewer}, or leave the class out"
        raise DataError(f"--folds {folds}", expected, f"{listed(few)}{alone}", remedy)


def _check_groups(
    groups: NDArray[np.int64], labels: Labels, folds: int, classes: Sequence[str]
) -> None:
    count = int(groups.max()) + 1
    if count < folds:
        expected = f"at least {folds} groups, one a fold"
        fewer = f"pass --folds {count} or less, or " if count > 1 else ""
        raise UnmetError(f"--folds {folds}", expected, str(count), f"{fewer}make finer groups")
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    lonely = np.flatnonzero(np.bincount(pairs[0], minlength=len(classes)) < 2)
    if len(lonely):
        expected = "images of each class in two groups or more, to hold out and to train on"
        found = f"all of {listed([classes[int(c)] for c in lonely])} in one group"
        remedy = "make the groups finer, or add images of another series"
        raise DataError("groups", expected, found, remedy)


def _check_trained(
    chosen: NDArray[np.int64], labels: Labels, folds: int, classes: Sequence[str]
) -> None:
    """Groups of very different sizes can leave a fold empty, or all of a class in one."""
    counts = np.zeros((folds, len(classes)), int)
    np.add.at(counts, (chosen, labels), 1)
    whole = np.flatnonzero((counts == counts.sum(axis=0)).any(axis=0))
    if len(whole) or not counts.any(axis=1).all():
        names = listed([classes[int(c)] for c in whole])
        expected = f"groups that make {folds} folds, each with images of all classes beside it"
        found = f"all images of {names} in one fold" if names else "a fold without an image"
        remedy = "make the groups finer" + (", or pass fewer --folds" if folds > 2 else "")
        raise DataError("groups", expected, found, remedy)
