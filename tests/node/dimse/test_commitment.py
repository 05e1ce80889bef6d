"""Storage commitment both ways: limn as SCP of a scanner and SCU of an archive, and Orthanc."""

import errno
import io
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from limn.node.config import DicomDestination, Receive
from limn.node.deliver.commitment_scu import CommitmentRequester
from limn.node.deliver.courier import Courier
from limn.node.dimse.client import Peer, store
from limn.node.dimse.commitment import (
    WELL_KNOWN,
    Item,
    items_of,
    report_of,
    request_of,
    transaction_of,
)
from limn.node.dimse.server import Listener
from limn.node.receive import commitment_scp
from limn.node.receive.commitment_scp import CommitmentProvider
from limn.node.receive.storage_scp import listen
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.disk.spool import Spool
from tests.conftest import free_port
from tests.node.deliver.test_courier import Desk
from tests.support.node.parts import COUNT, SCP, Archive, Door, peer, slices, stop, until
from tests.support.node.running import Orthanc


def none_is_damaged(folder, names):
    """The spool is empty."""
    return set()


ABSENT = Item(CTImageStorage, "2.25.404")


class Node:
    """A receiver that offers commitment."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.door = Door(folder)
        self.port = free_port()
        values = {"port": self.port, "min_free_mb": 0, "idle_s": 20} | settings
        found = Receive.model_validate(values)
        self.destinations: list[DicomDestination] = []
        provider = CommitmentProvider(
            self.door.spool, self.door.intake.damaged, found.commitment, "LIMN"
        )
        requester = CommitmentRequester(self.door.journal, self.destinations, "LIMN")
        self.server: Listener = listen(
            found, self.door.intake, 0.05, provider, requester.on_n_event_report
        )


@pytest.fixture
def node(tmp_path):
    """A node without commitment peers in its config."""
    made = Node(tmp_path / "node")
    yield made
    stop(made.server)


def keeping(reports: list[tuple[int, Dataset]]):
    """A handler that keeps every N-EVENT-REPORT."""

    def on_n_event_report(event: evt.Event) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information))
        return 0x0000, None

    return on_n_event_report


def request_commitment(
    port: int, items: list[Item], reports: list, *, stay: bool, action: int = 1
) -> int:
    """Request commitment as a scanner does; returns the status of N-ACTION."""
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(StorageCommitmentPushModel, [ImplicitVRLittleEndian])
    association = ae.associate(
        "127.0.0.1",
        port,
        ae_title="LIMN",
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, keeping(reports))],
    )
    status, _ = association.send_n_action(
        request_of(items, "2.25.7"), action, StorageCommitmentPushModel, WELL_KNOWN
    )
    if stay:
        until(lambda: reports)
        # The response to the report goes out after the handler.
        time.sleep(0.3)
    association.release()
    return int(status.Status)


def stored(door: Door) -> list[Item]:
    """Three slices that lie in the spool."""
    three = slices()[:3]
    assert door.send(three) == [0, 0, 0]
    return [Item(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in three]


def titles(event: evt.Event) -> str:
    """The calling AE title."""
    return str(event.assoc.requestor.primitive.calling_ae_title)


def test_stored_instances_are_committed_on_the_same_association(node):
    """All three: Event Type 1, the transaction's UID, nothing failed."""
    items, reports = stored(node.door), []
    assert request_commitment(node.port, items, reports, stay=True) == 0
    ((event_type, report),) = reports
    assert (event_type, report.TransactionUID) == (1, "2.25.7")
    assert items_of(report) == items
    assert "FailedSOPSequence" not in report


def test_other_instances_fail_with_their_reason(node):
    """One never came (0x0112), one is named with another class (0x0119)."""
    items, reports = stored(node.door), []
    mistaken = Item(RTStructureSetStorage, items[2].sop_instance_uid)
    assert request_commitment(node.port, [*items[:2], ABSENT, mistaken], reports, stay=True) == 0
    ((event_type, report),) = reports
    assert event_type == 2
    assert items_of(report) == items[:2]
    assert items_of(report, "FailedSOPSequence") == [ABSENT, mistaken]
    assert [each.FailureReason for each in report.FailedSOPSequence] == [0x0112, 0x0119]


def test_a_known_peer_gets_the_report_on_another_association(tmp_path):
    """It comes from limn to the port of the peer, with limn's title and the role of SCP."""
    reports: list[tuple[int, Dataset]] = []
    callers: list[str] = []
    port = free_port()
    ae = AE(ae_title="SCANNER")
    ae.add_supported_context(
        StorageCommitmentPushModel, [ImplicitVRLittleEndian], scu_role=True, scp_role=True
    )
    server = ae.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[
            (evt.EVT_N_EVENT_REPORT, keeping(reports)),
            (evt.EVT_REQUESTED, lambda e: callers.append(titles(e))),
        ],
    )
    known = {"ae_title": "SCANNER", "host": "127.0.0.1", "port": port}
    node = Node(tmp_path, commitment=[known])
    assert request_commitment(node.port, stored(node.door), reports, stay=False) == 0
    until(lambda: reports)
    assert reports[0][0] == 1
    assert callers == ["LIMN"]
    stop(node.server)
    stop(server)


def test_other_actions_are_refused(node):
    """No such action."""
    assert request_commitment(node.port, [ABSENT], [], stay=False, action=2) == 0x0123


def test_a_request_for_nothing_is_refused(node, caplog):
    """A request that names no instance gets 0x0115."""
    assert request_commitment(node.port, [], [], stay=False) == 0x0115
    assert "commitment request of SCANNER" in caplog.text
    assert "it names no instance" in caplog.text


class Keeper:
    """An archive that accepts everything, and keeps it from the n-th request on."""

    def __init__(self, *, keeps_from: int) -> None:
        self.archive = Archive(0x0000)
        self.keeps_from = keeps_from
        self.requests = 0

    def action(self, event: evt.Event) -> tuple[int, None]:
        """Report later, from a thread."""
        items = items_of(event.action_information)
        transaction = event.action_information.TransactionUID
        self.requests += 1
        kept = self.requests >= self.keeps_from
        event_type, report = report_of(
            transaction, items if kept else [], [] if kept else [(i, 0x0110) for i in items]
        )
        association = event.assoc

        def answer() -> None:
            time.sleep(0.1)
            association.send_n_event_report(
                report, event_type, StorageCommitmentPushModel, WELL_KNOWN
            )

        threading.Thread(target=answer).start()
        return 0x0000, None


def delivering(desk: Desk, port: int) -> tuple[Courier, DicomDestination]:
    """A courier that requests commitment."""
    destination = DicomDestination(
        kind="dicom", name="tps", ae_title="TPS", host="127.0.0.1", port=port, commitment=True
    )
    return Courier(
        destination,
        desk.journal,
        desk.log,
        "LIMN",
        keeps_scan_log=True,
        contacts=DestinationContacts(desk.log.with_name("destinations.json")),
    ), destination


def test_a_destination_that_commits_is_logged(tmp_path, caplog):
    """It is delivered at C-STORE; the commitment is one more line in the log."""
    caplog.set_level("INFO")
    desk, keeper = Desk(tmp_path), Keeper(keeps_from=1)
    row = desk.contoured()
    handlers = [(evt.EVT_N_ACTION, keeper.action)]
    classes = (RTStructureSetStorage, StorageCommitmentPushModel)
    with peer(keeper.archive, classes=classes, handlers=handlers) as port:
        courier, _ = delivering(desk, port)
        courier.work()
        (delivery,) = desk.journal.deliveries(row.id)
        assert delivery.state == "delivered"
        until(lambda: "tps has committed to it" in caplog.text)
    assert row.name in caplog.text


def test_a_destination_that_does_not_keep_it_gets_it_again(tmp_path, caplog):
    """A failed commitment opens the delivery again; the second time it is kept."""
    caplog.set_level("INFO")
    desk, keeper = Desk(tmp_path), Keeper(keeps_from=2)
    row = desk.contoured()
    handlers = [(evt.EVT_N_ACTION, keeper.action)]
    classes = (RTStructureSetStorage, StorageCommitmentPushModel)
    with peer(keeper.archive, classes=classes, handlers=handlers) as port:
        courier, _ = delivering(desk, port)
        courier.work()
        until(lambda: desk.journal.deliveries(row.id)[0].state == "waiting")
        assert "tps does NOT keep the structure set (0x0110)" in caplog.text
        courier.work()
        until(lambda: "tps has committed to it" in caplog.text)
    assert len(keeper.archive.taken) == 2
    assert len({ds.SOPInstanceUID for ds in keeper.archive.taken}) == 1
    assert desk.journal.deliveries(row.id)[0].state == "delivered"


def test_a_destination_that_never_keeps_it_is_left_to_a_person(tmp_path, caplog):
    """The number of repeated deliveries is limited."""
    desk = Desk(tmp_path)
    row = desk.contoured()
    (destination,) = [delivering(desk, 104)[1]]
    requester = CommitmentRequester(desk.journal, [destination], "LIMN")
    uid = desk.journal.structure_set_of(row.id).sop_instance_uid
    item = Item(RTStructureSetStorage, uid)
    for _ in range(4):
        (delivery,) = desk.journal.deliveries(row.id)
        desk.journal.delivered(delivery.id, "0x0000", time.time())
        requester.handle_report(
            "TPS", report_of(transaction_of(uid, "tps"), [], [(item, 0x0110)])[1]
        )
    assert desk.journal.deliveries(row.id)[0].state == "delivered"
    assert "took the structure set 4 times and does not keep it" in caplog.text


def test_a_forged_report_changes_nothing(tmp_path, caplog):
    """A report with another title, or of an unknown transaction."""
    desk = Desk(tmp_path)
    row = desk.contoured()
    requester = CommitmentRequester(desk.journal, [delivering(desk, 104)[1]], "LIMN")
    (delivery,) = desk.journal.deliveries(row.id)
    desk.journal.delivered(delivery.id, "0x0000", time.time())
    uid = desk.journal.structure_set_of(row.id).sop_instance_uid
    failed = [(Item(RTStructureSetStorage, uid), 0x0110)]
    requester.handle_report("OTHER", report_of(transaction_of(uid, "tps"), [], failed)[1])
    requester.handle_report("TPS", report_of("2.25.1", [], failed)[1])
    assert desk.journal.deliveries(row.id)[0].state == "delivered"
    assert caplog.text.count("nobody asked for") == 2


@pytest.mark.peer
def test_orthanc_as_scu_and_as_scp(tmp_path, caplog):
    """Orthanc requests commitment to CT, then commits to a structure set on its own association."""
    caplog.set_level("INFO")
    node_port = free_port()
    modality = {"AET": "LIMN", "Host": "127.0.0.1", "Port": node_port}
    modality["AllowStorageCommitment"] = True
    orthanc = Orthanc(tmp_path / "orthanc", DicomModalities={"limn": modality})
    try:
        known = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.port}
        node = Node(tmp_path / "node", port=node_port, commitment=[known])
        items = stored(node.door)
        body = {"DicomInstances": [[i.sop_class_uid, i.sop_instance_uid] for i in (*items, ABSENT)]}
        started = orthanc.post("/modalities/limn/storage-commitment", body)
        until(lambda: orthanc.get(f"/storage-commitment/{started['ID']}")["Status"] != "Pending")
        report = orthanc.get(f"/storage-commitment/{started['ID']}")
        assert report["Status"] == "Failure"
        assert sorted(each["SOPInstanceUID"] for each in report["Success"]) == sorted(
            item.sop_instance_uid for item in items
        )
        (failure,) = report["Failures"]
        assert failure["SOPInstanceUID"] == ABSENT.sop_instance_uid
        assert 0x0112 in failure.values(), failure

        desk = Desk(tmp_path)
        desk.journal = node.door.journal
        row = desk.contoured()
        destination = DicomDestination(
            kind="dicom",
            name="archive",
            ae_title="ORTHANC",
            host="127.0.0.1",
            port=orthanc.port,
            commitment=True,
        )
        # Orthanc reports on an association that it requests, so the receiver handles the report.
        requester = CommitmentRequester(desk.journal, [destination], "LIMN")
        node.server.bind(evt.EVT_N_EVENT_REPORT, requester.on_n_event_report)
        uid = desk.journal.structure_set_of(row.id).sop_instance_uid
        archive = Peer("ORTHANC", "127.0.0.1", orthanc.port, "LIMN")
        assert list(store(archive, _read(desk, uid))) == [0]
        requester.ask_soon("archive", Item(RTStructureSetStorage, uid))
        until(lambda: f"{row.name} animal M1: archive has committed to it" in caplog.text)
        stop(node.server)
    finally:
        orthanc.process.terminate()
        orthanc.process.wait()


def _read(desk: Desk, uid: str) -> list[Dataset]:
    return [pydicom.dcmread(desk.folder / f"RS.{uid}.dcm")]


def test_many_unknown_instances_are_looked_up_in_one_pass(tmp_path, monkeypatch):
    """Thousands of names in a spool of many series: each folder is read once, no file asked for."""
    door = Door(tmp_path)
    known = stored(door)
    for number in range(40):
        (door.spool.root / f"{number:064x}").mkdir()
    provider = CommitmentProvider(door.spool, door.intake.damaged, [], "LIMN")
    looks: list[str] = []
    exists, listdir = Path.exists, os.listdir
    monkeypatch.setattr(Path, "exists", lambda path: looks.append(str(path)) or exists(path))
    monkeypatch.setattr(os, "listdir", lambda path: looks.append(str(path)) or listdir(path))
    unknown = [Item(CTImageStorage, f"2.25.{number + 1000}") for number in range(5000)]
    committed, failed = provider._check([*unknown, *known])
    assert committed == known
    assert [item for item, _ in failed] == unknown
    assert len(looks) <= 50


@pytest.mark.parametrize("harm", ["cut", "zeros at its end"])
@pytest.mark.parametrize("state", ["coming in", "in the journal", "after a restart"])
def test_a_file_that_is_no_longer_whole_is_not_committed_to(tmp_path, harm, state):
    """The sender may delete its copy of what limn commits to."""
    door, sent = Door(tmp_path), slices()
    door.send(sent)
    if state != "coming in":
        door.intake.association_ended(SCP.key, aborted=False)
        door.wait_for_scans()
    if state == "after a restart":
        door.journal.close()
        door = Door(tmp_path)
        door.intake.recover()
    items = [Item(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in sent]
    provider = CommitmentProvider(door.spool, door.intake.damaged, [], "LIMN")
    assert provider._check(items) == (items, [])
    path = door.files()[0].parent / door.spool.file_name(items[3].sop_instance_uid)
    contents = path.read_bytes()
    path.write_bytes(
        contents[: len(contents) // 2] if harm == "cut" else contents[:-20] + bytes(20)
    )
    committed, failed = provider._check(items)
    assert (items[3], 0x0112) in failed
    # The journal has one digest for the whole series: it vouches for all or for none.
    assert len(committed) == (COUNT - 1 if state == "coming in" else 0)


@pytest.mark.parametrize("item_bytes", [200, 50])
def test_a_request_of_too_many_instances_is_refused(node, monkeypatch, caplog, item_bytes):
    """By its length before it is decoded, or by their number; the log says what to do."""
    monkeypatch.setattr(commitment_scp, "MAX_ITEMS", 20)
    monkeypatch.setattr(commitment_scp, "MAX_ITEM_BYTES", item_bytes)
    items = [Item(CTImageStorage, f"2.25.{number}") for number in range(21)]
    assert request_commitment(node.port, items, [], stay=False) == 0x0213
    assert "it names more than 20 instances; let it ask in parts" in caplog.text


def asked(reports: list[str], silent: threading.Event | None = None) -> SimpleNamespace:
    """A request for one unknown instance by a peer that is silent until the event is set."""
    request = request_of([ABSENT], "2.25.9")

    def answer(*_: object) -> tuple[Dataset, None]:
        if silent is not None:
            silent.wait(20)
        reports.append("report")
        status = Dataset()
        status.Status = 0x0000
        return status, None

    association = SimpleNamespace(
        requestor=SimpleNamespace(ae_title="SCANNER"), send_n_event_report=answer
    )
    encoded = SimpleNamespace(RequestedSOPInstanceUID=WELL_KNOWN, ActionInformation=io.BytesIO(b""))
    return SimpleNamespace(
        action_type=1, request=encoded, action_information=request, assoc=association
    )


def test_a_peer_that_says_nothing_holds_up_no_other_peers_report(tmp_path):
    """Two hang; the third has its report at once."""
    provider, reports, silent = (
        CommitmentProvider(Spool(tmp_path, 0), none_is_damaged, [], "LIMN"),
        [],
        threading.Event(),
    )
    late = []
    for _ in range(2):
        assert provider.on_n_action(asked(late, silent))[0] == 0
    assert provider.on_n_action(asked(reports))[0] == 0
    until(lambda: reports == ["report"])
    assert late == []
    silent.set()
    until(lambda: len(late) == 2)


def test_an_error_of_the_disk_ends_no_later_answer(tmp_path, monkeypatch, caplog):
    """Too many open files for one request; the next is answered, and none is left waiting."""
    provider, reports = CommitmentProvider(Spool(tmp_path, 0), none_is_damaged, [], "LIMN"), []

    def fails(self):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fails)
        for _ in range(3):
            assert provider.on_n_action(asked(reports))[0] == 0
        until(lambda: caplog.text.count("not delivered: [Errno 24]") == 3)
    for number in range(commitment_scp.MAX_WAITING + 5):
        until(lambda: provider.on_n_action(asked(reports))[0] == 0)
        until(lambda number=number: len(reports) == number + 1)
