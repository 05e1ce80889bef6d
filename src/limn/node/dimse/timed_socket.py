"""A socket that reads a PDU within its time and size."""

from __future__ import annotations

import errno
import logging
import select
import socket
import time
from contextlib import suppress

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from limn.node.dimse.bounds import Bounds
from limn.node.dimse.messages import BoundedMessages

log = logging.getLogger(__name__)

# pynetdicom polls the socket every millisecond and so finds a PDU half a millisecond late on the
# average. Here the poll itself waits as long, and arriving data ends it.
POLL_S = 0.001


class TimedSocket(AssociationSocket):
    """Reads a PDU within its time and size, or ends the connection."""

    def __init__(self, association: Association, connection: socket.socket, bounds: Bounds) -> None:
        super().__init__(association, client_socket=connection)
        self._bounds = bounds
        connection.settimeout(bounds.idle_s)

    @property
    def ready(self) -> bool:
        """Whether data has come, or comes within `POLL_S`; a response to send ends the wait."""
        if super().ready:
            return True
        connection = self.socket
        dul = self.assoc.dul
        if connection is None or not self._is_connected or dul.event_queue.qsize():
            return False
        messages = self.assoc.dimse
        if isinstance(messages, BoundedMessages) and messages.owes_response:
            # The peer sends nothing before it has the response, which a poll would delay.
            with dul.to_provider_queue.not_empty:
                if not dul.to_provider_queue.queue:
                    dul.to_provider_queue.not_empty.wait(POLL_S)
            return False
        with suppress(OSError, ValueError):
            return bool(select.select([connection], [], [], POLL_S)[0])
        return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, fewer if the peer closes.

        Raises
        ------
        OSError
            If they are too many or take too long; pynetdicom then closes (Evt17).
        """
        connection = self.socket
        if connection is None:
            raise OSError(errno.ENOTCONN, "closed")
        if nr_bytes > 2 * self._bounds.max_pdu:
            self._warn(f"it announces a PDU of {nr_bytes} bytes (receive.max_pdu)")
            raise OSError(errno.EMSGSIZE, "PDU too long")
        waiting = self.assoc.dul.state_machine.current_state in {"Sta1", "Sta2"}
        allowed_s = self._bounds.artim_s if waiting else self._bounds.idle_s
        connection.settimeout(allowed_s)
        give_up_s = time.monotonic() + allowed_s
        received = bytearray(nr_bytes)
        view, filled = memoryview(received), 0
        while filled < nr_bytes:
            try:
                count = connection.recv_into(view[filled:])
            except TimeoutError:
                count = -1
            if count < 0 or (count and time.monotonic() > give_up_s):
                self._warn(f"it stalled in the middle of a PDU for {allowed_s:g} s")
                raise TimeoutError
            if count == 0:
                break
            filled += count
            if isinstance(self.assoc.dimse, BoundedMessages):
                self.assoc.dimse.last_s = time.monotonic()
        return received[:filled] if filled < nr_bytes else received

    def _warn(self, why: str) -> None:
        requestor = self.assoc.requestor
        log.warning("connection from %s closed: %s", requestor.address, why)
