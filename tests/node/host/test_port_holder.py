"""A port that can't be used: who has it is said only where the system tells us."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from limn.node.host.port_holder import HostPort, holder_of, refusal_of
from tests.conftest import free_port

HOLD = """\
import socket, sys, time
kind = socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM
with socket.socket(socket.AF_INET, kind) as held:
    held.bind(("127.0.0.1", int(sys.argv[2])))
    if kind == socket.SOCK_STREAM:
        held.listen()
    print("bound", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_another_program_is_named(kind: socket.SocketKind) -> None:
    """Its name and process; a port of the other transport has nothing to do with it."""
    port = free_port()
    word = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    command = [sys.executable, "-c", HOLD, word, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "bound\n"
            name = psutil.Process(other.pid).name()
            assert holder_of(port, kind) == f"{name}, process {other.pid}"
            (another,) = {socket.SOCK_STREAM, socket.SOCK_DGRAM} - {kind}
            assert holder_of(port, another) == ""
            said = refusal_of(
                {HostPort("board.port", "127.0.0.1", port, kind): "Address already in use"}
            )
        finally:
            other.kill()
    assert said == (
        f"board.port {port} on 127.0.0.1 can't be used (Address already in use: {name}, process "
        f"{other.pid}); stop what listens there or choose another board.port in the config"
    )


def test_a_module_that_python_runs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3` alone would not say that it is another limn."""
    words = ["/opt/limn/venv/bin/python3", "-m", "limn.cli", "serve", "--config", "/etc/site.toml"]
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: words)
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = holder_of(server.getsockname()[1], socket.SOCK_STREAM)
    assert said == f"python3 -m limn.cli serve, process {os.getpid()}"


def test_nothing_is_said_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an administrator of macOS is told; Linux hides the programs of other users."""

    def denied(kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    assert holder_of(11112, socket.SOCK_STREAM) == ""
    said = refusal_of({HostPort("receive.port", "10.0.0.3", 104): "Permission denied"})
    assert said.startswith("receive.port 104 on 10.0.0.3 can't be used (Permission denied); ")
