"""A planning system made of plain sockets, which answers byte by byte whatever a test wants."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

ECHO_RSP, STORE_RSP = 0x8030, 0x8001


def item(kind: int, value: bytes) -> bytes:
    """An item of an A-ASSOCIATE PDU (PS3.8 9.3)."""
    return struct.pack(">BBH", kind, 0, len(value)) + value


def acceptance(request: bytes) -> bytes:
    """An A-ASSOCIATE-AC that accepts presentation context 1 in Implicit VR Little Endian."""
    context = struct.pack(">BBBB", 1, 0, 0, 0) + item(0x40, b"1.2.840.10008.1.2")
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4")
    body = request[6:74] + item(0x10, b"1.2.840.10008.3.1.1.1")
    body += item(0x21, context) + item(0x50, user)
    return struct.pack(">BBL", 2, 0, len(body)) + body


def response(
    *, context: int = 1, message: int = 1, command: int = STORE_RSP, instance: bytes = b""
) -> bytes:
    """A P-DATA-TF with a response of status Success."""
    values = [(0x0100, struct.pack("<H", command)), (0x0120, struct.pack("<H", message))]
    values += [(0x0800, b"\x01\x01"), (0x0900, b"\0\0")]
    if instance:
        values.append((0x1000, instance + b"\0" * (len(instance) % 2)))
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in values)
    body = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    fragment = struct.pack(">LBB", len(body) + 2, context, 3) + body
    return struct.pack(">BBL", 4, 0, len(fragment)) + fragment


def pdu(connection: socket.socket) -> bytes:
    """The next PDU; empty at the end of the connection."""
    found = b""
    wanted = 6
    while len(found) < wanted:
        some = connection.recv(wanted - len(found))
        if not some:
            return b""
        found += some
        if len(found) == 6:
            wanted += struct.unpack(">L", found[2:])[0]
    return found


def message(connection: socket.socket) -> bytes:
    """All PDUs of a request with a data set."""
    found = b""
    while not found or found[-1] != 2:
        part = pdu(connection)
        if not part:
            return b""
        found += part + part[11:12]
    return found


@contextlib.contextmanager
def raw_peer(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A peer on loopback that talks so on each connection; yields its port."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    stack.callback(connection.close)
                    threading.Thread(target=converse, args=(connection,), daemon=True).start()

        def converse(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
