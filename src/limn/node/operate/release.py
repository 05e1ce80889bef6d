"""Lists held structure sets; a person who has looked releases or discards them, with a name.

A scan that ended badly is dismissed in the same way: nobody need act on it. The commands change the
journal alone, so that they work with a running and a stopped node: the couriers of a running node
read twice a second from the journal what is due.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, load_config
from limn.node.operate.decisions import (
    ENDED_BADLY,
    agreed,
    given_text,
    print_held,
    print_scan,
    unsigned,
)
from limn.node.operate.journal_access import journal_to_change, journal_to_read, plain_console
from limn.node.operate.queue import SHOWN_DAYS
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import LIVE
from limn.node.store.remedies import (
    NAME,
    TEXT,
    address,
    by_whom,
    decision_notice,
    release_words,
    retry_command,
)


def list_held(config_path: Path) -> None:
    """List what is held, and what people discarded and lately dismissed."""
    config = load_config(config_path)
    console = plain_console()
    with journal_to_read(config) as journal:
        if journal is None or not journal.on_hold():
            console.print("nothing is held")
        if journal is None:
            return
        print_held(journal, config, config_path, console)
        for row in (*journal.discarded(), *journal.dismissed(time.time() - SHOWN_DAYS * 86400)):
            decided = decision_notice(row, journal.find_structure_set(row.id))
            console.print(f"{row.name} animal {row.animal}, {decided}")


def release(
    config_path: Path,
    names: Sequence[str],
    *,
    by: str | None = None,
    why: str | None = None,
    yes: bool = False,
) -> None:
    """Show some held scans, and release their structure sets; a person at a terminal is asked.

    Parameters
    ----------
    by, why : the person's name and reason, for journal and log
    yes : ask nobody

    Raises
    ------
    ConfigWrong
        If any scan is unknown or not held, or needs a name and there is none: names each such scan,
        and none is released.
    """
    config = load_config(config_path)
    name, reason = given_text("--by", by, NAME), given_text("--why", why, TEXT)
    console = plain_console()
    with journal_to_change(config, names) as journal:
        rows = _scans_of(journal, names, "released")
        if lines := [line for row in rows if (line := unsigned(row, name, config_path))]:
            raise ConfigWrong("; ".join((*lines, "nothing was released")))
        chosen = []
        for row in rows:
            print_scan(journal, row, config, console)
            to = ", ".join(_destinations(journal, row, config)) or "no destination"
            if agreed(f"release {row.name} to {to}?", yes=yes):
                chosen.append(row)
    if not chosen:
        console.print("nothing was released")
        return
    # The answer may have taken a person hours.
    with journal_to_change(config, names) as journal:
        for row in chosen:
            _release(journal, row, config, console, name, reason)
    console.print("a running node sends within a second, a stopped one when it starts")


def discard(
    config_path: Path,
    names: Sequence[str],
    why: str | None,
    *,
    by: str | None = None,
    yes: bool = False,
) -> None:
    """Show some scans, and discard or dismiss them; a person at a terminal is asked.

    A structure set that was held is never sent then. A scan that was refused, failed or quarantined
    leaves `limn queue`; `limn retry` brings it back. Everything stays on disk and in the journal.

    Parameters
    ----------
    by, why : the person's name and reason, for journal and log; there must be a reason
    yes : ask nobody

    Raises
    ------
    ConfigWrong
        If the reason is empty. If any scan is unknown, or neither held nor ended badly: names each
        such scan, and none is discarded.
    """
    config = load_config(config_path)
    name, reason = given_text("--by", by, NAME), given_text("--why", why or "", TEXT)
    console = plain_console()
    with journal_to_change(config, names) as journal:
        chosen = []
        for row in _scans_of(journal, names, "discarded", ENDED_BADLY):
            print_scan(journal, row, config, console)
            question = f"discard {row.name} (it is never sent)?"
            if row.state in ENDED_BADLY:
                question = f"dismiss {row.name} (nobody need act on it)?"
            if agreed(question, yes=yes):
                chosen.append(row)
    if not chosen:
        console.print("nothing was discarded")
        return
    with journal_to_change(config, names) as journal:
        for row in chosen:
            if row.state in ENDED_BADLY:
                _dismiss(journal, row, config_path, console, name, reason)
            else:
                _discard(journal, row, console, name, reason)


def _scans_of(
    journal: JournalReader, names: Sequence[str], done: str, also: Sequence[str] = ()
) -> list[ScanRow]:
    """The scans of these names, if all are held or in one of the states ``also``.

    Parameters
    ----------
    done : "released" or "discarded", for the error
    """
    known = journal.named(names)
    wrong = []
    for name in dict.fromkeys(names):
        row = known.get(name)
        if row is None:
            wrong.append(f"{name} is unknown; `limn log` lists the scans")
        elif not _waits_for_person(journal, row, also):
            wrong.append(f"{name} is not held: {_why_not_held(journal, row)}")
    if wrong:
        raise ConfigWrong("; ".join((*wrong, f"nothing was {done}")))
    return [known[name] for name in dict.fromkeys(names)]


def _waits_for_person(journal: JournalReader, row: ScanRow, also: Sequence[str]) -> bool:
    if row.state == "contoured":
        return journal.structure_set_of(row.id).on_hold
    return row.state in also and row.dismissed_at is None and row.priority >= LIVE


def _why_not_held(journal: JournalReader, row: ScanRow) -> str:
    if row.priority < LIVE:
        return "it is of `limn contour`, and nothing of it waits for a person"
    if row.state == "ready":
        return "it is not contoured yet"
    structure_set = journal.find_structure_set(row.id)
    decided = decision_notice(row, structure_set)
    if row.state != "contoured":
        return f"it was {decided or f'{row.state}, so there is nothing to send'}"
    sentences = {
        "waiting": "it waits for {0.destination}",
        "delivered": "{0.destination} has it",
        "refused": "{0.destination} REFUSED it with {0.status}",
    }
    found = [
        sentences[each.state].format(each)
        for each in journal.deliveries(row.id)
        if each.state in sentences
    ]
    return ", ".join((f"it was {decided}", *found) if decided else found)


def _destinations(journal: JournalReader, row: ScanRow, config: Config) -> list[str]:
    """The destinations of a scan that the config still names."""
    known = {destination.name for destination in config.destination}
    return [each.destination for each in journal.deliveries(row.id) if each.destination in known]


def _release(
    journal: Journal, row: ScanRow, config: Config, console: Console, by: str, why: str
) -> None:
    if not journal.release(row.id, time.time(), by, why):
        _print_too_late(journal, row, console)
        return
    structure_set = journal.structure_set_of(row.id)
    words = release_words(structure_set)
    console.print(f"{row.name} animal {row.animal} {words}; it was held: {structure_set.held}")
    peers = {destination.name: destination for destination in config.destination}
    for delivery in journal.deliveries(row.id):
        peer = peers.get(delivery.destination)
        if peer is None:
            where = "which the config no longer names, so nothing goes there"
        else:
            where = address(peer)
        console.print(f"  {structure_set.path} -> {delivery.destination}, {where}")


def _discard(journal: Journal, row: ScanRow, console: Console, by: str, why: str) -> None:
    if not journal.discard(row.id, why, time.time(), by):
        _print_too_late(journal, row, console)
        return
    console.print(
        f"{row.name} animal {row.animal} discarded{by_whom(by)}, it is never sent; it stays in "
        f"{journal.structure_set_of(row.id).path}"
    )


def _dismiss(
    journal: Journal, row: ScanRow, config_path: Path, console: Console, by: str, why: str
) -> None:
    if not journal.dismiss(row.id, why, time.time(), by):
        _print_too_late(journal, row, console)
        return
    back = retry_command(row, config_path)
    if journal.find_structure_set(row.id) is None:
        back = "send the series again from the scanner"
    console.print(
        f"{row.name} animal {row.animal} dismissed{by_whom(by)}, nobody need act on it; to have it "
        f"contoured after all: {back}"
    )


def _print_too_late(journal: JournalReader, row: ScanRow, console: Console) -> None:
    """Another command released, discarded or retried it meanwhile."""
    now = _why_not_held(journal, journal.scan(row.id))
    console.print(f"{row.name} animal {row.animal} does not wait for a person any more: {now}")
