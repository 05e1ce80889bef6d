import functools
import io
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
)
from pynetdicom.dsutils import encode

from limn.dicom import bounded
from limn.dicom.elements import FEW_ELEMENTS
from limn.dicom.instance import Unreadable, inspect, positions_mm
from limn.node.dimse.status import CANNOT_UNDERSTAND, DUPLICATE, OUT_OF_RESOURCES, SUCCESS
from limn.node.receive.awaiting import ReceivingFile
from limn.node.receive.breaks import Break, Feed
from limn.node.receive.completeness import Verdict
from limn.node.receive.gathering import SeriesVersion, Source
from limn.node.receive.settling import Settling
from limn.node.receive.store_result import StoreResult
from limn.node.store.disk.receiving import read_receiving
from limn.node.store.disk.spool import SLOTS
from tests.support.node.parts import (
    COUNT,
    SCP,
    Door,
    encoded,
    other_modality,
    running,
    slices,
    until,
    write_slices,
)
from tests.support.node.siege import mounted

OTHER = replace(SCP, key="association-2", sender="OTHER@127.0.0.2")


@pytest.fixture
def door(tmp_path):
    """An intake with a short settle_s."""
    return Door(tmp_path)


def test_a_whole_series_becomes_one_scan(door):
    """Accepted, released, quiet: in the journal with every file, and the engine is woken."""
    sent = slices()
    assert door.send(sent) == [SUCCESS] * COUNT
    assert door.scans() == []
    door.intake.association_ended(SCP.key, aborted=False)
    (row,) = door.wait_for_scans()
    assert door.woken.is_set()
    assert row.animal == "M1"
    assert row.series_instance_uid == sent[0].SeriesInstanceUID
    assert row.study_instance_uid == sent[0].StudyInstanceUID
    assert row.sender == SCP.sender
    assert len(row.files) == COUNT
    on_disk = sorted(
        (door.spool.folder(row.series_instance_uid) / f).read_bytes() for f in row.files
    )
    assert on_disk == sorted(encoded(ds) for ds in sent)


def test_the_order_of_slices_does_not_matter(door, tmp_path):
    """The same slices in another order are the same input and give the same structure set UID."""
    other = Door(tmp_path / "other")
    uids = []
    for each, sent in ((door, slices()), (other, slices()[::-1])):
        each.send(sent)
        each.intake.association_ended(SCP.key, aborted=False)
        (row,) = each.wait_for_scans()
        uids.append(each.journal.structure_set_of(row.id).sop_instance_uid)
    assert uids[0] == uids[1]


@pytest.mark.parametrize("aborted", [False, True])
def test_a_header_count_ends_no_series_that_is_still_coming(tmp_path, aborted):
    """A scan of two acquisitions announces 15 and has 20 slices; if it breaks off, none leaves."""
    door = Door(tmp_path, min_slices=5, hold_s=0.2)
    sent = slices()
    for ds in sent:
        ds.ImagesInAcquisition = 15
    door.send(sent[:15])
    time.sleep(0.1)
    assert door.scans() == []
    if not aborted:
        door.send(sent[15:])
    door.intake.association_ended(SCP.key, aborted=aborted)
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == (("refused", 15) if aborted else ("ready", 20))


def test_two_series_over_one_association_are_two_scans(door):
    """The slices of two series come mixed; each series gets its own scan."""
    for first, second in zip(slices("1"), slices("2"), strict=True):
        door.send([first, second])
    door.intake.association_ended(SCP.key, aborted=False)
    rows = door.wait_for_scans(2)
    assert sorted(row.animal for row in rows) == ["M1", "M2"]
    assert [len(row.files) for row in rows] == [COUNT, COUNT]


def test_two_sources_at_once_are_one_series(door):
    """Both halves come in parallel; the series is complete when both sources have ended."""
    sent = slices()
    threads = [
        threading.Thread(target=door.send, args=(half, source))
        for half, source in ((sent[::2], SCP), (sent[1::2], OTHER))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    door.intake.association_ended(SCP.key, aborted=False)
    time.sleep(0.1)
    assert door.scans() == []
    door.intake.association_ended(OTHER.key, aborted=False)
    (row,) = door.wait_for_scans()
    assert len(row.files) == COUNT


def test_one_series_over_many_associations(door):
    """Some senders open an association for every slice."""
    for number, ds in enumerate(slices()):
        source = replace(SCP, key=f"association-{number}")
        assert door.send([ds], source) == [SUCCESS]
        door.intake.association_ended(source.key, aborted=False)
    (row,) = door.wait_for_scans()
    assert len(row.files) == COUNT


def test_a_duplicate_with_the_same_bytes_is_fine(door):
    """A sender that retries is answered Success, and nothing is stored twice."""
    sent = slices()
    assert door.send([*sent, *sent[:3]]) == [SUCCESS] * (COUNT + 3)
    assert len(door.files()) == COUNT


def test_a_duplicate_with_other_bytes_is_refused(door):
    """0x0111, the first instance is kept, and the text names the instance."""
    (first, *_) = sent = slices()
    door.send(sent)
    before = [path.read_bytes() for path in door.files()]
    first.PixelData = bytes(len(first.PixelData))
    result = door.intake.accept(encoded(first), OTHER)
    assert result.status == DUPLICATE
    assert str(first.SOPInstanceUID) in result.why
    assert [path.read_bytes() for path in door.files()] == before
    door.intake.association_ended(SCP.key, aborted=False)
    assert len(door.wait_for_scans()) == 1


def test_one_series_of_two_animals_is_refused(door, tmp_path):
    """Another PatientID under the same SeriesInstanceUID: not a version, not a mixture."""
    mine, others = slices("1"), slices("2")
    for ds in others:
        ds.SeriesInstanceUID = mine[0].SeriesInstanceUID
    door.send(mine)
    door.intake.association_ended(SCP.key, aborted=False)
    door.wait_for_scans()
    restarted = Door(tmp_path)
    for again in (door, restarted):
        for ds in others:
            result = again.intake.accept(encoded(ds), OTHER)
            assert result.status == CANNOT_UNDERSTAND
            assert "'M2'" in result.why
            assert "'M1'" in result.why
        again.intake.association_ended(OTHER.key, aborted=False)
        assert [(row.animal, len(row.files)) for row in again.scans()] == [("M1", COUNT)]
    assert len(door.files()) == COUNT


def test_an_animal_that_must_be_escaped_is_named_as_everywhere(door):
    """A byte that the declared character set lacks is shown as one escape."""
    mine, others = slices("1"), slices("2")
    others[0].SeriesInstanceUID = mine[0].SeriesInstanceUID
    contents = encoded(others[0]).replace(b"LO\x02\0M2", b"LO\x02\0M\xfc")
    door.send(mine[:1])
    assert "PatientID 'M\\xfc', but" in door.intake.accept(contents, OTHER).why


def test_a_surprise_with_one_series_does_not_end_the_settling(door, caplog, monkeypatch):
    """An error that nobody expected is logged once with the animal; the other series go on."""
    whole(door, *slices("1"))
    whole(door, *slices("2"), source=OTHER)
    hand_over = door.intake._handover.hand_over

    def surprised(settled):
        if settled.gathering.animal == "M1":
            raise LookupError
        hand_over(settled)

    with monkeypatch.context() as patched:
        patched.setattr(door.intake._handover, "hand_over", surprised)
        with running(door.intake.run):
            until(lambda: [row.animal for row in door.journal.scans()] == ["M2"])
            time.sleep(0.2)
    assert door.intake._faults._surprises.count(slices("1")[0].SeriesInstanceUID) == 1
    (shown,) = door.intake.receiving()
    assert (shown.animal, shown.slices) == ("M1", COUNT)
    assert shown.waits_for.startswith("a mend: a fault of limn (LookupError); see limn.log")
    (record,) = [each for each in caplog.records if each.exc_info]
    assert "animal M1 from SCANNER@127.0.0.1: 20 slices lie in the spool" in record.getMessage()
    assert [row.animal for row in door.wait_for_scans(2)] == ["M2", "M1"]


def test_a_sender_of_large_parts_is_known_after_a_restart(door, tmp_path):
    """The spool's notes say that its newest series came over two associations."""
    first, second = slices("1"), slices("2", 2 * COUNT)
    for half, key in ((first[: COUNT // 2], "one"), (first[COUNT // 2 :], "two")):
        whole(door, *half, source=replace(SCP, key=key))
    whole(door, *slices("3"), source=OTHER)
    settled(door)
    door.journal.close()
    again = Door(tmp_path)
    again.intake.recover()
    assert again.intake._settling.several == {SCP.sender}
    whole(again, *second[:COUNT], source=replace(SCP, key="three"))
    gathering = again.intake._gatherings[second[0].SeriesInstanceUID]
    decision = again.intake._settling.decision(gathering, gathering.last_s + 2 * SCP.settle_s)
    assert (decision.verdict, decision.awaits) == (Verdict.WAIT, "more slices, by its pace so far")


def test_a_duplicate_with_other_bytes_is_refused_after_a_restart(door, tmp_path):
    """The spool knows the instances, also those of a series in the journal."""
    sent = slices()
    door.send(sent)
    door.intake.association_ended(SCP.key, aborted=False)
    door.wait_for_scans()
    restarted = Door(tmp_path)
    restarted.intake.recover()
    sent[0].PixelData = bytes(len(sent[0].PixelData))
    assert restarted.send(sent[:2]) == [DUPLICATE, SUCCESS]


def test_a_series_that_comes_again_is_contoured_once(door, caplog):
    """The same slices a day later: logged, no second structure set."""
    caplog.set_level(logging.INFO)
    for _ in range(2):
        door.send(slices())
        door.intake.association_ended(SCP.key, aborted=False)
        door.wait_for_scans()
        until(lambda: door.intake.settle() == 0)
    assert len(door.journal.scans()) == 1
    assert "came again, 20 slices, nothing new" in caplog.text


def test_a_late_slice_makes_a_second_version(door):
    """Version 2 holds every slice and names version 1 as its predecessor."""
    sent = slices(count=COUNT + 1)
    door.send(sent[:-1])
    door.intake.association_ended(SCP.key, aborted=False)
    (first,) = door.wait_for_scans()
    door.send(sent[-1:], OTHER)
    door.intake.association_ended(OTHER.key, aborted=False)
    second = door.wait_for_scans(2)[1]
    assert (second.version, second.predecessor) == (2, first.id)
    assert set(first.files) < set(second.files)
    assert len(second.files) == COUNT + 1


def test_what_was_handed_over_is_forgotten_and_known_all_the_same(tmp_path):
    """Memory stays flat: the spool knows what is new, late or changed in an older series."""
    door = Door(tmp_path, max_in_memory=2)
    sent = [slices(str(number), COUNT + 1) for number in range(5)]
    for series in sent:
        door.send(series[:-1])
        door.intake.association_ended(SCP.key, aborted=False)
        until(lambda: door.intake.settle() == 0)
    assert len(door.journal.scans()) == 5
    assert len(door.intake._gatherings) == 2
    first = sent[0]
    assert door.send(first[:3]) == [SUCCESS] * 3
    changed = slices("0", COUNT + 1)[5]
    changed.PixelData = bytes(len(changed.PixelData))
    assert door.send([changed]) == [DUPLICATE]
    assert door.send(first[-1:]) == [SUCCESS]
    door.intake.association_ended(SCP.key, aborted=False)
    late = door.wait_for_scans(6)[5]
    assert (late.version, late.predecessor, len(late.files)) == (2, 1, COUNT + 1)


def test_what_is_coming_in_is_never_forgotten(tmp_path):
    """More series at once than stay in memory: every one becomes a scan."""
    door = Door(tmp_path, max_in_memory=1)
    sent = [slices(str(number)) for number in range(4)]
    for turn in range(COUNT):
        for series in sent:
            assert door.send([series[turn]]) == [SUCCESS]
        door.intake.settle()
    door.intake.association_ended(SCP.key, aborted=False)
    assert [len(row.files) for row in door.wait_for_scans(4)] == [COUNT] * 4


def test_a_series_that_no_disk_took_is_no_scan(tmp_path):
    """The first slice gets 0xA700 and the sender never comes back: there is nothing to refuse."""
    door = Door(tmp_path, hold_s=0.05)
    ds = slices()[0]
    door.spool.root.mkdir(parents=True)
    door.spool.folder(ds.SeriesInstanceUID).write_text("in the way")
    assert door.send([ds]) == [OUT_OF_RESOURCES]
    time.sleep(0.2)
    assert door.scans() == []


def test_a_journal_that_can_not_be_written_is_waited_for(door, monkeypatch, caplog):
    """A full disk stops neither reception nor the loop; once there is room the scan goes on."""
    insert = door.journal.insert

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(door.journal, "insert", full)
    door.send(slices())
    door.intake.association_ended(SCP.key, aborted=False)
    time.sleep(0.1)
    for _ in range(3):
        assert door.scans() == []
    assert caplog.text.count("the journal can't be written") == 1
    monkeypatch.setattr(door.journal, "insert", insert)
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_an_aborted_series_is_refused_after_hold_s(tmp_path):
    """Half a series is never contoured; the reason says how much came and what to do."""
    door = Door(tmp_path, hold_s=0.3)
    door.send(slices(count=40)[:25])
    door.intake.association_ended(SCP.key, aborted=True)
    time.sleep(0.15)
    assert door.scans() == []
    (row,) = door.wait_for_scans()
    assert row.state == "refused"
    assert "after 25 slices" in row.reason
    assert "send the series again" in row.reason


def test_a_resend_within_hold_s_is_contoured_whole(door):
    """Aborted halfway, then sent again from the start: one scan with everything."""
    sent = slices()
    door.send(sent[:12])
    door.intake.association_ended(SCP.key, aborted=True)
    assert door.scans() == []
    door.send(sent, OTHER)
    door.intake.association_ended(OTHER.key, aborted=False)
    (row,) = door.wait_for_scans()
    assert (row.state, row.version, len(row.files)) == ("ready", 1, COUNT)


def test_a_resend_after_the_refusal_is_contoured(tmp_path):
    """Refused at 12 slices, sent whole later: a second version that runs."""
    door = Door(tmp_path, hold_s=0.1)
    sent = slices()
    door.send(sent[:12])
    door.intake.association_ended(SCP.key, aborted=True)
    (refused,) = door.wait_for_scans()
    door.send(sent, OTHER)
    door.intake.association_ended(OTHER.key, aborted=False)
    row = door.wait_for_scans(2)[1]
    assert (row.state, row.predecessor, len(row.files)) == ("ready", refused.id, COUNT)


def test_an_abort_beside_an_open_association_is_not_forgotten(tmp_path):
    """P2: one half broke off, and the release of the other half does not complete the series."""
    door = Door(tmp_path, hold_s=0.4)
    sent = slices(count=60)
    door.send(sent[:30], SCP)
    door.send(sent[30:50], OTHER)
    door.intake.association_ended(OTHER.key, aborted=True)
    door.intake.association_ended(SCP.key, aborted=False)
    (row,) = door.wait_for_scans()
    assert row.state == "refused"


def test_a_gap_is_handed_over_after_hold_s(tmp_path):
    """The series waits for a missing slice; then the worker refuses it with the slice's number."""
    door = Door(tmp_path, hold_s=0.3)
    sent = slices(count=COUNT + 4)
    door.send(sent[:7] + sent[8:])
    door.intake.association_ended(SCP.key, aborted=False)
    time.sleep(0.15)
    assert door.scans() == []
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT + 3)


def test_the_times_of_a_scan(door):
    """receive_s runs from first to last slice, settle_s from there to the journal."""
    sent = slices()
    started_at = time.time()
    door.send(sent[:10])
    time.sleep(0.2)
    door.send(sent[10:])
    ended_at = time.time()
    door.intake.association_ended(SCP.key, aborted=False)
    (row,) = door.wait_for_scans()
    assert 0.2 <= row.receive_s <= ended_at - started_at + 0.01
    assert SCP.settle_s <= row.settle_s < 2.0
    assert row.last_slice_at == pytest.approx(ended_at, abs=0.1)
    assert row.ready_at - row.last_slice_at == pytest.approx(row.settle_s, abs=0.02)


def test_a_full_disk_is_answered_out_of_resources(tmp_path):
    """0xA700 below the watermark, and nothing is written."""
    door = Door(tmp_path, min_free_bytes=2**62)
    result = door.intake.accept(encoded(slices()[0]), SCP)
    assert result.status == OUT_OF_RESOURCES
    assert "receive.min_free_mb" in result.why
    assert door.files() == []


def test_a_disk_without_inodes_is_answered_out_of_resources(tmp_path):
    """A real disk with room for bytes and none for files: no slot takes what is freed."""
    disk = mounted(tmp_path / "disk", "nr_inodes=300")
    if disk is None:
        pytest.skip("this user may not mount a disk")
    try:
        door = Door(disk)
        sent = slices()
        assert door.send(sent[:5]) == [0] * 5
        ballast = [disk / f"other-{number}" for number in range(300)]
        with suppress(OSError):
            for path in ballast:
                path.touch()
        assert door.intake.is_low(0)
        files = sum(1 for _ in disk.rglob("*"))
        for path in ballast[:5]:
            path.unlink()
            result = door.intake.accept(encoded(sent[5]), SCP)
            assert result.status == OUT_OF_RESOURCES
            assert "inodes free and keeps 15; delete files there" in result.why
        assert sum(1 for _ in disk.rglob("*")) == files - 5
        for path in ballast[5:]:
            path.unlink(missing_ok=True)
        assert not door.intake.is_low(0)
        assert door.send(sent[5:]) == [0] * (len(sent) - 5)
        door.journal.close()
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(disk)], check=True)


def test_a_spool_that_can_not_be_written_is_answered_out_of_resources(door):
    """The disk's own reason comes with the status."""
    ds = slices()[0]
    door.spool.root.mkdir(parents=True)
    door.spool.folder(ds.SeriesInstanceUID).write_text("in the way")
    result = door.intake.accept(encoded(ds), SCP)
    assert result.status == OUT_OF_RESOURCES
    assert "can't be written" in result.why


def test_the_loop_settles_by_itself(door):
    """The receiver's thread hands a series over without a call."""
    with running(door.intake.run):
        door.send(slices())
        door.intake.association_ended(SCP.key, aborted=False)
        until(door.woken.is_set)
    assert len(door.journal.scans()) == 1


def without(keyword: str) -> bytes:
    """A slice that lacks an element."""
    ds = slices()[0]
    del ds[keyword]
    ds.file_meta.MediaStorageSOPInstanceUID = "2.25.5"
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    return encoded(ds)


def changed(keyword: str, value: object) -> bytes:
    """A slice with another value."""
    ds = slices()[0]
    setattr(ds, keyword, value)
    return encoded(ds)


@functools.cache
def in_syntax(syntax: UID) -> bytes:
    """The fourth slice in a transfer syntax."""
    ds = slices()[3]
    if syntax == RLELossless:
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax.is_encapsulated:
        ds.PixelData = encapsulate([ds.PixelData])
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = ds.pixel_array.astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(
        file,
        ds,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        force_encoding=True,
    )
    return file.getvalue()


ENCODINGS = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
]


@pytest.mark.parametrize("syntax", ENCODINGS)
@pytest.mark.parametrize("missing_bytes", [0, 1, 40, 96])
def test_unread_pixels_change_no_verdict(syntax, missing_bytes, monkeypatch):
    """Whole or cut off, an instance is judged as if all of it were read."""
    contents = in_syntax(syntax)
    contents = contents[: len(contents) - missing_bytes]

    def verdict() -> object:
        try:
            return inspect(contents)
        except Unreadable as error:
            return str(error)

    whole = verdict()
    monkeypatch.setattr(bounded, "LONG_BYTES", 32)
    assert verdict() == whole


def test_deflated_instances_delay_no_other_sender(tmp_path):
    """Their senders wait for each other, each in its own association's thread."""
    door = Door(tmp_path)
    deflated = in_syntax(DeflatedExplicitVRLittleEndian)
    with door.intake._inflating:
        waiting = [
            threading.Thread(target=door.intake.accept, args=(deflated, SCP)) for _ in range(40)
        ]
        for thread in waiting:
            thread.start()
        time.sleep(0.3)
        assert all(thread.is_alive() for thread in waiting)
        began_s = time.monotonic()
        assert door.intake.accept(in_syntax(ExplicitVRLittleEndian), SCP) == StoreResult()
        assert time.monotonic() - began_s < 5
    for thread in waiting:
        thread.join(20)
        assert not thread.is_alive()


UNREADABLE = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"mouse 12, left ear punched\n" * 20, "not a DICOM file"),
    "short": (lambda: b"\0" * 128 + b"DICM", "can't be decoded|damaged"),
    "cut off in the pixels": (lambda: in_syntax(ExplicitVRLittleEndian)[:-40], "PixelData"),
    "cut off in the header": (lambda: in_syntax(ExplicitVRLittleEndian)[:700], "UID ''|absent"),
    "cut off, deflated": (lambda: in_syntax(DeflatedExplicitVRLittleEndian)[:-60], "damaged"),
    "cut off, compressed": (lambda: in_syntax(RLELossless)[:-40], "absent|damaged|cut off"),
    "no pixels": (lambda: without("PixelData"), "PixelData absent"),
    "fewer pixels than rows": (lambda: changed("Rows", 60), "PixelData has 96 bytes, 960 expected"),
    "no rows": (lambda: without("Rows"), "Rows"),
    "a PET slice": (
        lambda: encoded(other_modality(PositronEmissionTomographyImageStorage, "PT")),
        "Modality PT .*Positron.*a CT image expected",
    ),
    "a structure set": (
        lambda: encoded(other_modality(RTStructureSetStorage, "RTSTRUCT")),
        "Modality RTSTRUCT .*a CT image expected",
    ),
    "no SOP class": (lambda: without("SOPClassUID"), "no SOPClassUID"),
    "no instance UID": (lambda: without("SOPInstanceUID"), "SOPInstanceUID '' is not a valid UID"),
    "no series UID": (lambda: without("SeriesInstanceUID"), "SeriesInstanceUID '' is not a valid"),
    "a path as UID": (
        lambda: changed("SeriesInstanceUID", "../../etc/passwd"),
        r"SeriesInstanceUID '../../etc/passwd' is not a valid UID",
    ),
    "a long UID": (lambda: changed("SOPInstanceUID", "1." * 40 + "1"), "SOPInstanceUID '1.1.1"),
    "MPEG2": (lambda: in_syntax(MPEG2MPML), "TransferSyntaxUID 1.2.840.10008.1.2.4.100 can't"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore:Invalid value")
@pytest.mark.parametrize(("make", "why"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unusable_instance_is_refused_with_the_reason(door, make, why):
    """The text says what is wrong, the sender gets 0xC000, and nothing is stored."""
    contents = make()
    with pytest.raises(Unreadable, match=why):
        inspect(contents)
    assert door.intake.accept(contents, SCP).status == CANNOT_UNDERSTAND
    assert door.files() == []


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_every_encoding_is_read(syntax):
    """Deflated, compressed and big endian slices are instances like any other."""
    ds = slices()[3]
    instance = inspect(in_syntax(syntax))
    assert instance.sop_instance_uid == ds.SOPInstanceUID
    assert positions_mm([instance]) == [pytest.approx(0.6)]


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_a_slice_without_geometry_is_taken_without_position(keyword):
    """The intake stores it without a position; the worker refuses it later with the reason."""
    assert positions_mm([inspect(without(keyword))]) == [None]


def test_the_position_lies_along_the_slice_normal():
    """An oblique stack is measured across its planes, not along z."""
    ds = slices()[0]
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    ds.ImagePositionPatient = [7.5, 1, 2]
    assert positions_mm([inspect(encoded(ds))]) == [pytest.approx(7.5)]


def jittered(noise, step_mm):
    """Slices 150 mm away from the origin, whose orientations differ in the last digits."""
    chance, made = random.Random(4), slices()  # noqa: S311 - no secret
    for number, ds in enumerate(made):
        ds.ImagePositionPatient = ["-150.0000", "-150.0000", f"{-150 + step_mm * number:.4f}"]
        ds.ImageOrientationPatient = [
            round(each + chance.uniform(-noise, noise), 6) for each in (1, 0, 0, 0, 1, 0)
        ]
    return made


@pytest.mark.parametrize("noise", [5e-5, 1e-4])
def test_digits_in_which_the_orientation_differs_hold_no_series_up(tmp_path, noise):
    """`assemble` takes all of them, and so does the receiver: one tolerance."""
    door = Door(tmp_path, min_slices=5, hold_s=60.0)
    door.send(jittered(noise, 0.02))
    door.intake.association_ended(SCP.key, aborted=False)
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_digits_in_which_the_orientation_differs_move_no_slice():
    """The positions are even, and a stack that ascended until it broke off lacks its end."""
    instances = [inspect(encoded(ds)) for ds in jittered(1e-4, 0.02)]
    assert np.diff(positions_mm(instances)) == pytest.approx(0.02, abs=0.001)
    assert SeriesVersion(tuple(instances)).is_uniform
    of = {each.sop_instance_uid: each for each in instances[:15]}
    later = Feed(2.0, brought=dict.fromkeys(list(of)[3:5]))
    assert not Break(1.0, None, dict.fromkeys(of), new_came=True).is_mended(later, of)
    brought = dict.fromkeys(of)
    of |= {each.sop_instance_uid: each for each in instances[15:]}
    of |= {each.sop_instance_uid: each for each in instances[15:]}
    assert Break(1.0, None, brought).is_mended(later, of)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]),
    st.lists(st.tuples(st.floats(0.1, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0.2, 1) | st.just(1.0),
)
def test_no_bytes_break_the_reader(syntax, changes, kept):
    """Bytes changed or cut off anywhere give an instance or Unreadable, and no other error."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    contents = bytearray(in_syntax(syntax))
    for where, byte in changes:
        contents[int(where * len(contents))] = byte
    damaged = bytes(contents[: int(kept * len(contents))])
    try:
        taken = inspect(damaged)
    except Unreadable:
        taken = None
    assert taken is None or UID(taken.series_instance_uid).is_valid


def test_a_released_series_is_contoured_after_a_crash(door, tmp_path):
    """The node is killed between the release and the settling: the restart loads the series."""
    door.send(slices())
    door.intake.association_ended(SCP.key, aborted=False)
    restarted = Door(tmp_path)
    restarted.intake.recover()
    (row,) = restarted.wait_for_scans()
    assert (row.state, len(row.files), row.sender) == ("ready", COUNT, SCP.sender)


def test_a_half_sent_series_is_not_contoured_after_a_crash(door, tmp_path):
    """The node is killed while it comes in: refused after hold_s, though its slices are uniform."""
    door.send(slices(count=40)[:25])
    restarted = Door(tmp_path, hold_s=0.3)
    restarted.intake.recover()
    time.sleep(0.15)
    assert restarted.scans() == []
    (row,) = restarted.wait_for_scans()
    assert row.state == "refused"


def test_a_half_sent_series_that_is_resent_after_a_crash_is_contoured(door, tmp_path):
    """The sender tries again after the restart: whole, one scan."""
    sent = slices()
    door.send(sent[:12])
    restarted = Door(tmp_path)
    restarted.intake.recover()
    assert restarted.scans() == []
    restarted.send(sent, OTHER)
    restarted.intake.association_ended(OTHER.key, aborted=False)
    (row,) = restarted.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_crash_between_two_associations_keeps_the_first(door, tmp_path):
    """Some slices were released and more were on their way: the series waits, and is refused."""
    sent = slices(count=40)
    door.send(sent[:20])
    door.intake.association_ended(SCP.key, aborted=False)
    door.send(sent[20:30], OTHER)
    restarted = Door(tmp_path, hold_s=0.2)
    restarted.intake.recover()
    (row,) = restarted.wait_for_scans()
    assert row.state == "refused"


def test_odd_things_in_the_spool_do_not_fail_a_start(door, caplog):
    """Folders and files that limn did not make are named and passed over; the series is there."""
    door.send(slices())
    odd = os.fsdecode(b"M\xe4use\n.dcm")
    series = door.files()[0].parent
    (series / odd).mkdir()
    (series / "text.dcm").write_text("mouse 12")
    foreign = door.spool.root / odd
    write_slices(foreign, slices("2"))
    slots = door.spool.root / SLOTS
    (slots / odd).mkdir(parents=True)
    (slots / odd / "x").touch()
    door.journal.close()
    restarted = Door(door.spool.root.parent, hold_s=0.1)
    restarted.intake.recover()
    (row,) = [row for row in restarted.wait_for_scans() if row.animal == "M1"]
    assert len(row.files) == COUNT
    messages = [record.getMessage() for record in caplog.records]
    assert any(r"M\xe4use\n.dcm" in message for message in messages)
    assert all(message.isprintable() for message in messages)


def test_what_is_in_the_journal_is_not_recovered(door, tmp_path):
    """A restart contours nothing twice."""
    door.send(slices())
    door.intake.association_ended(SCP.key, aborted=False)
    door.wait_for_scans()
    restarted = Door(tmp_path)
    restarted.intake.recover()
    assert restarted.intake.settle() == 0
    assert len(restarted.journal.scans()) == 1


def test_a_late_slice_after_a_restart_is_a_second_version(door, tmp_path):
    """The slices from before the restart belong to version 2 as well."""
    sent = slices(count=COUNT + 1)
    door.send(sent[:-1])
    door.intake.association_ended(SCP.key, aborted=False)
    door.wait_for_scans()
    restarted = Door(tmp_path)
    restarted.intake.recover()
    restarted.send(sent[-1:])
    restarted.intake.association_ended(SCP.key, aborted=False)
    row = restarted.wait_for_scans(2)[1]
    assert (row.version, row.predecessor, len(row.files)) == (2, 1, COUNT + 1)


def test_a_damaged_spool_file_is_named_after_a_restart(door, tmp_path, caplog):
    """A file that was damaged on disk is logged with its path, and the series is incomplete."""
    door.send(slices())
    door.intake.association_ended(SCP.key, aborted=False)
    damaged = door.files()[3]
    damaged.write_bytes(b"rotten")
    restarted = Door(tmp_path, hold_s=0.1)
    restarted.intake.recover()
    (row,) = restarted.wait_for_scans()
    assert damaged.name in caplog.text
    assert row.state == "refused"


def test_a_spool_file_that_can_not_be_read_does_not_keep_the_receiver_down(door, tmp_path, caplog):
    """A disk gives an error for one file: it is named, and the other series go on."""
    door.send(slices())
    door.intake.association_ended(SCP.key, aborted=False)
    damaged = door.files()[3]
    damaged.unlink()
    damaged.mkdir()
    restarted = Door(tmp_path, hold_s=0.1)
    restarted.intake.recover()
    (row,) = restarted.wait_for_scans()
    assert str(damaged) in caplog.text
    assert row.state == "refused"


def contoured(door: Door, number: int = 1, held: str | None = None) -> None:
    """Scan ``number`` is contoured, and the planning system has accepted the structure set."""
    path = door.spool.root.parent / "rs.dcm"
    path.write_bytes(b"RS")
    door.journal.contoured(number, str(path), {"contoured_at": 1.0}, held)
    for delivery in door.journal.deliveries(number):
        if held is None:
            door.journal.delivered(delivery.id, "0x0000", 2.0)


def whole(door: Door, *sent: FileDataset, source: Source = SCP) -> None:
    """One association that brings these slices and is released."""
    assert set(door.send(sent, source)) <= {SUCCESS}
    door.intake.association_ended(source.key, aborted=False)


def settled(door: Door) -> None:
    """Settle until no series is coming in."""
    until(lambda: door.intake.settle() == 0)


def test_a_series_that_a_stopping_node_may_cut_off_waits(door, tmp_path):
    """With an association per slice, half a series looks whole; one that came in one is whole."""
    for number, ds in enumerate(slices(count=COUNT + 5)[:-2]):
        whole(door, ds, source=replace(SCP, key=f"slice-{number}"))
    whole(door, *slices("2"), source=replace(SCP, key="another"))
    door.intake.node_stopping()
    door.journal.close()
    again = Door(tmp_path, hold_s=0.5)
    again.intake.recover()
    rows = {row.animal: row for row in again.wait_for_scans(2)}
    assert (rows["M1"].state, rows["M2"].state) == ("refused", "ready")
    again.journal.close()


LITTER = {
    "a note with an infinite count": ("released.json", b'{"instances": Infinity, "sender": "x"}'),
    "a note that is deep": ("released.json", b"[" * 100_000),
    "a note of zeros": ("released.json", bytes(512)),
    "a note on a removal with an infinite count": ("removed.json", b'{"instances": Infinity}'),
}


@pytest.mark.parametrize("litter", LITTER)
def test_a_note_in_the_spool_that_is_not_limns_ends_no_start(tmp_path, litter):
    """The series of that folder comes again as any other."""
    name, contents = LITTER[litter]
    door = Door(tmp_path)
    whole_series(door, "1")
    door.journal.close()
    (door.spool.folder(slices("1")[0].SeriesInstanceUID) / name).write_bytes(contents)
    again = Door(tmp_path)
    again.intake.recover()
    whole_series(again, "2", scans=2)


@pytest.mark.parametrize("kind", ["a dangling link", "a folder"])
def test_what_lies_among_the_slots_and_is_none_ends_no_start(tmp_path, kind):
    """It stays there."""
    door = Door(tmp_path)
    whole_series(door, "1")
    door.journal.close()
    stray = door.spool.root / ".slots" / "stray"
    if kind == "a folder":
        stray.mkdir()
    else:
        stray.symlink_to("/nowhere")
    again = Door(tmp_path)
    again.intake.recover()
    whole_series(again, "2", scans=2)
    assert stray.is_symlink() or stray.is_dir()


def test_files_of_another_series_in_a_folder_keep_its_own_series_out_of_nothing(tmp_path, caplog):
    """Somebody restored a folder under a wrong name: they are named, and the series is taken."""
    door = Door(tmp_path)
    whole_series(door, "1")
    door.journal.close()
    first, second = (door.spool.folder(slices(n)[0].SeriesInstanceUID) for n in "12")
    shutil.copytree(first, second)
    again = Door(tmp_path)
    again.intake.recover()
    whole_series(again, "2", scans=2)
    assert "is of another series" in caplog.text


def whole_series(door: Door, number: str, scans: int = 1) -> None:
    """A series comes whole, and is in the journal."""
    door.send(slices(number))
    door.intake.association_ended(SCP.key, aborted=False)
    assert door.wait_for_scans(scans)[-1].state == "ready"


def data_set(ds: Dataset) -> bytes:
    """Its bytes as they come through an association."""
    return encode(ds, is_implicit_vr=False, is_little_endian=True)


def break_in_a_slice(door: Door, key: str, ds: Dataset, part: slice = slice(2000)) -> None:
    """An association of the sender ends in the middle of its first slice."""
    associations = door.intake.associations
    associations.opened(key, SCP.sender, time.monotonic())
    associations.instance_began(key, time.monotonic())
    associations.part_came(key, data_set(ds)[part], ExplicitVRLittleEndian)
    door.intake.association_ended(key, aborted=True)


@pytest.mark.parametrize(
    ("number", "part"),
    [("2", slice(2000)), ("1", slice(20)), ("1", slice(0)), ("again", slice(2000))],
)
def test_a_broken_association_without_slices_costs_its_senders_series_nothing(
    tmp_path, number, part
):
    """It broke off in another series' slice, before the UID, or in a slice that had come."""
    door = Door(tmp_path, hold_s=60.0)
    sent = slices()
    for index, ds in enumerate(sent):
        whole(door, ds, source=replace(SCP, key=f"slice-{index}"))
    broken = sent[3] if number == "again" else slices(number, COUNT + 1)[-1]
    break_in_a_slice(door, "broken", broken, part)
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_slice_that_was_refused_on_an_association_of_its_own_is_missed(door):
    """The disk was full: the series waits for the slice."""
    sent = slices(count=COUNT + 1)
    for number, ds in enumerate(sent[:-1]):
        whole(door, ds, source=replace(SCP, key=f"slice-{number}"))
    associations = door.intake.associations
    associations.opened("last", SCP.sender, time.monotonic())
    associations.part_came("last", data_set(sent[-1]), ExplicitVRLittleEndian)
    associations.instance_ended("last", missing=True)
    door.intake.association_ended("last", aborted=True)
    (gathering,) = door.intake._gatherings.values()
    assert gathering.breaks


@pytest.mark.parametrize("again", [False, True])
def test_a_slice_that_breaks_off_on_an_association_of_its_own_is_missed(tmp_path, again):
    """Nineteen even slices look whole; the part of the twentieth says that they are not."""
    door = Door(tmp_path, min_slices=5, hold_s=0.4)
    sent = slices()
    for number, ds in enumerate(sent[:-1]):
        whole(door, ds, source=replace(SCP, key=f"slice-{number}"))
    break_in_a_slice(door, "last", sent[-1])
    if again:
        whole(door, sent[-1], source=replace(SCP, key="again"))
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == (("ready", 20) if again else ("refused", 19))


def test_half_a_series_that_looks_whole_waits_after_a_crash(tmp_path):
    """One association a slice, and the receiver is killed in the middle: the sender goes on."""
    door = Door(tmp_path, min_slices=5)
    sent = slices()
    for number, ds in enumerate(sent[:12]):
        whole(door, ds, source=replace(SCP, key=f"slice-{number}"))
    whole(door, *slices("2"), source=replace(SCP, key="another"))
    door.journal.close()
    again = Door(tmp_path, min_slices=5, hold_s=2.0)
    again.intake.recover()
    (ready,) = again.wait_for_scans()
    assert ready.animal == "M2"
    time.sleep(0.5)
    assert len(again.scans()) == 1
    for number, ds in enumerate(sent[12:]):
        whole(again, ds, source=replace(SCP, key=f"later-{number}"))
    row = again.wait_for_scans(2)[-1]
    assert (row.animal, row.version, row.state, len(row.files)) == ("M1", 1, "ready", COUNT)


def test_a_series_of_many_associations_is_not_lost_in_a_crash(tmp_path):
    """The receiver was killed after its last slice: it is contoured after hold_s."""
    door = Door(tmp_path)
    for number, ds in enumerate(slices()):
        whole(door, ds, source=replace(SCP, key=f"slice-{number}"))
    door.journal.close()
    again = Door(tmp_path, hold_s=0.4)
    began_s = time.monotonic()
    again.intake.recover()
    (row,) = again.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    assert time.monotonic() - began_s >= 0.4


def test_a_slice_that_the_spool_has_lost_is_written_again(door, caplog):
    """An antivirus program took one file and damaged another; the series is sent again."""
    whole(door, *slices())
    (row,) = door.wait_for_scans()
    before = {path: path.read_bytes() for path in door.files()}
    gone, damaged, *_ = before
    gone.unlink()
    damaged.write_bytes(before[damaged][:-2] + b"xx")
    whole(door, *slices())
    assert {path: path.read_bytes() for path in door.files()} == before
    settled(door)
    assert [each.id for each in door.journal.scans()] == [row.id]
    said = [each.getMessage() for each in caplog.records if "antivirus" in each.getMessage()]
    assert len(said) == 2
    assert all(any(path.name in line for line in said) for path in (gone, damaged))


def test_what_an_incomplete_series_waits_for_is_said_at_once(tmp_path, caplog):
    """Twenty slices of forty have come and the association is released: half a minute to wait."""
    caplog.set_level(logging.INFO)
    door = Door(tmp_path)
    sent = slices()
    for ds in sent:
        ds.ImagesInAcquisition = 40
    assert set(door.send(sent)) == {SUCCESS}
    (open_still,) = door.intake.receiving()
    assert (open_still.waits_for, open_still.until_utc) == ("the end of its association", "")
    door.intake.association_ended(SCP.key, aborted=False)
    time.sleep(SCP.settle_s + 0.05)
    (shown, *_) = [each for _ in range(3) for each in door.intake.receiving()]
    assert (shown.animal, shown.sender, shown.slices, shown.expected) == ("M1", SCP.sender, 20, 40)
    assert shown.waits_for == "40 slices, which its headers announce"
    left_s = datetime.fromisoformat(shown.until_utc).timestamp() - time.time()
    assert 25.0 < left_s < 31.0
    (line,) = [each.getMessage() for each in caplog.records if "have come" in each.getMessage()]
    assert line.startswith(f"animal M1 from {SCP.sender}: 20 slices have come; limn waits for 40")


def test_a_wait_by_the_pace_is_logged_once(tmp_path, caplog):
    """An association for each slice: only its pace says that a pause is not the end."""
    caplog.set_level(logging.INFO)
    door = Door(tmp_path)
    for number, ds in enumerate(slices()):
        whole(door, ds, source=replace(SCP, key=f"slice-{number}"))
    for _ in range(2):
        time.sleep(1.5 * SCP.settle_s)
        (shown,) = door.intake.receiving()
    assert shown.waits_for == "more slices, by its pace so far"
    (line,) = [each.getMessage() for each in caplog.records if "by its pace" in each.getMessage()]
    assert line.endswith("if nothing more comes (settle.settle_s)")


def test_the_file_of_what_comes_in_is_written_on_a_change_alone(tmp_path, door):
    """Once a second at most, and empty when nothing comes in any more; the engine is woken once."""
    woken = []
    file = ReceivingFile(tmp_path / "receiving.json", door.intake.begun, lambda: woken.append(1))
    file.update(door.intake.receiving())
    door.send(slices()[:3])
    file.update(door.intake.receiving())
    door.send(slices()[3:])
    for _ in range(3):
        file.update(door.intake.receiving())
    before = file.path.stat()
    file.update(door.intake.receiving())
    assert file.path.stat().st_ino == before.st_ino
    (series,) = read_receiving(file.path, time.time())
    assert series.slices == COUNT
    assert woken == [1]
    whole(door)
    door.wait_for_scans()
    file.update(door.intake.receiving())
    assert read_receiving(file.path, time.time()) == []


def test_a_series_that_comes_again_is_offered_again_for_each_of_its_animals(door, caplog):
    """The planning system lost both; that of an animal that is held stays."""
    caplog.set_level(logging.INFO)
    whole(door, *slices())
    (row,) = door.wait_for_scans()
    second, third = door.journal.add_animals(row.id, [2, 3], ["tps"])
    for scan, held in ((row, None), (second, None), (third, "mirrored")):
        contoured(door, scan.id, held)
    whole(door, *slices(), source=replace(SCP, key="again"))
    settled(door)
    states = {
        scan.name: [each.state for each in door.journal.deliveries(scan.id)]
        for scan in door.journal.scans()
    }
    assert states == {
        "scan-00001": ["waiting"],
        "scan-00002": ["waiting"],
        "scan-00003": ["held"],
    }


def test_an_offer_that_fails_is_made_later(door, monkeypatch):
    """The disk is full when a series has come again: it is offered once there is room."""
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door)
    resend, tries = door.journal.resend, []

    def full(*arguments: object) -> list[str]:
        tries.append(arguments)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        return resend(*arguments)

    monkeypatch.setattr(door.journal, "resend", full)
    whole(door, *slices())
    settled(door)
    assert len(tries) == 2
    assert [d.state for d in door.journal.deliveries(1)] == ["waiting"]


def test_an_identical_resend_is_offered_again(door, caplog):
    """A user who sends a scan again wants its contours again: the same ones."""
    caplog.set_level(logging.INFO)
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door)
    whole(door, *slices())
    settled(door)
    (delivery,) = door.journal.deliveries(1)
    assert (delivery.state, delivery.accepted_at) == ("waiting", 2.0)
    assert len(door.journal.scans()) == 1
    assert "no second structure set; that of scan-00001 is offered again to tps" in caplog.text


def test_a_resend_offers_again_to_a_peer_that_refused(door):
    """The delivery was refused with 0xA900; the resend offers it again."""
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door)
    door.journal.refused(door.journal.deliveries(1)[0].id, "0xA900")
    whole(door, *slices())
    settled(door)
    assert [d.state for d in door.journal.deliveries(1)] == ["waiting"]


def test_a_resend_never_goes_past_a_person(door, caplog):
    """A structure set that is held or discarded is not offered when its series comes again."""
    caplog.set_level(logging.INFO)
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door, held="mirrored image")
    for state in ("held", "discarded"):
        whole(door, *slices())
        settled(door)
        assert [d.state for d in door.journal.deliveries(1)] == [state]
        door.journal.discard(1, "wrong export", 3.0)
    assert "it waits, is held or was discarded" in caplog.text


def test_a_resend_is_offered_once_however_it_comes(door):
    """One association per slice, each long after the other, and the count in the header."""
    sent = slices()
    for ds in sent:
        ds.ImagesInAcquisition = COUNT
    whole(door, *sent)
    door.wait_for_scans()
    contoured(door)
    offered = []
    for number, ds in enumerate(sent):
        whole(door, ds, source=replace(SCP, key=f"slice-{number}"))
        settled(door)
        (delivery,) = door.journal.deliveries(1)
        offered.append(delivery.state == "waiting")
        if offered[-1]:
            door.journal.delivered(delivery.id, "0x0000", 3.0)
    assert offered == [False] * (COUNT - 1) + [True]


def test_a_resend_after_a_restart_is_offered_again(door, tmp_path):
    """Spool and journal know the series from before the restart."""
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door)
    door.journal.close()
    restarted = Door(tmp_path)
    restarted.intake.recover()
    whole(restarted, *slices())
    settled(restarted)
    assert [d.state for d in restarted.journal.deliveries(1)] == ["waiting"]
    assert len(restarted.journal.scans()) == 1


def test_a_resend_of_what_failed_says_what_to_do(door, caplog):
    """The same input fails the same way; an operator decides."""
    caplog.set_level(logging.INFO)
    whole(door, *slices())
    door.wait_for_scans()
    door.journal.end(1, "failed", "no organ", {})
    whole(door, *slices())
    settled(door)
    assert "scan-00001 was failed, `limn retry` runs it again" in caplog.text


def recomputed(suffix: str) -> list[FileDataset]:
    """The same series reconstructed again: other pixels and SOP Instance UIDs, same positions."""
    made = slices()
    for ds in made:
        ds.SOPInstanceUID = UID(f"{ds.SOPInstanceUID}.{suffix}")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.PixelData = bytes(reversed(ds.PixelData))
    return made


@pytest.mark.parametrize("restart", [False, True])
def test_new_content_under_new_uids_is_a_version(door, tmp_path, restart):
    """It replaces the old slices and is not mixed with them; both are kept."""
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door)
    if restart:
        door.journal.close()
        door = Door(tmp_path)
        door.intake.recover()
    whole(door, *recomputed("7"))
    _, second = door.wait_for_scans(2)
    assert (second.state, second.version, second.predecessor) == ("ready", 2, 1)
    new = {door.spool.file_name(str(ds.SOPInstanceUID)) for ds in recomputed("7")}
    assert set(second.files) == new
    assert len(door.files()) == 2 * COUNT
    # Each version is sent again: only the newest is offered again.
    contoured(door, 2)
    whole(door, *recomputed("7"))
    settled(door)
    whole(door, *slices())
    settled(door)
    assert [d.state for n in (1, 2) for d in door.journal.deliveries(n)] == ["delivered", "waiting"]
    # A late slice belongs to the newest.
    (late,) = recomputed("7")[-1:]
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = UID("2.25.88.999")
    late.ImagePositionPatient = [1.0, 2.0, 0.2 * COUNT]
    whole(door, late)
    third = door.wait_for_scans(3)[-1]
    assert (third.version, len(third.files)) == (3, COUNT + 1)
    assert new < set(third.files)


def test_new_content_that_came_half_is_a_version_once_it_is_whole(tmp_path):
    """Half of it beside the old slices can't be contoured; sent as a whole it can."""
    door = Door(tmp_path, hold_s=0.1)
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door)
    whole(door, *recomputed("7")[:7])
    half = door.wait_for_scans(2)[-1]
    door.journal.end(half.id, "refused", "two slices in one place", {})
    whole(door, *recomputed("7"))
    last = door.wait_for_scans(3)[-1]
    assert (last.state, last.version, len(last.files)) == ("ready", 3, COUNT)


def test_changed_content_under_old_uids_is_refused_and_offers_nothing(door):
    """Every slice gets 0x0111; the first content stays, and nothing is offered again."""
    whole(door, *slices())
    door.wait_for_scans()
    contoured(door)
    changed = slices()
    for ds in changed:
        ds.PixelData = bytes(reversed(ds.PixelData))
    assert set(door.send(changed)) == {DUPLICATE}
    door.intake.association_ended(SCP.key, aborted=False)
    settled(door)
    assert len(door.journal.scans()) == 1
    assert [d.state for d in door.journal.deliveries(1)] == ["delivered"]


@pytest.mark.parametrize(
    ("syntax", "at_once"), [("deflated", 1), ("many elements", 1), ("native", 4)]
)
def test_one_that_swells_is_read_at_a_time(tmp_path, syntax, at_once):
    """Deflated or with many elements: small on the wire, large in memory; no other one waits."""
    inside, most, all_in = [], [], threading.Barrier(at_once)

    def slow(contents):
        inside.append(contents)
        most.append(len(inside))
        all_in.wait(10)
        time.sleep(0.05)
        found = inspect(contents)
        inside.remove(contents)
        return found

    door = Door(tmp_path, read=slow)
    contents = []
    for ds in slices(count=4):
        if syntax == "deflated":
            ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        if syntax == "many elements":
            for number in range(FEW_ELEMENTS):
                ds.add_new(0x00110000 + 0x1000 + number, "LO", "")
        contents.append(encoded(ds))
    with ThreadPoolExecutor(4) as senders:
        answers = list(senders.map(lambda each: door.intake.accept(each, SCP).status, contents))
    assert answers == [0, 0, 0, 0]
    assert max(most) == at_once


def test_very_many_series_hold_up_no_association(tmp_path, monkeypatch):
    """A look at them all takes longer than a slice may wait; each has its turn all the same."""
    door = Door(tmp_path, hold_s=0.2, min_slices=1)
    for number in range(30):
        door.send(slices(str(number), 2))
    door.intake.association_ended(SCP.key, aborted=False)
    looks = []
    settled = Settling.settled

    def slow(self, gathering, now_s):
        looks.append(gathering.series_instance_uid)
        time.sleep(0.01)
        return settled(self, gathering, now_s)

    monkeypatch.setattr(Settling, "settled", slow)
    door.intake.settle()
    assert len(looks) < 10
    until(lambda: door.intake.settle() == 0)
    assert len(door.scans()) == 30


@pytest.mark.parametrize("damaged", [False, True])
def test_a_slot_takes_the_place_of_a_file_that_is_damaged(tmp_path, damaged):
    """A power cut left the slice whole in its slot, and a file of its name in the series."""
    door = Door(tmp_path)
    sent = slices()
    for ds in sent:
        door.send([ds])
    uids = sent[3].SeriesInstanceUID, sent[3].SOPInstanceUID
    placed = door.spool.folder(uids[0]) / door.spool.file_name(uids[1])
    whole = placed.read_bytes()
    (door.spool.root / ".slots" / "left").write_bytes(whole)
    placed.write_bytes(whole[:300] if damaged else whole)
    door.journal.close()
    again = Door(tmp_path)
    again.intake.recover()
    assert placed.read_bytes() == whole
    assert not (again.spool.root / ".slots" / "left").exists()
