"""Which image has which label in which split, read from a folder shaped for ImageFolder.

Images are listed here, wherever they are wanted. Covers no image's content: digests are taken by
the cache's ``snapshots``, pixels made by ``images``.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlcache.core.errors import DataError, InputError, faults_as, listed
from tlcache.core.files import StrPath, as_path
from tlcache.core.notebook import counts_html
from tlcache.core.progress import Report, no_report
from tlcache.data.splits import check_shares, divide, sample

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),  # torchvision's
    *(".jpe", ".jfif", ".mpo", ".apng", ".avif", ".jp2", ".j2k", ".jpx", ".pbm", ".pnm", ".dib"),
)
"""What is an image by name, on every machine. No .gif, as torchvision has it too: among photos that
is an animation or a placeholder, as in the tutorial's own ants."""
SPLITS = ("train", "val", "test")

_Found = tuple[int, int, str]  # split, label, path


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images with their labels and splits, in columns.

    Attributes:
        name: The folder's name, fit for a file name, and 8 hex digits of its absolute path.
        root: The folder.
        classes: Their names, sorted; a label is an index into them.
        paths: Of the n images, relative to ``root``, with ``/``; sorted within split and class.
        labels: (n,) int32.
        splits: (n,) int8, indices into ``SPLITS``.
        ignored: How many files are no images by their extension, or hidden.
        remarks: What a user should know of the folder, in lines; a snapshot does not keep them.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    paths: list[str] = dataclasses.field(repr=False)
    labels: NDArray[np.int32] = dataclasses.field(repr=False)
    splits: NDArray[np.int8] = dataclasses.field(repr=False)
    ignored: int = 0
    remarks: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, i: int) -> Path:
        """Where image i is."""
        return self.root / self.paths[i]

    def indices(self, split: str) -> NDArray[np.int64]:
        """Which images are in a split: (m,), rising."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def present_splits(self) -> list[str]:
        """The splits that hold any image, in the order of ``SPLITS``."""
        return [split for i, split in enumerate(SPLITS) if (self.splits == i).any()]

    def _repr_html_(self) -> str:
        return counts_html(f"{len(self):,} images in {self.root.name}/", self)


def scan(
    folder: StrPath,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    *,
    unsplit: bool = False,
) -> ImageDataset:
    """Read a data set from its folder.

    Args:
        folder: Holds ``train/<class>/…`` and ``val/<class>/…`` (and perhaps ``test/<class>/…``);
            or, with ``fractions``, ``<class>/…``.
        fractions: Shares of train and val (and test), which sum to 1. Each class is split by
            itself, by a hash of seed and path: the same split on every machine.
        seed: Of that hash.
        unsplit: Take ``<class>/…`` without ``fractions`` too: all of it is in train then.

    Raises:
        DataError: If the folder is missing or laid out otherwise, or a class is empty or unknown.
        OptionError: If the fractions make no sense.
    """
    folder = as_path("folder", folder)
    with _reading(folder):
        if fractions is None and not (unsplit and _is_unsplit(folder)):
            classes, found, odd = _scan_splits(folder)
        else:
            classes, found, odd = _scan_classes(folder, fractions, seed)
    root = Path(os.path.abspath(folder))  # noqa: PTH100 -- resolve() would follow links
    return ImageDataset(
        name=_file_name(root),
        root=root,
        classes=tuple(classes),
        paths=[path for _, _, path in found],
        labels=np.fromiter((label for _, label, _ in found), np.int32, len(found)),
        splits=np.fromiter((split for split, _, _ in found), np.int8, len(found)),
        ignored=odd.ignored.total(),
        remarks=odd.remarks(),
    )


def check_dataset(dataset: object) -> None:
    """Refuse what is handed to a public function in place of a data set.

    Raises:
        InputError: If it is none; of a folder's name, the work would begin all the same.
    """
    if not isinstance(dataset, ImageDataset):
        remedy = "pass tlcache.scan(FOLDER)"
        raise InputError("dataset", "what scan gives", repr(dataset)[:200], remedy)


@dataclasses.dataclass(frozen=True)
class DataSource:
    """What a user names as a data set.

    Attributes:
        path: A folder of images for :func:`scan`, or the file of a snapshot.
        fractions, seed, unsplit: How :func:`scan` splits a folder of classes.
    """

    path: Path
    fractions: Sequence[float] | None = None
    seed: int = 0
    unsplit: bool = False

    def scan(self, note: Report = no_report) -> ImageDataset:
        """By :func:`scan`; ``note`` is told its remarks."""
        dataset = scan(self.path, self.fractions, self.seed, unsplit=self.unsplit)
        for line in dataset.remarks:
            note(line)
        return dataset


def subset(
    dataset: ImageDataset, train: int, val: int | None, seed: int = 0, *, test: int | None = None
) -> ImageDataset:
    """A part of a data set, with the same classes and splits.

    Args:
        train, val, test: How many images to keep of each split; all where there are no more, or
            None. Classes keep their shares; each has one image at least, if that makes some more.
        seed: Of the choice, which is the same on every machine.
    """
    kept: list[NDArray[np.int64]] = []
    for split, count in zip(SPLITS, (train, val, test), strict=True):
        rows = dataset.indices(split)
        if count is not None:
            names = [dataset.paths[i] for i in rows]
            rows = rows[sample(names, dataset.labels[rows], count, seed)]
        kept.append(rows)
    chosen = np.sort(np.concatenate(kept))
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-part",
        paths=[dataset.paths[i] for i in chosen],
        labels=dataset.labels[chosen],
        splits=dataset.splits[chosen],
    )


def images_below(folder: Path) -> list[str]:
    """Every image anywhere below a folder, hidden ones aside: relative paths with ``/``, sorted.

    Raises:
        DataError: If there is none, or no such folder.
    """
    with _reading(folder):
        return _images(folder)[0]


@dataclasses.dataclass(frozen=True)
class _Odd:
    """What a scan comes across: kinds of files that are left out, and folders inside classes."""

    ignored: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    inside: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    def note(self, cls: str, paths: Sequence[str], ignored: collections.Counter[str]) -> None:
        """Of images, relative to their class's folder, and of what lies beside them."""
        self.ignored.update(ignored)
        below = {path.partition("/")[0] if "/" in path else "" for path in paths}
        self.inside.setdefault(cls, set()).update(below)

    def remarks(self) -> tuple[str, ...]:
        lines, count = [], self.ignored.total()
        if count:
            most_first = sorted(self.ignored.items(), key=lambda each: (-each[1], each[0]))
            kinds = listed([f"{n:,} {kind}" for kind, n in most_first])
            lines.append(f"ignored {count:,} file{'s' * (count > 1)}: {kinds}")
        classes = [
            f"{cls} ({listed(sorted(names - {''}), most=3)})"
            for cls, names in sorted(self.inside.items())
            if len(names) > 1
        ]
        if classes:
            lines.append(f"folders inside a class belong to it: {listed(classes, most=3)}")
        return tuple(lines)


def _scan_splits(folder: Path) -> tuple[list[str], list[_Found], _Odd]:
    subfolders, ignored = _subfolders(folder)
    if "train" not in subfolders or "val" not in subfolders:
        raise _not_a_dataset(folder, subfolders)
    classes, _ = _subfolders(folder / "train")
    _check_classes(folder / "train", classes)
    labels = {name: label for label, name in enumerate(classes)}
    found, odd = list[_Found](), _Odd(ignored)
    for split, name in enumerate(SPLITS):
        if name not in subfolders:
            continue
        names, stray = _subfolders(folder / name)
        odd.ignored.update(stray)
        if unknown := sorted(set(names) - set(classes)):
            raise DataError(
                folder / name,
                f"the classes of train ({listed(classes)})",
                f"{listed(unknown)}, which train lacks",
                "remove the folder, rename it, or add the class to train",
            )
        if not names:
            raise _no_images(folder / name)
        for cls in names:
            paths, stray = _images(folder / name / cls)
            found += [(split, labels[cls], f"{name}/{cls}/{path}") for path in paths]
            odd.note(cls, paths, stray)
    return classes, found, odd


def _scan_classes(
    folder: Path, fractions: Sequence[float] | None, seed: int
) -> tuple[list[str], list[_Found], _Odd]:
    if fractions is not None:
        check_shares(fractions)
    classes, ignored = _subfolders(folder)
    if "train" in classes and "val" in classes:
        raise DataError(
            folder,
            "class folders to be split",
            "train and val folders, which are a split already",
            "leave out --split, or name a folder that holds the classes themselves",
        )
    _check_classes(folder, classes)
    found, odd = list[_Found](), _Odd(ignored)
    for label, cls in enumerate(classes):
        paths, stray = _images(folder / cls)
        odd.note(cls, paths, stray)
        if fractions is None:
            found += [(0, label, f"{cls}/{path}") for path in paths]
            continue
        if len(paths) < len(fractions):
            expected = f"at least {len(fractions)} images, one for each part of --split"
            remedy = "add images to this class, or split into fewer parts"
            raise DataError(folder / cls, expected, str(len(paths)), remedy)
        parts = divide([f"{cls}/{path}" for path in paths], fractions, seed)
        found += [(split, label, path) for split, part in enumerate(parts) for path in part]
    return classes, sorted(found), odd


def _is_unsplit(folder: Path) -> bool:
    """Whether it holds no split; nor is it the folder above a data set, named by mistake."""
    names, _ = _subfolders(folder)
    above = any((folder / name / "train").is_dir() for name in names)
    return not above and "train" not in names and "val" not in names


def _subfolders(folder: Path) -> tuple[list[str], collections.Counter[str]]:
    """Names of the visible folders, sorted, and the kinds of the files that lie beside them."""
    with os.scandir(folder) as entries:
        inside = [(e.name, _is_folder(e)) for e in entries]
    names = [name for name, is_folder in inside if is_folder and not name.startswith(".")]
    return sorted(names), collections.Counter(_kind(name) for name, other in inside if not other)


def _kind(name: str) -> str:
    """What a file is that is left out: ``.heic``."""
    ending = Path(name).suffix.lower()
    if name.startswith("."):
        return "hidden"
    if ending in IMAGE_EXTENSIONS:
        return f"{ending} in no class"
    return ending if 1 < len(ending) <= 10 else "of no kind"


def _images(folder: Path) -> tuple[list[str], collections.Counter[str]]:
    """Relative paths of the images below a folder, sorted, and the kinds of other files."""
    paths: list[str] = []
    ignored = collections.Counter[str]()
    pending = [("", frozenset(folder.resolve().parents))]
    while pending:
        inside, above = pending.pop()
        here = (folder / inside).resolve()
        if here in above:  # a link back to a folder above it
            continue
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                path = f"{inside}{entry.name}"
                hidden = entry.name.startswith(".")  # among them macOS's ._photo.jpg, no image
                if _is_folder(entry):
                    pending += [] if hidden else [(f"{path}/", above | {here})]
                elif not hidden and path.lower().endswith(IMAGE_EXTENSIONS):
                    paths.append(path)
                else:
                    ignored[_kind(entry.name)] += 1
    if not paths:
        raise _no_images(folder)
    return sorted(paths), ignored


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _file_name(root: Path) -> str:
    """A name for a data set; its file, with suffix and temporary name, fits into 255 bytes."""
    words = re.sub(r"[^\w.-]+", "_", root.name).lstrip(".")[:48]
    return f"{words or 'root'}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Say in words what keeps a folder from being read."""
    expected = "a folder that can be read"
    with faults_as(DataError, folder, expected, "check its permissions", closer=True):
        if not folder.is_dir():
            found, remedy = "a file", "name the folder that holds train/ and val/"
            if not folder.exists():
                above = next(p for p in folder.absolute().parents if p.is_dir())
                nearest = f"the nearest that exists is {above}, which holds {_held(above)}"
                found = f"no such folder; {nearest}"
                remedy = "correct the path (`tlcache data` fetches an example)"
            raise DataError(folder, "a folder of images", found, remedy)
        yield


def _not_a_dataset(folder: Path, subfolders: list[str]) -> DataError:
    """A folder without train/ or val/, and what may have been meant."""
    remedy = "pass --split 0.8,0.2 if these are the classes"
    if inside := [s for s in subfolders if (folder / s / "train").is_dir()]:
        remedy = f"did you mean {folder / inside[0]}?"
    elif "train" in subfolders:
        remedy = "call the folder of held-out images val"
    elif not subfolders:
        remedy = "name the folder that holds the images"
    return DataError(folder, "folders train/ and val/", _held(folder), remedy)


def _check_classes(folder: Path, classes: list[str]) -> None:
    if len(classes) < 2:
        found = f"one class only ({classes[0]})" if classes else _held(folder)
        remedy = "put the images of each class into a folder of its own"
        raise DataError(folder, "a folder for each of at least two classes", found, remedy)


def _no_images(folder: Path) -> DataError:

    images = f"images ({' '.join(IMAGE_EXTENSIONS)})"
    return DataError(folder, images, _held(folder), "put images there, or remove the folder")


def _held(folder: Path) -> str:
    """What a folder holds, in a few words."""
    return listed(sorted(path.name for path in folder.iterdir())) or "an empty folder"
