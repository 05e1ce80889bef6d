"""A whole node with a second bundle beside it, which is promoted and taken back."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_dilation

from limn.cli import main
from limn.domain.scan import dice, labels_of
from limn.domain.shipped import MANIFEST
from limn.node.dimse.client import Peer, store
from limn.node.promotions import read_promotions
from limn.node.store.disk.comparisons import read_comparisons
from limn.segment.bundle.bundle import glance, write_manifest
from tests.conftest import BUNDLE, one_fold
from tests.support.node.running import wait_for
from tests.support.node.siege import FakeNode
from tests.support.node.toy import toy
from tests.support.organs import Organ

# Starts of a node, each of which may take a minute on a busy machine.
pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]


def challenger(folder: Path) -> Path:
    """A second bundle: what it draws is the fake's affair."""
    shutil.copytree(one_fold(), folder)
    head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
    write_manifest(folder, re.sub(r"(?m)^version = .*$", 'version = "challenger"', head))
    return folder


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    """A node whose network takes a second, and whose shadow takes three."""
    monkeypatch.setenv("FAKE_INFERENCE_S", "1.0")
    monkeypatch.setenv("FAKE_SHADOW_S", "3.0")
    node = FakeNode(
        tmp_path / "node", '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "tps"\n'
    )
    shadow = challenger(tmp_path / "challenger")
    text = node.config.read_text().replace("[model]\n", f'[model]\nshadow = "{shadow}"\n')
    node.config.write_text(text)
    node.start()
    yield node
    node.end()


def send(node: FakeNode, number: int) -> str:
    """Send a toy over one association; returns its animal."""
    peer = Peer("LIMN", "127.0.0.1", node.port, "SCANNER")
    assert set(store(peer, list(toy(number).datasets))) == {0}
    return toy(number).animal


def bundle_named_by(node: FakeNode, animal: str) -> str:
    """The hash of the bundle that drew an animal, as its structure set and its row say it."""
    row = node.wait_row(animal)
    found = [pydicom.dcmread(path) for path in (node.folder / "tps").glob("RS.*.dcm")]
    (ds,) = [each for each in found if each.PatientID == animal]
    roi = ds.StructureSetROISequence[0]
    (algorithm,) = roi.ROIDerivationAlgorithmIdentificationSequence
    assert row["bundle_sha256"] == algorithm.AlgorithmVersion
    assert str(algorithm.AlgorithmVersion)[:12] in ds.StructureSetDescription
    return str(algorithm.AlgorithmVersion)


def promote(node: FakeNode, *arguments: str) -> None:
    """``limn models promote`` while the node runs."""
    signed = ("--by", "A. Physicist", "--why", "a test")
    assert main.main(["models", "promote", "--config", str(node.config), *arguments, *signed]) == 0


def wait_taken_up(node: FakeNode, count: int) -> None:
    """Wait until so many promotions are in force and a worker is warm with the last of them."""

    def taken() -> bool:
        found = read_promotions(node.data)
        return len(found) == count and found[-1].in_force_at is not None

    wait_for(taken, 120, node.explain)
    wait_for((node.data / "ready").exists, 120, node.explain)
    wait_for(lambda: node.log().count("listening as") == count + 1, 60, node.explain)


def test_a_shadow_gives_way_is_promoted_and_taken_back(node: FakeNode, tmp_path: Path) -> None:
    """It draws in lulls alone; each structure set names the bundle that drew it.

    Takes more than 10 s: two lulls of eight seconds, and three starts of every process.
    """
    champion, shadow = glance(BUNDLE).sha256, glance(tmp_path / "challenger").sha256
    first = send(node, 1)
    assert bundle_named_by(node, first) == champion
    begins = "begins, 1 scans are due"
    wait_for(lambda: begins in node.log(), 60, node.explain)
    second = send(node, 2)
    wait_for(lambda: "the shadow gives way: " in node.log(), 10, node.explain)
    row = node.wait_row(second)
    assert float(row["door_to_door_s"]) < 5.0
    found = node.data / "shadow"
    wait_for(lambda: len(read_comparisons(found)) == 2, 60, node.explain)
    assert node.log().count(" scans are due") == 2
    for each, animal in zip(read_comparisons(found), (first, second), strict=True):
        assert (each.animal, each.old_sha256, each.new_sha256) == (animal, champion, shadow)
        labels = labels_of((node.data / "scans" / each.name / "labels.npz").read_bytes())
        heart = labels.mask(Organ.HEART)
        larger = heart | (binary_dilation(heart) & (labels.labels_zyx == 0))
        by_organ = {organ.organ: organ for organ in each.organs}
        assert by_organ[Organ.HEART].dsc == pytest.approx(dice(heart, np.asarray(larger)))
        assert 0.5 < by_organ[Organ.HEART].dsc < 0.95
        assert by_organ[Organ.LUNG_R].dsc == 1.0
    assert len(list((node.folder / "tps").glob("RS.*.dcm"))) == 2

    flying = send(node, 3)
    promote(node, str(tmp_path / "challenger"))
    assert bundle_named_by(node, flying) == champion
    wait_taken_up(node, 1)
    flying = send(node, 4)
    promote(node, "--back")
    assert bundle_named_by(node, flying) == shadow
    wait_taken_up(node, 2)
    assert bundle_named_by(node, send(node, 5)) == champion
