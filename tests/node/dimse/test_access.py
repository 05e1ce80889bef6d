"""Which peers are let in, and the bounds on their time and memory."""

import os
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from limn.node.config import Receive
from limn.node.dimse.access import Caller, may_connect, refusal_of
from limn.node.receive.store_result import StoreResult
from tests.conftest import require_peer
from tests.node.receive.test_storage_scp import Listening
from tests.support.node.parts import COUNT, Door, slices, stop, until, write_slices

QUICK = os.environ | {"TCP_NODELAY": "1"}
SCANNER = Caller("SCANNER", "LIMN", stores=True)


def reason(association: Association) -> tuple[int, int, int]:
    """Result, source and reason of an A-ASSOCIATE-RJ."""
    assert association.is_rejected
    reject = association.acceptor.primitive
    return reject.result, reject.result_source, reject.diagnostic


@pytest.fixture
def listening(tmp_path):
    """Makes receivers with the given settings."""
    made = []

    def make(**settings: object) -> Listening:
        made.append(Listening(Door(tmp_path / str(len(made)), hold_s=0.4), **settings))
        return made[-1]

    yield make
    for each in made:
        stop(each.server)


def bound(receiver: Listening, **bounds: float) -> None:
    """Other limits for the connections that come from now on."""
    receiver.server.bounds = replace(receiver.server.bounds, **bounds)


@pytest.mark.parametrize(
    ("settings", "caller", "reject"),
    [
        ({}, SCANNER, None),
        ({"calling_ae": ["SCANNER "]}, Caller(" SCANNER", "LIMN  ", stores=True), None),
        ({}, Caller("SCANNER", "LIMNX", stores=True), (1, 1, 7)),
        ({"require_called_ae": False}, Caller("SCANNER", "ANY", stores=True), None),
        ({"calling_ae": ["OTHER"]}, SCANNER, (1, 1, 3)),
        ({"max_associations": 3}, SCANNER, (2, 3, 2)),
        ({"max_associations": 4}, SCANNER, None),
    ],
)
def test_the_rules(settings, caller, reject):
    """Each rule by itself, with its reason in PS3.8; three associations are open."""
    refusal = refusal_of(Receive.model_validate(settings), caller, 3, disk_is_low=False)
    assert (refusal and refusal.reject) == reject


def test_a_full_disk_rejects_only_storage():
    """C-ECHO and commitment are still answered."""
    refusal = refusal_of(Receive(), SCANNER, 0, disk_is_low=True)
    assert refusal is not None
    assert refusal.reject == (2, 3, 1)
    assert refusal_of(Receive(), Caller("A", "LIMN", stores=False), 0, disk_is_low=True) is None


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        ([], "203.0.113.9", True),
        (["10.1.0.0/16"], "10.1.200.3", True),
        (["10.1.0.0/16"], "10.2.0.1", False),
        (["10.1.0.0/16", "192.0.2.7"], "192.0.2.7", True),
        (["10.1.0.0/16"], "::ffff:10.1.2.3", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["10.0.0.0/8"], "not an address", False),
    ],
)
def test_networks(networks, address, allowed):
    """IPv4, IPv6, one host, and IPv4 mapped to IPv6."""
    found = Receive.model_validate({"allow": networks}).allow
    assert may_connect(address, found) is allowed


@pytest.mark.peer
@pytest.mark.parametrize(
    ("settings", "titles", "printed", "logged"),
    [
        ({}, ("SCANNER", "WRONG"), "Called AE Title Not Recognized", "it calls 'WRONG'"),
        (
            {"calling_ae": ["CT1", "CT2"]},
            ("STRANGER", "LIMN"),
            "Calling AE Title Not Recognized",
            "'STRANGER' is not in receive.calling_ae",
        ),
    ],
)
def test_echoscu_gets_the_reason(listening, caplog, settings, titles, printed, logged):
    """Dcmtk prints the reason; the log has one line with peer and reason; others are let in."""
    echoscu = require_peer("/usr/bin/echoscu")
    receiver = listening(**settings)

    def echo(calling: str, called: str) -> subprocess.CompletedProcess[str]:
        command = [echoscu, "-v", "-aet", calling, "-aec", called, "127.0.0.1"]
        return subprocess.run(
            [*command, str(receiver.port)], env=QUICK, check=False, capture_output=True, text=True
        )

    refused = echo(*titles)
    assert refused.returncode != 0
    assert printed in refused.stdout + refused.stderr
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(lines) == 1
    assert logged in lines[0]
    assert f"{titles[0]}@127.0.0.1" in lines[0]
    assert echo("CT2", "LIMN").returncode == 0


@pytest.mark.peer
def test_a_connection_from_another_network_is_not_read(listening, caplog):
    """Outside ``receive.allow`` the connection is closed before a byte is read, and logged."""
    echoscu = require_peer("/usr/bin/echoscu")
    receiver = listening(allow=["10.20.0.0/16", "192.0.2.1"])
    done = subprocess.run(
        [echoscu, "-aec", "LIMN", "127.0.0.1", str(receiver.port)], env=QUICK, check=False
    )
    assert done.returncode != 0
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert lines == ["connection from 127.0.0.1 refused: not in receive.allow"]
    inside = listening(allow=["127.0.0.0/8"])
    association = inside.associate((Verification, None))
    assert association.send_c_echo().Status == 0
    association.release()


def test_one_association_too_many(listening, caplog):
    """Rejected as transient, local limit exceeded; when one has ended another is accepted."""
    receiver = listening(max_associations=2)
    first, second = receiver.associate(), receiver.associate()
    assert reason(receiver.associate()) == (2, 3, 2)
    assert "2 are open (receive.max_associations)" in caplog.text
    first.release()
    until(lambda: receiver.associate().is_established)
    second.release()


def test_silent_connections_count_as_no_association(listening):
    """Sockets without an A-ASSOCIATE-RQ take no association's place."""
    receiver = listening(max_associations=2, artim_s=20)
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(2)]
    association = receiver.associate()
    assert association.is_established
    association.release()
    for each in silent:
        each.close()


def test_more_connections_than_twice_the_associations_are_closed(listening, caplog):
    """Each costs threads, so that their number is limited too."""
    receiver = listening(max_associations=1, artim_s=20)
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(3)]
    silent[2].settimeout(10)
    assert silent[2].recv(1) == b""
    assert "refused: 2 are open" in caplog.text
    for each in silent:
        each.close()
    until(lambda: receiver.associate().is_established)


def test_a_half_open_socket_is_closed(listening):
    """Connected and silent: the ARTIM timer ends it (PS3.8 9.1.5)."""
    receiver = listening(artim_s=0.3)
    with socket.create_connection(("127.0.0.1", receiver.port)) as silent:
        silent.settimeout(10)
        assert silent.recv(1) == b""


def test_half_a_request_is_closed(listening):
    """The same with the first bytes of an A-ASSOCIATE-RQ that never ends."""
    receiver = listening(artim_s=0.3, idle_s=3600)
    with socket.create_connection(("127.0.0.1", receiver.port)) as silent:
        silent.settimeout(10)
        silent.sendall(b"\x01\x00" + struct.pack(">L", 200) + b"\0" * 50)
        assert silent.recv(64) in {b"", *()}


def test_an_idle_association_is_closed(listening):
    """Nothing for ``idle_s``: aborted, and its slices wait for a resend."""
    # Longer than a busy machine may need between two slices.
    receiver = listening(idle_s=4.0)
    association = receiver.associate()
    for ds in slices(count=40)[:25]:
        association.send_c_store(ds)
    until(lambda: association.is_aborted, 60)
    (row,) = receiver.door.wait_for_scans()
    assert "after 25 slices" in row.reason


def test_a_stalled_sender_is_closed_and_others_are_not_harmed(listening, caplog):
    """Half a PDU and then silence: closed at the timeout; a whole series comes in meanwhile."""
    receiver = listening(idle_s=4.0)
    stalled = receiver.associate()
    for ds in slices("2", count=40)[:25]:
        stalled.send_c_store(ds)
    wire = stalled.dul.socket.socket
    wire.sendall(b"\x04\x00" + struct.pack(">L", 60000) + b"\0" * 30000)
    other = receiver.associate()
    assert {other.send_c_store(ds).Status for ds in slices()} == {0}
    other.release()
    receiver.door.wait_for_scans()
    until(lambda: "it stalled in the middle of a PDU for 4 s" in caplog.text)
    rows = {row.animal: row for row in receiver.door.wait_for_scans(2)}
    assert (rows["M1"].state, rows["M2"].state) == ("ready", "refused")
    assert "after 25 slices" in rows["M2"].reason


def test_a_sender_of_single_bytes_is_closed(listening, caplog):
    """Single bytes now and then do not extend the time of one PDU."""
    receiver = listening(idle_s=2.0)
    association = receiver.associate()
    wire = association.dul.socket.socket
    wire.sendall(b"\x04\x00" + struct.pack(">L", 60000))

    def drip() -> None:
        try:
            while True:
                wire.sendall(b"\0")
                time.sleep(0.1)
        except OSError:
            return

    dripping = threading.Thread(target=drip)
    dripping.start()
    until(lambda: "it stalled in the middle of a PDU" in caplog.text)
    dripping.join(10)
    assert not dripping.is_alive()


def test_a_pdu_of_absurd_length_is_not_waited_for(listening, caplog):
    """Four gigabytes announced: closed at once, nothing allocated."""
    receiver = listening()
    association = receiver.associate()
    association.dul.socket.socket.sendall(b"\x04\x00\xff\xff\xff\xff")
    until(lambda: association.is_aborted)
    assert "it announces a PDU of 4294967295 bytes (receive.max_pdu)" in caplog.text
    assert receiver.associate().is_established


def test_an_instance_beyond_its_limit_is_aborted(listening, caplog):
    """The data set is not collected further than ``max_instance_mb``; the next one is fine."""
    receiver = listening(max_instance_mb=1)
    big = slices()[0]
    big.add_new(0x00091010, "LO", "X")
    big.add_new(0x00091011, "OB", bytes(3 * 2**20))
    association = receiver.associate()
    assert "Status" not in association.send_c_store(big)
    until(lambda: association.is_aborted)
    assert "an instance larger than 1 MB (receive.max_instance_mb)" in caplog.text
    again = receiver.associate()
    assert again.send_c_store(slices()[1]).Status == 0
    again.release()
    assert len(receiver.door.files()) == 1


def test_all_senders_share_a_bound_of_memory(listening, caplog):
    """An instance beyond the memory is refused with 0xA700; later there is memory again."""
    receiver = listening(max_instance_mb=1, max_incoming_mb=1)
    big = slices()
    for ds in big[:3]:
        ds.add_new(0x00091010, "LO", "X")
        ds.add_new(0x00091011, "OB", bytes(700 * 2**10))
    go_on, inside = threading.Event(), threading.Event()
    accept = receiver.door.intake.accept

    def slow(*arguments: object) -> StoreResult:
        inside.set()
        go_on.wait(20)
        return accept(*arguments)

    receiver.door.intake.accept = slow
    one, two = receiver.associate(), receiver.associate()
    (context,) = one.accepted_contexts
    one.dimse.send_msg(_store_request(big[0], 1), context.context_id)
    assert inside.wait(20)
    assert two.send_c_store(big[1]).Status == 0xA700
    assert "answered 0xA700: too much comes in at once (receive.max_incoming_mb)" in caplog.text
    go_on.set()
    until(lambda: len(receiver.door.files()) == 1)
    until(lambda: two.send_c_store(big[1]).Status == 0)
    # After half an instance its sender is gone, and its memory is free again.
    request = b"".join(_p_data(big[2])[:-1])
    one.dul.socket.socket.sendall(request)
    until(lambda: receiver.server.memory._free < 2**20 - 600 * 2**10)
    assert two.send_c_store(big[2]).Status == 0xA700
    one.abort()
    until(lambda: two.send_c_store(big[2]).Status == 0)
    assert len(receiver.door.files()) == 3
    two.release()


def test_an_instance_that_comes_too_slowly_gives_its_memory_back(listening, caplog):
    """Each PDU is in time, but the instance would take hours: aborted, and the memory is free."""
    receiver = listening(max_instance_mb=1, max_incoming_mb=1)
    bound(receiver, rate_window_s=1.0, min_bytes_per_s=100_000)
    (big, *_) = slices()
    big.add_new(0x00091010, "LO", "X")
    big.add_new(0x00091011, "OB", bytes(900 * 2**10))
    one, two = receiver.associate(), receiver.associate()
    pdus = _p_data(big)
    wire = one.dul.socket.socket
    wire.sendall(b"".join(pdus[:-3]))
    # Or the other association may be first to reserve the memory.
    until(lambda: receiver.server.memory._free < 2**18)
    until(lambda: two.send_c_store(big).Status == 0xA700)
    for pdu in pdus[-3:-1]:
        time.sleep(1.2)
        # On a busy machine the first one of these ends it.
        with suppress(OSError):
            wire.sendall(pdu)
    until(lambda: "aborted: it sent a message at less than 100 kB/s" in caplog.text)
    until(lambda: two.send_c_store(big).Status == 0)
    two.release()


def test_a_stopping_node_lets_a_sender_end_its_series(listening, caplog):
    """The port is closed at once, a silent peer aborted, a busy one not: its series is whole."""
    receiver = listening()
    silent, busy = receiver.associate((Verification, None)), receiver.associate()
    assert silent.send_c_echo().Status == 0
    series = slices(count=60)
    stopping = threading.Thread(target=receiver.server.shutdown)
    for k, ds in enumerate(series):
        if k == 10:
            stopping.start()
        assert busy.send_c_store(ds).Status == 0
        time.sleep(0.07)
    busy.release()
    stopping.join(20)
    assert not stopping.is_alive()
    until(lambda: silent.is_aborted)
    assert "association with SCANNER@127.0.0.1 aborted: limn stops" in caplog.text
    (row,) = receiver.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", 60)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", receiver.port), 2)


def test_a_stopping_node_waits_for_a_response_that_it_owes(listening):
    """The sender is silent because it waits for the response to a slow C-STORE."""
    receiver = listening()
    bound(receiver, stop_silence_s=0.3)
    accept = receiver.door.intake.accept

    def slow(*arguments: object) -> StoreResult:
        time.sleep(1.0)
        return accept(*arguments)

    receiver.door.intake.accept = slow
    association = receiver.associate()
    threading.Timer(0.2, receiver.server.shutdown).start()
    assert association.send_c_store(slices()[0]).Status == 0
    until(lambda: association.is_aborted)


def test_a_stopping_node_does_not_wait_for_a_mere_connection(listening):
    """A connection that requested no association is closed at once."""
    receiver = listening(artim_s=60.0)
    with socket.create_connection(("127.0.0.1", receiver.port), 5) as probe:
        time.sleep(0.5)
        began_s = time.monotonic()
        receiver.server.shutdown()
        assert time.monotonic() - began_s < 10
        probe.settimeout(5)
        with suppress(ConnectionResetError):
            assert probe.recv(64) == b""


def test_a_stopping_node_does_not_wait_for_ever(listening):
    """A sender that never ends is aborted; one that does not answer the abort is disconnected."""
    receiver = listening()
    bound(receiver, stop_grace_s=1.0)
    # Before: four hundred take a busy machine longer than the grace.
    sent = iter(slices(count=400))
    busy, deaf = receiver.associate(), receiver.associate()
    # Its reactor is gone, so that it never answers an abort.
    deaf.dul.kill_dul()
    stopping = threading.Thread(target=receiver.server.shutdown)
    stopping.start()
    while busy.is_established:
        with suppress(RuntimeError):
            busy.send_c_store(next(sent))
        time.sleep(0.02)
    stopping.join(10)
    assert not stopping.is_alive()
    (row,) = receiver.door.wait_for_scans()
    assert row.state == "refused"


def test_no_other_command_keeps_the_memory_of_an_instance(listening, caplog):
    """Half an instance and a C-ECHO in one message: the association ends, the memory is free."""
    receiver = listening(max_instance_mb=1, max_incoming_mb=1)
    big = slices()[0]
    big.add_new(0x00091010, "LO", "X")
    big.add_new(0x00091011, "OB", bytes(700 * 2**10))
    liar, honest = receiver.associate(), receiver.associate()
    liar.dul.socket.socket.sendall(b"".join([*_p_data(big)[:-1], *_echo()]))
    until(lambda: liar.is_aborted)
    assert "aborted: it sent another command in the middle of an instance" in caplog.text
    until(lambda: honest.send_c_store(big).Status == 0)
    honest.release()


def test_only_an_instance_may_be_large(listening, caplog):
    """A commitment request of more than 3 MB is not collected."""
    receiver = listening()
    association = receiver.associate()
    # Command fragments that are never the last.
    value = struct.pack(">LBB", 100_002, 1, 1) + bytes(100_000)
    # Once it is aborted it has no socket.
    with suppress(OSError, AttributeError):
        for _ in range(180):
            association.dul.socket.socket.sendall(
                b"\x04\x00" + struct.pack(">L", len(value)) + value
            )
    until(lambda: association.is_aborted)
    assert "a message larger than 3 MB that is no instance" in caplog.text


def test_large_messages_that_are_no_instances_do_not_wait_for_each_other(listening, caplog):
    """Behind a slow instance they would fill the memory that bounds instances alone."""
    receiver = listening()
    go_on = threading.Event()
    accept = receiver.door.intake.accept

    def slow(*arguments: object) -> StoreResult:
        go_on.wait(20)
        return accept(*arguments)

    receiver.door.intake.accept = slow
    association = receiver.associate()
    (context,) = association.accepted_contexts
    association.dimse.send_msg(_store_request(slices()[0], 1), context.context_id)
    association.dimse.send_msg(_store_request(slices()[1], 2), context.context_id)
    until(lambda: receiver.server is not None)
    time.sleep(0.3)
    value = struct.pack(">LBB", 100_002, 1, 1) + bytes(100_000)
    with suppress(OSError, AttributeError):
        for _ in range(10):
            association.dul.socket.socket.sendall(
                b"\x04\x00" + struct.pack(">L", len(value)) + value
            )
    until(lambda: "a large message that is no instance before the answer" in caplog.text)
    go_on.set()


def test_requests_that_await_no_response_end_the_association(listening, caplog):
    """They would fill the memory, and no asynchronous operations were negotiated."""
    receiver = listening()
    go_on = threading.Event()
    accept = receiver.door.intake.accept

    def slow(*arguments: object) -> StoreResult:
        go_on.wait(20)
        return accept(*arguments)

    receiver.door.intake.accept = slow
    association = receiver.associate()
    (context,) = association.accepted_contexts
    for number, ds in enumerate(slices()[:14]):
        request = _store_request(ds, number + 1)
        association.dimse.send_msg(request, context.context_id)
    until(lambda: "8 requests without awaiting an answer" in caplog.text)
    go_on.set()
    until(lambda: association.is_aborted)


def test_a_damaged_message_ends_the_association_and_no_more(listening, caplog):
    """A damaged command set: aborted, and the series does not stay open for ever."""
    receiver = listening()
    association = receiver.associate()
    for ds in slices(count=40)[:25]:
        association.send_c_store(ds)
    # One presentation data value, last fragment of a command: CommandField 0xBEEF.
    command = struct.pack("<HHLH", 0x0000, 0x0100, 2, 0xBEEF)
    value = struct.pack(">LBB", len(command) + 2, 1, 3) + command
    association.dul.socket.socket.sendall(b"\x04\x00" + struct.pack(">L", len(value)) + value)
    until(lambda: association.is_aborted)
    assert "a damaged message" in caplog.text
    (row,) = receiver.door.wait_for_scans()
    assert "after 25 slices" in row.reason


@pytest.mark.slow
@pytest.mark.peer
def test_fourteen_scanners_at_once(listening, tmp_path):
    """Fourteen parallel associations: none refused, none mixed."""
    storescu = require_peer("/usr/bin/storescu")
    receiver = listening()
    sending = []
    for number in range(14):
        folder = tmp_path / f"sent-{number}"
        write_slices(folder, slices(str(number + 1)))
        command = [storescu, "+sd", "-aec", "LIMN", "127.0.0.1", str(receiver.port), str(folder)]
        sending.append(subprocess.Popen(command, env=QUICK))
    assert [process.wait(120) for process in sending] == [0] * 14
    rows = receiver.door.wait_for_scans(14)
    assert sorted(row.animal for row in rows) == sorted(f"M{k + 1}" for k in range(14))
    assert {(row.state, len(row.files)) for row in rows} == {("ready", COUNT)}


def _p_data(ds: object) -> list[bytes]:
    """The PDUs of a C-STORE request on the first context."""
    from pynetdicom.dimse_messages import C_STORE_RQ  # noqa: PLC0415

    return _pdus(C_STORE_RQ(), _store_request(ds, 1))


def _echo() -> list[bytes]:
    """The PDU of a C-ECHO request on the first context."""
    from pynetdicom.dimse_messages import C_ECHO_RQ  # noqa: PLC0415
    from pynetdicom.dimse_primitives import C_ECHO  # noqa: PLC0415

    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 2, Verification
    return _pdus(C_ECHO_RQ(), request)


def _pdus(message: object, request: object) -> list[bytes]:
    from pynetdicom.pdu import P_DATA_TF  # noqa: PLC0415

    pdus = []
    message.primitive_to_message(request)
    for primitive in message.encode_msg(1, 16384):
        pdu = P_DATA_TF()
        pdu.from_primitive(primitive)
        pdus.append(pdu.encode())
    return pdus


def _store_request(ds: object, number: int) -> object:
    from io import BytesIO  # noqa: PLC0415

    from pynetdicom.dimse_primitives import C_STORE  # noqa: PLC0415
    from pynetdicom.dsutils import encode  # noqa: PLC0415

    request = C_STORE()
    request.MessageID = number
    request.AffectedSOPClassUID = ds.SOPClassUID
    request.AffectedSOPInstanceUID = ds.SOPInstanceUID
    request.Priority = 2
    request.DataSet = BytesIO(encode(ds, False, True))
    return request


def test_the_spool_has_a_size(tmp_path):
    """Above ``max_bytes`` it is full; files that retention removes make room again."""
    door = Door(tmp_path)
    object.__setattr__(door.spool, "max_bytes", 4000)
    statuses = door.send(slices())
    taken = statuses.count(0)
    assert 0 < taken < COUNT
    assert statuses == [0] * taken + [0xA700] * (COUNT - taken)
    assert sum(path.stat().st_size for path in door.files()) >= 4000


def test_files_belong_to_their_owner_alone(tmp_path):
    """No other user can read spool, journal and data folder."""
    if os.name != "posix":
        pytest.skip("file modes are POSIX")
    door = Door(tmp_path / "data")
    door.send(slices()[:1])

    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    assert mode(tmp_path / "data") == 0o700
    assert mode(tmp_path / "data" / "journal.sqlite") == 0o600
    (path,) = door.files()
    assert [mode(each) for each in (path, path.parent, path.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]
