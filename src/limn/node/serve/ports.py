"""The ports of this host's part of a node, tried before anything starts."""

from __future__ import annotations

import os
import socket
import time

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.host.processes import Part

PORT_WAIT_S = 5.0


def check_ports(config: Config, only: Part | None = None) -> str:
    """Try every port that this host will listen on; return them as text.

    Raises
    ------
    ConfigWrong
        If a port can't be used; the message names the first such key.
    """
    ports = _ports(config, only)
    for key, host, port, kind in ports:
        # The children of a node that was just killed keep their ports a moment longer.
        give_up_s = time.monotonic() + PORT_WAIT_S
        while (why := _unusable(host, port, kind)) and time.monotonic() < give_up_s:
            time.sleep(0.2)
        if why:
            msg = (
                f"{key} {port} on {host} can't be used ({why}); stop what listens there or "
                "choose another port"
            )
            raise ConfigWrong(msg)
    return ", ".join(str(port) for _, _, port, _ in ports)


def _ports(config: Config, only: Part | None) -> list[tuple[str, str, int, socket.SocketKind]]:
    """Key, host, port and kind of each socket on which this host's part listens."""
    receive, engine = config.receive, config.engine
    found = []
    if only in {None, "receiver"}:
        found += [
            ("receive.port", receive.host, receive.port, socket.SOCK_STREAM),
            ("engine.wake_port", "127.0.0.1", engine.wake_port, socket.SOCK_DGRAM),
        ]
        if config.board is not None:
            board = config.board
            found.append(("board.port", board.host, board.port, socket.SOCK_STREAM))
    if only == "scheduler" or (only is None and engine.scheduler == "local"):
        found.append(("engine.port", engine.host, engine.port, socket.SOCK_STREAM))
    if only in {None, "worker"}:
        found += [
            ("engine.worker_port", engine.host, port, socket.SOCK_STREAM)
            for port in engine.worker_ports
            if port
        ]
    return found


def _unusable(host: str, port: int, kind: socket.SocketKind) -> str:
    """Why an address can't be bound; empty if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM and os.name == "posix":
            # A closed connection may linger; on Windows this option would take another's port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
