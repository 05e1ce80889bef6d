"""A settled series on its way into a journal that another program has locked."""

import logging
import sqlite3
import time
from contextlib import closing

from limn.node.receive import handover
from limn.node.store.journal.connection import BUSY_S
from limn.node.store.journal.journal import Journal
from tests.support.node.parts import SCP, Door, slices


def test_slices_go_on_to_the_spool_while_the_journal_is_locked(tmp_path, monkeypatch, caplog):
    """A complete series waits; the next one is taken at once; the log names the lock."""
    monkeypatch.setattr(handover, "AFTER_LOCK_S", 0.6)
    door = Door(tmp_path)
    door.journal._db.execute("pragma busy_timeout = 50")
    door.send(slices("1"))
    door.intake.association_ended(SCP.key, aborted=False)
    time.sleep(0.1)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as other:
        other.execute("begin immediate")
        with caplog.at_level(logging.ERROR):
            assert door.intake.settle() == 1
        began_s = time.monotonic()
        # The pause after a failure: these calls don't wait for the lock.
        for _ in range(50):
            door.intake.settle()
        assert time.monotonic() - began_s < 0.5
        assert door.send(slices("2")) == [0] * 20
        other.execute("rollback")
    assert "another program holds a lock on" in caplog.text
    assert "disk" not in caplog.text
    assert [row.animal for row in door.wait_for_scans()] == ["M1"]


def test_a_receiver_starts_while_the_journal_is_locked(tmp_path):
    """It opens a journal of today without a write, so that senders find it."""
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")
        began_s = time.monotonic()
        Journal(path).close()
        assert time.monotonic() - began_s < BUSY_S / 2


def test_a_series_that_is_not_welcome_is_refused_loudly(tmp_path, caplog):
    """As an animal under a commissioning's PatientID: the log has the reason."""
    door = Door(tmp_path, unwelcome=lambda animal, series: f"{animal} can't: rename it")
    door.send(slices("1"))
    door.intake.association_ended(SCP.key, aborted=False)
    with caplog.at_level(logging.ERROR):
        (row,) = door.wait_for_scans()
    assert (row.state, row.reason) == ("refused", "M1 can't: rename it")
    assert "animal M1 refused: M1 can't: rename it" in caplog.text
    assert door.journal.ready() == []
