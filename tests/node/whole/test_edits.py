"""An edit by another program comes back through a real Orthanc to a real node."""

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from limn.cli import main
from tests.conftest import require_peer
from tests.node.whole.test_peers import plastimatch_masks
from tests.support.node.running import Node, Orthanc, wait_for
from tests.support.organs import Organ

pytestmark = [pytest.mark.node, pytest.mark.peer, pytest.mark.usefixtures("hurried_processes")]


def edited(own: Path, series: Path, masks: dict[Organ, np.ndarray]) -> pydicom.FileDataset:
    """Its contours as rt-utils writes them, under another UID and with who corrected them."""
    from rt_utils import RTStructBuilder  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = RTStructBuilder.create_new(str(series))
        for organ in Organ:
            made.add_roi(np.moveaxis(masks[organ], 0, 2), name=organ.value)
    made.ds.ReviewerName = "Weber^Anna"
    assert pydicom.dcmread(own).SOPInstanceUID != made.ds.SOPInstanceUID
    return made.ds


def test_an_edit_comes_back_through_orthanc(
    make_thorax: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The answer to Orthanc, an edit of known size into Orthanc, from there to limn.

    DSC and path are those of plastimatch and SimpleITK on the voxels of limn's structure set, as
    plastimatch reads it, and on the ones that rt-utils was given. Takes more than 10 s: a node with
    its network starts for it.
    """
    orthanc = Orthanc(tmp_path / "orthanc")
    node = Node(tmp_path / "node", orthanc.destination())
    try:
        modality = {"AET": "LIMN", "Host": "127.0.0.1", "Port": node.port}
        orthanc.put("/modalities/limn", modality)
        node.start()
        series = make_thorax("61")
        assert node.storescu(series).returncode == 0
        name = node.wait_row("M61")["scan_id"]
        (own,) = (node.folder / "data" / "scans" / name).glob("RS.*.dcm")
        before = plastimatch_masks(own, series, tmp_path / "own")
        # The heart two voxels towards the back.
        after = before | {Organ.HEART: np.roll(before[Organ.HEART], 2, axis=1)}
        ds = edited(own, series, after)
        path = tmp_path / "edit.dcm"
        ds.save_as(path, enforce_file_format=True)
        instance = orthanc.upload(path)
        orthanc.post("/modalities/limn/store", [instance])
        wait_for(lambda: bool(node.query("select 1 from edit")), 60, node.explain)
        found = {row[0]: row[1:] for row in node.query(
            "select roi, change, dsc, added_path_mm, centre_dorsal_mm from edit_roi"
        )}  # fmt: skip
        editor = node.query("select editor from returned")
    finally:
        assert node.stop() == 0
        orthanc.process.terminate()
        orthanc.process.wait()

    assert editor == [("Weber Anna",)]
    mm = float(pydicom.dcmread(next(series.iterdir())).PixelSpacing[0])
    for organ in Organ:
        change, dsc, added_mm, _ = found[organ.value]
        assert change == ("edited" if organ is Organ.HEART else "same")
        assert dsc == pytest.approx(
            plastimatch_dice(before[organ], after[organ], tmp_path), abs=1e-4
        )
        assert added_mm == pytest.approx(mm * added(before[organ], after[organ]), abs=1e-3)
    assert found["Heart"][3] == pytest.approx(2 * 0.3, abs=1e-3)
    main.main(["log", "--edits", "--config", str(node.config)])
    said = capsys.readouterr().out
    assert "moved dorsally 0.6 mm" in said
    assert said.count("unchanged") == 3
    assert list((node.folder / "data" / "scans" / name).glob("edit-*.png"))


def plastimatch_dice(first: np.ndarray, second: np.ndarray, folder: Path) -> float:
    """DSC by plastimatch's own command."""
    paths = []
    for number, mask in enumerate((first, second)):
        paths.append(str(folder / f"mask-{number}.mha"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), paths[-1])
    said = subprocess.run(
        [require_peer("plastimatch"), "dice", "--dice", *paths],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (line,) = (each for each in said.splitlines() if "DICE" in each.upper())
    return float(line.split()[-1])


def added(first: np.ndarray, second: np.ndarray) -> int:
    """Contour voxels of the second that the first has not, slice by slice, by SimpleITK."""
    count = 0
    for planes in zip(first, second, strict=True):
        drawn = [
            SimpleITK.GetArrayFromImage(
                SimpleITK.BinaryContour(
                    SimpleITK.GetImageFromArray(np.pad(plane, 1).astype(np.uint8)), False
                )
            )
            for plane in planes
        ]
        count += int(((drawn[1] > 0) & (drawn[0] == 0)).sum())
    return count
