"""`limn backup`: a sound copy of a running node, which sends nothing twice when it is put back."""

import shutil
import stat
from pathlib import Path

import pytest

from limn.cli import exits, main
from limn.node.config import load_config
from limn.node.store import salvage
from limn.node.store.disk import evidence, scanlog
from limn.node.store.journal.journal import Journal
from limn.node.store.salvage import NUMBERS_LEFT_OUT, fault_of, replace_damaged
from tests.node.store.test_salvage import BUNDLE, TEXT
from tests.node.store.test_salvage import Site as Disk


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A node's disk with its config."""
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "limn.toml").write_text(TEXT)
    return Disk(load_config(folder / "limn.toml"))


def backup(disk: Disk, out: Path) -> int:
    """Run the command while the node has its journal open."""
    config = disk.config.data_dir / "limn.toml"
    return main.main(["backup", str(out), "--config", str(config)])


def test_a_backup_of_a_running_node_is_whole(disk: Disk, tmp_path: Path) -> None:
    """Journal, scan log, and the structure set that waits; for its owner alone."""
    disk.contour(disk.receive("1"))
    disk.deliver("tps", "archive")
    path = disk.contour(disk.receive("2"))
    out = tmp_path / "backup"
    assert backup(disk, out) == 0
    assert fault_of(out / "journal.sqlite") == ""
    assert len(scanlog.rows(out / "scans.csv")) == 1
    assert [each.name for each in out.glob("scans/scan-00002/*")] == [path.name]
    if stat.S_IMODE(disk.config.journal_path.stat().st_mode) == 0o600:
        assert stat.S_IMODE(out.stat().st_mode) == 0o700
        files = [each for each in out.rglob("*") if each.is_file()]
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    # The live journal is no copy.
    assert evidence.loss_of(disk.config) == ""


def test_what_a_person_discarded_waits_for_nobody(
    disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It must never be sent, so it is not among those that still wait."""
    scan = disk.receive("1")
    disk.contour(scan, held="mirrored")
    assert disk.door.journal.discard(scan.id, "a mirror image", 4e9)
    assert backup(disk, tmp_path / "backup") == 0
    assert list((tmp_path / "backup").glob("scans/*")) == []
    assert "0 structure sets that still wait" in capsys.readouterr().out


def test_a_folder_that_exists_is_refused(
    disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an older backup must not be mixed with this one."""
    disk.receive("1")
    (tmp_path / "backup").mkdir()
    assert backup(disk, tmp_path / "backup") == exits.EXIT_WRONG
    assert "exists already" in capsys.readouterr().err


def test_a_backup_put_back_in_place_sends_nothing_twice(disk: Disk, tmp_path: Path) -> None:
    """Since the backup one scan was delivered and another came and was delivered."""
    disk.contour(disk.receive("1"))
    assert backup(disk, tmp_path / "backup") == 0
    disk.deliver("tps", "archive")
    disk.contour(disk.receive("2"))
    disk.deliver("tps", "archive")
    before = disk.states()
    shutil.copyfile(tmp_path / "backup" / "journal.sqlite", tmp_path / "yesterday.sqlite")
    (tmp_path / "yesterday.sqlite").rename(disk.config.data_dir / "yesterday.sqlite")
    disk.start_without_journal(with_copy=True)
    assert disk.states() == before
    assert disk.door.journal.due("tps", 4e9) is None
    number = disk.receive("3").id
    assert number > 2
    assert evidence.loss_of(disk.config) == ""


def test_a_backup_that_is_put_back_twice_gives_no_number_and_no_uid_twice(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new disk fails too, and the same backup is put on a third, which knows nothing of it."""
    disk.contour(disk.receive("1"))
    disk.deliver("tps", "archive")
    assert backup(disk, tmp_path / "backup") == 0
    numbers, uids = [], []
    for name in ("second", "third"):
        shutil.copytree(tmp_path / "backup", tmp_path / name)
        config = load_config(tmp_path / name / "limn.toml")
        replace_damaged(config, BUNDLE)
        new = Disk(config)
        rows = [new.receive("8"), new.receive("9")]
        numbers += [row.id for row in rows]
        uids += [new.door.journal.structure_set_of(row.id).sop_instance_uid for row in rows]
        # A second between a restore and the next one.
        monkeypatch.setattr(salvage, "NUMBERS_EACH_S", 10_000)
    assert len(set(numbers)) == len(set(uids)) == 4
    # On the same disk again: what came after the first restore is known by the restore's own UIDs.
    new.contour(rows[0])
    new.deliver("tps", "archive")
    before = new.states()[f"{rows[0].name} contoured"]
    shutil.copyfile(tmp_path / "backup" / "journal.sqlite", config.data_dir / "yesterday.sqlite")
    new.start_without_journal(with_copy=True)
    assert new.states()[f"{rows[0].name} contoured"] == before
    assert before == [("tps", "delivered"), ("archive", "delivered")]


def test_the_log_of_the_journal_before_is_not_mixed_with_a_backup(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node was killed, and only `journal.sqlite` was replaced."""
    disk.contour(disk.receive("1"))
    assert backup(disk, tmp_path / "backup") == 0
    disk.deliver("tps", "archive")
    disk.contour(disk.receive("2"))
    disk.deliver("tps", "archive")
    before, path = disk.states(), disk.config.journal_path
    killed = {name: path.with_name(name).read_bytes() for name in ("journal.sqlite-wal",)}
    disk.door.journal.close()
    for name, contents in killed.items():
        path.with_name(name).write_bytes(contents)
    copy = (tmp_path / "backup" / "journal.sqlite").read_bytes()
    path.write_bytes(copy)
    assert "belongs to the journal before it" in evidence.loss_of(disk.config)
    assert path.read_bytes() == copy
    kept = replace_damaged(disk.config, BUNDLE)
    assert "journal.sqlite-wal beside it belongs to the journal that was there" in caplog.text
    (log,) = path.parent.glob("journal.sqlite.before-*-wal")
    assert log.read_bytes() == killed["journal.sqlite-wal"]
    assert kept is not None
    disk.door.journal = Journal(path)
    assert disk.states() == before


def test_a_start_that_is_killed_while_it_restores_begins_anew(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup is one until everything is entered."""
    disk.contour(disk.receive("1"))
    disk.deliver("tps", "archive")
    assert backup(disk, tmp_path / "backup") == 0
    config = load_config(tmp_path / "backup" / "limn.toml")
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "enter_issued", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            replace_damaged(config, BUNDLE)
    assert "it is the backup of 20" in evidence.loss_of(config)
    replace_damaged(config, BUNDLE)
    assert evidence.loss_of(config) == ""
    assert Disk(config).receive("9").id > NUMBERS_LEFT_OUT


def test_a_backup_on_a_new_disk_gives_no_number_twice(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing says how many scans came after it, so their numbers are left out."""
    disk.contour(disk.receive("1"))
    disk.deliver("tps", "archive")
    out = tmp_path / "backup"
    assert backup(disk, out) == 0
    config = load_config(out / "limn.toml")
    replace_damaged(config, BUNDLE)
    assert "it is the backup of 20" in caplog.text
    new = Disk(config)
    assert new.states() == {
        "scan-00001 contoured": [("tps", "delivered"), ("archive", "delivered")]
    }
    assert new.receive("9").id > 1 + NUMBERS_LEFT_OUT
    # The same series may have been delivered by the lost disk, with another date.
    lost = disk.receive("9")
    uids = [
        each.door.journal.structure_set_of(row.id)
        for each, row in ((new, new.door.scans()[-1]), (disk, lost))
    ]
    assert uids[0].sop_instance_uid != uids[1].sop_instance_uid
    assert replace_damaged(config, BUNDLE) is None
    Journal(config.journal_path).close()
