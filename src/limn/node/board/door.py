"""The connections of the board: so many in all and from an address, and none for ever.

uvicorn reads a request for as long as a client takes, and answers nobody once its limit of
connections is reached. Here a client has a few seconds for TLS and for each request, an answer must
be taken, and a new connection takes the place of the oldest one that only waits.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from limn.node.board.addresses import network_of

# Each browser opens six at most; the system's own limit of open files is 1024 on most hosts.
MOST_CONNECTIONS, MOST_OF_ADDRESS = 300, 100
HANDSHAKE_S = 5.0
SWEEP_S = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a client gets.

    Attributes
    ----------
    request_s : until the end of a request's head, from the connection or the answer before
    taken_s : while it takes nothing of what is sent
    answer_s : for a whole answer that is no stream of events
    """

    request_s: float = 10.0
    taken_s: float = 20.0
    answer_s: float = 120.0


class Connection(H11Protocol):
    """One client, as uvicorn serves it, with times."""

    def __init__(self, door: Door, address: str, raw: asyncio.Transport, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.address = address
        self._door = door
        self._raw = raw
        self._early = b""
        self._made = self._lost = False
        self._waits_since_s = time.monotonic()
        self._asked: tuple[object, float] = (None, 0.0)
        self._stuck_since_s: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """TLS is agreed on, or there is none."""
        if self._lost:
            transport.abort()
            return
        self._made = True
        super().connection_made(transport)
        if early := self._early:
            self._early = b""
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        """What the client sends; the first of it may come before TLS says that it is made."""
        if not self._made:
            self._early += data
            return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._door.forget(self)
        self._lost = True
        if self._made:
            super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request may come."""
        self._waits_since_s = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client takes nothing."""
        self._stuck_since_s = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck_since_s = None
        super().resume_writing()

    @property
    def only_waits(self) -> bool:
        """Whether nothing is being answered here."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def overdue(self, now_s: float, patience: Patience) -> bool:
        """Whether the client's time is over."""
        if self.only_waits:
            return now_s - self._waits_since_s > patience.request_s
        if self._stuck_since_s is not None and now_s - self._stuck_since_s > patience.taken_s:
            return True
        if self._asked[0] is not self.cycle:
            self._asked = self.cycle, now_s
        if self.cycle.scope["state"].get("stream"):
            return False
        return now_s - self._asked[1] > patience.answer_s

    def abort(self) -> None:
        """Close it now, whatever is still to be sent."""
        (self.transport if self._made else self._raw).abort()


class Door:
    """Lets clients in; called by uvicorn for each, as its class of protocol."""

    def __init__(
        self,
        tls: ssl.SSLContext | None,
        *,
        most: int = MOST_CONNECTIONS,
        most_of_address: int = MOST_OF_ADDRESS,
        patience: Patience = Patience(),
    ) -> None:
        self.tls = tls
        self._most = most
        self._most_of_address = most_of_address
        self._patience = patience
        # The oldest first.
        self._open: dict[Connection, None] = {}
        self._sweeps = False

    def __call__(self, *, _loop: Any = None, **uvicorns: Any) -> asyncio.Protocol:
        """What a new client meets first."""
        return _Entrance(self, lambda address, raw: Connection(self, address, raw, **uvicorns))

    def admit(self, connection: Connection) -> bool:
        """Take a connection, and close the oldest that only waits if there are too many."""
        own = [each for each in self._open if each.address == connection.address]
        for found, most in ((own, self._most_of_address), (list(self._open), self._most)):
            if len(found) < most:
                continue
            oldest = next((each for each in found if each in self._open and each.only_waits), None)
            if oldest is None:
                return False
            self.forget(oldest)
            oldest.abort()
        self._open[connection] = None
        if not self._sweeps:
            self._sweeps = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        return True

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._open.pop(connection, None)

    def _sweep(self) -> None:
        now_s = time.monotonic()
        for each in list(self._open):
            if each.overdue(now_s, self._patience):
                each.abort()
        self._sweeps = bool(self._open)
        if self._sweeps:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


class _Entrance(asyncio.Protocol):
    """Counts a client, and agrees on TLS with it, before HTTP begins."""

    def __init__(self, door: Door, make: Callable[[str, asyncio.Transport], Connection]) -> None:
        self._door = door
        self._make = make
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(transport)
        peer = transport.get_extra_info("peername") or ("",)
        connection = self._make(network_of(str(peer[0])), transport)
        if not self._door.admit(connection):
            transport.abort()
        elif self._door.tls is None:
            transport.set_protocol(connection)
            connection.connection_made(transport)
        else:
            loop = asyncio.get_running_loop()
            self._handshake = loop.create_task(self._agree(connection, transport, self._door.tls))

    async def _agree(
        self, connection: Connection, transport: asyncio.Transport, tls: ssl.SSLContext
    ) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                *(transport, connection, tls),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=HANDSHAKE_S,
            )
        except OSError:
            # No TLS, a client that is gone, or too slow; a scanner of ports is worth no line.
            secured = None
        if secured is None:
            self._door.forget(connection)
            transport.abort()
            return
        connection.connection_made(secured)
