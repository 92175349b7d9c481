"""Data sets to start with: the ants-and-bees photos, fetched, and the digits, written out.

Each appears in its folder whole or not at all, and a folder with anything else in it is left
alone. Reading a data set is the work of ``samples``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlcache.core.errors import DataError, DownloadError
from tlcache.data.archives import extract_zip, is_desktop_junk
from tlcache.data.downloads import Progress, download

HYMENOPTERA_URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
HYMENOPTERA_DIGEST = "09b2329aa6956906521686a682b4c4793592134e6d718c3e9769e005ec240417"
_DIGIT_HELD_OUT = 0.15
_DIGIT_SCALE = 4


def fetch_hymenoptera(
    destination: Path, archive: Path | None = None, progress: Progress | None = None
) -> bool:
    """Put the ants-and-bees photos of PyTorch's transfer-learning tutorial into ``destination``.

    It then holds ``train/ants``, ``train/bees``, ``val/ants`` and ``val/bees``: 244 training and
    153 validation photos, and ``train/ants/imageNotFound.gif``, which is in the original and is no
    training image. A download that stops goes on where it stopped when called again; every byte
    is checked against ``HYMENOPTERA_DIGEST`` before the folder appears.

    Args:
        destination: A folder that is absent or empty, or holds the photos already.
        archive: The tutorial's zip, where it is at hand: nothing is downloaded, and it is kept.
        progress: Called with (bytes at hand, bytes in all or None) while downloading.

    Returns:
        True if the photos were put there now, False if they were there already.

    Raises:
        DataError: The folder holds something else or cannot be written, or the archive is no good.
        DownloadError: The photos cannot be downloaded.
    """
    destination = destination.absolute()  # "." has no name of its own
    if _is_there(destination, HYMENOPTERA_DIGEST):
        return False
    if archive is not None:
        _unpack_hymenoptera(archive, destination)
        return True
    zipped = destination.with_name(f".{destination.name}.zip")
    if not zipped.exists():  # else: stopped after the download, before the folder was there
        _download_hymenoptera(zipped, progress)
    try:
        _unpack_hymenoptera(zipped, destination)
    except DataError:
        zipped.unlink()
        raise
    zipped.unlink()
    return True


def write_digits(destination: Path, seed: int = 0) -> bool:
    """Write scikit-learn's 1797 handwritten digits as images into ``destination``: no download.

    Each 8 x 8 digit of 17 grey levels becomes a grey 32 x 32 PNG, every pixel repeated 4 x 4 so
    that a person can see it; ``[::4, ::4]`` gives the original back. They are at
    ``<split>/<class>/<number>.png``, with classes "0" to "9" and, in each class, 70 % of the
    images in ``train`` and 15 % each in ``val`` and ``test``. The same seed gives the same bytes
    on every machine.

    From E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998 (its test part).

    Args:
        destination: A folder that is absent or empty, or holds these very digits already.
        seed: Of the split.

    Returns:
        True if the digits were written now, False if they were there already.

    Raises:
        DataError: The folder holds something else or cannot be written.
    """
    destination = destination.absolute()
    images = _digit_images(seed)
    digest = _digest({path: hashlib.sha256(png).hexdigest() for path, png in images.items()})
    if _is_there(destination, digest):
        return False
    with _appearing(destination) as folder:
        for path, png in images.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(png)
    return True


def tree_digest(folder: Path) -> str:
    """The hex SHA-256 of all files under ``folder``: of their paths and contents, nothing else.

    It is taken over one line per file, ``<path> NUL <hex SHA-256 of its content> LF``, in the order
    of the lines' bytes. A path is relative to ``folder``, with ``/``, in UTF-8. All files count,
    images or not, but for what macOS leaves about (``.DS_Store``, ``._*``, ``__MACOSX``); empty
    folders, times and permissions do not.

    Raises:
        DataError: A file cannot be read.
    """
    contents = {}
    with _faults_named(folder):
        for path in folder.rglob("*"):
            name = PurePosixPath(path.relative_to(folder).as_posix())
            if path.is_file() and not is_desktop_junk(name):
                with path.open("rb") as file:
                    contents[str(name)] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digest(contents)


def _digest(contents: Mapping[str, str]) -> str:
    lines = sorted(
        path.encode("utf-8", "surrogateescape") + b"\0" + content.encode("ascii") + b"\n"
        for path, content in contents.items()
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _is_there(destination: Path, digest: str) -> bool:
    """Whether the data set is there; anything else in the folder's place is an error."""
    with _faults_named(destination):
        if not destination.exists():
            return False
        if not destination.is_dir():
            found = "a file"
        elif destination == Path.cwd():
            found = "the folder you are in"  # it would be replaced under your feet
        elif not any(destination.iterdir()):
            return False
        else:
            found = f"a tree of digest {tree_digest(destination)}"
    if found.endswith(digest):
        return True
    raise DataError(
        destination,
        expected=f"no folder, an empty one, or the whole data set (a tree of digest {digest})",
        found=found,
        remedy="name another folder: nothing in this one was touched",
    )


def _download_hymenoptera(zipped: Path, progress: Progress | None) -> None:
    try:
        download(HYMENOPTERA_URL, zipped, progress=progress)
    except DownloadError as error:
        remedy = f"{error.remedy}; or fetch it elsewhere and name the file with --from"
        raise DownloadError(
            error.where, expected=error.expected, found=error.found, remedy=remedy
        ) from error


def _unpack_hymenoptera(archive: Path, destination: Path) -> None:
    with _appearing(destination) as folder:
        extract_zip(archive, folder, max_files=1000, max_bytes=200_000_000)
        _lift_only_folder(folder)
        found = tree_digest(folder)
        if found != HYMENOPTERA_DIGEST:
            raise DataError(
                archive,
                expected=f"the tutorial's photos (a tree of digest {HYMENOPTERA_DIGEST})",
                found=f"a tree of digest {found}",
                remedy=f"fetch {HYMENOPTERA_URL} again",
            )


def _lift_only_folder(folder: Path) -> None:
    """Take the archive's top folder away, if it has one."""
    tops = list(folder.iterdir())
    if len(tops) == 1 and tops[0].is_dir():
        for child in tops[0].iterdir():
            child.rename(folder / child.name)
        tops[0].rmdir()


@contextlib.contextmanager
def _appearing(destination: Path) -> Iterator[Path]:
    """A new folder to fill; it becomes ``destination`` in one step if nothing goes wrong."""
    with _faults_named(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=destination.parent, prefix=f".{destination.name}-"
        ) as holder:
            folder = Path(holder) / "new"  # the holder is private to its maker; this is not
            folder.mkdir()
            yield folder
            if destination.exists():
                destination.rmdir()  # succeeds only if it is still empty
            folder.rename(destination)


@contextlib.contextmanager
def _faults_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            error.filename or folder,
            expected="files and folders that can be read and written",
            found=error.strerror or repr(error),
            remedy="see to the path, its permissions and the room on its disk",
        ) from error


def _digit_images(seed: int) -> dict[str, bytes]:
    """Each digit's path and PNG."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    grey = grey.repeat(_DIGIT_SCALE, axis=1).repeat(_DIGIT_SCALE, axis=2)
    images = {}
    for label in range(10):
        members = np.flatnonzero(digits.target == label).tolist()
        for split, i in _shuffled_split(members, seed):
            images[f"{split}/{label}/{i:04d}.png"] = _png(grey[i])
    return images


def _shuffled_split(members: list[int], seed: int) -> Iterator[tuple[str, int]]:
    """Ordered by a hash, not by a random generator, whose numbers may change between versions."""
    order = sorted(members, key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())
    held_out = round(_DIGIT_HELD_OUT * len(members))
    for rank, i in enumerate(order):
        yield ("val" if rank < held_out else "test" if rank < 2 * held_out else "train"), i


def _png(grey: NDArray[np.uint8]) -> bytes:
    """Uncompressed: what a compressor makes differs between versions of zlib."""
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()
