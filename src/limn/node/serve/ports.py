"""The ports of this host's part of a node, tried before anything starts."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.host.port_holder import HostPort, refusal_of
from limn.node.host.processes import Part

PORT_WAIT_S = 5.0


def check_ports(config: Config, only: Part | None = None) -> str:
    """Try every port that this host will listen on; return their keys and numbers as text.

    Raises
    ------
    ConfigWrong
        If ports can't be used; the message names each key and, if it is known, who has the port.
    """
    ports = _ports(config, only)
    # The children of a node that was just killed keep their ports a moment longer.
    give_up_s = time.monotonic() + PORT_WAIT_S
    while (refused := _refused(ports)) and time.monotonic() < give_up_s:
        time.sleep(0.2)
    if refused:
        raise ConfigWrong(refusal_of(refused))
    return ", ".join(f"{each.key} {each.port}" for each in ports)


def _refused(ports: Sequence[HostPort]) -> dict[HostPort, str]:
    """The ports that can't be used, and why."""
    return {each: why for each in ports if (why := _unusable(each.host, each.port, each.kind))}


def _ports(config: Config, only: Part | None) -> list[HostPort]:
    """Each port on which this host's part listens."""
    receive, engine, board, metrics = config.receive, config.engine, config.board, config.metrics
    found = []
    if only in {None, "receiver"}:
        found += [
            HostPort("receive.port", receive.host, receive.port),
            HostPort("engine.wake_port", "127.0.0.1", engine.wake_port, socket.SOCK_DGRAM),
        ]
        if board is not None:
            found.append(HostPort("board.port", board.host, board.port))
    if only == "scheduler" or (only is None and engine.scheduler == "local"):
        found.append(HostPort("engine.port", engine.host, engine.port))
    if only in {None, "worker"}:
        ports = [port for port in engine.worker_ports if port]
        found += [HostPort("engine.worker_port", engine.host, port) for port in ports]
    if metrics.port is not None:
        found.append(HostPort("metrics.port", metrics.host, metrics.port))
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
