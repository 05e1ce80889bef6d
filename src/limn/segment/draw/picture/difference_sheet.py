"""The picture of two delineations of one scan: three planes where they differ most."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from limn.domain.geometry import Reorientation
from limn.domain.records import OrganDifference
from limn.domain.scan import Labels, Volume
from limn.segment.draw.picture.cuts import box_around
from limn.segment.draw.picture.legend import INK, PAPER
from limn.segment.draw.picture.panels import (
    PANEL_PX,
    PLANES,
    Colour,
    Layer,
    draw_panels,
    fitting_px,
    font,
)

# Told apart by people who don't see red and green, on dark and on light tissue.
OLD_COLOUR: Colour = (0, 190, 255)
NEW_COLOUR: Colour = (255, 160, 0)
MARGIN_PX, LINE_PX, TEXT_PX, SMALLEST_PX = 14, 22, 16, 11


def draw_difference(
    volume: Volume, old: Labels, new: Labels, organs: Sequence[OrganDifference]
) -> bytes:
    """PNG of an axial, a coronal and a sagittal plane with both contours, and a line an organ.

    The planes are those in which most voxels of the organ with the least DSC belong to one
    delineation alone.

    Parameters
    ----------
    volume, old, new : on one grid
    organs : as `limn.segment.compare.difference.differences` gives them
    """
    both = np.maximum(old.labels_zyx, new.labels_zyx)
    around = box_around(both, volume.grid.spacing_mm.zyx)
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    z_mm, y_mm, x_mm = turn.grid(volume.grid.part(around)).spacing_mm.zyx
    shown = [turn.apply(each.labels_zyx[around]) for each in (old, new)]
    layers = [
        Layer(zyx, labels.organs, dict.fromkeys(labels.organs.values(), colour))
        for zyx, labels, colour in zip(shown, (old, new), (OLD_COLOUR, NEW_COLOUR), strict=True)
    ]
    worst = min(
        (each for each in organs if each.dsc is not None),
        key=lambda each: each.dsc or 0.0,
        default=None,
    )
    masks = [
        np.isin(zyx, [n for n, organ in labels.organs.items() if worst and organ == worst.organ])
        for zyx, labels in zip(shown, (old, new), strict=True)
    ]
    differs = masks[0] ^ masks[1]
    if not differs.any():
        differs = (shown[0] > 0) | (shown[1] > 0)
    centre = [int(differs.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]
    panels = draw_panels(
        turn.apply(volume.hu_zyx[around]),
        (z_mm, y_mm, x_mm),
        (centre[0], centre[1], centre[2]),
        layers,
    )
    return _sheet(panels, organs)


def _sheet(panels: Sequence[Image.Image], organs: Sequence[OrganDifference]) -> bytes:
    lines = [
        (OLD_COLOUR, "the old bundle"),
        (NEW_COLOUR, "the new bundle"),
        *((INK, line_of(each)) for each in organs),
    ]
    width = MARGIN_PX + len(panels) * (PANEL_PX + MARGIN_PX)
    height = MARGIN_PX + LINE_PX + PANEL_PX + MARGIN_PX + LINE_PX * len(lines) + MARGIN_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, panel in enumerate(panels):
        left = MARGIN_PX + k * (PANEL_PX + MARGIN_PX)
        pen.text((left, MARGIN_PX), PLANES[k], fill=INK, font=font(TEXT_PX))
        sheet.paste(panel, (left, MARGIN_PX + LINE_PX))
    top = MARGIN_PX + LINE_PX + PANEL_PX + MARGIN_PX
    for k, (colour, text) in enumerate(lines):
        px = fitting_px(text, width - 2 * MARGIN_PX, TEXT_PX, SMALLEST_PX)
        pen.text((MARGIN_PX, top + k * LINE_PX), text, fill=colour, font=font(px))
    file = io.BytesIO()
    sheet.save(file, "PNG", compress_level=1)
    return file.getvalue()


def line_of(each: OrganDifference) -> str:
    """An organ's difference in one line, such as ``Heart: DSC 0.981, 95 % 0.20 mm, ...``."""
    if each.dsc is None:
        return f"{each.organ}: only one of the bundles draws it"
    parts = [f"{each.organ}: DSC {each.dsc:.3f}"]
    if each.hd95_mm is not None:
        parts.append(f"95 % {each.hd95_mm:.2f} mm")
    if each.change_percent is not None:
        change = each.change_percent
        parts.append(f"{each.old_mm3:.1f} to {each.new_mm3:.1f} mm3 ({change:+.1f} %)")
    if each.old_light or each.new_light:
        parts.append(f"light {each.old_light or 'none'} to {each.new_light or 'none'}")
    return ", ".join(parts)
