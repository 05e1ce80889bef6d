"""Who gets a DIMSE message: an answer who asked for it, a request pynetdicom's own thread.

Both look into one queue. That thread is paused before a request of ours goes out, but may have
passed the point; if the machine is busy it then finds the answer first and drops it, and who asked
waits for its timeout. And who asks takes whatever comes next, also a request of the peer's.
"""

from __future__ import annotations

import time
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider


def take(dimse: DIMSEServiceProvider, *, answer: bool, wait_s: float | None) -> tuple[Any, Any]:
    """The next answer, or the next request.

    Parameters
    ----------
    wait_s : for as long as that; None for ever

    Returns
    -------
    Presentation context ID and message; None and None if nothing came, or the association is over.
    """
    came = dimse.msg_queue.not_empty
    waiting = dimse.msg_queue.queue
    give_up_s = None if wait_s is None else time.monotonic() + wait_s
    with came:
        while True:
            for place, (context_id, message) in enumerate(waiting):
                if message is None or answer == (message.MessageIDBeingRespondedTo is not None):
                    del waiting[place]
                    return context_id, message
            if waiting:
                # The wake-up may have been meant for the other.
                came.notify()
            left_s = None if give_up_s is None else give_up_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return None, None
            came.wait(left_s)


def sort(association: Association) -> None:
    """Let an association of ours give each message to whom it is for."""
    dimse = association.dimse

    def get_msg(block: bool = False) -> tuple[Any, Any]:
        return take(dimse, answer=block, wait_s=dimse.dimse_timeout if block else 0.0)

    dimse.get_msg = get_msg  # type: ignore[method-assign]
