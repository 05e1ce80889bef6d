"""Paints a whole mouse on its bed: attenuation and truth on any grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid
from limn.phantom.anatomy import TRUTH_LABELS, Mouse
from limn.phantom.belly import paint_belly
from limn.phantom.canvas import Canvas, Field, PointXyzMm, rod, union, warped
from limn.phantom.chest import paint_chest
from limn.phantom.layout import Layout
from limn.phantom.skeleton import limbs, paint_limb_bones, paint_ribs, paint_spine
from limn.phantom.surroundings import paint_surroundings, scanner_canvas

SKIN_MM = 0.45
# Distance of the bed from the heart if the trunk is outside the field of view.
REACH_MM = 9.5


def paint(
    mouse: Mouse, grid: Grid, organs: int = len(TRUTH_LABELS)
) -> tuple[Field, npt.NDArray[np.uint8]]:
    """Ideal attenuation and truth of a mouse on its bed: no blur, no noise.

    Parameters
    ----------
    grid : Grid
        Uniform, axes S, P, L; the middle of the heart lies at 0 0 0.
    organs : how many of `anatomy.WHOLE_LABELS` the truth has; more of them change nothing else

    Returns
    -------
    hu_zyx : (z, y, x) float32
    shares : (organ, z, y, x) uint8, the share of each voxel that each organ of
        `anatomy.WHOLE_LABELS` fills, 255 for a full voxel. A neighbour is never labelled.
    """
    hu = np.full(grid.shape_zyx, mouse.tissue.air, dtype=np.float32)
    shares = np.zeros((organs, *grid.shape_zyx), dtype=np.uint8)
    animal = _canvas(mouse, grid, hu, shares, (0.0, 0.0, 0.0))
    outline = _outline(animal, mouse)
    paint_surroundings(
        scanner_canvas(grid, hu, (0.0, 0.0, 0.0)), mouse, _reach_mm(mouse, grid, outline)
    )
    beside = mouse.around.neighbour_xyz_mm
    if beside is not None:
        other = replace(
            mouse,
            pose=replace(
                mouse.pose, roll_rad=-mouse.pose.roll_rad, wobble_seed=mouse.pose.wobble_seed + 1
            ),
        )
        canvas = _canvas(other, grid, hu, None, beside)
        _paint_animal(canvas, other, _outline(canvas, other))
    _paint_animal(animal, mouse, outline)
    return hu, shares


def inside(mouse: Mouse, grid: Grid) -> npt.NDArray[np.bool_]:
    """The voxels of the labelled animal with skin and limbs: (z, y, x) bool."""
    unpainted = np.empty(grid.shape_zyx, dtype=np.float32)
    canvas = _canvas(mouse, grid, unpainted, None, (0.0, 0.0, 0.0))
    return np.asarray(_outline(canvas, mouse) < 0)


def labels_of(shares: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The organ that fills at least half of a voxel: (z, y, x) uint8.

    Where two do, it is the one of `anatomy.TRUTH_LABELS`.
    """
    labels = np.zeros(shares.shape[1:], dtype=np.uint8)
    for label in range(len(shares), 0, -1):
        labels[shares[label - 1] >= 128] = label
    return labels


def _canvas(
    mouse: Mouse,
    grid: Grid,
    hu: Field,
    shares: npt.NDArray[np.uint8] | None,
    at_xyz_mm: PointXyzMm,
) -> Canvas:
    x, y, z = warped(grid, mouse.pose, mouse.build.size, at_xyz_mm)
    voxel = float(np.mean(grid.spacing_mm.zyx)) / mouse.build.size
    return Canvas(x, y, z, hu, shares, voxel)


def _outline(canvas: Canvas, mouse: Mouse) -> Field:
    """Signed distance to the skin with the limbs, mm."""
    skin = Layout.of(mouse).skin(canvas)
    for start, end, flesh, _ in limbs(mouse):
        low = tuple(min(a, b) - flesh - 1.5 for a, b in zip(start, end, strict=True))
        high = tuple(max(a, b) + flesh + 1.5 for a, b in zip(start, end, strict=True))
        box = canvas.box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        if box is not None:
            limb = rod(canvas.part(box), start, end) - np.float32(flesh)
            skin[box] = union(skin[box], limb, 1.0)
    tail = canvas.box((-3.0, -4.0, -70.0), (3.0, 8.0, -38.0))
    if tail is not None:
        thin = rod(canvas.part(tail), (0.0, 4.0, -40.0), (0.0, 2.0, -70.0)) - np.float32(1.6)
        skin[tail] = np.minimum(skin[tail], thin)
    return skin


def _reach_mm(mouse: Mouse, grid: Grid, outline: Field) -> float:
    """How far the trunk reaches from the heart towards the bed, mm."""
    down_x, down_y = -np.sin(mouse.around.bed_rad), np.cos(mouse.around.bed_rad)
    step = 3
    inside = np.nonzero(outline[::step, ::step, ::step] < 0)
    if not inside[0].size:
        return REACH_MM
    first = grid.slice_origins_xyz_mm[0]
    y = first[1] + inside[1] * step * grid.spacing_mm.y
    x = first[0] + inside[2] * step * grid.spacing_mm.x
    return float(np.percentile(x * down_x + y * down_y, 99.0))


def _paint_animal(canvas: Canvas, mouse: Mouse, outline: Field) -> None:
    """Paint from the outside in; a later organ lies deeper or is harder."""
    tissue, layout = mouse.tissue, Layout.of(mouse)
    canvas.fill(outline, tissue.soft - 10.0)
    canvas.fill(outline + np.float32(SKIN_MM), tissue.fat)
    flesh = np.float32(SKIN_MM + mouse.build.fat_mm)
    canvas.fill(outline + flesh, tissue.soft)
    # The fat pad between the shoulder blades.
    box = canvas.box((-6.0, 3.0, -3.0), (6.0, 12.0, 12.0))
    if box is not None:
        part = canvas.part(box)
        pad = (
            (part.x / 3.6) ** 2 + ((part.y - 8.6) / 1.5) ** 2 + ((part.z - 4.5) / 4.0) ** 2
        ) ** 0.5
        part.fill(np.maximum((pad - 1.0) * 1.5, outline[box] + 0.6).astype(np.float32), tissue.fat)
    paint_belly(canvas, layout, mouse)
    paint_chest(canvas, layout, mouse)
    paint_ribs(canvas, layout, mouse)
    paint_limb_bones(canvas, mouse)
    paint_spine(canvas, layout, mouse)
