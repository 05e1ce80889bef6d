"""Draws one cut of a scan with its contours, the patient's letters, a scale and marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from skimage import measure

from limn.domain.scan import Organ
from limn.segment.draw.picture.cuts import Cut

Colour = tuple[int, int, int]

WINDOW_HU = (-900.0, 500.0)
PANEL_PX = 420
LETTER_PX = 16
SCALE_MM = 10
TICK_PX = 14
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# Patient letters at the left, right, top and bottom of the cuts across each axis.
_PLANES = (("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI"))
PLANES = tuple(name for name, _ in _PLANES)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Labels to draw, (z, y, x) with axes S, P and L, and how their contours look."""

    labels_zyx: npt.NDArray[np.uint8]
    organs: Mapping[int, Organ]
    colours: Mapping[Organ, Colour]
    width_px: int = 2


@cache
def font(px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, of a height; it has the letters of English and no others."""
    return ImageFont.load_default(px)


def fitting_px(text: str, width: float, largest: int, smallest: int) -> int:
    """The largest height of letters with which a text is no wider; the smallest if none is."""
    sizes = range(largest, smallest, -1)
    return next((px for px in sizes if font(px).getlength(text) <= width), smallest)


def draw_panels(
    hu_zyx: npt.NDArray[np.float32],
    spacing: tuple[float, float, float],
    centre: tuple[int, int, int],
    layers: Sequence[Layer],
) -> list[Image.Image]:
    """The three planes through a voxel, in the order of `PLANES`; later layers cover earlier ones.

    Parameters
    ----------
    hu_zyx : (z, y, x) with axes S, P and L, like the labels of every layer
    spacing : mm along z, y, x
    """
    panels = []
    for axis in range(3):
        cut = Cut.plane(axis, centre[axis])
        longest_mm = max(extent_mm(hu_zyx.shape, spacing, axis))
        panel = draw_panel(hu_zyx, spacing, cut, layers, PANEL_PX / longest_mm)
        panels.append(panel)
    return panels


def extent_mm(
    shape: tuple[int, ...], spacing: tuple[float, float, float], axis: int
) -> tuple[float, float]:
    """Height and width of a cut across an axis."""
    height, width = (shape[i] * spacing[i] for i in range(3) if i != axis)
    return (height, width)


def draw_panel(
    hu_zyx: npt.NDArray[np.float32],
    spacing: tuple[float, float, float],
    cut: Cut,
    layers: Sequence[Layer],
    px_per_mm: float,
) -> Image.Image:
    """One cut as radiologists hang it: head or belly up, the animal's right at the viewer's left.

    Parameters
    ----------
    hu_zyx, spacing, layers : see `draw_panels`
    """
    low, high = WINDOW_HU
    grey = np.clip((cut.linear(hu_zyx) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    row_mm, column_mm = (spacing[i] for i in range(3) if i != cut.axis)
    row_px, column_px = row_mm * px_per_mm, column_mm * px_per_mm
    size = (max(1, round(grey.shape[1] * column_px)), max(1, round(grey.shape[0] * row_px)))
    panel = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    pen = ImageDraw.Draw(panel)
    for layer in layers:
        labels = cut.nearest(layer.labels_zyx)
        for label, organ in layer.organs.items():
            for ring in _rings(labels == label):
                points = ((ring + 0.5) * (row_px, column_px))[:, ::-1].ravel().tolist()
                pen.line(points, fill=layer.colours[organ], width=layer.width_px)
    _write_letters(pen, size, _PLANES[cut.axis][1])
    return panel


def draw_scale(panel: Image.Image, px_per_mm: float) -> None:
    """A bar of 10 mm above the lower left corner; of 1 mm where 10 mm are too wide."""
    mm = SCALE_MM if SCALE_MM * px_per_mm < 0.8 * panel.width else 1
    pen = ImageDraw.Draw(panel)
    left, bottom, length = 10, panel.height - 24, round(mm * px_per_mm)
    pen.rectangle((left - 1, bottom - 4, left + length + 1, bottom + 1), fill=BLACK)
    pen.rectangle((left, bottom - 3, left + length, bottom), fill=WHITE)
    _write(pen, (left, bottom - 8), f"{mm} mm", anchor="ls")


def draw_levels(panel: Image.Image, heights: Mapping[str, float]) -> None:
    """Ticks at both sides of a panel, with a name at the left.

    Parameters
    ----------
    heights : name to its place as a share of the panel's height, 0 at the top
    """
    pen = ImageDraw.Draw(panel)
    ticks = {name: round(share * panel.height) for name, share in heights.items()}
    # A tick's rim does not cover its neighbour.
    for ink, rim in ((BLACK, 1), (WHITE, 0)):
        for y in ticks.values():
            for left in (0, panel.width - TICK_PX):
                pen.rectangle((left, y - 1 - rim, left + TICK_PX, y + rim), fill=ink)
    lowest = -LETTER_PX
    for name, y in sorted(ticks.items(), key=lambda tick: tick[1]):
        # Names of neighbouring ticks stand below one another.
        lowest = max(y, lowest + LETTER_PX)
        _write(pen, (TICK_PX + 4, lowest), name, anchor="lm")


def _rings(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """The outlines (n, 2) of a mask: fractional row and column of each point."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    first = np.array([rows[0], columns[0]])
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rings = measure.find_contours(np.pad(part, 1).astype(float), 0.5)
    return [ring - 1 + first for ring in rings]


def _write_letters(pen: ImageDraw.ImageDraw, size: tuple[int, int], letters: str) -> None:
    width, height = size
    # Ticks of axial cuts lie about the middle of the height; the letters lie lower.
    side = round(0.72 * height) if "S" in letters else height // 2
    _write(pen, (5, side), letters[0], anchor="lm")
    _write(pen, (width - 5, side), letters[1], anchor="rm")
    _write(pen, (width // 2, 4), letters[2], anchor="mt")
    _write(pen, (width // 2, height - 4), letters[3], anchor="mb")


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, anchor: str) -> None:
    # The dark rim keeps it legible on bone.
    pen.text(
        place,
        text,
        fill=WHITE,
        font=font(LETTER_PX),
        anchor=anchor,
        stroke_width=2,
        stroke_fill=BLACK,
    )
