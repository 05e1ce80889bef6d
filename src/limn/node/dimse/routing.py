"""Gives DIMSE responses to the thread that requested, and requests to pynetdicom's reactor.

In pynetdicom both threads read one queue. The reactor is paused before a request goes out, but may
have passed that point already: on a busy machine it then finds the response first and drops it, and
the requesting thread waits for its timeout. The requesting thread in turn takes whatever comes
next, even a request of the peer or the response to another request.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

log = logging.getLogger(__name__)

# A response that answers another request may be followed by the right one, within this time.
STRAY_S = 3.0
# Message control header of the last fragment of a command (PS3.8 E.2).
LAST_OF_COMMAND = b"\x03"
C_STORE_RSP = 0x8001
NO_DATA_SET = 0x0101
# A response with two UIDs of 64 characters is shorter than this.
MAX_RESPONSE_BYTES = 1024


def take(dimse: DIMSEServiceProvider, *, response: bool, wait_s: float | None) -> tuple[Any, Any]:
    """The next response, or the next request.

    Parameters
    ----------
    wait_s : longest wait; None waits for ever

    Returns
    -------
    Presentation context ID and message; None and None if nothing came, or if the association ended
    while a response was awaited.
    """
    came = dimse.msg_queue.not_empty
    waiting = dimse.msg_queue.queue
    give_up_s = None if wait_s is None else time.monotonic() + wait_s
    with came:
        while True:
            for place, (context_id, message) in enumerate(waiting):
                if response == _is_response(message):
                    del waiting[place]
                    return context_id, message
            if waiting:
                # The wake-up may have been meant for the other thread.
                came.notify()
            left_s = None if give_up_s is None else give_up_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return None, None
            came.wait(left_s)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of limn's that awaits its response."""

    message: Any
    context_id: int

    def why_not_answered_by(self, context_id: int, response: Any) -> str:
        """Why a response does not answer this request (PS3.7 9.3); empty if it does."""
        command, expected = type(response).__name__, type(self.message).__name__
        if command != expected:
            return f"answered {expected} with the response to {command}"
        if response.MessageIDBeingRespondedTo != self.message.MessageID:
            return (
                f"answered message {response.MessageIDBeingRespondedTo}, and message "
                f"{self.message.MessageID} was sent"
            )
        if context_id != self.context_id:
            return (
                f"answered in presentation context {context_id}, and the request was sent in "
                f"{self.context_id}"
            )
        if isinstance(response, C_STORE) and response.AffectedSOPInstanceUID is not None:
            named = str(response.AffectedSOPInstanceUID).rstrip("\0 ")
            if named not in {"", str(self.message.AffectedSOPInstanceUID)}:
                return f"answered for instance {named}, and another was sent"
        return ""


def take_answer(
    dimse: DIMSEServiceProvider,
    request: Request | None,
    wait_s: float | None,
    note: Callable[[str], None],
) -> tuple[Any, Any]:
    """The response to a request; None and None if none comes in time.

    Parameters
    ----------
    note : called with the reason for which a response is not the one to this request
    """
    give_up_s = None if wait_s is None else time.monotonic() + wait_s
    while True:
        left_s = None if give_up_s is None else max(0.0, give_up_s - time.monotonic())
        context_id, response = take(dimse, response=True, wait_s=left_s)
        if response is None or request is None:
            return context_id, response
        why = request.why_not_answered_by(context_id, response)
        if not why:
            return context_id, response
        log.warning("a response is dropped: the peer %s", why)
        if not 0 < response.MessageIDBeingRespondedTo < request.message.MessageID:
            # Not the late response to an earlier request: this peer may send no other.
            note(why)
            stray_s = time.monotonic() + STRAY_S
            give_up_s = stray_s if give_up_s is None else min(give_up_s, stray_s)


def drop_responses(dimse: DIMSEServiceProvider) -> None:
    """Drop responses that no thread waits for: those that came late or twice."""
    with dimse.msg_queue.not_empty:
        waiting = dimse.msg_queue.queue
        late = [item for item in waiting if item[1] is not None and _is_response(item[1])]
        for item in late:
            waiting.remove(item)


def _is_response(message: Any) -> bool:
    """None counts as a response: it tells the waiting thread that the association has ended."""
    return message is None or message.MessageIDBeingRespondedTo is not None


def install(association: Association, note: Callable[[str], None]) -> None:
    """Route the messages of an association that limn requested.

    Parameters
    ----------
    note : called with the reason for which a response is not the one to the last request
    """
    dimse = association.dimse
    send = dimse.send_msg
    last: Request | None = None

    def send_msg(primitive: Any, context_id: int) -> None:
        nonlocal last
        if primitive.MessageIDBeingRespondedTo is None:
            drop_responses(dimse)
            last = Request(primitive, context_id)
        send(primitive, context_id)

    def get_msg(block: bool = False) -> tuple[Any, Any]:
        if block:
            return take_answer(dimse, last, dimse.dimse_timeout, note)
        return take(dimse, response=False, wait_s=0.0)

    dimse.get_msg = get_msg  # type: ignore[method-assign]
    dimse.send_msg = send_msg  # type: ignore[method-assign]


def encode_store_response(response: C_STORE, context_id: int, max_pdu: int) -> P_DATA | None:
    """A plain C-STORE-RSP (PS3.7 9.3.1.2); None if it has more elements or must be split.

    pynetdicom builds and encodes a data set for each response, twice, which costs the scanner a
    millisecond.

    Parameters
    ----------
    max_pdu : bytes that the peer takes; 0 for any
    """
    if any(getattr(response, more) is not None for more in ("OffendingElement", "ErrorComment")):
        return None
    if 0 < max_pdu < MAX_RESPONSE_BYTES:
        return None
    uids = response.AffectedSOPClassUID or "", response.AffectedSOPInstanceUID or ""
    if not all(uid.isascii() for uid in uids):
        return None
    elements = [
        (0x0002, _uid(uids[0])),
        (0x0100, struct.pack("<H", C_STORE_RSP)),
        (0x0120, struct.pack("<H", response.MessageIDBeingRespondedTo)),
        (0x0800, struct.pack("<H", NO_DATA_SET)),
        (0x0900, struct.pack("<H", response.Status)),
        (0x1000, _uid(uids[1])),
    ]
    # Implicit VR Little Endian, whatever the context's transfer syntax (PS3.7 6.3.1).
    body = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value for element, value in elements if value
    )
    length = struct.pack("<HHLL", 0, 0, 4, len(body))
    message = P_DATA()
    message.presentation_data_value_list.append((context_id, LAST_OF_COMMAND + length + body))
    return message


def _uid(value: str) -> bytes:
    text = value.encode("ascii")
    return text + b"\0" * (len(text) % 2)
