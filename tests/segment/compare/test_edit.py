"""What was changed in one organ: against SimpleITK and plastimatch, and edits of known size."""

import math
import subprocess

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from limn.domain.geometry import SpacingMm
from limn.segment.compare.edit import Way, added_path_mm, edit_of
from tests.conftest import require_peer

MM = SpacingMm(z=0.3, y=0.2, x=0.2)
FLAT = SpacingMm(z=0.5, y=0.16, x=0.25)
masks = hnp.arrays(np.bool_, (4, 9, 8))


def ball(shape=(44, 60, 60), radius_mm=5.0, shift_mm=(0.0, 0.0, 0.0), spacing=MM):
    """A ball whose centre may lie beside the middle."""
    axes = (
        (np.arange(n) - (n - 1) / 2) * mm - by
        for n, mm, by in zip(shape, spacing.zyx, shift_mm, strict=True)
    )
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 < radius_mm**2


def contour_of(mask):
    """The contour voxels of each slice, by SimpleITK."""
    found = np.zeros_like(mask)
    for k, plane in enumerate(mask):
        # A slice beyond the border is background there.
        image = SimpleITK.GetImageFromArray(np.pad(plane, 1).astype(np.uint8))
        drawn = SimpleITK.BinaryContour(image, fullyConnected=False)
        found[k] = SimpleITK.GetArrayFromImage(drawn)[1:-1, 1:-1] > 0
    return found


@given(before=masks, after=masks)
@settings(max_examples=60, deadline=None)
def test_the_added_path_is_that_of_another_library(before, after):
    """Contour voxels of each slice by SimpleITK, counted where only the edit has one."""
    added = (contour_of(after) & ~contour_of(before)).sum()
    assert added_path_mm(before, after, FLAT) == pytest.approx(added * math.sqrt(0.16 * 0.25))


def test_dsc_and_volume_are_those_of_plastimatch(tmp_path):
    """Of two balls, one moved, by its command for DSC."""
    before, after = ball(), ball(shift_mm=(0.9, 0.0, 0.4))
    paths = []
    for name, mask in (("before", before), ("after", after)):
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing((MM.x, MM.y, MM.z))
        paths.append(str(tmp_path / f"{name}.mha"))
        SimpleITK.WriteImage(image, paths[-1])
    said = subprocess.run(
        [require_peer("plastimatch"), "dice", "--dice", *paths],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (line,) = (each for each in said.splitlines() if "DICE" in each.upper())
    found = edit_of(before, after, MM, "SPL")
    assert found.dsc == pytest.approx(float(line.split()[-1]), abs=1e-5)
    assert found.volume_before_mm3 == pytest.approx(before.sum() * 0.3 * 0.2 * 0.2)
    assert found.volume_mm3 == pytest.approx(after.sum() * 0.3 * 0.2 * 0.2)


def test_what_nobody_changed_has_moved_nowhere():
    """All zeros and a DSC of 1."""
    found = edit_of(ball(), ball(), MM, "SPL")
    assert (found.dsc, found.hd95_mm, found.added_path_mm) == (1.0, 0.0, 0.0)
    assert set(found.surface_mm.values()) == {0.0}
    assert found.centre_mm == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("shift_mm", "there", "back"),
    [
        ((0.6, 0.0, 0.0), Way.CRANIAL, Way.CAUDAL),
        ((0.0, 0.4, 0.0), Way.DORSAL, Way.VENTRAL),
        ((0.0, 0.0, -0.4), Way.RIGHT, Way.LEFT),
    ],
)
def test_a_ball_that_moved_moved_there(shift_mm, there, back):
    """Its centre by exactly so much; the sides that look there and back by most of it."""
    found = edit_of(ball(), ball(shift_mm=shift_mm), MM, "SPL")
    mm = max(map(abs, shift_mm))
    assert found.centre_mm == pytest.approx(shift_mm, abs=1e-9)
    assert 0.65 * mm < found.surface_mm[there] < 1.05 * mm
    assert -1.05 * mm < found.surface_mm[back] < -0.65 * mm
    others = set(Way) - {there, back}
    assert all(abs(found.surface_mm[way]) < 0.12 * mm for way in others)


def test_a_ball_that_grew_moved_outwards_everywhere():
    """By the difference of the radii, within a part of a voxel."""
    found = edit_of(ball(), ball(radius_mm=5.4), MM, "SPL")
    assert found.surface_mm == pytest.approx(dict.fromkeys(Way, 0.4), abs=0.08)
    assert found.hd95_mm == pytest.approx(0.4, abs=0.12)
    shrunk = edit_of(ball(radius_mm=5.4), ball(), MM, "SPL")
    assert shrunk.surface_mm == pytest.approx(dict.fromkeys(Way, -0.4), abs=0.08)


def test_one_side_that_was_drawn_further_is_named():
    """Two more slices at the caudal end of a block: 0.6 mm there, less at its rim, 0 elsewhere."""
    before = np.zeros((40, 50, 60), np.bool_)
    before[12:30, 10:40, 15:50] = True
    after = before.copy()
    after[10:12, 10:40, 15:50] = True
    found = edit_of(before, after, MM, "SPL")
    assert 0.45 < found.surface_mm[Way.CAUDAL] < 0.6
    assert {found.surface_mm[way] for way in Way if way is not Way.CAUDAL} == {0.0}
    ring = 2 * (30 + 35) - 4
    assert found.added_path_mm == pytest.approx(2 * ring * 0.2)


@pytest.mark.parametrize("letters", ["IAR", "SPL", "PSL"])
def test_the_ways_are_the_patients(letters):
    """However the slices are stacked, an edit towards the head is one towards the head."""
    first = "SPL".index({"I": "S", "A": "P", "R": "L"}.get(letters[0], letters[0]))
    sign = 1.0 if letters[0] in "SPL" else -1.0
    before = np.zeros((20, 22, 24), np.bool_)
    before[5:12, 5:15, 5:15] = True
    found = edit_of(before, np.roll(before, 2, axis=0), SpacingMm(0.3, 0.3, 0.3), letters)
    expected = [0.0, 0.0, 0.0]
    expected[first] = sign * 0.6
    assert found.centre_mm == pytest.approx(expected)


def test_what_was_emptied_has_no_surface():
    """NaN where there is nothing to measure; a first mask that is empty is an error."""
    empty = np.zeros((44, 60, 60), np.bool_)
    found = edit_of(ball(), empty, MM, "SPL")
    assert (found.dsc, found.added_path_mm, found.volume_mm3) == (0.0, 0.0, 0.0)
    assert math.isnan(found.hd95_mm)
    assert all(math.isnan(mm) for mm in found.surface_mm.values())
    with pytest.raises(ValueError, match="the first not empty"):
        edit_of(empty, ball(), MM, "SPL")
