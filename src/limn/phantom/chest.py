"""Paints heart, lungs, airways, vessels and mediastinum.

The truth follows the contouring protocol (`docs/protocol.md`). The heart is muscle, chambers and
atria, up to the origin of the great vessels. The lungs are parenchyma with the vessels and airways
inside it that are thinner than 0.6 mm, without the thicker ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.phantom.anatomy import HEART, LUNG_L, LUNG_R, TRACHEA, Mouse
from limn.phantom.canvas import (
    Canvas,
    Field,
    PointXyzMm,
    common,
    ellipsoid,
    rod,
    union,
)
from limn.phantom.layout import Layout, heart_middle_mm, heart_size_mm
from limn.phantom.skeleton import paint_rod

# The protocol's limit: thicker vessels do not belong to the lung.
THICK_RADIUS_MM = 0.3


@dataclass(frozen=True, slots=True)
class HeartFrame:
    """The axes of the heart; `along` points to the apex."""

    centre: tuple[float, float, float]
    along: tuple[float, float, float]
    radius_mm: float
    length_mm: float

    @classmethod
    def of(cls, layout: Layout, mouse: Mouse) -> HeartFrame:
        """The heart of a mouse: on the sternum, its apex towards left, belly and tail."""
        axis = np.array(mouse.build.heart_axis_xyz)
        axis = axis / np.linalg.norm(axis)
        return cls(
            heart_middle_mm(mouse.build, layout.sternum_y),
            (float(axis[0]), float(axis[1]), float(axis[2])),
            *heart_size_mm(mouse.build),
        )

    def at(self, along: float, left: float, back: float) -> PointXyzMm:
        """A point in the heart, given in shares of its length and radius."""
        a = np.array(self.along) * along * self.length_mm
        c = np.array(self.centre) + a
        return (
            float(c[0] + left * self.radius_mm),
            float(c[1] + back * self.radius_mm),
            float(c[2]),
        )

    def egg(self, canvas: Canvas, shrink_mm: float = 0.0) -> Field:
        """Signed distance to the ventricles: an egg, blunt towards the head."""
        dx, dy, dz = (
            axis - np.float32(c)
            for axis, c in zip((canvas.x, canvas.y, canvas.z), self.centre, strict=True)
        )
        ax, ay, az = self.along
        along = dx * ax + dy * ay + dz * az
        across2 = np.maximum(dx * dx + dy * dy + dz * dz - along * along, 0.0)
        length, radius = self.length_mm - shrink_mm, self.radius_mm - shrink_mm
        pear = radius * (1.0 - 0.2 * np.clip(along / length, -1.0, 1.0))
        k0 = np.sqrt((along / length) ** 2 + across2 / pear**2)
        k1 = np.sqrt((along / length**2) ** 2 + across2 / pear**4)
        return np.asarray(k0 * (k0 - 1.0) / np.maximum(k1, 1e-6), dtype=np.float32)


def heart_distance(canvas: Canvas, frame: HeartFrame) -> Field:
    """Signed distance to the whole heart: ventricles and both atria."""
    r = frame.radius_mm
    right = ellipsoid(canvas, frame.at(-0.62, -0.42, 0.3), (0.5 * r, 0.52 * r, 0.55 * r))
    left = ellipsoid(canvas, frame.at(-0.66, 0.3, 0.42), (0.5 * r, 0.48 * r, 0.46 * r))
    return union(union(frame.egg(canvas), right, 0.8), left, 0.8)


def paint_chest(canvas: Canvas, layout: Layout, mouse: Mouse) -> None:
    """Paint everything inside the rib cage and above the diaphragm."""
    box = canvas.box((-11.0, -9.5, -16.0), (11.0, 10.5, 9.0))
    if box is None:
        return
    part = canvas.part(box)
    tissue = mouse.tissue
    rng = np.random.default_rng(mouse.build.shape_seed)
    frame = HeartFrame.of(layout, mouse)
    cage, dome = layout.cage(part), layout.dome(part)
    heart = heart_distance(part, frame)
    chest = np.maximum(cage, -dome)
    filling = tissue.soft + (tissue.fat - tissue.soft) * float(rng.uniform(0.0, 0.6))
    part.fill(chest, filling)

    lungs, left = _lungs(part, layout, mouse, cage, dome, heart, frame, rng)
    part.fill(lungs, _parenchyma(part, mouse, rng))
    _paint_fissures(part, mouse, lungs, left, rng)
    thick = _paint_lung_tree(canvas, part, frame, mouse, lungs, rng)
    _paint_heart(part, frame, mouse, heart)
    tubes = _paint_great_vessels(canvas, part, layout, frame, mouse)
    airway = _paint_airway(part, layout, frame, mouse)
    remainder = (1.0 - part.covered(airway)) * (1.0 - part.covered(np.minimum(thick, tubes)))
    parenchyma = part.covered(lungs) * remainder
    part.label(np.where(left, 0.0, parenchyma).astype(np.float32), LUNG_R)
    part.label(np.where(left, parenchyma, 0.0).astype(np.float32), LUNG_L)
    part.label(part.covered(heart) * (1.0 - part.covered(airway)), HEART)
    part.label_body(airway, TRACHEA)


def _lungs(
    part: Canvas,
    layout: Layout,
    mouse: Mouse,
    cage: Field,
    dome: Field,
    heart: Field,
    frame: HeartFrame,
    rng: np.random.Generator,
) -> tuple[Field, npt.NDArray[np.bool_]]:
    """Signed distance to both lungs, and the side of the left lung: (z, y, x) each."""
    build = mouse.build
    gap = float(rng.uniform(0.12, 0.5))
    canal_y = layout.spine_y(part.z)
    spine = np.sqrt(part.x**2 + (part.y - canal_y + np.float32(0.7)) ** 2) - np.float32(2.25)
    # The mediastinum: thin behind the heart, thick at the vessels and the thymus.
    rise = 1.0 / (1.0 + np.exp(-(part.z - np.float32(rng.uniform(2.6, 3.8))) / 0.7))
    ventral = 1.0 / (1.0 + np.exp((part.y + 2.0) / 0.8))
    thickness = 0.28 + 1.5 * rise + float(rng.uniform(0.3, 1.0)) * ventral
    # The accessory lobe of the right lung crosses to the left behind the heart.
    behind_heart = np.exp(-(((part.y - np.float32(1.8)) / 2.2) ** 2)) / (
        1.0 + np.exp((part.z - np.float32(0.2)) / 0.7)
    )
    border = build.midline_mm + build.accessory_mm * behind_heart
    mediastinum = np.abs(part.x - border) - thickness
    lungs = common(cage + np.float32(0.25), -dome + np.float32(rng.uniform(0.1, 0.35)), 0.8)
    lungs = common(lungs, np.float32(gap) - heart, 0.7)
    lungs = common(lungs, -spine, 0.6)
    lungs = common(lungs, -mediastinum.astype(np.float32), 0.5)
    # In front of the heart, behind the sternum, there is fat and little or no lung.
    front = np.float32(frame.centre[1] - build.lung_front_mm) - part.y
    lungs = common(lungs, front.astype(np.float32), 1.2)
    # The left lung ends before the lowest edge of the diaphragm, the right one reaches it.
    shorter = -(part.z - np.float32(layout.dome_z_mm - 0.72 * build.dome_depth_mm))
    left = part.x > border
    lungs = np.where(left, common(lungs, shorter.astype(np.float32), 0.8), lungs)
    return np.asarray(lungs, dtype=np.float32), np.asarray(left)


def _parenchyma(part: Canvas, mouse: Mouse, rng: np.random.Generator) -> Field:
    """HU of the lung: denser towards one side, as by gravity, with a random texture."""
    down = float(rng.uniform(-8.0, 8.0))
    coarse = [max(3, n // 6) for n in part.x.shape]
    rough = ndimage.gaussian_filter(rng.standard_normal(coarse), 1.0)
    rough *= mouse.tissue.lung_texture / max(float(rough.std()), 1e-9)
    factors = [n / m for n, m in zip(part.x.shape, rough.shape, strict=True)]
    texture = ndimage.zoom(
        rough.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(mouse.tissue.lung + texture + down * part.y, dtype=np.float32)


def _paint_fissures(
    part: Canvas,
    mouse: Mouse,
    lungs: Field,
    left: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Paint the fissures between the cranial, middle and caudal lobe of the right lung."""
    for level, tilt in ((float(rng.uniform(1.0, 2.6)), 0.5), (float(rng.uniform(-2.4, -0.6)), 0.8)):
        seam = (part.z - np.float32(level) - np.float32(tilt) * part.y) / np.float32(1.0 + tilt)
        seam = np.abs(seam) - np.float32(rng.uniform(0.02, 0.09))
        inside = np.maximum(np.maximum(seam, lungs), np.where(left, 9.0, -9.0))
        deep = float(rng.uniform(0.0, 0.7))
        part.fill(np.asarray(inside, dtype=np.float32), mouse.tissue.soft, deep)


def _paint_lung_tree(
    canvas: Canvas,
    part: Canvas,
    frame: HeartFrame,
    mouse: Mouse,
    lungs: Field,
    rng: np.random.Generator,
) -> Field:
    """Paint arteries and veins from each hilum; return the distance to the thick ones."""
    thick = np.full(part.x.shape, 9.0, dtype=np.float32)
    in_lung = lungs < 0
    for side in (-1.0, 1.0):
        hilum = np.array(frame.at(-0.45, 0.55 * side, 0.85))
        targets = (
            (side * 4.8, 3.6, 3.4),
            (side * 5.4, 0.2, 1.4),
            (side * 5.6, 3.4, -1.4),
            (side * 4.6, 5.2, -5.0),
            (side * 3.0, 3.6, -3.8),
        )
        for target in targets:
            for _ in range(2):
                end = np.array(target) + rng.normal(0.0, 0.9, 3)
                _branch(
                    canvas, part, hilum + rng.normal(0.0, 0.3, 3), end, mouse, in_lung, thick, rng
                )
    return thick


def _branch(
    canvas: Canvas,
    part: Canvas,
    start: np.ndarray,
    end: np.ndarray,
    mouse: Mouse,
    in_lung: npt.NDArray[np.bool_],
    thick: Field,
    rng: np.random.Generator,
) -> None:
    radius = float(rng.uniform(0.2, 0.42))
    hu = mouse.tissue.blood - 10.0
    bend = (start + end) / 2 + rng.normal(0.0, 0.4, 3)
    for a, b, r in ((start, bend, radius), (bend, end, 0.7 * radius)):
        _vessel(part, a, b, r, hu, in_lung, thick)
        for _ in range(2):
            root = a + (b - a) * float(rng.uniform(0.4, 1.0))
            tip = root + (b - a) * 0.5 + rng.normal(0.0, 1.3, 3)
            _vessel(part, root, tip, 0.45 * r, hu, in_lung, thick)


def _vessel(
    part: Canvas,
    a: np.ndarray,
    b: np.ndarray,
    radius: float,
    hu: float,
    in_lung: npt.NDArray[np.bool_],
    thick: Field,
) -> None:
    start, end = (float(a[0]), float(a[1]), float(a[2])), (float(b[0]), float(b[1]), float(b[2]))
    low = np.minimum(a, b) - radius - 0.3
    high = np.maximum(a, b) + radius + 0.3
    box = part.snug_box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    if box is None:
        return
    local = part.part(box)
    distance = rod(local, start, end) - np.float32(radius)
    local.fill(np.where(in_lung[box], distance, 9.0).astype(np.float32), hu)
    if radius > THICK_RADIUS_MM:
        np.minimum(thick[box], distance, out=thick[box])


def _paint_heart(part: Canvas, frame: HeartFrame, mouse: Mouse, heart: Field) -> None:
    """Paint the heart muscle and the blood of four chambers."""
    tissue = mouse.tissue
    r = frame.radius_mm
    # The atria reach beyond the egg by less than its radius.
    far = max(frame.length_mm, r) + r
    x, y, z = frame.centre
    box = part.snug_box((x - far, y - far, z - far), (x + far, y + far, z + far))
    if box is None:
        return
    part, heart = part.part(box), heart[box]
    part.fill(heart, tissue.heart)
    wall = 0.26 * r
    left = ellipsoid(part, frame.at(0.08, 0.22, 0.12), (0.42 * r, 0.42 * r, 0.62 * r))
    part.fill(left, tissue.blood)
    inner = frame.egg(part, wall)
    to_right = -(part.x - np.float32(frame.centre[0] - 0.18 * r))
    ventral = part.y - np.float32(frame.centre[1] + 0.35 * r)
    right = np.maximum(np.maximum(inner, -to_right), ventral)
    right = np.maximum(right, -(left - np.float32(0.2 * r)))
    part.fill(np.asarray(right, dtype=np.float32), tissue.blood)
    for place in ((-0.62, -0.42, 0.3), (-0.66, 0.3, 0.42)):
        radii = (0.5 * r - 0.2, 0.5 * r - 0.2, 0.48 * r - 0.2)
        part.fill(ellipsoid(part, frame.at(*place), radii), tissue.blood)


def _paint_great_vessels(
    canvas: Canvas, part: Canvas, layout: Layout, frame: HeartFrame, mouse: Mouse
) -> Field:
    """Paint aorta with arch to the left, pulmonary trunk, venae cavae and oesophagus.

    They continue into neck and belly. Returns the distance to them within ``part``.
    """
    tissue = mouse.tissue
    nearest = np.full(part.x.shape, 9.0, dtype=np.float32)

    def tube(start: PointXyzMm, end: PointXyzMm, radius: float, hu: float) -> None:
        paint_rod(canvas, start, end, radius, hu)
        low, high = np.minimum(start, end) - radius - 0.3, np.maximum(start, end) + radius + 0.3
        box = part.snug_box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        if box is not None:
            distance = rod(part.part(box), start, end) - np.float32(radius)
            np.minimum(nearest[box], distance, out=nearest[box])

    def beside_spine(x: float, ahead: float, z: float) -> PointXyzMm:
        return (x, float(layout.spine_y(np.float32(z))) - ahead, z)

    root = frame.at(-0.75, 0.05, 0.25)
    arch = (0.5, root[1] + 1.2, root[2] + 2.2)
    aorta = [root, arch, beside_spine(1.1, 3.0, arch[2] - 1.0)]
    aorta += [beside_spine(0.9, 3.1, z) for z in (0.5, -3.0, -7.0, -12.0, -20.0, -30.0)]
    trunk = [frame.at(-0.7, 0.25, -0.2), frame.at(-0.95, 0.3, 0.5)]
    cranial_cava = [frame.at(-0.75, -0.5, 0.3), (-1.6, root[1] + 0.6, root[2] + 2.5)]
    cranial_cava.append((-2.2, root[1] + 0.5, 9.5))
    caudal_cava = [frame.at(-0.4, -0.5, 0.6), (-0.9, frame.centre[1] + 1.8, -2.4)]
    caudal_cava += [
        (-1.2, 2.5, -6.0),
        beside_spine(-0.8, 3.2, -14.0),
        beside_spine(-0.6, 3.1, -30.0),
    ]
    carotids = [arch, (0.9, arch[1] - 0.2, 12.0)]
    for path, radius in (
        (aorta, 0.55),
        (trunk, 0.6),
        (cranial_cava, 0.5),
        (caudal_cava, 0.55),
        (carotids, 0.3),
    ):
        for start, end in pairwise(path):
            tube(start, end, radius, tissue.blood)
    gullet = [beside_spine(0.0, 2.9, z) for z in (18.0, 12.0, 8.0)]
    gullet += [beside_spine(-0.1, 3.6, z) for z in (5.0, 2.0, -1.5, -5.0, -7.5)]
    for start, end in pairwise(gullet):
        tube(start, end, 0.6, tissue.soft)
    rng = np.random.default_rng(mouse.pose.gas_seed + 1)
    for start, end in pairwise(gullet):
        if rng.random() < 0.3:
            paint_rod(canvas, start, end, float(rng.uniform(0.1, 0.35)), tissue.air)
    return nearest


def _paint_airway(part: Canvas, layout: Layout, frame: HeartFrame, mouse: Mouse) -> Field:
    """Paint trachea and main bronchi; return the distance to them with their walls."""
    tissue = mouse.tissue

    def throat(z: float) -> PointXyzMm:
        return (0.1, float(layout.spine_y(np.float32(z))) - 4.3, z)

    base = frame.at(-0.72, 0.0, 0.95)
    carina = (0.1, base[1] + 0.2, min(base[2], 3.4))
    inlet = (0.1, min(throat(7.6)[1], base[1] + 0.6), 7.6)
    nearest = rod(part, inlet, carina) - np.float32(0.55)
    outside = rod(part, (0.1, inlet[1] - 0.5, 20.0), inlet) - np.float32(0.55)
    nearest = np.minimum(nearest, outside)
    for side, radius in ((-1.0, 0.42), (1.0, 0.4)):
        hilum = (side * 2.0 + 0.1, carina[1] + 0.5, carina[2] - 1.5)
        lobe = (side * 3.6, carina[1] + 1.6, carina[2] - 4.6)
        nearest = np.minimum(nearest, rod(part, carina, hilum) - np.float32(radius))
        nearest = np.minimum(nearest, rod(part, hilum, lobe) - np.float32(0.75 * radius))
    part.fill(nearest - np.float32(0.14), tissue.soft)
    part.fill(nearest, tissue.air)
    return np.asarray(nearest - 0.14, dtype=np.float32)
