"""One picture of a scan: axial, coronal and sagittal cut with the contours drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from skimage import measure

from limn.domain.geometry import Reorientation
from limn.domain.scan import Box, Labels, Organ, Volume, occupied_box

Colour = tuple[int, int, int]

WINDOW_HU = (-900.0, 500.0)
PANEL_PX = 420
MARGIN_MM = 7.0
MARGIN_PX = 8
CAPTION_PX = 34
# Patient letters at left, right, top and bottom of each panel.
_PANELS = (("axial", 0, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 2, "APSI"))


def draw_contours(
    volume: Volume, labels: Labels, colours: Mapping[Organ, Colour], caption: str
) -> bytes:
    """PNG of the three cuts through the middle of the organs.

    The animal's head is up in the coronal and sagittal panel, its belly up in the axial
    one, its right side at the viewer's left, as radiologists hang CT.
    """
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    hu, drawn = turn.apply(volume.hu_zyx), turn.apply(labels.labels_zyx)
    spacing = turn.spacing(volume.grid.spacing_mm).zyx
    around = _around(drawn, spacing)
    hu, drawn = hu[around], drawn[around]
    centre = _middle(drawn)
    panels = [
        _panel(hu, drawn, spacing, axis, centre[axis], labels, colours, letters)
        for _, axis, letters in _PANELS
    ]
    width = sum(panel.width for panel in panels) + MARGIN_PX * (len(panels) + 1)
    height = max(panel.height for panel in panels) + 2 * MARGIN_PX + CAPTION_PX
    sheet = Image.new("RGB", (width, height), (16, 16, 16))
    left = MARGIN_PX
    for panel in panels:
        sheet.paste(panel, (left, MARGIN_PX))
        left += panel.width + MARGIN_PX
    _write_caption(sheet, caption, labels, colours)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _around(labels_zyx: npt.NDArray[np.uint8], spacing: tuple[float, float, float]) -> Box:
    """The organs with the body around them: an animal is a fifth of a wide field of view."""
    box = occupied_box(labels_zyx)
    if box[0].stop == 0:
        box = (
            slice(0, labels_zyx.shape[0]),
            slice(0, labels_zyx.shape[1]),
            slice(0, labels_zyx.shape[2]),
        )
    z, y, x = (
        slice(max(0, span.start - round(MARGIN_MM / mm)), min(n, span.stop + round(MARGIN_MM / mm)))
        for span, mm, n in zip(box, spacing, labels_zyx.shape, strict=True)
    )
    return (z, y, x)


def _middle(labels_zyx: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    """A voxel inside the organs' box through which all three cuts show something."""
    box = occupied_box(labels_zyx)
    if box[0].stop == 0:
        z, y, x = (n // 2 for n in labels_zyx.shape)
    else:
        z, y, x = ((span.start + span.stop - 1) // 2 for span in box)
    return (z, y, x)


def _panel(
    hu: npt.NDArray[np.float32],
    drawn: npt.NDArray[np.uint8],
    spacing: tuple[float, float, float],
    axis: int,
    index: int,
    labels: Labels,
    colours: Mapping[Organ, Colour],
    letters: str,
) -> Image.Image:
    where = tuple(index if i == axis else slice(None) for i in range(3))
    cut, organs = hu[where], drawn[where]
    row_mm, column_mm = (spacing[i] for i in range(3) if i != axis)
    if axis != 0:
        cut, organs = cut[::-1], organs[::-1]
    low, high = WINDOW_HU
    grey = np.clip((cut - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    scale = PANEL_PX / max(cut.shape[0] * row_mm, cut.shape[1] * column_mm)
    size = (round(cut.shape[1] * column_mm * scale), round(cut.shape[0] * row_mm * scale))
    panel = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    pen = ImageDraw.Draw(panel)
    for label, organ in labels.organs.items():
        for ring in measure.find_contours(np.pad(organs == label, 1).astype(float), 0.5):
            points = [((x - 0.5) * column_mm * scale, (y - 0.5) * row_mm * scale) for y, x in ring]
            pen.line(points, fill=colours[organ], width=2)
    middle_x, middle_y = size[0] // 2, size[1] // 2
    for letter, spot in zip(
        letters,
        ((4, middle_y), (size[0] - 12, middle_y), (middle_x, 2), (middle_x, size[1] - 14)),
        strict=True,
    ):
        pen.text(spot, letter, fill=(255, 255, 255))
    return panel


def _write_caption(
    sheet: Image.Image, caption: str, labels: Labels, colours: Mapping[Organ, Colour]
) -> None:
    pen = ImageDraw.Draw(sheet)
    top = sheet.height - CAPTION_PX
    pen.text((MARGIN_PX, top), caption, fill=(235, 235, 235))
    left = MARGIN_PX
    for organ in labels.organs.values():
        pen.rectangle((left, top + 18, left + 10, top + 28), fill=colours[organ])
        pen.text((left + 15, top + 17), organ.value, fill=(235, 235, 235))
        left += 110
