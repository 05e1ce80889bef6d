"""A journal that is deleted or replaced while the node runs is noticed, said and restored."""

import errno
import logging
import os
import threading
from pathlib import Path

import pytest

from limn.node.config import load_config
from limn.node.serve import journal_watch, supervisor
from limn.node.serve.journal_watch import JOURNAL_LOST, JournalWatch, end_if_replaced
from limn.node.store.disk.evidence import foreign_log
from limn.node.store.journal.journal import Journal
from tests.node.store.test_salvage import BUNDLE, TEXT, Site
from tests.support.node.parts import arrived


class Child:
    """A process of the node that only notes its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False

    def stop(self, within_s: float) -> None:
        """Note it."""
        assert within_s < 10
        self.stopped = True


@pytest.mark.parametrize("replaced", [False, True])
def test_a_process_ends_when_its_journal_is_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    replaced: bool,
) -> None:
    """Deleted, or another file in its place; what the process wrote to the old one is lost."""
    codes: list[int] = []
    ended, stopping = threading.Event(), threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()
        stopping.set()

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(journal_watch, "LOOK_S", 0.01)
    journal = Journal(tmp_path / "journal.sqlite")
    end_if_replaced(journal, stopping)
    assert not ended.wait(0.1)
    journal.path.unlink()
    if replaced:
        Journal(tmp_path / "other.sqlite").close()
        (tmp_path / "other.sqlite").rename(journal.path)
    assert ended.wait(5)
    assert codes[0] == JOURNAL_LOST
    assert f"{journal.path} was deleted or replaced" in caplog.text
    journal.close()


def test_the_first_journal_of_a_node_is_no_replacement(tmp_path: Path) -> None:
    """The receiver makes it after the supervisor has begun to look."""
    path = tmp_path / "journal.sqlite"
    watch = JournalWatch(path)
    assert not watch.is_replaced()
    Journal(path).close()
    assert not watch.is_replaced()
    path.unlink()
    assert watch.is_replaced()
    Journal(path).close()
    watch.accept()
    assert not watch.is_replaced()


@pytest.mark.skipif(os.name == "nt", reason="Windows lets no program write into an open journal")
def test_a_backup_that_is_copied_into_the_journal_is_noticed(tmp_path: Path) -> None:
    """`cp` keeps the inode; the log of the processes that run does not belong to the copy."""
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.insert(arrived(), ["tps"])
    journal.copy_to(tmp_path / "backup.sqlite")
    watch = JournalWatch(path)
    assert not watch.is_replaced()
    with path.open("r+b") as file:
        file.write((tmp_path / "backup.sqlite").read_bytes())
    assert watch.is_replaced()
    assert watch.is_overwritten()
    watch.close()
    assert foreign_log(path) == tmp_path / "journal.sqlite-wal"


def test_a_share_that_gives_an_error_for_a_moment_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle or an I/O error is no proof that the journal was deleted."""
    journal = Journal(tmp_path / "journal.sqlite")
    watch = JournalWatch(journal.path)

    def stale(path: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", stale)
        assert not journal.is_replaced()
        assert not watch.is_replaced()
    assert not watch.is_replaced()
    journal.close()


def test_the_supervisor_restores_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Receiver and engine stop first; then the delivered scan is known again."""
    config_path = tmp_path / "limn.toml"
    config_path.write_text(TEXT)
    config = load_config(config_path)
    site = Site(config)
    site.contour(site.receive("1"))
    site.deliver("tps", "archive")
    before = site.states()
    watch = JournalWatch(config.journal_path)

    class Bundle:
        sha256 = BUNDLE

    monkeypatch.setattr(supervisor, "deliverable_bundle", lambda _: Bundle)
    site.door.journal.close()
    for path in config.data_dir.glob("journal.sqlite*"):
        path.unlink()
    assert watch.is_replaced()
    children = [Child(name) for name in ("scheduler", "worker", "engine", "receiver")]
    with caplog.at_level(logging.CRITICAL):
        supervisor.Supervisor(config_path)._restore_journal(children, watch)  # type: ignore[arg-type]
    assert [child.name for child in children if child.stopped] == ["engine", "receiver"]
    assert not watch.is_replaced()
    site.door.journal = Journal(config.journal_path)
    assert site.states() == before
    assert "was deleted or replaced while the node runs" in caplog.text
