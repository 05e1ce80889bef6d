"""Makes a CT series of one image, in a process of its own: a damaged file may end it, or fill it.

``python -m limn.node.receive.images.convert FOLDER``. The folder has ``request.json``; it gets the
copies of the image's files, the CT series and ``answer.json``. The files are copied first, step by
step below the watched folder, so that what is read can neither change nor lead elsewhere (D-145).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from limn.dicom.ct import write_image_series
from limn.domain.errors import RefusedSeries
from limn.domain.one_line import one_line
from limn.domain.scan import Volume
from limn.formats.axes import AxesUnknown, checked_lie
from limn.formats.image_at import image_at
from limn.node.config import ImageFormat
from limn.node.host.lifetime import end_with_supervisor
from limn.node.receive.folder.taken_files import FileState
from limn.node.receive.folder.unlinked import UnlinkedFolder

REQUEST, ANSWER, SERIES, COPIES = "request.json", "answer.json", "ct", "copies"
LETTERS = (
    "three letters for the array's axes z, y, x: the directions they grow towards (S or I, P or A, "
    "L or R)"
)
_WORDS: dict[ImageFormat, str] = {
    "nifti": "NIfTI",
    "nrrd": "NRRD",
    "metaimage": "MetaImage",
    "skyscan": "SkyScan",
    "inveon": "Inveon",
}
_MOST_NOTE_BYTES = 2**16
_MOST_HEADER_BYTES = 2**20
# Where the header of a format names the file of its voxels.
_VOXELS_AT = {
    "nrrd": re.compile(rb"^data ?file:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
    "metaimage": re.compile(
        rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """An image to be made a CT series of.

    Attributes
    ----------
    folder : the watched folder
    files : path, size, time of change and of status of each, in ns; without the note
    note : path and state of what a person wrote of it; empty if nobody did
    note_path : where a person may write it
    lie : what the site says of this format where an image says nothing; empty if it does not
    patient_id : what the site says of each image; empty if a person must
    """

    folder: str
    key: str
    format: ImageFormat
    files: Sequence[tuple[str, int, int, int]]
    note: Sequence[Any]
    note_path: str
    lie: str
    patient_id: str

    def write(self, folder: Path) -> None:
        """Write it where the process looks for it."""
        (folder / REQUEST).write_text(json.dumps(asdict(self)), encoding="ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAnswer:
    """What became of it.

    Attributes
    ----------
    kind : "made"; "changed" while it was read; "later": a disk or right must be mended; "asked": a
        person must say something; "refused"; "none": projections, of which nobody wants contours
    sha256 : of all that the series was made of
    """

    kind: Literal["made", "changed", "later", "asked", "refused", "none"]
    why: str = ""
    animal: str = ""
    slices: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _Note:
    patient_id: str = ""
    lie: str = ""


def read_answer(folder: Path) -> ImageAnswer | None:
    """The answer; None if the process ended without one."""
    try:
        return ImageAnswer(**json.loads((folder / ANSWER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def convert(  # noqa: PLR0911 - a ladder
    request: ImageRequest, folder: Path
) -> ImageAnswer:
    """Make the CT series in ``folder``; never raises for what the image is."""
    copies = folder / COPIES
    try:
        copies.mkdir()
        if request.format == "skyscan" and not _is_reconstruction(request):
            return ImageAnswer(kind="none")
        note, digest = _copied(request, copies)
        made = _made(request, note, copies, folder / SERIES)
    except AxesUnknown as error:
        return ImageAnswer(kind="asked", why=_named(error.silence, request, copies))
    except RefusedSeries as error:
        return ImageAnswer(kind="refused", why=_named(str(error), request, copies))
    except MemoryError:
        why = f"{one_line(request.key)} needs more memory than is free"
        return ImageAnswer(kind="later", why=why)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOENT):
            return ImageAnswer(kind="changed")
        where = one_line(error.filename or request.key)
        return ImageAnswer(kind="later", why=f"{where}: {error.strerror}")
    if isinstance(made, str):
        return ImageAnswer(kind="asked", why=made)
    return ImageAnswer(
        kind="made", animal=note.patient_id or request.patient_id, slices=made, sha256=digest
    )


def _is_reconstruction(request: ImageRequest) -> bool:
    """Whether a log tells of a reconstruction; that of the projections has no such section."""
    watched = UnlinkedFolder(Path(request.folder))
    logs = [each for each in request.files if each[0].lower().endswith(".log")]
    return any(
        b"[reconstruction]" in watched.read(path, size, modified_ns)[:_MOST_HEADER_BYTES].lower()
        for path, size, modified_ns, _ in logs
    )


def _copied(request: ImageRequest, copies: Path) -> tuple[_Note, str]:
    """Copy the files; what the note says, and a digest of all."""
    watched, digest = UnlinkedFolder(Path(request.folder)), hashlib.sha256()
    for path, *times in request.files:
        copy = copies / os.path.basename(path)  # noqa: PTH119 - names that are no UTF-8
        watched.copy(path, FileState(*times), copy)
        with copy.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(os.fsencode(copy.name))
    written = b""
    if request.note:
        path, size, modified_ns, _ = request.note
        if size > _MOST_NOTE_BYTES:
            msg = f"{one_line(path)}: {size} bytes, at most {_MOST_NOTE_BYTES} expected"
            raise RefusedSeries(msg)
        written = watched.read(path, size, modified_ns)
    digest.update(repr((written, request.lie, request.patient_id)).encode())
    return _note(request.note_path, written), digest.hexdigest()


def _note(path: str, written: bytes) -> _Note:
    shown = one_line(path)
    try:
        said = tomllib.loads(written.decode("utf-8-sig"))
    except ValueError as error:
        msg = f"{shown}: not valid TOML: {one_line(error)}"
        raise RefusedSeries(msg) from error
    if wrong := sorted(set(said) - {"patient_id", "lie"}):
        msg = f"{shown}: {one_line(', '.join(wrong))[:60]}: patient_id and lie expected"
        raise RefusedSeries(msg)
    for name, value in said.items():
        if not isinstance(value, str) or not value.strip():
            msg = f"{shown}: {name} is {one_line(value)[:60]!r}, a text in quotes expected"
            raise RefusedSeries(msg)
    try:
        lie = checked_lie(said["lie"]) if "lie" in said else ""
    except ValueError as error:
        msg = f"{shown}: lie is {one_line(said['lie'])[:20]!r}: {error}"
        raise RefusedSeries(msg) from error
    return _Note(said.get("patient_id", "").strip(), lie)


def _made(request: ImageRequest, note: _Note, copies: Path, series: Path) -> int | str:
    """Number of slices, or what a person must say."""
    volume = _volume(request, note, copies)
    animal = note.patient_id or request.patient_id
    asked = [] if animal else ["which animal it is (patient_id)"]
    if isinstance(volume, AxesUnknown):
        asked.append(f"how its axes run (lie: {LETTERS}), because {volume.silence}")
    if asked or isinstance(volume, AxesUnknown):
        example = [] if animal else ['patient_id = "..."']
        example += ['lie = "..."'] if isinstance(volume, AxesUnknown) else []
        return (
            f"a person must say {' and '.join(asked)}: write {' and '.join(example)} into "
            f"{one_line(request.note_path)}"
        )
    description = f"{_WORDS[request.format]} image"
    return len(list(write_image_series(volume, series, animal, description, ("", ""))))


def _volume(request: ImageRequest, note: _Note, copies: Path) -> Volume | AxesUnknown:
    if request.format in _VOXELS_AT:
        _check_voxels(request, copies)
    name = os.path.basename(request.key)  # noqa: PTH119
    source = copies if request.format == "skyscan" else copies / name
    image = image_at(source)
    if image is None:
        msg = f"{one_line(request.key)} is no {_WORDS[request.format]} image"
        raise RefusedSeries(msg)
    try:
        return image.read(image.path, note.lie)
    except AxesUnknown as error:
        if request.lie:
            return image.read(image.path, request.lie)
        return AxesUnknown(_named(error.silence, request, copies))


def _check_voxels(request: ImageRequest, copies: Path) -> None:
    """Check that a header names no file but one that was copied with it.

    Raises
    ------
    RefusedSeries
        If it does: the voxels may be any file of this computer.
    """
    path = copies / os.path.basename(request.key)  # noqa: PTH119
    with path.open("rb") as file:
        head = file.read(_MOST_HEADER_BYTES)
    if request.format == "nrrd":
        head, ended, _ = head.replace(b"\r", b"").partition(b"\n\n")
        if not ended and path.stat().st_size > len(head):
            msg = f"{one_line(request.key)}: its header does not end"
            raise RefusedSeries(msg)
    for found in _VOXELS_AT[request.format].finditer(head):
        voxels = os.fsdecode(found[1].strip())
        if request.format == "metaimage" and voxels.upper() == "LOCAL":
            return
        if voxels in ("", ".", "..") or re.search(r"[/\\%]", voxels) or voxels[:4] == "LIST":
            msg = (
                f"{one_line(request.key)} names {one_line(voxels)[:80]!r} as the file of its "
                "voxels: in a watched folder one file beside it expected, whose name begins alike"
            )
            raise RefusedSeries(msg)
        if not (copies / voxels).is_file():
            msg = f"{one_line(request.key)}: the file of its voxels, {one_line(voxels)}, is missing"
            raise RefusedSeries(msg)
        if request.format == "metaimage":
            # What follows are voxels.
            return


def _named(text: str, request: ImageRequest, copies: Path) -> str:
    """A message that names the files in the watched folder, not their copies."""
    folder = request.key if request.format == "skyscan" else os.path.dirname(request.key)  # noqa: PTH120
    return text.replace(one_line(copies), one_line(folder))


def _bound_memory() -> None:
    """Let this process fail before the system ends a worker for its memory; POSIX alone can."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        most = psutil.Process().memory_info().vms + psutil.virtual_memory().available
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Read the request, write the answer; end when the receiver does."""
    end_with_supervisor()
    _bound_memory()
    folder = Path(sys.argv[1])
    request = ImageRequest(**json.loads((folder / REQUEST).read_text(encoding="ascii")))
    answer = convert(request, folder)
    (folder / ANSWER).write_text(json.dumps(asdict(answer)), encoding="utf-8")


if __name__ == "__main__":
    main()
