"""Tries one destination: C-ECHO to a DICOM peer, a test file for a folder."""

from __future__ import annotations

import time

from limn.domain.errors import PeerUnreachable
from limn.domain.folders import writable
from limn.node.config import DicomDestination, FolderDestination
from limn.node.dimse.client import AssociationRejected, echo, peer_of


def try_destination(
    destination: DicomDestination | FolderDestination, calling_ae_title: str
) -> str:
    """What the destination answers, in words; no structure set is sent.

    Raises
    ------
    PeerUnreachable, ConfigWrong
        If it would take nothing; the text says why and what to do.
    """
    if isinstance(destination, FolderDestination):
        return f"{writable(destination.folder)} can be written"
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
