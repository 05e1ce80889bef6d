"""The Storage SCP: bytes from a scanner into the spool, on disk before Success."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu import A_RELEASE_RQ, P_DATA_TF
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from limn.dicom.series import CT_CLASSES
from limn.dicom.volume import TRANSFER_SYNTAXES
from limn.node.config import Receive
from limn.node.dimse import commitment
from limn.node.dimse.access import LIMIT_EXCEEDED, Caller, Refusal, RefusalReason, refusal_of
from limn.node.dimse.bounds import Bounds
from limn.node.dimse.memory import was_dropped
from limn.node.dimse.server import Listener
from limn.node.dimse.status import OUT_OF_RESOURCES, SUCCESS
from limn.node.dimse.tls import acceptor_context
from limn.node.receive import returned
from limn.node.receive.commitment_scp import CommitmentProvider
from limn.node.receive.gathering import Source
from limn.node.receive.intake import Intake
from limn.node.receive.store_result import StoreResult

log = logging.getLogger(__name__)

# Of one association so many reasons are counted; each further one is a line of its own.
MOST_REASONS = 20


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
    on_n_event_report : handles a destination's report on a commitment that limn requested

    Raises
    ------
    ConfigWrong
        If TLS is configured and a certificate or key can't be used.
    """
    ae = _application_entity(settings)
    scp = StorageScp(settings, intake, settle_s)
    handlers = scp.handlers()
    if provider is not None:
        commitment.offer(ae)
        handlers.append((evt.EVT_N_ACTION, provider.on_n_action))
    if on_n_event_report is not None:
        handlers.append((evt.EVT_N_EVENT_REPORT, on_n_event_report))
    server = Listener(
        ae,
        (settings.host, settings.port),
        handlers,
        bounds=_bounds(settings),
        networks=settings.allow,
        tls=acceptor_context(settings.tls) if settings.tls is not None else None,
        on_association_ended=scp.on_association_ended,
        on_connection_refused=intake.senders.refused,
    )
    log.info(
        "listening as %s on %s:%d%s",
        settings.ae_title,
        settings.host,
        settings.port,
        " with TLS" if settings.tls is not None else "",
    )
    return server


def _application_entity(settings: Receive) -> AE:
    ae = AE(ae_title=settings.ae_title)
    ae.maximum_pdu_size = settings.max_pdu
    # pynetdicom counts connections without an association too; `Admission` counts associations.
    ae.maximum_associations = 2**31
    ae.acse_timeout = settings.artim_s
    ae.network_timeout = settings.idle_s
    ae.add_supported_context(Verification)
    for sop_class in CT_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    ae.add_supported_context(returned.SOP_CLASS, list(returned.TRANSFER_SYNTAXES))
    return ae


def _bounds(settings: Receive) -> Bounds:
    return Bounds(
        max_pdu=settings.max_pdu,
        max_message_bytes=settings.max_instance_mb * 2**20,
        max_incoming_bytes=settings.incoming_mb * 2**20,
        idle_s=settings.idle_s,
        artim_s=settings.artim_s,
        max_connections=2 * settings.max_associations,
    )


class StorageScp:
    """The handlers of the Storage Service Class (PS3.4 annex B), and of C-ECHO."""

    def __init__(self, settings: Receive, intake: Intake, settle_s: float) -> None:
        self._intake = intake
        self._settle_s = settle_s
        self._admission = Admission(settings, intake)
        # CT instances that were offered on an association and not stored. If any is left at the
        # release, the series is incomplete, and few senders send it again.
        self._not_stored: defaultdict[str, set[str]] = defaultdict(set)
        # Of each association, why instances were refused, and how many.
        self._refused: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def handlers(self) -> list[EventHandlerType]:
        """The events of pynetdicom that they answer."""
        return [
            (evt.EVT_REQUESTED, self._admission.on_requested),
            (evt.EVT_C_STORE, self.on_c_store),
            (evt.EVT_C_ECHO, self.on_c_echo),
            (evt.EVT_PDU_RECV, self.on_pdu_recv),
            (evt.EVT_ABORTED, self.on_broken_off),
            (evt.EVT_CONN_CLOSE, self.on_broken_off),
        ]

    def on_c_echo(self, event: evt.Event) -> int:
        """Always Success."""
        del event
        return SUCCESS

    def on_c_store(self, event: evt.Event) -> int:
        """Store one instance; returns the status for the sender."""
        request: C_STORE = event.request  # type: ignore[assignment]  # of EVT_C_STORE
        source = self._source(event.assoc)
        sop_instance_uid = str(request.AffectedSOPInstanceUID)
        is_ct = request.AffectedSOPClassUID != returned.SOP_CLASS
        if is_ct:
            # Before it is stored: if this handler raises, pynetdicom answers and it stays noted.
            self._not_stored[source.key].add(sop_instance_uid)
        if was_dropped(request):
            result = StoreResult(
                OUT_OF_RESOURCES,
                "too much comes in at once (receive.max_incoming_mb); send it again",
            )
        else:
            store = self._intake.accept if is_ct else self._intake.keep_structure_set
            result = store(event.encoded_dataset(), source)
        if not result.stored:
            self._say(source, result)
            why = f"0x{result.status:04X}: {result.why}"
            self._intake.senders.not_stored(source.sender, why)
        else:
            self._intake.senders.stored()
        if not result.missing:
            self._not_stored[source.key].discard(sop_instance_uid)
        self._intake.associations.instance_ended(source.key, missing=result.missing)
        return result.status

    def _say(self, source: Source, result: StoreResult) -> None:
        """Log why an instance was refused; what is wrong with many of an association once."""
        reasons = self._refused[source.key]
        if result.why in reasons:
            reasons[result.why] += 1
            return
        if len(reasons) < MOST_REASONS:
            reasons[result.why] = 1
        log.error("instance from %s answered 0x%04X: %s", source.sender, result.status, result.why)

    def _say_how_many(self, association: Association) -> None:
        for why, count in self._refused.pop(_key(association), Counter[str]()).items():
            if count > 1:
                log.error(
                    "%d instances of one association of %s were refused for this reason: %s",
                    count,
                    _sender(association),
                    why,
                )

    def on_pdu_recv(self, event: evt.Event) -> None:
        """Note the first bytes of an instance; end the source at A-RELEASE-RQ.

        Not at EVT_RELEASED: it comes after the answer, and a peer that has closed its connection by
        then would count as one that broke off.
        """
        if isinstance(event.pdu, P_DATA_TF):
            self._on_data(event.assoc, event.pdu)
        if not isinstance(event.pdu, A_RELEASE_RQ):
            return
        source = self._source(event.assoc)
        self._intake.senders.came(source.sender)
        if missing := tuple(self._not_stored[source.key]):
            log.error(
                "%s ended its association, but limn has not taken %d of its instances; the "
                "series waits for them: send it again",
                source.sender,
                len(missing),
            )
        self._intake.association_ended(source.key, aborted=False, missing=missing)

    def _on_data(self, association: Association, pdu: P_DATA_TF) -> None:
        key, associations = _key(association), self._intake.associations
        if associations.is_under_way(key):
            return
        syntax = _instance_syntax(association, pdu)
        if syntax is None:
            return
        if associations.began_s(key) is None:
            associations.instance_began(key, time.monotonic())
        for item in pdu.presentation_data_value_items:
            value = item.presentation_data_value or b""
            # The first byte tells a part of the data set from one of the command (PS3.8 E.2).
            if value and not value[0] & 1:
                associations.part_came(key, value[1:], syntax)

    def on_broken_off(self, event: evt.Event) -> None:
        """The association was aborted or its connection closed."""
        self._broke_off(_key(event.assoc))

    def on_association_ended(self, association: Association) -> None:
        """The connection's thread is done with it, however it ended."""
        self._admission.on_ended(association)
        key = _key(association)
        # After a release the source is no longer open, and this changes nothing.
        self._broke_off(key)
        self._not_stored.pop(key, None)
        self._say_how_many(association)

    def _broke_off(self, key: str) -> None:
        self._intake.association_ended(
            key, aborted=True, missing=tuple(self._not_stored.get(key, ()))
        )

    def _source(self, association: Association) -> Source:
        return Source(_key(association), _sender(association), self._settle_s)


def _key(association: Association) -> str:
    return f"association-{id(association)}"


def _sender(association: Association) -> str:
    requestor = association.requestor
    # pynetdicom sets the title after EVT_REQUESTED.
    title = requestor.ae_title or (
        requestor.primitive.calling_ae_title if requestor.primitive else ""
    )
    return f"{(title or 'unknown').strip()}@{requestor.address}"


def _instance_syntax(association: Association, pdu: P_DATA_TF) -> str | None:
    """The transfer syntax of the CT instance that the PDU belongs to; None if of another class."""
    context_ids = {item.presentation_context_id for item in pdu.presentation_data_value_items}
    for each in association.accepted_contexts:
        if each.context_id in context_ids and each.abstract_syntax in CT_CLASSES:
            return str(each.transfer_syntax[0])
    return None


class Admission:
    """Applies the rules of access to every A-ASSOCIATE-RQ and counts the open associations."""

    def __init__(self, settings: Receive, intake: Intake) -> None:
        self._settings = settings
        self._intake = intake
        self._open: set[int] = set()
        self._lock = threading.Lock()

    def on_requested(self, event: evt.Event) -> None:
        """Reject the association, or let it be negotiated."""
        association = event.assoc
        request = association.requestor.primitive
        assert request is not None  # noqa: S101 - the event is its arrival
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
                refusal = refusal_of(
                    self._settings, caller, len(self._open), disk_is_low=disk_is_low
                )
                if refusal is None:
                    self._open.add(id(association))
            if refusal is None and caller.stores:
                # Before it is accepted: its first bytes may come at once.
                self._intake.association_opened(_key(association), _sender(association))
        except OSError as error:
            # pynetdicom would swallow it and let the caller in.
            why = f"the disk can't be read: {error}"
            refusal = Refusal(LIMIT_EXCEEDED, RefusalReason.DISK, why)
        sender = _sender(association)
        if refusal is None:
            self._intake.senders.came(sender)
        else:
            self._intake.senders.refused(sender, refusal.reason, refusal.why)
            log.warning(
                "association from %s@%s refused: %s",
                caller.calling_ae.strip(),
                association.requestor.address,
                refusal.why,
            )
            association.acse.send_reject(*refusal.reject)
            association.kill()

    def on_ended(self, association: Association) -> None:
        """Count it no more."""
        with self._lock:
            self._open.discard(id(association))
