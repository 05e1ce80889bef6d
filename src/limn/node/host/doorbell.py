"""Wakes the engine when something new is in the journal; tells whether an engine runs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from limn.node.config import Config
from limn.node.heartbeat import HEART

LOOPBACK = "127.0.0.1"


def send_wake(config: Config) -> None:
    """Wake the engine; if it misses this, it reads the journal by itself within a second."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"wake", (LOOPBACK, config.engine.wake_port))


def engine_runs(config: Config) -> bool:
    """Whether an engine listens for wakes; no other process can bind its port then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((LOOPBACK, config.engine.wake_port))
        except OSError:
            return True
    return False


def listen_for_wakes(config: Config, wake: Callable[[], None], stopping: threading.Event) -> None:
    """Call ``wake`` at every wake that comes, until the engine stops."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, config.engine.wake_port))
        listener.settimeout(0.2)
        HEART.register()
        while not stopping.is_set():
            HEART.moved()
            try:
                listener.recv(16)
            except TimeoutError:
                continue
            except OSError:
                # Windows reports here that an earlier datagram met no listener; without a wake the
                # engine reads the journal by itself.
                stopping.wait(0.2)
            wake()
