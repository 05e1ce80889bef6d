"""Two mice in one field at a whole node whose planning system wants one file."""

import io
import threading
from pathlib import Path

import numpy as np
import pydicom
import pytest

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from tests.conftest import require_peer
from tests.support.node.parts import encoded
from tests.support.node.running import wait_for
from tests.support.node.siege import FakeNode, Scanner, Tps
from tests.support.node.toy import SPACING_MM, Toy, toy

pytestmark = [pytest.mark.node, pytest.mark.peer]


def two(number: str = "97", *, mirrored: bool = False) -> Toy:
    """Two toys side by side in one series; the second one may be a mirror image."""
    parts = [np.stack([_hu(ds) for ds in toy(number).datasets]) for number in (1, 2)]
    parts[1] = parts[1][:, :, ::-1] if mirrored else parts[1]
    air = np.full((*parts[0].shape[:2], 8), -1000.0, dtype=np.float32)
    hu = np.concatenate([air, parts[0], air, parts[1], air], axis=2)
    grid = axial_grid(hu.shape, SpacingMm(*[SPACING_MM] * 3), np.zeros(3))
    identity = CtIdentity("T2", f"2.25.{number}", ("20260101", "120000"))
    made = [encoded(ds) for ds in ct_instances(Volume(hu, grid), identity)]
    return Toy("T2", tuple(pydicom.dcmread(io.BytesIO(each)) for each in made))


def contours(ds: pydicom.Dataset) -> dict[str, list[list[float]]]:
    """The points of each ROI."""
    names = {roi.ROINumber: str(roi.ROIName) for roi in ds.StructureSetROISequence}
    return {
        names[roi.ReferencedROINumber]: [list(each.ContourData) for each in roi.ContourSequence]
        for roi in ds.ROIContourSequence
    }


def _hu(ds: pydicom.Dataset) -> np.ndarray:
    return (ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)).astype(np.float32)


@pytest.fixture
def site(tmp_path: Path):
    """A node with names for its animals."""
    require_peer("/usr/bin/storescp")
    tps = Tps(tmp_path / "tps")
    node = FakeNode(tmp_path / "node", tps.destination() + "one_file = true\n")
    text = node.config.read_text()
    (node.folder / "watched").mkdir()
    watched = '[watch]\nfolder = "watched"\nsettle_s = 1.0\nrescan_s = 1.0\n'
    each = f'{watched}[model]\ntwo_animals = "each"\nanimals = ["M1", "M2"]\n'
    node.config.write_text(text.replace("[model]\n", each))
    tps.start()
    node.start()
    yield tps, node
    node.end()
    tps.kill()


def test_two_mice_come_as_one_file(site):
    """By an association, and by the watched folder the same of each.

    Then two of which one is refused, for it is a mirror image: the file says so.
    """
    tps, node = site
    states = "select state from delivery order by id"
    Scanner(node.port, [two()]).run(threading.Event())
    wait_for(lambda: node.query(states) == [("delivered",)] * 2, 60, node.explain)
    (path,) = tps.folder.iterdir()
    ds = pydicom.dcmread(path, force=True)
    names = {str(roi.ROIName) for roi in ds.StructureSetROISequence}
    assert names == {
        f"{organ}^{mark}"
        for organ in ("Heart", "SpinalCord", "Lung_R", "Lung_L")
        for mark in ("M1", "M2")
    }
    assert str(ds.StructureSetLabel).endswith("all 2")
    answers = node.query("select distinct status from delivery")
    assert answers == [(f"0x0000 as {ds.SOPInstanceUID}",)]
    for k, each in enumerate(two("96").datasets):
        each.save_as(node.folder / "watched" / f"{k}.dcm", enforce_file_format=True)
    wait_for(lambda: node.query(states) == [("delivered",)] * 4, 60, node.explain)
    (other,) = set(tps.folder.iterdir()) - {path}
    assert contours(pydicom.dcmread(other, force=True)) == contours(ds)
    Scanner(node.port, [two("98", mirrored=True)]).run(threading.Event())
    refused = "select count(*) from scan where state = 'refused'"
    wait_for(lambda: node.query(refused) == [(1,)], 60, node.explain)
    wait_for(lambda: len(list(tps.folder.iterdir())) == 3, 60, node.explain)
    (second,) = set(tps.folder.iterdir()) - {path, other}
    ds = pydicom.dcmread(second, force=True)
    assert "WITHOUT animal 2 (scan-00006), which was refused" in str(ds.StructureSetDescription)
    assert {str(roi.ROIName).partition("^")[2] for roi in ds.StructureSetROISequence} == {"M1"}
