"""The port of the Storage SCP, over pynetdicom's server: no peer may hold it up or fill it.

pynetdicom reads whatever length a PDU announces and waits for it as long as it takes, shakes
hands over TLS in the loop that accepts, and collects a message until memory ends. Here each of
these has a limit, and each connection a thread that tells when it is over.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from socketserver import BaseServer
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import EventHandlerType
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from limn.node import answers
from limn.node.config import Network
from limn.node.doors import may_connect

log = logging.getLogger(__name__)

# Answers are awaited one by one (no asynchronous operations window is negotiated).
MAX_UNANSWERED = 8
# pynetdicom looks every millisecond whether a PDU has come, and asleep finds it half of one late.
# Here the look itself lasts so long, and what comes ends it; between looks only a breath.
LOOK_S = 0.001
BREATH_S = 0.0001
# The same for a whole message, whose reactor sleeps a millisecond after every look.
LISTEN_S = 0.004
# Only an instance is large; a storage commitment of ten thousand is not.
MAX_OTHER_BYTES = 16 * 2**20
# What comes more slowly holds memory that others wait for; the slowest line there is, is faster.
WINDOW_S = 60.0
LEAST_BYTES_PER_S = 10_000
# When the node stops, a sender in the middle of a series may end it; one that is silent is not
# waited for.
STOP_GRACE_S = 20.0
SILENT_S = 2.0
GOODBYE_S = 1.0
# Room for the command set and for what wraps the data set.
MESSAGE_OVERHEAD_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one peer may take of time and memory.

    Attributes
    ----------
    max_pdu : bytes, as told to the peer; twice that is the end
    max_message_bytes : of one DIMSE message
    max_incoming_bytes : of all instances together that are not answered yet, whoever sends them
    idle_s : silence on an association, and the longest that one PDU may take
    artim_s : from the connection to the whole A-ASSOCIATE-RQ; TLS has as long for itself
    max_connections : sockets at once, with and without an association
    """

    max_pdu: int
    max_message_bytes: int
    max_incoming_bytes: int
    idle_s: float
    artim_s: float
    max_connections: int


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
        self.room = _Room(bounds.max_incoming_bytes)
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
        association.dul.socket = _TimedSocket(association, self.request, self.server.bounds)
        self._messages = _BoundedMessages(association, self.server.bounds, self.server.room)
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


class _TimedSocket(AssociationSocket):
    """Reads a PDU within its time and size, or the connection is over."""

    def __init__(self, association: Association, connection: socket.socket, bounds: Bounds) -> None:
        super().__init__(association, client_socket=connection)
        self._bounds = bounds
        connection.settimeout(bounds.idle_s)

    @property
    def ready(self) -> bool:
        """Whether something has come, or comes within `LOOK_S`; an answer of ours ends the wait."""
        if super().ready:
            return True
        connection = self.socket
        dul = self.assoc.dul
        if connection is None or not self._is_connected or dul.event_queue.qsize():
            return False
        messages = self.assoc.dimse
        if isinstance(messages, _BoundedMessages) and messages.owes_answer:
            # The peer says nothing until it has it; looking at the socket would hold it up.
            with dul.to_provider_queue.not_empty:
                if not dul.to_provider_queue.queue:
                    dul.to_provider_queue.not_empty.wait(LOOK_S)
            return False
        with suppress(OSError, ValueError):
            return bool(select.select([connection], [], [], LOOK_S)[0])
        return False

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, fewer if the peer closes.

        Raises
        ------
        OSError
            If they are too many or take too long; pynetdicom then closes (Evt17).
        """
        connection = self.socket
        if connection is None:
            raise OSError(errno.ENOTCONN, "closed")
        if nr_bytes > 2 * self._bounds.max_pdu:
            self._say(f"it announces a PDU of {nr_bytes} bytes (receive.max_pdu)")
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
                self._say(f"it stalled in the middle of a PDU for {allowed_s:g} s")
                raise TimeoutError
            if count == 0:
                break
            filled += count
            if isinstance(self.assoc.dimse, _BoundedMessages):
                self.assoc.dimse.last_s = time.monotonic()
        return received[:filled] if filled < nr_bytes else received

    def _say(self, why: str) -> None:
        requestor = self.assoc.requestor
        log.warning("connection from %s closed: %s", requestor.address, why)


class _Room:
    """The memory that all associations share for instances."""

    def __init__(self, limit_bytes: int) -> None:
        self._lock = threading.Lock()
        self._free = limit_bytes

    def take(self, count: int) -> bool:
        """Whether there is room for so many bytes; they are then taken."""
        with self._lock:
            if count > self._free:
                return False
            self._free -= count
            return True

    def give(self, count: int) -> None:
        """They are free again."""
        with self._lock:
            self._free += count


class _Share:
    """What one association has taken of the room."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, count: int) -> bool:
        """As of the room."""
        with self._lock:
            taken = self._room.take(count)
            self._taken += taken * count
            return taken

    def give(self, count: int | None = None) -> None:
        """So many bytes back, or all."""
        with self._lock:
            count = self._taken if count is None else min(count, self._taken)
            self._room.give(count)
            self._taken -= count


class _DataSet(BytesIO):
    """What pynetdicom collects of one message; of an instance no more than there is room for.

    Attributes
    ----------
    dropped : there was no room; nothing of it is kept, the rest is read and thrown away
    """

    def __init__(self, message: DIMSEMessage, share: _Share) -> None:
        super().__init__()
        self._message = message
        self._share = share
        self._taken = 0
        self.dropped = False

    def write(self, data: Any) -> int:
        """As any file, or nothing."""
        if not isinstance(self._message, C_STORE_RQ):
            return super().write(data)
        if self.dropped or not self._share.take(len(data)):
            self.drop()
            return len(data)
        self._taken += len(data)
        return super().write(data)

    def drop(self) -> None:
        """Keep nothing of it."""
        self.dropped = True
        self.seek(0)
        self.truncate()
        self._share.give(self._taken)
        self._taken = 0


def was_dropped(request: C_STORE) -> bool:
    """Whether an instance came for which there was no room; its data set is empty."""
    return isinstance(request.DataSet, _DataSet) and request.DataSet.dropped


class _BoundedMessages(DIMSEServiceProvider):
    """Collects DIMSE messages up to their limit; beyond, the association is aborted.

    Of an instance for which all associations together have no room nothing is kept (`was_dropped`).

    Attributes
    ----------
    last_s : when something came last, monotonic
    """

    def __init__(self, association: Association, bounds: Bounds, room: _Room) -> None:
        super().__init__(association)
        self._max_bytes = bounds.max_message_bytes + MESSAGE_OVERHEAD_BYTES
        self._share = _Share(room)
        self._collected = 0
        self._in_hand: _DataSet | None = None
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
            found = answers.take(self, answer=True, wait_s=self.dimse_timeout)
            self._asked = False
            return found
        if not self._asked:
            answers.drop_answers(self)
        self._answered()
        self._unanswered = False
        context_id, message = answers.take(self, answer=False, wait_s=LISTEN_S)
        if message is None:
            return None, None
        self._unanswered = True
        if isinstance(message, C_STORE) and isinstance(message.DataSet, _DataSet):
            self._in_hand = message.DataSet
        return context_id, message

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """As pynetdicom's; whatever is sent, the next thing to come is the peer's."""
        self._unanswered = False
        is_answer = isinstance(primitive, C_STORE) and primitive.MessageIDBeingRespondedTo
        message = (
            answers.to_store(primitive, context_id, self.maximum_pdu_size) if is_answer else None
        )
        if primitive.MessageIDBeingRespondedTo is None:
            answers.drop_answers(self)
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
            self.message.data_set = _DataSet(self.message, self._share)
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
