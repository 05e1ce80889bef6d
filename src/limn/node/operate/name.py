"""Gives one of several animals in a field its name, by a person's order.

The command changes the journal alone, as `limn retry` does.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.node.config import load_config
from limn.node.host.doorbell import engine_runs, send_wake
from limn.node.operate.decisions import given_text
from limn.node.operate.journal_access import journal_to_change, plain_console
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import LIVE
from limn.node.store.remedies import NAME, by_whom, decision_notice

# A StructureSetLabel has 16, and more would be cut in flags.
LONGEST_NAME = 32


def name_animal(config_path: Path, scan: str, name: str, *, by: str | None = None) -> None:
    """Name the animal of a scan; one that is contoured is contoured again, under other UIDs.

    Parameters
    ----------
    by : the person's name, for the journal

    Raises
    ------
    ConfigWrong
        If the scan is unknown, of the only animal in its field, or can't be named, or the name is
        another animal's of the field.
    """
    config = load_config(config_path)
    called, person = given_text("NAME", name, "NAME"), given_text("--by", by, NAME)
    console = plain_console()
    with journal_to_change(config, [scan]) as journal:
        row = journal.named([scan]).get(scan)
        if why := _why_not(journal, row, called):
            msg = f"{scan} {why}; nothing was named"
            raise ConfigWrong(msg)
        assert row is not None  # noqa: S101 - or there was a reason
        known = {destination.name for destination in config.destination}
        had = [each.destination for each in journal.deliveries(row.id)]
        now = datetime.now(UTC).astimezone()
        again = journal.name_animal(
            row.id,
            called,
            person,
            [each for each in had if each in known],
            time.time(),
            (now.strftime("%Y%m%d"), now.strftime("%H%M%S")),
        )
    console.print(f"{row.name} animal {row.animal} is {called}{by_whom(person)}")
    if again:
        console.print(
            "it is contoured again, and its structure set goes to the same destinations under UIDs "
            "of its own and names the one before as replaced"
        )
    if engine_runs(config):
        send_wake(config)


def _why_not(  # noqa: PLR0911 - a ladder
    journal: Journal, row: ScanRow | None, name: str
) -> str:
    """Why an animal can't have this name; empty if it can."""
    if row is None:
        return "is unknown; `limn queue` and `limn log` list the scans"
    if row.priority < LIVE:
        return "is of `limn contour`; name its animals in the config (model.animals)"
    if len(name) > LONGEST_NAME:
        return f"can have a name of {LONGEST_NAME} characters, {len(name)} were given"
    animals = journal.animals_of(row.id)
    if len(animals) < 2:
        return "is of the only animal in its field, which has its PatientID"
    for other in animals:
        if other.id != row.id and other.animal_name == name:
            return f"can't be {name}, because {other.name} of the same field is"
    if row.state == "ready" and row.started_at is not None:
        return "is being contoured; name it when it is done"
    if row.state not in ("ready", "contoured"):
        return f"was {row.state}, so there is nothing to name"
    return _why_not_again(journal, row) if row.state == "contoured" else ""


def _why_not_again(journal: Journal, row: ScanRow) -> str:
    """Why a contoured animal can't be contoured again under its name; empty if it can."""
    structure_set = journal.structure_set_of(row.id)
    if structure_set.discarded_at is not None:
        return f"was {decision_notice(row, structure_set)}"
    if structure_set.on_hold:
        return "is held: release it first, then name it"
    waiting = [each.destination for each in journal.deliveries(row.id) if each.state == "waiting"]
    if waiting:
        return f"is on its way to {', '.join(waiting)}; name it when it is there"
    gone = [name for name in row.files if not (Path(row.folder) / name).is_file()]
    if gone:
        return f"has lost {len(gone)} of its {len(row.files)} slices in {row.folder}"
    return ""
