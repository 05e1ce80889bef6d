"""Structure sets that come in: kept where the operator finds them, never contoured.

Planning systems and archives may forward whatever they receive: limn's own structure sets, and
those of other systems. The receiver stores them, so that no sender retries for ever; it contours CT
only. What a person changed in them the engine measures later (`limn.node.contour.edits`).
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage

from limn.dicom.bounded import DAMAGES, read
from limn.dicom.identity import animal_of
from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.node.dimse.status import CANNOT_UNDERSTAND, OUT_OF_RESOURCES
from limn.node.permissions import make_private_folder
from limn.node.receive.store_result import StoreResult
from limn.node.store.disk.spool import Spool
from limn.node.store.journal.journal import Journal

log = logging.getLogger(__name__)

SOP_CLASS = RTStructureSetStorage
TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def keep(contents: bytes, sender: str, spool: Spool, journal: Journal) -> StoreResult:
    """Store a structure set beside the spool, once; a planning system's edit is another file."""
    try:
        # Contours alone may have many megabytes; receive.max_instance_mb bounds the whole.
        ds = read(contents)
        if ds.get("SOPClassUID") != SOP_CLASS:
            return StoreResult(CANNOT_UNDERSTAND, "offered as an RT Structure Set, but it is none")
        uid, animal = str(ds.get("SOPInstanceUID", "")), animal_of(ds)
    except InvalidDicomError as error:
        return StoreResult(CANNOT_UNDERSTAND, f"not a DICOM file: {error}")
    except DAMAGES as error:
        return StoreResult(CANNOT_UNDERSTAND, f"damaged DICOM: {error}")
    own, what = journal.scan_of_structure_set(uid), "structure set"
    if own is None:
        own, what = journal.scan_of_preview(uid), "PREVIEW"
    # No name comes from a UID; the hash of the content tells an edit from the original.
    name = f"{own.name if own else 'foreign'}-{hashlib.sha256(contents).hexdigest()[:16]}.dcm"
    folder = spool.root.parent / "returned"
    try:
        if shortage := spool.shortage():
            return StoreResult(OUT_OF_RESOURCES, shortage)
        path = _store(folder, name, contents)
    except OSError as error:
        return StoreResult(OUT_OF_RESOURCES, f"{folder} can't be written: {error}")
    if own is not None and animal.strip() != own.animal.strip():
        log.warning(
            "%s animal %s: a structure set with the UID of its own came from %s, but for animal "
            "'%s'; kept in %s, nothing is contoured; ask that system's administrator",
            own.name,
            own.animal,
            sender,
            animal,
            path,
        )
    elif own is not None:
        log.info(
            "%s animal %s: its %s came back from %s; kept in %s, nothing is contoured",
            own.name,
            own.animal,
            what,
            sender,
            path,
        )
    else:
        log.info(
            "structure set with a UID that limn did not give, animal '%s', from %s; kept in %s; it "
            "is compared with limn's if it was drawn on a scan of this node, nothing is contoured",
            animal,
            sender,
            path,
        )
    return StoreResult()


def _store(folder: Path, name: str, contents: bytes) -> Path:
    path = folder / name
    if not path.exists():
        make_private_folder(folder)
        write_durably(path, contents, OWNER_ONLY_FILE)
    return path
