import io

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ, Volume
from limn.segment.draw.picture import MARGIN_PX, PANEL_PX, draw_contours
from tests.conftest import COLOURS

SHAPE, SPACING = (30, 40, 50), SpacingMm(0.4, 0.3, 0.2)
ORGANS = dict(enumerate(Organ, 1))


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Four boxes: heart to the left, cord to the back, right lung right, left lung to the head."""
    hu, labels = np.full(SHAPE, -1000, np.float32), np.zeros(SHAPE, np.uint8)
    labels[12:22, 16:28, 36:44] = 1
    labels[12:22, 30:36, 22:28] = 2
    labels[12:22, 16:28, 6:14] = 3
    labels[22:27, 16:28, 20:30] = 4
    hu[labels > 0] = 100
    return hu, labels


def picture(hu, labels, grid) -> np.ndarray:
    """The picture as PIL decodes it, (row, column, RGB)."""
    png = draw_contours(Volume(hu, grid), Labels(labels, grid, ORGANS), COLOURS, "mouse 7")
    image = Image.open(io.BytesIO(png))
    image.load()
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.array(image).astype(int)


@pytest.fixture
def drawn() -> np.ndarray:
    """The picture of the scene on a plain axial grid."""
    return picture(*scene(), axial_grid(SHAPE, SPACING, np.zeros(3)))


# Millimetres of the field, left-right, back-front, head-tail.
WIDE, DEEP, LONG = 10.0, 12.0, 12.0


def panels(sheet: np.ndarray) -> list[np.ndarray]:
    """Axial, coronal and sagittal panel, each scaled to the same longer side."""
    widths = [round(PANEL_PX * WIDE / DEEP), round(PANEL_PX * WIDE / LONG), PANEL_PX]
    left, cut = MARGIN_PX, []
    for width in widths:
        cut.append(sheet[MARGIN_PX : MARGIN_PX + PANEL_PX, left : left + width])
        left += width + MARGIN_PX
    assert left == sheet.shape[1]
    return cut


def middle(panel: np.ndarray, organ: Organ) -> tuple[float, float]:
    """Where the pixels of an organ's colour lie, as shares of the panel: down, right."""
    rows, columns = np.nonzero((panel == COLOURS[organ]).all(axis=2))
    assert len(rows) > 30, organ
    return rows.mean() / panel.shape[0], columns.mean() / panel.shape[1]


def test_the_picture_is_as_wide_as_its_panels(drawn):
    """Panels keep the animal's proportions, whatever the spacing."""
    assert len(panels(drawn)) == 3
    assert drawn.shape[0] > PANEL_PX + 2 * MARGIN_PX


def test_the_animals_left_is_on_the_viewers_right(drawn):
    """In the axial panel left is right and the back is down; in the coronal one the head is up."""
    axial, coronal, sagittal = panels(drawn)
    assert middle(axial, Organ.HEART)[1] == pytest.approx(39.5 / 50 + 0.01, abs=0.02)
    assert middle(axial, Organ.LUNG_R)[1] == pytest.approx(9.5 / 50 + 0.01, abs=0.02)
    assert middle(axial, Organ.CORD)[0] == pytest.approx(32.5 / 40 + 0.01, abs=0.02)
    assert middle(coronal, Organ.LUNG_L)[0] == pytest.approx(1 - 24.5 / 30, abs=0.03)
    assert middle(coronal, Organ.HEART)[1] > 0.7
    assert middle(sagittal, Organ.CORD)[1] == pytest.approx(32.5 / 40, abs=0.03)
    assert middle(sagittal, Organ.LUNG_L)[0] < 0.25


def test_the_outline_runs_around_the_organ(drawn):
    """The heart's outline encloses its box, and its inside keeps the grey of the scan."""
    axial = panels(drawn)[0]
    rows, columns = np.nonzero((axial == COLOURS[Organ.HEART]).all(axis=2))
    scale = PANEL_PX / DEEP
    assert columns.min() == pytest.approx(36 * 0.2 * scale, abs=2)
    assert columns.max() == pytest.approx(44 * 0.2 * scale, abs=2)
    assert rows.min() == pytest.approx(16 * 0.3 * scale, abs=2)
    assert rows.max() == pytest.approx(28 * 0.3 * scale, abs=2)
    inside = axial[round(20 * 0.3 * scale), round(40 * 0.2 * scale)]
    assert inside[0] == inside[1] == inside[2] == pytest.approx(182, abs=3)


@pytest.mark.parametrize("letters", ["IPR", "SAR", "PIL", "RIP"])
def test_every_orientation_hangs_the_same(drawn, letters):
    """However the stack is stored, the same picture comes out."""
    hu, labels = (SimpleITK.GetImageFromArray(array) for array in scene())
    turned = []
    for image in (hu, labels):
        image.SetSpacing(SPACING.zyx[::-1])
        turned.append(SimpleITK.DICOMOrient(image, letters[::-1]))
    direction = np.array(turned[0].GetDirection()).reshape(3, 3)
    columns, rows, slices = turned[0].GetSize()
    x_mm, y_mm, z_mm = turned[0].GetSpacing()
    origins = np.array(turned[0].GetOrigin()) + np.outer(np.arange(slices) * z_mm, direction[:, 2])
    grid = Grid(origins, rows, columns, y_mm, x_mm, direction[:, 0], direction[:, 1])
    assert grid.axis_letters == letters
    found = picture(*(SimpleITK.GetArrayFromImage(image) for image in turned), grid)
    np.testing.assert_array_equal(found, drawn)


def test_a_scan_without_organs_has_a_picture():
    """Nothing to outline still shows the middle of the scan."""
    hu, labels = scene()
    sheet = picture(hu, np.zeros_like(labels), axial_grid(SHAPE, SPACING, np.zeros(3)))
    assert len(panels(sheet)) == 3
    assert not (panels(sheet)[0] == COLOURS[Organ.HEART]).all(axis=2).any()
