"""Data sets to start with: the ants-and-bees photos, fetched, and the digits, written out.

Each appears in its folder whole or not at all, and a folder with anything else in it is left
alone. A zip is taken for hostile. Covers no reading of a data set (``folders``).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from tlcache.core.downloads import download
from tlcache.core.errors import DataError, DownloadError, faults_as
from tlcache.core.files import sha256_of
from tlcache.core.progress import OpenTick, no_tick

HYMENOPTERA_URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
HYMENOPTERA_DIGEST = "09b2329aa6956906521686a682b4c4793592134e6d718c3e9769e005ec240417"
_DIGIT_HELD_OUT = 0.15
_DIGIT_SCALE = 4
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError,
)  # fmt: skip


def fetch_hymenoptera(
    destination: Path, archive: Path | None = None, progress: OpenTick = no_tick
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
        try:
            download(HYMENOPTERA_URL, zipped, progress=progress)
        except DownloadError as error:
            remedy = f"{error.remedy}; or fetch it elsewhere and name the file with --from"
            raise DownloadError(error.where, error.expected, error.found, remedy) from error
    try:
        _unpack_hymenoptera(zipped, destination)
    except DataError:
        zipped.unlink()
        raise
    zipped.unlink()
    return True


def _unpack_hymenoptera(archive: Path, destination: Path) -> None:
    with _appearing(destination) as folder:
        extract_zip(archive, folder, max_files=1000, max_bytes=200_000_000)
        tops = list(folder.iterdir())
        if len(tops) == 1 and tops[0].is_dir():
            for child in tops[0].iterdir():
                child.rename(folder / child.name)
            tops[0].rmdir()
        found = tree_digest(folder)
        if found != HYMENOPTERA_DIGEST:
            expected = f"the tutorial's photos (a tree of digest {HYMENOPTERA_DIGEST})"
            remedy = f"fetch {HYMENOPTERA_URL} again"
            raise DataError(archive, expected, f"a tree of digest {found}", remedy)


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


def _digit_images(seed: int) -> dict[str, bytes]:
    """Each digit's path and PNG."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    grey = grey.repeat(_DIGIT_SCALE, axis=1).repeat(_DIGIT_SCALE, axis=2)
    images = {}
    for label in range(10):
        members = np.flatnonzero(digits.target == label).tolist()
        # By a hash, not by a random generator, whose numbers may change between versions.
        order = sorted(members, key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())
        held_out = round(_DIGIT_HELD_OUT * len(members))
        for rank, i in enumerate(order):
            split = "val" if rank < held_out else "test" if rank < 2 * held_out else "train"
            png = io.BytesIO()
            # Uncompressed: what a compressor makes differs between versions of zlib.
            Image.fromarray(grey[i]).save(png, format="PNG", compress_level=0)
            images[f"{split}/{label}/{i:04d}.png"] = png.getvalue()
    return images


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
                contents[str(name)] = sha256_of(path)
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
    expected = f"no folder, an empty one, or the whole data set (a tree of digest {digest})"
    remedy = "name another folder: nothing in this one was touched"
    raise DataError(destination, expected, found, remedy)


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


def _faults_named(
    folder: Path, expected: str = "files and folders that can be read and written"
) -> contextlib.AbstractContextManager[None]:
    remedy = "see to the path, its permissions and the room on its disk"
    return faults_as(DataError, folder, expected, remedy, closer=True)


def extract_zip(archive: Path, folder: Path, *, max_files: int, max_bytes: int) -> None:
    """Unpack ``archive`` into ``folder``, which should be a new temporary one.

    Every name is checked before a byte is written: no absolute path, no ``..``, no drive letter,
    no link, no encryption. macOS's own files (``__MACOSX``, ``.DS_Store``, ``._*``) are left out.
    An archive that breaks half-way leaves ``folder`` half-filled.

    Args:
        folder: Made if need be.
        max_files, max_bytes: More files than this, or more bytes unpacked, are refused.

    Raises:
        DataError: The archive is missing, broken, unsafe or too large, or cannot be unpacked there.
    """
    if archive.exists() and not archive.is_file():  # to open a pipe would wait for a writer
        raise _bad_zip(archive, "a folder or a special file")
    try:
        with _faults_named(folder, f"to unpack {archive}"), zipfile.ZipFile(archive) as packed:
            members = _safe_members(archive, packed, max_files, max_bytes)
            for name, info in members.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # "x": no member writes through another, on file systems blind to case either.
                with packed.open(info) as source, (folder / name).open("xb") as file:
                    shutil.copyfileobj(source, file)
    except _BROKEN_ZIP as error:
        raise _bad_zip(archive, f"a broken one ({error})") from error


def is_desktop_junk(path: PurePosixPath) -> bool:
    """Whether macOS's Finder or archiver put ``path`` there: no part of any data set."""
    return "__MACOSX" in path.parts or path.name == ".DS_Store" or path.name.startswith("._")


def _safe_members(
    archive: Path, packed: zipfile.ZipFile, max_files: int, max_bytes: int
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    members = {}
    for info in packed.infolist():
        path = PurePosixPath(info.filename)
        if info.is_dir() or is_desktop_junk(path):
            continue
        if fault := _fault(info, path) or ("its name twice" if path in members else ""):
            raise _bad_zip(archive, f"{info.filename!r} in it with {fault}")
        members[path] = info
    total = sum(info.file_size for info in members.values())
    if len(members) > max_files or total > max_bytes:
        limits = f"{max_files} files and {max_bytes} bytes are the most that is unpacked"
        raise _bad_zip(archive, f"{len(members)} files of {total} bytes ({limits})")
    return members


def _fault(info: zipfile.ZipInfo, path: PurePosixPath) -> str:
    """Why this member is refused, or nothing."""
    # A backslash or a colon parts folders or names a drive on Windows.
    if path.is_absolute() or not path.parts or ".." in path.parts or set("\\:") & set(str(path)):
        return "a path that leads out of the folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link or another special file behind it"
    if info.flag_bits & 1:
        return "a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "a compression other than deflate"
    return ""


def _bad_zip(archive: Path, found: str) -> DataError:
    return DataError(
        archive, "a safe and whole zip archive", found, "fetch it again from where it came"
    )
