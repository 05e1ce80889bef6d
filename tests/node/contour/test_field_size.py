"""A field that no scanner of mice makes is refused before its pixels are read."""

import time

import numpy as np
import pytest

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Organ
from limn.node.contour.field_size import refuse_field, size_doubt
from limn.segment.bundle.species import MOUSE
from limn.segment.draw.animal_size import Thickness


def field(shape, *spacing):
    """A grid of so many slices, rows, columns."""
    z, y, x = spacing if len(spacing) == 3 else spacing * 3
    return axial_grid(shape, SpacingMm(z, y, x), np.zeros(3))


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        pytest.param((700, 550, 550), (0.2,), id="140 x 110 x 110 mm"),
        pytest.param((1000, 600, 600), (0.2,), id="a bed of 200 mm with four mice"),
        pytest.param((270, 165, 248), (0.105,), id="a chest"),
        pytest.param((3, 200, 200), (0.5, 0.1, 0.1), id="three slices"),
    ],
)
def test_the_fields_of_small_animals_pass(shape, spacing):
    """Long, wide and short ones."""
    refuse_field(field(shape, *spacing), MOUSE)


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((120, 120, 112), (250.0,), r"250 mm.*the field is 30 m .*perhaps micrometres were"),
        ((677, 512, 512), (0.4,), r"ImagePositionPatient 0\.4 mm from slice to slice: .*271 mm"),
        ((105, 512, 512), (1.0, 0.977, 0.977), r"PixelSpacing 0\.977 mm: .*500 mm.*a person"),
        ((300, 250, 280), (0.01,), r"3 mm.*at least 8 mm expected\. Perhaps centimetres were"),
        ((300, 250, 280), (0.0001,), r"0\.03 mm.*Perhaps metres were written as mm"),
        ((300, 250, 250), (0.1, 2.0, 2.0), r"PixelSpacing 2 mm: the field is 500 mm"),
        ((300, 250, 280), (100.0, 0.1, 0.1), r"ImagePositionPatient 100 mm from slice .*30 m long"),
    ],
)
def test_other_fields_are_refused_in_words(shape, spacing, message):
    """The attribute, its value, the field and what was probably mixed up; at once."""
    began = time.monotonic()
    with pytest.raises(RefusedSeries, match=f"(?i){message}"):
        refuse_field(field(shape, *spacing), MOUSE)
    assert time.monotonic() - began < 1.0


MOUSE_ORGANS = {Organ.HEART: 210.0, Organ.LUNG_R: 310.0, Organ.LUNG_L: 190.0, Organ.CORD: 40.0}


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
    assert size_doubt(MOUSE, None, MOUSE_ORGANS | {Organ.HEART: 20.0}) is None
    assert size_doubt(MOUSE, None, dict.fromkeys(Organ, 0.0)) is None


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
