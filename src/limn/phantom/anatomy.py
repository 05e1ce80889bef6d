"""A mouse thorax from a seed: where every tissue is and how dense it is.

The frame is the patient's (LPS, mm): x to the animal's left, y to its back, z to its head;
the origin lies in the middle of the thorax. Sizes follow measured mice: heart 140-260 mm3,
thoracic cord 1.3-1.7 mm across in a canal of 1.6-2.0 mm, a vertebra every 1.9-2.3 mm, 13 pairs
of ribs, a curved spine. Lungs are larger than measured ones (610-1240 mm3 for 360-690), the
right one 0.55-0.66 of them (0.60-0.66).

The truth follows one contouring protocol: the cord over the whole field of view; lung with
the vessels inside it, without trachea and main bronchi; heart without the great vessels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid
from limn.domain.scan import Organ

Field: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]

TRUTH_LABELS: dict[int, Organ] = {
    1: Organ.HEART,
    2: Organ.CORD,
    3: Organ.LUNG_R,
    4: Organ.LUNG_L,
}

AIR_HU = -1000.0
BONE_HU = 750.0


@dataclass(frozen=True, slots=True)
class Mouse:
    """What differs from one phantom mouse to the next. Lengths in mm."""

    size: float
    prone: bool
    spine_tilt: float
    spine_bow_mm: float
    side_bend_mm: float
    chest_width_mm: float
    chest_depth_mm: float
    cord_radius_mm: float
    vertebra_pitch_mm: float
    rib_pitch_mm: float
    heart_volume_mm3: float
    heart_shift_xyz_mm: tuple[float, float, float]
    dome_height_mm: float
    midline_shift_mm: float
    lung_hu: float
    soft_hu: float
    fat_hu: float
    liver_hu: float
    limb_angle: float
    gas_seed: int
    neighbour_xyz_mm: tuple[float, float, float] | None


def conceive(seed: int, *, prone: bool | None = None, neighbour: bool = False) -> Mouse:
    """The mouse of a seed.

    Parameters
    ----------
    seed : int
        Same seed, same mouse.
    prone : bool, optional
        Lie on the belly (the bed is ventral); by default the seed decides.
    neighbour : bool
        Put a second animal into the field, on the bed beside the first.
    """
    rng = np.random.default_rng([seed, 1])
    size = float(rng.uniform(0.9, 1.1))
    seed_prone = bool(rng.random() < 0.5)
    shift = rng.uniform(-1.0, 1.0, size=3) * (0.5, 0.5, 0.8)
    mouse = Mouse(
        size=size,
        prone=seed_prone if prone is None else prone,
        spine_tilt=float(rng.uniform(-0.18, 0.18)),
        spine_bow_mm=float(rng.uniform(0.5, 3.5)),
        side_bend_mm=float(rng.uniform(-1.5, 1.5)),
        chest_width_mm=float(rng.uniform(12.4, 14.8)) * size,
        chest_depth_mm=float(rng.uniform(10.0, 12.0)) * size,
        cord_radius_mm=float(rng.uniform(0.66, 0.84)),
        vertebra_pitch_mm=float(rng.uniform(1.9, 2.3)),
        rib_pitch_mm=float(rng.uniform(1.5, 1.8)),
        heart_volume_mm3=float(rng.uniform(150.0, 250.0)),
        heart_shift_xyz_mm=(float(shift[0]), float(shift[1]), float(shift[2])),
        dome_height_mm=float(rng.uniform(3.5, 6.0)),
        midline_shift_mm=float(rng.uniform(1.1, 1.8)),
        lung_hu=float(rng.uniform(-620.0, -380.0)),
        soft_hu=float(rng.uniform(10.0, 70.0)),
        fat_hu=float(rng.uniform(-140.0, -80.0)),
        liver_hu=float(rng.uniform(50.0, 110.0)),
        limb_angle=float(rng.uniform(-0.4, 0.4)),
        gas_seed=int(rng.integers(1 << 30)),
        neighbour_xyz_mm=None,
    )
    if not neighbour:
        return mouse
    return _with_neighbour(mouse, rng)


def _with_neighbour(mouse: Mouse, rng: np.random.Generator) -> Mouse:
    side = 1.0 if rng.random() < 0.5 else -1.0
    values = {name: getattr(mouse, name) for name in mouse.__dataclass_fields__}
    values["neighbour_xyz_mm"] = (
        side * float(rng.uniform(27.0, 29.0)) * mouse.size,
        0.0,
        float(rng.uniform(-3.0, 3.0)),
    )
    return Mouse(**values)


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """Coordinates of every voxel, straightened along the animal's own spine.

    x and y are measured from the middle of the chest at that z; the spine is at
    ``y = spine_y_mm`` everywhere, however it bends in space.
    """

    x: Field
    y: Field
    z: Field

    @classmethod
    def of(cls, mouse: Mouse, grid: Grid) -> _Frame:
        spacing_mm = grid.spacing_mm
        first = grid.slice_origins_xyz_mm[0]
        z = (first[2] + spacing_mm.z * np.arange(grid.shape_zyx[0])).astype(np.float32)
        y = (first[1] + spacing_mm.y * np.arange(grid.rows)).astype(np.float32)
        x = (first[0] + spacing_mm.x * np.arange(grid.columns)).astype(np.float32)
        u = z / np.float32(15.0)
        bow = mouse.spine_tilt * z + mouse.spine_bow_mm * (0.6 - u * u)
        bend = mouse.side_bend_mm * np.sin(1.4 * u)
        return cls(
            x=(x[None, None, :] - bend[:, None, None]).astype(np.float32),
            y=(y[None, :, None] - bow[:, None, None]).astype(np.float32),
            z=z[:, None, None],
        )

    def moved(self, x_mm: float, y_mm: float, z_mm: float) -> _Frame:
        """The frame of an animal that lies elsewhere."""
        return _Frame(
            x=self.x - np.float32(x_mm), y=self.y - np.float32(y_mm), z=self.z - np.float32(z_mm)
        )


def _ball(
    frame: _Frame, centre_xyz: tuple[float, float, float], radii: tuple[float, float, float]
) -> Field:
    """Squared distance in units of the radii: < 1 inside the ellipsoid."""
    return np.asarray(
        ((frame.x - centre_xyz[0]) / radii[0]) ** 2
        + ((frame.y - centre_xyz[1]) / radii[1]) ** 2
        + ((frame.z - centre_xyz[2]) / radii[2]) ** 2,
        dtype=np.float32,
    )


def _rod(
    frame: _Frame, start_xyz: tuple[float, float, float], end_xyz: tuple[float, float, float]
) -> Field:
    """Distance in mm from the segment between two points."""
    start = np.array(start_xyz, dtype=np.float32)
    along = np.array(end_xyz, dtype=np.float32) - start
    length2 = float(along @ along)
    dx, dy, dz = frame.x - start[0], frame.y - start[1], frame.z - start[2]
    t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / length2, 0.0, 1.0)
    return np.asarray(
        np.sqrt((dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2),
        dtype=np.float32,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes derived from a mouse, mm."""

    half_width: float
    half_depth: float
    spine_y: float
    wall: float
    heart_centre: tuple[float, float, float]
    heart_radii: tuple[float, float, float]
    dome_z: float

    @classmethod
    def of(cls, mouse: Mouse) -> _Shape:
        half_width, half_depth = mouse.chest_width_mm / 2, mouse.chest_depth_mm / 2
        spread = (mouse.heart_volume_mm3 / (4 / 3 * np.pi)) ** (1 / 3)
        shift = mouse.heart_shift_xyz_mm
        return cls(
            half_width=half_width,
            half_depth=half_depth,
            spine_y=half_depth + 0.4,
            wall=2.2 * mouse.size,
            heart_centre=(0.9 + shift[0], -0.24 * half_depth + shift[1], 0.3 + shift[2]),
            heart_radii=(0.92 * spread, 0.9 * spread, 1.2 * spread),
            dome_z=-6.2 * mouse.size,
        )


def paint(mouse: Mouse, grid: Grid) -> tuple[Field, npt.NDArray[np.uint8]]:
    """Ideal attenuation and truth of a mouse on its bed, no blur, no noise.

    Parameters
    ----------
    grid : Grid
        Uniform, axes S, P, L.

    Returns
    -------
    hu_zyx : (z, y, x) float32
    labels_zyx : (z, y, x) uint8, see `TRUTH_LABELS`. A neighbour is never labelled.
    """
    frame = _Frame.of(mouse, grid)
    hu = np.full(grid.shape_zyx, AIR_HU, dtype=np.float32)
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    _paint_bed(hu, grid, mouse)
    if mouse.neighbour_xyz_mm is not None:
        _paint_animal(hu, None, frame.moved(*mouse.neighbour_xyz_mm), mouse)
    _paint_animal(hu, labels, frame, mouse)
    return hu, labels


def _paint_bed(hu: Field, grid: Grid, mouse: Mouse) -> None:
    """A curved plate under the animal, on the belly's side when it lies prone."""
    straight = _Frame.of(
        Mouse(
            **{name: getattr(mouse, name) for name in mouse.__dataclass_fields__}
            | {"spine_tilt": 0.0, "spine_bow_mm": 0.0, "side_bend_mm": 0.0}
        ),
        grid,
    )
    shape = _Shape.of(mouse)
    side = -1.0 if mouse.prone else 1.0
    lowest_mm = shape.half_depth + shape.wall + 4.6
    radius_mm = 24.0 if mouse.neighbour_xyz_mm is None else 60.0
    distance = np.sqrt(straight.x**2 + (straight.y - side * (lowest_mm - radius_mm)) ** 2)
    plate = (np.abs(distance - radius_mm) < 0.55) & (side * straight.y > 0)
    np.copyto(hu, np.float32(-150.0), where=np.broadcast_to(plate, hu.shape))


def _paint_animal(
    hu: Field, labels: npt.NDArray[np.uint8] | None, frame: _Frame, mouse: Mouse
) -> None:
    shape = _Shape.of(mouse)
    body = _body(frame, shape, mouse)
    np.copyto(hu, np.float32(mouse.fat_hu), where=body < 1.0)
    np.copyto(hu, np.float32(mouse.soft_hu - 10.0), where=(body >= 0.91) & (body < 1.0))
    muscle = body < 0.78
    np.copyto(hu, np.float32(mouse.soft_hu), where=muscle)

    cage = _cage(frame, shape)
    dome = shape.dome_z + mouse.dome_height_mm * (
        1.0 - (frame.x / shape.half_width) ** 2 - ((frame.y + 1.0) / (1.2 * shape.half_depth)) ** 2
    )
    below = frame.z < dome
    inside = cage < 1.0
    _paint_belly(hu, frame, shape, mouse, inside & below | ((frame.z < dome - 1.0) & muscle))

    heart = _heart(frame, shape)
    chest = inside & ~below
    spine = _spine_distance(frame, shape)
    mediastinum = (np.abs(frame.x - 0.2) < 1.1) & (frame.y > 0.35 * shape.half_depth)
    lungs = chest & (heart > 1.12) & (spine > 2.2) & ~mediastinum
    lungs &= ~((np.abs(frame.x) < 1.3) & (frame.y < -0.62 * shape.half_depth))
    caudal = frame.z < shape.heart_centre[2] - 0.55 * shape.heart_radii[2]
    midline = np.where(caudal, 1.7 * mouse.midline_shift_mm, mouse.midline_shift_mm)
    left = lungs & (frame.x > midline + 0.25)
    right = lungs & (frame.x < midline - 0.25)
    np.copyto(hu, np.float32(mouse.lung_hu), where=left | right)
    vessels = _lung_vessels(frame, shape)
    np.copyto(hu, np.float32(mouse.soft_hu + 10.0), where=(left | right) & (vessels < 0.32))

    in_heart = (heart < 1.0) & ~below
    np.copyto(hu, np.float32(mouse.soft_hu + 15.0), where=in_heart)
    _paint_tubes(hu, frame, shape, mouse)
    bones = _bones(frame, shape, mouse, cage, body)
    np.copyto(hu, np.float32(BONE_HU), where=bones)
    cord = _paint_canal(hu, frame, shape, mouse)

    if labels is not None:
        airway = _airway(frame, shape) < 0.75
        np.copyto(labels, np.uint8(3), where=right & ~airway & ~bones)
        np.copyto(labels, np.uint8(4), where=left & ~airway & ~bones)
        np.copyto(labels, np.uint8(1), where=in_heart & ~bones & ~airway)
        np.copyto(labels, np.uint8(2), where=cord)


def _body(frame: _Frame, shape: _Shape, mouse: Mouse) -> Field:
    """< 1 inside the skin; wider at the belly, narrow at the neck."""
    taper = 1.0 - 0.34 / (1.0 + np.exp(-(frame.z - 9.5 * mouse.size) / 1.6))
    belly = 1.0 + 0.10 / (1.0 + np.exp((frame.z + 6.0) / 2.0))
    width = (shape.half_width + shape.wall + 0.6) * taper * belly
    depth = (shape.half_depth + shape.wall + 0.9) * taper * belly
    y = frame.y - (1.0 - taper) * 4.0
    return np.asarray((np.abs(frame.x) / width) ** 2.3 + (np.abs(y) / depth) ** 2.3, np.float32)


def _cage(frame: _Frame, shape: _Shape) -> Field:
    """< 1 inside the rib cage: a bullet that closes towards the head."""
    up = np.clip((frame.z - 1.0) / 9.0, 0.0, 1.0)
    narrow = np.sqrt(np.clip(1.0 - up * up, 1e-4, 1.0))
    x = frame.x / (shape.half_width * narrow)
    y = frame.y / (shape.half_depth * (0.35 + 0.65 * narrow))
    return np.asarray(x * x + y * y + np.where(frame.z > 10.0, 9.0, 0.0), np.float32)


def _heart(frame: _Frame, shape: _Shape) -> Field:
    """< 1 inside the heart: an egg, its apex to the left, to the belly and to the tail."""
    cx, cy, cz = shape.heart_centre
    dx, dy, dz = frame.x - cx, frame.y - cy, frame.z - cz
    axis = np.array([0.42, -0.30, -0.86])
    axis /= np.linalg.norm(axis)
    along = dx * axis[0] + dy * axis[1] + dz * axis[2]
    across2 = dx * dx + dy * dy + dz * dz - along * along
    length = shape.heart_radii[2]
    pear = 1.0 - 0.22 * np.clip(along / length, -1.0, 1.0)
    return np.asarray(
        (along / length) ** 2 + across2 / (shape.heart_radii[0] * pear) ** 2, np.float32
    )


def _spine_distance(frame: _Frame, shape: _Shape) -> Field:
    """Distance from the canal's centre line, mm."""
    return np.asarray(
        np.broadcast_to(
            np.sqrt(frame.x**2 + (frame.y - shape.spine_y) ** 2),
            np.broadcast_shapes(frame.x.shape, frame.y.shape),
        ),
        np.float32,
    )


def _lung_vessels(frame: _Frame, shape: _Shape) -> Field:
    """Distance from a few vessels that fan out from the hila, mm."""
    nearest = np.full(np.broadcast_shapes(frame.x.shape, frame.y.shape), 99.0, np.float32)
    hilum_z = shape.heart_centre[2] + 2.0
    for side in (-1.0, 1.0):
        for spread_y, spread_z in ((0.5, 2.0), (0.4, -4.0), (-0.3, -1.0)):
            tip = (side * 0.75 * shape.half_width, spread_y * shape.half_depth, hilum_z + spread_z)
            np.minimum(nearest, _rod(frame, (side * 1.5, 1.0, hilum_z), tip), out=nearest)
    return nearest


def _airway(frame: _Frame, shape: _Shape) -> Field:
    """Distance from the middle of trachea and main bronchi, mm."""
    carina = (0.2, 1.6, shape.heart_centre[2] + 2.4)
    trachea = _rod(frame, carina, (0.0, 1.0, 30.0))
    left = _rod(frame, carina, (3.0, 2.0, carina[2] - 2.0)) + 0.15
    right = _rod(frame, carina, (-2.8, 2.0, carina[2] - 2.0)) + 0.15
    return np.asarray(np.minimum(trachea, np.minimum(left, right)), np.float32)


def _paint_tubes(hu: Field, frame: _Frame, shape: _Shape, mouse: Mouse) -> None:
    """Aorta, vena cava and oesophagus; then the airway with its wall."""
    base = shape.heart_centre[2] + 0.8 * shape.heart_radii[2]
    arch_y = shape.spine_y - 2.6
    for start, end, radius in (
        ((1.0, arch_y, -40.0), (1.0, arch_y, base), 0.6),
        ((1.0, arch_y, base), (0.5, -0.5, base), 0.6),
        ((-1.6, 0.0, base - 2.0), (-1.4, 0.5, base + 6.0), 0.5),
        ((-0.8, 0.8, -40.0), (-0.8, 0.5, shape.heart_centre[2]), 0.55),
        ((-0.5, arch_y - 0.2, -40.0), (0.3, arch_y - 0.6, 30.0), 0.5),
    ):
        inside = _rod(frame, start, end) < radius
        np.copyto(hu, np.float32(mouse.soft_hu + 10.0), where=inside)
    airway = _airway(frame, shape)
    np.copyto(hu, np.float32(mouse.soft_hu), where=airway < 0.75)
    np.copyto(hu, np.float32(-950.0), where=airway < 0.5)


def _paint_belly(hu: Field, frame: _Frame, shape: _Shape, mouse: Mouse, belly: Mask) -> None:
    """Liver under the dome, then stomach and bowel with gas."""
    np.copyto(hu, np.float32(mouse.liver_hu), where=belly)
    rng = np.random.default_rng(mouse.gas_seed)
    for _ in range(int(rng.integers(3, 7))):
        centre = (
            float(rng.uniform(-0.7, 0.8)) * shape.half_width,
            float(rng.uniform(-0.7, 0.4)) * shape.half_depth,
            shape.dome_z - float(rng.uniform(2.0, 9.0)),
        )
        radius = float(rng.uniform(0.8, 2.2))
        bowl = _ball(frame, centre, (radius * 1.4, radius, radius))
        np.copyto(hu, np.float32(mouse.soft_hu), where=belly & (bowl < 1.3))
        np.copyto(hu, np.float32(-850.0), where=belly & (bowl < 0.6))


def _bones(frame: _Frame, shape: _Shape, mouse: Mouse, cage: Field, body: Field) -> Mask:
    """Vertebrae, ribs, sternum, scapulae and forelimbs."""
    spine = _spine_distance(frame, shape)
    disc = np.mod(frame.z / mouse.vertebra_pitch_mm, 1.0)
    vertebral_body = (np.sqrt(frame.x**2 + (frame.y - shape.spine_y + 1.75) ** 2) < 1.05) & (
        disc > 0.16
    )
    arch = (spine < 1.55) & (disc > 0.34)
    process = (
        (np.abs(frame.x) < 0.3)
        & (frame.y > shape.spine_y + 1.0)
        & (frame.y < shape.spine_y + 2.3)
        & (disc > 0.5)
    )
    wings = (np.abs(frame.y - shape.spine_y) < 0.45) & (np.abs(frame.x) < 2.6) & (disc > 0.62)
    bones = vertebral_body | arch | process | wings

    shell = np.abs(np.sqrt(np.maximum(cage, 0.0)) - 1.04) < 0.045
    sweep = (frame.z - 0.45 * (frame.y - shape.spine_y)) / mouse.rib_pitch_mm
    ribs = shell & (np.mod(sweep, 1.0) < 0.42) & (frame.y > -0.75 * shape.half_depth)
    ribs &= (frame.z > shape.dome_z - 3.0) & (frame.z < 9.5)
    bones |= ribs
    sternum_y = -shape.half_depth - 0.45
    bones |= (
        (np.sqrt((frame.x / 1.3) ** 2 + (frame.y - sternum_y) ** 2) < 0.55)
        & (np.abs(frame.z) < 7.0)
        & (np.mod(frame.z / 2.6, 1.0) > 0.2)
    )
    for side in (-1.0, 1.0):
        blade = side * (0.72 * shape.half_width)
        shoulder = (side * (shape.half_width + 0.6), 0.0, 8.0)
        elbow = (
            side * (shape.half_width + 1.2),
            -0.7 * shape.half_depth,
            5.5 + 4.0 * mouse.limb_angle,
        )
        bones |= _rod(frame, (blade, 0.8 * shape.half_depth, 4.5), shoulder) < 0.4
        bones |= _rod(frame, shoulder, elbow) < 0.55
    return np.asarray(bones & (body < 0.93), np.bool_)


def _paint_canal(hu: Field, frame: _Frame, shape: _Shape, mouse: Mouse) -> Mask:
    """The canal through the vertebrae and the cord in it; returns the cord."""
    spine = _spine_distance(frame, shape)
    np.copyto(hu, np.float32(mouse.fat_hu / 3), where=spine < mouse.cord_radius_mm + 0.18)
    cord = spine < mouse.cord_radius_mm
    np.copyto(hu, np.float32(mouse.soft_hu - 5.0), where=cord)
    return cord
