"""The DICOM client: associations, C-ECHO and C-STORE to a peer."""

from __future__ import annotations

import socket
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from threading import Event

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from limn.domain.errors import PeerUnreachable
from limn.node.config import DicomDestination, PeerTls
from limn.node.dimse import routing
from limn.node.dimse.answers import rejection_words
from limn.node.dimse.deadline import Deadline
from limn.node.dimse.status import SUCCESS
from limn.node.dimse.tls import requestor_context

MAX_PDU = 131072
CONNECT_S = 5.0
REPLY_S = 60.0
# For all that is neither a connection nor a reply: encoding, the release, a loaded machine.
REST_S = 20.0
LAST_MESSAGE_ID = 65535
# Result of an A-ASSOCIATE-RJ (PS3.8 table 9-21).
REJECTED_TRANSIENT = 2


class AssociationRejected(PeerUnreachable):
    """The peer answered with A-ASSOCIATE-RJ; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM peer: its title and address, and the title that limn calls it with."""

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


def deadline(stopping: Event | None = None, more_s: float = 0.0) -> Deadline:
    """The deadline of an association with one request, or of each request of many.

    Parameters
    ----------
    stopping : set when the node stops
    more_s : that the caller waits after the reply
    """
    return Deadline(2 * CONNECT_S + REPLY_S + REST_S + more_s, stopping)


class ClassNotAccepted(PeerUnreachable):
    """A peer that accepts the association and none of the classes that limn wants to send."""


def store(
    peer: Peer,
    datasets: Iterable[Dataset],
    stopping: Event | None = None,
    contexts: Collection[tuple[str, UID]] = (),
) -> Generator[int]:
    """C-STORE over one association; yields the status of each dataset.

    Parameters
    ----------
    stopping : set when the node stops; the association then has a few seconds left
    contexts : SOP class and transfer syntax of all datasets, which are then read one by one

    Raises
    ------
    PeerUnreachable
        If there is no association or no response to this very request, or if it takes too long;
        `ClassNotAccepted` if the peer accepts no class of them.
    """
    if not contexts:
        datasets = list(datasets)
        contexts = {(str(ds.SOPClassUID), UID(ds.file_meta.TransferSyntaxUID)) for ds in datasets}
    until = deadline(stopping)
    association = associate(peer, sorted(contexts), until=until)
    try:
        for number, ds in enumerate(datasets):
            until.renew()
            try:
                # Each request its own number: a response that comes twice answers no other.
                status = association.send_c_store(ds, msg_id=1 + number % LAST_MESSAGE_ID)
            except ValueError as error:
                msg = f"{peer} accepts no {UID(ds.SOPClassUID).name}: {error}"
                raise PeerUnreachable(msg) from error
            except RuntimeError as error:
                msg = f"{peer} {until.why or 'broke off before C-STORE'}"
                raise PeerUnreachable(msg) from error
            if "Status" not in status:
                msg = f"{peer} {until.why or 'broke off during C-STORE'}"
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
    until = deadline()
    association = associate(peer, [(Verification, UID("1.2.840.10008.1.2"))], until=until)
    try:
        status = association.send_c_echo()
    except (ValueError, RuntimeError) as error:
        msg = f"{peer} takes no C-ECHO: {until.why or error}"
        raise PeerUnreachable(msg) from error
    finally:
        association.release()
    if "Status" not in status or status.Status != SUCCESS:
        answer = until.why or f"answered C-ECHO with {status.get('Status', 'nothing')}"
        msg = f"{peer} {answer}"
        raise PeerUnreachable(msg)


def associate(
    peer: Peer,
    contexts: Iterable[tuple[str, UID]],
    *,
    handlers: Sequence[EventHandlerType] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    until: Deadline | None = None,
) -> Association:
    """An association with a peer.

    Parameters
    ----------
    until : the deadline that ends it; without one it has the time of one request

    Raises
    ------
    AssociationRejected
        If the peer refuses it.
    PeerUnreachable
        If there is none.
    ConfigWrong
        If TLS is configured and a certificate or key can't be used.
    """
    until = until or deadline()
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
            evt_handlers=[*handlers, *until.handlers()],
            ext_neg=list(roles),
        )
    except OSError as error:
        msg = f"{peer} can't be found: {error.strerror}"
        raise PeerUnreachable(msg) from error
    if association.rejected_contexts and not association.accepted_contexts:
        names = {UID(str(each.abstract_syntax)).name for each in association.rejected_contexts}
        msg = f"{peer} accepts no {' and no '.join(sorted(names))}"
        raise ClassNotAccepted(msg)
    if not association.is_established:
        raise _unestablished(association, peer, until)
    routing.install(association, until.note)
    if association.dul.socket is not None and association.dul.socket.socket is not None:
        # Nagle's algorithm and the peer's delayed ACK would cost 40 ms per instance.
        association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return association


def _unestablished(association: Association, peer: Peer, until: Deadline) -> PeerUnreachable:
    """Why there is no association with a peer."""
    if association.is_rejected and not until.why:
        why = _rejection(association, peer)
        return AssociationRejected(f"{peer} refused the association: {why}")
    why = "does not answer"
    if peer.tls is not None:
        why += (
            f", or TLS failed: {peer.tls.ca} must vouch for its certificate, which must name "
            f"{peer.tls.server_name or peer.host}, and its CA for {peer.tls.certificate}"
        )
    return PeerUnreachable(f"{peer} {until.why or why}")


def _rejection(association: Association, peer: Peer) -> str:
    """Why a peer rejected an association, for people."""
    answer = association.acceptor.primitive
    return rejection_words(
        getattr(answer, "result_source", None),
        getattr(answer, "diagnostic", None),
        calling=peer.calling_ae_title,
        called=peer.ae_title,
        is_transient=getattr(answer, "result", None) == REJECTED_TRANSIENT,
    )
