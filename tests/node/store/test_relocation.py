"""A data folder that a person moved to a larger disk."""

import logging
import sqlite3
from contextlib import closing

import pytest

from limn.node.config import load_config
from limn.node.store.journal.journal import Journal
from limn.node.store.salvage import replace_damaged
from tests.node.store.test_salvage import BUNDLE, TEXT, Site


@pytest.fixture
def moved(tmp_path):
    """One scan delivered, one that waits; then the folder and its config lie elsewhere."""
    former = tmp_path / "former"
    former.mkdir()
    (former / "limn.toml").write_text(TEXT)
    site = Site(load_config(former / "limn.toml"))
    for number in ("1", "2"):
        site.contour(site.receive(number))
    site.deliver("tps")
    site.door.journal.close()
    former.rename(tmp_path / "bigger-disk")
    return load_config(tmp_path / "bigger-disk" / "limn.toml")


def test_every_path_of_the_journal_follows_the_folder(moved, caplog):
    """Nothing is contoured again, and what waits finds its structure set."""
    with caplog.at_level(logging.WARNING):
        assert replace_damaged(moved, BUNDLE) is None
    assert "data_dir was moved from" in caplog.text
    with closing(Journal(moved.journal_path)) as journal:
        rows = journal.scans()
        assert [row.state for row in rows] == ["contoured"] * 2
        for row in rows:
            assert row.folder == str(moved.spool_dir / row.folder.rpartition("/")[2])
            assert (moved.spool_dir / row.folder).is_dir()
            path = journal.structure_set_of(row.id).path
            assert path.startswith(str(moved.results_dir))
    caplog.clear()
    assert replace_damaged(moved, BUNDLE) is None
    assert "data_dir was moved" not in caplog.text


def test_paths_that_lie_elsewhere_stay(moved):
    """A cohort's folder, and a folder whose name begins like the former one."""
    former = str(moved.data_dir.with_name("former"))
    others = (f"{former}-cohort/spool/a", "/mice/cohort/7")
    with closing(sqlite3.connect(moved.journal_path)) as db, db:
        db.executemany("update scan set folder = ? where id = ?", zip(others, (1, 2), strict=True))
    replace_damaged(moved, BUNDLE)
    with closing(Journal(moved.journal_path)) as journal:
        assert tuple(row.folder for row in journal.scans()) == others
