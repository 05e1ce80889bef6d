"""A fresh node is commissioned, with Orthanc and with a planning system that exchanges sides."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset

from tests.conftest import free_port
from tests.support.node.parts import Archive, peer
from tests.support.node.running import Node, Orthanc, wait_for
from tests.support.structure_sets import encoded_set, mirrored

pytestmark = [pytest.mark.node, pytest.mark.peer]

# Voxels of 0.3 mm are a third of the work of 0.2 mm.
STEPS = ("lie-ffp", "voxels-300", "mirrored-x")


@dataclass(frozen=True)
class Commissioned:
    """A node, its planning systems, and where its reports go."""

    node: Node
    orthanc: Orthanc
    mirror: Archive
    out: Path

    def limn(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `limn commission` as a site does, with nobody at the terminal."""
        command = [sys.executable, "-m", "limn.cli", "commission"]
        given = ["--config", str(self.node.config), "-o", str(self.out), "--wait-back", "10"]
        return subprocess.Popen(
            [*command, *given, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def reports(self) -> list[dict]:
        """Every report, the oldest first."""
        found = sorted(self.out.glob("run-*/report.json"))
        return [json.loads(path.read_text()) for path in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commissioned]:
    """A running node with an Orthanc, and a planning system that is told by the test what to do."""
    folder = tmp_path_factory.mktemp("commissioning")
    orthanc, mirror = Orthanc(folder / "orthanc"), Archive()
    with peer(mirror) as port:
        tps = (
            '[[destination]]\nkind = "dicom"\nname = "tps"\nae_title = "TPS"\n'
            f'host = "127.0.0.1"\nport = {port}\n'
        )
        ours = f"[commissioning]\nport = {free_port()}\n"
        node = Node(folder / "node", ours + tps + orthanc.destination())
        try:
            node.start()
            yield Commissioned(node, orthanc, mirror, folder / "out")
        finally:
            assert node.stop() == 0
            orthanc.process.terminate()
            orthanc.process.wait()


def send_back(site: Commissioned, stopping: threading.Event) -> None:
    """As its user would: let Orthanc send every new structure set to the node."""
    answer = {"AET": "LIMN", "Host": "127.0.0.1", "Port": site.node.port}
    site.orthanc.put("/modalities/limn", answer)
    sent: set[str] = set()
    while not stopping.wait(0.5):
        for instance in site.orthanc.get("/instances"):
            if instance not in sent:
                sent.add(instance)
                tags = site.orthanc.get(f"/instances/{instance}/simplified-tags")
                if tags["Modality"] == "RTSTRUCT":
                    site.orthanc.post("/modalities/limn/store", [instance])


def test_a_killed_run_goes_on_and_orthanc_returns_what_it_got(site: Commissioned) -> None:
    """Nothing is sent twice; a mirror image is held and never leaves; nothing else does either.

    Takes more than 10 s: the node of both tests starts for this one.
    """
    only = [word for name in STEPS for word in ("--only", name)]
    arguments = ("--to", "archive", *only)
    first = site.limn(*arguments)
    wait_for(lambda: bool(list(site.out.glob("run-*/steps/lie-ffp.json"))), 120, site.node.explain)
    first.send_signal(signal.SIGKILL)
    first.wait()
    stopping = threading.Event()
    orthanc = threading.Thread(target=send_back, args=(site, stopping))
    orthanc.start()
    try:
        again = site.limn(*arguments)
        said, _ = again.communicate(timeout=200)
    finally:
        stopping.set()
        orthanc.join()
    assert "3 phantoms, 1 are done" in said
    (report,) = site.reports()
    steps = {each["name"]: each for each in report["steps"]}
    assert [each["faults"] for each in report["steps"]] == [[], [], []], said
    assert steps["mirrored-x"]["outcome"] == "held"
    assert all(steps[name]["back"]["archive"] for name in STEPS[:2]), said
    # No person was there, and not all was sent.
    assert report["verdict"]["word"] == "NOT COMPLETE"
    assert again.returncode == 1
    rows = site.node.rows()
    assert rows["COMMISSIONING-LIE-FFP"]["destination"] == "commissioning"
    assert "commissioning" in rows["COMMISSIONING-LIE-FFP"]["flags"].split()
    assert rows["COMMISSIONING-MIRRORED-X"]["outcome"] == "discarded"
    scans = site.node.query("select animal, count(*) from scan group by animal")
    assert dict(scans) == {f"COMMISSIONING-{name.upper()}": 1 for name in STEPS}
    # The other planning system was not named.
    assert site.mirror.taken == []
    in_orthanc = {tags["PatientID"] for tags in site.orthanc.structure_sets()}
    assert in_orthanc == {"COMMISSIONING-LIE-FFP", "COMMISSIONING-VOXELS-300"}


def structure_sets(site: Commissioned, count: int) -> list[Dataset]:
    """What the planning system took, once there are so many."""

    def found() -> list[Dataset]:
        return [ds for ds in site.mirror.taken if ds.Modality == "RTSTRUCT"]

    wait_for(lambda: len(found()) == count, 120, site.node.explain)
    return found()


def test_a_planning_system_that_exchanges_left_and_right_fails(
    site: Commissioned, tmp_path: Path
) -> None:
    """The report says so first, in words that need no dictionary; once mended, one step passes."""
    only = ("--only", "voxels-300")
    run = site.limn("--to", "tps", "--back", str(tmp_path), *only)
    (taken,) = structure_sets(site, 1)
    (tmp_path / "RS.dcm").write_bytes(mirrored(encoded_set(taken)))
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "FAILED: LEFT AND RIGHT ARE EXCHANGED (1 time). Do not use this chain" in said
    assert "Left and right are exchanged in what tps returned: Lung_R lies " in said
    page = (sorted(site.out.glob("run-*"))[-1] / "report.html").read_text()
    assert "LEFT AND RIGHT ARE EXCHANGED" in page
    assert "Against the last report" in page
    # The planning system is mended; the step that failed is sent again, as another phantom.
    (tmp_path / "RS.dcm").unlink()
    run = site.limn("--to", "tps", "--back", str(tmp_path), *only, "--again", "voxels-300")
    _, mended = structure_sets(site, 2)
    (tmp_path / "RS.dcm").write_bytes(encoded_set(mended))
    said, _ = run.communicate(timeout=120)
    report = site.reports()[-1]
    assert report["verdict"]["word"] == "NOT COMPLETE", said
    assert "voxels-300 was sent again; before: FAIL." in report["verdict"]["lines"]
    assert mended.StudyInstanceUID != taken.StudyInstanceUID
