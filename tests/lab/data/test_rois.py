"""Structure sets of other makers, read onto the series that they were drawn on."""

import copy
import csv
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy import ndimage

from limn.cli.main import main
from limn.dicom import bounded
from limn.dicom.ct import CtIdentity, multi_frame
from limn.dicom.series import Series, assemble
from limn.dicom.structures import contours_of_no_roi, structures_of
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.domain.scan import Labels, Volume
from limn.lab.data.rois import GAPS, THIN, TWICE, doubts_of, mask_of
from tests.conftest import require_peer, write_series
from tests.support.organs import Organ


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
    """Its outlines run through the outermost voxels, specks are single points: none is lost."""
    found = {s.name: s for s in structures_of(pydicom.dcmread(by_rt_utils), series)}
    assert set(found) == {organ.value for organ in Organ}
    for organ in Organ:
        structure = found[organ.value]
        assert np.array_equal(mask_of(structure, series), mouse[1].mask(organ))
        assert (structure.left_out, structure.doubts) == ({}, {})


def plastimatch(*arguments: str | Path) -> None:
    """Convert with plastimatch."""
    command = [require_peer("plastimatch"), "convert", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.peer
@pytest.mark.parametrize("organ", [Organ.HEART, Organ.LUNG_R])
def test_plastimatch_structure_sets_are_read(
    organ: Organ, folder: Path, series: Series, mouse: tuple[Volume, Labels], tmp_path: Path
) -> None:
    """An RTSTRUCT by plastimatch gives the labels that went in, and that plastimatch reads."""
    truth = mouse[1].mask(organ)
    image = SimpleITK.GetImageFromArray(truth.astype(np.uint8))
    spacing = mouse[0].grid.spacing_mm
    image.SetSpacing((spacing.x, spacing.y, spacing.z))
    image.SetOrigin([float(v) for v in mouse[0].grid.slice_origins_xyz_mm[0]])
    SimpleITK.WriteImage(image, str(tmp_path / "in.nrrd"))
    out = tmp_path / "out"
    plastimatch(
        *("--input-ss-img", tmp_path / "in.nrrd", "--output-dicom", out, "--referenced-ct", folder)
    )
    (path,) = [p for p in out.iterdir() if pydicom.dcmread(p).Modality == "RTSTRUCT"]
    (structure,) = [s for s in structures_of(pydicom.dcmread(path), series) if s.polygons]
    ours = mask_of(structure, series)
    assert np.array_equal(ours, truth)
    assert (structure.left_out, structure.doubts) == ({}, {})
    plastimatch(
        *("--input", path, "--referenced-ct", folder, "--output-labelmap", tmp_path / "back.nrrd")
    )
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "back.nrrd"))) > 0
    # plastimatch fills holes when it reads its own file.
    filled = np.stack([ndimage.binary_fill_holes(cut) for cut in ours])
    assert np.array_equal(filled, np.stack([ndimage.binary_fill_holes(cut) for cut in theirs]))


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
        "fewer than 3 points": 1,
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


@pytest.mark.parametrize("out", ["out", "out\udce4"])
def test_rois_are_written_over_no_link_and_wait_for_no_fifo(
    by_rt_utils: Path, folder: Path, tmp_path: Path, out: str
) -> None:
    """Into a folder that others may write, whatever its name; as a process, for ITK aborts."""
    (tmp_path / out).mkdir()
    (tmp_path / "victim").write_text("mine")
    for name in ("rois.csv", "Heart.nii.gz", "Heart.nrrd", "Heart.stl"):
        (tmp_path / out / name).symlink_to("../victim")
    os.mkfifo(tmp_path / out / "Lung_R.nii.gz")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "limn.cli", "rois", by_rt_utils, folder),
            *("-o", os.fsencode(tmp_path / out), "--as", "nifti,nrrd,stl,csv"),
        ],
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "victim").read_text() == "mine"
    found = list((tmp_path / out).iterdir())
    assert len(found) == 3 * len(Organ) + 1
    assert all(path.is_file() and not path.is_symlink() for path in found)


def heart_contours(ds: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The contours of the first ROI."""
    return list(ds.ROIContourSequence[0].ContourSequence)


def shifted(item: pydicom.Dataset, up_mm: float) -> pydicom.Dataset:
    """A copy of a contour at another height."""
    moved = copy.deepcopy(item)
    points = np.array(moved.ContourData, dtype=float).reshape(-1, 3) + np.array([0, 0, up_mm])
    moved.ContourData = [round(float(v), 4) for v in points.ravel()]
    return moved


def reverse_references(ds: pydicom.Dataset, _: Series) -> None:
    """The first contour names the image of the last, as after a sort the other way round."""
    items = heart_contours(ds)
    uids = [item.ContourImageSequence[0].ReferencedSOPInstanceUID for item in items]
    for item, uid in zip(items, reversed(uids), strict=True):
        item.ContourImageSequence[0].ReferencedSOPInstanceUID = uid


def next_references(ds: pydicom.Dataset, series: Series) -> None:
    """Each contour names the next image: counted from 1 where 0 was meant."""
    uids = series.sop_instance_uids
    for item in heart_contours(ds):
        image = item.ContourImageSequence[0]
        k = uids.index(image.ReferencedSOPInstanceUID)
        image.ReferencedSOPInstanceUID = uids[k + 1]


def one_reference(ds: pydicom.Dataset, series: Series) -> None:
    """Every contour names the first image of the series."""
    for item in heart_contours(ds):
        item.ContourImageSequence[0].ReferencedSOPInstanceUID = series.sop_instance_uids[0]


def foreign_references(ds: pydicom.Dataset, _: Series) -> None:
    """Every contour names an image of another series in the same frame of reference."""
    for item in heart_contours(ds):
        item.ContourImageSequence[0].ReferencedSOPInstanceUID = "2.25.4711"


def no_uid(ds: pydicom.Dataset, _: Series) -> None:
    """The items of ContourImageSequence have no UID."""
    for item in heart_contours(ds):
        del item.ContourImageSequence[0].ReferencedSOPInstanceUID


@pytest.mark.parametrize(
    ("fault", "doubt"),
    [
        (reverse_references, "names another slice than the points lie on; the points count"),
        (next_references, "names another slice than the points lie on; the points count"),
        (one_reference, "names another slice than the points lie on; the points count"),
        (foreign_references, "names no image of the series"),
        (no_uid, "has an item without UID"),
    ],
)
def test_points_decide_where_a_contour_lies_and_not_its_reference(
    fault: Callable[[pydicom.Dataset, Series], None],
    doubt: str,
    by_rt_utils: Path,
    series: Series,
    mouse: tuple[Volume, Labels],
) -> None:
    """Image references of any kind that contradict the points are overruled and counted."""
    ds = pydicom.dcmread(by_rt_utils)
    count = len(heart_contours(ds))
    fault(ds, series)
    heart, *others = structures_of(ds, series)
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))
    assert heart.left_out == {}
    ((reason, doubtful),) = heart.doubts.items()
    assert reason == f"ContourImageSequence {doubt}"
    # In a reversed list the middle one keeps its image.
    assert count - 1 <= doubtful <= count
    assert not any(other.doubts for other in others)


def test_a_reference_decides_between_two_near_slices(
    by_rt_utils: Path, series: Series, mouse: tuple[Volume, Labels]
) -> None:
    """Rounded heights, up to half a slice off: the reference says which slice was meant."""
    ds = pydicom.dcmread(by_rt_utils)
    up_mm = 0.5 * series.grid.spacing_mm.z
    contours = [shifted(item, up_mm) for item in heart_contours(ds)]
    ds.ROIContourSequence[0].ContourSequence = contours
    heart = structures_of(ds, series)[0]
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))
    assert heart.doubts == {"over a quarter of a slice beside their slice": len(contours)}
    for item in contours:
        del item.ContourImageSequence
    heart = structures_of(ds, series)[0]
    assert heart.polygons == ()
    assert heart.left_out == {"between or beyond the slices": len(contours)}


@pytest.mark.parametrize("times", [2, 3, 5])
def test_contours_of_a_finer_stack_are_not_taken_for_holes(
    times: int, by_rt_utils: Path, series: Series, mouse: tuple[Volume, Labels]
) -> None:
    """Drawn on slices between the series' own: only those on a slice are filled."""
    ds = pydicom.dcmread(by_rt_utils)
    plain = heart_contours(ds)
    for item in plain:
        del item.ContourImageSequence
    step_mm = series.grid.spacing_mm.z / times
    half = times // 2
    between = [k for k in range(half - times + 1, half + 1) if k]
    ds.ROIContourSequence[0].ContourSequence = [
        shifted(item, k * step_mm) for k in (*between, 0) for item in plain
    ]
    heart = structures_of(ds, series)[0]
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))
    assert sum(heart.left_out.values()) == len(plain) * (times - 1)


def test_two_rois_of_one_number_are_refused(
    by_rt_utils: Path,
    folder: Path,
    series: Series,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Numbers counted from the length of a list after a deletion: all ROIs would get one's."""
    ds = pydicom.dcmread(by_rt_utils)
    first, second = (str(roi.ROIName) for roi in ds.StructureSetROISequence[:2])
    ds.StructureSetROISequence[1].ROINumber = 1
    ds.ROIContourSequence[1].ReferencedROINumber = 1
    with pytest.raises(RefusedSeries, match=f"ROINumber 1 is that of {first} and of {second}"):
        structures_of(ds, series)
    ds.save_as(tmp_path / "RS.dcm")
    assert main(["rois", str(tmp_path / "RS.dcm"), str(folder)]) == 1
    assert "number of its own" in capsys.readouterr().err


def test_items_of_one_roi_are_joined(
    by_rt_utils: Path, series: Series, mouse: tuple[Volume, Labels]
) -> None:
    """An item for each slice, or the heart's contours in two halves, far apart in the file."""
    ds = pydicom.dcmread(by_rt_utils)
    contours = heart_contours(ds)
    rest = copy.deepcopy(ds.ROIContourSequence[0])
    rest.ContourSequence = contours[10:]
    ds.ROIContourSequence[0].ContourSequence = contours[:10]
    ds.ROIContourSequence.append(rest)
    heart = structures_of(ds, series)[0]
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))
    # They may as well be another ROI's under a wrong number.
    reason = "joined from a further item of ROIContourSequence with the same number"
    assert heart.doubts == {reason: len(contours) - 10}


def test_contours_of_no_roi_are_counted(
    by_rt_utils: Path, folder: Path, series: Series, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Items without a number, with a number that no ROI has, and an ROI without number."""
    ds = pydicom.dcmread(by_rt_utils)
    counts = [len(roi.ContourSequence) for roi in ds.ROIContourSequence]
    name = str(ds.StructureSetROISequence[2].ROIName)
    del ds.ROIContourSequence[0].ReferencedROINumber
    ds.ROIContourSequence[1].ReferencedROINumber = 77
    del ds.StructureSetROISequence[2].ROINumber
    del ds.RTROIObservationsSequence[0].ReferencedROINumber
    found = structures_of(ds, series)
    assert [len(s.polygons) for s in found] == [0, 0, counts[3]]
    assert contours_of_no_roi(ds) == {
        "without ReferencedROINumber": counts[0],
        "with ReferencedROINumber 77, which no ROI has": counts[1],
        f"ROI {name!r} without ROINumber": 1,
        "with ReferencedROINumber 3, which no ROI has": counts[2],
    }
    ds.save_as(tmp_path / "RS.dcm")
    assert main(["rois", str(tmp_path / "RS.dcm"), str(folder)]) == 0
    output = capfd.readouterr().out
    assert f"of no ROI, left out: {counts[0]} x without ReferencedROINumber" in output


def set_data(text: str) -> Callable[[pydicom.Dataset], None]:
    """A fault: other ContourData, read as from a file."""

    def fault(item: pydicom.Dataset) -> None:
        item[0x30060050] = DataElement(0x30060050, "DS", text.encode(), already_converted=True)

    return fault


def delete_data(item: pydicom.Dataset) -> None:
    """No ContourData at all."""
    del item.ContourData


def empty_data(item: pydicom.Dataset) -> None:
    """ContourData without a value."""
    item.ContourData = None


def lose_points(item: pydicom.Dataset) -> None:
    """The second half of the points is cut off."""
    item.ContourData = list(item.ContourData)[: len(item.ContourData) // 6 * 3]


def open_line(item: pydicom.Dataset) -> None:
    """A line that nobody closed."""
    item.ContourGeometricType = "OPEN_NONPLANAR"


def beside(item: pydicom.Dataset) -> None:
    """A metre beside the animal."""
    points = np.array(item.ContourData, dtype=float).reshape(-1, 3) + np.array([1000, 0, 0])
    item.ContourData = [float(v) for v in points.ravel()]


def far_away(item: pydicom.Dataset) -> None:
    """A number that no image has a column for."""
    item.ContourData = ["1e30", *list(item.ContourData)[1:]]


def offset(item: pydicom.Dataset) -> None:
    """The retired attribute that moves every point."""
    item.ContourOffsetVector = [0, 0.6, 0]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (offset, "ContourOffsetVector is not zero"),
        (set_data(r"1\2\3\4"), "ContourData is no multiple of 3 numbers"),
        (set_data(r"1,5\2\3\1\2\3\2\2\3"), "ContourData unreadable"),
        (set_data(r"nan\2\3\1\2\3\2\2\3"), "ContourData unreadable"),
        (set_data(""), "ContourData empty"),
        (delete_data, "ContourData empty"),
        (empty_data, "ContourData empty"),
        (lose_points, "NumberOfContourPoints differs from ContourData"),
        (open_line, "ContourGeometricType OPEN_NONPLANAR"),
        (beside, "outside the image"),
        (far_away, "outside the image"),
    ],
)
def test_a_damaged_contour_is_left_out_and_counted(
    fault: Callable[[pydicom.Dataset], None], reason: str, by_rt_utils: Path, series: Series
) -> None:
    """One contour of the heart is wrong; the others are read."""
    ds = pydicom.dcmread(by_rt_utils)
    count = len(heart_contours(ds))
    fault(heart_contours(ds)[4])
    heart = structures_of(ds, series)[0]
    assert heart.left_out == {reason: 1}
    assert len(heart.polygons) == count - 1


def test_a_contour_without_type_is_in_doubt(by_rt_utils: Path, series: Series) -> None:
    """It is taken as closed."""
    ds = pydicom.dcmread(by_rt_utils)
    del heart_contours(ds)[4].ContourGeometricType
    heart = structures_of(ds, series)[0]
    assert (heart.left_out, heart.doubts) == ({}, {"ContourGeometricType absent": 1})


def test_an_roi_of_another_frame_of_reference_is_left_out(
    by_rt_utils: Path, series: Series
) -> None:
    """A structure set over two scans: each ROI says on which one it was drawn."""
    ds = pydicom.dcmread(by_rt_utils)
    other = copy.deepcopy(ds.ReferencedFrameOfReferenceSequence[0])
    other.FrameOfReferenceUID = "2.25.4711"
    ds.ReferencedFrameOfReferenceSequence.append(other)
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "2.25.4711"
    heart, cord, *_ = structures_of(ds, series)
    assert heart.left_out == {"drawn in another frame of reference": len(heart_contours(ds))}
    assert heart.polygons == ()
    assert cord.polygons


def test_a_structure_set_without_frame_of_reference_names_an_image_of_the_series(
    by_rt_utils: Path, series: Series, mouse: tuple[Volume, Labels]
) -> None:
    """Two animals lie in one grid of slices, so the heights alone prove nothing."""
    ds = pydicom.dcmread(by_rt_utils)
    del ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    for roi in ds.StructureSetROISequence:
        del roi.ReferencedFrameOfReferenceUID
    ds.pop("FrameOfReferenceUID", None)
    heart = structures_of(ds, series)[0]
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "2.25.4712"
    study.RTReferencedSeriesSequence[0].ContourImageSequence = []
    for roi in ds.ROIContourSequence:
        for item in roi.ContourSequence:
            item.ContourImageSequence[0].ReferencedSOPInstanceUID = "2.25.4711"
    with pytest.raises(RefusedSeries, match=r"names no image of the series but 2\.25\.4711"):
        structures_of(ds, series)


def test_another_animal_in_the_same_frame_of_reference_is_refused(
    by_rt_utils: Path, series: Series
) -> None:
    """Some scanners give one FrameOfReferenceUID to all animals."""
    ds = pydicom.dcmread(by_rt_utils)
    ds.PatientID = "M2"
    assert structures_of(ds, series)[0].polygons
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "2.25.4712"
    del study.RTReferencedSeriesSequence[0].ContourImageSequence
    for roi in ds.ROIContourSequence:
        for item in roi.ContourSequence:
            item.ContourImageSequence[0].ReferencedSOPInstanceUID = "2.25.4711"
    with pytest.raises(RefusedSeries, match="PatientID 'M2', but 'M1' in the series, and the str"):
        structures_of(ds, series)
    ds.PatientID = "M1"
    assert structures_of(ds, series)[0].polygons


def test_frames_of_a_multi_frame_series_are_named_by_number(
    by_rt_utils: Path, folder: Path, mouse: tuple[Volume, Labels], tmp_path: Path
) -> None:
    """ReferencedFrameNumber: right, several, wrong, or absent, which means every frame."""
    instances = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    uids = [ds.SOPInstanceUID for ds in instances]
    whole = multi_frame(instances)
    whole.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    series = assemble(read_headers([tmp_path / "ct.dcm"]))
    ds = pydicom.dcmread(by_rt_utils)
    for item, numbers in zip(heart_contours(ds), cycle(("own", "several", "wrong", "none"))):
        image = item.ContourImageSequence[0]
        number = uids.index(image.ReferencedSOPInstanceUID) + 1
        image.ReferencedSOPInstanceUID = whole.SOPInstanceUID
        stated = {"own": number, "several": [1, number], "wrong": 1, "none": None}[numbers]
        if stated is not None:
            image.ReferencedFrameNumber = stated
    heart = structures_of(ds, series)[0]
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))
    wrong = len(heart_contours(ds)[2::4])
    assert list(heart.doubts.values()) == [wrong]


def test_the_command_prints_what_was_overruled_and_left_out(
    by_rt_utils: Path, folder: Path, series: Series, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """A line for each ROI and reason, with the count."""
    ds = pydicom.dcmread(by_rt_utils)
    next_references(ds, series)
    open_line(heart_contours(ds)[3])
    ds.save_as(tmp_path / "RS.dcm")
    assert main(["rois", str(tmp_path / "RS.dcm"), str(folder)]) == 0
    output = capfd.readouterr().out
    count = len(heart_contours(ds)) - 1
    assert f"Heart, in doubt: {count} x ContourImageSequence names another slice" in output
    assert "Heart, left out: 1 x ContourGeometricType OPEN_NONPLANAR" in output


def test_a_name_stays_in_one_line(by_rt_utils: Path, series: Series) -> None:
    """Line ends and terminal commands in an ROIName are replaced."""
    ds = pydicom.dcmread(by_rt_utils)
    ds.StructureSetROISequence[0].ROIName = "Heart\n\x1b[2Jok"
    assert structures_of(ds, series)[0].name == "Heart??[2Jok"


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """Cut off, or no DICOM at all: a message and no traceback."""
    (tmp_path / "RS.dcm").write_bytes(b"PK" + bytes(300))
    assert main(["rois", str(tmp_path / "RS.dcm"), str(folder)]) == 1


def test_slices_are_read_whatever_their_names(
    by_rt_utils: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No UTF-8, a line end, 255 bytes; a file that is no DICOM is refused by its escaped name."""
    odd = tmp_path / os.fsdecode(b"M\xe4use\n")
    odd.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        name = (b"M\xe4\n%03d.dcm", b"\x1b[2J%03d", b"n" * 252 + b"%03d")[number % 3] % number
        (odd / os.fsdecode(name)).write_bytes(path.read_bytes())
    assert main(["rois", str(by_rt_utils), str(odd)]) == 0
    capsys.readouterr()
    (odd / os.fsdecode(b"\xe4\nno.dcm")).write_text("mouse 12")
    assert main(["rois", str(by_rt_utils), str(odd)]) == 1
    error = capsys.readouterr().err
    assert r"\xe4\nno.dcm is not a readable DICOM file" in error
    assert error.replace("\n", "", 1).rstrip("\n").isprintable()


@pytest.mark.parametrize(
    "kind", ["CLOSED_PLANARXOR", "CLOSED_PLANAR_XOR", "closedplanar_xor", "CLOSED PLANAR"]
)
def test_a_kind_of_contour_with_its_underscores_elsewhere_is_read(
    kind: str, by_rt_utils: Path, series: Series, mouse: tuple[Volume, Labels]
) -> None:
    """The standard itself has CLOSED_PLANAR and CLOSEDPLANAR_XOR."""
    ds = pydicom.dcmread(by_rt_utils)
    for item in heart_contours(ds):
        item.ContourGeometricType = kind
    heart = structures_of(ds, series)[0]
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))
    assert {polygon.xor for polygon in heart.polygons} == {"XOR" in kind.upper()}


@pytest.mark.parametrize("off_mm", [0.0, 1e-5, -1e-5, 0.002])
def test_half_a_slice_off_and_rounded_is_one_case_for_all_contours(
    off_mm: float, by_rt_utils: Path, series: Series, mouse: tuple[Volume, Labels]
) -> None:
    """Slices counted from their edge: no contour of an organ is lost to the last digit."""
    ds = pydicom.dcmread(by_rt_utils)
    for item in heart_contours(ds):
        points = np.array(item.ContourData, dtype=float).reshape(-1, 3)
        points[:, 2] += 0.5 * series.grid.spacing_mm.z + off_mm
        item.ContourData = [f"{v:.7f}" for v in points.ravel()]
    heart = structures_of(ds, series)[0]
    assert heart.left_out == {}
    assert np.array_equal(mask_of(heart, series), mouse[1].mask(Organ.HEART))


def test_a_type_with_the_brackets_of_a_markup_is_shown_as_it_is(
    by_rt_utils: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others write what they like: the table shows it, without escape sequences."""
    ds = pydicom.dcmread(by_rt_utils)
    ds.RTROIObservationsSequence[0].RTROIInterpretedType = "[/red]\x1b[2J"
    ds.save_as(tmp_path / "RS.dcm")
    assert main(["rois", str(tmp_path / "RS.dcm"), str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "[/red]" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
def test_a_structure_set_that_is_cut_off_is_refused(
    by_rt_utils: Path, series: Series, tmp_path: Path, *, implicit: bool, undefined: bool
) -> None:
    """Wherever the file ends before its last contour, and however it counts its bytes."""
    ds = pydicom.dcmread(by_rt_utils)
    for keyword in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        ds[keyword].is_undefined_length = undefined
    for roi in ds.ROIContourSequence:
        roi.is_undefined_length_sequence_item = undefined
        roi["ContourSequence"].is_undefined_length = undefined
    path = tmp_path / "RS.dcm"
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    ds.save_as(path, implicit_vr=implicit, little_endian=True)
    contents = path.read_bytes()
    assert len(structures_of(bounded.read(contents), series)) == len(Organ)
    drawn = contents.index(b"\x06\x30\x39\x00")
    end = contents.index(b"\x06\x30\x80\x00")
    rng = np.random.default_rng(20)
    for kept in (drawn, *rng.integers(2000, end, 60), end - 1):
        with pytest.raises((RefusedSeries, *bounded.DAMAGES)):
            structures_of(bounded.read(contents[:kept]), series)


def test_rois_says_that_a_structure_set_is_cut_off(
    by_rt_utils: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No table of empty ROIs, and an exit status that a script sees."""
    contents = by_rt_utils.read_bytes()
    for share in (0.3, 0.5, 0.9):
        path = tmp_path / f"{share}.dcm"
        path.write_bytes(contents[: int(share * len(contents))])
        assert main(["rois", str(path), str(folder)]) == 1
        answer = capsys.readouterr()
        assert "structure set" in answer.err
        assert str(path) in answer.err
        assert answer.out == ""


def circle(
    item: pydicom.Dataset, radius_mm: float, points: int, at: tuple[float, float, float]
) -> pydicom.Dataset:
    """A round contour on the slice of another contour."""
    angles = np.linspace(0.0, 2.0 * np.pi, points, endpoint=False)
    x, y, z = at
    made = pydicom.Dataset()
    made.ContourImageSequence = item.ContourImageSequence
    made.ContourGeometricType = "CLOSED_PLANAR"
    made.ContourData = [
        f"{value:.4f}"
        for angle in angles
        for value in (x + radius_mm * np.cos(angle), y + radius_mm * np.sin(angle), z)
    ]
    made.NumberOfContourPoints = points
    return made


def rings_on_each_slice(
    path: Path, series: Series, *radii_and_points: tuple[float, int]
) -> pydicom.Dataset:
    """The first ROI with such circles on each of its slices."""
    ds = pydicom.dcmread(path)
    roi = ds.ROIContourSequence[0]
    one_each = {
        item.ContourImageSequence[0].ReferencedSOPInstanceUID: item for item in roi.ContourSequence
    }
    made = []
    for uid, item in one_each.items():
        k = series.sop_instance_uids.index(uid)
        x, y, _ = series.grid.slice_origins_xyz_mm[k]
        z = float(np.array(item.ContourData, dtype=float)[2])
        made += [circle(item, mm, n, (x + 12, y + 12, z)) for mm, n in radii_and_points]
    roi.ContourSequence = made
    return ds


@pytest.mark.parametrize(
    "again", [(3.0, 61), (3.0, 200), (3.1, 80)], ids=["fewer points", "more points", "corrected"]
)
def test_an_outline_that_was_drawn_twice_is_no_outline_and_hole(
    by_rt_utils: Path, series: Series, again: tuple[float, int]
) -> None:
    """With other points, or corrected by less than half a voxel; a person is told."""
    (once, *_) = structures_of(rings_on_each_slice(by_rt_utils, series, (3.0, 80)), series)
    (twice, *_) = structures_of(rings_on_each_slice(by_rt_utils, series, (3.0, 80), again), series)
    assert mask_of(twice, series).sum() == pytest.approx(mask_of(once, series).sum(), rel=0.02)
    slices = {polygon.slice_index for polygon in twice.polygons}
    assert doubts_of(once, series) == {}
    assert doubts_of(twice, series) == {TWICE: len(slices)}


def test_a_thin_wall_stays_one_and_a_person_is_told(by_rt_utils: Path, series: Series) -> None:
    """Two outlines a voxel and a half apart may be meant so, or be a correction."""
    spacing_mm = series.grid.spacing_mm.x
    ds = rings_on_each_slice(by_rt_utils, series, (3.0, 80), (3.0 - 1.5 * spacing_mm, 80))
    (wall, *_) = structures_of(ds, series)
    assert doubts_of(wall, series) == {THIN: len({p.slice_index for p in wall.polygons})}
    (whole, *_) = structures_of(rings_on_each_slice(by_rt_utils, series, (3.0, 80)), series)
    assert 0 < mask_of(wall, series).sum() < 0.6 * mask_of(whole, series).sum()


def test_slices_without_a_contour_are_counted(
    by_rt_utils: Path,
    folder: Path,
    series: Series,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Contours on every second slice give half the volume."""
    ds = rings_on_each_slice(by_rt_utils, series, (3.0, 80))
    ds.ROIContourSequence[0].ContourSequence = ds.ROIContourSequence[0].ContourSequence[::2]
    (roi, *_) = structures_of(ds, series)
    gaps = len(roi.polygons) - 1
    assert doubts_of(roi, series) == {GAPS: gaps}
    ds.save_as(tmp_path / "gaps.dcm", enforce_file_format=True)
    assert main(["rois", str(tmp_path / "gaps.dcm"), str(folder)]) == 0
    assert f"{gaps} x {GAPS}" in " ".join(capsys.readouterr().out.split())


def test_a_structure_set_of_another_animal_is_refused_or_told(
    by_rt_utils: Path, series: Series
) -> None:
    """Without any image it may be of any animal; one that names this one's slices is in doubt."""
    ds = pydicom.dcmread(by_rt_utils)
    ds.PatientID = "somebody else"
    for structure in structures_of(ds, series):
        (told,) = (text for text in structure.doubts if "PatientID" in text)
        assert "somebody else" in told
        assert structure.doubts[told] == len(structure.polygons)
    for frame in ds.ReferencedFrameOfReferenceSequence:
        del frame.RTReferencedStudySequence
    for roi in ds.ROIContourSequence:
        for item in roi.ContourSequence:
            del item.ContourImageSequence
    with pytest.raises(RefusedSeries, match=r"PatientID 'somebody else'.*names no image"):
        structures_of(ds, series)


def test_each_roi_is_written_under_its_name_in_every_form(
    by_rt_utils: Path, folder: Path, series: Series, tmp_path: Path
) -> None:
    """Two ROIs whose names are one file on some systems keep both files; volumes agree."""
    ds = pydicom.dcmread(by_rt_utils)
    names = ["Lung/R", "lung_r", "Heart", "Cord"]
    for roi, name in zip(ds.StructureSetROISequence, names, strict=True):
        roi.ROIName = name
    path, out = tmp_path / "rs.dcm", tmp_path / "out"
    ds.save_as(path, enforce_file_format=True)
    command = ["rois", str(path), str(folder), "-o", str(out), "--as", "nifti,nrrd,stl,csv"]
    assert main(command) == 0
    second = f"lung_r_{ds.StructureSetROISequence[1].ROINumber}"
    stems = ["Lung_R", second, *names[2:]]
    assert {each.name for each in out.iterdir()} == {
        "rois.csv",
        *(f"{stem}.{ending}" for stem in stems for ending in ("nii.gz", "nrrd", "stl")),
    }
    with (out / "rois.csv").open() as file:
        rows = list(csv.DictReader(file))
    structures = structures_of(ds, series)
    assert [row["roi"] for row in rows] == names
    for row, stem, structure in zip(rows, stems, structures, strict=True):
        voxels = mask_of(structure, series).sum()
        volume_mm3 = voxels * series.grid.spacing_mm.voxel_mm3
        assert float(row["volume_mm3"]) == pytest.approx(volume_mm3, rel=1e-3)
        for ending in ("nii.gz", "nrrd"):
            image = SimpleITK.ReadImage(str(out / f"{stem}.{ending}"))
            assert SimpleITK.GetArrayFromImage(image).sum() == voxels
    assert main([*command[:-1], "gif"]) == 1
