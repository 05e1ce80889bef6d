import dataclasses

import pytest

from limn.phantom.anatomy import conceive


def test_equal_seeds_give_equal_mice():
    """Another seed gives another mouse."""
    assert conceive(5) == conceive(5)
    assert conceive(5).build != conceive(6).build
    assert conceive(5).tissue != conceive(6).tissue


def test_a_neighbour_changes_only_the_surroundings():
    """The labelled animal is the same with a neighbour."""
    single, beside = conceive(5), conceive(5, neighbour=True)
    assert beside == conceive(5, neighbour=True)
    assert beside.around.neighbour_xyz_mm is not None
    assert dataclasses.replace(beside.around, neighbour_xyz_mm=None) == single.around
    assert (beside.build, beside.pose, beside.tissue) == (single.build, single.pose, single.tissue)


def test_seeds_lie_prone_or_supine():
    """Some mice lie prone, some supine, unless the caller decides."""
    assert {conceive(seed).prone for seed in range(20)} == {True, False}
    assert conceive(5, prone=True).prone
    assert not conceive(5, prone=False).prone


def test_an_animal_changes_little_from_day_to_day():
    """Another day has another pose and the same build with a little growth."""
    first, later, other = conceive(5), conceive(5, time_point=3), conceive(6)
    assert later.pose != first.pose
    assert later.build.shape_seed == first.build.shape_seed
    assert later.build.size == pytest.approx(first.build.size, rel=0.04)
    assert later.build.heart_volume_mm3 == pytest.approx(first.build.heart_volume_mm3, rel=0.15)
    assert later.build.chest_width == first.build.chest_width != other.build.chest_width


def test_contrast_brightens_blood_and_liver():
    """Blood pool and liver gain 100 to 600 HU; bone and fat do not change."""
    native, enhanced = conceive(5).tissue, conceive(5, contrast=True).tissue
    assert 100 <= enhanced.blood - native.blood <= 600
    assert 100 <= enhanced.liver - native.liver <= 600
    assert (enhanced.bone, enhanced.fat, enhanced.soft) == (native.bone, native.fat, native.soft)
