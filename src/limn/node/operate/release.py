"""Lists held structure sets, and releases or discards them after a person has looked.

It changes the journal alone, so that it works with a running and a stopped node: the couriers of a
running node read twice a second from the journal what is due.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, load_config
from limn.node.operate.journal_access import journal_to_change, journal_to_read, plain_console
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.node.store.remedies import (
    address,
    discard_notice,
    picture_path,
    release_command,
    shown_time,
)


def release(config_path: Path, names: Sequence[str]) -> None:
    """Release the held structure sets of some scans; without names, list those that are held.

    Raises
    ------
    ConfigWrong
        If any scan is unknown or not held: names each such scan, and none is released.
    """
    config = load_config(config_path)
    console = plain_console()
    if not names:
        with journal_to_read(config) as reader:
            _print_held(reader, config, config_path, console)
        return
    with journal_to_change(config, names) as journal:
        for row in _held_scans(journal, names, "released"):
            _release(journal, row, config, console)
    console.print("a running node sends within a second, a stopped one when it starts")


def discard(config_path: Path, names: Sequence[str], why: str) -> None:
    """Discard the held structure sets of some scans, so that they are never sent.

    They stay on disk and in the journal, with the reason ``why``.

    Raises
    ------
    ConfigWrong
        If the reason is empty. If any scan is unknown or not held: names each such scan, and none
        is discarded.
    """
    config = load_config(config_path)
    reason = " ".join(why.split())
    if not reason:
        msg = "--why is empty; give the reason, for readers of the scan log"
        raise ConfigWrong(msg)
    console = plain_console()
    with journal_to_change(config, names) as journal:
        for row in _held_scans(journal, names, "discarded"):
            if not journal.discard(row.id, reason, time.time()):
                now = _why_not_held(journal, row)
                console.print(f"{row.name} animal {row.animal} is not held any more: {now}")
                continue
            console.print(
                f"{row.name} animal {row.animal} discarded, it is never sent; it stays in "
                f"{journal.structure_set_of(row.id).path}"
            )


def _print_held(
    journal: JournalReader | None, config: Config, config_path: Path, console: Console
) -> None:
    rows = journal.on_hold() if journal is not None else []
    if not rows:
        console.print("nothing is held")
    if journal is None:
        return
    newer = journal.newer_versions()
    for row in rows:
        why = journal.structure_set_of(row.id).held
        since = shown_time(row.record["contoured_at"])
        console.print(f"{row.name} animal {row.animal}, held since {since}: {why}")
        console.print(f"  look at  {picture_path(row, config)}")
        if row.id in newer:
            console.print(f"  mind     {newer[row.id]} is a newer version of the same series")
        console.print(f"  send it  {release_command(row, config_path)}")
        console.print(f"  drop it  {release_command(row, config_path)} --discard --why 'TEXT'")
    for row in journal.discarded():
        console.print(f"{row.name} animal {row.animal}, {discard_notice(journal, row)}")


def _held_scans(journal: JournalReader, names: Sequence[str], done: str) -> list[ScanRow]:
    """The scans of these names, if all of them are held; ``done`` is "released" or "discarded"."""
    known = journal.named(names)
    wrong = [
        f"{name} is unknown; `limn log` lists the scans"
        if name not in known
        else f"{name} is not held: {_why_not_held(journal, known[name])}"
        for name in names
        if name not in known or not _is_held(journal, known[name])
    ]
    if wrong:
        raise ConfigWrong("; ".join((*wrong, f"nothing was {done}")))
    return [known[name] for name in dict.fromkeys(names)]


def _is_held(journal: JournalReader, row: ScanRow) -> bool:
    return row.state == "contoured" and journal.structure_set_of(row.id).on_hold


def _why_not_held(journal: JournalReader, row: ScanRow) -> str:
    if row.state == "ready":
        return "it is not contoured yet"
    if row.state != "contoured":
        return f"it was {row.state}, so there is nothing to send"
    structure_set = journal.structure_set_of(row.id)
    if structure_set.discarded_at is not None:
        when = shown_time(structure_set.discarded_at)
        return f"it was discarded at {when}: {structure_set.discarded}"
    sentences = {
        "waiting": "it waits for {0.destination}",
        "delivered": "{0.destination} has it",
        "refused": "{0.destination} REFUSED it with {0.status}",
    }
    found = [sentences[each.state].format(each) for each in journal.deliveries(row.id)]
    if structure_set.released_at is not None:
        found.insert(0, f"it was released at {shown_time(structure_set.released_at)}")
    return ", ".join(found)


def _release(journal: Journal, row: ScanRow, config: Config, console: Console) -> None:
    structure_set = journal.structure_set_of(row.id)
    if not journal.release(row.id, time.time()):
        # Another command released or discarded it meanwhile.
        now = _why_not_held(journal, row)
        console.print(f"{row.name} animal {row.animal} is not held any more: {now}")
        return
    console.print(f"{row.name} animal {row.animal} released; it was held: {structure_set.held}")
    peers = {destination.name: destination for destination in config.destination}
    for delivery in journal.deliveries(row.id):
        peer = peers.get(delivery.destination)
        if peer is None:
            where = "which the config no longer names, so nothing goes there"
        else:
            where = address(peer)
        console.print(f"  {structure_set.path} -> {delivery.destination}, {where}")
