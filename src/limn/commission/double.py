"""Takes the structure sets that the node draws of phantoms, as a planning system would."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import RTStructureSetStorage
from pynetdicom import AE, evt

from limn.dicom.bounded import DAMAGES, read
from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.folders import files_below, writable
from limn.node.config import COMMISSIONING_AE
from limn.node.dimse.status import SUCCESS
from limn.node.host.port_holder import HostPort, refusal_of

POLL_S = 0.25


@contextmanager
def receiving_double(port: int, folder: Path) -> Iterator[None]:
    """A Storage SCP at 127.0.0.1 that writes each structure set into the folder.

    Raises
    ------
    ConfigWrong
        If the port can't be used.
    """
    writable(folder)

    def store(event: evt.Event) -> int:
        uid = str(event.file_meta.MediaStorageSOPInstanceUID)
        write_durably(folder / f"RS.{uid}.dcm", event.encoded_dataset())
        return SUCCESS

    ae = AE(ae_title=COMMISSIONING_AE)
    ae.require_called_aet = True
    ae.add_supported_context(RTStructureSetStorage)
    try:
        server = ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
        )
    except OSError as error:
        taken = HostPort("commissioning.port", "127.0.0.1", port)
        said = refusal_of({taken: error.strerror or str(error)})
        msg = f"{said} and start the node again"
        raise ConfigWrong(msg) from error
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()


def structure_sets_of(folder: Path, series_instance_uid: str) -> list[bytes]:
    """The structure sets in a folder that were drawn on a series, the newest last.

    Files that are no structure set, or can't be read, are left out.
    """
    found = []
    for path in files_below(folder):
        try:
            contents = path.read_bytes()
            ds = read(contents)
            if ds.get("Modality") != "RTSTRUCT":
                continue
            if series_instance_uid in _referenced(ds):
                found.append((path.stat().st_mtime_ns, contents))
        except (OSError, *DAMAGES):
            continue
    return [contents for _, contents in sorted(found, key=lambda each: each[0])]


def awaited_structure_sets(folder: Path, series_instance_uid: str, limit_s: float) -> list[bytes]:
    """As `structure_sets_of`, and so long until there is one; none if it does not come in time."""
    until_s = time.monotonic() + limit_s
    while True:
        found = structure_sets_of(folder, series_instance_uid)
        if found or time.monotonic() >= until_s:
            return found
        time.sleep(POLL_S)


def _referenced(ds: object) -> set[str]:
    """SeriesInstanceUIDs that a structure set refers to (PS3.3 C.8.8.5)."""
    uids = set()
    for frame in getattr(ds, "ReferencedFrameOfReferenceSequence", None) or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                uids.add(str(series.get("SeriesInstanceUID", "")))
    return uids
