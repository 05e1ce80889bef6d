"""Paints the surroundings of the animal: bed, nozzle, tubes, wires, heating pad.

Their frame is the scanner's and not the animal's: LPS mm from the middle of the heart.
"""

from __future__ import annotations

import numpy as np

from limn.domain.geometry import Grid
from limn.phantom.anatomy import Mouse
from limn.phantom.canvas import Canvas, Field
from limn.phantom.skeleton import paint_rod


def scanner_canvas(grid: Grid, hu_zyx: Field, at_xyz_mm: tuple[float, float, float]) -> Canvas:
    """A canvas in the frame of the scanner."""
    shape = grid.shape_zyx
    first = grid.slice_origins_xyz_mm[0]
    axes = [
        (first[2 - i] - at_xyz_mm[2 - i] + mm * np.arange(n)).astype(np.float32)
        for i, (n, mm) in enumerate(zip(shape, grid.spacing_mm.zyx, strict=True))
    ]
    z, y, x = axes
    return Canvas(
        np.broadcast_to(x[None, None, :], shape),
        np.broadcast_to(y[None, :, None], shape),
        np.broadcast_to(z[:, None, None], shape),
        hu_zyx,
        None,
        float(np.mean(grid.spacing_mm.zyx)),
    )


def paint_surroundings(canvas: Canvas, mouse: Mouse, reach_mm: float) -> None:
    """Paint bed, pad, nozzle, tubes and wires.

    Parameters
    ----------
    reach_mm : distance from the heart to the side of the animal that touches the bed
    """
    around = mouse.around
    rng = np.random.default_rng(around.seed)
    # "down" points from the animal to the bed.
    down = (float(-np.sin(around.bed_rad)), float(np.cos(around.bed_rad)))
    if around.bed_radius_mm is not None:
        _paint_bed(canvas, mouse, down, reach_mm, rng)
    if around.nozzle:
        z = float(rng.uniform(17.0, 24.0))
        _paint_hollow(
            canvas, (0.0, 0.0, z), (0.0, 0.0, z + 30.0), float(rng.uniform(8.0, 11.0)), rng
        )
    for _ in range(around.tubes):
        beside = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(3.0, 16.0))
        depth = reach_mm + float(rng.uniform(-1.0, 6.0))
        if rng.random() < 0.4:
            beside, depth = (
                float(rng.choice([-1.0, 1.0])) * float(rng.uniform(15.0, 22.0)),
                depth - 6.0,
            )
        x = down[0] * depth + down[1] * beside
        y = down[1] * depth - down[0] * beside
        slant = rng.normal(0.0, 2.0, 2)
        radius = float(rng.uniform(0.5, 2.4))
        _paint_hollow(
            canvas, (x, y, -50.0), (x + float(slant[0]), y + float(slant[1]), 45.0), radius, rng
        )
    for _ in range(around.wires):
        angle = float(rng.uniform(0.0, 2 * np.pi))
        far = float(rng.uniform(13.0, 18.0))
        x, y = far * np.cos(angle), far * np.sin(angle)
        start, end = (x, y, float(rng.uniform(-30, 10))), (x * 1.1, y, float(rng.uniform(-10, 40)))
        paint_rod(canvas, start, end, 0.3, float(rng.uniform(2000.0, 8000.0)))


def _paint_bed(
    canvas: Canvas,
    mouse: Mouse,
    down: tuple[float, float],
    reach_mm: float,
    rng: np.random.Generator,
) -> None:
    around = mouse.around
    radius = around.bed_radius_mm or 1e3
    if around.neighbour_xyz_mm is not None:
        radius = 90.0
    deep = canvas.x * np.float32(down[0]) + canvas.y * np.float32(down[1])
    across = canvas.x * np.float32(down[1]) - canvas.y * np.float32(down[0])
    ring = np.sqrt(across**2 + (deep - np.float32(reach_mm - radius)) ** 2) - np.float32(radius)
    half = np.float32(around.bed_thick_mm / 2)
    rim = np.float32(rng.uniform(-2.0, 10.0))
    plate = np.maximum(np.abs(ring - half) - half, np.float32(reach_mm - 12.0) + rim - deep)
    canvas.fill(np.asarray(plate, dtype=np.float32), around.bed_hu)
    if rng.random() < 0.5:
        skin = np.maximum(
            np.abs(ring - 2 * half) - np.float32(0.2), np.float32(reach_mm - 12.0) + rim - deep
        )
        canvas.fill(np.asarray(skin, dtype=np.float32), float(rng.uniform(0.0, 500.0)))
    if rng.random() < 0.35:
        level = np.float32(reach_mm + 2 * half + rng.uniform(0.5, 4.0))
        pad = np.abs(deep - level) - np.float32(rng.uniform(0.3, 1.5))
        canvas.fill(np.asarray(pad, dtype=np.float32), float(rng.uniform(-500.0, 300.0)))


def _paint_hollow(
    canvas: Canvas,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius_mm: float,
    rng: np.random.Generator,
) -> None:
    wall = float(rng.uniform(0.25, 0.8))
    paint_rod(canvas, start, end, radius_mm, float(rng.uniform(-200.0, 400.0)))
    content = float(rng.choice([-1000.0, -1000.0, 0.0]))
    if radius_mm > wall:
        paint_rod(canvas, start, end, radius_mm - wall, content)
