"""What the page of the peers shows, as values: destinations and senders with their last contact."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from limn.node.config import Config, DicomDestination, FolderDestination
from limn.node.operate.journal_access import journal_to_read
from limn.node.serve.destinations import DestinationState, destination_states
from limn.node.serve.health import minutes
from limn.node.store.disk.contacts import MOST_SENDERS, DoorFigures, SenderContact, read_senders
from limn.node.store.journal.peer_reader import SenderRow
from limn.node.store.remedies import address


@dataclass(frozen=True, slots=True)
class Trial:
    """What a destination answered when a person tried it at ``at`` (UTC seconds)."""

    at: float
    good: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationCard:
    """One destination, in words.

    Attributes
    ----------
    number : its place in the config, from 0
    facts : names and values
    state : whether it takes what is offered
    good : None where nobody knows
    waiting : what waits for it, and since when; empty if nothing does
    refused : what it refused and waits for a person; empty if nothing does
    """

    number: int
    name: str
    facts: tuple[tuple[str, str], ...]
    state: str
    good: bool | None
    waiting: str
    refused: str
    trial: Trial | None
    tried_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderLine:
    """One scanner or other sender, in words; `faults` is what was refused, and why."""

    sender: str
    last: str
    series: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The page of the peers."""

    own: str
    destinations: tuple[DestinationCard, ...]
    senders: tuple[SenderLine, ...]


def peers(config: Config, trials: Mapping[int, Trial]) -> Peers:
    """Every destination and every sender that the node remembers.

    Parameters
    ----------
    trials : by the destination's place in the config
    """
    now = time.time()
    with journal_to_read(config) as journal:
        states = destination_states(config, journal)
        rows = journal.senders(MOST_SENDERS) if journal is not None else []
    receive = config.receive
    return Peers(
        own=f"{receive.ae_title.strip()}@{receive.host}:{receive.port}",
        destinations=tuple(
            _card(config, number, state, trials.get(number), now)
            for number, state in enumerate(states)
        ),
        senders=_sender_lines(rows, read_senders(config.senders_path), now),
    )


def _card(
    config: Config, number: int, state: DestinationState, trial: Trial | None, now: float
) -> DestinationCard:
    destination, contact = config.destination[number], state.contact
    waiting = refused = ""
    if state.waiting:
        wait = "waits" if state.waiting == 1 else "wait"
        waiting = (
            f"{_structure_sets(state.waiting)} {wait} for it, the oldest for "
            f"{minutes(state.waiting_s(now))}"
        )
    if count := state.counts.get("refused", 0):
        refused = f"{_structure_sets(count)} refused by it: limn queue has the command for each"
    if contact.failing_since:
        words, good = f"takes nothing since {when(contact.failing_since, now)}", False
    elif state.accepted_at:
        words, good = "takes what is sent", True
    else:
        words, good = "nothing was sent to it yet", None
    said = f"{contact.said} ({when(contact.said_at, now)})" if contact.said else ""
    facts = (
        *_addresses(destination, config.receive.ae_title.strip()),
        ("last took something", when(state.accepted_at, now) if state.accepted_at else "never"),
        ("last said", said),
    )
    return DestinationCard(
        number=number,
        name=state.name,
        facts=tuple((name, value) for name, value in facts if value),
        state=words,
        good=good,
        waiting=waiting,
        refused=refused,
        trial=trial,
        tried_at=when(trial.at, now) if trial is not None else "",
    )


def _structure_sets(count: int) -> str:
    return f"{count} structure set{'' if count == 1 else 's'}"


def _addresses(
    destination: DicomDestination | FolderDestination, own_title: str
) -> tuple[tuple[str, str], ...]:
    if isinstance(destination, FolderDestination):
        return (("folder", address(destination)), ("files", ", ".join(destination.forms)))
    tls = destination.tls
    return (
        ("DICOM peer", f"{destination.host}:{destination.port}"),
        ("its AE title", destination.ae_title.strip()),
        ("limn calls itself", own_title),
        ("TLS", "no" if tls is None else f"yes, as {tls.server_name or destination.host}"),
        ("storage commitment", "asked for" if destination.commitment else ""),
    )


def _sender_lines(
    rows: list[SenderRow], figures: DoorFigures, now: float
) -> tuple[SenderLine, ...]:
    brought = {row.sender: row for row in rows}
    lines = []
    for name in {**brought, **figures.senders}:
        row, contact = brought.get(name), figures.senders.get(name, SenderContact())
        last_at = max(contact.last_at, row.last_slice_at if row is not None else 0.0)
        line = SenderLine(
            sender=name,
            last=when(last_at, now),
            series=row.series if row is not None else 0,
            faults=_faults(contact, now),
        )
        lines.append((last_at, line))
    return tuple(line for _, line in sorted(lines, key=lambda each: each[0], reverse=True))


def _faults(contact: SenderContact, now: float) -> tuple[str, ...]:
    faults = []
    if contact.refused:
        faults.append(
            f"refused {_times(contact.refused)}, last {when(contact.refused_at, now)}: "
            f"{contact.refused_why}"
        )
    if contact.not_stored:
        faults.append(
            f"{contact.not_stored} instance{'' if contact.not_stored == 1 else 's'} not taken, "
            f"last {when(contact.not_stored_at, now)}: {contact.not_stored_why}"
        )
    return tuple(faults)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def when(at: float, now: float) -> str:
    """A time for people: of today the clock, of another day the date too."""
    then, today = (datetime.fromtimestamp(each, UTC).astimezone() for each in (at, now))
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M")
