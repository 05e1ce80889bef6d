"""Cuts the connection of an association that limn requested and whose time is over.

pynetdicom's own timeouts don't reach a thread that waits in ``recv`` or ``send``: a peer that reads
no more, or sends half a PDU, would keep it for ever. A thread of limn's own shuts the socket down
then. pynetdicom takes that as a lost connection, and its threads end.
"""

from __future__ import annotations

import errno
import math
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType

LOOK_S = 0.1
# An association that is open when the node stops has as long to end.
STOP_S = 10.0
# What a line must carry; a long file on a slow line gets more time than a short one.
SLOWEST_BYTES_PER_S = 100_000
# Responses and reports are short.
MAX_RECEIVED_BYTES = 16 * 2**20


class Deadline:
    """One deadline over a whole association, or over each message on it.

    Parameters
    ----------
    allowed_s : from the request of the association, or from `renew`, to its end
    stopping : set when the node stops

    Attributes
    ----------
    why : why the peer's message was no answer or its connection was cut; empty if neither was
    """

    def __init__(self, allowed_s: float, stopping: threading.Event | None = None) -> None:
        self.why = ""
        self._allowed_s = allowed_s
        self._stopping = stopping
        self._stop_by_s = math.inf
        self._association: Association | None = None
        self.renew()

    def renew(self) -> None:
        """Start again: the next message has all the time."""
        self._began_s = time.monotonic()
        self._sent_bytes = self._received_bytes = 0

    def handlers(self) -> list[EventHandlerType]:
        """The handlers by which it follows an association, from before the connection is made."""
        return [(evt.EVT_ACSE_SENT, self._begin), (evt.EVT_DATA_SENT, self._count)]

    def note(self, why: str) -> None:
        """Keep the first reason: the others follow from it."""
        self.why = self.why or why

    def _begin(self, event: evt.Event) -> None:
        if self._association is None:
            self._association = event.assoc
            connection = event.assoc.dul.socket
            if connection is not None:
                connection.recv = partial(self._receive, connection.recv)  # type: ignore[method-assign]
            threading.Thread(target=self._watch, name="deadline", daemon=True).start()

    def _count(self, event: evt.Event) -> None:
        self._sent_bytes += len(event.data)

    def _receive(self, receive: Callable[[int], bytearray], nr_bytes: int) -> bytearray:
        self._received_bytes += nr_bytes
        if self._received_bytes > MAX_RECEIVED_BYTES:
            self._cut(f"announced {nr_bytes} bytes where a short response was expected")
            raise OSError(errno.EMSGSIZE, "PDU too long")
        return receive(nr_bytes)

    def _watch(self) -> None:
        while self._association is not None and self._association.dul.is_alive():
            now_s = time.monotonic()
            if self._is_stopping():
                self._stop_by_s = min(self._stop_by_s, now_s + STOP_S)
            allowed_s = self._allowed_s + self._sent_bytes / SLOWEST_BYTES_PER_S
            if now_s > self._stop_by_s:
                self._cut("did not end when limn stopped; its connection is cut")
            elif now_s > self._began_s + allowed_s:
                self._cut(
                    f"took longer than {allowed_s:.0f} s; its connection is cut. Look whether it "
                    "hangs"
                )
            time.sleep(LOOK_S)

    def _is_stopping(self) -> bool:
        """Whether the node stops, or this process ends and waits for pynetdicom's threads."""
        if self._stopping is not None and self._stopping.is_set():
            return True
        return not threading.main_thread().is_alive()

    def _cut(self, why: str) -> None:
        self.note(why)
        connection = self._association and self._association.dul.socket
        if connection and connection.socket is not None:
            # The plain shutdown: that of a TLS socket drops the state that a thread reads with.
            with suppress(OSError):
                socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)
