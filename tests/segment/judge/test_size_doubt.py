"""An animal or organs of a rare size are named with the figure."""

import numpy as np
import pytest

from limn.domain.scan import Role
from limn.segment.bundle.species import MOUSE
from limn.segment.draw.animals.size import Thickness
from limn.segment.judge.size_doubt import size_doubt

MOUSE_ORGANS = {Role.HEART: 210.0, Role.LUNG_R: 310.0, Role.LUNG_L: 190.0, Role.CORD: 40.0}


def scaled(factor):
    """The organs of a scan whose voxels are so many times too large along each axis."""
    return {organ: mm3 * factor**3 for organ, mm3 in MOUSE_ORGANS.items()}


@pytest.mark.parametrize("factor", [0.74, 1.0, 1.34])
def test_organs_of_a_pup_and_of_an_obese_mouse_are_no_doubt(factor):
    """10 g to 60 g."""
    assert size_doubt(MOUSE, None, scaled(factor)) is None
    assert size_doubt(MOUSE, Thickness(19.0, 19.0), scaled(factor)) is None


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_organs_that_are_eight_times_wrong_are_held(factor):
    """Where the field hides how thick the animal is, its organs tell."""
    doubt = size_doubt(MOUSE, None, scaled(factor))
    assert doubt is not None
    assert doubt.flag == f"size-unusual:{210 * factor**3:.0f}+{500 * factor**3:.0f}mm3"
    assert "mend PixelSpacing or ImagePositionPatient" in doubt.reason


def test_an_organ_that_the_field_cuts_is_no_doubt():
    """A small heart beside lungs of the usual size, or none at all."""
    assert size_doubt(MOUSE, None, MOUSE_ORGANS | {Role.HEART: 20.0}) is None
    assert size_doubt(MOUSE, None, dict.fromkeys(Role, 0.0)) is None


@pytest.mark.parametrize("thickness_mm", [10.0, 33.0])
def test_a_rare_thickness_is_held(thickness_mm):
    """The figure stands in flag and reason."""
    doubt = size_doubt(MOUSE, Thickness(thickness_mm, thickness_mm), MOUSE_ORGANS)
    assert doubt is not None
    assert doubt.flag == f"size-unusual:{thickness_mm:.0f}mm"
    assert f"trunk {thickness_mm:.0f} mm thick" in doubt.reason


def test_a_thickness_that_the_field_hides_is_no_doubt():
    """A tight field within a mouse shows less than there is."""
    assert size_doubt(MOUSE, Thickness(9.0, np.inf), MOUSE_ORGANS) is None
