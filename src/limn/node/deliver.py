"""Structure sets to planning systems (C-STORE SCU) and export folders."""

from __future__ import annotations

import io
import logging
import random
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from limn.dicom.bounded import DAMAGES
from limn.domain.errors import ConfigWrong, PeerUnreachable
from limn.node import answers
from limn.node.config import DicomDestination, FolderDestination, PeerTls
from limn.node.peer_tls import requestor_context
from limn.node.spool import write_durably

log = logging.getLogger(__name__)

MAX_PDU = 131072
CONNECT_S = 5.0
REPLY_S = 60.0
LONGEST_WAIT_S = 60.0
OUT_OF_RESOURCES = 0xA700
DUPLICATE = 0x0111


class Outcome(Enum):
    """What a destination's answer means."""

    DELIVERED = "delivered"
    AGAIN = "again"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination said, and when (UTC seconds)."""

    outcome: Outcome
    status: str
    answered_at: float


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM peer: who and where, and who we say we are."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    tls: PeerTls | None = None

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


def peer_of(destination: DicomDestination, calling_ae_title: str) -> Peer:
    """A destination as the peer to talk to."""
    return Peer(
        destination.ae_title,
        destination.host,
        destination.port,
        calling_ae_title,
        destination.tls,
    )


def judge(status: int) -> Outcome:
    """A C-STORE status (PS3.4 GG.4-1): accepted, try again, or somebody must act.

    Success, warnings (0xBxxx and 0x0001) and 0x0111 "duplicate SOP Instance" mean that the
    peer has the file; 0xA7xx "out of resources" passes.
    """
    if status in (0x0000, 0x0001, DUPLICATE) or status & 0xF000 == 0xB000:
        return Outcome.DELIVERED
    if status & 0xFF00 == OUT_OF_RESOURCES:
        return Outcome.AGAIN
    return Outcome.HELD


def deliver(
    destination: DicomDestination | FolderDestination,
    path: Path,
    calling_ae_title: str,
) -> Answer:
    """Offer one structure set to one destination."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        return Answer(Outcome.HELD, f"can't read {path}: {error.strerror}", time.time())
    if isinstance(destination, FolderDestination):
        return _export(destination, path.name, contents)
    try:
        dataset = pydicom.dcmread(io.BytesIO(contents))
        # What an association is asked for.
        _ = dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID
    except (InvalidDicomError, *DAMAGES) as error:
        return Answer(Outcome.HELD, f"{path} is damaged on this disk: {error!r}", time.time())
    peer = peer_of(destination, calling_ae_title)
    try:
        answers = iter(store(peer, [dataset]))
        status = next(answers)
        # Before the release, which a slow peer draws out: the answer is what counts.
        answered_at = time.time()
        next(answers, None)
    except (PeerUnreachable, ConfigWrong) as error:
        return Answer(Outcome.AGAIN, str(error), time.time())
    return Answer(judge(status), f"0x{status:04X}", answered_at)


def _export(destination: FolderDestination, name: str, contents: bytes) -> Answer:
    try:
        destination.folder.mkdir(parents=True, exist_ok=True)
        write_durably(destination.folder / name, contents)
    except OSError as error:
        return Answer(Outcome.AGAIN, f"{destination.folder}: {error.strerror}", time.time())
    return Answer(Outcome.DELIVERED, "written", time.time())


def store(peer: Peer, datasets: Iterable[Dataset]) -> Iterator[int]:
    """C-STORE over one association; yields the status of each dataset.

    Raises
    ------
    PeerUnreachable
        If no association or no answer comes about.
    """
    waiting = list(datasets)
    contexts = {(str(ds.SOPClassUID), UID(ds.file_meta.TransferSyntaxUID)) for ds in waiting}
    association = associate(peer, sorted(contexts))
    try:
        for ds in waiting:
            try:
                status = association.send_c_store(ds)
            except ValueError as error:
                msg = f"{peer} accepts no {UID(ds.SOPClassUID).name}: {error}"
                raise PeerUnreachable(msg) from error
            except RuntimeError as error:
                msg = f"{peer} broke off before C-STORE"
                raise PeerUnreachable(msg) from error
            if "Status" not in status:
                msg = f"{peer} broke off during C-STORE"
                raise PeerUnreachable(msg)
            yield int(status.Status)
    finally:
        if association.is_established:
            association.release()


def echo(peer: Peer) -> None:
    """C-ECHO.

    Raises
    ------
    PeerUnreachable
        If the peer does not answer with success.
    """
    association = associate(peer, [(Verification, UID("1.2.840.10008.1.2"))])
    try:
        status = association.send_c_echo()
    except (ValueError, RuntimeError) as error:
        msg = f"{peer} takes no C-ECHO: {error}"
        raise PeerUnreachable(msg) from error
    finally:
        association.release()
    if "Status" not in status or status.Status != 0:
        msg = f"{peer} answered C-ECHO with {status.get('Status', 'nothing')}"
        raise PeerUnreachable(msg)


def backoff_s(tries: int) -> float:
    """Seconds until the next try: doubling from 1 s to a minute, a little random."""
    return float(min(LONGEST_WAIT_S, 2.0 ** min(tries, 10)) * random.uniform(0.8, 1.2))  # noqa: S311


def associate(
    peer: Peer,
    contexts: Iterable[tuple[str, UID]],
    *,
    handlers: Sequence[EventHandlerType] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Association:
    """An association with a peer.

    Raises
    ------
    PeerUnreachable
        If none comes about.
    ConfigWrong
        If TLS is asked for and a certificate or key can't be used.
    """
    ae = AE(ae_title=peer.calling_ae_title)
    ae.connection_timeout = CONNECT_S
    ae.acse_timeout = CONNECT_S
    ae.dimse_timeout = REPLY_S
    for sop_class, syntax in contexts:
        ae.add_requested_context(sop_class, syntax)
    tls = None
    if peer.tls is not None:
        tls = (requestor_context(peer.tls), peer.tls.server_name or peer.host)
    try:
        association = ae.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            max_pdu=MAX_PDU,
            tls_args=tls,
            evt_handlers=list(handlers),
            ext_neg=list(roles),
        )
    except OSError as error:
        msg = f"{peer} can't be found: {error.strerror}"
        raise PeerUnreachable(msg) from error
    if not association.is_established:
        why = "refused the association" if association.is_rejected else "does not answer"
        if peer.tls is not None and not association.is_rejected:
            why += (
                f", or TLS failed: {peer.tls.ca} must vouch for its certificate, which must name "
                f"{peer.tls.server_name or peer.host}, and its CA for {peer.tls.certificate}"
            )
        msg = f"{peer} {why}"
        raise PeerUnreachable(msg)
    answers.sort(association)
    if association.dul.socket is not None and association.dul.socket.socket is not None:
        # Nagle's algorithm and the peer's delayed ACK would cost 40 ms per instance.
        association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return association
