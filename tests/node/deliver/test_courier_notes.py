"""What a destination says is noted by its courier, after the journal has the answer."""

import pytest

from limn.node.deliver import courier as courier_module
from limn.node.store.disk.contacts import DestinationContacts, read_destinations
from tests.conftest import free_port
from tests.node.deliver.test_courier import Desk
from tests.support.node.parts import Archive, peer


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty journal; a failed delivery is tried again at once."""
    monkeypatch.setattr(courier_module, "backoff_s", lambda tries: 0.0)
    return Desk(tmp_path)


def note(desk):
    """What is noted of the planning system."""
    return read_destinations(desk.log.with_name("destinations.json"))["tps"]


def work_once(desk, port):
    """A new engine's courier makes one try."""
    courier = desk.courier(port)
    tries = iter((True, False))
    courier._may_begin = lambda: next(tries)
    courier.work()


def test_a_planning_system_is_followed_through_each_kind_of_failure_until_it_takes_the_file(desk):
    """Off, called by a wrong title, without room, then well: words, times and counts."""
    row = desk.contoured()
    work_once(desk, free_port())
    assert "does not answer" in note(desk).said
    since = note(desk).failing_since
    with peer(Archive(), ae_title="OTHER", only_this_title=True) as port:
        work_once(desk, port)
    assert "called AE title not recognized: this node calls it TPS" in note(desk).said
    with peer(Archive(0xA700, 0x0000)) as port:
        work_once(desk, port)
        assert note(desk).said.startswith("0xA700, out of resources: make room on its disk")
        assert (note(desk).failing_since, note(desk).accepted_at) == (since, 0.0)
        work_once(desk, port)
    found = note(desk)
    assert (found.said, found.failing_since) == ("0x0000, success: it has the file", 0.0)
    assert found.accepted_at == desk.journal.deliveries(row.id)[0].accepted_at
    assert found.failures == {"unanswered": 1, "rejected": 1, "no-room": 1}


def test_a_refusal_for_good_counts_as_one(desk):
    """The structure set stays; a person must act."""
    desk.contoured()
    with peer(Archive(0xC000)) as port:
        desk.courier(port).work()
    assert note(desk).failures == {"refused": 1}
    assert note(desk).said.startswith("0xC000, it can't use the file")


def test_a_note_that_can_not_be_written_delays_nothing(desk):
    """The folder of the note is gone; the structure set is delivered all the same."""
    row = desk.contoured()
    with peer(Archive()) as port:
        courier = desk.courier(port)
        courier._contacts = DestinationContacts(desk.folder / "absent" / "destinations.json")
        courier.work()
    assert desk.journal.deliveries(row.id)[0].state == "delivered"
