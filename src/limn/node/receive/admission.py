"""Which associations are let in, and how many are open."""

from __future__ import annotations

import logging
import threading

from pynetdicom import evt
from pynetdicom.association import Association

from limn.dicom.series import CT_CLASSES
from limn.node.config import Receive
from limn.node.dimse.access import LIMIT_EXCEEDED, Caller, Refusal, refusal_of
from limn.node.receive.intake import Intake

log = logging.getLogger(__name__)


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

    def on_ended(self, association: Association) -> None:
        """Count it no more."""
        with self._lock:
            self._open.discard(id(association))
