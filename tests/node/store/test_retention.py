"""The files that retention removes, those that it keeps, and slices that come late."""

import errno
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import pytest

from limn.domain.files import write_durably
from limn.node import heartbeat
from limn.node.config import Config, load_config
from limn.node.receive.gathering import Source
from limn.node.store.journal.rows import ScanRow
from limn.node.store.retention import DAY_S, Retention
from tests.support.node.parts import COUNT, SCP, Door, encoded, running, slices, until

TEXT = """\
data_dir = "."
model.bundle = "bundle"
[retention]
spool_days = 30
results_days = 90
[[destination]]
kind = "folder"
name = "tps"
folder = "tps"
"""


LATER = Source("association-2", SCP.sender, SCP.settle_s)


class Site:
    """Spool, journal, results and retention of a node."""

    def __init__(self, data_dir: Path, text: str = TEXT) -> None:
        (data_dir / "limn.toml").write_text(text)
        self.config: Config = load_config(data_dir / "limn.toml")
        self.door = Door(data_dir, hold_s=0.2)
        self.retention = Retention(self.config, self.door.journal, self.door.intake.clear)

    def receive(self, number: str = "1", count: int = COUNT) -> ScanRow:
        """A series through the door."""
        before = len(self.door.journal.scans())
        self.door.send(slices(number)[:count])
        self.door.intake.association_ended(SCP.key, aborted=False)
        return self.door.wait_for_scans(before + 1)[-1]

    def contour(self, row: ScanRow, held: str | None = None) -> Path:
        """The files that the engine writes for a scan."""
        folder = self.config.results_dir / row.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in (f"RS.2.25.{row.id}.dcm", "picture.png", "labels.npz"):
            (folder / name).write_bytes(b"x" * 1000)
        path = folder / f"RS.2.25.{row.id}.dcm"
        self.door.journal.contoured(row.id, str(path), {"contoured_at": 1.0}, held)
        return folder

    def deliver(self, row: ScanRow, days_ago: float) -> None:
        """The planning system took it so long ago."""
        (delivery,) = self.door.journal.deliveries(row.id)
        self.door.journal.delivered(delivery.id, "0x0000", time.time() - days_ago * DAY_S)

    def delivered(self, number: str = "1", days_ago: float = 31) -> ScanRow:
        """A scan that was delivered so long ago."""
        row = self.receive(number)
        self.contour(row)
        self.deliver(row, days_ago)
        return row

    def slices(self, row: ScanRow) -> int:
        """How many instances of a scan's series lie in the spool."""
        return len(list(Path(row.folder).glob("*.dcm")))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site that keeps slices for 30 days and results for 90."""
    return Site(tmp_path)


def test_what_was_delivered_long_ago_goes_and_its_row_stays(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Slices after 30 days; the journal keeps the scan, and the log names the files."""
    old, new = site.delivered("1", 30.5), site.delivered("2", 29.5)
    with caplog.at_level(logging.INFO):
        site.retention.work(time.time())
    assert (site.slices(old), site.slices(new)) == (0, COUNT)
    assert site.door.journal.scan(old.id).state == "contoured"
    assert len(list((site.config.results_dir / old.name).iterdir())) == 3
    said = [each.message for each in caplog.records if each.message.startswith("removed")]
    assert len(said) == 1
    assert said[0].startswith(f"removed: {COUNT} slices, 0.0 MB, delivered 2")


def test_results_go_later_and_only_those_of_the_node(site: Site) -> None:
    """Structure set, picture and labels after 90 days; a file of a user beside them stays."""
    row = site.delivered("1", 91)
    folder = site.config.results_dir / row.name
    (folder / "my-notes.txt").write_text("mine")
    site.retention.work(time.time())
    assert sorted(path.name for path in folder.iterdir()) == ["my-notes.txt", "removed.json"]
    assert "picture.png" in json.loads((folder / "removed.json").read_text())["files"]


def test_other_forms_go_with_the_results(site: Site) -> None:
    """With their folder."""
    row = site.receive("1")
    folder = site.contour(row)
    (folder / "forms").mkdir()
    (folder / "forms" / "SEG.dcm").write_bytes(b"x")
    site.deliver(row, 91)
    site.retention.work(time.time())
    assert [path.name for path in folder.iterdir()] == ["removed.json"]


def test_a_preview_goes_with_the_results(site: Site) -> None:
    """It is no use beside the structure set that followed."""
    row = site.delivered("1", 91)
    folder = site.config.results_dir / row.name
    for name in ("PREVIEW.2.25.1.dcm", "preview.png"):
        (folder / name).write_bytes(b"x")
    site.retention.work(time.time())
    assert [path.name for path in folder.iterdir()] == ["removed.json"]
    named = json.loads((folder / "removed.json").read_text())["files"]
    assert {"PREVIEW.2.25.1.dcm", "preview.png", "picture.png"} <= set(named)


def test_a_second_look_finds_nothing_to_do(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A removal is made and logged once, not every hour."""
    site.delivered("1", 91)
    site.retention.work(time.time())
    caplog.clear()
    with caplog.at_level(logging.INFO):
        site.retention.work(time.time())
    assert not caplog.records


@pytest.mark.parametrize("settings", ["", "results_days = 1", "spool_days = 1"])
def test_nothing_goes_that_the_site_did_not_ask_for(tmp_path: Path, settings: str) -> None:
    """Each of the two keys works alone; without both all files stay."""
    text = TEXT.replace("spool_days = 30\nresults_days = 90", settings)
    site = Site(tmp_path, text)
    row = site.delivered("1", 10000)
    site.retention.work(time.time())
    assert (site.slices(row) == COUNT) == ("spool" not in settings)
    results = list((site.config.results_dir / row.name).glob("RS*"))
    assert bool(results) == ("results" not in settings)


def waits(site: Site, row: ScanRow) -> None:
    """Contoured, and the planning system is down."""
    site.contour(row)


def held_for_a_person(site: Site, row: ScanRow) -> None:
    """A mirror image."""
    site.contour(row, held="mirrored")


def discarded(site: Site, row: ScanRow) -> None:
    """A discarded structure set stays on disk."""
    site.contour(row, held="mirrored")
    site.door.journal.discard(row.id, "wrong animal", 1.0)


def refused_by_the_peer(site: Site, row: ScanRow) -> None:
    """The planning system refused the structure set for good."""
    site.contour(row)
    (delivery,) = site.door.journal.deliveries(row.id)
    site.door.journal.refused(delivery.id, "0xC000")


def not_run_yet(site: Site, row: ScanRow) -> None:
    """No worker had it."""


def ended(state: str) -> Callable[[Site, ScanRow], None]:
    """Without a structure set."""

    def end(site: Site, row: ScanRow) -> None:
        site.door.journal.end(row.id, state, "why", {})

    end.__name__ = state
    return end


KEPT = [waits, held_for_a_person, discarded, refused_by_the_peer, not_run_yet]
KEPT += [ended("failed"), ended("quarantined"), ended("refused")]


@pytest.mark.parametrize("fate", KEPT, ids=lambda fate: fate.__name__)
def test_what_nobody_has_yet_never_goes(site: Site, fate: Callable[[Site, ScanRow], None]) -> None:
    """However old it is."""
    row = site.receive()
    fate(site, row)
    with sqlite3.connect(site.config.journal_path) as db:
        db.execute("update scan set ready_at = 0, last_slice_at = 0")
    before = sorted(site.config.data_dir.rglob("*"))
    site.retention.work(time.time() + 10000 * DAY_S)
    assert sorted(site.config.data_dir.rglob("*")) == before


def test_one_of_two_destinations_is_not_enough(site: Site) -> None:
    """The archive was down for a month: files that it lacks stay."""
    row = site.delivered()
    with sqlite3.connect(site.config.journal_path) as db:
        db.execute(
            "insert into delivery (structure_set, destination, state) values (1, 'archive', "
            "'waiting')"
        )
    site.retention.work(time.time())
    assert site.slices(row) == COUNT


ONE_FILE = (
    TEXT.replace("[retention]", 'model.two_animals = "each"\n[retention]') + "one_file = true\n"
)


def fails(site: Site, row: ScanRow) -> None:
    """An operator may let it run again."""
    site.door.journal.end(row.id, "failed", "its worker died", {})


def dismissed(site: Site, row: ScanRow) -> None:
    """Nobody need act on it."""
    fails(site, row)
    site.door.journal.dismiss(row.id, "no mouse", 5.0)


@pytest.mark.parametrize(
    ("text", "fate", "stays"),
    [
        (ONE_FILE, fails, True),
        (ONE_FILE, held_for_a_person, True),
        (ONE_FILE, waits, True),
        (ONE_FILE, refused_by_the_peer, True),
        (ONE_FILE, not_run_yet, True),
        (ONE_FILE, dismissed, False),
        (ONE_FILE, discarded, False),
        (TEXT, fails, False),
    ],
)
def test_an_animal_stays_while_another_may_join_it_in_one_file(
    tmp_path: Path, text: str, fate: Callable[[Site, ScanRow], None], *, stays: bool
) -> None:
    """The late one goes in one file with it."""
    site = Site(tmp_path, text)
    row = site.delivered("1", 91)
    (other,) = site.door.journal.add_animals(row.id, [2], ("tps",))
    fate(site, other)
    site.retention.work(time.time())
    assert any((site.config.results_dir / row.name).glob("RS.*.dcm")) is stays


def test_slices_that_come_in_now_keep_their_series(site: Site) -> None:
    """A late slice has just come: the series is not complete, and not touched."""
    row = site.delivered()
    late = slices("1", COUNT + 1)[COUNT]
    late.StudyInstanceUID, late.SeriesInstanceUID = (
        row.study_instance_uid,
        row.series_instance_uid,
    )
    assert site.door.send([late]) == [0]
    site.retention.work(time.time())
    assert site.slices(row) == COUNT + 1


def test_an_older_version_does_not_take_a_newer_one_along(site: Site) -> None:
    """Version 1 was delivered long ago, version 2 of the same folder waits."""
    row = site.receive(count=COUNT)
    site.contour(row)
    site.deliver(row, 100)
    late = slices("1", COUNT + 1)[COUNT:]
    for ds in late:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = (
            row.study_instance_uid,
            row.series_instance_uid,
        )
    site.door.send(late, LATER)
    site.door.intake.association_ended(LATER.key, aborted=False)
    second = site.door.wait_for_scans(2)[-1]
    assert second.version == 2
    site.retention.work(time.time())
    assert site.slices(row) == COUNT + 1
    site.contour(second)
    site.deliver(second, 40)
    site.retention.work(time.time())
    assert site.slices(row) == 0


def test_a_version_that_was_never_contoured_keeps_no_slices(site: Site) -> None:
    """The newer version that replaced it was delivered."""
    row = site.receive("1")
    site.door.send(slices("1", COUNT + 1)[COUNT:], LATER)
    site.door.intake.association_ended(LATER.key, aborted=False)
    second = site.door.wait_for_scans(2)[-1]
    assert site.door.journal.scan(row.id).state == "superseded"
    site.contour(second)
    site.deliver(second, 40)
    site.retention.work(time.time())
    assert site.slices(row) == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_late_slice_of_a_removed_series_is_refused_with_what_to_do(
    site: Site, restarted: bool
) -> None:
    """It can't be contoured alone; the reason names the key and asks for the whole series."""
    row = site.delivered()
    site.retention.work(time.time())
    if restarted:
        site.door = Door(site.config.data_dir, hold_s=0.2)
        site.door.intake.recover()
    late = slices("1", COUNT)[3]
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = "2.25.123"
    assert site.door.send([late], LATER) == [0]
    site.door.intake.association_ended(LATER.key, aborted=False)
    second = site.door.wait_for_scans(2)[-1]
    assert (second.state, second.version, second.predecessor) == ("refused", 2, row.id)
    assert second.reason.startswith(f"1 slices came late: the {COUNT} of this series were")
    assert "retention.spool_days" in second.reason
    assert "send the whole series again" in second.reason


def test_half_of_a_removed_series_is_not_contoured_as_if_it_were_whole(tmp_path: Path) -> None:
    """Evenly spaced and enough slices for a series, but it had more."""
    site = Site(tmp_path)
    row = site.delivered()
    site.retention.work(time.time())
    settling = site.door.intake._settling
    site.door.intake._settling = replace(settling, rules=replace(settling.rules, min_slices=3))
    site.door.send(slices("1")[: COUNT // 2], LATER)
    site.door.intake.association_ended(LATER.key, aborted=False)
    second = site.door.wait_for_scans(2)[-1]
    assert (row.version, second.version, second.state) == (1, 2, "refused")


def test_the_whole_removed_series_again_is_known(site: Site) -> None:
    """Identical: the journal knows it, no second scan; the slices lie in the spool again."""
    row = site.delivered()
    site.retention.work(time.time())
    for ds in slices("1"):
        site.door.intake.accept(encoded(ds), LATER)
    site.door.intake.association_ended(LATER.key, aborted=False)
    time.sleep(0.3)
    assert len(site.door.scans()) == 1
    assert site.slices(row) == COUNT


def test_a_removed_structure_set_is_made_anew_when_its_series_comes_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A series that comes again is contoured under the same UIDs and delivered again."""
    row = site.delivered(days_ago=91)
    uid = site.door.journal.structure_set_of(row.id).sop_instance_uid
    site.retention.work(time.time())
    with caplog.at_level(logging.INFO):
        for ds in slices("1"):
            site.door.intake.accept(encoded(ds), LATER)
        site.door.intake.association_ended(LATER.key, aborted=False)
        until(lambda: site.door.intake.settle() == 0)
    assert site.door.journal.scan(row.id).state == "ready"
    assert "of scan-00001 was removed, so it is contoured anew under the same UIDs" in caplog.text
    assert site.door.journal.structure_set_of(row.id).sop_instance_uid == uid
    assert site.slices(row) == COUNT
    folder = site.contour(row)
    (delivery,) = site.door.journal.deliveries(row.id)
    assert (delivery.state, delivery.accepted_at, delivery.tries) == ("waiting", None, 0)
    site.deliver(row, days_ago=0)
    site.retention.work(time.time())
    assert (folder / "picture.png").exists()
    assert site.slices(row) == COUNT


def test_a_crash_between_leaves_no_half_of_a_series(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is renamed first: after a restart nothing looks like a late series."""
    site.delivered()
    monkeypatch.setattr("limn.node.store.disk.spool.shutil.rmtree", _killed)
    with pytest.raises(KeyboardInterrupt):
        site.retention.work(time.time())
    monkeypatch.undo()
    again = Door(site.config.data_dir, hold_s=0.2)
    again.intake.recover()
    time.sleep(0.3)
    assert len(again.scans()) == 1
    site.delivered("2")
    Retention(site.config, again.journal, again.intake.clear).work(time.time())
    assert not again.files()


@pytest.mark.parametrize("where", ["mkdir", "write_durably", "rmtree"])
def test_a_crash_anywhere_is_finished_by_the_next_look(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Files gone and noted, however far it had come: a late slice hears that the rest went."""
    row = site.delivered()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        name = {"mkdir": "make_private_folder", "rmtree": "shutil.rmtree"}.get(where, where)
        patched.setattr(f"limn.node.store.disk.spool.{name}", killed)
        with pytest.raises(KeyboardInterrupt):
            site.retention.work(time.time())
    again = Door(site.config.data_dir, hold_s=0.2)
    Retention(site.config, again.journal, again.intake.clear).work(time.time())
    removed = again.spool.removed(Path(row.folder))
    assert removed is not None
    assert removed.instances == COUNT
    assert not again.files()
    assert not list(again.spool.root.glob(".going-*"))


def test_results_that_were_half_removed_are_all_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash after the first file: the next look removes the others, the note names them all."""
    row = site.delivered("1", 91)
    folder = site.config.results_dir / row.name
    unlink = Path.unlink

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            site.retention._remove_results(row.id, folder)
    site.retention.work(time.time())
    assert [path.name for path in folder.iterdir()] == ["removed.json"]
    named = json.loads((folder / "removed.json").read_text())["files"]
    assert named == [f"RS.2.25.{row.id}.dcm", "labels.npz", "picture.png"]


def _killed(path: Path, *, ignore_errors: bool = False) -> None:
    if not ignore_errors:
        raise KeyboardInterrupt


class Dies:
    """Ends the process at its call of so many, and nothing of that call is done."""

    def __init__(self, does: Callable[..., object], number: int) -> None:
        self._does = does
        self.left = number

    def __get__(self, path: Path, _: object = None) -> Callable[..., object]:
        """As a method of `Path`."""
        return partial(self, path)

    def __call__(self, *args: object, **more: object) -> object:
        """The call."""
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self._does(*args, **more)


SLICES_GO = [("pathlib.Path.unlink", 1), ("pathlib.Path.unlink", COUNT // 2)]
SLICES_GO += [
    ("limn.node.store.disk.spool.write_durably", 1),
    ("limn.node.store.disk.spool.shutil.rmtree", 1),
]


@pytest.mark.parametrize(("at", "number"), SLICES_GO)
def test_slices_that_a_crash_left_on_their_way_out_go_and_are_noted(
    site: Site, monkeypatch: pytest.MonkeyPatch, at: str, number: int
) -> None:
    """Wherever it ends: before the next slice comes the series is gone and its note is there."""
    row = site.delivered()
    with monkeypatch.context() as patch:
        patch.setattr(at, Dies(resolve_name(at), number))
        with pytest.raises(KeyboardInterrupt):
            site.retention.work(time.time())
    again = Door(site.config.data_dir)
    again.intake.recover()
    removed = again.spool.removed(Path(row.folder))
    assert removed is not None
    assert removed.instances == COUNT
    assert not again.files()
    assert len(again.scans()) == 1


def test_a_full_disk_is_no_reason_to_keep_what_fills_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk has room for the note only after the files are removed."""
    row = site.delivered("1", 91)
    folder = site.config.results_dir / row.name

    def write(path: Path, contents: bytes) -> None:
        if list(site.config.spool_dir.rglob("*.dcm")) or (
            path.parent == folder and list(folder.glob("*.npz"))
        ):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_durably(path, contents)

    monkeypatch.setattr("limn.node.store.disk.spool.write_durably", write)
    monkeypatch.setattr("limn.node.store.retention.write_durably", write)
    site.retention.work(time.time())
    assert site.slices(row) == 0
    assert [path.name for path in folder.iterdir()] == ["removed.json"]
    assert (Path(row.folder) / "removed.json").exists()


def test_a_folder_that_can_t_be_removed_is_said_and_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Windows: a process has a slice open. The next run tries again; the other files go."""
    first, second = site.delivered("1"), site.delivered("2")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == Path(first.folder):
            raise PermissionError(13, "in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    site.retention.work(time.time())
    assert f"{first.name}: its files are due and can't be removed" in caplog.text
    assert (site.slices(first), site.slices(second)) == (COUNT, 0)


@pytest.mark.parametrize("looked_before", [True, False])
def test_a_start_with_a_clock_far_ahead_removes_nothing(
    site: Site, caplog: pytest.LogCaptureFixture, looked_before: bool
) -> None:
    """Files of minutes ago are kept, also after more starts and scans, and the log says why."""
    row = site.delivered("1", days_ago=0.01)
    if looked_before:
        site.retention.work(time.time())
    ahead = time.time() + 60 * DAY_S
    for number in ("2", "3"):
        again = Retention(site.config, site.door.journal, site.door.intake.clear)
        again.work(ahead)
        new = site.receive(number)
        site.contour(new)
        site.deliver(new, days_ago=-60)
        again.work(ahead + 3600)
    assert site.slices(row) == COUNT
    assert list((site.config.results_dir / row.name).glob("RS*"))
    assert "the files of 1 scans, due by that clock, are kept" in caplog.text
    assert f"touch {site.config.data_dir / 'clock-is-right'}" in caplog.text
    caplog.clear()
    site.retention.work(time.time())
    assert not caplog.records, "the clock is right again"


def test_an_operator_says_that_the_clock_is_right(site: Site) -> None:
    """The node was off for two months: what is due goes once that is confirmed."""
    row = site.delivered("1", days_ago=1)
    site.retention.work(time.time())
    later = Retention(site.config, site.door.journal, site.door.intake.clear)
    later.work(time.time() + 60 * DAY_S)
    assert site.slices(row) == COUNT
    (site.config.data_dir / "clock-is-right").touch()
    later.work(time.time() + 60 * DAY_S)
    assert site.slices(row) == 0
    assert not (site.config.data_dir / "clock-is-right").exists()


def test_what_was_due_before_the_clock_jumped_still_goes(site: Site) -> None:
    """The jump keeps only what is due because of it."""
    old, new = site.delivered("1", 31), site.delivered("2", 1)
    site.retention.work(time.time() + 60 * DAY_S)
    assert (site.slices(old), site.slices(new)) == (0, COUNT)


def test_a_node_that_runs_for_months_asks_nothing(site: Site) -> None:
    """Looks a few days apart, as after holidays, are the ordinary passing of time."""
    row = site.delivered("1", days_ago=0.01)
    for days in range(0, 36, 5):
        looks = Retention(site.config, site.door.journal, site.door.intake.clear)
        looks.work(time.time() + days * DAY_S)
        assert site.slices(row) == (COUNT if days < 30 else 0)


def test_a_clock_that_jumps_while_the_node_runs_removes_nothing(site: Site) -> None:
    """An hour later by its own count, the clock is two months on."""
    row = site.delivered("1", days_ago=1)
    site.retention.work(time.time())
    site.retention.work(time.time() + 60 * DAY_S)
    assert site.slices(row) == COUNT


def test_retention_gives_signs_of_life_of_its_own(tmp_path, monkeypatch):
    """Every second, although it looks once an hour."""
    monkeypatch.setattr(heartbeat, "_given", str(tmp_path / "receiver"))
    with running(Site(tmp_path).retention.run):
        until((tmp_path / "retention.thread").exists)
    assert not (tmp_path / "retention.thread").exists()


def test_a_surprise_does_not_end_the_receiver(tmp_path, caplog, monkeypatch):
    """Another program holds the journal's lock at the hour: retention works an hour later."""
    retention = Site(tmp_path).retention

    def locked(now: float) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(retention, "work", locked)
    with running(retention.run):
        until(lambda: "retention stopped in its work" in caplog.text)


def test_a_surprise_with_one_scan_keeps_its_files_alone(site: Site, caplog, monkeypatch) -> None:
    """The others are removed; the log names the scan."""
    first, second = site.delivered("1"), site.delivered("2")
    remove = site.retention._remove_slices

    def surprised(scan_id: int, folder: Path) -> None:
        if scan_id == first.id:
            raise LookupError
        remove(scan_id, folder)

    monkeypatch.setattr(site.retention, "_remove_slices", surprised)
    site.retention.work(time.time())
    assert (site.slices(first), site.slices(second)) == (COUNT, 0)
    assert (
        f"{first.name}: its files are due and stay; tried again in an hour: a fault" in caplog.text
    )
