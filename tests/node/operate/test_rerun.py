"""A scan contoured again with another bundle: a new version, held or sent as any scan."""

import hashlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from limn.dicom.instance import digest_of_file, digest_of_series
from limn.domain.errors import ConfigWrong
from limn.domain.shipped import MANIFEST
from limn.node.board.app import Board
from limn.node.commissioning import COMMISSIONING
from limn.node.config import load_config
from limn.node.contour.site_bundle import label_of
from limn.node.contour.work.warm import Warm, options_of
from limn.node.contour.work.worker import contour_here
from limn.node.operate.reruns import rerun as rerun_module
from limn.node.store.disk import scanlog
from limn.node.store.disk.evidence import loss_of
from limn.node.store.disk.rerun_notes import (
    BELIEVED_S,
    RerunNote,
    read_rerun_note,
    write_rerun_note,
)
from limn.node.store.journal.reruns.rerun_journal import UNFINISHED, RerunJournal
from limn.segment.bundle.bundle import glance, write_manifest
from tests.conftest import one_fold
from tests.node.board.conftest import PORT, TestClient, give_accounts, sign_in, token_of
from tests.support.node.fake_worker import FakeEnsemble
from tests.support.node.parts import Archive, arrived, encoded, peer, structure_set
from tests.support.node.toy import toy, write_toy

OTHER = "other-8"


def with_bundles(site):
    """The site's bundle and another one beside it, which differ by their name alone."""
    shelf = site.folder / "models"
    for name, head in (("site", {}), ("other", {"name": "other", "version": "8"})):
        shutil.copytree(one_fold(), shelf / name, copy_function=os.link)
        text = (one_fold() / MANIFEST).read_text().split("\n[files]\n")[0]
        for key, value in head.items():
            lines = text.splitlines()
            at = next(k for k, line in enumerate(lines) if line.startswith(f"{key} ="))
            lines[at] = f'{key} = "{value}"'
            text = "\n".join(lines)
        (shelf / name / MANIFEST).unlink()
        write_manifest(shelf / name, text)
    said = site.config.read_text().replace(
        'bundle = "bundle"', 'bundle = "models/site"\nallow_demo_bundle = true\ncalibrate = "never"'
    )
    site.config.write_text(said)
    return shelf


def with_scan(site, number=1, files=None, to=("tps", "export"), **more):
    """A scan of a toy mouse in the spool, contoured with the site's bundle."""
    made = toy(number)
    folder = site.data / "spool" / str(number)
    paths = write_toy(made, folder)[: files or None]
    digest = digest_of_series(
        (str(pydicom.dcmread(path).SOPInstanceUID), digest_of_file(path)) for path in paths
    )
    settled = arrived(
        series_instance_uid=str(made.datasets[0].SeriesInstanceUID),
        study_instance_uid=str(made.datasets[0].StudyInstanceUID),
        animal=made.animal,
        folder=str(paths[0].parent),
        files=tuple(path.name for path in paths),
        input_digest=digest,
        bundle_sha256=glance(load_config(site.config).model.bundle).sha256,
        last_slice_at=time.time() - 3600,
        ready_at=time.time() - 3599.5,
    )
    row = site.journal.insert(replace(settled, **more), to)
    uid = site.journal.structure_set_of(row.id).sop_instance_uid
    path = site.data / "scans" / row.name / f"RS.{uid}.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(structure_set(uid)))
    return row, path


def contour_with_threshold(monkeypatch, cut=None):
    """A network that thresholds, in this process; returns the labels of the bundles that ran."""
    ran = []

    class Ensemble(FakeEnsemble):
        def label(self, prepared, inferred):
            labels = super().label(prepared, inferred)
            if cut is not None:
                labels.labels_zyx[labels.labels_zyx == cut] = 0
            return labels

    def contour(config, bundle, job, is_busy, told):
        ran.append(bundle.label)
        told("is contoured")
        return contour_here(
            job, label_of(config, bundle), Warm(Ensemble(bundle), options_of(config, bundle))
        )

    monkeypatch.setattr(rerun_module, "contour_when_idle", contour)
    return ran


def again(site, scan="scan-00001", *, bundle=OTHER):
    """Order a run by the command."""
    order = ("--bundle", bundle, "--by", "Anna", "--why", "the site's one missed the apex")
    return site.limn("rerun", scan, *order)


def contoured(site, row, path, held=None):
    """The first contours."""
    site.journal.contoured(row.id, str(path), {"contoured_at": time.time() - 3590}, held)


def test_a_run_with_another_bundle_is_a_new_version_that_goes_out(site, monkeypatch):
    """Its own UIDs, the one before as predecessor; an honest clock; who and why in the record."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    ran = contour_with_threshold(monkeypatch)
    assert OTHER in site.limn("rerun", "scan-00001")
    said = again(site)
    assert "scan-00001 was contoured again with other-8: it is scan-00002\n" in said
    assert ran == [OTHER]
    new = site.journal.scan(2)
    assert (new.state, new.version, new.predecessor) == ("contoured", 2, 1)
    assert site.states(new) == ["waiting", "waiting"]
    assert site.states(row) == ["waiting", "waiting"]
    before, after = (site.journal.structure_set_of(k) for k in (1, 2))
    ds = pydicom.dcmread(after.path)
    assert str(ds.SOPInstanceUID) == after.sop_instance_uid != before.sop_instance_uid
    assert "other-8" in ds.StructureSetDescription
    (replaced,) = ds.PredecessorStructureSetSequence
    assert replaced.ReferencedSOPInstanceUID == before.sop_instance_uid
    assert after.contents_sha256 == hashlib.sha256(Path(after.path).read_bytes()).hexdigest()
    assert {each.name for each in Path(after.path).parent.iterdir()} >= {"picture.png"}
    assert new.record["rerun"] == {
        "of": "scan-00001",
        "by": "Anna",
        "why": "the site's one missed the apex",
    }
    with peer(Archive(0x0000, 0x0000), port=site.port):
        for _ in range(3):
            site.courier().work()
    logged = {each["scan_id"]: each for each in scanlog.rows(site.log)}["scan-00002"]
    assert logged["bundle"] == "other-8"
    assert "rerun:other-8" in logged["flags"]
    assert float(logged["door_to_door_s"]) < 60
    assert loss_of(load_config(site.config)) == ""
    note = read_rerun_note(load_config(site.config).reruns_dir, "scan-00001")
    assert (note.state, note.words, note.by) == ("done", "scan-00002", "Anna")


def test_what_a_person_must_see_is_held_and_the_first_stays_held(site, monkeypatch):
    """By the same rule as any scan: an organ without a contour is red."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path, held="mirrored image")
    contour_with_threshold(monkeypatch, cut=1)
    again(site)
    new = site.journal.scan(2)
    assert site.journal.structure_set_of(2).on_hold
    assert site.states(new) == ["held", "held"]
    # The person has two to choose of.
    assert site.journal.structure_set_of(1).on_hold
    assert site.states(row) == ["held", "held"]


def order_of(bundle):
    """The options of an order."""
    return ("--bundle", bundle, "--by", "Anna", "--why", "x y")


def test_what_cannot_run_again_says_why(site, monkeypatch):
    """And nothing is entered."""
    shelf = with_bundles(site)
    ran = contour_with_threshold(monkeypatch)
    row, path = with_scan(site)
    assert "waits for a worker" in site.refused("rerun", row.name, *order_of(OTHER))
    contoured(site, row, path)
    own = glance(shelf / "site").label
    assert f"can't run with {own}: choose of" in site.refused("rerun", row.name, *order_of(own))
    assert "scan-00009 is unknown" in site.refused("rerun", "scan-00009", *order_of(OTHER))
    nameless = ("--bundle", OTHER, "--by", " ", "--why", "x")
    assert "--by is empty" in site.refused("rerun", row.name, *nameless)
    # The series came again with more slices.
    with_scan_files = replace_digest(site, row)
    assert with_scan_files in site.refused("rerun", row.name, *order_of(OTHER))
    (Path(row.folder) / row.files[0]).unlink()
    newest = site.journal.named([with_scan_files])[with_scan_files]
    site.journal.end(newest.id, "failed", "no organ", {})
    said = site.refused("rerun", newest.name, *order_of(OTHER))
    assert f"{newest.name} has lost 1 of its 20 slices in {row.folder}" in said
    assert "send the series again from the scanner" in said
    assert ran == []
    assert len(site.journal.scans()) == 2


def replace_digest(site, row):
    """Another version of a scan's series; its name."""
    newer = arrived(
        series_instance_uid=row.series_instance_uid,
        folder=row.folder,
        files=row.files,
        animal=row.animal,
        input_digest="other",
    )
    return site.journal.insert(newer, ("tps",)).name


def test_a_bundle_for_demonstration_needs_the_site(site, monkeypatch):
    """As it does when the node starts."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    site.config.write_text(site.config.read_text().replace("= true", "= false"))
    contour_with_threshold(monkeypatch)
    assert "can run with no other bundle" in site.refused("rerun", row.name, *order_of(OTHER))


def test_a_second_run_with_the_same_bundle_is_refused(site, monkeypatch):
    """One structure set for one input and bundle."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    contour_with_threshold(monkeypatch)
    again(site)
    for scan in ("scan-00001", "scan-00002"):
        assert "can run with no other bundle" in site.refused("rerun", scan, *order_of(OTHER))


def test_a_kill_while_it_is_entered_leaves_nothing_for_the_engine(site, monkeypatch):
    """The number stays, the engine sees no scan that waits, no loss is feared; it runs again."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    contour_with_threshold(monkeypatch)

    class Killed(BaseException):
        pass

    def finish(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RerunJournal, "finish_rerun", finish)
        with pytest.raises(Killed):
            again(site)
    left = site.journal.scan(2)
    assert (left.state, left.reason) == ("refused", UNFINISHED)
    assert site.journal.ready() == []
    assert site.journal.find_structure_set(2) is None
    assert loss_of(load_config(site.config)) == ""
    note = read_rerun_note(load_config(site.config).reruns_dir, "scan-00001")
    assert note.state == "failed"
    assert "it is scan-00002" in again(site)
    assert site.journal.scan(2).state == "contoured"
    assert len(list((site.data / "scans" / "scan-00002").glob("RS.*.dcm"))) == 1


def test_a_series_that_came_meanwhile_is_not_covered(site, monkeypatch):
    """Its newer version has more slices: the older ones must not follow it."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    contour_with_threshold(monkeypatch)
    contour = rerun_module.contour_when_idle

    def slow(*given):
        replace_digest(site, row)
        return contour(*given)

    monkeypatch.setattr(rerun_module, "contour_when_idle", slow)
    said = site.refused("rerun", row.name, *order_of(OTHER))
    assert "a newer version of its series came meanwhile" in said
    assert [each.state for each in site.journal.scans()] == ["contoured", "ready"]


def test_a_scan_that_the_node_took_in_hand_is_left_to_it(site, monkeypatch):
    """The other bundle delivers by now, and its series came again while results were written."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    contour_with_threshold(monkeypatch)
    finish = RerunJournal.finish_rerun

    def late(journal, given, names, contours):
        assert journal.insert(given, ("tps",)).id == 2
        return finish(journal, given, names, contours)

    monkeypatch.setattr(RerunJournal, "finish_rerun", late)
    said = site.refused("rerun", row.name, *order_of(OTHER))
    assert "scan-00002 came from its sender meanwhile" in said
    assert [each.id for each in site.journal.ready()] == [2]
    assert site.states(site.journal.scan(2)) == ["waiting"]


def test_a_journal_that_was_restored_meanwhile_is_not_written_to(site, monkeypatch):
    """The file that is open is nobody's any more: what it is given would be lost without a word."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    contour_with_threshold(monkeypatch)
    contour, journal = rerun_module.contour_when_idle, load_config(site.config).journal_path

    def slow(*given):
        site.journal.copy_to(journal.with_name("copy"))
        journal.with_name("copy").replace(journal)
        return contour(*given)

    monkeypatch.setattr(rerun_module, "contour_when_idle", slow)
    said = site.refused("rerun", row.name, *order_of(OTHER))
    assert "the journal was restored meanwhile" in said
    assert not (site.data / "scans" / "scan-00002").exists()


def test_a_phantom_goes_back_to_its_commissioning_alone(site, monkeypatch):
    """It is not in the config, as the first version's deliveries show."""
    with_bundles(site)
    row, path = with_scan(site, to=(COMMISSIONING,))
    contoured(site, row, path)
    contour_with_threshold(monkeypatch)
    again(site)
    assert [each.destination for each in site.journal.deliveries(2)] == [COMMISSIONING]


def test_a_note_of_a_run_that_was_killed_says_so(tmp_path, monkeypatch):
    """Nobody is left waiting for it."""
    note = RerunNote(scan="scan-00001", bundle=OTHER, by="Anna", why="x", at=1.0, words="begins")
    write_rerun_note(tmp_path, note)
    assert read_rerun_note(tmp_path, "scan-00001") == note
    later = time.time() + BELIEVED_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    found = read_rerun_note(tmp_path, "scan-00001")
    assert (found.state, found.words) == ("failed", "it was broken off; nothing has changed")


def test_one_scan_at_a_time(site, monkeypatch):
    """A second model beside the first would take the memory of a third."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    contour_with_threshold(monkeypatch)
    with (
        rerun_module._alone(load_config(site.config)),
        pytest.raises(ConfigWrong, match="another scan runs again"),
    ):
        rerun_module.order_rerun(site.config, row.name, OTHER, by="Anna", why="x y")
    assert "another scan" not in again(site)


class Order:
    """The process of an order; it runs until it is ended."""

    def __init__(self):
        self.code = None

    def poll(self):
        """Its exit code; None while it runs."""
        return self.code


def test_the_board_offers_and_orders_it(site, monkeypatch):
    """On the scan's page, with name and reason; a second click orders nothing."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    ordered, process = [], Order()

    def order(_, *given, **named):
        ordered.append((given, named))
        return process

    monkeypatch.setattr("limn.node.board.reruns.order_rerun", order)
    board = Board(load_config(site.config), site.config, PORT)
    browser = TestClient(board.app, base_url=f"http://localhost:{PORT}", follow_redirects=False)
    page = browser.get(f"/{row.name}")
    assert "<option>other-8</option>" in page.text
    form = {"token": token_of(page), "by": "Anna", "why": "apex", "bundle": OTHER}
    answer = browser.post(f"/{row.name}/rerun", data=form)
    assert (answer.status_code, ordered) == (
        303,
        [((row.name, OTHER), {"by": "Anna", "why": "apex"})],
    )
    second = browser.post(f"/{row.name}/rerun", data=form)
    assert "another scan runs again with another bundle now" in second.text
    assert len(ordered) == 1
    process.code = 0
    assert browser.post(f"/{row.name}/rerun", data=form).status_code == 303
    assert len(ordered) == 2
    folder = load_config(site.config).reruns_dir
    write_rerun_note(
        folder, RerunNote(scan=row.name, bundle=OTHER, by="Anna", why="apex", at=time.time())
    )
    after = browser.get(answer.headers["location"]).text
    assert "rerun: ordered, by Anna" in after
    assert "Anna ordered a run with other-8" in after
    (Path(row.folder) / row.files[0]).unlink()
    assert "has lost 1 of its 20 slices" in browser.get(f"/{row.name}").text


def test_who_only_looks_is_offered_no_run(site):
    """As no other action."""
    with_bundles(site)
    row, path = with_scan(site)
    contoured(site, row, path)
    give_accounts(site)
    board = Board(load_config(site.config), site.config, PORT)
    browser = TestClient(board.app, base_url=f"http://localhost:{PORT}", follow_redirects=False)
    pages = {}
    for name in ("Anna", "Wall"):
        browser.cookies.clear()
        sign_in(browser, name)
        pages[name] = browser.get(f"/{row.name}").text
    assert f'action="/{row.name}/rerun"' in pages["Anna"]
    assert row.name in pages["Wall"]
    assert "/rerun" not in pages["Wall"]
