"""A whole node that sends contours of one fold first where all folds take long."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from limn.node.dimse.client import Peer, store
from tests.conftest import REPOSITORY
from tests.support.node.running import wait_for
from tests.support.node.siege import FakeNode
from tests.support.node.toy import toy

# Starts of a node and of its processes, each of which may take a minute on a busy machine.
pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

# The config's last table is [engine]. A preview is contoured in a fifth of the time.
SETTINGS = (
    "preview_after_s = 1.5\n"
    '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "tps"\npreviews = true\n'
    '[[destination]]\nkind = "folder"\nname = "export"\nfolder = "export"\n'
)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    """A node whose ensemble takes three seconds, and which finds animals T9... mirrored."""
    holding = str(REPOSITORY / "tests" / "support" / "node" / "holding")
    path = [holding, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in path if part))
    monkeypatch.setenv("FAKE_INFERENCE_S", "3.0")
    node = FakeNode(tmp_path / "node", SETTINGS)
    node.start()
    yield node
    assert node.process is not None
    if node.process.poll() is None:
        assert node.stop() == 0


def send(node: FakeNode, number: int) -> str:
    """Send a toy over one association; returns its animal."""
    peer = Peer("LIMN", "127.0.0.1", node.port, "SCANNER")
    assert set(store(peer, list(toy(number).datasets))) == {0}
    return toy(number).animal


def at(node: FakeNode, folder: str, animal: str, kind: str) -> list[pydicom.FileDataset]:
    """What a destination has of an animal: its previews or its structure sets."""
    found = (pydicom.dcmread(path) for path in (node.folder / folder).glob(f"{kind}.*.dcm"))
    return [ds for ds in found if ds.PatientID == animal]


def previews_sent(node: FakeNode, animal: str) -> int:
    """How often the node's log says that a preview was delivered."""
    return sum(f"animal {animal} PREVIEW delivered" in line for line in node.log().splitlines())


def check_answer(node: FakeNode, animal: str) -> dict[str, str]:
    """The animal has one structure set at each destination, and one row of the scan log."""
    row = node.wait_row(animal)
    assert row["outcome"] == "delivered"
    wait_for(lambda: bool(at(node, "export", animal, "RS")), 60, node.explain)
    for folder in ("tps", "export"):
        (ds,) = at(node, folder, animal, "RS")
        assert ds.SOPInstanceUID == row["rtstruct_sop_instance_uid"]
        assert "PREVIEW" not in str(ds)
    assert at(node, "export", animal, "PREVIEW") == []
    assert sum(each["animal"] == animal for each in node.log_rows()) == 1
    return row


def test_a_preview_goes_first_and_the_answer_follows(node: FakeNode) -> None:
    """The first scan of a node has none; a held one has none; a crash sends none twice.

    Takes more than 10 s: five scans of three seconds, and two processes that are killed.
    """
    first = send(node, 1)
    assert "preview" not in check_answer(node, first)["flags"]
    assert at(node, "tps", first, "PREVIEW") == []

    second = send(node, 2)
    row = check_answer(node, second)
    (preview,) = at(node, "tps", second, "PREVIEW")
    (answer,) = at(node, "tps", second, "RS")
    (named,) = answer.PredecessorStructureSetSequence
    assert named.ReferencedSOPInstanceUID == preview.SOPInstanceUID
    assert preview.StructureSetLabel == "PREVIEW DEMO"
    assert preview.SeriesInstanceUID != answer.SeriesInstanceUID
    assert all(roi.ROIName.endswith(" PREVIEW") for roi in preview.StructureSetROISequence)
    (flag,) = [each for each in row["flags"].split() if each.startswith("preview:")]
    door_to_door_s = float(row["door_to_door_s"])
    assert float(flag.removeprefix("preview:").removesuffix("s")) < door_to_door_s
    assert door_to_door_s > 3.0

    held = send(node, 9001)
    wait_for(lambda: f"animal {held} HELD, not sent" in node.log(), 60, node.explain)
    assert f"animal {held} gets no PREVIEW: held: " in node.log()
    for kind in ("PREVIEW", "RS"):
        assert at(node, "tps", held, kind) == []

    third = send(node, 3)
    wait_for(lambda: bool(previews_sent(node, third)), 60, node.explain)
    engine = node.pid("engine")
    assert engine is not None
    os.kill(engine, signal.SIGKILL)
    check_answer(node, third)
    assert previews_sent(node, third) == len(at(node, "tps", third, "PREVIEW")) == 1
    (answer,) = at(node, "tps", third, "RS")
    (preview,) = at(node, "tps", third, "PREVIEW")
    (named,) = answer.PredecessorStructureSetSequence
    assert named.ReferencedSOPInstanceUID == preview.SOPInstanceUID

    fourth = send(node, 4)
    running = "select count(*) from preview where state = 'running'"
    wait_for(lambda: node.query(running) == [(1,)], 60, node.explain)
    worker = node.pid("worker")
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    row = check_answer(node, fourth)
    assert row["tries"] == "1"
    assert previews_sent(node, fourth) == len(at(node, "tps", fourth, "PREVIEW")) <= 1
