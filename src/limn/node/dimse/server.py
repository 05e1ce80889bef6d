"""The port of the Storage SCP, over pynetdicom's server: no peer may hold it up or fill it.

pynetdicom reads whatever length a PDU announces and waits for it as long as it takes, shakes
hands over TLS in the loop that accepts, and collects a message until memory ends. Here each of
these has a limit, and each connection a thread that tells when it is over.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from socketserver import BaseServer
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.fsm import StateMachine
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from limn.node.config import Network
from limn.node.dimse.access import may_connect
from limn.node.dimse.bounds import Bounds
from limn.node.dimse.memory import MemoryBudget
from limn.node.dimse.messages import BoundedMessages
from limn.node.dimse.timed_socket import TimedSocket

log = logging.getLogger(__name__)

BREATH_S = 0.0001
# When the node stops, a sender in the middle of a series may end it; one that is silent is not
# waited for.
STOP_GRACE_S = 20.0
SILENT_S = 2.0
GOODBYE_S = 1.0


class Listener(ThreadedAssociationServer):
    """pynetdicom's threaded server with bounds; ``ended`` hears of every association's end."""

    # A peer that stalls must not keep the process from ending.
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        handlers: Sequence[EventHandlerType],
        *,
        bounds: Bounds,
        networks: Sequence[Network],
        tls: ssl.SSLContext | None,
        ended: Callable[[Association], None],
    ) -> None:
        self.bounds = bounds
        self.room = MemoryBudget(bounds.max_incoming_bytes)
        self.ended = ended
        self._networks = networks
        self._tls = tls
        self._connections = 0
        self._open: set[_Connection] = set()
        # Accepted, and no association runs on them yet.
        self._waiting: set[socket.socket] = set()
        self._counting = threading.Lock()
        super().__init__(
            ae,
            address,
            ae.ae_title,
            ae.supported_contexts,
            evt_handlers=list(handlers),
            request_handler=_Connection,
        )
        self._thread = threading.Thread(target=self.serve_forever, name="listener", daemon=True)
        self._thread.start()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection is looked at, by its address alone."""
        address = str(client_address[0])
        if not may_connect(address, self._networks):
            log.warning("connection from %s refused: not in receive.allow", address)
            return False
        if self._connections >= self.bounds.max_connections:
            log.warning("connection from %s refused: %d are open", address, self._connections)
            return False
        with self._counting:
            self._connections += 1
            self._waiting.add(request)
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, from the handshake until it is over."""
        try:
            if self._tls is not None:
                request = self._secured(request, str(client_address[0]))
            if request is not None:
                self.finish_request(request, client_address)
        except Exception:
            # Whatever a stranger's bytes may cause in there: it ends here, in our own words.
            log.exception("connection from %s ended by a fault", client_address[0])
        finally:
            with self._counting:
                self._connections -= 1
            if request is not None:
                self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, however far it came."""
        with self._counting:
            self._waiting.discard(request)
        super().shutdown_request(request)

    def _secured(self, request: socket.socket, address: str) -> ssl.SSLSocket | None:
        assert self._tls is not None  # noqa: S101 - asked for only then
        request.settimeout(self.bounds.artim_s)
        try:
            # Detaches ``request``: whoever fails after it closes the new one.
            secured = self._tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
            with self._counting:
                self._waiting.discard(request)
                self._waiting.add(secured)
        except OSError as error:
            log.warning("connection from %s refused: %s", address, error)
            self.shutdown_request(request)
            return None
        watchdog = threading.Timer(self.bounds.artim_s, _cut, (secured,))
        watchdog.daemon = True
        watchdog.start()
        try:
            secured.do_handshake()
        except (OSError, ValueError) as error:
            log.warning("connection from %s refused: TLS: %s", address, _said(error))
            self.shutdown_request(secured)
            return None
        finally:
            watchdog.cancel()
        return secured

    def entered(self, connection: _Connection) -> None:
        """A connection runs an association."""
        with self._counting:
            self._open.add(connection)
            self._waiting.discard(connection.request)

    def left(self, connection: _Connection) -> None:
        """Its association has ended."""
        with self._counting:
            self._open.discard(connection)

    def shutdown(self) -> None:
        """Close the port; whoever is sending may end its series, the others are aborted."""
        # Not pynetdicom's: it would look for us in the AE's own list.
        BaseServer.shutdown(self)
        self.server_close()
        began_s = time.monotonic()
        said: dict[_Connection, float] = {}
        while self._connections:
            now_s = time.monotonic()
            late = now_s - began_s > STOP_GRACE_S
            still, waiting = self._still_open()
            for request in waiting if now_s - began_s > GOODBYE_S else ():
                _cut(request)
            for connection in still:
                if connection in said:
                    if now_s - said[connection] > GOODBYE_S:
                        connection.cut()
                elif late or connection.silent_s() > SILENT_S:
                    said[connection] = now_s
                    connection.abort()
            if now_s - began_s > STOP_GRACE_S + 4 * GOODBYE_S:
                log.error("%d associations did not end; they end with this process", len(still))
                return
            time.sleep(0.05)

    def _still_open(self) -> tuple[list[_Connection], list[socket.socket]]:
        with self._counting:
            return list(self._open), list(self._waiting)


class _Connection(RequestHandler):
    """One accepted connection."""

    server: Listener

    def handle(self) -> None:
        """Run the association and stay until it has ended, however it ends."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle()
        self.server.entered(self)
        self._association.join()
        self._messages.forget()
        self.server.ended(self._association)
        self.server.left(self)

    def silent_s(self) -> float:
        """Seconds since something came; 0 while the peer waits for an answer of ours."""
        return 0.0 if self._messages.owes_answer else time.monotonic() - self._messages.last_s

    def abort(self) -> None:
        """Tell the peer that it is over, and the log whose it was."""
        requestor = self._association.requestor
        if requestor.primitive is None:
            # It has not asked for an association yet; there is nobody to tell.
            self.cut()
            return
        log.warning(
            "association with %s@%s aborted: limn stops. What came is kept; send a series that "
            "was not whole again when limn runs",
            requestor.ae_title,
            requestor.address,
        )
        self._association.abort(block=False)

    def cut(self) -> None:
        """The peer does not answer an abort."""
        _cut(self.request)

    def _create_association(self) -> Association:
        association = super()._create_association()
        # pynetdicom's own socket has announced itself (Evt5); ours does it again.
        association.dul.event_queue.get_nowait()
        association.dul.socket = TimedSocket(association, self.request, self.server.bounds)
        self._messages = BoundedMessages(association, self.server.bounds, self.server.room)
        association.dimse = self._messages
        association.dul.state_machine = _Unshaken(association.dul)
        association.dul._run_loop_delay = BREATH_S
        association.bind(evt.EVT_CONN_CLOSE, _wake)
        self._association = association
        return association


class _Unshaken(StateMachine):
    """Ends the connection at an event that its state does not know, instead of the thread."""

    def do_action(self, event: str) -> None:
        """Next state, or the end."""
        try:
            super().do_action(event)
        except Exception as error:  # noqa: BLE001 - a stranger's order of PDUs in another's machine
            requestor = self.dul.assoc.requestor
            log.warning("connection from %s closed: %s", requestor.address, error)
            self.dul.kill_dul()


def _wake(event: evt.Event) -> None:
    """A peer that leaves before it asked is not waited for until the ARTIM timer ends."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def _cut(connection: socket.socket) -> None:
    try:
        # Not TLS's own, which takes the session away from who is reading.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        return


def _said(error: Exception) -> str:
    return str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error)
