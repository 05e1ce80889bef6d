"""Paints liver, stomach, bowel, spleen and kidneys, which border on the thorax."""

from __future__ import annotations

import numpy as np

from limn.phantom.anatomy import BLADDER, KIDNEY_L, KIDNEY_R, LIVER, SPLEEN, STOMACH, Mouse
from limn.phantom.canvas import Canvas, PointXyzMm, ellipsoid
from limn.phantom.layout import PELVIS_Z_MM, Layout


def paint_belly(canvas: Canvas, layout: Layout, mouse: Mouse) -> None:
    """Paint everything below the diaphragm."""
    box = canvas.box((-13.0, -11.0, PELVIS_Z_MM - 4.0), (13.0, 10.0, 1.0))
    if box is None:
        return
    part = canvas.part(box)
    tissue = mouse.tissue
    wall = layout.skin(part) + np.float32(1.3 + 0.6 * mouse.build.fat_mm)
    behind = part.y - (layout.spine_y(part.z) - np.float32(2.4))
    inside = np.maximum(np.maximum(wall, behind), layout.dome(part))
    inside = np.maximum(inside, np.float32(PELVIS_Z_MM - 3.0) - part.z)
    # Beside the rib cage the belly ends at the ribs; below it widens to the flanks.
    widened = layout.cage(part) - 0.7 * np.maximum(np.float32(-7.0) - part.z, 0.0)
    inside = np.maximum(inside, widened)
    part.fill(inside, 0.6 * tissue.fat + 0.4 * tissue.soft)

    rng = np.random.default_rng(mouse.build.shape_seed + 1)
    day = np.random.default_rng(mouse.pose.gas_seed)
    lower = -13.0 + 0.35 * part.x + 0.25 * part.y + float(rng.uniform(-2.0, 2.0))
    ragged = 1.2 * np.sin(0.9 * part.x + float(rng.uniform(0, 6))) * np.sin(0.8 * part.y)
    liver = np.maximum(inside + 0.15, lower + ragged - part.z)
    part.fill(np.asarray(liver, dtype=np.float32), tissue.liver)
    part.label_body(np.asarray(liver, dtype=np.float32), LIVER)

    def organ(centre: PointXyzMm, radii: PointXyzMm, hu: float, label: int) -> None:
        around = part.snug_box(*_corners(centre, radii))
        if around is not None:
            local = part.part(around)
            wall = inside[around] + np.float32(0.1)
            surface = np.maximum(ellipsoid(local, centre, radii), wall)
            local.fill(surface, hu)
            local.label_body(surface, label)

    _paint_bowel(part, inside, mouse, day)
    _paint_stomach(part, inside, mouse, rng, day)
    organ((7.6, 2.6, -14.0), (1.4, 2.0, 6.0), tissue.spleen, SPLEEN)
    for side, level, label in ((-1.0, -15.5, KIDNEY_R), (1.0, -18.0, KIDNEY_L)):
        centre = (side * float(rng.uniform(4.2, 5.2)), 4.6, level + float(rng.uniform(-1, 1)))
        radii = tuple(float(v) for v in rng.uniform((2.0, 2.4, 4.0), (2.9, 3.4, 5.0)))
        organ(centre, (radii[0], radii[1], radii[2]), tissue.kidney, label)
    organ((0.0, -4.0, PELVIS_Z_MM + 2.0), (2.5, 2.2, 2.6), 0.5 * tissue.soft, BLADDER)


def _paint_stomach(
    part: Canvas,
    inside: np.ndarray,
    mouse: Mouse,
    rng: np.random.Generator,
    day: np.random.Generator,
) -> None:
    """Paint the stomach, left under the diaphragm: food, often with a bubble of gas."""
    tissue = mouse.tissue
    full = float(day.uniform(0.65, 1.15))
    centre = (
        float(rng.uniform(3.6, 5.4)),
        float(rng.uniform(0.0, 2.4)),
        float(rng.uniform(-10.5, -8.5)),
    )
    radii = (4.4 * full, 3.2 * full, 2.9 * full)
    bubble = day.random() < 0.6
    up = day.normal(0.0, 1.0, 3) if bubble else np.ones(3)
    up /= np.linalg.norm(up)
    share = float(day.uniform(0.3, 0.75)) if bubble else 0.0
    around = part.snug_box(*_corners(centre, radii))
    if around is None:
        return
    local = part.part(around)
    stomach = np.maximum(ellipsoid(local, centre, radii), inside[around] + np.float32(0.1))
    local.fill(stomach, tissue.soft)
    local.label_body(stomach, STOMACH)
    local.fill(stomach + np.float32(0.4), tissue.food)
    if bubble:
        at = tuple(c + 0.45 * r * u for c, r, u in zip(centre, radii, up, strict=True))
        gas = ellipsoid(
            local, (at[0], at[1], at[2]), (share * radii[0], share * radii[1], share * radii[2])
        )
        local.fill(np.maximum(gas, stomach + np.float32(0.4)), tissue.air)


def _corners(centre: PointXyzMm, radii: PointXyzMm) -> tuple[PointXyzMm, PointXyzMm]:
    """The corners of an ellipsoid's box, with a margin."""
    low = tuple(c - 1.1 * r for c, r in zip(centre, radii, strict=True))
    high = tuple(c + 1.1 * r for c, r in zip(centre, radii, strict=True))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _paint_bowel(part: Canvas, inside: np.ndarray, mouse: Mouse, day: np.random.Generator) -> None:
    """Paint loops of bowel with fluid, food or gas in them."""
    tissue = mouse.tissue
    for _ in range(26):
        centre = (
            float(day.uniform(-8.0, 8.0)),
            float(day.uniform(-7.0, 3.0)),
            float(day.uniform(PELVIS_Z_MM + 4.0, -12.0)),
        )
        r = float(day.uniform(0.9, 2.0))
        wide, deep, long = (float(r * v) for v in day.uniform(0.8, 2.2, 3))
        radii = (wide, deep, long)
        box = part.snug_box(*_corners(centre, radii))
        kind = float(day.random())
        if box is None:
            continue
        local = part.part(box)
        loop = np.maximum(ellipsoid(local, centre, radii), inside[box] + np.float32(0.1))
        local.fill(loop, tissue.soft)
        local.label_body(loop, None)
        if kind < 0.3:
            local.fill(loop + np.float32(0.35), tissue.air)
        elif kind < 0.6:
            local.fill(loop + np.float32(0.35), tissue.food)
