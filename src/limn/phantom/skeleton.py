"""Paints spine, cord, ribs, sternum, shoulders, limbs, skull and pelvis."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from limn.phantom.anatomy import BONE, CORD, THORACIC_VERTEBRAE, Mouse
from limn.phantom.canvas import Canvas, Field, PointXyzMm, rod
from limn.phantom.layout import PELVIS_Z_MM, Layout

NECK_VERTEBRAE = 7
LUMBAR_VERTEBRAE = 6

# About the whole spine, in the mouse's frame: the lowest and the highest x, y, z.
SPINE_BOX_MM = ((-4.5, -6.0, -44.0), (4.5, 14.0, 22.0))


def paint_ribs(canvas: Canvas, layout: Layout, mouse: Mouse) -> None:
    """Paint thirteen pairs of ribs, each from its vertebra around the chest, and the sternum."""
    box = canvas.box((-11.0, -9.0, -22.0), (11.0, 11.0, INLET_MARGIN_Z))
    if box is None:
        return
    part = canvas.part(box)
    build, tissue = mouse.build, mouse.tissue
    spine_y = layout.spine_y(part.z)
    half = np.maximum(layout.cage_half_width(part.z), 1.0)
    depth = np.maximum(spine_y - layout.sternum_y(part.z), 2.0)
    # 0 at the spine, 1 at the sternum.
    around = np.arctan2(np.abs(part.x) / half, (part.y - spine_y) / depth + 0.52) / np.pi
    behind = np.clip(around, 0.0, 1.0)
    reach = np.float32(13.0 * build.rib_slope)
    head_z = part.z + reach * (1.0 - np.cos(1.15 * np.pi * behind)) / 2
    index = layout.vertebra(head_z)
    rate = np.sqrt(1.0 + layout.spine_slope(head_z) ** 2) / build.vertebra_pitch_mm
    slant = np.sqrt(1.0 + (reach * 1.8 * np.sin(1.15 * np.pi * behind) / (1.6 * depth)) ** 2)
    nearest = np.round(index - 0.25) + np.float32(0.25)
    along = (index - nearest) / (rate * slant)
    shell = layout.cage(part) - np.float32(0.25)
    distance = np.sqrt(along**2 + shell**2) - np.float32(build.rib_radius_mm)
    # The last pairs are floating ribs: they end before the sternum.
    longest = np.where(nearest > 10.5, 0.62, np.where(nearest > 7.5, 0.8, 0.94))
    counts = (nearest > 0) & (nearest < THORACIC_VERTEBRAE)
    outside = np.where(counts, 0.0, 9.0) + np.maximum(behind - longest, 0.0) * 12.0
    rib = np.asarray(distance + outside, dtype=np.float32)
    bony = np.where(behind < 0.72, tissue.bone, tissue.cartilage + 0.35 * tissue.bone)
    part.fill(rib, bony.astype(np.float32))
    part.label_body(rib, BONE)
    _paint_sternum(canvas, layout, mouse)


INLET_MARGIN_Z = 13.0


def _paint_sternum(canvas: Canvas, layout: Layout, mouse: Mouse) -> None:
    z = 6.8
    while z > -8.0:
        start = (0.0, float(layout.sternum_y(z)), z)
        end = (0.0, float(layout.sternum_y(z - 1.9)), z - 1.9)
        paint_bone(canvas, start, end, 0.5, mouse.tissue.bone * 0.8)
        z -= 2.5


def paint_spine(canvas: Canvas, layout: Layout, mouse: Mouse) -> None:
    """Paint the vertebrae with their canal, and the cord in it.

    The truth of the cord reaches from the cranial edge of T1 to the caudal edge of T13; the cord
    itself continues into neck and loin.
    """
    box = canvas.box(*SPINE_BOX_MM)
    if box is None:
        return
    part = canvas.part(box)
    found = _along_spine(part, layout)
    if found is None:
        return
    near, x, y, z, dorsal, index = found
    tissue = mouse.tissue
    flat = Canvas(x, y, z, part.hu_zyx[near], None, canvas.voxel_mm)
    canal = np.sqrt((x / 1.08) ** 2 + dorsal**2) - np.float32(mouse.build.canal_radius_mm)
    solid = _paint_vertebrae(flat, mouse, canal, dorsal, index)
    flat.fill(np.asarray(canal + np.float32(0.05)), tissue.csf)
    cord = _cord_distance(x, dorsal, mouse)
    flat.fill(cord, tissue.cord)
    part.hu_zyx[near] = flat.hu_zyx
    share = np.zeros(part.x.shape, dtype=np.float32)
    thoracic = (index >= 0) & (index <= THORACIC_VERTEBRAE)
    share[near] = solid
    part.unlabel(share)
    # Half a voxel of distance is half a share.
    part.label_body(np.float32(canvas.voxel_mm) * (0.5 - share), BONE)
    share[near] = np.where(thoracic, part.covered(cord), 0.0)
    part.label(share, CORD)


def cord_share(canvas: Canvas, layout: Layout, mouse: Mouse, vertebrae: int) -> Field:
    """The share of each voxel that the cord fills, from the cranial edge of T1 over vertebrae."""
    share = np.zeros(canvas.x.shape, dtype=np.float32)
    box = canvas.box(*SPINE_BOX_MM)
    part = None if box is None else canvas.part(box)
    found = None if part is None else _along_spine(part, layout)
    if part is not None and found is not None:
        near, x, _, _, dorsal, index = found
        within = (index >= 0) & (index <= vertebrae)
        share[box][near] = np.where(within, part.covered(_cord_distance(x, dorsal, mouse)), 0.0)
    return share


def _along_spine(
    part: Canvas, layout: Layout
) -> tuple[tuple[npt.NDArray[np.intp], ...], Field, Field, Field, Field, Field] | None:
    """Voxels about the spine: where, x, y, z, distance dorsal of the canal, place of a vertebra."""
    near = np.nonzero(
        (np.abs(part.x) < 4.0)
        & (np.abs(part.y - layout.spine_y(part.z)) < 7.0)
        & (part.z < 21.0)
        & (part.z > PELVIS_Z_MM - 8.0)
    )
    if not near[0].size:
        return None
    x, y, z = part.x[near], part.y[near], part.z[near]
    t = z
    for _ in range(4):
        slope = layout.spine_slope(t)
        t = t + 0.8 * ((y - layout.spine_y(t)) * slope + (z - t)) / (1.0 + slope**2)
    slope = layout.spine_slope(t)
    dorsal = ((y - layout.spine_y(t)) - (z - t) * slope) / np.sqrt(1.0 + slope**2)
    return near, x, y, z, dorsal, layout.vertebra(t)


def _cord_distance(x: Field, dorsal: Field, mouse: Mouse) -> Field:
    distance = np.sqrt((x / 1.05) ** 2 + dorsal**2) - np.float32(mouse.build.cord_radius_mm)
    return np.asarray(distance)


def _paint_vertebrae(
    flat: Canvas, mouse: Mouse, canal: Field, dorsal: Field, index: Field
) -> Field:
    """Paint bodies, discs, arches and processes; return the share of bone in each voxel.

    Parameters
    ----------
    canal : signed distance to the canal
    dorsal : mm towards the back from the canal's middle
    index : number of the vertebra, and the position along it as a fraction
    """
    build, tissue = mouse.build, mouse.tissue
    level = index - np.floor(index)
    exists = (index > -NECK_VERTEBRAE) & (index < THORACIC_VERTEBRAE + LUMBAR_VERTEBRAE)
    absent = np.where(exists, 0.0, 9.0)
    pitch = np.float32(build.vertebra_pitch_mm)
    # The vertebrae are larger towards the loin and smaller in the neck.
    stout = np.interp(index, [-6, 0, 8, 16], [0.85, 0.9, 1.05, 1.3]).astype(np.float32)

    solid = np.zeros(flat.x.shape, dtype=np.float32)

    def fill(distance: Field, hu: float) -> None:
        there = np.asarray(distance + absent, dtype=np.float32)
        np.maximum(solid, flat.covered(there), out=solid)
        flat.fill(there, hu)

    centre = -(np.float32(build.canal_radius_mm) + 0.95 * stout)
    body = np.sqrt((flat.x / 1.2) ** 2 + (dorsal - centre) ** 2) - 0.95 * stout
    disc = (np.abs(level - 0.5) - 0.40) * pitch
    fill(np.maximum(body, -disc), tissue.cartilage)
    fill(np.maximum(body, disc), tissue.bone)
    fill(np.maximum(body + 0.32, disc + 0.2), tissue.marrow)
    arch = np.maximum(canal - np.float32(0.42), -canal)
    lamina = (np.abs(level - 0.5) - 0.33) * pitch
    fill(np.maximum(arch, np.where(dorsal > -0.3, lamina, disc)), tissue.bone * 0.9)
    wing = np.maximum(np.abs(dorsal - 0.35) - 0.3, np.abs(flat.x) - (1.9 + 0.5 * stout))
    fill(np.maximum(np.maximum(wing, -canal), (np.abs(level - 0.3) - 0.17) * pitch), tissue.bone)
    # T2 of a mouse has a long spinous process.
    tall = np.where(np.abs(index - 1.5) < 0.5, 3.4, 1.3 * stout)
    tip = np.float32(build.canal_radius_mm) + tall
    thorn = np.maximum(np.abs(flat.x) - 0.24, np.abs(dorsal - tip / 2) - tip / 2)
    fill(np.maximum(np.maximum(thorn, -canal), (np.abs(level - 0.6) - 0.2) * pitch), tissue.bone)
    return solid


def paint_rod(
    canvas: Canvas, start: PointXyzMm, end: PointXyzMm, radius_mm: float, hu: float
) -> None:
    """Paint a straight bone, vessel or wire."""
    low = tuple(min(a, b) - radius_mm - 0.3 for a, b in zip(start, end, strict=True))
    high = tuple(max(a, b) + radius_mm + 0.3 for a, b in zip(start, end, strict=True))
    box = canvas.snug_box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    if box is not None:
        part = canvas.part(box)
        part.fill(rod(part, start, end) - np.float32(radius_mm), hu)


def paint_bone(
    canvas: Canvas, start: PointXyzMm, end: PointXyzMm, radius_mm: float, hu: float
) -> None:
    """Paint a straight bone, and label it; what is painted into it stays bone."""
    paint_rod(canvas, start, end, radius_mm, hu)
    low = tuple(min(a, b) - radius_mm - 0.3 for a, b in zip(start, end, strict=True))
    high = tuple(max(a, b) + radius_mm + 0.3 for a, b in zip(start, end, strict=True))
    box = canvas.snug_box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    if box is not None:
        part = canvas.part(box)
        part.label_body(rod(part, start, end) - np.float32(radius_mm), BONE)


def limbs(mouse: Mouse) -> list[tuple[PointXyzMm, PointXyzMm, float, float]]:
    """Start, end, radius of the flesh and radius of the bone of each part of the four limbs."""
    parts = []
    for side, arm, elbow in zip(
        (-1.0, 1.0), mouse.pose.arms_rad, mouse.pose.elbow_rad, strict=True
    ):
        shoulder = (side * 6.4, 0.5, 7.6)
        joint = (
            side * (8.6 + 1.2 * np.cos(arm)),
            -3.5 - 2.0 * np.cos(elbow),
            7.0 + 6.0 * np.sin(arm),
        )
        paw = (
            joint[0] - side * (1.0 + 1.5 * np.cos(elbow)),
            joint[1] - 3.0,
            joint[2] + 7.5 * np.sin(elbow + 0.3 * arm),
        )
        blade = (side * 4.6, 7.4, 2.2)
        parts.append((blade, shoulder, 2.0, 0.0))
        parts.append((shoulder, joint, 2.0, 0.6))
        parts.append((joint, paw, 1.4, 0.5))
        hip = (side * 4.6, 2.5, PELVIS_Z_MM - 1.0)
        knee = (side * (9.0 + arm), -4.0, PELVIS_Z_MM + 5.0 + 2.0 * elbow)
        foot = (side * (8.0 + arm), -6.0, PELVIS_Z_MM - 10.0)
        parts.append((hip, knee, 3.2, 0.75))
        parts.append((knee, foot, 2.0, 0.6))
    return parts


def paint_limb_bones(canvas: Canvas, mouse: Mouse) -> None:
    """Paint hollow long bones, shoulder blades, collar bones, skull and pelvis."""
    tissue = mouse.tissue
    for start, end, _, radius in limbs(mouse):
        if radius:
            paint_bone(canvas, start, end, radius, tissue.bone)
            paint_rod(canvas, start, end, 0.45 * radius, tissue.marrow)
            paint_bone(canvas, start, start, 1.25 * radius, 0.7 * tissue.bone)
    for side in (-1.0, 1.0):
        _paint_blade(canvas, side, tissue.bone)
        shoulder = (side * 6.0, 0.3, 7.8)
        paint_bone(canvas, shoulder, (side * 0.8, -4.2, 7.4), 0.3, tissue.bone)
        wing = (side * 3.0, 7.0, PELVIS_Z_MM + 8.0)
        hip = (side * 4.2, 3.0, PELVIS_Z_MM - 2.0)
        paint_bone(canvas, wing, hip, 0.7, tissue.bone)
        paint_bone(canvas, hip, (side * 1.5, -1.0, PELVIS_Z_MM - 7.0), 0.6, tissue.bone)
    _paint_skull(canvas, mouse)


def _paint_blade(canvas: Canvas, side: float, bone: float) -> None:
    """Paint a shoulder blade: a thin triangle beside the upper ribs, with its ridge."""
    shoulder = (side * 6.1, 1.6, 7.2)
    for dorsal_y, tail_z in ((7.6, 6.8), (8.0, 4.6), (7.8, 2.4), (6.6, 0.8)):
        paint_bone(canvas, shoulder, (side * 5.0, dorsal_y, tail_z), 0.2, 0.8 * bone)
    paint_bone(canvas, shoulder, (side * 5.6, 7.8, 4.0), 0.35, bone)


def _paint_skull(canvas: Canvas, mouse: Mouse) -> None:
    box = canvas.box((-7.5, -6.0, 12.0), (7.5, 9.0, 36.0))
    if box is None:
        return
    part = canvas.part(box)
    tissue = mouse.tissue
    brain = np.sqrt(
        (part.x / 5.0) ** 2 + ((part.y - 2.8) / 3.6) ** 2 + ((part.z - 20.0) / 6.6) ** 2
    )
    shell = ((np.abs(brain - 1.0) - 0.07) * 4.2).astype(np.float32)
    part.fill(shell, tissue.bone)
    part.label_body(shell, BONE)
    snout = np.sqrt(
        (part.x / 2.2) ** 2 + ((part.y - 1.2) / 2.0) ** 2 + ((part.z - 28.5) / 4.5) ** 2
    )
    shell = ((np.abs(snout - 1.0) - 0.12) * 2.2).astype(np.float32)
    part.fill(shell, 0.8 * tissue.bone)
    part.label_body(shell, BONE)
    part.fill(((snout - 0.55) * 2.2).astype(np.float32), 0.4 * tissue.air)
    for side in (-1.0, 1.0):
        paint_bone(canvas, (side * 3.6, -2.6, 18.5), (side * 0.9, -2.6, 29.5), 0.65, tissue.bone)
        paint_bone(
            canvas, (side * 0.5, -1.6, 26.0), (side * 0.4, -1.0, 32.0), 0.4, 1.6 * tissue.bone
        )
        paint_bone(canvas, (side * 3.2, 0.2, 15.4), (side * 3.2, 0.2, 16.4), 1.3, tissue.bone)
        paint_rod(canvas, (side * 3.2, 0.2, 15.4), (side * 3.2, 0.2, 16.4), 0.9, 0.8 * tissue.air)
