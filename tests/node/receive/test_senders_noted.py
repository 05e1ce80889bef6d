"""What a sender does at the real port stands in the receiver's note: who came, who was refused."""

import socket

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification

from limn.node.config import Receive
from limn.node.receive.storage_scp import listen
from limn.node.store.disk.contacts import read_senders
from tests.conftest import free_port
from tests.support.node.parts import Door, only_sends, slices, stop, until


class Port:
    """A receiver on loopback that knows one scanner."""

    def __init__(self, folder, **settings):
        self.path = folder / "senders.json"
        self.door = Door(folder)
        self.port = free_port()
        values = {"port": self.port, "min_free_mb": 0, "calling_ae": ("CT",)} | settings
        self.server = listen(Receive.model_validate(values), self.door.intake, 0.05)

    def call(self, calling="CT", called="LIMN", sop_class=Verification):
        """An association; it may be refused."""
        ae = AE(ae_title=calling)
        ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
        return ae.associate("127.0.0.1", self.port, ae_title=called)

    def figures(self):
        """What the note says."""
        self.door.intake.senders.write(self.path)
        return read_senders(self.path)


@pytest.fixture
def port(tmp_path):
    """The receiver, closed at the end."""
    made = Port(tmp_path)
    yield made
    stop(made.server)


def test_an_echo_is_a_contact(port):
    """A scanner that only tries the connection is heard of."""
    association = port.call()
    assert association.send_c_echo().Status == 0
    association.release()
    sender = port.figures().senders["CT@127.0.0.1"]
    assert sender.came_at > 0
    assert (sender.refused, port.figures().refused) == (0, {})


@pytest.mark.parametrize(
    ("calling", "called", "reason", "why"),
    [
        ("CT", "LIMM", "called-ae", "it calls 'LIMM', this node is 'LIMN' (receive.ae_title)"),
        ("MR", "LIMN", "calling-ae", "'MR' is not in receive.calling_ae"),
    ],
)
def test_a_refusal_is_kept_with_its_reason(port, calling, called, reason, why):
    """The page says which setting refuses whom."""
    for _ in range(2):
        assert port.call(calling, called).is_rejected
    found = port.figures()
    sender = found.senders[f"{calling}@127.0.0.1"]
    assert (sender.refused, sender.refused_why, sender.came_at) == (2, why, 0.0)
    assert found.refused == {reason: 2}


def test_instances_are_counted(port):
    """Those that are stored, and one that is not a CT slice of an animal."""
    good, bad = slices("1", 2)
    del bad.PixelData
    association = only_sends(port.call(sop_class=CTImageStorage))
    assert association.send_c_store(good).Status == 0
    status = association.send_c_store(bad).Status
    assert status != 0
    association.release()
    found = port.figures()
    assert (found.stored, found.not_stored) == (1, 1)
    assert found.senders["CT@127.0.0.1"].not_stored_why.startswith(f"0x{status:04X}: ")


def test_a_connection_from_elsewhere_is_noted_by_its_address(tmp_path):
    """`receive.allow` refuses it before it says its name."""
    port = Port(tmp_path, allow=("192.0.2.0/24",))
    try:
        with socket.create_connection(("127.0.0.1", port.port)) as stranger:
            stranger.recv(1)
        until(lambda: port.figures().refused == {"address": 1})
        assert port.figures().senders["127.0.0.1"].refused_why == "not in receive.allow"
    finally:
        stop(port.server)
