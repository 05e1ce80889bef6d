import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from limn.segment.draw.picture.cuts import Cut
from limn.segment.draw.picture.panels import (
    PANEL_PX,
    WHITE,
    Layer,
    draw_levels,
    draw_panel,
    draw_panels,
    draw_scale,
)
from tests.conftest import COLOURS
from tests.support.organs import Organ

SHAPE, SPACING = (20, 30, 40), (0.8, 0.4, 0.5)
RED = COLOURS[Organ.HEART]


def scene() -> tuple[np.ndarray, Layer]:
    """A box of soft tissue in air: head, belly and left of the middle."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[12:18, 4:12, 24:36] = 2
    hu = np.where(labels > 0, 50, -1000).astype(np.float32)
    return hu, Layer(labels, {2: Organ.HEART}, COLOURS)


def edges(panel: Image.Image) -> list[int]:
    """Top, bottom, left and right of what is drawn in the heart's colour."""
    rows, columns = np.nonzero((np.array(panel) == RED).all(axis=2))
    return [rows.min(), rows.max(), columns.min(), columns.max()]


def test_an_outline_runs_around_its_organ():
    """In millimetres, whatever the spacing; its inside keeps the grey of the scan."""
    hu, layer = scene()
    panel = draw_panel(hu, SPACING, Cut.plane(0, 15), [layer], 20.0)
    assert panel.size == (400, 240)
    assert edges(panel) == pytest.approx([4 * 8, 12 * 8, 24 * 10, 36 * 10], abs=2)
    inside = panel.getpixel((300, 64))
    assert inside[0] == inside[1] == inside[2] == pytest.approx(255 * 950 / 1400, abs=2)
    coronal = draw_panel(hu, SPACING, Cut.plane(1, 8), [layer], 20.0)
    assert edges(coronal) == pytest.approx([2 * 16, 8 * 16, 24 * 10, 36 * 10], abs=2)
    sagittal = draw_panel(hu, SPACING, Cut.plane(2, 30), [layer], 20.0)
    assert edges(sagittal) == pytest.approx([2 * 16, 8 * 16, 4 * 8, 12 * 8], abs=2)


def test_three_planes_have_one_longest_side():
    """As the lab's overlays show them."""
    hu, layer = scene()
    panels = draw_panels(hu, SPACING, (15, 8, 30), [layer])
    assert [max(panel.size) for panel in panels] == [PANEL_PX] * 3
    assert all(edges(panel) for panel in panels)


@pytest.mark.parametrize(("px_per_mm", "mm"), [(20.0, 10), (60.0, 1)])
def test_the_scale_is_ten_millimetres_long(px_per_mm, mm):
    """One where ten are wider than the panel; its number is written above it."""
    panel = Image.new("RGB", (400, 240))
    draw_scale(panel, px_per_mm)
    white = (np.array(panel) == WHITE).all(axis=2)
    length = max(white.sum(axis=1))
    assert length == pytest.approx(mm * px_per_mm, abs=1)
    assert white[: white.sum(axis=1).argmax() - 3].sum() > 30


def test_ticks_lie_at_both_sides():
    """Names of ticks that are close to one another are written apart."""
    panel = Image.new("RGB", (300, 200))
    draw_levels(panel, {"1": 0.5, "2": 0.25, "3": 0.51})
    white = (np.array(panel) == WHITE).all(axis=2)
    for side in (white[:, :10], white[:, -10:]):
        rows = np.flatnonzero(side.all(axis=1))
        assert rows.tolist() == [49, 50, 99, 100, 101, 102]
    names, count = ndimage.label(np.array(panel)[:, 16:40, 0] > 40, np.ones((3, 3)))
    assert count == 3
    heights = [np.nonzero(names == n)[0].mean() for n in (1, 2, 3)]
    assert heights == pytest.approx([50, 100, 116], abs=2)
