"""The tables of states: whole, drawn, and kept by the journal."""

import itertools
import os
import re
from pathlib import Path

import pytest

from limn.node.store.journal.edits.rows import ReturnedState
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import SCHEMA
from limn.node.store.journal.states import (
    COMPANION_EVENTS,
    COMPANION_TABLE,
    DELIVERY_EVENTS,
    DELIVERY_TABLE,
    PREVIEW_DELIVERY_EVENTS,
    PREVIEW_DELIVERY_TABLE,
    PREVIEW_EVENTS,
    PREVIEW_TABLE,
    SCAN_EVENTS,
    SCAN_TABLE,
    CompanionEvent,
    CompanionState,
    DeliveryEvent,
    DeliveryState,
    PreviewDeliveryEvent,
    PreviewDeliveryState,
    PreviewEvent,
    PreviewState,
    ScanEvent,
    ScanState,
)
from tests.conftest import REPOSITORY
from tests.support.node.parts import arrived

PAGE = REPOSITORY / "docs" / "states.md"
HEAD = """# The life of a scan, of a delivery, of a preview, and of a companion

The journal keeps one state for each scan and one for each delivery (a structure set on its way to
one destination). A scan may have a preview, with a state of its own and deliveries of its own
(`engine.preview_after_s`). A companion is a segmentation that follows a structure set to one
destination (`forms`). Every change of state goes through one of these tables
(`limn.node.store.journal.states`). The tables refuse an event that stands in no row of a state, and
the journal logs it.
A test draws this page from them: `LIMN_DRAW=1 pytest tests/node/store/journal/test_states.py`.
"""


def drawn(title: str, table: dict, events: dict) -> str:
    """One table as a diagram, as rows of (state, event, next state), and its events in words."""
    arrows = [f"    {a} --> {b}: {event}" for (a, event), b in table.items() if a != b]
    rows = [f"| {a} | {event} | {b} |" for (a, event), b in table.items()]
    words = [f"- **{event}**: {text}" for event, text in events.items()]
    return "\n".join(
        (
            f"\n## {title}\n\n```mermaid\nstateDiagram-v2",
            *arrows,
            "```\n\n| state | event | next state |\n|---|---|---|",
            *rows,
            "",
            *words,
            "",
        )
    )


def test_the_page_shows_the_tables():
    """docs/states.md is equal to the page that the tables give."""
    page = HEAD + drawn("A scan", SCAN_TABLE, SCAN_EVENTS)
    page += drawn("A delivery", DELIVERY_TABLE, DELIVERY_EVENTS)
    page += drawn("A preview", PREVIEW_TABLE, PREVIEW_EVENTS)
    page += drawn("A delivery of a preview", PREVIEW_DELIVERY_TABLE, PREVIEW_DELIVERY_EVENTS)
    page += drawn("A companion", COMPANION_TABLE, COMPANION_EVENTS)
    if os.environ.get("LIMN_DRAW"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("table", "states", "events", "words"),
    [
        (SCAN_TABLE, ScanState, ScanEvent, SCAN_EVENTS),
        (DELIVERY_TABLE, DeliveryState, DeliveryEvent, DELIVERY_EVENTS),
        (PREVIEW_TABLE, PreviewState, PreviewEvent, PREVIEW_EVENTS),
        (
            PREVIEW_DELIVERY_TABLE,
            PreviewDeliveryState,
            PreviewDeliveryEvent,
            PREVIEW_DELIVERY_EVENTS,
        ),
        (COMPANION_TABLE, CompanionState, CompanionEvent, COMPANION_EVENTS),
    ],
)
def test_every_state_and_event_has_its_place(table, states, events, words):
    """None is beyond reach, none is unused, none without words, none leads back to new."""
    assert set(table.values()) == set(states) - {states.NEW}
    assert {event for _, event in table} == set(events) == set(words)
    reached = {states.NEW}
    for _ in states:
        reached |= {after for (before, _), after in table.items() if before in reached}
    assert reached == set(states)


def test_the_database_knows_the_same_states():
    """The schema allows exactly the states of the tables."""
    allowed = [
        {part.strip(" '") for part in found.split(",")}
        for found in re.findall(r"state in \(([^)]*)\)", SCHEMA)
    ]
    tables = (ScanState, DeliveryState, PreviewState, PreviewDeliveryState, CompanionState)
    expected = [set(states) - {states.NEW} for states in tables]
    # What came back has no new one, and no events: it waits, and is measured or not.
    assert allowed == [*expected, set(ReturnedState)]


def scan_in(journal: Journal, state: ScanState) -> int:
    """A scan in some state, by the ways that lead there."""
    whole = journal.insert(arrived(), ("tps",))
    assert whole is not None
    if state is ScanState.CONTOURED:
        journal.contoured(whole.id, "/rs.dcm", {"contoured_at": 1.0})
    elif state is ScanState.SUPERSEDED:
        journal.insert(arrived(input_digest="d2", supersedes=True), ("tps",))
    elif state is not ScanState.READY:
        journal.end(whole.id, state, "a reason", {})
    return whole.id


DO_SCAN = {
    ScanEvent.START: lambda journal, scan: journal.started(scan),
    ScanEvent.STOP: lambda journal, scan: journal.stopped(scan),
    ScanEvent.CONTOUR: lambda journal, scan: journal.contoured(scan, "/late.dcm", {}),
    ScanEvent.REFUSE: lambda journal, scan: journal.end(scan, "refused", "late", {}),
    ScanEvent.FAIL: lambda journal, scan: journal.end(scan, "failed", "late", {}),
    ScanEvent.QUARANTINE: lambda journal, scan: journal.end(scan, "quarantined", "late", {}),
    ScanEvent.RETRY: lambda journal, scan: journal.retry(scan, 9.0),
    ScanEvent.RECONTOUR: lambda journal, scan: journal.recontour(scan, arrived(), ("tps",)),
}


@pytest.mark.parametrize(("state", "event"), [*itertools.product([*ScanState][1:], DO_SCAN)])
def test_the_journal_follows_the_scan_table(tmp_path: Path, caplog, state, event):
    """Each event in each state: the table's next state, or no change and a line in the log."""
    journal = Journal(tmp_path / "journal.sqlite")
    scan = scan_in(journal, state)
    journal._db.execute("update scan set started_at = 1 where id = ?", (scan,))
    before = journal.scan(scan)
    assert before.state == state
    DO_SCAN[event](journal, scan)
    after = SCAN_TABLE.get((state, event))
    refused = f"scan-00001 is {state}: '{event}' is refused"
    assert (refused in caplog.messages) == (after is None)
    if after is None:
        assert journal.scan(scan) == before
    else:
        assert journal.scan(scan).state == after
    journal.close()


def delivery_in(journal: Journal, state: DeliveryState) -> tuple[int, int]:
    """Number of a scan and of its one delivery, which is in some state."""
    scan = journal.insert(arrived(), ("tps",))
    assert scan is not None
    held = "mirrored" if state in {DeliveryState.HELD, DeliveryState.DISCARDED} else None
    journal.contoured(scan.id, "/rs.dcm", {"contoured_at": 1.0}, held)
    (delivery,) = journal.deliveries(scan.id)
    if state is DeliveryState.DELIVERED:
        journal.delivered(delivery.id, "0x0000", 2.0)
    elif state is DeliveryState.REFUSED:
        journal.refused(delivery.id, "0xA900")
    elif state is DeliveryState.DISCARDED:
        journal.discard(scan.id, "wrong animal", 2.0)
    return scan.id, delivery.id


DO_DELIVERY = {
    DeliveryEvent.ACCEPT: lambda journal, each: journal.delivered(each, "0x0000", 3.0),
    DeliveryEvent.POSTPONE: lambda journal, each: journal.postponed(each, "away", 3.0),
    DeliveryEvent.REFUSE: lambda journal, each: journal.refused(each, "0xC000"),
    DeliveryEvent.REPLACE: lambda journal, each: journal.replaced(each, "replaced by scan-00002"),
}


@pytest.mark.parametrize(
    ("state", "event"), [*itertools.product([*DeliveryState][1:], DO_DELIVERY)]
)
def test_an_answer_follows_the_delivery_table(tmp_path: Path, caplog, state, event):
    """A late answer of a destination moves no delivery that does not wait for one."""
    journal = Journal(tmp_path / "journal.sqlite")
    scan, delivery = delivery_in(journal, state)
    (before,) = journal.deliveries(scan)
    assert before.state == state
    DO_DELIVERY[event](journal, delivery)
    (now,) = journal.deliveries(scan)
    after = DELIVERY_TABLE.get((state, event))
    refused = f"scan-00001, delivery to tps is {state}: '{event}' is refused"
    assert (refused in caplog.messages) == (after is None)
    assert now == before if after is None else now.state == after
    journal.close()


@pytest.mark.parametrize("state", [*DeliveryState][1:])
def test_what_a_person_does_follows_the_delivery_table(tmp_path: Path, state):
    """Release and discard move a held delivery; an offer moves any other that may be sent."""
    person = {
        DeliveryEvent.RELEASE: lambda journal, scan: journal.release(scan, 4.0),
        DeliveryEvent.DISCARD: lambda journal, scan: journal.discard(scan, "wrong", 4.0),
        DeliveryEvent.OFFER: lambda journal, scan: journal.resend(scan, ["tps"], 4.0),
    }
    for number, (event, do) in enumerate(person.items()):
        journal = Journal(tmp_path / f"{number}.sqlite")
        scan, _ = delivery_in(journal, state)
        done = do(journal, scan)
        (now,) = journal.deliveries(scan)
        assert now.state == DELIVERY_TABLE.get((state, event), state)
        assert bool(done) == ((state, event) in DELIVERY_TABLE)
        journal.close()


DO_COMPANION = {
    CompanionEvent.ACCEPT: lambda journal, each: journal.companion_delivered(each, "0x0000", 3.0),
    CompanionEvent.POSTPONE: lambda journal, each: journal.companion_postponed(each, "away"),
    CompanionEvent.REFUSE: lambda journal, each: journal.companion_refused(each, "0xA900"),
}


@pytest.mark.parametrize(
    ("state", "event"), [*itertools.product([*CompanionState][1:], DO_COMPANION)]
)
def test_an_answer_follows_the_companion_table(tmp_path: Path, caplog, state, event):
    """And the structure set, once it is accepted again, offers it from any state."""
    journal = Journal(tmp_path / "journal.sqlite")
    scan, delivery = delivery_in(journal, DeliveryState.WAITING)
    journal.delivered(delivery, "0x0000", 2.0, ["seg"])
    (companion,) = journal.companions(scan)
    if state is CompanionState.DELIVERED:
        journal.companion_delivered(companion.id, "0x0000", 2.0)
    elif state is CompanionState.REFUSED:
        journal.companion_refused(companion.id, "0xA900")
    (before,) = journal.companions(scan)
    assert before.state == state
    DO_COMPANION[event](journal, companion.id)
    (now,) = journal.companions(scan)
    after = COMPANION_TABLE.get((state, event))
    assert (f"seg to tps is {state}: '{event}' is refused" in caplog.messages) == (after is None)
    assert now == before if after is None else now.state == after
    journal.resend(scan, ["tps"], 5.0)
    journal.delivered(delivery, "0x0000", 6.0, ["seg"])
    (again,) = journal.companions(scan)
    assert (again.state, again.tries, again.id) == ("waiting", 0, companion.id)
    journal.close()
