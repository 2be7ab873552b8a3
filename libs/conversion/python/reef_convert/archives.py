"""Archives come from strangers: nothing is written outside the target, no links, bounded in count and size."""

import errno
import lzma
import os
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from .events import ConvertError, refuse

MAX_ENTRIES = 200_000
MAX_BYTES = 16 * 1024**3


def is_archive(path: Path) -> bool:
    """A tar in any compression, or a zip that is not a `.keras` file (which is a zip too)."""
    if zipfile.is_zipfile(path):
        with _open_zip(path) as archive:
            return "config.json" not in archive.namelist() and not path.name.endswith((".keras", ".npz"))
    return _is_tar(path)


def unpack(path: Path, target: Path) -> Path:
    """Unpacks into `target` and returns it. Raises `source.corrupt_archive` or `source.unsafe_archive`."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(path):
            _unpack_zip(path, target)
        else:
            _unpack_tar(path, target)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise ConvertError("disk.full", "There is no space left to unpack the archive; free some on the worker.", "unavailable") from error
        refuse("source.corrupt_archive", f"{path.name} cannot be unpacked: {error}. Pack it again and push it once more.")
    return target


def only_folder(root: Path) -> Path:
    """An archive of a folder holds that one folder: step inside, as often as that is so."""
    while True:
        inside = [one for one in root.iterdir() if not one.name.startswith((".", "__MACOSX"))]
        if len(inside) != 1 or not inside[0].is_dir():
            return root
        root = inside[0]


def _safe(name: str, target: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        refuse("source.unsafe_archive", f"The archive holds the path {name}, which leads outside of it.")
    return target / parts


def _unpack_zip(path: Path, target: Path) -> None:
    with _open_zip(path) as archive:
        entries = archive.infolist()
        _check(len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            place = _safe(entry.filename, target)
            if entry.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif (entry.external_attr >> 16) & 0o170000 == 0o120000:
                refuse("source.unsafe_archive", f"The archive holds a link, {entry.filename}; pack the files themselves.")
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, open(place, "wb") as sink:
                    _copy(source, sink, entry.file_size)


def _unpack_tar(path: Path, target: Path) -> None:
    with tarfile.open(path) as archive:
        count = total = 0
        for entry in archive:
            count += 1
            total += entry.size
            _check(count, total)
            place = _safe(entry.name, target)
            if entry.isdir():
                place.mkdir(parents=True, exist_ok=True)
            elif entry.isreg():
                place.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(entry)
                with open(place, "wb") as sink:
                    _copy(source, sink, entry.size)
            else:
                refuse("source.unsafe_archive", f"The archive holds a link or device, {entry.name}; pack plain files.")


def _copy(source, sink, size: int) -> None:
    left = size
    while left > 0:
        chunk = source.read(min(left, 1 << 20))
        if not chunk:
            raise EOFError("it ends too early")
        sink.write(chunk)
        left -= len(chunk)


def _check(count: int, total: int) -> None:
    if count > MAX_ENTRIES or total > MAX_BYTES:
        refuse("source.unsafe_archive", f"The archive is too large unpacked (at most {MAX_ENTRIES} entries and {MAX_BYTES >> 30} GiB).")


def _open_zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _is_tar(path: Path) -> bool:
    try:
        return os.path.getsize(path) > 0 and tarfile.is_tarfile(path)
    except (OSError, EOFError):
        return False
