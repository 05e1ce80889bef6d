"""The Storage SCP: bytes from a scanner into the spool, on disk before Success."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu import A_RELEASE_RQ
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from limn.dicom.series import CT_CLASSES
from limn.dicom.volume import TRANSFER_SYNTAXES
from limn.node.config import Receive
from limn.node.dimse import commitment
from limn.node.dimse.access import LIMIT_EXCEEDED, Caller, Refusal, why_not
from limn.node.dimse.bounds import Bounds
from limn.node.dimse.memory import was_dropped
from limn.node.dimse.server import Listener
from limn.node.dimse.status import DUPLICATE, OUT_OF_RESOURCES, SUCCESS
from limn.node.dimse.tls import acceptor_context
from limn.node.receive import returned
from limn.node.receive.commitment_scp import CommitmentProvider
from limn.node.receive.gathering import Source
from limn.node.receive.intake import Intake

log = logging.getLogger(__name__)


def listen(
    settings: Receive,
    intake: Intake,
    settle_s: float,
    provider: CommitmentProvider | None = None,
    on_n_event_report: Callable[[evt.Event], object] | None = None,
) -> Listener:
    """Open the port; returns the running server, whose ``shutdown()`` closes it.

    Parameters
    ----------
    provider : answers N-ACTION; None offers no storage commitment
    on_n_event_report : hears what a destination says of a commitment that limn asked for

    Raises
    ------
    ConfigWrong
        If TLS is asked for and a certificate or key can't be used.
    """
    ae = AE(ae_title=settings.ae_title)
    ae.maximum_pdu_size = settings.max_pdu
    # pynetdicom counts connections that have said nothing yet; we count associations.
    ae.maximum_associations = 2**31
    ae.acse_timeout = settings.artim_s
    ae.network_timeout = settings.idle_s
    ae.add_supported_context(Verification)
    for sop_class in CT_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    ae.add_supported_context(returned.SOP_CLASS, list(returned.TRANSFER_SYNTAXES))
    doorman = _Doorman(settings, intake)
    handlers: list[EventHandlerType] = []
    if provider is not None:
        commitment.offer(ae)
        handlers.append((evt.EVT_N_ACTION, provider.on_n_action))
    if on_n_event_report is not None:
        handlers.append((evt.EVT_N_EVENT_REPORT, on_n_event_report))

    # Of each association the CT instances that it sent and limn has not: whoever releases it with
    # one left has not sent the whole series, and few senders send it again.
    lacking: defaultdict[str, set[str]] = defaultdict(set)

    def store(event: evt.Event) -> int:
        request: C_STORE = event.request  # type: ignore[assignment]  # of EVT_C_STORE
        source = _source(event.assoc, settle_s)
        is_ct = request.AffectedSOPClassUID != returned.SOP_CLASS
        if is_ct:
            # Until it is taken: what raises here is answered by pynetdicom.
            lacking[source.key].add(str(request.AffectedSOPInstanceUID))
        if was_dropped(request):
            status, why = (
                OUT_OF_RESOURCES,
                ("too much comes in at once (receive.max_incoming_mb); send it again"),
            )
        else:
            take = intake.accept if is_ct else intake.keep_structure_set
            status, why = take(event.encoded_dataset(), source)
        if status != SUCCESS:
            log.error("instance from %s answered 0x%04X: %s", source.sender, status, why)
        # Of a duplicate with other content the first is there.
        if status in {SUCCESS, DUPLICATE}:
            lacking[source.key].discard(str(request.AffectedSOPInstanceUID))
        return status

    def received(event: evt.Event) -> None:
        # Not EVT_RELEASED: it comes after the answer, and a peer that has closed its connection
        # by then would count as one that broke off.
        if isinstance(event.pdu, A_RELEASE_RQ):
            source = _source(event.assoc, settle_s)
            if missing := len(lacking[source.key]):
                log.error(
                    "%s ended its association, but limn has not taken %d of its instances; the "
                    "series waits for them: send it again",
                    source.sender,
                    missing,
                )
            intake.association_ended(source.key, aborted=bool(missing))

    def broken(event: evt.Event) -> None:
        intake.association_ended(_source(event.assoc, settle_s).key, aborted=True)

    def ended(association: Association) -> None:
        doorman.leaves(association)
        # However it ended: after a release it finds nothing open.
        key = _source(association, settle_s).key
        intake.association_ended(key, aborted=True)
        lacking.pop(key, None)

    server = Listener(
        ae,
        (settings.host, settings.port),
        [
            (evt.EVT_REQUESTED, doorman.asked),
            (evt.EVT_C_STORE, store),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_PDU_RECV, received),
            (evt.EVT_ABORTED, broken),
            (evt.EVT_CONN_CLOSE, broken),
            *handlers,
        ],
        bounds=Bounds(
            max_pdu=settings.max_pdu,
            max_message_bytes=settings.max_instance_mb * 2**20,
            max_incoming_bytes=settings.incoming_mb * 2**20,
            idle_s=settings.idle_s,
            artim_s=settings.artim_s,
            max_connections=2 * settings.max_associations,
        ),
        networks=settings.allow,
        tls=acceptor_context(settings.tls) if settings.tls is not None else None,
        ended=ended,
    )
    log.info(
        "listening as %s on %s:%d%s",
        settings.ae_title,
        settings.host,
        settings.port,
        " with TLS" if settings.tls is not None else "",
    )
    return server


class _Doorman:
    """Asks the rules at every A-ASSOCIATE-RQ and remembers who is in."""

    def __init__(self, settings: Receive, intake: Intake) -> None:
        self._settings = settings
        self._intake = intake
        self._inside: set[int] = set()
        self._lock = threading.Lock()

    def asked(self, event: evt.Event) -> None:
        """Reject the association, or let it be negotiated."""
        association = event.assoc
        request = association.requestor.primitive
        assert request is not None  # noqa: S101 - it is what has just come
        caller = Caller(
            calling_ae=request.calling_ae_title or "",
            called_ae=request.called_ae_title or "",
            stores=any(
                context.abstract_syntax in CT_CLASSES
                for context in request.presentation_context_definition_list
            ),
        )
        try:
            disk_is_low = caller.stores and self._intake.is_low(self._settings.refuse_free_mb)
            with self._lock:
                refusal = why_not(
                    self._settings, caller, len(self._inside), disk_is_low=disk_is_low
                )
                if refusal is None:
                    self._inside.add(id(association))
        except OSError as error:
            # pynetdicom would swallow it and let the caller in.
            refusal = Refusal(LIMIT_EXCEEDED, f"the disk can't be read: {error}")
        if refusal is not None:
            log.warning(
                "association from %s@%s refused: %s",
                caller.calling_ae.strip(),
                association.requestor.address,
                refusal.why,
            )
            association.acse.send_reject(*refusal.reject)
            association.kill()

    def leaves(self, association: Association) -> None:
        """It is over; there is room for another."""
        with self._lock:
            self._inside.discard(id(association))


def _source(association: Association, settle_s: float) -> Source:
    requestor = association.requestor
    return Source(
        key=f"association-{id(association)}",
        sender=f"{requestor.ae_title or 'unknown'}@{requestor.address}",
        settle_s=settle_s,
    )
