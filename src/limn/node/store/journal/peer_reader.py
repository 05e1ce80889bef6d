"""Queries on peers: what waits for each destination, and what each sender brought."""

from __future__ import annotations

from dataclasses import dataclass

from limn.node.store.journal.connection import JournalConnection
from limn.node.store.journal.schema import LIVE

# Begins the status of a delivery whose file waits for an animal, and not for the destination.
WAITS_FOR = "waits for "
# A worker has it, or its preview.
_RUNS = (
    "(started_at is not null or exists (select 1 from preview where preview.scan = scan.id "
    "and preview.state = 'running'))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderRow:
    """What one sender brought: series that became scans, and when the last slice came (UTC s)."""

    sender: str
    series: int
    last_slice_at: float


class PeerReader(JournalConnection):
    """What the journal knows of destinations and senders."""

    def delivery_counts(self) -> list[tuple[str, str, int, float | None]]:
        """Destination, state, number, and since when the oldest waiting one may go (UTC s).

        That is when it was contoured, or when a person released it. One whose file waits for
        another animal of its field may not go yet.
        """
        joined = (
            "from delivery join structure_set on structure_set.id = delivery.structure_set "
            "join scan on scan.id = structure_set.scan where scan.state = 'contoured' "
        )
        # By itself: a record is long, and few wait of very many.
        waiting = self._all(
            "select destination, min(max(json_extract(record, '$.contoured_at'), "
            f"coalesce(released_at, 0))) as since {joined} and delivery.state = 'waiting' "
            "and substr(delivery.status, 1, ?) <> ? group by destination",
            (len(WAITS_FOR), WAITS_FOR),
        )
        since = {(row["destination"], "waiting"): row["since"] for row in waiting}
        rows = self._all(
            f"select destination, delivery.state, count(*) as n {joined}"
            "group by destination, delivery.state",
            (),
        )
        return [
            (
                row["destination"],
                row["state"],
                row["n"],
                since.get((row["destination"], row["state"])),
            )
            for row in rows
        ]

    def last_accepted(self) -> dict[str, float]:
        """When each destination last took a structure set for the first time, UTC seconds."""
        rows = self._all(
            "select destination, max(accepted_at) as at from delivery "
            "where accepted_at is not null group by destination",
            (),
        )
        return {row["destination"]: float(row["at"]) for row in rows}

    def senders(self, most: int) -> list[SenderRow]:
        """The senders of live scans that were heard of last, at most so many, the newest first."""
        rows = self._all(
            "select sender, count(*) as n, max(last_slice_at) as at from scan "
            "where priority >= ? group by sender order by at desc limit ?",
            (LIVE, most),
        )
        return [
            SenderRow(sender=row["sender"], series=row["n"], last_slice_at=float(row["at"]))
            for row in rows
        ]

    def ready_counts(self) -> dict[tuple[str, bool], int]:
        """Scans for a worker, by "live" or "cohort" and by whether one works on them now.

        A scan whose preview is being contoured is one of them.
        """
        rows = self._all(
            f"select case when priority >= ? then 'live' else 'cohort' end as kind, {_RUNS} as "  # noqa: S608 - a constant
            "runs, count(*) as n from scan where state = 'ready' group by kind, runs",
            (LIVE,),
        )
        return {(row["kind"], bool(row["runs"])): row["n"] for row in rows}

    def oldest_ready_at(self) -> float | None:
        """Since when the first live scan waits for a worker, UTC seconds; None if none waits.

        One that a worker contours does not wait.
        """
        query = (
            "select min(ready_at) as at from scan where state = 'ready' and priority >= ? "  # noqa: S608
            f"and not {_RUNS}"
        )
        at = self._one(query, (LIVE,))["at"]
        return None if at is None else float(at)

    def oldest_held_at(self) -> float | None:
        """When the structure set that has been held longest was contoured, UTC seconds."""
        at = self._one(
            "select min(json_extract(record, '$.contoured_at')) as at from structure_set join scan "
            "on scan.id = structure_set.scan where held is not null and released_at is null and "
            "discarded_at is null",
            (),
        )["at"]
        return None if at is None else float(at)
