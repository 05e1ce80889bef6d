"""What an idle node asks its journal again and again reads few rows, however many scans it has."""

import re

import pytest

from limn.node.store.journal.journal import Journal
from tests.support.node.parts import arrived


@pytest.fixture
def journal(tmp_path):
    """An empty one: the plans do not depend on what is in it."""
    made = Journal(tmp_path / "journal.sqlite")
    yield made
    made.close()


ASKED = {
    "the engine for ready scans": lambda journal: journal.ready(),
    "a courier for a delivery": lambda journal: journal.due("tps", 1e10),
    "a courier for a preview": lambda journal: journal.waiting("tps"),
    "the scan log for ends": lambda journal: journal.unlogged_ends("tps"),
    "a courier for what replaces a field": lambda journal: journal.newer_of(
        journal.scan(journal.insert(arrived(), ("tps",)).id)
    ),
    "a courier for a file of a field": lambda journal: journal.was_joined(1, "tps", "[]"),
    "the notices": lambda journal: journal.quarantined(),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_no_question_of_an_idle_node_reads_every_scan(journal, ask):
    """SQLite's own plan: an index, or a table that is small by nature."""
    asked: list[str] = []
    journal._db.set_trace_callback(asked.append)
    ask(journal)
    journal._db.set_trace_callback(None)
    selects = [text for text in asked if text.lstrip().lower().startswith("select")]
    assert selects
    for text in selects:
        plan = [row["detail"] for row in journal._db.execute(f"explain query plan {text}")]
        scans = [
            step
            for step in plan
            if re.match(r"SCAN (scan|structure_set|delivery|scan_files)\b(?!.*USING)", step)
        ]
        assert scans == [], plan


def test_the_names_of_files_are_not_in_the_row_that_is_asked_for(journal):
    """A scan has hundreds of them; a query on states reads none."""
    columns = [row["name"] for row in journal._db.execute("pragma table_info(scan)")]
    assert "files" not in columns
