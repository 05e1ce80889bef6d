"""A field that no scanner of mice makes is refused before its pixels are read."""

import time

import numpy as np
import pytest

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.node.contour.field_size import refuse_field
from limn.segment.bundle.species import MOUSE


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
