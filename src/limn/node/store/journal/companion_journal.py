"""The journal's part on what goes to a destination beside a structure set (D-243).

A CT series that limn made goes before it, once to each destination. Another form of the contours
goes after it: it is due from the transaction on in which the destination accepts the structure set.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from limn.node.store.journal.edits.journal import EditJournal
from limn.node.store.journal.states import COMPANION_TABLE, CompanionEvent, CompanionState

log = logging.getLogger(__name__)


class CompanionJournal(EditJournal):
    """The transitions of what goes beside structure sets."""

    def series_sent(self, series_instance_uid: str, destination: str, sent_at: float) -> None:
        """Note that a destination has a whole CT series of limn's own."""
        with self._transaction() as db:
            db.execute(
                "insert or ignore into sent_series values (?, ?, ?)",
                (series_instance_uid, destination, sent_at),
            )

    def forget_unwanted(self, wanted: Mapping[str, Sequence[str]]) -> int:
        """Forget forms that the config asks for no more; returns how many were not delivered.

        Parameters
        ----------
        wanted : forms by the name of their destination
        """
        pairs = [f"{name}|{form}" for name, forms in wanted.items() for form in forms]
        with self._transaction() as db:
            return db.execute(
                "delete from companion_delivery where state <> 'delivered' and "
                "destination || '|' || form not in (select value from json_each(?))",
                (json.dumps(pairs),),
            ).rowcount

    def companion_delivered(self, number: int, status: str, accepted_at: float) -> None:
        """Note that a destination has taken a form."""
        columns = "status = ?, accepted_at = ?, tries = tries + 1"
        self._answered(number, CompanionEvent.ACCEPT, columns, (status, accepted_at))

    def companion_refused(self, number: int, status: str) -> None:
        """Note that a destination refused a form, or that there is none; a person must act."""
        columns = "status = ?, tries = tries + 1"
        self._answered(number, CompanionEvent.REFUSE, columns, (status,))

    def companion_postponed(self, number: int, status: str) -> None:
        """Note that a destination could not take a form now."""
        columns = "status = ?, tries = tries + 1"
        self._answered(number, CompanionEvent.POSTPONE, columns, (status,))

    def _answered(
        self, number: int, event: CompanionEvent, columns: str, values: Sequence[object]
    ) -> None:
        with self._transaction() as db:
            _move(db, number, event, columns, values)


def offer_companions(db: sqlite3.Connection, delivery_id: int, forms: Iterable[str]) -> None:
    """Let these forms follow a structure set that was accepted, for the first time or again."""
    wanted = tuple(forms)
    db.execute(
        "delete from companion_delivery where id in (select companion_delivery.id from "
        "companion_delivery join delivery on delivery.structure_set = "
        "companion_delivery.structure_set and delivery.destination = "
        "companion_delivery.destination where delivery.id = ?) and "
        "form not in (select value from json_each(?))",
        (delivery_id, json.dumps(wanted)),
    )
    for form in wanted:
        known = db.execute(
            "select companion_delivery.id from companion_delivery join delivery on "
            "delivery.structure_set = companion_delivery.structure_set and "
            "delivery.destination = companion_delivery.destination "
            "where delivery.id = ? and form = ?",
            (delivery_id, form),
        ).fetchone()
        if known is not None:
            _move(db, known["id"], CompanionEvent.OFFER, "tries = 0, status = ''", ())
            continue
        state = COMPANION_TABLE[CompanionState.NEW, CompanionEvent.OFFER]
        db.execute(
            "insert into companion_delivery (structure_set, destination, form, state) "
            "select structure_set, destination, ?, ? from delivery where id = ?",
            (form, state, delivery_id),
        )


def _move(
    db: sqlite3.Connection,
    number: int,
    event: CompanionEvent,
    columns: str,
    values: Sequence[object],
) -> None:
    """Move a companion by an event; if the table refuses it, log that."""
    row = db.execute(
        "select state, destination, form from companion_delivery where id = ?", (number,)
    ).fetchone()
    state = COMPANION_TABLE.get((CompanionState(row["state"]), event))
    if state is None:
        what = f"{row['form']} to {row['destination']}"
        log.warning("%s is %s: %r is refused", what, row["state"], event.value)
        return
    db.execute(
        # The columns are constants of this module.
        f"update companion_delivery set state = ?, {columns} where id = ?",  # noqa: S608
        (state, *values, number),
    )
