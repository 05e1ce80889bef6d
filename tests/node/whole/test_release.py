"""A whole node whose pipeline holds some scans until a person has looked."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from limn.node.dimse.client import Peer, store
from tests.conftest import REPOSITORY
from tests.support.node.holding.sitecustomize import NOTE, WHY
from tests.support.node.running import Node, wait_for

pytestmark = pytest.mark.node

EXPORT = (
    '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "tps"\n'
    '[[destination]]\nkind = "folder"\nname = "export"\nfolder = "export"\n'
)


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that starts from here finds the animals M9... mirrored."""
    path = [
        str(REPOSITORY / "tests" / "support" / "node" / "holding"),
        os.environ.get("PYTHONPATH", ""),
    ]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in path if part))


@pytest.fixture
def node(tmp_path: Path, held_back: None) -> Iterator[Node]:
    """A running node with a planning system and an archive that are folders."""
    del held_back
    node = Node(tmp_path / "node", EXPORT)
    node.start()
    yield node
    assert node.process is not None
    if node.process.poll() is None:
        assert node.stop() == 0


def limn(*arguments: object) -> subprocess.CompletedProcess[str]:
    """One command, as an operator gives it."""
    return subprocess.run(
        [sys.executable, "-m", "limn.cli", *(str(each) for each in arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"COLUMNS": "80"},
        cwd=REPOSITORY,
    )


def send(node: Node, series: Path) -> None:
    """Send a series over one association."""
    datasets = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    assert set(store(Peer("LIMN", "127.0.0.1", node.port, "SCANNER"), datasets)) == {0}


def arrived_at(node: Node, folder: str) -> dict[str, pydicom.FileDataset]:
    """What a destination has, by animal."""
    found = [pydicom.dcmread(path) for path in (node.folder / folder).glob("RS*.dcm")]
    return {str(ds.PatientID): ds for ds in found}


def said(node: Node, scan: str, animal: str) -> list[str]:
    """The lines of the node's log that say that a scan is held."""
    start = f"{scan} animal {animal} HELD, not sent: {WHY}"
    return [line for line in node.log().splitlines() if start in line]


def test_a_held_scan_waits_for_a_person_and_nobody_else(
    node: Node, make_series: Callable[[str], Path]
) -> None:
    """Two are held, the next is delivered; one is released while the node is down, one while up.

    Takes more than 10 s: two starts of a node with its real network, and three scans.
    """
    for number in ("91", "92", "41"):
        send(node, make_series(number))
        wait_for(lambda n=number: bool(scan_of(node, f"M{n}")), 30, node.explain)
    assert node.wait_row("M41")["outcome"] == "delivered"
    command = f"limn release --config {node.config}"
    for scan, animal in (("scan-00001", "M91"), ("scan-00002", "M92")):
        (line,) = said(node, scan, animal)
        assert line.endswith(f"{command} {scan}")
    assert list(node.rows()) == ["M41"]
    assert list(arrived_at(node, "tps")) == list(arrived_at(node, "export")) == ["M41"]
    assert arrived_at(node, "tps")["M41"].StructureSetDescription.startswith("limn ")

    listed = limn("release", "--config", node.config)
    assert listed.returncode == 0
    assert "scan-00001 animal M91, held since 20" in listed.stdout
    assert f"{command} scan-00002" in listed.stdout
    assert (
        f"scan-00002 animal M92: HELD, not sent: {WHY}"
        in limn("log", "--config", node.config).stdout
    )

    assert node.stop() == 0
    released = limn("release", "--config", node.config, "scan-00001")
    assert released.returncode == 0
    assert f" -> tps, {node.folder / 'tps'}" in released.stdout
    assert f" -> export, {node.folder / 'export'}" in released.stdout
    assert list(arrived_at(node, "tps")) == ["M41"]

    node.start()
    row = node.wait_row("M91", 20)
    assert row["outcome"] == "delivered"
    assert len(said(node, "scan-00002", "M92")) == 2
    assert len(said(node, "scan-00001", "M91")) == 1
    assert "M92" not in arrived_at(node, "tps") | arrived_at(node, "export")

    assert limn("release", "--config", node.config, "scan-00002").returncode == 0
    wait_for(lambda: "M92" in arrived_at(node, "tps") and "M92" in arrived_at(node, "export"), 20)
    row = node.wait_row("M92", 20)
    (flag,) = [flag for flag in row["flags"].split() if flag.startswith("held:")]
    assert float(flag.removeprefix("held:").removesuffix("s")) > 1
    assert row["reason"].endswith(WHY)
    # From the release on: the running node notices by itself.
    assert float(row["deliver_s"]) < 2
    assert len(node.rows()) == 3
    for folder in ("tps", "export"):
        description = arrived_at(node, folder)["M92"].StructureSetDescription
        assert description.startswith(f"{NOTE}; limn ")


def test_one_folder_is_contoured_and_the_reason_is_said(
    held_back: None, make_series: Callable[[str], Path], tmp_path: Path
) -> None:
    """``limn contour`` sends nothing, so it writes the file, warns, and exits 0."""
    del held_back
    done = limn("contour", make_series("93"), "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    # However narrow the terminal is.
    assert f"WARNING: {WHY}." in " ".join(done.stdout.split())
    ds = pydicom.dcmread(tmp_path / "RS.dcm")
    assert ds.StructureSetDescription.startswith(f"{NOTE}; limn ")


def scan_of(node: Node, animal: str) -> list[tuple]:
    """The animal's row in the journal."""
    return node.query("select id from scan where animal = ?", animal)
