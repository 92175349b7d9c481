"""Folders that are no data set: what was expected of them, and what they hold instead.

Covers no reading of a data set (``samples``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlcache.core.errors import DataError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Torchvision's."""


def no_folder(folder: Path) -> DataError:
    """A path that is no folder, and where it ends."""
    found, remedy = "a file", "name the folder that holds train/ and val/"
    if not folder.exists():
        above = next(p for p in folder.absolute().parents if p.is_dir())
        found = f"no such folder; the nearest that exists is {above}, which holds {_held(above)}"
        remedy = "correct the path (`tlcache data` fetches an example)"
    return wrong(folder, "a folder of images", found, remedy)


def check_classes(folder: Path, classes: list[str]) -> None:
    """Refuse fewer than two classes.

    Raises:
        DataError: If there are fewer.
    """
    if len(classes) < 2:
        raise wrong(
            folder,
            "a folder for each of at least two classes",
            f"one class only ({classes[0]})" if classes else _held(folder),
            "put the images of each class into a folder of its own",
        )


def not_a_dataset(folder: Path, subfolders: list[str]) -> DataError:
    """A folder without train/ or val/, and what may have been meant."""
    remedy = "pass --split 0.8,0.2 if these are the classes"
    if inside := [s for s in subfolders if (folder / s / "train").is_dir()]:
        remedy = f"did you mean {folder / inside[0]}?"
    elif "train" in subfolders:
        remedy = "call the folder of held-out images val"
    elif not subfolders:
        remedy = "name the folder that holds the images"
    return wrong(folder, "folders train/ and val/", _held(folder), remedy)


def no_images(folder: Path) -> DataError:
    """A folder without an image in or below it."""
    images = f"images ({' '.join(IMAGE_EXTENSIONS)})"
    return wrong(folder, images, _held(folder), "put images there, or remove the folder")


def listed(names: Sequence[str]) -> str:
    """Names in a line, of which there may be thousands."""
    shown = ", ".join(names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


def wrong(where: object, expected: str, found: str, remedy: str) -> DataError:
    """A :class:`DataError` with its words in order."""
    return DataError(where, expected=expected, found=found, remedy=remedy)


def _held(folder: Path) -> str:
    """What a folder holds, in a few words."""
    return listed(sorted(path.name for path in folder.iterdir())) or "an empty folder"
