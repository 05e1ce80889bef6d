"""Tries one destination: C-ECHO to a DICOM peer, a test file for a folder."""

from __future__ import annotations

import time
from pathlib import Path

from limn.domain.errors import ConfigWrong, PeerUnreachable
from limn.domain.folders import not_a_folder, writable
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver.export_place import ExportPlace, mount_point
from limn.node.dimse.client import AssociationRejected, echo, peer_of


def try_destination(
    destination: DicomDestination | FolderDestination, calling_ae_title: str, data_dir: Path
) -> str:
    """What the destination answers, in words; no structure set is sent.

    Raises
    ------
    PeerUnreachable, ConfigWrong
        If it would take nothing; the text says why and what to do.
    """
    if isinstance(destination, FolderDestination):
        return _try_folder(ExportPlace(destination.folder, data_dir))
    peer = peer_of(destination, calling_ae_title)
    started_s = time.perf_counter()
    try:
        echo(peer)
    except AssociationRejected as error:
        msg = f"{error}. Structure sets wait in the journal until it takes them"
        raise PeerUnreachable(msg) from error
    except PeerUnreachable as error:
        msg = (
            f"{error}; start it, or compare host, port and AE titles with its own settings. "
            "Structure sets wait in the journal until it answers"
        )
        raise PeerUnreachable(msg) from error
    return f"{peer} answers C-ECHO in {time.perf_counter() - started_s:.2f} s"


def _try_folder(place: ExportPlace) -> str:
    folder = place.folder
    try:
        place.adopt()
    except OSError as error:
        why = not_a_folder(folder) or error.strerror
        msg = f"{folder}: {why}; give a folder that you may write to"
        raise ConfigWrong(msg) from error
    if fault := place.fault():
        msg = f"{folder}: {fault}. Structure sets wait in the journal until then"
        raise ConfigWrong(msg)
    return f"{writable(folder)} can be written, on the disk at {mount_point(folder)}"
