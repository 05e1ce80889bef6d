"""Unpacks zip archives of unknown origin with care, and packs equal files to equal bytes."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from limn.domain.errors import BundleUnfit
from limn.domain.files import replacement

# Five folds of the largest nnU-Net with their optimisers stay below this; a zip bomb does not.
MAX_BYTES = 16 * 2**30
MAX_FILES = 100_000
# Weights hardly shrink; text may shrink by this factor.
MAX_RATIO = 200
SMALL = 16 * 2**20
CHUNK = 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def unpack(archive: Path, folder: Path, wanted: Callable[[PurePosixPath], bool]) -> list[Path]:
    """Unpack the wanted files of a zip into an empty folder.

    Every entry, wanted or not, is checked before the first is written.

    Raises
    ------
    BundleUnfit
        If an entry would leave the folder, is a link, is encrypted, occurs twice, or if it or
        the whole is too large.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            _check_entries(archive, entries)
            written = []
            for entry in entries:
                if wanted(PurePosixPath(entry.filename)):
                    written.append(folder.joinpath(*PurePosixPath(entry.filename).parts))
                    _write(archive, packed, entry, written[-1])
            return written
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        UnicodeDecodeError,
    ) as error:
        msg = f"{archive} is no sound zip: {error}"
        raise BundleUnfit(msg) from error
    except OSError as error:
        msg = f"{archive}: {error.strerror or error}"
        raise BundleUnfit(msg) from error


def _check_entries(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    names: set[str] = set()
    if len(entries) > MAX_FILES:
        msg = f"{archive} holds {len(entries)} files, at most {MAX_FILES} are taken"
        raise BundleUnfit(msg)
    if (total := sum(entry.file_size for entry in entries)) > MAX_BYTES:
        msg = f"{archive} would unpack to {total} bytes, at most {MAX_BYTES} are taken"
        raise BundleUnfit(msg)
    for entry in entries:
        if not is_inside(entry.filename):
            fault = "lies outside of the archive's folder"
        elif stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            fault = "is a link or a device"
        elif entry.flag_bits & 1:
            fault = "is encrypted"
        elif entry.filename.casefold() in names:
            fault = "occurs twice"
        elif entry.file_size > SMALL and entry.file_size > MAX_RATIO * entry.compress_size:
            fault = f"grows from {entry.compress_size} to {entry.file_size} bytes"
        else:
            names.add(entry.filename.casefold())
            continue
        msg = f"{archive} is refused and nothing was unpacked: {entry.filename!r} {fault}"
        raise BundleUnfit(msg)


def is_inside(name: str) -> bool:
    """Whether a name in an archive or a manifest stays below its folder on every system."""
    parts = name.split("/")
    return (
        bool(name)
        and "\\" not in name
        and ":" not in name
        and "\0" not in name
        and not any(part in ("", ".", "..") for part in parts)
    )


def _write(archive: Path, packed: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with packed.open(entry) as source, path.open("xb") as target:
        # The entry was checked by the size that the archive declares, which zipfile trusts too.
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                msg = f"{archive}: {entry.filename!r} is larger than it declares"
                raise BundleUnfit(msg)
            target.write(chunk)


def pack(folder: Path, names: Iterable[str], top: str, archive: Path) -> None:
    """Write one zip of some files of a folder, below ``top``; equal files give equal bytes.

    The files are stored without compression: weights hardly shrink, and the output of a
    compressor changes with its version.
    """
    try:
        with (
            replacement(archive) as part,
            zipfile.ZipFile(part, "x", zipfile.ZIP_STORED) as packed,
        ):
            for name in sorted(names):
                entry = zipfile.ZipInfo(f"{top}/{name}", _EPOCH)
                entry.create_system = 3
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                path = folder / name
                entry.file_size = path.stat().st_size
                with path.open("rb") as source, packed.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, CHUNK)
    except OSError as error:
        msg = f"{archive}: {error.strerror or error}"
        raise BundleUnfit(msg) from error
