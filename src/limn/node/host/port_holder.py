"""What to say of a port that can't be used: its key, and who has it, if that is known."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import PurePath
from typing import NamedTuple

import psutil

# So many words of a command line tell Python's programs apart: `python -m limn.cli serve`.
COMMAND_WORDS = 4


class HostPort(NamedTuple):
    """A port on which this host is to listen, by its key in the config, as `receive.port`."""

    key: str
    host: str
    port: int
    kind: socket.SocketKind = socket.SOCK_STREAM


def refusal_of(refused: Mapping[HostPort, str]) -> str:
    """The sentence for ports that can't be used, each beside the system's reason."""
    said = []
    for (key, host, port, kind), why in refused.items():
        holder = holder_of(port, kind)
        said.append(f"{key} {port} on {host} can't be used ({why}{holder and f': {holder}'})")
    another = f"another {next(iter(refused)).key}" if len(refused) == 1 else "other ports"
    return f"{'; '.join(said)}; stop what listens there or choose {another} in the config"


def holder_of(port: int, kind: socket.SocketKind) -> str:
    """The program and process that has a port of this host; empty if the system does not tell us.

    Systems tell an ordinary user of that user's own programs alone.
    """
    try:
        found = psutil.net_connections("udp" if kind == socket.SOCK_DGRAM else "tcp")
        ours = (each for each in found if each.laddr and each.laddr.port == port)
        held = [each for each in ours if each.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)]
        pid = next((each.pid for each in held if each.pid is not None), None)
        return "" if pid is None else f"{_program(psutil.Process(pid))}, process {pid}"
    except (psutil.Error, OSError):
        return ""


def _program(process: psutil.Process) -> str:
    """Its name; of a module that Python runs, the command's first words."""
    name: str = process.name()
    words = process.cmdline()[:COMMAND_WORDS]
    if words[1:2] == ["-m"]:
        return " ".join([PurePath(words[0]).name, *words[1:]])
    return name
