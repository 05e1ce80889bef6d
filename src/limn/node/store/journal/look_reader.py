"""Who has looked at a scan, and when, over a connection that can't write."""

from __future__ import annotations

import json
from collections.abc import Iterable

from limn.node.store.journal.connection import JournalConnection
from limn.node.store.journal.rows import Look


class LookReader(JournalConnection):
    """The looks that persons noted; safe to share between threads."""

    def looks_at(self, names: Iterable[str]) -> dict[str, list[Look]]:
        """The looks at the scans of these names, the first look first; of those that have one."""
        numbers = [name.removeprefix("scan-") for name in names]
        rows = self._all(
            "select scan, person, at from look where scan in (select value from json_each(?)) "
            "order by scan, id",
            (json.dumps([int(each) for each in numbers if each.isdecimal()]),),
        )
        found: dict[str, list[Look]] = {}
        for row in rows:
            look = Look(person=row["person"], at=row["at"])
            found.setdefault(f"scan-{row['scan']:05d}", []).append(look)
        return found
