"""One picture of a scan: axial, coronal and sagittal cuts with the contours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
# Patient letters at the left, right, top and bottom of each panel.
_PANELS = (("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI"))
PLANES = tuple(name for name, _ in _PANELS)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Labels to draw, (z, y, x) with axes S, P and L, and how their contours look."""

    labels_zyx: npt.NDArray[np.uint8]
    organs: Mapping[int, Organ]
    colours: Mapping[Organ, Colour]
    width_px: int = 2


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
    around = box_around(drawn, spacing)
    hu, drawn = hu[around], drawn[around]
    panels = draw_panels(hu, spacing, middle(drawn), [Layer(drawn, labels.organs, colours)])
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


def box_around(labels_zyx: npt.NDArray[np.uint8], spacing: tuple[float, float, float]) -> Box:
    """The organs with a margin of body; an animal may fill only a fifth of the field of view."""
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


def middle(labels_zyx: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    """The middle voxel of the organs' box; of the whole array if there are no organs."""
    box = occupied_box(labels_zyx)
    if box[0].stop == 0:
        z, y, x = (n // 2 for n in labels_zyx.shape)
    else:
        z, y, x = ((span.start + span.stop - 1) // 2 for span in box)
    return (z, y, x)


def draw_panels(
    hu_zyx: npt.NDArray[np.float32],
    spacing: tuple[float, float, float],
    centre: tuple[int, int, int],
    layers: Sequence[Layer],
) -> list[Image.Image]:
    """The three cuts through a voxel, in the order of `PLANES`; later layers cover earlier ones.

    Parameters
    ----------
    hu_zyx : (z, y, x) with axes S, P and L, like the labels of every layer
    spacing : mm along z, y, x
    """
    return [
        _panel(hu_zyx, spacing, axis, centre[axis], layers, letters)
        for axis, (_, letters) in enumerate(_PANELS)
    ]


def _panel(
    hu: npt.NDArray[np.float32],
    spacing: tuple[float, float, float],
    axis: int,
    index: int,
    layers: Sequence[Layer],
    letters: str,
) -> Image.Image:
    # Rows that run along z are flipped, so that the head is up.
    where = tuple(
        index if i == axis else slice(None, None, -1 if i == 0 else None) for i in range(3)
    )
    cut = hu[where]
    row_mm, column_mm = (spacing[i] for i in range(3) if i != axis)
    low, high = WINDOW_HU
    grey = np.clip((cut - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    scale = PANEL_PX / max(cut.shape[0] * row_mm, cut.shape[1] * column_mm)
    size = (round(cut.shape[1] * column_mm * scale), round(cut.shape[0] * row_mm * scale))
    panel = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    pen = ImageDraw.Draw(panel)
    for layer in layers:
        labels = layer.labels_zyx[where]
        for label, organ in layer.organs.items():
            for ring in measure.find_contours(np.pad(labels == label, 1).astype(float), 0.5):
                points = [
                    ((x - 0.5) * column_mm * scale, (y - 0.5) * row_mm * scale) for y, x in ring
                ]
                pen.line(points, fill=layer.colours[organ], width=layer.width_px)
    middle_x, middle_y = size[0] // 2, size[1] // 2
    for letter, spot in zip(
        letters,
        ((4, middle_y), (size[0] - 12, middle_y), (middle_x, 2), (middle_x, size[1] - 14)),
        strict=True,
    ):
        # The dark rim keeps a letter legible on bone.
        pen.text(spot, letter, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
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
