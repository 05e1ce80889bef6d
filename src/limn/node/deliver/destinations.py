"""Offers a structure set to a planning system (C-STORE SCU) or an export folder."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from threading import Event

import pydicom
from pydicom.errors import InvalidDicomError

from limn.dicom.bounded import DAMAGES
from limn.dicom.for_destination import choose_rois
from limn.domain.errors import ConfigWrong, PeerUnreachable
from limn.domain.files import may_pass, write_durably
from limn.domain.folders import not_a_folder
from limn.domain.forms import ENDINGS, Form
from limn.domain.one_line import one_line
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver.export_place import ExportPlace
from limn.node.dimse.client import AssociationRejected, peer_of, store
from limn.node.dimse.status import DUPLICATE, OUT_OF_RESOURCES, SUCCESS
from limn.node.store.disk.spool import FORMS_DIR

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
# What some file system takes in no name.
_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9_-]+")


class Outcome(Enum):
    """What a destination's answer means."""

    DELIVERED = "delivered"
    RETRY_LATER = "retry later"
    REFUSED = "refused"


class Failure(StrEnum):
    """Why a structure set was not taken; a label of the metrics."""

    NONE = ""
    # The peer did not answer, or broke off.
    UNANSWERED = "unanswered"
    # It refused the association.
    REJECTED = "rejected"
    # It has no room for the file.
    NO_ROOM = "no-room"
    # It refused the file, and a person must act.
    REFUSED = "refused"
    # The export folder is away, or can't be written.
    FOLDER = "folder"
    # The node's own file can't be used.
    FILE = "file"


# By these the destination takes nothing, whatever it is offered.
DOWN = (Failure.UNANSWERED, Failure.REJECTED, Failure.NO_ROOM, Failure.FOLDER)
# By what a status of C-STORE means.
FAILURE_OF = {
    Outcome.DELIVERED: Failure.NONE,
    Outcome.RETRY_LATER: Failure.NO_ROOM,
    Outcome.REFUSED: Failure.REFUSED,
}


def failure_of(error: PeerUnreachable | ConfigWrong) -> Failure:
    """Why a peer could not be asked, or did not answer."""
    return Failure.REJECTED if isinstance(error, AssociationRejected) else Failure.UNANSWERED


@dataclass(frozen=True, slots=True)
class DeliveryAnswer:
    """A destination's answer, and when it came (UTC seconds).

    Attributes
    ----------
    failure : why it was not taken; `Failure.FILE` where no peer was asked
    """

    outcome: Outcome
    status: str
    answered_at: float
    failure: Failure = Failure.FILE

    @property
    def is_down(self) -> bool:
        """Whether the destination takes nothing now, whatever it is offered."""
        return self.failure in DOWN


def judge(status: int) -> Outcome:
    """What a C-STORE status (PS3.4 GG.4-1) means: accepted, retry later, or refused.

    Success, warnings (0xBxxx and 0x0001) and 0x0111 "duplicate SOP Instance" mean that the
    peer has the file; 0xA7xx "out of resources" is temporary.
    """
    if status in (SUCCESS, 0x0001, DUPLICATE) or status & 0xF000 == 0xB000:
        return Outcome.DELIVERED
    if status & 0xFF00 == OUT_OF_RESOURCES:
        return Outcome.RETRY_LATER
    return Outcome.REFUSED


def deliver(
    destination: DicomDestination | FolderDestination,
    path: Path,
    calling_ae_title: str,
    stopping: Event | None = None,
    contents_sha256: str = "",
    place: ExportPlace | None = None,
) -> DeliveryAnswer:
    """Offer one structure set to one destination.

    Parameters
    ----------
    place : of an export folder, as the node remembers it
    contents_sha256 : of the file as limn wrote it; empty if nobody knows it
    stopping : set when the node stops; a planning system then has a few seconds to answer
    """
    contents = contents_of(path, contents_sha256)
    if isinstance(contents, DeliveryAnswer):
        return contents
    name = path.name
    try:
        if destination.rois is not None:
            contents = choose_rois(contents, destination.rois, destination.name)
            name = f"{path.stem}.{_NO_FILE_NAME.sub('_', destination.name)[:60]}{path.suffix}"
    except ConfigWrong as error:
        why = f"{error}; see rois of destination {destination.name}"
        return DeliveryAnswer(Outcome.REFUSED, why, time.time())
    except (InvalidDicomError, *DAMAGES) as error:
        return _damaged(path, error)
    return offer(destination, [path], name, contents, calling_ae_title, stopping, place)


def offer(
    destination: DicomDestination | FolderDestination,
    paths: Sequence[Path],
    name: str,
    contents: bytes,
    calling_ae_title: str,
    stopping: Event | None = None,
    place: ExportPlace | None = None,
) -> DeliveryAnswer:
    """Offer the bytes of a structure set to one destination.

    Parameters
    ----------
    paths : of the structure sets that it was made of, for the other forms of their scans
    name : of the file in an export folder
    stopping, place : see `deliver`
    """
    if isinstance(destination, FolderDestination):
        return _export(destination, paths, name, contents, place)
    try:
        dataset = pydicom.dcmread(io.BytesIO(contents))
        # The association needs both.
        _ = dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID
    except (InvalidDicomError, *DAMAGES) as error:
        return _damaged(paths[0], error)
    peer = peer_of(destination, calling_ae_title)
    try:
        answers = iter(store(peer, [dataset], stopping))
        status = next(answers)
        # Taken before the release, which a slow peer delays: the time of the answer counts.
        answered_at = time.time()
        next(answers, None)
    except (PeerUnreachable, ConfigWrong) as error:
        return DeliveryAnswer(Outcome.RETRY_LATER, str(error), time.time(), failure_of(error))
    outcome = judge(status)
    return DeliveryAnswer(outcome, f"0x{status:04X}", answered_at, FAILURE_OF[outcome])


def _damaged(path: Path, error: Exception) -> DeliveryAnswer:
    return DeliveryAnswer(
        Outcome.REFUSED, f"{path} is damaged on this disk: {error!r}", time.time()
    )


def contents_of(path: Path, contents_sha256: str) -> bytes | DeliveryAnswer:
    """The bytes of a structure set, or why they can't be offered."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        outcome = Outcome.RETRY_LATER if may_pass(error) else Outcome.REFUSED
        return DeliveryAnswer(outcome, f"can't read {path}: {error.strerror}", time.time())
    if contents_sha256 and hashlib.sha256(contents).hexdigest() != contents_sha256:
        # One UID names one content (D-232).
        why = (
            f"{path} is not what limn wrote there: another program has changed it. Keep it "
            "elsewhere, find out what writes there, and send the series again from the scanner"
        )
        return DeliveryAnswer(Outcome.REFUSED, why, time.time())
    return contents


def _export(
    destination: FolderDestination,
    paths: Sequence[Path],
    name: str,
    contents: bytes,
    place: ExportPlace | None,
) -> DeliveryAnswer:
    """Write a structure set and the other forms of its scans, the structure set last.

    The folder must be there: below the mount point of a share that is gone it would be made on the
    local disk (D-258).
    """
    if fault := place.fault() if place is not None else "":
        away = f"{destination.folder}: {one_line(fault)}"
        return DeliveryAnswer(Outcome.RETRY_LATER, away, time.time(), Failure.FOLDER)
    try:
        for path in paths:
            for other in sorted((path.parent / FORMS_DIR).glob("*")):
                if _is_wanted(other.name, destination.forms):
                    # Of every scan the files have the same names.
                    named = destination.folder / f"{path.parent.name}.{other.name}"
                    write_durably(named, other.read_bytes())
        write_durably(destination.folder / name, contents)
    except OSError as error:
        why = one_line(not_a_folder(destination.folder)) or error.strerror
        away = f"{destination.folder}: {why}"
        return DeliveryAnswer(Outcome.RETRY_LATER, away, time.time(), Failure.FOLDER)
    return DeliveryAnswer(Outcome.DELIVERED, "written", time.time(), Failure.NONE)


def _is_wanted(name: str, forms: Collection[Form]) -> bool:
    return any(form in forms and name.endswith(ENDINGS[form]) for form in ENDINGS)


def backoff_s(tries: int) -> float:
    """Seconds until the next try: doubles from 1 s to 60 s, varied at random by 20 %."""
    return float(min(LONGEST_WAIT_S, 2.0 ** min(tries, 10)) * random.uniform(0.8, 1.2))  # noqa: S311
