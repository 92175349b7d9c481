"""Whether a model fits what it is asked about: its trunk, transform and classes, and the split.

Each check raises an error of one line (ModelError), or does nothing. Imports no torch: heads are
judged on cached features without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlcache.core.errors import DataError, ModelError
from tlcache.data.folders import SPLITS, ImageDataset
from tlcache.data.transforms import Transform
from tlcache.heads.model import Model
from tlcache.trunks.info import TrunkInfo


def check_trunk(model: Model, trunk: TrunkInfo) -> None:
    """Refuse a trunk whose weights have another digest than those a head was trained on."""
    if (model.trunk, model.digest) != (trunk.name, trunk.digest):
        raise ModelError(
            "the model's trunk",
            expected=f"{model.trunk} with the weights {model.digest[:8]} it was trained on",
            found=f"{trunk.name} with {trunk.digest[:8]} ({trunk.weights})",
            remedy="name the right file with --weights, or a snapshot of its own features",
        )


def check_transform(
    model: Model,
    transform: Transform,
    where: str = "the snapshot's transform",
    remedy: str = "evaluate on the folder of images, or on a snapshot of the same transform",
) -> None:
    """Refuse features of images that were prepared in another way, in these words."""
    if transform != model.transform:
        ours, theirs = model.transform.describe(), transform.describe()
        differ = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        expected, found = (
            ", ".join(f"{name} {values.get(name)}" for name in differ) for values in (ours, theirs)
        )
        raise ModelError(where, expected, found, remedy)


def check_classes(model: Model, classes: Sequence[str]) -> None:
    """Refuse a data set whose labels mean something else."""
    if tuple(classes) != model.classes:
        remedy = "name a data set with the classes that the model was trained on"
        expected, found = _counted(model.classes), _counted(classes)
        raise ModelError("the data set's classes", expected, found, remedy)


def check_same_classes(a: Model, b: Model) -> None:
    """Refuse two models whose answers mean different things."""
    if a.classes != b.classes:
        remedy = "compare two models that were trained on the same classes"
        raise ModelError("B's classes", f"A's {_counted(a.classes)}", _counted(b.classes), remedy)


def _counted(classes: Sequence[str]) -> str:
    return f"{', '.join(classes[:6])} ({len(classes)} in all)"


def no_split(dataset: ImageDataset, split: str) -> DataError:
    """The error of a model that is to be judged on a split which a data set does not have."""
    found = f"only {' and '.join(dataset.present_splits())}"
    remedy = f"choose among {', '.join(s for s in SPLITS if s != split)}"
    return DataError(dataset.root, f"images in {split}/", found, remedy)
