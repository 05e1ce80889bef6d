"""Planning systems that hang in the middle of something, or answer another request."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from limn.domain.errors import PeerUnreachable
from limn.node.config import DicomDestination
from limn.node.deliver.destinations import Outcome, deliver
from limn.node.dimse import client, deadline, routing
from limn.node.dimse.client import Peer, echo, store
from tests.support.node.parts import encoded, slices, structure_set
from tests.support.node.raw_peer import ECHO_RSP, acceptance, message, pdu, raw_peer, response

INSTANCE = "2.25.99.1"


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    """The times of the client, a twentieth as long."""
    for name, seconds in (("CONNECT_S", 0.3), ("REPLY_S", 0.5), ("REST_S", 0.2)):
        monkeypatch.setattr(client, name, seconds)
    monkeypatch.setattr(deadline, "STOP_S", 0.2)
    monkeypatch.setattr(deadline, "SLOWEST_BYTES_PER_S", 10_000_000)
    monkeypatch.setattr(routing, "STRAY_S", 0.2)


def accept(connection: socket.socket) -> None:
    """Take the request and accept."""
    connection.sendall(acceptance(pdu(connection)))


def forever(connection: socket.socket) -> None:
    """Do nothing more; the test ends the connection."""
    del connection
    threading.Event().wait(30)


def drip(connection: socket.socket, contents: bytes) -> None:
    """Byte by byte, slower than any deadline."""
    for byte in contents:
        connection.sendall(bytes([byte]))
        time.sleep(0.3)


def answers_nothing(connection):
    """Not even to the association."""
    forever(connection)


def accepts_by_half(connection):
    """The acceptance ends in the middle."""
    connection.sendall(acceptance(pdu(connection))[:40])
    forever(connection)


def starts_a_pdu(connection):
    """Three bytes, and no more."""
    pdu(connection)
    connection.sendall(b"\x02\x00\x00")
    forever(connection)


def reads_no_more(connection):
    """Accepts, and leaves the file in the line."""
    accept(connection)
    forever(connection)


def answers_by_half(connection):
    """The response ends in the middle."""
    accept(connection)
    message(connection)
    connection.sendall(response()[:20])
    forever(connection)


def answers_byte_by_byte(connection):
    """One byte now and then."""
    accept(connection)
    message(connection)
    drip(connection, response())


def announces_four_gigabytes(connection):
    """A response of 4 GB."""
    accept(connection)
    message(connection)
    connection.sendall(b"\x04\x00\xff\xff\xff\xff" + bytes(1000))
    forever(connection)


HANGING = [
    answers_nothing,
    accepts_by_half,
    starts_a_pdu,
    reads_no_more,
    answers_by_half,
    answers_byte_by_byte,
    announces_four_gigabytes,
]


@pytest.fixture
def path(tmp_path):
    """A structure set on disk."""
    written = tmp_path / "RS.dcm"
    written.write_bytes(encoded(structure_set(INSTANCE)))
    return written


def tps(port: int) -> DicomDestination:
    """A planning system on this port."""
    return DicomDestination(kind="dicom", name="tps", ae_title="TPS", host="127.0.0.1", port=port)


@pytest.mark.parametrize("talk", HANGING, ids=lambda talk: talk.__name__)
def test_a_peer_that_hangs_is_left_in_time_and_tried_again(path, talk):
    """Wherever it stops, the delivery ends, its threads end, and the text names the peer."""
    before = set(threading.enumerate())
    with raw_peer(talk) as port:
        began_s = time.monotonic()
        answer = deliver(tps(port), path, "LIMN")
        assert time.monotonic() - began_s < 6
        until_s = time.monotonic() + 3
        while time.monotonic() < until_s and any(
            "deadline" in each.name or not each.daemon
            for each in set(threading.enumerate()) - before
        ):
            time.sleep(0.05)
        left = set(threading.enumerate()) - before
        assert not [each for each in left if "deadline" in each.name or not each.daemon]
    assert answer.outcome is Outcome.RETRY_LATER
    assert answer.status.startswith(f"TPS@127.0.0.1:{port} ")


def test_what_was_wrong_is_said(path):
    """An operator reads that the planning system hangs, or how much it announced."""
    with raw_peer(answers_byte_by_byte) as port:
        assert "took longer than" in deliver(tps(port), path, "LIMN").status
    with raw_peer(announces_four_gigabytes) as port:
        assert "announced 4294967295 bytes" in deliver(tps(port), path, "LIMN").status


def test_a_large_file_that_nobody_reads_is_cut_off():
    """More than fits between the machines: limn's thread waits in the middle of sending."""
    (large,) = slices()[:1]
    large.add_new(0x00091010, "OB", bytes(30_000_000))
    with raw_peer(reads_no_more) as port:
        began_s = time.monotonic()
        with pytest.raises(PeerUnreachable):
            list(store(Peer("TPS", "127.0.0.1", port, "LIMN"), [large]))
        assert time.monotonic() - began_s < 10


def test_a_stop_of_the_node_ends_a_delivery_that_hangs(path, monkeypatch):
    """Long before its own deadline."""
    monkeypatch.setattr(client, "REPLY_S", 60.0)
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    with raw_peer(answers_by_half) as port:
        began_s = time.monotonic()
        answer = deliver(tps(port), path, "LIMN", stopping)
        assert time.monotonic() - began_s < 10
    assert answer.outcome is Outcome.RETRY_LATER
    assert "when limn stopped" in answer.status


def test_the_end_of_the_process_ends_what_hangs(tmp_path):
    """Pynetdicom's threads are no daemons: a process would wait for them until the deadline."""
    program = tmp_path / "ends.py"
    program.write_text(
        "import sys, threading, time\n"
        "from limn.node.dimse import deadline\n"
        "from limn.node.dimse.client import Peer, echo\n"
        "deadline.STOP_S = 0.2\n"
        "peer = Peer('TPS', '127.0.0.1', int(sys.argv[1]), 'LIMN')\n"
        "threading.Thread(target=echo, args=(peer,), daemon=True).start()\n"
        "time.sleep(0.5)\n"
    )
    with raw_peer(starts_a_pdu) as port:
        began_s = time.monotonic()
        subprocess.run([sys.executable, str(program), str(port)], check=False, timeout=60)
        assert time.monotonic() - began_s < 40


def test_echo_ends_in_time():
    """``limn echo`` uses the same client."""

    def half(connection):
        accept(connection)
        pdu(connection)
        connection.sendall(response(command=ECHO_RSP)[:12])
        forever(connection)

    with raw_peer(half) as port, pytest.raises(PeerUnreachable, match="took longer"):
        echo(Peer("TPS", "127.0.0.1", port, "LIMN"))


OTHER = {
    "message 2": response(message=2),
    "message 0": response(message=0),
    "message 65535": response(message=65535),
    "presentation context 3": response(context=3),
    "C_ECHO": response(command=ECHO_RSP),
    "2.25.7": response(instance=b"2.25.7"),
}


@pytest.fixture
def _patient(monkeypatch):
    """The real times, where a busy machine must not be taken for a peer that hangs."""
    for name, seconds in (("CONNECT_S", 5.0), ("REPLY_S", 60.0)):
        monkeypatch.setattr(client, name, seconds)


def replies(*contents: bytes):
    """A peer that takes the structure set and sends these bytes."""

    def talk(connection):
        accept(connection)
        message(connection)
        for each in contents:
            connection.sendall(each)
        # The request to release the association, or its end.
        pdu(connection)
        connection.shutdown(socket.SHUT_RDWR)

    return talk


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize(("name", "contents"), OTHER.items(), ids=OTHER)
def test_the_answer_to_another_request_delivers_nothing(path, caplog, name, contents):
    """Status Success, but of another message, context, command or instance: tried again."""
    with raw_peer(replies(contents)) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert name in answer.status
    assert name in caplog.text


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("stray", OTHER.values(), ids=OTHER)
def test_the_right_answer_may_follow_another(path, stray):
    """The stray response is dropped, and the right one counts."""
    with raw_peer(replies(stray, response(instance=INSTANCE.encode()))) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert (answer.outcome, answer.status) == (Outcome.DELIVERED, "0x0000")


def test_a_response_that_comes_twice_answers_one_request():
    """The second file is not taken for stored because the first was."""

    def talk(connection):
        accept(connection)
        message(connection)
        connection.sendall(response(message=1))
        message(connection)
        connection.sendall(response(message=1))
        forever(connection)

    with raw_peer(talk) as port:
        answers = store(Peer("TPS", "127.0.0.1", port, "LIMN"), slices()[:2])
        assert next(answers) == 0
        with pytest.raises(PeerUnreachable):
            next(answers)
