"""An animal of a size that the bundle's species does not have is refused."""

import functools
import math
import re

import numpy as np
import pytest

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.bundle.species import MOUSE, read_species
from limn.segment.draw.animals import size
from limn.segment.draw.animals.choose import keep_one_animal
from limn.segment.draw.animals.size import refuse_far_too_large, refuse_other_size

MM = 0.45


@functools.cache
def chest(seed):
    """A chest on its bed with air around."""
    scanner = Scanner(SpacingMm(MM, MM, MM), (68, 62, 70))
    return scan(conceive(seed), scanner, seed)[0].hu_zyx


def sized(hu, factor):
    """The same voxels under another size."""
    mm = MM * factor
    return Volume(hu, axial_grid(hu.shape, SpacingMm(mm, mm, mm), np.zeros(3)))


def measured(volume):
    """As a scan is measured."""
    return refuse_other_size(keep_one_animal(volume, "largest"), MOUSE)


@pytest.mark.parametrize("seed", [3, 5, 11, 14])
@pytest.mark.parametrize("grown", [0.9, 1.0, 1.15])
def test_a_mouse_is_a_mouse(seed, grown):
    """From a small one to a large one: none is refused, none held for its size."""
    low, high = MOUSE.usual_thickness_mm
    found = measured(sized(chest(seed), grown))
    assert low < found.shown_mm <= found.beyond_mm < high


@pytest.mark.parametrize("seed", [3, 11])
def test_a_pup_and_an_obese_mouse_are_not_refused(seed):
    """10 g and 60 g are 0.74 and 1.34 times as long as 25 g."""
    measured(sized(chest(seed), 0.74))
    measured(sized(chest(seed), 1.34))


@pytest.mark.parametrize("seed", [3, 11])
@pytest.mark.parametrize("factor", [3.0, 4.0])
def test_what_is_far_too_thick_is_refused(seed, factor):
    """The figure, the species, the voxels, both explanations and the attributes are named."""
    with pytest.raises(
        RefusedSeries,
        match=r"\d+ mm thick, a mouse is 9 to 36 mm: .* not for a larger animal .* times too large "
        r".*PixelSpacing and ImagePositionPatient must be mended",
    ):
        measured(sized(chest(seed), factor))


@pytest.mark.parametrize(("seed", "factor"), [(3, 0.5), (5, 0.5), (3, 2.0), (11, 2.0)])
def test_a_factor_of_two_is_refused_or_rare(seed, factor):
    """A person sees it either way: a scan of rare size is held.

    Half of a very thick mouse (11) is as thick as a pup; its organs tell (`size_doubt`).
    """
    low, high = MOUSE.usual_thickness_mm
    try:
        found = measured(sized(chest(seed), factor))
    except RefusedSeries:
        return
    assert found.shown_mm > high or found.beyond_mm < low


def test_what_is_far_too_thin_is_refused():
    """A body a third as thick as a mouse's, in a field of its own size."""
    with pytest.raises(RefusedSeries, match=r"mm thick, a mouse is 9 to 36 mm\..*times too small"):
        measured(sized(chest(3), 0.42))


def test_an_animal_that_the_field_cuts_on_all_sides_is_believed():
    """Nobody knows how thick it is beyond."""
    hu = chest(3)[24:44, 20:42, 24:46]
    found = measured(sized(hu, 1.0))
    assert found.shown_mm < MOUSE.usual_thickness_mm[0]
    assert found.beyond_mm == math.inf


def test_a_wide_field_with_a_small_mouse_is_believed(monkeypatch):
    """Also where the field is so large that it is looked at on few voxels first."""
    monkeypatch.setattr(size, "MOST_VOXELS", 10_000)
    monkeypatch.setattr(size, "LOOK_VOXELS", 40_000)
    hu = np.pad(chest(3), 30, constant_values=-1000.0)
    refuse_far_too_large(sized(hu, 0.8), MOUSE, "auto")
    assert measured(sized(hu, 0.8))
    with pytest.raises(RefusedSeries, match=r"a mouse is 9 to 36 mm"):
        refuse_far_too_large(sized(hu, 4.0), MOUSE, "auto")


def test_a_very_large_field_costs_little_memory(monkeypatch):
    """The picture in which it is judged has as many voxels as are allowed, not more."""
    shapes = []
    plain = size.coarse

    def coarse(*args):
        picture = plain(*args)
        shapes.append(picture.size)
        return picture

    monkeypatch.setattr(size, "coarse", coarse)
    y, x = np.ogrid[:200, :220]
    head = np.hypot(y - 100, x - 110) < 75
    hu = np.broadcast_to(np.where(head, 40.0, -1000.0), (100, 200, 220)).astype(np.float32)
    volume = Volume(hu, axial_grid(hu.shape, SpacingMm(1.2, 1.0, 1.0), np.zeros(3)))
    with pytest.raises(RefusedSeries, match=r"or a person"):
        refuse_far_too_large(volume, MOUSE, "auto")
    assert shapes[0] < 1.1 * size.LOOK_VOXELS


def test_a_bundle_may_be_made_for_another_animal():
    """Its manifest names the species and the sizes; the messages name it."""
    rat = {
        "species": "rat",
        "thickness_mm": [20, 80],
        "usual_thickness_mm": [25, 70],
        "heart_mm3": [300, 3000],
        "lungs_mm3": [1000, 9000],
    }
    assert read_species(None) is MOUSE
    located = keep_one_animal(sized(chest(3), 1.0), "largest")
    with pytest.raises(RefusedSeries, match=re.escape("a rat is 20 to 80 mm")):
        refuse_other_size(located, read_species(rat))
    located = keep_one_animal(sized(chest(3), 2.5), "largest")
    assert refuse_other_size(located, read_species(rat))
    with pytest.raises(ValueError, match=r"animal.thickness_mm \[80.0, 20.0\]"):
        read_species(rat | {"thickness_mm": [80, 20]})
