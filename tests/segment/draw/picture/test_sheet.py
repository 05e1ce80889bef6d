import io
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from PIL import Image, ImageDraw
from scipy import ndimage

from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.light import Light
from limn.domain.scan import Labels, Volume
from limn.segment.draw.picture.legend import HEADER_PX, LIGHT_COLOURS, PAPER, Banner, Legend
from limn.segment.draw.picture.sheet import SHEET_PX, draw_contours
from tests.conftest import COLOURS
from tests.support.organs import Organ

SHAPE, SPACING = (60, 44, 48), SpacingMm(0.6, 0.5, 0.4)
DEEP_MM, WIDE_MM = 44 * 0.5, 48 * 0.4
ORGANS = dict(enumerate(Organ, 1))
ORIGIN_XYZ_MM = np.array([-100.0, 20.0, 300.0])
BANNER = Banner("scan-00012   mouse 7   2026-11-28 19:04")


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Right lung to the tail, heart in the middle, left lung to the head; a cord that swings.

    At no z are there two of heart and lungs.
    """
    labels = np.zeros(SHAPE, np.uint8)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    cord = (y - 33) ** 2 + (x - 24 - 9 * np.sin(z / 9)) ** 2 <= 3**2
    labels[cord & (z >= 4) & (z < 56)] = 2
    labels[10:19, 12:24, 4:12] = 3
    labels[26:35, 10:26, 18:30] = 1
    labels[42:51, 12:24, 36:44] = 4
    hu = np.where(labels > 0, 100, -1000).astype(np.float32)
    return hu, labels


def grid() -> Grid:
    """A plain axial one."""
    return axial_grid(SHAPE, SPACING, ORIGIN_XYZ_MM)


def picture(hu, labels, on: Grid, banner=BANNER, legend=None) -> np.ndarray:
    """The picture as PIL decodes it, (row, column, RGB)."""
    png = draw_contours(Volume(hu, on), Labels(labels, on, ORGANS), COLOURS, banner, legend)
    image = Image.open(io.BytesIO(png))
    image.load()
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.array(image).astype(int)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """The picture of the scene."""
    return picture(*scene(), grid())


@pytest.fixture
def words(monkeypatch) -> list[str]:
    """Every text that is written."""
    written = []
    text = ImageDraw.ImageDraw.text

    def record(self, place, what, **how):
        written.append(what)
        text(self, place, what, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return written


def panels(sheet: np.ndarray) -> list[np.ndarray]:
    """The seven panels, row by row: what is large and lies on the paper."""
    body = sheet[HEADER_PX:]
    islands, _ = ndimage.label((body != PAPER).any(axis=2))
    boxes = [
        box for box in ndimage.find_objects(islands) if np.ptp([box[1].start, box[1].stop]) > 150
    ]
    found = [body[box] for box in sorted(boxes, key=lambda box: (box[0].start, box[1].start))]
    assert len(found) == 7
    return found


def at(panel: np.ndarray, organ: Organ) -> tuple[float, float]:
    """Where the pixels of an organ's colour lie, as shares of the panel: down, right."""
    rows, columns = np.nonzero((panel == COLOURS[organ]).all(axis=2))
    assert len(rows) > 30, organ
    return rows.mean() / panel.shape[0], columns.mean() / panel.shape[1]


def shows(panel: np.ndarray) -> set[Organ]:
    """The organs whose contours are in a panel."""
    return {organ for organ in Organ if (panel == COLOURS[organ]).all(axis=2).any()}


def test_panels_keep_the_animals_proportions(drawn):
    """Whatever the spacing; panels of a row have one scale."""
    *axial, coronal, sagittal, bent_coronal, bent_sagittal = panels(drawn)
    assert drawn.shape[1] == SHEET_PX
    for panel in axial:
        assert panel.shape[1] / panel.shape[0] == pytest.approx(WIDE_MM / DEEP_MM, abs=0.01)
    assert coronal.shape == bent_coronal.shape
    assert sagittal.shape == bent_sagittal.shape
    assert sagittal.shape[0] == coronal.shape[0]
    assert coronal.shape[1] / sagittal.shape[1] == pytest.approx(WIDE_MM / DEEP_MM, abs=0.01)


def test_each_axial_cut_goes_through_its_own_organ(drawn):
    """Right lung, heart and left lung, each where a radiologist looks for it."""
    right, heart, left, *_ = panels(drawn)
    assert shows(right) == {Organ.LUNG_R, Organ.CORD}
    assert shows(heart) == {Organ.HEART, Organ.CORD}
    assert shows(left) == {Organ.LUNG_L, Organ.CORD}
    assert at(right, Organ.LUNG_R)[1] == pytest.approx(8 / 48, abs=0.01)
    assert at(left, Organ.LUNG_L)[1] == pytest.approx(40 / 48, abs=0.01)
    assert at(heart, Organ.HEART) == pytest.approx((18 / 44, 0.5), abs=0.01)
    assert all(
        at(panel, Organ.CORD)[0] == pytest.approx(33.5 / 44, abs=0.02)
        for panel in panels(drawn)[:3]
    )


def test_the_head_is_up(drawn):
    """And the belly at the left of a sagittal panel."""
    _, _, _, coronal, sagittal, _, bent = panels(drawn)
    z = (
        panels_z(coronal, Organ.LUNG_R),
        panels_z(coronal, Organ.HEART),
        panels_z(coronal, Organ.LUNG_L),
    )
    assert z[0] < z[1] < z[2]
    assert at(coronal, Organ.LUNG_L)[1] > 0.8
    assert at(coronal, Organ.LUNG_R)[1] < 0.2
    for panel in (sagittal, bent):
        assert at(panel, Organ.CORD)[1] == pytest.approx(33.5 / 44, abs=0.02)
    assert at(sagittal, Organ.HEART)[1] == pytest.approx(18 / 44, abs=0.02)


def panels_z(panel: np.ndarray, organ: Organ) -> float:
    """Height of an organ in a panel, as a share from the tail."""
    return 1 - at(panel, organ)[0]


def test_the_bent_cuts_show_the_whole_cord(drawn):
    """In every row of it, where a plane through the heart loses it."""
    _, _, _, coronal, sagittal, bent_coronal, bent_sagittal = panels(drawn)
    share = 52 * 0.6 / (SHAPE[0] * 0.6)
    for panel, whole in ((coronal, 0), (sagittal, 0), (bent_coronal, 1), (bent_sagittal, 1)):
        rows = (panel == COLOURS[Organ.CORD]).all(axis=2).any(axis=1)
        if whole:
            assert rows.mean() == pytest.approx(share, abs=0.01)
            assert np.diff(np.flatnonzero(rows)).max() == 1
        else:
            assert rows.mean() < 0.7 * share
    columns = np.nonzero((bent_coronal == COLOURS[Organ.CORD]).all(axis=2))[1]
    assert np.ptp(columns) / bent_coronal.shape[1] > 18 / 48


def test_ticks_show_where_the_axial_cuts_lie(drawn):
    """At both sides of each long panel, and on no axial one."""
    shown = panels(drawn)
    for panel in shown[3:]:
        # The field reaches from z 0 to 60; the cuts are in the organs' middle slices.
        places = [round((1 - (z + 0.5) / 60) * panel.shape[0]) for z in (46, 30, 14)]
        for side in (panel[:, 1:13], panel[:, -13:-1]):
            ticks, _ = ndimage.label((side == 255).all(axis=(1, 2)))
            rows = [float(np.mean(np.flatnonzero(ticks == n))) for n in (1, 2, 3)]
            assert rows == pytest.approx(places, abs=2)
            assert ticks.max() == 3
    assert not any((panel[:, 1:13] == 255).all(axis=(1, 2)).any() for panel in shown[:3])


def test_the_scale_is_ten_millimetres(drawn):
    """In the scale of each panel."""
    for n, panel in enumerate(panels(drawn)):
        wide_mm = DEEP_MM if n in (4, 6) else WIDE_MM
        length = (panel == 255).all(axis=2)[-40:, : panel.shape[1] - 20].sum(axis=1).max()
        assert length * wide_mm / panel.shape[1] == pytest.approx(10, abs=0.2)


def test_positions_are_patient_coordinates(words):
    """Millimetres of the sender's own frame, and the words that say what is bent."""
    picture(*scene(), grid())
    for word in (
        *("1  axial, middle of Lung_R", f"z {300 + 14 * 0.6:.1f} mm"),
        *("2  axial, middle of Heart", f"z {300 + 30 * 0.6:.1f} mm"),
        *("3  axial, middle of Lung_L", f"z {300 + 46 * 0.6:.1f} mm"),
        *("4  coronal, middle of Heart", f"y {20 + 17 * 0.5:.1f} mm"),
        *("5  sagittal, middle of Heart", f"x {-100 + 23 * 0.4:.1f} mm"),
        *("6  coronal, bent along the cord", f"y {20 + 33 * 0.5:.1f} to {20 + 33 * 0.5:.1f} mm"),
        "7  sagittal, bent along the cord",
    ):
        assert word in words
    low, high = (
        float(part)
        for part in words[words.index("7  sagittal, bent along the cord") + 1][2:-3].split(" to ")
    )
    assert low == pytest.approx(-100 + 15 * 0.4, abs=0.5)
    assert high == pytest.approx(-100 + 33 * 0.4, abs=0.5)
    assert "Cuts 6 and 7 are bent" in " ".join(words)


@pytest.mark.parametrize("letters", ["IPR", "SAR", "PIL", "RIP"])
def test_every_orientation_hangs_the_same(drawn, letters):
    """However the stack is stored, the same picture comes out."""
    turned = []
    for array in scene():
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(SPACING.zyx[::-1])
        image.SetOrigin(ORIGIN_XYZ_MM)
        turned.append(SimpleITK.DICOMOrient(image, letters[::-1]))
    direction = np.array(turned[0].GetDirection()).reshape(3, 3)
    columns, rows, slices = turned[0].GetSize()
    x_mm, y_mm, z_mm = turned[0].GetSpacing()
    origins = np.array(turned[0].GetOrigin()) + np.outer(np.arange(slices) * z_mm, direction[:, 2])
    on = Grid(origins, rows, columns, y_mm, x_mm, direction[:, 0], direction[:, 1])
    assert on.axis_letters == letters
    found = picture(*(SimpleITK.GetArrayFromImage(image) for image in turned), on)
    np.testing.assert_array_equal(found, drawn)


def test_a_held_scan_says_so_in_red(drawn):
    """Across the header's whole height at the right; a scan that is not held has none of it."""
    held = replace(BANNER, state="HELD: LEFT-RIGHT IN DOUBT", level=Light.RED)
    sheet = picture(*scene(), grid(), held)
    header = sheet[:HEADER_PX]
    assert (header[:, -10:] == LIGHT_COLOURS[Light.RED]).all()
    assert 0.2 < (header == LIGHT_COLOURS[Light.RED]).all(axis=2).mean() < 0.5
    assert (header[:, 300:-10] == 255).all(axis=2).sum() > 500
    np.testing.assert_array_equal(sheet[HEADER_PX:], drawn[HEADER_PX:])
    assert not (drawn[:HEADER_PX] == LIGHT_COLOURS[Light.RED]).all(axis=2).any()


def test_the_legend_stands_beside_the_panels(drawn, words):
    """A long one makes the sheet higher, and moves no panel."""
    legend = Legend(
        {Organ.HEART: 180.2},
        {Organ.HEART: Light.AMBER},
        lines=("one reason of many " * 70,),
        note="phantom-7",
    )
    sheet = picture(*scene(), grid(), legend=legend)
    assert {"180 mm3", "amber"} <= set(words)
    assert sheet.shape[0] > drawn.shape[0]
    for panel, plain in zip(panels(sheet), panels(drawn), strict=True):
        np.testing.assert_array_equal(panel, plain)


@pytest.mark.parametrize("left", [(), (Organ.LUNG_L,), (Organ.CORD,), (Organ.HEART, Organ.LUNG_R)])
def test_an_organ_without_a_contour_is_named(words, left):
    """Its cuts show the scan all the same."""
    hu, labels = scene()
    kept = [label for label, organ in ORGANS.items() if organ in left]
    sheet = picture(hu, np.where(np.isin(labels, kept), labels, 0).astype(np.uint8), grid())
    assert set().union(*map(shows, panels(sheet))) == set(left)
    missing = {word for word in words if ": NO " in word}
    wanted = {
        Organ.LUNG_R: {"1  axial: NO Lung_R"},
        Organ.HEART: {"2  axial: NO Heart", "4  coronal: NO Heart", "5  sagittal: NO Heart"},
        Organ.LUNG_L: {"3  axial: NO Lung_L"},
        Organ.CORD: {"6  coronal: NO SpinalCord", "7  sagittal: NO SpinalCord"},
    }
    assert missing == set().union(*(wanted[organ] for organ in Organ if organ not in left))
    assert ("Cuts 6 and 7 are bent" in " ".join(words)) == (Organ.CORD in left)


def test_titles_of_narrow_panels_are_small_and_whole(monkeypatch):
    """In a broad and flat animal a sagittal panel is narrower than its title usually is."""
    hu = np.full((60, 36, 100), -1000, np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    labels[2:58, 14:22, 4:96] = 2
    ends = {}
    text = ImageDraw.ImageDraw.text

    def record(self, place, what, **how):
        ends[what] = place[0], place[0] + how["font"].getlength(what)
        text(self, place, what, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    picture(hu, labels, axial_grid(hu.shape, SPACING, ORIGIN_XYZ_MM))
    lefts = [
        ends[next(title for title in ends if title.startswith(f"{n}  "))] for n in (4, 5, 6, 7)
    ]
    for (_, end), (left, _) in zip(lefts, [*lefts[1:], (SHEET_PX - 354, 0)], strict=True):
        assert end < left
