"""Who has looked at a scan, and when."""

from contextlib import closing

import pytest

from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import VERSION
from tests.support.node.journals import as_before_states, as_version
from tests.support.node.parts import arrived


@pytest.mark.parametrize("version", range(VERSION + 1))
def test_a_journal_learns_who_has_looked(tmp_path, version):
    """Of every earlier version; its scans stay, and a reader is enough to bring it up to date."""
    path = tmp_path / "data" / "journal.sqlite"
    with closing(Journal(path)) as old:
        rows = [old.insert(arrived(input_digest=f"d{k}"), ("tps",)) for k in range(3)]
        old.end(rows[2].id, "failed", "gone", {})
    if version == 0:
        as_before_states(path)
    elif version < VERSION:
        as_version(path, version)
    with closing(JournalReader(path)) as reader:
        assert reader.looks_at([row.name for row in rows]) == {}
    with closing(Journal(path)) as journal:
        assert journal._db.execute("pragma user_version").fetchone()[0] == VERSION
        assert [row.state for row in journal.scans()] == ["ready", "ready", "failed"]
        journal.look(rows[0].id, "Anna", 5.0)
        journal.look(rows[2].id, "Ben", 6.0)
        journal.look(rows[0].id, "Ben", 7.0)
        assert journal.is_sound()
    with closing(JournalReader(path)) as reader:
        found = reader.looks_at([rows[0].name, rows[1].name, "scan-x", "nonsense"])
        assert {name: [(each.person, each.at) for each in own] for name, own in found.items()} == {
            rows[0].name: [("Anna", 5.0), ("Ben", 7.0)]
        }
