"""DIMSE messages with bounds on size, rate, and how many may wait for a response."""

from __future__ import annotations

import logging
import time
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from limn.node.dimse import routing
from limn.node.dimse.bounds import Bounds
from limn.node.dimse.memory import DataSetBuffer, MemoryBudget, MemoryShare

log = logging.getLogger(__name__)

# A peer awaits each response (no asynchronous operations window is negotiated).
MAX_UNANSWERED = 8
# The wait for a request; pynetdicom's reactor would sleep a millisecond after every look.
POLL_REQUEST_S = 0.004
# Only an instance is large; a storage commitment of ten thousand instances is not. The memory of
# all associations bounds instances alone; so a large message of another kind waits for no other.
MAX_OTHER_BYTES = 3 * 2**20
SMALL_BYTES = 2**16
# For the command set and the encoding around the data set.
MESSAGE_OVERHEAD_BYTES = 2**16


class BoundedMessages(DIMSEServiceProvider):
    """Collects DIMSE messages up to their limit, and aborts the association beyond it.

    An instance that exceeds the memory of all associations is dropped (`was_dropped`).

    Attributes
    ----------
    last_s : when data came last, monotonic
    """

    def __init__(self, association: Association, bounds: Bounds, memory: MemoryBudget) -> None:
        super().__init__(association)
        self._bounds = bounds
        self._max_bytes = bounds.max_message_bytes + MESSAGE_OVERHEAD_BYTES
        self._share = MemoryShare(memory)
        self._collected = 0
        self._handled: DataSetBuffer | None = None
        self._unanswered = False
        # A request to the peer is out, as for the report of a commitment.
        self._awaits_response = False
        self._window_s, self._window_bytes = 0.0, 0
        self.last_s = time.monotonic()

    @property
    def owes_response(self) -> bool:
        """Whether a request of the peer is not answered yet."""
        return self._unanswered or self.msg_queue.qsize() > 0

    def get_msg(self, block: bool = False) -> Any:
        """The next response if the caller waits for one, else a request within `POLL_REQUEST_S`."""
        if block:
            found = routing.take(self, response=True, wait_s=self.dimse_timeout)
            self._awaits_response = False
            return found
        if not self._awaits_response:
            routing.drop_responses(self)
        self._drop_handled()
        self._unanswered = False
        context_id, message = routing.take(self, response=False, wait_s=POLL_REQUEST_S)
        if message is None:
            return None, None
        self._unanswered = True
        if isinstance(message, C_STORE) and isinstance(message.DataSet, DataSetBuffer):
            self._handled = message.DataSet
        return context_id, message

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """As in pynetdicom; after any message it is the peer's turn."""
        self._unanswered = False
        is_response = isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo
        message = (
            routing.encode_store_response(primitive, context_id, self.maximum_pdu_size)
            if is_response
            else None
        )
        if primitive.MessageIDBeingRespondedTo is None:
            routing.drop_responses(self)
            self._awaits_response = True
        if message is not None:
            self.dul.send_pdu(message)
        else:
            super().send_msg(primitive, context_id)

    def release_memory(self) -> None:
        """Give everything back at the end of the association."""
        self._share.release()

    def _is_too_slow(self) -> bool:
        """Whether too few bytes of this message came in the last window."""
        elapsed_s = self.last_s - self._window_s
        if elapsed_s < self._bounds.rate_window_s:
            return False
        came = self._collected - self._window_bytes
        self._window_s, self._window_bytes = self.last_s, self._collected
        return came < self._bounds.min_bytes_per_s * elapsed_s

    def _drop_handled(self) -> None:
        """Give back the memory of an instance that is answered."""
        if self._handled is not None:
            self.last_s = time.monotonic()
            self._handled.drop()
            self._handled = None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a P-DATA, or end the association (A-ABORT by the provider, PS3.8 9.3.8)."""
        self.last_s = time.monotonic()
        self._collected += sum(len(data) for _, data in primitive.presentation_data_value_list)
        why = ""
        if self.message is None:
            self._window_s, self._window_bytes = self.last_s, 0
            self.message = DIMSEMessage()
            self.message.data_set = DataSetBuffer(self.message, self._share)
        message = self.message
        is_instance = isinstance(message, C_STORE_RQ)
        if self._collected > self._max_bytes:
            why = f"an instance larger than {self._max_bytes // 2**20} MB (receive.max_instance_mb)"
        elif not is_instance and self._collected > MAX_OTHER_BYTES:
            why = f"a message larger than {MAX_OTHER_BYTES // 2**20} MB that is no instance"
        elif not is_instance and self._collected > SMALL_BYTES and self.msg_queue.qsize():
            why = "a large message that is no instance before the answer to another request"
        elif self._is_too_slow():
            why = f"a message at less than {self._bounds.min_bytes_per_s // 1000} kB/s"
        elif self.msg_queue.qsize() >= MAX_UNANSWERED:
            why = f"{MAX_UNANSWERED} requests without awaiting an answer"
        else:
            try:
                super().receive_primitive(primitive)
            except Exception as error:  # noqa: BLE001 - any bytes in pynetdicom's parser
                why = f"a damaged message ({type(error).__name__}: {error})"
            if is_instance and not isinstance(message, C_STORE_RQ):
                # Nothing would give the memory of the instance back.
                why = "another command in the middle of an instance"
        if self.message is None:
            self._collected = 0
        if why:
            requestor = self.assoc.requestor
            log.warning(
                "association from %s@%s aborted: it sent %s",
                requestor.ae_title,
                requestor.address,
                why,
            )
            self.message, self._collected = None, 0
            self.dul.event_queue.put("Evt19")
