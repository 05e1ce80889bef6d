"""A CT series that limn made goes before its structure set, once; a SEG goes after it."""

import time
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import CTImageStorage, RTStructureSetStorage, SegmentationStorage

from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver import companions
from limn.node.deliver.courier import Courier
from limn.node.operate.queue import unfinished_scans
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.disk.spool import FORMS_DIR, MADE
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from tests.support.node.parts import Archive, arrived, encoded, peer, slices, structure_set

ALL = (RTStructureSetStorage, CTImageStorage, SegmentationStorage)
COUNT = 5


class Desk:
    """A journal with contoured scans, whose CT series limn made, and a courier."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.sqlite")

    def contoured(self, number: str = "1", *, made: bool = True, seg: bool = True) -> ScanRow:
        """A scan with its slices in the spool, structure set and segmentation on disk."""
        spool = self.folder / "spool" / number
        spool.mkdir(parents=True)
        series = slices(number, COUNT)
        # Names in the spool are hashes: they say nothing of the order.
        names = [f"{(7 * k) % COUNT:x}.dcm" for k in range(COUNT)]
        for name, ds in zip(names, series, strict=True):
            (spool / name).write_bytes(encoded(ds))
        if made:
            (spool / MADE).touch()
        uid = str(series[0].SeriesInstanceUID)
        values = {"series_instance_uid": uid, "input_digest": number, "folder": str(spool)}
        values |= {"last_slice_at": time.time() - 5.0, "files": tuple(sorted(names))}
        row = self.journal.insert(arrived(**values), ("tps",))
        assert row is not None
        own = self.journal.structure_set_of(row.id).sop_instance_uid
        results = self.folder / "scans" / row.name
        (results / FORMS_DIR).mkdir(parents=True)
        path = results / f"RS.{own}.dcm"
        path.write_bytes(encoded(structure_set(own)))
        if seg:
            ds = structure_set(f"{own}.5")
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SegmentationStorage
            ds.Modality = "SEG"
            (results / FORMS_DIR / "SEG.dcm").write_bytes(encoded(ds))
        self.journal.contoured(row.id, str(path), {"contoured_at": time.time() - 0.1})
        return self.journal.scan(row.id)

    def courier(self, port: int, **settings: object) -> Courier:
        """A courier to a planning system that wants a segmentation."""
        values = {"kind": "dicom", "name": "tps", "ae_title": "TPS", "host": "127.0.0.1"}
        values |= {"port": port, "forms": ("seg",)} | settings
        return self.of(DicomDestination(**values))

    def of(self, destination: DicomDestination | FolderDestination) -> Courier:
        """A courier to any destination."""
        log = self.folder / "scans.csv"
        return Courier(
            destination,
            self.journal,
            log,
            "LIMN",
            keeps_scan_log=True,
            contacts=DestinationContacts(log.with_name("destinations.json")),
        )

    def states(self, row: ScanRow) -> tuple[list[str], list[str]]:
        """How far structure set and segmentation are."""
        return (
            [each.state for each in self.journal.deliveries(row.id)],
            [each.state for each in self.journal.companions(row.id)],
        )

    def needs(self, row: ScanRow) -> list[str]:
        """What `limn queue` shows of a scan."""
        config = self.folder / "limn.toml"
        entries = unfinished_scans(self.journal, NoConfig(self.folder), config, time.time())
        return [f"{each.state}: {each.reason}" for each in entries if each.scan == row.name]


class NoConfig:
    """What the queue asks of a config."""

    def __init__(self, folder: Path) -> None:
        self.running_path = folder / "running.json"


@pytest.fixture
def desk(tmp_path):
    """An empty journal."""
    return Desk(tmp_path)


def modalities(archive: Archive) -> list[str]:
    """What came, in this order."""
    return [str(ds.Modality) for ds in archive.taken]


def test_ct_then_structure_set_then_segmentation(desk):
    """In their order; each once, also if the structure set is offered again."""
    row = desk.contoured()
    archive = Archive()
    with peer(archive, classes=ALL) as port:
        courier = desk.courier(port)
        courier.work()
        courier.work()
        assert modalities(archive) == ["CT"] * COUNT + ["RTSTRUCT", "SEG"]
        assert [ds.InstanceNumber for ds in archive.taken[:COUNT]] == list(range(1, COUNT + 1))
        assert desk.states(row) == (["delivered"], ["delivered"])
        assert desk.journal.resend(row.id, ["tps"], time.time())
        desk.courier(port).work()
    # A person asked for it again: the contours go, and the CT is there already.
    assert modalities(archive)[COUNT + 2 :] == ["RTSTRUCT", "SEG"]
    assert desk.needs(row) == []


def test_a_series_that_a_scanner_sent_is_not_sent_on(desk):
    """The planning system has it from there; nor is one where the site says no."""
    desk.contoured("1", made=False)
    desk.contoured("2")
    archive = Archive()
    with peer(archive, classes=ALL) as port:
        desk.courier(port, send_images=False, forms=("rtstruct",)).work()
    assert modalities(archive) == ["RTSTRUCT"] * 2


def test_a_break_in_the_series_is_gone_on_with(desk, monkeypatch):
    """What the peer has taken is not sent again; the structure set waits for the rest."""
    monkeypatch.setattr("limn.node.deliver.courier.backoff_s", lambda _: 0.0)
    row = desk.contoured()
    archive = Archive(0x0000, 0x0000, 0xA700, 0x0000)
    with peer(archive, classes=ALL) as port:
        courier = desk.courier(port)
        courier.work()
        while len(archive.taken) < COUNT + 2:
            courier.work()
        courier.work()
    numbers = [ds.InstanceNumber for ds in archive.taken if ds.Modality == "CT"]
    assert numbers == [1, 2, 3, 3, 4, 5]
    assert modalities(archive)[-2:] == ["RTSTRUCT", "SEG"]
    assert desk.states(row) == (["delivered"], ["delivered"])


def test_without_its_ct_a_structure_set_does_not_go(desk):
    """A refusal of a slice is one of the delivery, and says so."""
    row = desk.contoured()
    archive = Archive(0x0000, 0xA900)
    with peer(archive, classes=ALL) as port:
        desk.courier(port).work()
    assert modalities(archive) == ["CT", "CT"]
    (delivery,) = desk.journal.deliveries(row.id)
    assert delivery.state == "refused"
    assert delivery.status == "0xA900 for slice 2 of 5 of the CT series"
    assert desk.journal.companions(row.id) == []


def test_a_peer_without_ct_is_named_and_waited_for(desk):
    """Nobody need act here once it accepts the class."""
    row = desk.contoured()
    with peer(Archive(), classes=(RTStructureSetStorage,)) as port:
        desk.courier(port).work()
    (delivery,) = desk.journal.deliveries(row.id)
    assert delivery.state == "waiting"
    assert "the CT series: TPS@127.0.0.1" in delivery.status
    assert "accepts no CT Image Storage" in delivery.status


def test_a_peer_without_segmentations_keeps_the_structure_set(desk, caplog):
    """It is told in words, and the scan counts as delivered."""
    row = desk.contoured()
    archive = Archive()
    with peer(archive, classes=ALL[:2]) as port:
        desk.courier(port).work()
    assert desk.states(row) == (["delivered"], ["refused"])
    (companion,) = desk.journal.companions(row.id)
    assert "accepts no Segmentation Storage" in companion.status
    assert "tps has the structure set, but not its SEG" in caplog.text
    (need,) = desk.needs(row)
    assert need.startswith("refused by peer: tps has the structure set, but not its SEG")
    assert (desk.folder / "scans.csv").read_text().count("delivered") == 1


@pytest.mark.parametrize("kill", [True, False])
def test_a_segmentation_waits_for_a_peer_that_went(desk, monkeypatch, kill):
    """After a kill too: it is due from the acceptance of the structure set on."""
    monkeypatch.setattr(companions, "backoff_s", lambda _: 0.0)
    row = desk.contoured()
    with peer(Archive(), classes=ALL) as port:
        if kill:
            monkeypatch.setattr(companions.Companions, "send_due_form", lambda _: False)
        else:
            monkeypatch.setattr(companions, "store", gone)
        with monkeypatch.context() as at_first:
            at_first.setattr(companions.Companions, "send_series", lambda *_: None)
            desk.courier(port).work()
    assert desk.states(row) == (["delivered"], ["waiting"])
    assert desk.needs(row) == ["delivering: SEG"]
    monkeypatch.undo()
    archive = Archive()
    with peer(archive, classes=ALL) as port:
        desk.courier(port).work()
    assert modalities(archive) == ["SEG"]
    assert desk.states(row) == (["delivered"], ["delivered"])


def gone(*_: object) -> None:
    """As `store` to a peer that is not there."""
    raise companions.PeerUnreachable("does not answer")


def test_a_surprise_with_a_segmentation_delays_no_structure_set(desk, monkeypatch, caplog):
    """It rests, is logged once, and the next scan goes."""
    desk.contoured("1")
    archive = Archive()

    def surprised(*_: object) -> None:
        raise LookupError("what is this")

    with peer(archive, classes=ALL) as port:
        courier = desk.courier(port)
        monkeypatch.setattr(companions, "store", surprised)
        monkeypatch.setattr(companions.Companions, "send_series", lambda *_: None)
        courier.work()
        other = desk.contoured("2")
        courier.work()
        courier.work()
    assert modalities(archive) == ["RTSTRUCT"] * 2
    assert desk.states(other) == (["delivered"], ["waiting"])
    assert caplog.text.count("a fault of limn (LookupError: what is this)") == 2


def test_a_segmentation_that_was_not_made_is_named(desk):
    """Nothing waits for ever."""
    row = desk.contoured(seg=False)
    with peer(Archive(), classes=ALL) as port:
        desk.courier(port).work()
    assert desk.states(row) == (["delivered"], ["refused"])
    assert "was not made (limn.log says why)" in desk.journal.companions(row.id)[0].status


def test_a_folder_gets_the_series_too(desk):
    """In a folder of its own, before the structure set; once."""
    row = desk.contoured()
    out = desk.folder / "out"
    desk.of(FolderDestination(kind="folder", name="tps", folder=out)).work()
    (series,) = out.glob("CT.*")
    assert series.name == f"CT.{row.series_instance_uid}"
    written = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    assert [ds.InstanceNumber for ds in written] == list(range(1, COUNT + 1))
    assert len(list(out.glob("RS.*"))) == 1
    for path in series.iterdir():
        path.unlink()
    assert desk.journal.resend(row.id, ["tps"], time.time())
    desk.of(FolderDestination(kind="folder", name="tps", folder=out)).work()
    assert list(series.iterdir()) == []


def test_a_form_that_is_asked_for_no_more_is_forgotten(desk):
    """The operator leaves "seg" out, as the reason of the refusal says, and sends it again."""
    row = desk.contoured()
    archive = Archive()
    with peer(archive, classes=ALL[:2]) as port:
        desk.courier(port).work()
        assert desk.states(row) == (["delivered"], ["refused"])
        desk.journal.resend(row.id, ["tps"], time.time())
        desk.courier(port, forms=()).work()
    assert desk.states(row) == (["delivered"], [])
    assert desk.needs(row) == []


@pytest.mark.parametrize(("wanted", "left"), [({"tps": ("seg",)}, 1), ({"tps": ()}, 0), ({}, 0)])
def test_a_start_forgets_what_the_config_no_longer_asks_for(desk, wanted, left):
    """A form that waits for a destination that has left the config would wait for ever."""
    row = desk.contoured()
    archive = Archive()
    with peer(archive, classes=ALL[:2]) as port:
        desk.courier(port).work()
    assert desk.journal.forget_unwanted(wanted) == 1 - left
    assert len(desk.states(row)[1]) == left


def test_a_preview_outlives_an_engine_that_ends_while_its_ct_goes(desk, monkeypatch):
    """It was not sent yet: after the start the series goes on, and the preview follows."""
    row = desk.contoured()
    desk.journal._db.execute("update scan set state = 'ready', record = '{}'")
    preview = desk.journal.begin_preview(row.id)
    path = desk.folder / "PREVIEW.dcm"
    path.write_bytes(encoded(structure_set(preview.sop_instance_uid)))
    assert desk.journal.preview_contoured(row.id, str(path), ["tps"])

    def killed(*_):
        raise KeyboardInterrupt

    archive = Archive()
    with peer(archive, classes=ALL) as port:
        with monkeypatch.context() as at_first:
            at_first.setattr(desk.journal, "series_sent", killed)
            with pytest.raises(KeyboardInterrupt):
                desk.courier(port, previews=True).work()
        desk.courier(port, previews=True).work()
    assert modalities(archive)[-1] == "RTSTRUCT"
    assert modalities(archive).count("RTSTRUCT") == 1
    assert str(archive.taken[-1].SOPInstanceUID) == preview.sop_instance_uid
    (delivery,) = desk.journal.preview_deliveries(row.id)
    assert delivery.state == "delivered"
