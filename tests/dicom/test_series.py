import random
import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    EnhancedCTImageStorage,
    MRImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from limn.dicom.ct import CtIdentity, ct_instances, multi_frame
from limn.dicom.series import Instance, assemble
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Volume

IDENTITY = CtIdentity("M1", "2.25.5", ("20260101", "120000"))


def instances_of(grid: Grid) -> list[Instance]:
    """A CT series on a grid, headers as a scanner would write them."""
    volume = Volume(np.zeros(grid.shape_zyx, np.float32), grid)
    return [Instance(ds, Path(f"{k}.dcm")) for k, ds in enumerate(ct_instances(volume, IDENTITY))]


@pytest.fixture
def instances() -> list[Instance]:
    """Six sound axial slices of 4 x 5 voxels, 0.14 mm apart."""
    return instances_of(axial_grid((6, 4, 5), SpacingMm(0.14, 0.2, 0.1), np.array([1.0, 2.0, 3.0])))


def turned(iop, shear=(0.0, 0.0, 0.0)) -> list[Instance]:
    """Six slices in another orientation, each shifted sideways by a constant step."""
    x, y = np.array(iop[:3], float), np.array(iop[3:], float)
    step = 0.14 * np.cross(x, y) + np.array(shear)
    origins = np.array([1.0, 2.0, 3.0]) + np.outer(np.arange(6), step)
    return instances_of(Grid(origins, 4, 5, 0.2, 0.1, x, y))


def test_a_series_is_sorted_along_its_normal_whatever_its_files_order(instances):
    """Any order of files gives the same series, slices from tail to head."""
    wanted = tuple(str(i.header.SOPInstanceUID) for i in instances)
    for seed in range(5):
        shuffled = random.Random(seed).sample(instances, len(instances))  # noqa: S311
        series = assemble(shuffled)
        assert series.sop_instance_uids == wanted
        np.testing.assert_allclose(series.grid.slice_positions_mm, 3.0 + 0.14 * np.arange(6))
        assert series.first is instances[0].header


def test_instance_numbers_decide_nothing(instances):
    """Slices numbered against their positions, or not at all, are sorted by position."""
    wanted = tuple(str(i.header.SOPInstanceUID) for i in instances)
    for k, instance in enumerate(instances):
        instance.header.InstanceNumber = None if k == 2 else 100 - k
    assert assemble(instances).sop_instance_uids == wanted


def test_pixel_spacing_is_rows_first(instances):
    """The first PixelSpacing value lies between rows, the second between columns."""
    grid = assemble(instances).grid
    assert (grid.spacing_y_mm, grid.spacing_x_mm) == (0.2, 0.1)
    assert grid.shape_zyx == (6, 4, 5)


def change(instance: Instance, **attributes) -> None:
    """Set attributes of one header; None deletes."""
    for keyword, value in attributes.items():
        if value is None:
            delattr(instance.header, keyword)
        else:
            setattr(instance.header, keyword, value)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"Modality": "MR"}, r"Modality 'MR', 'CT' expected"),
        ({"Modality": None}, r"Modality 'absent', 'CT' expected"),
        ({"SOPClassUID": MRImageStorage}, rf"SOPClassUID {MRImageStorage}, a CT"),
        ({"SOPClassUID": RTStructureSetStorage}, rf"SOPClassUID {RTStructureSetStorage}, a CT"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, r"SOPClassUID"),
        ({"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": 40}, r"NumberOfFrames 40"),
        ({"SeriesInstanceUID": None}, r"SeriesInstanceUID absent"),
        ({"StudyInstanceUID": ""}, r"StudyInstanceUID absent"),
        ({"SOPInstanceUID": None}, r"SOPInstanceUID absent"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, r"ImageType .*LOCALIZER"),
        ({"Rows": None}, r"Rows absent: .* no pixels"),
        ({"Columns": None}, r"Columns absent: .* no pixels"),
        ({"BitsAllocated": None}, r"BitsAllocated absent: .* no pixels"),
        ({"SamplesPerPixel": 3}, r"SamplesPerPixel 3, 1 expected"),
        ({"RescaleSlope": None}, r"RescaleSlope absent: .*assume_hu"),
        ({"RescaleIntercept": None}, r"RescaleIntercept absent: .*assume_hu"),
        ({"ImageOrientationPatient": None}, r"ImageOrientationPatient absent, 6 numbers"),
        ({"ImageOrientationPatient": [1, 0, 0]}, r"ImageOrientationPatient .*, 6 numbers"),
        ({"ImagePositionPatient": None}, r"ImagePositionPatient absent, 3 numbers"),
        ({"ImagePositionPatient": ["1", "2"]}, r"ImagePositionPatient 1\\2, 3 numbers"),
        ({"PixelSpacing": None}, r"PixelSpacing absent, 2 numbers"),
        ({"PixelSpacing": ""}, r"PixelSpacing .*2 numbers expected"),
        ({"PixelSpacing": ["0", "0.1"]}, r"PixelSpacing 0\\0.1 is not positive"),
        # What differs within the series: both values are named.
        ({"PatientID": "M2"}, r"PatientID differs .*M1, but M2 in 1 instances"),
        ({"SeriesInstanceUID": "2.25.9"}, r"SeriesInstanceUID differs .*2\.25\.5\.2.*2\.25\.9"),
        ({"PixelSpacing": [0.2, 0.11]}, r"PixelSpacing differs .*0\.2\\0\.1, but 0\.2\\0\.11"),
        ({"Rows": 8}, r"Rows differs .*4, but 8"),
        ({"Columns": 8}, r"Columns differs .*5, but 8"),
        ({"FrameOfReferenceUID": "2.25.9"}, r"FrameOfReferenceUID differs .*2\.25\.9"),
        (
            {"ImageOrientationPatient": ["-1", "0", "0", "0", "1", "0"]},
            r"ImageOrientationPatient differs .*1\\0\\0\\0\\1\\0, but -1\\0\\0\\0\\1\\0",
        ),
    ],
)
def test_one_unfit_slice_refuses_the_series(instances, attributes, named):
    """One slice that does not fit is enough, and the refusal names keyword and value."""
    assemble(instances)
    change(instances[3], **attributes)
    with pytest.raises(RefusedSeries, match=named):
        assemble(instances)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_slices_are_refused(instances, count):
    """Fewer than three slices are no stack."""
    with pytest.raises(RefusedSeries, match=rf"{count} slices, at least 3|no DICOM instance"):
        assemble(instances[:count])
    assert assemble(instances[:3]).grid.shape_zyx[0] == 3


def test_a_site_may_declare_hounsfield_units(instances):
    """Without rescale a series passes only when the site says that its pixels are HU."""
    for instance in instances:
        change(instance, RescaleSlope=None, RescaleIntercept=None)
    with pytest.raises(RefusedSeries, match="RescaleSlope absent"):
        assemble(instances)
    assert assemble(instances, assume_hu=True).grid.shape_zyx == (6, 4, 5)


def test_a_slice_that_comes_twice_is_refused(instances):
    """Two instances at one position are named."""
    change(instances[4], ImagePositionPatient=instances[3].header.ImagePositionPatient)
    with pytest.raises(
        RefusedSeries, match=r"ImagePositionPatient .*twice.*3\.4 and 2\.25\.5\.3\.5"
    ):
        assemble(instances)


def phases(keyword: str, values: list, per_position: int = 4) -> list[Instance]:
    """Several images at each of six positions."""
    several = []
    for phase in range(per_position):
        for k, instance in enumerate(turned((1, 0, 0, 0, 1, 0))):
            change(
                instance,
                SOPInstanceUID=f"2.25.5.3.{k}.{phase + 1}",
                **{keyword: values[phase]},
            )
            several.append(instance)
    return several


@pytest.mark.parametrize(
    ("keyword", "values", "shown"),
    [
        ("AcquisitionNumber", [1, 2, 3, 4], "AcquisitionNumber 1..4"),
        ("TemporalPositionIdentifier", [8, 9, 10, 11], "TemporalPositionIdentifier 8..11"),
        ("ConvolutionKernel", ["B", "A", "C", "D"], "ConvolutionKernel A, B, C, D"),
        (
            "StationName",
            ["x"] * 4,
            r"the first two are instances 2\.25\.5\.3\.0\.1 and 2\.25\.5\.3\.0\.2",
        ),
    ],
)
def test_several_images_at_each_position_are_counted(keyword, values, shown):
    """Once for the series, with what tells the images apart."""
    why = f"ImagePositionPatient: 4 images at each of 6 positions; {shown}; export one of them"
    with pytest.raises(RefusedSeries, match=why):
        assemble(phases(keyword, values))


def test_a_second_phase_of_some_slices_is_counted():
    """A broken off second phase."""
    twice = phases("AcquisitionNumber", [1, 2], 2)[:9]
    why = "2 images at each of 3 positions, one at each other; AcquisitionNumber 1..2"
    with pytest.raises(RefusedSeries, match=why):
        assemble(twice)


def test_a_fault_of_every_slice_is_told_once_with_the_count(instances):
    """A whole series without rescale."""
    for each in instances:
        change(each, RescaleSlope=None)
    with pytest.raises(RefusedSeries, match=r"RescaleSlope absent: .*; 6 of 6 images are refused"):
        assemble(instances)


@pytest.mark.parametrize("vr", ["UT", "LT", "ST", "LO", "UN"])
def test_numbers_are_read_in_any_vr_of_text(instances, vr):
    """Some converters write numbers as texts."""
    plain = assemble(instances).grid
    for each in instances:
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
            text = "\\".join(str(v) for v in each.header[keyword].value)
            each.header[keyword] = DataElement(
                tag_for_keyword(keyword),
                vr,
                text.encode() if vr == "UN" else text,
                already_converted=vr != "LO",
            )
    grid = assemble(instances).grid
    assert grid.spacing_mm == plain.spacing_mm
    assert np.array_equal(grid.slice_origins_xyz_mm, plain.slice_origins_xyz_mm)


@pytest.mark.parametrize("vr", ["DS", "UT"])
@pytest.mark.parametrize("text", ["0.2,0.1", "0,2\\0,1"])
def test_a_comma_in_numbers_is_named(instances, vr, text):
    """Read from the file as it stands there."""
    for each in instances:
        each.header[0x00280030] = RawDataElement(
            Tag(0x00280030), vr, len(text), text.encode(), 0, False, True
        )
    why = "a decimal point in each and a backslash between them, and no comma"
    with pytest.raises(RefusedSeries, match=rf"PixelSpacing {re.escape(text)}, 2 .*{why}"):
        assemble(instances)


@pytest.mark.parametrize("vr", ["DS", "UT"])
@pytest.mark.parametrize("text", ["0.2;0.2", "0.2 0.2", "[0.2\\0.2]", "0.2mm\\0.2mm"])
def test_what_stands_beside_the_numbers_is_named(instances, vr, text):
    """A semicolon, a space, brackets, a unit."""
    for each in instances:
        each.header[0x00280030] = RawDataElement(
            Tag(0x00280030), vr, len(text), text.encode(), 0, False, True
        )
    why = (
        "2 numbers expected, with a decimal point in each and a backslash between them, and nothing"
    )
    with pytest.raises(RefusedSeries, match=rf"^PixelSpacing {re.escape(text)}, {why} else"):
        assemble(instances)


def test_a_comma_in_the_rescale_is_named(instances):
    """The value as it was written, and not as damage."""
    raw = RawDataElement(Tag(0x00281053), "DS", 4, b"1,5 ", 0, False, True)
    instances[2].header[0x00281053] = raw
    with pytest.raises(RefusedSeries, match=r"^RescaleSlope 1,5 is no number that gives HU"):
        assemble(instances)


@pytest.mark.parametrize(
    ("sequence", "keyword", "text"),
    [
        ("PixelMeasuresSequence", "PixelSpacing", b"0,2\\0,1 "),
        ("PlanePositionSequence", "ImagePositionPatient", b"1,5\\2\\3 "),
        ("PlaneOrientationSequence", "ImageOrientationPatient", b"1\\0,1\\0\\0\\1\\0 "),
        ("PixelValueTransformationSequence", "RescaleSlope", b"1,5 "),
    ],
)
def test_a_comma_in_a_functional_group_is_named(instances, sequence, keyword, text):
    """An Enhanced CT says what a classic one does: the keyword and the value as written."""
    ds = multi_frame([each.header for each in instances])
    tag = Tag(tag_for_keyword(keyword))
    for group in (*ds.PerFrameFunctionalGroupsSequence, *ds.SharedFunctionalGroupsSequence):
        if sequence in group:
            raw = RawDataElement(tag, "DS", len(text), text, 0, False, True)
            group[sequence].value[0][tag] = raw
    with pytest.raises(RefusedSeries, match=rf"^{keyword} {re.escape(text.decode().strip())}"):
        assemble([Instance(ds, Path("enhanced.dcm"))])


def test_a_missing_slice_is_refused(instances):
    """A gap is named by its slices, its width and the width expected."""
    del instances[2]
    with pytest.raises(
        RefusedSeries, match=r"slices 2 and 3 of 5 are 0\.2800 mm apart, 0\.1400 mm expected"
    ):
        assemble(instances)


def test_rounded_positions_are_tolerated(instances):
    """Positions written with two decimals of a millimetre are not gaps."""
    for k, instance in enumerate(instances):
        instance.header.ImagePositionPatient = [1, 2, round(3 + 0.1401 * k, 3)]
    assert assemble(instances).grid.spacing_mm.z == pytest.approx(0.14, abs=1e-3)


@pytest.mark.parametrize("shear", [(0.0, 0.05, 0.0), (0.02, 0.0, 0.0)])
def test_a_tilted_gantry_is_refused(shear):
    """Slices that wander sideways are a sheared stack."""
    with pytest.raises(RefusedSeries, match=r"ImagePositionPatient moves .* gantry was tilted"):
        assemble(turned((1, 0, 0, 0, 1, 0), shear))


def test_an_oblique_stack_is_refused():
    """A stack that does not lie along the animal's axes is refused with its orientation."""
    c, s = np.cos(np.deg2rad(5)), np.sin(np.deg2rad(5))
    with pytest.raises(RefusedSeries, match=r"ImageOrientationPatient 0\.99.*oblique"):
        assemble(turned((c, s, 0, -s, c, 0)))


@pytest.mark.parametrize("iop", [(1, 0, 0, 0, 2, 0), (1, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0)])
def test_an_orientation_without_right_angles_is_refused(instances, iop):
    """ImageOrientationPatient must be two unit vectors at right angles; the value is named."""
    for instance in instances:
        change(instance, ImageOrientationPatient=[str(value) for value in iop])
    with pytest.raises(RefusedSeries, match=r"ImageOrientationPatient \d\\.*orthonormal"):
        assemble(instances)


@pytest.mark.parametrize(
    ("iop", "letters"),
    [
        ((1, 0, 0, 0, 1, 0), "SPL"),
        ((-1, 0, 0, 0, -1, 0), "SAR"),
        ((-1, 0, 0, 0, 1, 0), "IPR"),
        ((1, 0, 0, 0, 0, -1), "PIL"),
        ((0, 1, 0, 0, 0, -1), "RIP"),
    ],
)
def test_every_orientation_along_the_axes_is_contourable(iop, letters):
    """Prone, feet first, coronal and sagittal stacks are read as they lie."""
    assert assemble(turned(iop)).grid.axis_letters == letters


def test_a_series_without_frame_of_reference_is_contourable(instances):
    """FrameOfReferenceUID may be missing from all slices, not from some."""
    for instance in instances:
        change(instance, FrameOfReferenceUID=None)
    assert assemble(instances).grid.shape_zyx == (6, 4, 5)
    change(instances[0], FrameOfReferenceUID="2.25.4")
    with pytest.raises(RefusedSeries, match=r"FrameOfReferenceUID differs .*absent.*2\.25\.4"):
        assemble(instances)
