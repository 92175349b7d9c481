"""A zip archive, unpacked without trusting it.

It makes no archives and reads no other kind. The caller gives limits and a temporary folder.
"""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tlcache.core.errors import DataError

_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError,
)  # fmt: skip


def extract_zip(archive: Path, folder: Path, *, max_files: int, max_bytes: int) -> None:
    """Unpack ``archive`` into ``folder``, which should be a new temporary one.

    Every name is checked before a byte is written: no absolute path, no ``..``, no drive letter,
    no link, no encryption. macOS's own files (``__MACOSX``, ``.DS_Store``, ``._*``) are left out.
    An archive that breaks half-way leaves ``folder`` half-filled.

    Args:
        archive: A zip file.
        folder: Where its files go; made if need be.
        max_files: More files than this are refused.
        max_bytes: More bytes than this, unpacked, are refused.

    Raises:
        DataError: The archive is missing, broken, unsafe or too large, or cannot be unpacked there.
    """
    if archive.exists() and not archive.is_file():  # to open a pipe would wait for a writer
        raise _bad_zip(archive, "a folder or a special file")
    try:
        with zipfile.ZipFile(archive) as packed:
            members = _safe_members(archive, packed, max_files, max_bytes)
            for name, info in members.items():
                _extract(packed, info, folder / name)
    except _BROKEN_ZIP as error:
        raise _bad_zip(archive, f"a broken one ({error})") from error
    except OSError as error:
        raise DataError(
            error.filename or folder,
            expected=f"to unpack {archive}",
            found=error.strerror or repr(error),
            remedy="see to the path, its permissions and the room on its disk",
        ) from error


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


def _extract(packed: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # "x": no member writes through another, on file systems blind to case either.
    with packed.open(info) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file)


def _bad_zip(archive: Path, found: str) -> DataError:
    return DataError(
        archive,
        expected="a safe and whole zip archive",
        found=found,
        remedy="fetch it again from where it came",
    )
