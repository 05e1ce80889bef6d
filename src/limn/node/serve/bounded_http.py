"""An HTTP server that no peer can hold up or fill: few connections, and little time for each."""

from __future__ import annotations

import socket
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from typing import Any

# A page takes milliseconds, or seconds while the journal is checked.
MAX_CONNECTIONS = 16
CONNECTION_S = 10.0


class BoundedHttpServer(ThreadingHTTPServer):
    """Closes the oldest connection for a new one, and each after its time.

    The supervisor, in which it runs, thus keeps the file descriptors that its children need.
    """

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS
    # On Windows the option would let two processes share the port.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, *args: Any, connection_s: float = CONNECTION_S) -> None:
        self._connection_s = connection_s
        # The oldest first. A socket stays until its own thread has closed it.
        self._since_s: dict[socket.socket, float] = {}
        self._closed = threading.Condition()
        super().__init__(*args)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a connection, and let the oldest go if too many are open."""
        del client_address
        with self._closed:
            if len(self._since_s) >= MAX_CONNECTIONS:
                _disconnect(next(iter(self._since_s)))
                # Meanwhile the next clients wait in the kernel, which costs no descriptor.
                self._closed.wait_for(
                    lambda: len(self._since_s) < MAX_CONNECTIONS, self._connection_s
                )
            if len(self._since_s) >= MAX_CONNECTIONS:
                return False
            self._since_s[request] = time.monotonic()
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        super().shutdown_request(request)
        with self._closed:
            self._since_s.pop(request, None)
            self._closed.notify()

    def service_actions(self) -> None:
        """Disconnect those whose time is over; called at least twice a second."""
        super().service_actions()
        with self._closed:
            for request, since_s in self._since_s.items():
                if time.monotonic() - since_s > self._connection_s:
                    _disconnect(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the peer left, or took too long."""


def _disconnect(request: socket.socket) -> None:
    """Wake the thread that reads or writes there; it then closes the socket."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
