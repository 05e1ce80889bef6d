"""Notes that a person has looked at a scan (D-251)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.node.config import load_config
from limn.node.operate.decisions import given_text
from limn.node.operate.journal_access import journal_to_change
from limn.node.store.journal.rows import Look
from limn.node.store.remedies import NAME, shown_time


def look(config_path: Path, scan: str, *, by: str) -> None:
    """Note in the journal that a person has looked at a scan.

    Raises
    ------
    ConfigWrong
        If the scan is unknown, or the name has no words.
    """
    config = load_config(config_path)
    person = given_text("--by", by, NAME)
    with journal_to_change(config, [scan]) as journal:
        row = journal.named([scan]).get(scan)
        if row is None:
            msg = f"{scan} is unknown; `limn log` lists the scans"
            raise ConfigWrong(msg)
        journal.look(row.id, person, time.time())


def looks_words(looks: Sequence[Look]) -> str:
    """Who looked and when, to follow "looked at"; the last look of each person."""
    last = {each.person: each.at for each in looks}
    return ",".join(f" by {person}, {shown_time(at)}" for person, at in last.items())
