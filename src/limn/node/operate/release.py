"""What is held until a person has looked, and how that person lets it go or drops it.

Works on the journal alone, so it does not matter whether the node runs: its couriers ask the
journal twice a second what is due.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, load_config
from limn.node.store.journal import Journal
from limn.node.store.remedies import (
    address,
    discard_notice,
    picture_path,
    release_command,
    shown_time,
)
from limn.node.store.rows import ScanRow


def release(config_path: Path, names: Sequence[str]) -> None:
    """Let the held structure sets of some scans go; without names, list what is held.

    Raises
    ------
    ConfigWrong
        Names every scan that is unknown or not held; then none of the others is released.
    """
    config = load_config(config_path)
    # What a file says of its animal is text, and a command must stay on one line.
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not config.journal_path.exists():
        if names:
            raise ConfigWrong(_no_scans(names, config))
        console.print("nothing is held")
        return
    with closing(Journal(config.journal_path)) as journal:
        if names:
            for row in _held(journal, names, "released"):
                _release(journal, row, config, console)
            console.print("a running node sends within a second, a stopped one when it starts")
        else:
            _list(journal, config, config_path, console)


def discard(config_path: Path, names: Sequence[str], why: str) -> None:
    """Say that the held structure sets of some scans must never be sent.

    They stay on disk and in the journal, with the reason.

    Raises
    ------
    ConfigWrong
        For a reason of no words; names every scan that is unknown or not held, and then none of
        the others is discarded.
    """
    config = load_config(config_path)
    reason = " ".join(why.split())
    if not reason:
        msg = "--why is empty; say why, whoever reads the log wants to know"
        raise ConfigWrong(msg)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not config.journal_path.exists():
        raise ConfigWrong(_no_scans(names, config))
    with closing(Journal(config.journal_path)) as journal:
        for row in _held(journal, names, "discarded"):
            if not journal.discard(row.id, reason, time.time()):
                now = _why_not(journal, row)
                console.print(f"{row.name} animal {row.animal} is not held any more: {now}")
                continue
            console.print(
                f"{row.name} animal {row.animal} discarded, nobody gets it; it stays in "
                f"{journal.structure_set_of(row.id).path}"
            )


def _no_scans(names: Sequence[str], config: Config) -> str:
    return f"{', '.join(names)}: unknown; no scan has come to {config.data_dir} yet"


def _list(journal: Journal, config: Config, config_path: Path, console: Console) -> None:
    rows = journal.on_hold()
    if not rows:
        console.print("nothing is held")
    newer = {scan.predecessor: scan.name for scan in journal.scans()}
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


def _held(journal: Journal, names: Sequence[str], become: str) -> list[ScanRow]:
    """The scans of these names, if every one of them is held."""
    known = {row.name: row for row in journal.scans()}
    wrong = [
        f"{name} is unknown; `limn log` lists the scans"
        if name not in known
        else f"{name} is not held: {_why_not(journal, known[name])}"
        for name in names
        if name not in known or not _on_hold(journal, known[name])
    ]
    if wrong:
        raise ConfigWrong("; ".join((*wrong, f"nothing was {become}")))
    return [known[name] for name in dict.fromkeys(names)]


def _on_hold(journal: Journal, row: ScanRow) -> bool:
    return row.state == "contoured" and journal.structure_set_of(row.id).on_hold


def _why_not(journal: Journal, row: ScanRow) -> str:
    if row.state == "ready":
        return "it is not contoured yet"
    if row.state != "contoured":
        return f"it was {row.state}, so there is nothing to send"
    structure_set = journal.structure_set_of(row.id)
    if structure_set.discarded_at is not None:
        when = shown_time(structure_set.discarded_at)
        return f"it was discarded at {when}: {structure_set.discarded}"
    became = {
        "waiting": "it waits for {0.destination}",
        "delivered": "{0.destination} has it",
        "refused": "{0.destination} REFUSED it with {0.status}",
    }
    said = [became[each.state].format(each) for each in journal.deliveries(row.id)]
    if structure_set.released_at is not None:
        said.insert(0, f"it was released at {shown_time(structure_set.released_at)}")
    return ", ".join(said)


def _release(journal: Journal, row: ScanRow, config: Config, console: Console) -> None:
    structure_set = journal.structure_set_of(row.id)
    if not journal.release(row.id, time.time()):
        # Somebody else was quicker.
        now = _why_not(journal, row)
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
