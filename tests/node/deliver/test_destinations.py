import errno
import hashlib
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, RTStructureSetStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from limn.domain.errors import PeerUnreachable
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver.destinations import Failure, Outcome, backoff_s, deliver, judge
from limn.node.deliver.export_place import ExportPlace
from limn.node.dimse import client
from limn.node.dimse.client import Peer, echo, store
from tests.conftest import free_port
from tests.support.node.parts import Archive, encoded, peer, slices, structure_set
from tests.support.node.raw_peer import pdu, raw_peer

JUDGED = {
    0x0000: Outcome.DELIVERED,
    0x0001: Outcome.DELIVERED,
    0x0111: Outcome.DELIVERED,
    0xB000: Outcome.DELIVERED,
    0xB006: Outcome.DELIVERED,
    0xB007: Outcome.DELIVERED,
    0xBFFF: Outcome.DELIVERED,
    0xA700: Outcome.RETRY_LATER,
    0xA702: Outcome.RETRY_LATER,
    0xA7FF: Outcome.RETRY_LATER,
    0xA800: Outcome.REFUSED,
    0xA900: Outcome.REFUSED,
    0xC000: Outcome.REFUSED,
    0xC001: Outcome.REFUSED,
    0x0110: Outcome.REFUSED,
    0x0117: Outcome.REFUSED,
    0x0122: Outcome.REFUSED,
    0x0124: Outcome.REFUSED,
    # Pending and cancel are no answers to C-STORE, and pynetdicom sends none.
    0xFE00: Outcome.REFUSED,
    0xFF00: Outcome.REFUSED,
}
NAMES = [f"0x{status:04X}" for status in JUDGED]


@pytest.fixture
def path(tmp_path) -> Path:
    """A structure set on disk."""
    written = tmp_path / "scans" / "RS.2.25.99.1.dcm"
    written.parent.mkdir()
    written.write_bytes(encoded(structure_set()))
    return written


def tps(port: int, host: str = "127.0.0.1") -> DicomDestination:
    """A planning system on this port."""
    return DicomDestination(kind="dicom", name="tps", ae_title="TPS", host=host, port=port)


@pytest.mark.parametrize(("status", "outcome"), JUDGED.items(), ids=NAMES)
def test_what_a_status_means(status, outcome):
    """PS3.4 GG.4-1: accepted, retry later, or refused."""
    assert judge(status) is outcome


@pytest.mark.parametrize(("status", "outcome"), list(JUDGED.items())[:-2], ids=NAMES[:-2])
def test_what_a_peer_answers_is_what_comes_back(path, status, outcome):
    """The outcome and the status in hexadecimal, for every answer a real peer may give."""
    archive = Archive(status)
    with peer(archive) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert (answer.outcome, answer.status) == (outcome, f"0x{status:04X}")
    assert len(archive.taken) == 1


def test_the_peer_gets_the_structure_set_as_it_is_on_disk(path):
    """The dataset on the wire equals the file, and the calling AE title is ours."""
    archive, callers = Archive(), []
    with peer(
        archive, handlers=[(evt.EVT_ACCEPTED, lambda e: callers.append(e.assoc.requestor.ae_title))]
    ) as port:
        deliver(tps(port), path, "MOUSENODE")
    (taken,) = archive.taken
    assert taken == pydicom.dcmread(path)
    assert taken.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert callers == ["MOUSENODE"]


def test_a_resend_is_byte_identical(path):
    """A peer gets the same bytes the second time."""
    archive = Archive(0xA700, 0x0000)
    with peer(archive) as port:
        outcomes = [deliver(tps(port), path, "LIMN").outcome for _ in range(2)]
    assert outcomes == [Outcome.RETRY_LATER, Outcome.DELIVERED]
    assert archive.taken[0] == archive.taken[1]


def test_an_association_is_released(path):
    """The peer is left in good order, not cut off."""
    released = threading.Event()
    with peer(Archive(), handlers=[(evt.EVT_RELEASED, lambda _: released.set())]) as port:
        deliver(tps(port), path, "LIMN")
        assert released.wait(5)


def test_a_peer_that_does_not_listen_is_tried_again(path):
    """No process listens on the port: retried later, with the peer's name in the text."""
    port = free_port()
    answer = deliver(tps(port), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert answer.status == f"TPS@127.0.0.1:{port} does not answer"


def test_a_peer_without_address_is_tried_again(path):
    """A name server that is down must not hold a structure set for good."""
    answer = deliver(tps(104, host="no-such-host.invalid"), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert "no-such-host.invalid" in answer.status


def test_a_peer_that_rejects_us_is_tried_again(path):
    """A planning system that does not know our AE title yet, or calls itself otherwise."""
    with peer(Archive(), ae_title="SOMEONE", only_this_title=True) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert "refused the association" in answer.status
    assert "this node calls it TPS; compare the planning system's" in answer.status
    assert answer.failure is Failure.REJECTED


@pytest.mark.parametrize(
    ("rejection", "why"),
    [
        (
            bytes([1, 1, 3]),
            "calling AE title not recognized: this node calls itself LIMN; register",
        ),
        (bytes([2, 3, 1]), "temporary congestion: it takes no association now"),
        (bytes([2, 3, 2]), "local limit exceeded: too many associations are open there"),
        (bytes([1, 1, 1]), "it gives no reason; look at its own log"),
        (bytes([1, 2, 2]), "protocol version not supported"),
    ],
)
def test_a_rejection_says_what_to_mend(path, rejection, why):
    """Permanent or transient, it is tried again; the reason stands in the log and the queue."""

    def reject(connection: socket.socket) -> None:
        pdu(connection)
        connection.sendall(b"\x03\x00\x00\x00\x00\x04\x00" + rejection)
        connection.recv(1)

    with raw_peer(reject) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert answer.status.partition("refused the association: ")[2].startswith(why)


def test_a_peer_without_structure_sets_is_tried_again(path):
    """The association stands, but no context for RT Structure Set Storage."""
    with peer(Archive(), classes=[CTImageStorage]) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert str(port) in answer.status


def test_a_peer_that_hangs_up_is_tried_again(path):
    """Aborted in the middle of C-STORE: the outcome is unknown, so it is sent again."""

    def hang_up(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with peer(handlers=[(evt.EVT_C_STORE, hang_up)]) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert "broke off" in answer.status


def test_a_peer_that_hangs_up_between_two_files():
    """Aborted after its first answer: the first status stays; the text names the abort."""

    def answer_and_leave(event: evt.Event) -> int:
        threading.Timer(0.1, event.assoc.abort).start()
        return 0

    with peer(handlers=[(evt.EVT_C_STORE, answer_and_leave)]) as port:
        answers = store(Peer("TPS", "127.0.0.1", port, "LIMN"), slices()[:2])
        assert next(answers) == 0
        time.sleep(0.5)
        with pytest.raises(PeerUnreachable, match="broke off"):
            next(answers)


def test_a_port_that_speaks_no_dicom_is_tried_again(path):
    """Something else listens there and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def close_at_once() -> None:
            other.accept()[0].close()

        thread = threading.Thread(target=close_at_once)
        thread.start()
        answer = deliver(tps(other.getsockname()[1]), path, "LIMN")
        thread.join()
    assert answer.outcome is Outcome.RETRY_LATER


@pytest.mark.parametrize("contents", [None, b"no DICOM any more"])
def test_a_file_that_is_gone_or_broken_is_held(path, contents):
    """No peer can mend that: an operator must look at our own disk."""
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)
    with peer(Archive()) as port:
        answer = deliver(tps(port), path, "LIMN")
    assert answer.outcome is Outcome.REFUSED
    assert str(path) in answer.status


def export(folder: Path) -> FolderDestination:
    """An export folder."""
    return FolderDestination(kind="folder", name="export", folder=folder)


def test_a_folder_gets_the_file(path, tmp_path):
    """Byte for byte, under the same name; no part stays."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    answer = deliver(export(tmp_path / "a" / "b"), path, "LIMN")
    assert answer.outcome is Outcome.DELIVERED
    (written,) = (tmp_path / "a" / "b").iterdir()
    assert (written.name, written.read_bytes()) == (path.name, path.read_bytes())


def test_a_destination_that_wants_other_rois_refuses_in_words(path, tmp_path):
    """The structure set on disk has none of them; nothing is written."""
    heart = Dataset()
    heart.ROINumber, heart.ROIName = 1, "Heart"
    whole = structure_set()
    whole.StructureSetROISequence = [heart]
    path.write_bytes(encoded(whole))
    wanting = export(tmp_path / "a").model_copy(update={"rois": ("Spleen",)})
    answer = deliver(wanting, path, "LIMN")
    assert answer.outcome is Outcome.REFUSED
    assert answer.status == "none of its ROIs is Spleen; see rois of destination export"
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO and few links")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pipe", "it is a pipe (FIFO), a folder is expected"),
        ("file", "it is a file, a folder is expected"),
        ("link", "it is a link to {}, which does not exist"),
    ],
)
def test_an_export_folder_that_is_none_is_named(path, tmp_path, kind, why):
    """Tried again, because a person may mend it; no thread waits for the pipe."""
    folder, gone = tmp_path / "out", tmp_path / "unmounted"
    if kind == "pipe":
        os.mkfifo(folder)
    elif kind == "file":
        folder.touch()
    else:
        folder.symlink_to(gone)
    answer = deliver(export(folder), path, "LIMN")
    assert (answer.outcome, answer.status) == (Outcome.RETRY_LATER, f"{folder}: {why.format(gone)}")
    if kind == "link":
        gone.mkdir()
        assert deliver(export(folder), path, "LIMN").outcome is Outcome.DELIVERED


def test_a_folder_export_is_atomic(path, tmp_path):
    """A reader that polls the folder sees no file or the whole file, never half of one."""
    folder = tmp_path / "out"
    folder.mkdir()
    path.write_bytes(b"x" * 3_000_000)
    sizes: set[int] = set()
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            sizes.update(found.stat().st_size for found in folder.glob("RS*"))

    reader = threading.Thread(target=poll)
    reader.start()
    for _ in range(20):
        deliver(export(folder), path, "LIMN")
    done.set()
    reader.join()
    assert sizes == {3_000_000}
    assert [found.name for found in folder.iterdir()] == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs, and links need a privilege")
@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["{}", ".{}.part"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_folder_in_which_others_write_does_no_harm(path, tmp_path, name, kind):
    """A link to another file, or a FIFO that would stop the courier, where limn writes."""
    folder, precious = tmp_path / "out", tmp_path / "scans.csv"
    folder.mkdir()
    precious.write_text("precious")
    if kind == "link":
        (folder / name.format(path.name)).symlink_to(precious)
    else:
        os.mkfifo(folder / name.format(path.name))
    assert deliver(export(folder), path, "LIMN").outcome is Outcome.DELIVERED
    assert precious.read_text() == "precious"
    assert [each.name for each in folder.iterdir()] == [path.name]
    assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_folder_that_can_not_be_written_is_tried_again(path, tmp_path):
    """A share that is away comes back."""
    (tmp_path / "share").write_text("no folder")
    answer = deliver(export(tmp_path / "share"), path, "LIMN")
    assert answer.outcome is Outcome.RETRY_LATER
    assert str(tmp_path / "share") in answer.status


def test_a_missing_file_is_not_blamed_on_the_folder(path, tmp_path):
    """Refused, with the path of the missing file."""
    os.unlink(path)  # noqa: PTH108 - as somebody else would
    answer = deliver(export(tmp_path / "out"), path, "LIMN")
    assert answer.outcome is Outcome.REFUSED
    assert str(path) in answer.status


def test_many_files_go_over_one_association():
    """A series is one association, one status per slice."""
    associations: list[object] = []
    archive = Archive(0x0000)
    with peer(archive, handlers=[(evt.EVT_ACCEPTED, associations.append)]) as port:
        statuses = list(store(Peer("TPS", "127.0.0.1", port, "LIMN"), slices()[:5]))
    assert statuses == [0] * 5
    assert len(associations) == 1
    assert len(archive.taken) == 5


def test_echo():
    """A peer that answers C-ECHO is there."""
    with peer(classes=[Verification]) as port:
        echo(Peer("TPS", "127.0.0.1", port, "LIMN"))


def test_echo_to_nobody():
    """A peer that is not there is named."""
    port = free_port()
    with pytest.raises(PeerUnreachable, match=rf"TPS@127\.0\.0\.1:{port} does not answer"):
        echo(Peer("TPS", "127.0.0.1", port, "LIMN"))


def test_echo_to_a_peer_that_takes_none():
    """No context for C-ECHO: a message, not a traceback."""
    with (
        peer(classes=[RTStructureSetStorage]) as port,
        pytest.raises(PeerUnreachable, match=str(port)),
    ):
        echo(Peer("TPS", "127.0.0.1", port, "LIMN"))


def test_echo_answered_with_a_failure():
    """Anything but Success is a failure."""
    with (
        peer(classes=[Verification], handlers=[(evt.EVT_C_ECHO, lambda _: 0x0122)]) as port,
        pytest.raises(PeerUnreachable, match="answered C-ECHO with"),
    ):
        echo(Peer("TPS", "127.0.0.1", port, "LIMN"))


@pytest.mark.parametrize(("tries", "about_s"), [(0, 1), (1, 2), (3, 8), (6, 60), (50, 60)])
def test_the_wait_doubles_up_to_a_minute(tries, about_s):
    """From one second to a minute, each a little random so that nodes do not march in step."""
    waits = [backoff_s(tries) for _ in range(50)]
    assert all(0.8 * about_s <= wait <= 1.2 * about_s for wait in waits)
    assert len(set(waits)) > 1


@pytest.mark.parametrize("kept", [0, 100, 150, 200, 300])
def test_a_damaged_file_is_held_and_stops_no_other(tmp_path, kept):
    """Bytes that a failing disk lost: a person must act, the courier goes on."""
    path = tmp_path / "RS.dcm"
    path.write_bytes(encoded(structure_set())[:kept])
    nobody = DicomDestination(
        name="tps", kind="dicom", ae_title="TPS", host="127.0.0.1", port=free_port()
    )
    answer = deliver(nobody, path, "LIMN")
    assert answer.outcome is Outcome.REFUSED
    assert "damaged" in answer.status


class Late:
    """An event whose waiter a busy machine delays just after it was set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def wait(self) -> None:
        """Let go, then nothing for a while."""
        self._event.wait()
        time.sleep(0.3)

    def __getattr__(self, name: str) -> object:
        return getattr(self._event, name)


def test_an_answer_is_never_taken_by_another_thread(path, monkeypatch):
    """On a busy machine pynetdicom's own thread took it and dropped it: a minute was lost."""
    monkeypatch.setattr(client, "REPLY_S", 3.0)
    associate = AE.associate

    def on_a_busy_machine(*arguments: object, **named: object) -> Association:
        association = associate(*arguments, **named)
        association._reactor_checkpoint = Late(association._reactor_checkpoint)
        send = association.dimse.send_msg

        def send_and_be_put_aside(*message: object) -> None:
            send(*message)
            time.sleep(0.6)

        association.dimse.send_msg = send_and_be_put_aside
        time.sleep(0.1)
        return association

    monkeypatch.setattr(AE, "associate", on_a_busy_machine)
    with peer(Archive()) as port:
        dataset = pydicom.dcmread(path)
        assert list(store(Peer("TPS", "127.0.0.1", port, "LIMN"), [dataset] * 3)) == [0, 0, 0]


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.EMFILE, Outcome.RETRY_LATER),
        (errno.ESTALE, Outcome.RETRY_LATER),
        (errno.ENOENT, Outcome.REFUSED),
        (errno.EACCES, Outcome.REFUSED),
    ],
)
def test_a_file_that_can_not_be_read_just_now_is_tried_again(path, monkeypatch, number, outcome):
    """Too many open files pass; a file that is gone does not."""

    def fails(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fails)
    answer = deliver(tps(104), path, "LIMN")
    assert answer.outcome is outcome
    assert os.strerror(number) in answer.status


def test_a_structure_set_that_was_changed_on_disk_goes_nowhere(path, tmp_path):
    """One UID names one content: another program wrote another animal into it."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    out = FolderDestination(kind="folder", name="out", folder=tmp_path / "out")
    out.folder.mkdir()
    assert deliver(out, path, "LIMN", contents_sha256=sha256).outcome is Outcome.DELIVERED
    ds = pydicom.dcmread(path)
    ds.PatientID = "M9"
    ds.save_as(path)
    archive = Archive()
    with peer(archive) as port:
        answer = deliver(tps(port), path, "LIMN", contents_sha256=sha256)
    assert answer.outcome is Outcome.REFUSED
    assert "is not what limn wrote there" in answer.status
    assert archive.taken == []


def test_a_folder_gets_the_forms_that_it_wants(path, tmp_path):
    """Each under the scan's name; another folder has others, and the structure set in any case."""
    scan = tmp_path / "scans" / "scan-00007"
    (scan / "forms").mkdir(parents=True)
    moved = scan / path.name
    path.rename(moved)
    for name in ("SEG.dcm", "labels.nii.gz", "labels.csv", "labels.seg.nrrd", "Heart.stl"):
        (scan / "forms" / name).write_bytes(name.encode())
    for forms, names in (
        (("rtstruct",), set()),
        (("rtstruct", "seg", "stl"), {"SEG.dcm", "Heart.stl"}),
        (("rtstruct", "nifti"), {"labels.nii.gz", "labels.csv"}),
    ):
        out = tmp_path / "-".join(forms)
        out.mkdir()
        wanted = FolderDestination(kind="folder", name="out", folder=out, forms=forms)
        assert deliver(wanted, moved, "LIMN").outcome is Outcome.DELIVERED
        assert {each.name for each in out.iterdir()} == {
            moved.name,
            *(f"scan-00007.{name}" for name in names),
        }


def test_a_folder_that_is_gone_is_not_made_again(path, tmp_path):
    """It lay on a share that was unmounted: made anew on the local disk nobody would read it."""
    place = ExportPlace(tmp_path / "mnt" / "plans" / "in", tmp_path)
    place.adopt()
    assert deliver(export(place.folder), path, "LIMN", place=place).outcome is Outcome.DELIVERED
    shutil.rmtree(tmp_path / "mnt" / "plans")
    place.adopt()
    for known in (place, None):
        answer = deliver(export(place.folder), path, "LIMN", place=known)
        assert answer.outcome is Outcome.RETRY_LATER
        assert str(place.folder) in answer.status
    assert "no such folder" in place.fault()
    assert list((tmp_path / "mnt").iterdir()) == []


def test_an_export_folder_below_an_unmounted_share_is_unreachable(path, tmp_path, monkeypatch):
    """The local disk has a folder of this name; once the share is back, all goes on."""
    mounted = {tmp_path / "mnt"}
    look = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda each: Path(each) in mounted or look(each))
    place = ExportPlace(tmp_path / "mnt" / "in", tmp_path)
    place.adopt()
    assert deliver(export(place.folder), path, "LIMN", place=place).outcome is Outcome.DELIVERED
    (place.folder / path.name).unlink()
    mounted.clear()
    place.adopt()
    answer = deliver(export(place.folder), path, "LIMN", place=place)
    assert answer.outcome is Outcome.RETRY_LATER
    assert f"lay on that at {tmp_path / 'mnt'} when limn first used it" in answer.status
    assert list(place.folder.iterdir()) == []
    mounted.add(tmp_path / "mnt")
    assert deliver(export(place.folder), path, "LIMN", place=place).outcome is Outcome.DELIVERED
    mounted.clear()
    place.note.unlink()
    place.adopt()
    assert place.fault() == ""


def test_a_share_that_is_mounted_later_is_taken_for_the_folder(tmp_path, monkeypatch):
    """The node was set up before the share: that it goes again is known from then on."""
    mounted: set[Path] = set()
    look = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda each: Path(each) in mounted or look(each))
    place = ExportPlace(tmp_path / "mnt" / "in", tmp_path)
    place.adopt()
    mounted.add(tmp_path / "mnt")
    # Each delivery asks, so no new start is needed.
    assert place.fault() == ""
    mounted.clear()
    assert "mount the share again" in place.fault()


def test_a_damaged_note_of_an_export_folder_stops_nothing(tmp_path):
    """It is written anew."""
    place = ExportPlace(tmp_path / "in", tmp_path)
    place.adopt()
    place.note.write_bytes(b"{")
    assert place.fault() == ""
    place.adopt()
    assert b"mount_point" in place.note.read_bytes()
