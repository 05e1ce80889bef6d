"""A whole node whose pipeline holds some scans until a person has looked."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from limn.node.dimse.client import Peer, store
from tests.conftest import REPOSITORY, one_fold
from tests.support.node.holding.sitecustomize import NOTE, WHY
from tests.support.node.running import wait_for
from tests.support.node.siege import FakeNode
from tests.support.node.toy import toy

pytestmark = pytest.mark.node

EXPORT = (
    '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "tps"\n'
    '[[destination]]\nkind = "folder"\nname = "export"\nfolder = "export"\n'
)


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that starts from here finds the animals M9... and T9... mirrored."""
    path = [
        str(REPOSITORY / "tests" / "support" / "node" / "holding"),
        os.environ.get("PYTHONPATH", ""),
    ]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in path if part))


@pytest.fixture
def node(tmp_path: Path, held_back: None) -> Iterator[FakeNode]:
    """A running node with a planning system and an archive that are folders."""
    del held_back
    node = FakeNode(tmp_path / "node", EXPORT)
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


def send(node: FakeNode, number: int) -> None:
    """Send a toy over one association."""
    peer = Peer("LIMN", "127.0.0.1", node.port, "SCANNER")
    assert set(store(peer, list(toy(number).datasets))) == {0}


def arrived_at(node: FakeNode, folder: str) -> dict[str, pydicom.FileDataset]:
    """What a destination has, by animal."""
    found = [pydicom.dcmread(path) for path in (node.folder / folder).glob("RS*.dcm")]
    return {str(ds.PatientID): ds for ds in found}


def said(node: FakeNode, scan: str, animal: str) -> list[str]:
    """The lines of the node's log that say that a scan is held."""
    start = f"{scan} animal {animal} HELD, not sent: {WHY}"
    return [line for line in node.log().splitlines() if start in line]


def test_a_held_scan_waits_for_a_person_and_nobody_else(node: FakeNode) -> None:
    """Two are held, the next is delivered; one is released while the node is down, one while up.

    Takes more than 10 s: two starts of a node, and five commands.
    """
    for number in (9001, 9002, 41):
        send(node, number)
        wait_for(lambda n=number: bool(scan_of(node, toy(n).animal)), 30, node.explain)
    assert node.wait_row("T0041")["outcome"] == "delivered"
    command = f"limn release --config {node.config}"
    for scan, animal in (("scan-00001", "T9001"), ("scan-00002", "T9002")):
        (line,) = said(node, scan, animal)
        assert line.endswith(f"{command} {scan}")
    assert list(node.rows()) == ["T0041"]
    assert list(arrived_at(node, "tps")) == list(arrived_at(node, "export")) == ["T0041"]
    assert arrived_at(node, "tps")["T0041"].StructureSetDescription.startswith("limn ")

    listed = limn("release", "--config", node.config)
    assert listed.returncode == 0
    assert "scan-00001 animal T9001, held since 20" in listed.stdout
    assert f"{command} scan-00002" in listed.stdout
    assert (
        f"scan-00002 animal T9002: HELD, not sent: {WHY}"
        in limn("log", "--config", node.config).stdout
    )

    assert node.stop() == 0
    released = limn("release", "--config", node.config, "scan-00001")
    assert released.returncode == 0
    assert f" -> tps, {node.folder / 'tps'}" in released.stdout
    assert f" -> export, {node.folder / 'export'}" in released.stdout
    assert list(arrived_at(node, "tps")) == ["T0041"]

    node.start()
    row = node.wait_row("T9001", 20)
    assert row["outcome"] == "delivered"
    assert len(said(node, "scan-00002", "T9002")) == 2
    assert len(said(node, "scan-00001", "T9001")) == 1
    assert "T9002" not in arrived_at(node, "tps") | arrived_at(node, "export")

    signed = ("--by", "A. Smith", "--why", "planned on it")
    assert limn("release", "--config", node.config, "scan-00002", *signed).returncode == 0
    wait_for(
        lambda: "T9002" in arrived_at(node, "tps") and "T9002" in arrived_at(node, "export"), 20
    )
    row = node.wait_row("T9002", 20)
    (flag,) = [flag for flag in row["flags"].split() if flag.startswith("held:")]
    assert float(flag.removeprefix("held:").removesuffix("s")) > 1
    assert row["reason"].endswith(f", released by A. Smith (planned on it): {WHY}")
    assert "scan-00002 animal T9002 released by A. Smith (planned on it) at" in node.log()
    # From the release on: the running node notices by itself.
    assert float(row["deliver_s"]) < 2
    assert len(node.rows()) == 3
    for folder in ("tps", "export"):
        description = arrived_at(node, folder)["T9002"].StructureSetDescription
        assert description.startswith(f"{NOTE}; limn ")


def test_one_folder_is_contoured_and_the_reason_is_said(
    held_back: None, make_thorax: Callable[[str], Path], tmp_path: Path
) -> None:
    """``limn contour`` sends nothing, so it writes the file, warns, and exits 0."""
    del held_back
    done = limn("contour", make_thorax("93"), "-o", tmp_path, "--bundle", one_fold())
    assert done.returncode == 0, done.stderr
    # However narrow the terminal is.
    assert f"WARNING: {WHY}." in " ".join(done.stdout.split())
    ds = pydicom.dcmread(tmp_path / "RS.dcm")
    assert ds.StructureSetDescription.startswith(f"{NOTE}; limn ")


def scan_of(node: FakeNode, animal: str) -> list[tuple]:
    """The animal's row in the journal."""
    return node.query("select id from scan where animal = ?", animal)
