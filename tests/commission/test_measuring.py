"""A structure set is measured in the patient: what is mirrored, renamed, moved or grown is said."""

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from limn.commission.measuring import (
    changed,
    exchanged,
    faults,
    measured,
    offset_xyz_mm,
    truth_exchanged,
)
from limn.commission.phantoms import SentPhantom, make
from limn.commission.plan import PlannedStep
from limn.commission.tolerances import Tolerances
from limn.domain.errors import StageFailed
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import TG263_ROLES
from limn.lab.phantoms.synthesize import PhantomRequest
from tests.support.structure_sets import mirrored, moved, renamed

NAMES = {role: str(organ) for role, organ in TG263_ROLES.items()}
WHOSE = "what came"
STEP = PlannedStep(
    name="small",
    group="lies",
    says="a small one",
    request=PhantomRequest(3, 0.6, (30.0, 26.0, 30.0), position="FFDR", stack="sagittal"),
)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> SentPhantom:
    """A coarse phantom, feet first on its right side, in sagittal slices."""
    return make(STEP, tmp_path_factory.mktemp("phantom") / "small", "one")


@pytest.fixture
def truth(phantom: SentPhantom) -> bytes:
    """The structure set of its truth."""
    return (phantom.folder.parent / "rtstruct.dcm").read_bytes()


def test_the_truth_is_without_fault(phantom, truth):
    """Whatever the lie and the stack: no offset, the same voxels, lungs on their sides."""
    organs = measured(truth, phantom, NAMES)
    assert [each.role for each in organs] == [role.value for role in NAMES]
    for each in organs:
        assert each.dsc == 1.0
        assert each.volume_mm3 == each.truth_mm3 > 0.0
        assert np.abs(each.offset_xyz_mm).max() < 1e-9
    assert faults(organs, Tolerances(), WHOSE) == ()
    assert truth_exchanged(organs) == ""


def test_a_reading_that_exchanges_truth_and_contours_alike_is_told(phantom, truth):
    """Both would lie on each other: what a right lung is in DICOM says that they are wrong."""
    organs = measured(truth, phantom, NAMES)
    wrong = [
        replace(each, left_mm=-each.left_mm, truth_left_mm=-each.truth_left_mm) for each in organs
    ]
    assert exchanged(wrong, WHOSE) == ""
    assert truth_exchanged(wrong).startswith("Left and right are exchanged in limn's own reading")


def test_what_the_phantom_does_not_show_must_not_be_drawn(phantom, truth):
    """A belly has no lung; and a planning system adds none to what limn sent."""
    organs = measured(truth, phantom, NAMES)
    none = replace(organs[0], truth_mm3=0.0, truth_left_mm=None, offset_xyz_mm=None)
    (said,) = faults([none], Tolerances(), WHOSE)
    assert said.endswith(" mm3 in what came, and the phantom shows none of it.")
    nothing = replace(none, volume_mm3=0.0)
    assert faults([nothing], Tolerances(), WHOSE) == ()
    (said,) = changed([none], [nothing], Tolerances(), 0.6, WHOSE)
    assert " was not sent and has " in said


def test_its_slices_say_whose_they_are(phantom):
    """Every instance has the commissioning's PatientID; no other is ever sent."""
    assert {ds.PatientID for ds in phantom.datasets()} == {"COMMISSIONING-SMALL"}
    path = sorted(phantom.folder.iterdir())[0]
    before = path.read_bytes()
    ds = pydicom.dcmread(path)
    ds.PatientID = "M17"
    ds.save_as(path)
    with pytest.raises(StageFailed, match="an instance of 'M17'; nothing was sent"):
        phantom.datasets()
    path.write_bytes(before)


def test_a_second_run_sends_the_same_bytes_and_another_occasion_other_uids(phantom, tmp_path):
    """A killed run sends no other contents under UIDs that the node knows."""
    again, other = make(STEP, tmp_path / "a", "one"), make(STEP, tmp_path / "b", "two")
    assert again.series_instance_uid == phantom.series_instance_uid != other.series_instance_uid
    for path in phantom.folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes()


def test_a_mirror_image_is_told_as_exchanged_sides(phantom, truth):
    """The planning system's own fault: x of every point changes its sign."""
    sent = measured(truth, phantom, NAMES)
    back = measured(mirrored(truth), phantom, NAMES)
    (first, *_) = changed(back, sent, Tolerances(), 0.6, WHOSE)
    assert first.startswith("Left and right are exchanged in what came: Lung_R lies ")
    assert " mm to the LEFT of Lung_L in the patient's coordinates" in first
    assert "do not treat any animal by these contours" in first


def test_exchanged_names_of_the_lungs_are_told_too(phantom, truth):
    """The outlines lie where they must, under each other's names."""
    organs = measured(renamed(truth, {"Lung_R": "Lung_L", "Lung_L": "Lung_R"}), phantom, NAMES)
    assert exchanged(organs, WHOSE).startswith("Left and right are exchanged in what came")
    assert any("Lung_R overlaps the truth" in each for each in faults(organs, Tolerances(), WHOSE))


@pytest.mark.parametrize(("axis", "words"), [(0, "x (left-right)"), (2, "z (tail-head)")])
def test_a_shift_is_told_in_millimetres_of_the_patient(phantom, truth, axis, words):
    """A whole voxel: within the slices or across them, by the stack."""
    shift = np.zeros(3)
    shift[axis] = 1.2
    sent = measured(truth, phantom, NAMES)
    back = measured(moved(truth, shift), phantom, NAMES)
    said = changed(back, sent, Tolerances(), 0.6, WHOSE)
    assert len(said) == 4
    assert all(f"was moved by +1.20 mm along {words}" in each for each in said)
    assert f"lies +1.20 mm off along {words}" in faults(back, Tolerances(), WHOSE)[0]


def rod(from_mm: float, to_mm: float, aside_mm: float = 0.0) -> np.ndarray:
    """A cord that lies obliquely: 0.4 mm to the side for each mm along the animal."""
    z, y, x = np.ogrid[:80, :30, :80]
    middle = 40 + 0.4 * (z - 40) + aside_mm / 0.2
    return ((x - middle) ** 2 + (y - 15) ** 2 <= 9.0) & (z * 0.2 >= from_mm) & (z * 0.2 <= to_mm)


def test_an_oblique_cord_that_is_too_long_lies_in_its_place():
    """Its middle is elsewhere along the animal, and therefore aside; one that is moved is told."""
    grid = axial_grid((80, 30, 80), SpacingMm(0.2, 0.2, 0.2), np.zeros(3))
    truth, longer = rod(5.0, 12.0), rod(1.0, 12.0)
    x, y, z = offset_xyz_mm(longer, truth, grid, by_level=True)
    assert abs(x) < 0.01
    assert abs(y) < 0.01
    assert z == pytest.approx(-2.0, abs=0.11)
    assert offset_xyz_mm(longer, truth, grid, by_level=False)[0] == pytest.approx(-0.8, abs=0.05)
    moved = offset_xyz_mm(rod(1.0, 12.0, aside_mm=0.8), truth, grid, by_level=True)
    assert moved[0] == pytest.approx(0.8, abs=0.01)
    # With no level in common the middles are all that is left.
    apart = offset_xyz_mm(rod(1.0, 3.0), rod(9.0, 12.0), grid, by_level=True)
    assert apart == offset_xyz_mm(rod(1.0, 3.0), rod(9.0, 12.0), grid, by_level=False)
    assert offset_xyz_mm(truth & False, truth, grid, by_level=True) is None


def test_a_missing_organ_is_told(phantom, truth):
    """It has no contour, or another name."""
    organs = measured(renamed(truth, {"Heart": "heart"}), phantom, NAMES)
    assert "Heart is missing in what came." in faults(organs, Tolerances(), WHOSE)
    sent = measured(truth, phantom, NAMES)
    assert changed(organs, sent, Tolerances(), 0.6, WHOSE) == (
        "Heart was sent and is missing in what came.",
    )


def test_the_mirror_is_one(truth):
    """The support of these tests changes x alone."""
    before, after = (pydicom.dcmread(io.BytesIO(each)) for each in (truth, mirrored(truth)))
    first, second = (
        ds.ROIContourSequence[0].ContourSequence[0].ContourData for ds in (before, after)
    )
    assert float(first[0]) == -float(second[0])
    assert first[1:3] == second[1:3]
