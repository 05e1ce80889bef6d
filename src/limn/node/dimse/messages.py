"""DIMSE messages with bounds: size, rate, and how many may wait for an answer."""

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

# Answers are awaited one by one (no asynchronous operations window is negotiated).
MAX_UNANSWERED = 8
# The same for a whole message, whose reactor sleeps a millisecond after every look.
LISTEN_S = 0.004
# Only an instance is large; a storage commitment of ten thousand is not.
MAX_OTHER_BYTES = 16 * 2**20
# What comes more slowly holds memory that others wait for; the slowest line there is, is faster.
WINDOW_S = 60.0
LEAST_BYTES_PER_S = 10_000
# Room for the command set and for what wraps the data set.
MESSAGE_OVERHEAD_BYTES = 2**16


class BoundedMessages(DIMSEServiceProvider):
    """Collects DIMSE messages up to their limit; beyond, the association is aborted.

    Of an instance for which all associations together have no room nothing is kept (`was_dropped`).

    Attributes
    ----------
    last_s : when something came last, monotonic
    """

    def __init__(self, association: Association, bounds: Bounds, room: MemoryBudget) -> None:
        super().__init__(association)
        self._max_bytes = bounds.max_message_bytes + MESSAGE_OVERHEAD_BYTES
        self._share = MemoryShare(room)
        self._collected = 0
        self._in_hand: DataSetBuffer | None = None
        self._unanswered = False
        # Something of the peer, as who wants to report a commitment does.
        self._asked = False
        self._window_s, self._window_bytes = 0.0, 0
        self.last_s = time.monotonic()

    @property
    def owes_answer(self) -> bool:
        """Whether a message of the peer is not answered yet."""
        return self._unanswered or self.msg_queue.qsize() > 0

    def get_msg(self, block: bool = False) -> Any:
        """The next answer if who calls can wait for it, else a request within `LISTEN_S`."""
        if block:
            found = routing.take(self, answer=True, wait_s=self.dimse_timeout)
            self._asked = False
            return found
        if not self._asked:
            routing.drop_answers(self)
        self._answered()
        self._unanswered = False
        context_id, message = routing.take(self, answer=False, wait_s=LISTEN_S)
        if message is None:
            return None, None
        self._unanswered = True
        if isinstance(message, C_STORE) and isinstance(message.DataSet, DataSetBuffer):
            self._in_hand = message.DataSet
        return context_id, message

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """As pynetdicom's; whatever is sent, the next thing to come is the peer's."""
        self._unanswered = False
        is_answer = isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo
        message = (
            routing.to_store(primitive, context_id, self.maximum_pdu_size) if is_answer else None
        )
        if primitive.MessageIDBeingRespondedTo is None:
            routing.drop_answers(self)
            self._asked = True
        if message is not None:
            self.dul.send_pdu(message)
        else:
            super().send_msg(primitive, context_id)

    def forget(self) -> None:
        """The association is over; nothing of it is in memory any more."""
        self._share.give()

    def _drips(self) -> bool:
        """Whether too little of this message came in the last window."""
        elapsed_s = self.last_s - self._window_s
        if elapsed_s < WINDOW_S:
            return False
        came = self._collected - self._window_bytes
        self._window_s, self._window_bytes = self.last_s, self._collected
        return came < LEAST_BYTES_PER_S * elapsed_s

    def _answered(self) -> None:
        if self._in_hand is not None:
            self.last_s = time.monotonic()
            self._in_hand.drop()
            self._in_hand = None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a P-DATA in, or end the association (A-ABORT by the provider, PS3.8 9.3.8)."""
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
        elif self._drips():
            why = f"a message at less than {LEAST_BYTES_PER_S // 1000} kB/s"
        elif self.msg_queue.qsize() >= MAX_UNANSWERED:
            why = f"{MAX_UNANSWERED} requests without awaiting an answer"
        else:
            try:
                super().receive_primitive(primitive)
            except Exception as error:  # noqa: BLE001 - a stranger's bytes in another's parser
                why = f"a damaged message ({type(error).__name__}: {error})"
            if is_instance and not isinstance(message, C_STORE_RQ):
                # What it has taken of the room nobody would give back.
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
