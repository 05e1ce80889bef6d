"""Who gets a DIMSE message: an answer who asked for it, a request pynetdicom's own thread.

Both look into one queue. That thread is paused before a request of ours goes out, but may have
passed the point; if the machine is busy it then finds the answer first and drops it, and who asked
waits for its timeout. And who asks takes whatever comes next, also a request of the peer's.
"""

from __future__ import annotations

import struct
import time
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

# Message control header of the last fragment of a command (PS3.8 E.2).
LAST_OF_COMMAND = b"\x03"
C_STORE_RSP = 0x8001
NO_DATA_SET = 0x0101
# Two UIDs of 64 letters and the rest fit well into this.
PLAIN_BYTES = 1024


def take(dimse: DIMSEServiceProvider, *, answer: bool, wait_s: float | None) -> tuple[Any, Any]:
    """The next answer, or the next request.

    Parameters
    ----------
    wait_s : for as long as that; None for ever

    Returns
    -------
    Presentation context ID and message; None and None if nothing came, and for who waits for an
    answer if the association is over.
    """
    came = dimse.msg_queue.not_empty
    waiting = dimse.msg_queue.queue
    give_up_s = None if wait_s is None else time.monotonic() + wait_s
    with came:
        while True:
            for place, (context_id, message) in enumerate(waiting):
                if answer == _is_answer(message):
                    del waiting[place]
                    return context_id, message
            if waiting:
                # The wake-up may have been meant for the other.
                came.notify()
            left_s = None if give_up_s is None else give_up_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return None, None
            came.wait(left_s)


def drop_answers(dimse: DIMSEServiceProvider) -> None:
    """Forget answers that nobody waits for: late ones, doubles, what is none at all."""
    with dimse.msg_queue.not_empty:
        waiting = dimse.msg_queue.queue
        late = [item for item in waiting if item[1] is not None and _is_answer(item[1])]
        for item in late:
            waiting.remove(item)


def _is_answer(message: Any) -> bool:
    """Nothing at all is one as well: who waits is told that the association is over."""
    return message is None or message.MessageIDBeingRespondedTo is not None


def sort(association: Association) -> None:
    """Let an association of ours give each message to whom it is for."""
    dimse = association.dimse
    send = dimse.send_msg

    def send_msg(primitive: Any, context_id: int) -> None:
        if primitive.MessageIDBeingRespondedTo is None:
            drop_answers(dimse)
        send(primitive, context_id)

    def get_msg(block: bool = False) -> tuple[Any, Any]:
        return take(dimse, answer=block, wait_s=dimse.dimse_timeout if block else 0.0)

    dimse.get_msg = get_msg  # type: ignore[method-assign]
    dimse.send_msg = send_msg  # type: ignore[method-assign]


def to_store(answer: C_STORE, context_id: int, max_pdu: int) -> P_DATA | None:
    """A plain C-STORE-RSP as it goes out (PS3.7 9.3.1.2); None if it is not as plain.

    Parameters
    ----------
    max_pdu : that the peer takes, bytes; 0 for any

    pynetdicom builds and encodes a data set for each, twice: a millisecond of a scanner's time.
    """
    if any(getattr(answer, more) is not None for more in ("OffendingElement", "ErrorComment")):
        return None
    if 0 < max_pdu < PLAIN_BYTES:
        return None
    uids = answer.AffectedSOPClassUID or "", answer.AffectedSOPInstanceUID or ""
    if not all(uid.isascii() for uid in uids):
        return None
    elements = [
        (0x0002, _uid(uids[0])),
        (0x0100, struct.pack("<H", C_STORE_RSP)),
        (0x0120, struct.pack("<H", answer.MessageIDBeingRespondedTo)),
        (0x0800, struct.pack("<H", NO_DATA_SET)),
        (0x0900, struct.pack("<H", answer.Status)),
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
