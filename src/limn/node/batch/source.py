"""Opens what a person names as a scan: a folder or zip of DICOM, or an image.

An image is a file of another format, or a folder of SkyScan sections. It becomes a CT series first,
because a structure set refers to one.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from limn.dicom.ct import write_image_series
from limn.dicom.folder import one_series
from limn.dicom.series import Instance
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.domain.one_line import one_line
from limn.domain.scan import Volume
from limn.formats.image_at import animal_of, image_at
from limn.formats.image_file import SUFFIXES

# What zipfile raises for damaged files.
_ZIP_DAMAGES = (
    *(EOFError, NotImplementedError, OSError, RuntimeError, ValueError, struct.error),
    *(zipfile.BadZipFile, zlib.error),
)
# Of a zip; a scan of a whole mouse is a third of it.
MOST_UNPACKED_BYTES = 2**33


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A scan whose headers are read; its files stay until `opened` is left.

    Attributes
    ----------
    ct : folder of the CT series that was made of an image; None for DICOM
    """

    instances: tuple[Instance, ...]
    ct: Path | None = None


@contextlib.contextmanager
def opened(source: Path, lie: str, keep_in: Path | None, console: Console) -> Iterator[Opened]:
    """Open a scan.

    Parameters
    ----------
    lie : letters that the axes (z, y, x) of an image grow towards, if it does not say so
    keep_in : folder in which the CT series of an image stays; None if nobody needs it

    Raises
    ------
    RefusedSeries
        If it is no scan, or does not say how its axes lie, or ``lie`` is given for DICOM.
    """
    with contextlib.ExitStack() as temporary:
        if (image := image_at(source)) is not None:
            folder = keep_in or _temporary(temporary)
            volume = image.read(image.path, lie)
            yield Opened(_as_series(volume, image.path, source.name, folder), folder)
            return
        if lie:
            msg = f"--lie {lie}: {one_line(source)} is DICOM, whose headers say how its axes lie"
            raise RefusedSeries(msg)
        if source.is_file():
            source = _unpacked(source, _temporary(temporary))
        yield Opened(tuple(one_series(source, console)))


def stands_alone(path: Path) -> bool:
    """Whether a path is one scan that is no folder of DICOM: an image, or a zip."""
    return path.exists() and (path.suffix.lower() == ".zip" or image_at(path) is not None)


def _temporary(stack: contextlib.ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limn-scan-")))


def _as_series(volume: Volume, dated: Path, name: str, folder: Path) -> tuple[Instance, ...]:
    # The date is that of a file: a second run gives the same series, byte for byte.
    when = datetime.fromtimestamp(dated.stat().st_mtime, UTC).astimezone()
    date_time = (when.strftime("%Y%m%d"), when.strftime("%H%M%S"))
    paths = list(write_image_series(volume, folder, animal_of(name), name, date_time))
    return tuple(read_headers(paths))


def _unpacked(archive: Path, folder: Path) -> Path:
    """The files of a zip, under numbers: their own names may lead out of the folder."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [each for each in packed.infolist() if not each.is_dir()]
            total = sum(each.file_size for each in members)
            if total > MOST_UNPACKED_BYTES:
                msg = f"{one_line(archive)} unpacks to {total} bytes, at most {MOST_UNPACKED_BYTES}"
                raise RefusedSeries(msg)
            for number, member in enumerate(members):
                (folder / f"{number:06d}").write_bytes(packed.read(member))
    except _ZIP_DAMAGES as error:
        msg = (
            f"{one_line(archive)} is no scan: a folder of DICOM, a zip of one, or a file that ends "
            f"in {', '.join(SUFFIXES)} expected ({one_line(error)})"
        )
        raise RefusedSeries(msg) from error
    return folder
