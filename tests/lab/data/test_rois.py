"""Structure sets of other makers, read onto the series that they were drawn on."""

import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from scipy import ndimage

from limn.cli.main import main
from limn.dicom.ct import CtIdentity
from limn.dicom.series import Series, assemble
from limn.dicom.structures import structures_of
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.domain.scan import Labels, Organ, Volume, dice
from limn.lab.data.rois import mask_of
from tests.conftest import require_peer, write_series


@pytest.fixture(scope="module")
def folder(mouse: tuple[Volume, Labels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mouse as a series."""
    folder = tmp_path_factory.mktemp("rois") / "ct"
    write_series(mouse[0], folder, CtIdentity("M1", "2.25.44.1", ("20260101", "120000")))
    return folder


@pytest.fixture(scope="module")
def series(folder: Path) -> Series:
    """The series of the folder, assembled."""
    return assemble(read_headers(sorted(folder.iterdir())))


@pytest.fixture(scope="module")
def by_rt_utils(
    mouse: tuple[Volume, Labels], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The truth as a structure set by rt-utils."""
    from rt_utils import RTStructBuilder  # noqa: PLC0415

    path = tmp_path_factory.mktemp("rt-utils") / "RS.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = RTStructBuilder.create_new(str(folder))
        for organ in Organ:
            built.add_roi(np.moveaxis(mouse[1].mask(organ), 0, 2), name=organ.value)
        built.save(str(path))
    return path


def test_rt_utils_structure_sets_are_read(
    by_rt_utils: Path, series: Series, mouse: tuple[Volume, Labels]
) -> None:
    """Its outlines run through voxel centres and lose half a voxel; no voxel is added."""
    found = {s.name: s for s in structures_of(pydicom.dcmread(by_rt_utils), series)}
    assert set(found) == {organ.value for organ in Organ}
    for organ in (Organ.HEART, Organ.LUNG_L, Organ.LUNG_R):
        mask, truth = mask_of(found[organ.value], series), mouse[1].mask(organ)
        inner = np.stack([ndimage.binary_erosion(cut) for cut in truth])
        assert not (mask & ~truth).any()
        assert not (inner & ~mask).any()


@pytest.mark.peer
def test_plastimatch_structure_sets_are_read(
    folder: Path, series: Series, mouse: tuple[Volume, Labels], tmp_path: Path
) -> None:
    """An RTSTRUCT by plastimatch gives the labels that plastimatch itself reads from it."""
    # plastimatch fills holes when it reads its own file; use a heart without holes.
    heart = np.stack([ndimage.binary_fill_holes(cut) for cut in mouse[1].mask(Organ.HEART)])
    image = SimpleITK.GetImageFromArray(heart.astype(np.uint8))
    spacing = mouse[0].grid.spacing_mm
    image.SetSpacing((spacing.x, spacing.y, spacing.z))
    image.SetOrigin([float(v) for v in mouse[0].grid.slice_origins_xyz_mm[0]])
    SimpleITK.WriteImage(image, str(tmp_path / "heart.nrrd"))
    program = require_peer("plastimatch")
    subprocess.run(
        [
            *(program, "convert", "--input-ss-img", str(tmp_path / "heart.nrrd")),
            *("--output-dicom", str(tmp_path / "out"), "--referenced-ct", str(folder)),
        ],
        check=True,
        capture_output=True,
    )
    (path,) = [p for p in (tmp_path / "out").iterdir() if pydicom.dcmread(p).Modality == "RTSTRUCT"]
    ds = pydicom.dcmread(path)
    (structure,) = [s for s in structures_of(ds, series) if s.polygons]
    subprocess.run(
        [
            *(program, "convert", "--input", str(path), "--referenced-ct", str(folder)),
            *("--output-labelmap", str(tmp_path / "back.nrrd")),
        ],
        check=True,
        capture_output=True,
    )
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "back.nrrd"))) > 0
    ours = mask_of(structure, series)
    assert dice(ours, theirs) > 0.98
    # Its outlines run through voxel centres: only those on the line itself may differ.
    for z, y, x in np.argwhere(ours != theirs):
        rings = [
            series.grid.plane_indices_yx(z, polygon.points_xyz_mm)
            for polygon in structure.polygons
            if polygon.slice_index == z
        ]
        assert min(distance_to(ring, y, x) for ring in rings) < 0.01


def distance_to(ring_yx: np.ndarray, y: int, x: int) -> float:
    """Distance from a voxel's centre to the polygon's line, in voxels."""
    along = np.roll(ring_yx, -1, axis=0) - ring_yx
    away = np.array([y, x]) - ring_yx
    share = np.clip((away * along).sum(1) / np.maximum((along**2).sum(1), 1e-12), 0, 1)
    return float(np.linalg.norm(away - share[:, None] * along, axis=1).min())


def test_contours_without_image_reference_find_their_slice(
    by_rt_utils: Path, series: Series
) -> None:
    """Without ContourImageSequence the z coordinate decides; beyond the stack there is no slice."""
    ds = pydicom.dcmread(by_rt_utils)
    before = mask_of(structures_of(ds, series)[0], series)
    for item in ds.ROIContourSequence[0].ContourSequence:
        del item.ContourImageSequence
    assert np.array_equal(mask_of(structures_of(ds, series)[0], series), before)
    first = ds.ROIContourSequence[0].ContourSequence[5]
    points = np.array(first.ContourData, dtype=float).reshape(-1, 3) + np.array([0, 0, 500])
    first.ContourData = [float(v) for v in points.ravel()]
    assert structures_of(ds, series)[0].left_out["between or beyond the slices"] == 1


def test_what_is_no_polygon_is_counted(by_rt_utils: Path, series: Series) -> None:
    """Points, polygons of two points, tilted polygons, and an ROI without contours."""
    ds = pydicom.dcmread(by_rt_utils)
    # rt-utils writes specks as polygons of one and two points.
    before = structures_of(ds, series)[0].left_out.get("fewer than 3 points", 0)
    items = [item for item in ds.ROIContourSequence[0].ContourSequence if len(item.ContourData) > 8]
    items[0].ContourGeometricType = "POINT"
    items[1].ContourData = list(items[1].ContourData)[:6]
    points = np.array(items[2].ContourData, dtype=float)
    points[2] += 1.0
    items[2].ContourData = points.tolist()
    del ds.ROIContourSequence[1].ContourSequence
    first, second, *_ = structures_of(ds, series)
    assert first.left_out == {
        "ContourGeometricType POINT": 1,
        "fewer than 3 points": before + 1,
        "not parallel to the slices": 1,
    }
    assert second.polygons == ()


def test_a_nested_polygon_is_a_hole_and_a_double_one_is_not(
    by_rt_utils: Path, series: Series
) -> None:
    """Many systems write a hole as a plain polygon inside another."""
    ds = pydicom.dcmread(by_rt_utils)
    (item, *_) = ds.ROIContourSequence[0].ContourSequence
    k = series.sop_instance_uids.index(item.ContourImageSequence[0].ReferencedSOPInstanceUID)
    x, y, _ = series.grid.slice_origins_xyz_mm[k]
    z = float(np.array(item.ContourData, dtype=float)[2])

    def square(half_mm: float) -> pydicom.Dataset:
        made = pydicom.Dataset()
        made.ContourImageSequence = item.ContourImageSequence
        made.ContourGeometricType = "CLOSED_PLANAR"
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        made.ContourData = [
            value
            for dx, dy in corners
            for value in (x + 12 + dx * half_mm, y + 12 + dy * half_mm, z)
        ]
        made.NumberOfContourPoints = 4
        return made

    ds.ROIContourSequence[0].ContourSequence = [square(3.1), square(3.1), square(1.0)]
    mask = mask_of(structures_of(ds, series)[0], series)[k]
    ds.ROIContourSequence[0].ContourSequence = [square(3.1)]
    whole = mask_of(structures_of(ds, series)[0], series)[k]
    ds.ROIContourSequence[0].ContourSequence = [square(1.0)]
    hole = mask_of(structures_of(ds, series)[0], series)[k]
    assert np.array_equal(mask, whole & ~hole)
    assert hole.any()


def test_a_structure_set_of_another_scan_is_refused(by_rt_utils: Path, series: Series) -> None:
    """Another frame of reference is refused with its UID."""
    ds = pydicom.dcmread(by_rt_utils)
    ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "2.25.4711"
    with pytest.raises(RefusedSeries, match=r"FrameOfReferenceUID 2\.25\.4711"):
        structures_of(ds, series)


def test_the_command_lists_rois_and_writes_masks(
    by_rt_utils: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`limn rois` prints a line and writes a mask for each ROI."""
    assert main(["rois", str(by_rt_utils), str(folder), "-o", str(tmp_path / "masks")]) == 0
    output = capsys.readouterr().out
    for organ in Organ:
        assert organ.value in output
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == len(Organ)
    assert main(["rois", str(folder / "ct_0001.dcm"), str(folder)]) == 1
    assert "Modality" in capsys.readouterr().err
