"""Where and in what colour contours are drawn, and what stands beside them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ, Volume
from limn.lab.measure.evaluate import COLOURS
from limn.lab.report.overlays import MANUAL, draw_case
from limn.lab.report.summary import Held

SHAPE = (40, 40, 40)
GRID = axial_grid(SHAPE, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
ORGANS = {1: Organ.HEART, 2: Organ.CORD, 3: Organ.LUNG_R, 4: Organ.LUNG_L}
AIR, WHITE = -1000.0, 3000.0


def boxes(**spans):
    """Labels with a box for each organ named, on the grid of every test here."""
    labels = np.zeros(SHAPE, np.uint8)
    for name, box in spans.items():
        labels[box] = next(label for label, organ in ORGANS.items() if organ.name == name)
    return Labels(labels, GRID, ORGANS)


HEART = (slice(16, 24), slice(16, 24), slice(16, 24))
MOVED = (slice(16, 24), slice(16, 24), slice(19, 27))
LEFT_LUNG = (slice(16, 24), slice(16, 24), slice(28, 34))


def volume(hu=None):
    """A scan of air, or of these voxels."""
    return Volume(np.full(SHAPE, AIR, np.float32) if hu is None else hu, GRID)


def sheet(path, scan, observer1, drawn=None, dsc_of=None):
    """The picture read back, (row, column, RGB), without the legend under the last row."""
    draw_case(scan, observer1, drawn or {}, dsc_of or {}, "title", path)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image)[:-30]


def places(pixels, colour):
    """Row and column of every pixel of a colour."""
    return np.argwhere((pixels == colour).all(axis=2))


def test_the_left_lung_is_right_of_the_heart(tmp_path):
    """As radiologists hang CT: the animal's left at the viewer's right."""
    pixels = sheet(tmp_path / "a.png", volume(), boxes(HEART=HEART, LUNG_L=LEFT_LUNG))
    heart, lung = (places(pixels, COLOURS[organ]) for organ in (Organ.HEART, Organ.LUNG_L))
    # Axial and coronal show both; the sagittal plane through the heart passes the lung by.
    assert len(heart) > 0
    assert len(lung) > 0
    hearts, lungs = (np.split(own, breaks(own)) for own in (by_column(heart), by_column(lung)))
    assert (len(hearts), len(lungs)) == (3, 2)
    for heart_there, lung_there in zip(hearts[:2], lungs, strict=True):
        assert heart_there[:, 1].max() < lung_there[:, 1].min()
        assert heart_there[:, 0].mean() == pytest.approx(lung_there[:, 0].mean(), abs=2)


def by_column(found):
    """From the left."""
    return found[np.argsort(found[:, 1], kind="stable")]


def breaks(found):
    """Where the next panel's contour begins: a gap wider than the contour's own box."""
    return np.flatnonzero(np.diff(found[:, 1]) > 150) + 1


def test_head_up_belly_up_in_front(tmp_path):
    """Bone towards head and belly lies where the letters say."""
    hu = np.full(SHAPE, AIR, np.float32)
    hu[30:33, 19:21, 19:21] = WHITE  # towards the head
    hu[19:21, 7:10, 19:21] = WHITE  # towards the belly
    pixels = sheet(tmp_path / "a.png", volume(hu), boxes(HEART=HEART))
    hearts = by_column(places(pixels, COLOURS[Organ.HEART]))
    axial, coronal, sagittal = (own.mean(axis=0) for own in np.split(hearts, breaks(hearts)))
    half = np.ptp(hearts[:, 0]) / 2
    bone = np.argwhere((pixels == 255).all(axis=2) & solid(pixels))

    def near(centre, down, right):
        """Bone at so many half hearts from the middle of the heart."""
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
    """Amid white: neither a letter nor a line."""
    white = (pixels == 255).all(axis=2)
    k = 4
    return np.logical_and.reduce(
        [np.roll(white, (i, j), (0, 1)) for i in (-k, 0, k) for j in (-k, 0, k)]
    )


def test_a_row_for_each_system_in_the_papers_order(tmp_path):
    """Observer 1, the paper's systems, limn, then unknown ones."""
    drawn = {"limn": boxes(LUNG_L=HEART), "own": boxes(CORD=HEART), "2d": boxes(LUNG_R=HEART)}
    pixels = sheet(tmp_path / "a.png", volume(), boxes(HEART=HEART), drawn)
    order = (Organ.HEART, Organ.LUNG_R, Organ.LUNG_L, Organ.CORD)
    rows = [places(pixels, COLOURS[organ])[:, 0] for organ in order]
    for above, below in pairwise(rows):
        assert above.max() < below.min()


def test_a_system_is_drawn_where_it_drew_and_the_observer_beneath(tmp_path):
    """Colour follows the system, white the observer."""
    manual, moved = boxes(HEART=HEART), boxes(HEART=MOVED)
    pixels = sheet(tmp_path / "a.png", volume(), manual, {"2d": moved})
    found = places(pixels, COLOURS[Organ.HEART])
    first, second = np.split(found, np.flatnonzero(np.diff(found[:, 0]) > 150)[:1] + 1)
    # Three voxels of the heart's eight to the animal's left.
    width = np.ptp(by_column(first)[: breaks(by_column(first))[0], 1])
    assert second[:, 1].min() - first[:, 1].min() == pytest.approx(3 / 8 * width, abs=3)
    # The thin line at the heart's right wall, which the system left.
    column = first[:, 1].min()
    walls = places(pixels[second[:, 0].min() + 10 : second[:, 0].max() - 10], MANUAL[Organ.HEART])
    assert (np.abs(walls[:, 1] - column) <= 2).sum() > width / 2


def test_agreement_leaves_nothing_of_the_observers_line(tmp_path):
    """White says that two drawings part."""
    manual = boxes(HEART=HEART)
    drawn = sheet(tmp_path / "a.png", volume(), manual, {"2d": manual})
    found = places(drawn, COLOURS[Organ.HEART])
    lower = found[found[:, 0] > drawn.shape[0] / 2]
    axial = by_column(lower)[: breaks(by_column(lower))[0]]
    (top, left), (bottom, right) = axial.min(axis=0) - 2, axial.max(axis=0) + 3
    assert len(places(drawn[top:bottom, left:right], MANUAL[Organ.HEART])) == 0


def test_planes_pass_the_heart_not_the_middle_of_all(tmp_path):
    """An organ far away does not move the planes."""
    far = (slice(2, 4), slice(2, 4), slice(2, 4))
    pixels = sheet(tmp_path / "a.png", volume(), boxes(HEART=HEART, LUNG_R=far))
    assert len(places(pixels, COLOURS[Organ.HEART])) > 0
    assert len(places(pixels, COLOURS[Organ.LUNG_R])) == 0
    # Without a heart the box of all organs decides.
    assert len(places(sheet(tmp_path / "b.png", volume(), boxes(LUNG_R=far)), (0, 0, 255))) > 0


def test_a_scan_without_organs_is_drawn(tmp_path):
    """The animal is seen, with no contour on it."""
    hu = np.full(SHAPE, AIR, np.float32)
    hu[10:30, 10:30, 10:30] = 0.0
    nothing = boxes()
    pixels = sheet(tmp_path / "a.png", volume(hu), nothing, {"limn": nothing}, {"limn": {}})
    assert not any(len(places(pixels, colour)) for colour in COLOURS.values())
    grey = np.uint8(900 / 1400 * 255)
    assert len(places(pixels, (grey, grey, grey))) > 10_000


def test_scores_stand_beside_their_system(tmp_path):
    """The mean DSC, and of each organ both measures, in the system's own row."""
    heart = boxes(HEART=HEART)

    def told(dsc, hd95_mm=0.4):
        held = {Organ.HEART: Held(dsc, hd95_mm), Organ.CORD: Held(0.0, math.nan)}
        return sheet(tmp_path / "a.png", volume(), heart, {"2d": heart}, {"2d": held})

    one = told(0.912)
    for other in (told(0.345), told(0.912, 0.8)):
        rows, columns = np.nonzero((one != other).any(axis=2))
        # Left of every panel, beside the second row, not the first.
        assert columns.max() < places(one, COLOURS[Organ.HEART])[:, 1].min()
        assert rows.min() > one.shape[0] / 2
    assert np.array_equal(one, told(0.9121))


def test_colours_are_the_papers():
    """Figure 1: red, green, blue and yellow are heart, spinal cord, right lung and left lung."""
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert [COLOURS[organ] for organ in ORGANS.values()] == [red, green, blue, (255, 255, 0)]


def test_labels_of_another_grid_are_named(tmp_path):
    """Whose labels do not fit is told, and no picture is left."""
    other = (20, 40, 40)
    grid = axial_grid(other, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
    wrong = Labels(np.zeros(other, np.uint8), grid, ORGANS)
    with pytest.raises(ValueError, match="aimos: labels"):
        draw_case(volume(), boxes(), {"aimos": wrong}, {}, "", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
