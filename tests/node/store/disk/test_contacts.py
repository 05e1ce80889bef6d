"""What peers said last survives a restart, stays bounded, and forges no line."""

import json
import threading

import pytest

from limn.node.store.disk import contacts as contacts_module
from limn.node.store.disk.contacts import (
    MOST_SENDERS,
    DestinationContacts,
    DoorFigures,
    SenderContacts,
    read_destinations,
    read_senders,
)


def test_a_destination_fails_from_its_first_failure_until_it_takes_something(tmp_path):
    """Figures go on after a restart of the engine."""
    path = tmp_path / "destinations.json"
    DestinationContacts(path).note("tps", "", "0x0000, success", 100.0)
    DestinationContacts(path).note("tps", "unanswered", "does not answer", 200.0)
    DestinationContacts(path).note("tps", "rejected", "called AE title not recognized", 260.0)
    found = read_destinations(path)["tps"]
    assert (found.said, found.said_at) == ("called AE title not recognized", 260.0)
    assert (found.accepted_at, found.failing_since, found.failing_s(300.0)) == (100.0, 200.0, 100.0)
    assert found.failures == {"unanswered": 1, "rejected": 1}
    DestinationContacts(path).note("tps", "", "0x0000, success", 400.0)
    mended = read_destinations(path)["tps"]
    assert (mended.failing_s(500.0), mended.accepted_at) == (0.0, 400.0)
    assert mended.failures == found.failures


def test_a_sender_s_figures_go_on_after_a_restart(tmp_path):
    """Counters of the metrics never fall."""
    path = tmp_path / "senders.json"
    for _ in range(2):
        door = SenderContacts()
        door.go_on_with(read_senders(path))
        door.came("CT@10.0.0.1")
        door.stored()
        door.not_stored("CT@10.0.0.1", "0xC000: no PixelData")
        door.refused("XX@10.0.0.9", "called-ae", "it calls 'X', this node is 'LIMN'")
        door.write(path)
    found = read_senders(path)
    assert (found.stored, found.not_stored, dict(found.refused)) == (2, 2, {"called-ae": 2})
    scanner, stranger = found.senders["CT@10.0.0.1"], found.senders["XX@10.0.0.9"]
    assert (scanner.not_stored, scanner.not_stored_why) == (2, "0xC000: no PixelData")
    assert (stranger.refused, stranger.came_at) == (2, 0.0)
    assert stranger.last_at == stranger.refused_at > 0


def test_strangers_push_out_no_scanner(tmp_path):
    """A thousand titles at the port; the scanner that was let in stays."""
    door = SenderContacts()
    door.came("CT@10.0.0.1")
    for number in range(1000):
        door.refused(f"X{number}@10.0.0.9", "called-ae", "x" * 10_000)
    door.write(tmp_path / "senders.json")
    found = read_senders(tmp_path / "senders.json")
    assert len(found.senders) == MOST_SENDERS
    assert "CT@10.0.0.1" in found.senders
    assert found.refused == {"called-ae": 1000}
    assert (tmp_path / "senders.json").stat().st_size < 64 * 1000


def test_a_title_with_control_characters_stays_on_its_line(tmp_path):
    """A newline in an AE title or in a reason."""
    door = SenderContacts()
    door.refused("A\nB\x1b[2J@h", "called-ae", "it calls 'A\nB'")
    door.write(tmp_path / "senders.json")
    ((name, sender),) = read_senders(tmp_path / "senders.json").senders.items()
    assert name == "A\\nB\\x1b[2J@h"
    assert sender.refused_why == "it calls 'A\\nB'"


@pytest.mark.parametrize(
    "contents",
    [
        "",
        "no json",
        json.dumps({"written_at": 0, "contents": []}),
        json.dumps({"written_at": 0, "contents": {"tps": {"said": "x"}, "senders": 3}}),
        json.dumps({"written_at": 0, "contents": {"tps": 5, "senders": {"a": {"came_at": "x"}}}}),
    ],
)
def test_a_file_that_is_damaged_says_nothing_and_ends_nothing(tmp_path, contents):
    """The next note begins anew."""
    path = tmp_path / "note.json"
    path.write_text(contents)
    assert read_destinations(path) == {}
    assert read_senders(path) == DoorFigures()
    DestinationContacts(path).note("tps", "", "written", 1.0)
    assert read_destinations(path)["tps"].accepted_at == 1.0


def test_nothing_is_written_while_nothing_is_new(tmp_path, monkeypatch):
    """The file is written every few seconds at most, and at the end."""
    monkeypatch.setattr(contacts_module, "WRITE_EVERY_S", 0.01)
    path, door, stopping = tmp_path / "senders.json", SenderContacts(), threading.Event()
    thread = threading.Thread(target=door.run, args=(path, stopping))
    thread.start()
    door.stored()
    while not path.exists():
        pass
    first = path.stat().st_ino, path.stat().st_mtime_ns
    stopping.wait(0.1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == first
    door.stored()
    stopping.set()
    thread.join()
    assert read_senders(path).stored == 2
