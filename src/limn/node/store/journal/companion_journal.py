"""The journal's part on what goes to a destination beside a structure set (D-243).

A CT series that limn made goes before it, once to each destination. Another form of the contours
goes after it: it is due from the transaction on in which the destination accepts the structure set.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from limn.node.store.journal.writable_journal import WritableJournal


class CompanionJournal(WritableJournal):
    """The transitions of what goes beside structure sets."""

    def series_sent(self, series_instance_uid: str, destination: str, sent_at: float) -> None:
        """Note that a destination has a whole CT series of limn's own."""
        with self._transaction() as db:
            db.execute(
                "insert or ignore into sent_series values (?, ?, ?)",
                (series_instance_uid, destination, sent_at),
            )

    def companion_delivered(self, number: int, status: str, accepted_at: float) -> None:
        """Note that a destination has taken a form."""
        self._answered(number, "delivered", status, accepted_at)

    def companion_refused(self, number: int, status: str) -> None:
        """Note that a destination refused a form, or that there is none; a person must act."""
        self._answered(number, "refused", status, None)

    def companion_postponed(self, number: int, status: str) -> None:
        """Note that a destination could not take a form now."""
        self._answered(number, "waiting", status, None)

    def _answered(self, number: int, state: str, status: str, accepted_at: float | None) -> None:
        with self._transaction() as db:
            # It may have been offered again meanwhile; a courier answers for what it began.
            db.execute(
                "update companion_delivery set state = ?, status = ?, tries = tries + 1, "
                "accepted_at = coalesce(?, accepted_at) where id = ?",
                (state, status, accepted_at, number),
            )


def offer_companions(db: sqlite3.Connection, delivery_id: int, forms: Iterable[str]) -> None:
    """Let these forms follow a structure set that was accepted, for the first time or again."""
    db.executemany(
        "insert into companion_delivery (structure_set, destination, form, state) "
        "select structure_set, destination, ?, 'waiting' from delivery where id = ? "
        "on conflict (structure_set, destination, form) do update set state = 'waiting', "
        "tries = 0, status = ''",
        [(form, delivery_id) for form in forms],
    )
