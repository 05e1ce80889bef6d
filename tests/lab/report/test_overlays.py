"""Where and in which colour contours are drawn, and the text beside them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.lab.measure.evaluate import colours_of
from limn.lab.report.overlays import draw_case
from limn.lab.report.summary import OrganScore
from tests.support.organs import Organ

COLOURS = colours_of(Organ)

SHAPE = (40, 40, 40)
GRID = axial_grid(SHAPE, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
ORGANS = {1: Organ.HEART, 2: Organ.CORD, 3: Organ.LUNG_R, 4: Organ.LUNG_L}
AIR, WHITE = -1000.0, 3000.0


def boxes(**spans):
    """Labels with a box for each named organ, on the grid of these tests."""
    labels = np.zeros(SHAPE, np.uint8)
    for name, box in spans.items():
        labels[box] = next(label for label, organ in ORGANS.items() if organ.name == name)
    return Labels(labels, GRID, ORGANS)


HEART = (slice(16, 24), slice(16, 24), slice(16, 24))
MOVED = (slice(16, 24), slice(16, 24), slice(19, 27))
LEFT_LUNG = (slice(16, 24), slice(16, 24), slice(28, 34))


def volume(hu=None):
    """A scan of these voxels, by default of air."""
    return Volume(np.full(SHAPE, AIR, np.float32) if hu is None else hu, GRID)


def sheet(path, scan, observer1, drawn=None, dsc_of=None):
    """The picture as (row, column, RGB) pixels, without the legend below the last row."""
    draw_case(scan, observer1, drawn or {}, dsc_of or {}, "title", path)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image)[:-30]


def places(pixels, colour):
    """Row and column of every pixel of a colour."""
    return np.argwhere((pixels == colour).all(axis=2))


def test_the_left_lung_is_right_of_the_heart(tmp_path):
    """The animal's left is at the viewer's right, as in radiology."""
    pixels = sheet(tmp_path / "a.png", volume(), boxes(HEART=HEART, LUNG_L=LEFT_LUNG))
    heart, lung = (places(pixels, COLOURS[organ]) for organ in (Organ.HEART, Organ.LUNG_L))
    # Axial and coronal show both; the sagittal plane through the heart misses the lung.
    assert len(heart) > 0
    assert len(lung) > 0
    hearts, lungs = (np.split(own, breaks(own)) for own in (by_column(heart), by_column(lung)))
    assert (len(hearts), len(lungs)) == (3, 2)
    for heart_there, lung_there in zip(hearts[:2], lungs, strict=True):
        assert heart_there[:, 1].max() < lung_there[:, 1].min()
        assert heart_there[:, 0].mean() == pytest.approx(lung_there[:, 0].mean(), abs=2)


def by_column(found):
    """Pixels sorted by column."""
    return found[np.argsort(found[:, 1], kind="stable")]


def breaks(found):
    """Where the contour of the next panel begins: after a gap wider than a contour."""
    return np.flatnonzero(np.diff(found[:, 1]) > 150) + 1


def test_head_and_belly_are_up(tmp_path):
    """Bone towards head and belly appears on the expected side of the heart."""
    hu = np.full(SHAPE, AIR, np.float32)
    hu[30:33, 19:21, 19:21] = WHITE  # towards the head
    hu[19:21, 7:10, 19:21] = WHITE  # towards the belly
    pixels = sheet(tmp_path / "a.png", volume(hu), boxes(HEART=HEART))
    hearts = by_column(places(pixels, COLOURS[Organ.HEART]))
    axial, coronal, sagittal = (own.mean(axis=0) for own in np.split(hearts, breaks(hearts)))
    half = np.ptp(hearts[:, 0]) / 2
    bone = np.argwhere((pixels == 255).all(axis=2) & solid(pixels))

    def near(centre, down, right):
        """Whether bone lies at this offset from the middle of the heart, in half hearts."""
        spot = centre + half * np.array([down, right])
        return bool((np.abs(bone - spot).max(axis=1) < 0.3 * half).any())

    assert near(axial, -2.9, 0)
    assert not near(axial, 2.9, 0)
    assert near(coronal, -2.9, 0)
    assert not near(coronal, 2.9, 0)
    assert near(sagittal, -2.9, 0)
    assert near(sagittal, 0, -2.9)
    assert not near(sagittal, 0, 2.9)


def solid(pixels):
    """Pixels surrounded by white: neither letters nor lines."""
    white = (pixels == 255).all(axis=2)
    k = 4
    return np.logical_and.reduce(
        [np.roll(white, (i, j), (0, 1)) for i in (-k, 0, k) for j in (-k, 0, k)]
    )


def test_a_row_for_each_system_in_the_papers_order(tmp_path):
    """Observer 1, the paper's systems, limn, then other systems."""
    drawn = {"limn": boxes(LUNG_L=HEART), "own": boxes(CORD=HEART), "2d": boxes(LUNG_R=HEART)}
    pixels = sheet(tmp_path / "a.png", volume(), boxes(HEART=HEART), drawn)
    order = (Organ.HEART, Organ.LUNG_R, Organ.LUNG_L, Organ.CORD)
    rows = [places(pixels, COLOURS[organ])[:, 0] for organ in order]
    for above, below in pairwise(rows):
        assert above.max() < below.min()


def test_the_contours_of_the_observer_lie_beneath_the_systems(tmp_path):
    """The colours are the system's contours, white is the observer's."""
    manual, moved = boxes(HEART=HEART), boxes(HEART=MOVED)
    pixels = sheet(tmp_path / "a.png", volume(), manual, {"2d": moved})
    found = places(pixels, COLOURS[Organ.HEART])
    first, second = np.split(found, np.flatnonzero(np.diff(found[:, 0]) > 150)[:1] + 1)
    # Moved to the animal's left by three voxels of the heart's eight.
    width = np.ptp(by_column(first)[: breaks(by_column(first))[0], 1])
    assert second[:, 1].min() - first[:, 1].min() == pytest.approx(3 / 8 * width, abs=3)
    # The thin line at the heart's right wall, where the system's contour is not.
    column = first[:, 1].min()
    walls = places(pixels[second[:, 0].min() + 10 : second[:, 0].max() - 10], (255, 255, 255))
    assert (np.abs(walls[:, 1] - column) <= 2).sum() > width / 2


def test_equal_contours_hide_the_observers_line(tmp_path):
    """White shows only where two contours differ."""
    manual = boxes(HEART=HEART)
    drawn = sheet(tmp_path / "a.png", volume(), manual, {"2d": manual})
    found = places(drawn, COLOURS[Organ.HEART])
    lower = found[found[:, 0] > drawn.shape[0] / 2]
    axial = by_column(lower)[: breaks(by_column(lower))[0]]
    (top, left), (bottom, right) = axial.min(axis=0) - 2, axial.max(axis=0) + 3
    assert len(places(drawn[top:bottom, left:right], (255, 255, 255))) == 0


def test_planes_pass_through_the_heart(tmp_path):
    """An organ far away does not move the planes."""
    far = (slice(2, 4), slice(2, 4), slice(2, 4))
    pixels = sheet(tmp_path / "a.png", volume(), boxes(HEART=HEART, LUNG_R=far))
    assert len(places(pixels, COLOURS[Organ.HEART])) > 0
    assert len(places(pixels, COLOURS[Organ.LUNG_R])) == 0
    # Without a heart the planes pass through the box of all organs.
    assert len(places(sheet(tmp_path / "b.png", volume(), boxes(LUNG_R=far)), (0, 0, 255))) > 0


def test_a_scan_without_organs_is_drawn(tmp_path):
    """The animal is shown without a contour."""
    hu = np.full(SHAPE, AIR, np.float32)
    hu[10:30, 10:30, 10:30] = 0.0
    nothing = boxes()
    pixels = sheet(tmp_path / "a.png", volume(hu), nothing, {"limn": nothing}, {"limn": {}})
    assert not any(len(places(pixels, colour)) for colour in COLOURS.values())
    grey = np.uint8(900 / 1400 * 255)
    assert len(places(pixels, (grey, grey, grey))) > 10_000


def test_scores_are_printed_beside_their_system(tmp_path):
    """The mean DSC, and both measures of each organ, in the row of the system."""
    heart = boxes(HEART=HEART)

    def picture(dsc, hd95_mm=0.4):
        scores = {Organ.HEART: OrganScore(dsc, hd95_mm), Organ.CORD: OrganScore(0.0, math.nan)}
        return sheet(tmp_path / "a.png", volume(), heart, {"2d": heart}, {"2d": scores})

    one = picture(0.912)
    for other in (picture(0.345), picture(0.912, 0.8)):
        rows, columns = np.nonzero((one != other).any(axis=2))
        # Left of every panel, beside the second row only.
        assert columns.max() < places(one, COLOURS[Organ.HEART])[:, 1].min()
        assert rows.min() > one.shape[0] / 2
    assert np.array_equal(one, picture(0.9121))


def test_colours_are_the_papers():
    """Figure 1: red, green, blue and yellow are heart, spinal cord, right lung and left lung."""
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert [COLOURS[organ] for organ in ORGANS.values()] == [red, green, blue, (255, 255, 0)]


def test_labels_of_another_grid_are_named(tmp_path):
    """The message names the system, and no picture is written."""
    other = (20, 40, 40)
    grid = axial_grid(other, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
    wrong = Labels(np.zeros(other, np.uint8), grid, ORGANS)
    with pytest.raises(ValueError, match="aimos: labels"):
        draw_case(volume(), boxes(), {"aimos": wrong}, {}, "", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
