import io
import logging
import os
import socket
import subprocess
import time

import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000MC,
    MPEG2MPML,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, StoragePresentationContexts
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind, Verification

from limn.dicom.series import CT_CLASSES
from limn.dicom.volume import TRANSFER_SYNTAXES
from limn.node.config import Receive
from limn.node.receive.storage_scp import listen
from tests.conftest import free_port, require_peer
from tests.support.node.parts import (
    COUNT,
    SCP,
    Door,
    arrived,
    encoded,
    only_sends,
    running,
    slices,
    stop,
    structure_set,
    until,
    write_slices,
)

QUICK = os.environ | {"TCP_NODELAY": "1"}


class Listening:
    """A receiver on loopback."""

    def __init__(self, door: Door, **settings: object) -> None:
        self.door = door
        self.port = free_port()
        values = {"port": self.port, "min_free_mb": 0} | settings
        self.server = listen(Receive.model_validate(values), door.intake, 0.05)

    def associate(
        self,
        *contexts: tuple[str, list[str] | None],
        calling: str = "SCANNER",
        called: str = "LIMN",
    ) -> Association:
        """An association that proposes these contexts."""
        ae = AE(ae_title=calling)
        for sop_class, syntaxes in contexts or [(CTImageStorage, [ExplicitVRLittleEndian])]:
            ae.add_requested_context(sop_class, syntaxes or [ImplicitVRLittleEndian])
        return only_sends(ae.associate("127.0.0.1", self.port, ae_title=called))


@pytest.fixture
def receiver(tmp_path):
    """A receiver with a short settle_s."""
    listening = Listening(Door(tmp_path, hold_s=0.4))
    yield listening
    stop(listening.server)


def accepted(association: Association) -> set[tuple[str, str]]:
    """Presentation contexts that the receiver accepted."""
    return {
        (str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in association.accepted_contexts
    }


def test_an_echo_is_answered(receiver):
    """C-ECHO from pynetdicom gets Success."""
    association = receiver.associate((Verification, None))
    assert association.send_c_echo().Status == 0
    association.release()


def test_an_association_counts_from_its_request_and_a_slice_from_its_first_byte(receiver):
    """Between its opening and its first slice it may feed any series of its sender."""
    openings = receiver.door.intake.associations.openings
    began = []
    accept = receiver.door.intake.accept

    def look(contents, source):
        began.extend(openings(source.sender))
        return accept(contents, source)

    receiver.door.intake.accept = look
    association = receiver.associate()
    (opening,) = openings("SCANNER@127.0.0.1")
    assert not opening.receiving
    assert association.send_c_store(slices()[0]).Status == 0
    assert [each.receiving for each in began] == [True]
    assert openings("SCANNER@127.0.0.1") == ()
    association.release()
    until(lambda: not receiver.door.intake.associations._open)


def send_part(association: Association, ds: Dataset) -> None:
    """Send the command and the first 700 bytes of one slice."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = ds.SOPClassUID
    request.AffectedSOPInstanceUID = ds.SOPInstanceUID
    request.DataSet = io.BytesIO(encode(ds, is_implicit_vr=False, is_little_endian=True))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    (context,) = association.accepted_contexts
    for part in [*message.encode_msg(context.context_id, 700)][:2]:
        association.dul.send_pdu(part)


def test_the_part_of_a_slice_says_which_series_is_short_of_it(receiver):
    """One association a slice; the line of the last breaks in its middle, before any answer."""
    *sent, last = slices(count=COUNT + 1)
    for ds in sent:
        association = receiver.associate()
        assert association.send_c_store(ds).Status == 0
        association.release()
    association = receiver.associate()
    send_part(association, last)
    (each,) = receiver.door.intake.associations._open.values()
    until(lambda: each.lost() == (last.SeriesInstanceUID, last.SOPInstanceUID))
    association.abort()
    (row,) = receiver.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("refused", COUNT)


def test_a_slow_disk_and_an_association_for_each_slice_make_one_scan(tmp_path, monkeypatch):
    """Each slice takes longer to disk than settle_s; no half of the series is whole meanwhile."""
    listening = Listening(Door(tmp_path, min_slices=5))
    write = listening.door.intake._slots.write
    monkeypatch.setattr(
        listening.door.intake._slots, "write", lambda contents: time.sleep(0.07) or write(contents)
    )
    with running(listening.door.intake.run):
        for ds in slices(count=12):
            association = listening.associate()
            assert association.send_c_store(ds).Status == 0
            association.release()
        (row,) = listening.door.wait_for_scans()
    assert (row.version, len(row.files)) == (1, 12)
    stop(listening.server)


@pytest.mark.peer
def test_echoscu(receiver):
    """C-ECHO from dcmtk gets Success."""
    echoscu = require_peer("/usr/bin/echoscu")
    done = subprocess.run(
        [echoscu, "-aec", "LIMN", "127.0.0.1", str(receiver.port)], env=QUICK, check=False
    )
    assert done.returncode == 0


def test_exactly_the_readable_contexts_are_accepted(receiver):
    """Every CT class in every syntax that decodes, C-ECHO, and not one context more."""
    offered = set()
    for syntax in ALL_TRANSFER_SYNTAXES:
        association = receiver.associate(
            *((sop_class, [syntax]) for sop_class in CT_CLASSES), (Verification, None)
        )
        offered |= accepted(association)
        association.release()
    expected = {(str(sop), str(syntax)) for sop in CT_CLASSES for syntax in TRANSFER_SYNTAXES}
    assert offered == expected | {(str(Verification), str(ImplicitVRLittleEndian))}


def test_every_other_storage_class_is_rejected(receiver):
    """Of all storage classes only CT is accepted: no PET, no MR, no secondary capture."""
    classes = {str(context.abstract_syntax) for context in StoragePresentationContexts}
    classes |= {
        str(uid)
        for uid in (
            PositronEmissionTomographyImageStorage,
            MRImageStorage,
            PatientRootQueryRetrieveInformationModelFind,
        )
    }
    others = sorted(classes - {*map(str, CT_CLASSES), str(RTStructureSetStorage)})
    assert len(others) > 50
    for start in range(0, len(others), 100):
        batch = others[start : start + 100]
        association = receiver.associate(
            (CTImageStorage, [ExplicitVRLittleEndian]), *((sop_class, None) for sop_class in batch)
        )
        assert accepted(association) == {(str(CTImageStorage), str(ExplicitVRLittleEndian))}
        association.release()


@pytest.mark.parametrize("syntax", [JPEG2000MC, MPEG2MPML, HTJ2KLossless])
def test_a_context_that_does_not_decode_is_rejected(receiver, syntax):
    """With nothing else proposed there is nothing to send."""
    association = receiver.associate((CTImageStorage, [syntax]))
    assert accepted(association) == set()
    assert [context.result for context in association.rejected_contexts] in ([4], [])
    association.abort()


def test_what_was_sent_is_on_disk(receiver):
    """Every data set in the spool equals the one that was sent, and its file meta fits."""
    sent = slices()
    association = receiver.associate()
    assert [association.send_c_store(ds).Status for ds in sent] == [0] * COUNT
    on_disk = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, receiver.door.files())}
    association.release()
    assert len(on_disk) == COUNT
    for ds in sent:
        stored = on_disk[ds.SOPInstanceUID]
        assert stored == ds
        assert stored.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert stored.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


def test_a_compressed_slice_is_kept_as_it_is(receiver):
    """RLE pixels are stored encoded and decode to what they were."""
    ds = slices()[0]
    pixels = ds.pixel_array.copy()
    ds.compress(RLELossless, generate_instance_uid=False)
    association = receiver.associate((CTImageStorage, [RLELossless]))
    assert association.send_c_store(pydicom.dcmread(io.BytesIO(encoded(ds)))).Status == 0
    association.release()
    (path,) = receiver.door.files()
    stored = pydicom.dcmread(path)
    assert stored.file_meta.TransferSyntaxUID == RLELossless
    assert stored.PixelData == ds.PixelData
    assert (stored.pixel_array == pixels).all()


def test_a_released_series_becomes_a_scan(receiver):
    """C-STORE, release, silence: one scan from this AE."""
    association = receiver.associate()
    for ds in slices():
        association.send_c_store(ds)
    assert receiver.door.scans() == []
    association.release()
    (row,) = receiver.door.wait_for_scans()
    assert (row.state, len(row.files), row.sender) == ("ready", COUNT, "SCANNER@127.0.0.1")


@pytest.mark.peer
@pytest.mark.parametrize(
    ("proposal", "syntax"),
    [
        ("-xe", ExplicitVRLittleEndian),
        ("-xi", ImplicitVRLittleEndian),
        ("-xd", DeflatedExplicitVRLittleEndian),
    ],
)
def test_storescu(receiver, tmp_path, proposal, syntax):
    """A series from dcmtk arrives whole, in every encoding that it proposes."""
    storescu = require_peer("/usr/bin/storescu")
    sent = slices()
    paths = write_slices(tmp_path / "sent", sent)
    subprocess.run(
        [storescu, proposal, "-aec", "LIMN", "127.0.0.1", str(receiver.port), *map(str, paths)],
        env=QUICK,
        check=True,
    )
    (row,) = receiver.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    on_disk = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, receiver.door.files())}
    assert {ds.file_meta.TransferSyntaxUID for ds in on_disk.values()} == {syntax}
    for ds in sent:
        stored = on_disk[ds.SOPInstanceUID]
        assert stored.ImagePositionPatient == ds.ImagePositionPatient
        assert (stored.pixel_array == ds.pixel_array).all()


@pytest.mark.peer
def test_storescu_with_an_mr_image(receiver, tmp_path):
    """The sender learns that no context was accepted, and nothing is stored."""
    storescu = require_peer("/usr/bin/storescu")
    ds = slices()[0]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    (path,) = write_slices(tmp_path / "sent", [ds])
    done = subprocess.run(
        [storescu, "-R", "127.0.0.1", str(receiver.port), str(path)], env=QUICK, check=False
    )
    assert done.returncode != 0
    assert receiver.door.files() == []


def test_structure_sets_that_come_in_are_kept_and_never_contoured(receiver, tmp_path, caplog):
    """Sent by dcmtk: limn's own, the planning system's edit of it, and one of another system."""
    caplog.set_level(logging.INFO)
    storescu = require_peer("/usr/bin/storescu")
    row = receiver.door.journal.insert(arrived(), ["tps"])
    assert row is not None
    own = structure_set(receiver.door.journal.structure_set_of(row.id).sop_instance_uid)
    edited = structure_set(str(own.SOPInstanceUID))
    edited.StructureSetLabel = "approved"
    paths = write_slices(tmp_path / "sent", [own, edited, structure_set("2.25.404"), own])
    before = receiver.door.journal.scans(), receiver.door.journal.deliveries(row.id)
    done = subprocess.run(
        [storescu, "-xi", "-aec", "LIMN", "127.0.0.1", str(receiver.port), *map(str, paths)],
        env=QUICK,
        check=False,
    )
    assert done.returncode == 0
    kept = sorted((tmp_path / "returned").iterdir())
    labels = [pydicom.dcmread(path).StructureSetLabel for path in kept]
    assert [path.name.rsplit("-", 1)[0] for path in kept] == ["foreign", "scan-00001", "scan-00001"]
    assert sorted(labels[1:]) == ["approved", "limn"]
    assert receiver.door.files() == []
    receiver.door.intake.settle()
    assert before == (receiver.door.journal.scans(), receiver.door.journal.deliveries(row.id))
    assert "scan-00001 animal M1: its structure set came back from" in caplog.text
    assert f"animal 'M1', from STORESCU@127.0.0.1; kept in {kept[0]}" in caplog.text


def test_a_structure_set_that_came_back_for_another_animal_is_named(receiver, tmp_path, caplog):
    """The UID is that of a scan's own, the PatientID is not: the log doesn't call it its own."""
    row = receiver.door.journal.insert(arrived(), ["tps"])
    assert row is not None
    ds = structure_set(receiver.door.journal.structure_set_of(row.id).sop_instance_uid)
    ds.PatientID = "M2"
    assert receiver.door.intake.keep_structure_set(encoded(ds), SCP).status == 0x0000
    (line,) = [each.getMessage() for each in caplog.records if "with the UID" in each.getMessage()]
    assert line.startswith("scan-00001 animal M1: a structure set with the UID of its own came")
    assert "for animal 'M2'" in line
    assert len(list((tmp_path / "returned").iterdir())) == 1


def test_a_preview_that_came_back_is_known_and_closes_no_scan(receiver, tmp_path, caplog):
    """The planning system forwards what it has: the scan still waits for its worker."""
    caplog.set_level(logging.INFO)
    journal = receiver.door.journal
    row = journal.insert(arrived(), ["tps"])
    assert row is not None
    preview = journal.begin_preview(row.id)
    assert preview is not None
    journal.preview_contoured(row.id, "/preview.dcm", ["tps"])
    before = journal.scans(), journal.deliveries(row.id), journal.preview_deliveries(row.id)
    contents = encoded(structure_set(preview.sop_instance_uid))
    assert receiver.door.intake.keep_structure_set(contents, SCP).status == 0x0000
    assert "scan-00001 animal M1: its PREVIEW came back from" in caplog.text
    (kept,) = (tmp_path / "returned").iterdir()
    assert kept.name.startswith("scan-00001-")
    after = journal.scans(), journal.deliveries(row.id), journal.preview_deliveries(row.id)
    assert after == before


def test_a_structure_set_of_many_megabytes_is_kept(receiver, tmp_path):
    """Thirty organs on four hundred slices: a refusal would be tried again for ever."""
    ds = structure_set("2.25.405")
    contour = pydicom.Dataset()
    text = "\\".join(["-12.3456"] * 900_000)
    contour[0x30060050] = DataElement(0x30060050, "DS", text, already_converted=True)
    roi = pydicom.Dataset()
    roi.ContourSequence = [contour]
    ds.ROIContourSequence = [roi]
    assert receiver.door.intake.keep_structure_set(encoded(ds), SCP).status == 0x0000
    (path,) = (tmp_path / "returned").iterdir()
    assert path.stat().st_size > 8_000_000


def test_what_only_claims_to_be_a_structure_set_is_not_kept(receiver, tmp_path):
    """Other content under the class of a structure set: 0xC000; a full disk: 0xA700."""
    association = receiver.associate((RTStructureSetStorage, [ImplicitVRLittleEndian]))
    good, bad = structure_set(), structure_set()
    bad.SOPClassUID = MRImageStorage
    assert association.send_c_store(good).Status == 0x0000
    association.release()
    keep = receiver.door.intake.keep_structure_set
    assert keep(encoded(bad), SCP).status == 0xC000
    assert keep(b"not DICOM at all", SCP).status == 0xC000
    full = Door(tmp_path / "full", min_free_bytes=2**62)
    assert full.intake.keep_structure_set(encoded(good), SCP).status == 0xA700
    assert not (tmp_path / "full" / "returned").exists()


def test_an_aborted_series_waits_and_is_refused(receiver):
    """A-ABORT halfway: the slices are uniform, but never contoured."""
    association = receiver.associate()
    for ds in slices(count=40)[:25]:
        association.send_c_store(ds)
    started_s = time.monotonic()
    association.abort()
    (row,) = receiver.door.wait_for_scans()
    assert row.state == "refused"
    assert "after 25 slices" in row.reason
    assert time.monotonic() - started_s >= 0.4


def test_a_connection_cut_without_abort_is_refused_too(receiver):
    """The cable is pulled out: the socket closes without a release."""
    association = receiver.associate()
    for ds in slices(count=40)[:25]:
        association.send_c_store(ds)
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    (row,) = receiver.door.wait_for_scans()
    assert row.state == "refused"
    assert "after 25 slices" in row.reason


def test_a_sender_that_never_releases_is_named(tmp_path, caplog):
    """Every slice came, then nothing: the log says who kept its association, and how long."""
    receiver = Listening(Door(tmp_path, hold_s=0.3), idle_s=0.4)
    with running(receiver.door.intake.run):
        association = receiver.associate()
        for ds in slices():
            association.send_c_store(ds)
        (row,) = receiver.door.wait_for_scans()
    receiver.server.shutdown()
    assert (row.state, len(row.files)) == ("refused", COUNT)
    until(lambda: "was not released" in caplog.text)
    assert "SCANNER@127.0.0.1 aborted: nothing came for 0.4 s (receive.idle_s)" in caplog.text


def test_a_resend_after_an_abort_is_contoured(receiver):
    """The scanner sends everything again at once: one scan."""
    sent = slices()
    association = receiver.associate()
    for ds in sent[:12]:
        association.send_c_store(ds)
    association.abort()
    again = receiver.associate()
    assert {again.send_c_store(ds).Status for ds in sent} == {0}
    again.release()
    (row,) = receiver.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def _with_no_room(receiver, association, datasets):
    """Send these while the disk is full; then there is room again."""
    receiver.door.fill_up()
    assert {association.send_c_store(ds).Status for ds in datasets} == {0xA700}
    object.__setattr__(receiver.door.spool, "min_free_bytes", 0)


def test_a_series_of_which_slices_were_refused_is_not_complete(receiver, caplog):
    """The sender releases in spite of 0xA700 and never sends again: the series is refused."""
    sent = slices(count=40)
    association = receiver.associate()
    assert {association.send_c_store(ds).Status for ds in sent[:25]} == {0}
    _with_no_room(receiver, association, sent[25:])
    started_s = time.monotonic()
    association.release()
    (row,) = receiver.door.wait_for_scans()
    assert row.state == "refused"
    assert "after 25 slices, or others were not taken" in row.reason
    assert time.monotonic() - started_s >= 0.4
    assert "limn has not taken 15 of its instances" in caplog.text


def test_nor_is_one_whose_first_slices_were_refused(receiver):
    """The disk has room again in the middle of the series."""
    sent = slices(count=40)
    association = receiver.associate()
    _with_no_room(receiver, association, sent[:15])
    assert {association.send_c_store(ds).Status for ds in sent[15:]} == {0}
    association.release()
    assert receiver.door.wait_for_scans()[0].state == "refused"


def test_nor_one_with_a_damaged_slice(receiver):
    """0xC000 for one whose header can't be read, and dcmtk's storescu releases after it."""
    sent = slices(count=21)
    del sent[-1].SeriesInstanceUID
    association = receiver.associate()
    assert [association.send_c_store(ds).Status for ds in sent][-2:] == [0x0000, 0xC000]
    association.release()
    assert receiver.door.wait_for_scans()[0].state == "refused"


def test_nor_one_at_which_limn_itself_failed(receiver, monkeypatch):
    """The handler raises, as in a receiver that stops, and pynetdicom answers 0xC211."""
    sent = slices(count=21)
    accept = receiver.door.intake.accept

    def failing(contents, source, arrived_s=None):
        if len(receiver.door.files()) == COUNT:
            raise RuntimeError("no threads any more")
        return accept(contents, source, arrived_s)

    monkeypatch.setattr(receiver.door.intake, "accept", failing)
    association = receiver.associate()
    assert [association.send_c_store(ds).Status for ds in sent][-2:] == [0x0000, 0xC211]
    association.release()
    assert receiver.door.wait_for_scans()[0].state == "refused"


def test_a_refused_slice_that_is_sent_again_completes_its_series(receiver):
    """Over the same association, or over another."""
    for number, same in (("1", True), ("2", False)):
        sent = slices(number)
        association = receiver.associate()
        assert {association.send_c_store(ds).Status for ds in sent[:12]} == {0}
        _with_no_room(receiver, association, sent[12:])
        if not same:
            association.release()
            association = receiver.associate()
        assert {association.send_c_store(ds).Status for ds in sent[12:]} == {0}
        association.release()
    rows = receiver.door.wait_for_scans(2)
    assert [(row.state, len(row.files)) for row in rows] == [("ready", COUNT)] * 2


def test_a_release_counts_although_the_connection_is_closed_at_once(receiver, monkeypatch):
    """A busy machine handles the release after the sender has gone: the series is whole."""
    send_release = ACSE.send_release

    def then_sleep(self, *given, **named):
        send_release(self, *given, **named)
        if named.get("is_response"):
            time.sleep(0.3)

    monkeypatch.setattr(ACSE, "send_release", then_sleep)
    association = receiver.associate()
    for ds in slices():
        assert association.send_c_store(ds).Status == 0
    association.release()
    (row,) = receiver.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_slice_for_every_association(receiver):
    """Some scanners open one association per slice."""
    for ds in slices():
        association = receiver.associate()
        assert association.send_c_store(ds).Status == 0
        association.release()
    (row,) = receiver.door.wait_for_scans()
    assert len(row.files) == COUNT


def test_the_sender_gets_a_status_and_the_log_the_reason(receiver, caplog):
    """An unusable instance gets 0xC000, a changed one 0x0111; the log says why."""
    good, changed, bad = slices()[0], slices()[0], slices()[1]
    changed.PixelData = bytes(len(changed.PixelData))
    del bad.SeriesInstanceUID
    association = receiver.associate()
    assert [association.send_c_store(ds).Status for ds in (good, changed, bad)] == [
        0x0000,
        0x0111,
        0xC000,
    ]
    association.release()
    assert "SeriesInstanceUID" in caplog.text
    assert "came before with other content" in caplog.text
    assert "SCANNER@127.0.0.1" in caplog.text


def test_a_fault_of_many_slices_is_told_once_with_the_count(receiver, caplog):
    """Every slice of an association has the same; the last line counts them."""
    sent = slices()
    association = receiver.associate()
    with caplog.at_level(logging.ERROR):
        for ds in sent:
            ds["FloatPixelData"] = DataElement(0x7FE00008, "OF", b"\0" * 4 * ds.Rows * ds.Columns)
            del ds.PixelData
            assert association.send_c_store(ds).Status == 0xC000
        association.release()
        until(lambda: "of one association of" in caplog.text)
    lines = [line for line in caplog.messages if "float" in line.lower()]
    assert len(lines) == 2
    assert lines[1].startswith(f"{COUNT} instances of one association of SCANNER@127.0.0.1")


def test_slices_that_are_a_series_each_are_told_once_with_the_count(receiver, caplog):
    """Some exporters give each slice a SeriesInstanceUID of its own."""
    sent = slices()
    for number, ds in enumerate(sent):
        ds.SeriesInstanceUID = f"2.25.77.{number}"
    association = receiver.associate()
    with caplog.at_level(logging.ERROR):
        assert [association.send_c_store(ds).Status for ds in sent] == [0] * COUNT
        association.release()
        rows = receiver.door.wait_for_scans(COUNT)
    assert {row.reason for row in rows} == {
        f"its study has {COUNT} series of one slice each: the exporter gives each slice a "
        "SeriesInstanceUID of its own; export the scan as one series"
    }
    assert len([line for line in caplog.messages if "series of one slice each" in line]) == 1


def test_a_full_disk_is_answered_out_of_resources(tmp_path):
    """The disk fills while an association is open: 0xA700, and new ones that store are rejected."""
    receiver = Listening(Door(tmp_path))
    association = receiver.associate()
    first, second = slices()[:2]
    assert association.send_c_store(first).Status == 0
    receiver.door.fill_up()
    assert association.send_c_store(second).Status == 0xA700
    association.release()
    late = receiver.associate()
    assert late.is_rejected
    # Transient, by the provider, temporary congestion (PS3.8 table 9-21).
    rejected = late.acceptor.primitive
    assert (rejected.result, rejected.result_source, rejected.diagnostic) == (2, 3, 1)
    echo = receiver.associate((Verification, None))
    assert echo.send_c_echo().Status == 0
    echo.release()
    stop(receiver.server)
    assert len(receiver.door.files()) == 1


def test_two_scanners_at_once(receiver):
    """Two animals over two associations, interleaved: two scans."""
    first, second = receiver.associate(), receiver.associate()
    for one, other in zip(slices("1"), slices("2"), strict=True):
        assert first.send_c_store(one).Status == 0
        assert second.send_c_store(other).Status == 0
    first.release()
    second.release()
    rows = receiver.door.wait_for_scans(2)
    assert sorted(row.animal for row in rows) == ["M1", "M2"]


def test_only_loopback_listens_by_default(receiver):
    """Another address of this machine finds the port closed."""
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        own = "127.0.0.2"
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex((own, receiver.port)) != 0


def test_garbage_on_the_port_does_no_harm(receiver):
    """An HTTP client is disconnected, and the next association works."""
    with socket.create_connection(("127.0.0.1", receiver.port)) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: limn\r\n\r\n")
    until(lambda: receiver.associate((Verification, None)).is_established)
