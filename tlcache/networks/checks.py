"""Whether a model fits what it is asked about: its trunk, transform and classes, and the split.

Each check raises an error of one line, or does nothing. Imports no torch: heads are judged on
cached features without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlcache.core.errors import DataError, ModelError
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.transforms import Transform
from tlcache.heads.model import Model
from tlcache.trunks.info import TrunkInfo


def check_trunk(model: Model, trunk: TrunkInfo) -> None:
    """Refuse a trunk that a frozen head was not trained on.

    Raises:
        ModelError: If the trunk's weights have another digest.
    """
    if (model.trunk, model.digest) != (trunk.name, trunk.digest):
        raise ModelError(
            "the model's trunk",
            expected=f"{model.trunk} with the weights {model.digest[:8]} it was trained on",
            found=f"{trunk.name} with {trunk.digest[:8]} ({trunk.weights})",
            remedy="name the right file with --weights, or a snapshot of its own features",
        )


def check_name(model: Model, trunk: str) -> None:
    """Refuse another network than the model's.

    Raises:
        ModelError: If its name is another.
    """
    if trunk != model.trunk:
        raise ModelError(
            "--trunk",
            expected=f"{model.trunk}, which the model's head sits on",
            found=trunk,
            remedy="leave it out, or start from a model on that network",
        )


def check_transform(
    model: Model,
    transform: Transform,
    where: str = "the snapshot's transform",
    remedy: str = "evaluate on the folder of images, or on a snapshot of the same transform",
) -> None:
    """Refuse features of images that were prepared in another way.

    Args:
        where, remedy: Words of the error.

    Raises:
        ModelError: If the transform is not the model's.
    """
    if transform != model.transform:
        ours, theirs = model.transform.describe(), transform.describe()
        differ = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        raise ModelError(
            where,
            expected=", ".join(f"{name} {ours.get(name)}" for name in differ),
            found=", ".join(f"{name} {theirs.get(name)}" for name in differ),
            remedy=remedy,
        )


def check_classes(model: Model, classes: Sequence[str]) -> None:
    """Refuse a data set whose labels mean something else.

    Raises:
        ModelError: If the classes differ.
    """
    if tuple(classes) != model.classes:
        raise ModelError(
            "the data set's classes",
            expected=_counted(model.classes),
            found=_counted(classes),
            remedy="name a data set with the classes that the model was trained on",
        )


def check_same_classes(a: Model, b: Model) -> None:
    """Refuse two models whose answers mean different things.

    Raises:
        ModelError: If their classes differ.
    """
    if a.classes != b.classes:
        raise ModelError(
            "B's classes",
            expected=f"A's {_counted(a.classes)}",
            found=_counted(b.classes),
            remedy="compare two models that were trained on the same classes",
        )


def _counted(classes: Sequence[str]) -> str:
    return f"{', '.join(classes[:6])} ({len(classes)} in all)"


def check_split(dataset: ImageDataset, split: str) -> None:
    """Refuse an empty split.

    Raises:
        DataError: If it is.
    """
    if not len(dataset.indices(split)):
        raise DataError(
            dataset.root, f"images in {split}", "none", "put images there, or name another split"
        )


def no_split(dataset: ImageDataset, split: str) -> DataError:
    """The error of a model that is to be judged on a split which a data set does not have."""
    return DataError(
        dataset.root,
        expected=f"images in {split}/",
        found=f"only {' and '.join(dataset.present_splits())}",
        remedy=f"choose among {', '.join(s for s in SPLITS if s != split)}",
    )
