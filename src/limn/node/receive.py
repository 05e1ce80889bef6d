"""The Storage SCP: bytes from a scanner into the spool, on disk before Success."""

from __future__ import annotations

import logging

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from limn.dicom.series import CT_CLASSES
from limn.dicom.volume import TRANSFER_SYNTAXES
from limn.node.config import Receive
from limn.node.intake import SUCCESS, Intake, Source

log = logging.getLogger(__name__)

MAX_PDU = 131072


def listen(settings: Receive, intake: Intake, settle_s: float) -> ThreadedAssociationServer:
    """Open the port; returns the running server, whose ``shutdown()`` closes it."""
    ae = AE(ae_title=settings.ae_title)
    ae.maximum_pdu_size = MAX_PDU
    ae.maximum_associations = settings.max_associations
    ae.add_supported_context(Verification)
    for sop_class in CT_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))

    def store(event: evt.Event) -> int:
        source = _source(event, settle_s)
        status, why = intake.accept(event.encoded_dataset(), source)
        if status != SUCCESS:
            log.error("instance from %s answered 0x%04X: %s", source.sender, status, why)
        return status

    def released(event: evt.Event) -> None:
        intake.closed(_source(event, settle_s).key, aborted=False)

    def broken(event: evt.Event) -> None:
        intake.closed(_source(event, settle_s).key, aborted=True)

    server: ThreadedAssociationServer | None = ae.start_server(
        (settings.host, settings.port),
        block=False,
        evt_handlers=[
            (evt.EVT_C_STORE, store),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_RELEASED, released),
            (evt.EVT_ABORTED, broken),
            # A connection that ends with neither; after a release it finds nothing open.
            (evt.EVT_CONN_CLOSE, broken),
        ],
    )
    assert server is not None  # noqa: S101 - block=False always gives one
    log.info("listening as %s on %s:%d", settings.ae_title, settings.host, settings.port)
    return server


def _source(event: evt.Event, settle_s: float) -> Source:
    requestor = event.assoc.requestor
    return Source(
        key=f"association-{id(event.assoc)}",
        sender=f"{requestor.ae_title or 'unknown'}@{requestor.address}",
        settle_s=settle_s,
    )
