"""Images in the watched folder of a whole node: CT, contours and SEG at real peers."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK

from limn.domain.scan import unpack_labels
from tests.conftest import require_peer
from tests.support.node.running import Orthanc, StoreScp, wait_for
from tests.support.node.siege import FakeNode
from tests.support.node.toy import SHAPE_ZYX, SPACING_MM, toy

pytestmark = [pytest.mark.node, pytest.mark.peer]
WATCH = """
[watch]
folder = "watched"
settle_s = 0.5
rescan_s = 0.5
formats = ["nifti"]
patient_id = "name"
"""
COUNT = SHAPE_ZYX[0]


def write_image(path: Path, number: int) -> None:
    """The toy of this number as NIfTI, under another name until it is whole."""
    hu = np.stack([ds.pixel_array.astype(np.int16) - 4096 for ds in toy(number).datasets])
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing((SPACING_MM,) * 3)
    part = path.with_name(f".{path.name}")
    SimpleITK.WriteImage(image, str(part))
    part.rename(path)


def received(peer: StoreScp) -> list[pydicom.Dataset]:
    """What came at a peer, in this order."""
    paths = sorted(peer.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [pydicom.dcmread(path) for path in paths]


def test_ct_structure_set_and_segmentation_reach_every_peer(tmp_path: Path) -> None:
    """The receiver is killed while it reads the image; storescp, Orthanc and a folder get it once.

    Takes more than 10 s: a whole node starts, and its receiver once more.
    """
    tps, orthanc = StoreScp(tmp_path / "tps"), Orthanc(tmp_path / "orthanc")
    export = tmp_path / "export"
    seg = 'forms = ["seg"]\n'
    folder = f'[[destination]]\nkind = "folder"\nname = "export"\nfolder = "{export}"\n'
    node = FakeNode(
        tmp_path / "node", WATCH + tps.destination() + seg + orthanc.destination() + seg + folder
    )
    watched = tmp_path / "node" / "watched"
    watched.mkdir()
    try:
        node.start()
        write_image(watched / "M7.nii.gz", 7)
        wait_for((node.data / "images" / "request.json").exists, 30, node.explain)
        receiver = node.pid("receiver")
        assert receiver is not None
        os.kill(receiver, signal.SIGKILL)
        wait_for(lambda: len(received(tps)) == COUNT + 2, 120, node.explain)
        came = received(tps)
        modalities = [str(ds.Modality) for ds in came]
        assert modalities == ["CT"] * COUNT + ["RTSTRUCT", "SEG"]
        assert [ds.InstanceNumber for ds in came[:COUNT]] == list(range(1, COUNT + 1))
        wait_for(lambda: len(orthanc.get("/instances")) == COUNT + 2, 30, node.explain)
        check(tps, node, came)
        (series,) = export.glob("CT.*")
        assert len(list(series.iterdir())) == COUNT

        # The same image under another path: the structure set is offered again, the CT is not.
        before = {path.stat().st_mtime_ns for path in tps.folder.glob("CT*")}
        (watched / "again").mkdir()
        shutil.copy(watched / "M7.nii.gz", watched / "again" / "M7.nii.gz")
        wait_for(lambda: "nothing new: no second structure set" in node.log(), 60, node.explain)
        wait_for(lambda: node.log().count("its SEG is at TPS") == 2, 30, node.explain)
        assert {path.stat().st_mtime_ns for path in tps.folder.glob("CT*")} == before
        assert node.query("select count(*) from scan") == [(1,)]
    finally:
        assert node.stop() == 0
        for peer in (tps.process, orthanc.process):
            peer.terminate()
            peer.wait()


def check(tps: StoreScp, node: FakeNode, came: list[pydicom.Dataset]) -> None:
    """The three belong together, are valid, and the segmentation has the node's own labels."""
    *slices, structure_set, segmentation = came
    assert {ds.PatientID for ds in came} == {"M7"}
    assert {ds.FrameOfReferenceUID for ds in came} == {slices[0].FrameOfReferenceUID}
    (frame,) = structure_set.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    uids = [str(ds.SOPInstanceUID) for ds in slices]
    named = {str(each.ReferencedSOPInstanceUID) for each in series.ContourImageSequence}
    assert named == set(uids)
    for path in tps.folder.iterdir():
        done = subprocess.run(
            [require_peer("dciodvfy"), "-new", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not re.search("^Error", done.stdout + done.stderr, re.MULTILINE), done.stderr
    (path,) = (each for each in tps.folder.iterdir() if pydicom.dcmread(each).Modality == "SEG")
    pixels = highdicom.seg.segread(path).get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    (labels,) = (node.data / "scans").glob("*/labels.npz")
    assert np.array_equal(pixels, unpack_labels(labels.read_bytes()))
    assert len(segmentation.SegmentSequence) == 4
