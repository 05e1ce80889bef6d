"""The port of the Storage SCP, over pynetdicom's server: no peer may hold it up or fill it.

pynetdicom reads a PDU of any announced length and waits for it without end, does the TLS handshake
in the loop that accepts connections, and collects a message until memory ends. Here each of these
has a limit, and the thread of each connection reports its end.
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
from limn.node.dimse.access import RefusalReason, may_connect
from limn.node.dimse.bounds import Bounds
from limn.node.dimse.memory import MemoryBudget
from limn.node.dimse.messages import BoundedMessages
from limn.node.dimse.timed_socket import TimedSocket
from limn.node.heartbeat import HEART

log = logging.getLogger(__name__)

# pynetdicom's reactor sleeps a millisecond in every turn; here the socket waits instead.
REACTOR_SLEEP_S = 0.0001
# A peer has as long to answer an A-ABORT.
ABORT_WAIT_S = 1.0


class Listener(ThreadedAssociationServer):
    """pynetdicom's threaded server with bounds.

    Parameters
    ----------
    on_association_ended : called at the end of every association
    on_connection_refused : called with address, reason and words for a connection without one
    """

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
        on_association_ended: Callable[[Association], None],
        on_connection_refused: Callable[[str, str, str], None],
    ) -> None:
        self.bounds = bounds
        self.memory = MemoryBudget(bounds.max_incoming_bytes)
        self.on_association_ended = on_association_ended
        self._on_connection_refused = on_connection_refused
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

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept connections, as a thread that gives signs of life."""
        HEART.register()
        super().serve_forever(poll_interval)

    def service_actions(self) -> None:
        """Called after each wait for a connection."""
        HEART.moved()
        super().service_actions()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether to take a connection, by its address and by how many are open."""
        address = str(client_address[0])
        if not may_connect(address, self._networks):
            self._refuse(address, RefusalReason.ADDRESS, "not in receive.allow")
            return False
        if self._connections >= self.bounds.max_connections:
            self._refuse(address, RefusalReason.LIMIT, f"{self._connections} are open")
            return False
        with self._counting:
            self._connections += 1
            self._waiting.add(request)
        return True

    def _refuse(self, address: str, reason: RefusalReason, why: str) -> None:
        log.warning("connection from %s refused: %s", address, why)
        self._on_connection_refused(address, reason, why)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, from the handshake until it is over."""
        try:
            if self._tls is not None:
                request = self._handshake(request, str(client_address[0]))
            if request is not None:
                self.finish_request(request, client_address)
        except Exception:
            # An unknown peer's bytes may raise anything in pynetdicom; it must end here.
            log.exception("connection from %s ended by a fault", client_address[0])
        finally:
            with self._counting:
                self._connections -= 1
            if request is not None:
                self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, with or without an association."""
        with self._counting:
            self._waiting.discard(request)
        super().shutdown_request(request)

    def _handshake(self, request: socket.socket, address: str) -> ssl.SSLSocket | None:
        assert self._tls is not None  # noqa: S101 - called only then
        request.settimeout(self.bounds.artim_s)
        try:
            # Detaches ``request``: from here on the new socket is the one to close.
            secured = self._tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
            with self._counting:
                self._waiting.discard(request)
                self._waiting.add(secured)
        except OSError as error:
            self._refuse(address, RefusalReason.TLS, str(error))
            self.shutdown_request(request)
            return None
        watchdog = threading.Timer(self.bounds.artim_s, _disconnect, (secured,))
        watchdog.daemon = True
        watchdog.start()
        try:
            secured.do_handshake()
        except (OSError, ValueError) as error:
            self._refuse(address, RefusalReason.TLS, f"TLS: {_reason_of(error)}")
            self.shutdown_request(secured)
            return None
        finally:
            watchdog.cancel()
        return secured

    def association_began(self, connection: _Connection) -> None:
        """Count a connection that runs an association."""
        with self._counting:
            self._open.add(connection)
            self._waiting.discard(connection.request)

    def association_ended(self, connection: _Connection) -> None:
        """Count it no more."""
        with self._counting:
            self._open.discard(connection)

    def shutdown(self) -> None:
        """Close the port; a sender in the middle of a series may end it, the others are aborted."""
        # Not pynetdicom's method: it would look for this server in the AE's own list.
        BaseServer.shutdown(self)
        self.server_close()
        began_s = time.monotonic()
        aborted: dict[_Connection, float] = {}
        while self._connections:
            now_s = time.monotonic()
            late = now_s - began_s > self.bounds.stop_grace_s
            still, waiting = self._open_connections()
            for request in waiting if now_s - began_s > ABORT_WAIT_S else ():
                _disconnect(request)
            for connection in still:
                if connection in aborted:
                    if now_s - aborted[connection] > ABORT_WAIT_S:
                        connection.disconnect()
                elif late or connection.silent_s() > self.bounds.stop_silence_s:
                    aborted[connection] = now_s
                    connection.abort()
            if now_s - began_s > self.bounds.stop_grace_s + 4 * ABORT_WAIT_S:
                log.error("%d associations did not end; they end with this process", len(still))
                return
            time.sleep(0.05)

    def _open_connections(self) -> tuple[list[_Connection], list[socket.socket]]:
        with self._counting:
            return list(self._open), list(self._waiting)


class _Connection(RequestHandler):
    """One accepted connection."""

    server: Listener

    def handle(self) -> None:
        """Run the association and stay until it has ended, however it ends."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle()
        self.server.association_began(self)
        self._association.join()
        self._log_silence()
        self._messages.release_memory()
        self.server.on_association_ended(self._association)
        self.server.association_ended(self)

    def _log_silence(self) -> None:
        """Log which peer said nothing more and kept its association."""
        requestor, idle_s = self._association.requestor, self.server.bounds.idle_s
        if requestor.primitive is not None and self.silent_s() >= idle_s:
            log.warning(
                "association with %s@%s aborted: nothing came for %g s (receive.idle_s) and it "
                "was not released. What came is kept; a series over it waits to be sent again",
                requestor.ae_title,
                requestor.address,
                idle_s,
            )

    def silent_s(self) -> float:
        """Seconds since something came; 0 while the peer waits for a response."""
        return 0.0 if self._messages.owes_response else time.monotonic() - self._messages.last_s

    def abort(self) -> None:
        """Send A-ABORT, and log which peer it was."""
        requestor = self._association.requestor
        if requestor.primitive is None:
            # It has requested no association yet: there is none to abort.
            self.disconnect()
            return
        log.warning(
            "association with %s@%s aborted: limn stops. What came is kept; send a series that "
            "was not whole again when limn runs",
            requestor.ae_title,
            requestor.address,
        )
        self._association.abort(block=False)

    def disconnect(self) -> None:
        """Close the connection of a peer that does not answer an abort."""
        _disconnect(self.request)

    def _create_association(self) -> Association:
        association = super()._create_association()
        # pynetdicom's own socket has queued its Evt5; the new socket queues it again.
        association.dul.event_queue.get_nowait()
        association.dul.socket = TimedSocket(association, self.request, self.server.bounds)
        self._messages = BoundedMessages(association, self.server.bounds, self.server.memory)
        association.dimse = self._messages
        association.dul.state_machine = _TolerantStateMachine(association.dul)
        association.dul._run_loop_delay = REACTOR_SLEEP_S
        association.bind(evt.EVT_CONN_CLOSE, _end_wait_for_request)
        self._association = association
        return association


class _TolerantStateMachine(StateMachine):
    """Ends the connection, not the thread, at an event that its state does not define."""

    def do_action(self, event: str) -> None:
        """Go to the next state, or end the connection."""
        try:
            super().do_action(event)
        except Exception as error:  # noqa: BLE001 - any order of PDUs in pynetdicom's machine
            requestor = self.dul.assoc.requestor
            log.warning("connection from %s closed: %s", requestor.address, error)
            self.dul.kill_dul()


def _end_wait_for_request(event: evt.Event) -> None:
    """Don't wait for the ARTIM timer if the peer left before its A-ASSOCIATE-RQ."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def _disconnect(connection: socket.socket) -> None:
    try:
        # Not the method of SSLSocket, which takes the session away from the thread that reads.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        return


def _reason_of(error: Exception) -> str:
    return str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error)
