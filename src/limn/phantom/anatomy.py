"""Draws a phantom mouse from its seed: everything that differs between mice, days and beds.

A mouse is described in its own straight frame in mm: x to its left, y to its back, z to its head,
the origin in the middle of the heart. Ranges come from measured mice: heart 138-264 mm3, both lungs
360-690 mm3 with a share of 0.60-0.66 on the right, thoracic canal 1.6-2.0 mm across, cord
1.3-1.7 mm, 13 pairs of ribs, a spine that swings up to 12 mm between back and belly within the
thorax.

`conceive` draws the animal from the seed, and the day (pose, breath, gas) from the seed and the
time point, so that an animal changes little from day to day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from limn.domain.scan import TG263_ROLES, Organ, Role

TRUTH_LABELS: dict[int, Organ] = {
    1: TG263_ROLES[Role.HEART],
    2: TG263_ROLES[Role.CORD],
    3: TG263_ROLES[Role.LUNG_R],
    4: TG263_ROLES[Role.LUNG_L],
}
HEART, CORD, LUNG_R, LUNG_L = TRUTH_LABELS
# What is painted besides, for bundles of more organs. The truth of the four does not depend on
# whether these are asked for.
BODY_LABELS: dict[int, Organ] = {
    5: Organ("Liver"),
    6: Organ("Stomach"),
    7: Organ("Kidney_R"),
    8: Organ("Kidney_L"),
    9: Organ("Spleen"),
    10: Organ("Bladder"),
    11: Organ("Bone"),
    12: Organ("Trachea"),
}
LIVER, STOMACH, KIDNEY_R, KIDNEY_L, SPLEEN, BLADDER, BONE, TRACHEA = BODY_LABELS
WHOLE_LABELS: dict[int, Organ] = TRUTH_LABELS | BODY_LABELS

THORACIC_VERTEBRAE = 13
# A real mouse lay in its bed rolled by 45 degrees.
MAX_ROLL_RAD = 0.87


@dataclass(frozen=True, slots=True)
class Build:
    """The body of the animal. Lengths are mm in a mouse of size 1, scaled by `size` in the end."""

    size: float
    chest_width: float
    chest_depth: float
    spine_drop_mm: float
    spine_swing_z_mm: float
    spine_swing_over_mm: float
    vertebra_pitch_mm: float
    canal_radius_mm: float
    cord_radius_mm: float
    rib_slope: float
    rib_radius_mm: float
    heart_volume_mm3: float
    heart_centre_xyz_mm: tuple[float, float, float]
    heart_axis_xyz: tuple[float, float, float]
    heart_slenderness: float
    midline_mm: float
    accessory_mm: float
    lung_front_mm: float
    dome_z_mm: float
    dome_depth_mm: float
    fat_mm: float
    belly: float
    shape_seed: int


@dataclass(frozen=True, slots=True)
class Pose:
    """How the animal lies on the day of the scan, and how far it has breathed in."""

    roll_rad: float
    pitch_rad: float
    yaw_rad: float
    bend_side_mm: float
    bend_back_mm: float
    bend_phase: float
    arms_rad: tuple[float, float]
    elbow_rad: tuple[float, float]
    breath_mm: float
    gas_seed: int
    wobble_seed: int
    wobble_mm: float


@dataclass(frozen=True, slots=True)
class Tissue:
    """Attenuation of each tissue, HU before the errors of the scanner."""

    air: float
    lung: float
    lung_texture: float
    soft: float
    heart: float
    blood: float
    liver: float
    spleen: float
    kidney: float
    fat: float
    cord: float
    csf: float
    bone: float
    marrow: float
    cartilage: float
    food: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies around the animal.

    Attributes
    ----------
    bed_rad : direction of the bed as seen from the animal: 0 under its back, pi under its belly
    bed_radius_mm, bed_thick_mm, bed_hu : a curved plate; radius None without a bed in the field
    nozzle : a mask over the snout
    tubes, wires : their numbers
    neighbour_xyz_mm : position of a second animal, or None
    seed : of the shapes of all these
    """

    bed_rad: float
    bed_radius_mm: float | None
    bed_thick_mm: float
    bed_hu: float
    nozzle: bool
    tubes: int
    wires: int
    neighbour_xyz_mm: tuple[float, float, float] | None
    seed: int


@dataclass(frozen=True, slots=True)
class Mouse:
    """One phantom mouse on one day.

    Attributes
    ----------
    contrast : a contrast agent brightens blood, liver, spleen and kidneys
    """

    seed: int
    build: Build
    pose: Pose
    tissue: Tissue
    around: Surroundings
    contrast: bool

    @property
    def prone(self) -> bool:
        """Whether the animal lies on its belly and not on its back."""
        return bool(np.cos(self.around.bed_rad) < 0.0)


def conceive(
    seed: int,
    *,
    time_point: int = 0,
    prone: bool | None = None,
    neighbour: bool = False,
    contrast: bool = False,
) -> Mouse:
    """The mouse of a seed.

    Parameters
    ----------
    seed : int
        Equal seeds give equal animals.
    time_point : int
        The same animal on another day: another pose, breath, meal and bed; it has grown a little.
    prone : bool, optional
        Whether the animal lies on its belly (the bed is ventral); by default the seed decides.
    neighbour : bool
        Whether a second animal lies on the bed beside the first.
    contrast : bool
        Whether the animal was given a contrast agent.
    """
    build = _build(np.random.default_rng([seed, 1]))
    day = np.random.default_rng([seed, 5, time_point])
    growth = 1.0 + 0.004 * time_point + float(day.normal(0.0, 0.004))
    build = replace(
        build,
        size=build.size * growth,
        fat_mm=build.fat_mm * float(day.uniform(0.9, 1.1)),
        heart_volume_mm3=build.heart_volume_mm3 * growth**3 * float(day.uniform(0.97, 1.03)),
    )
    tissue = _tissue(np.random.default_rng([seed, 2]))
    if contrast:
        tissue = _with_contrast(tissue, np.random.default_rng([seed, 6, time_point]))
    around = _surroundings(np.random.default_rng([seed, 4, time_point]), prone)
    pose = _pose(day)
    if neighbour:
        side = 1.0 if day.random() < 0.5 else -1.0
        around = replace(
            around,
            neighbour_xyz_mm=(
                side * float(day.uniform(26.0, 30.0)) * build.size,
                float(day.uniform(-2.0, 2.0)),
                float(day.uniform(-6.0, 6.0)),
            ),
        )
    return Mouse(seed, build, pose, tissue, around, contrast)


def _build(rng: np.random.Generator) -> Build:
    canal = float(rng.uniform(0.82, 1.02))
    return Build(
        size=float(rng.uniform(0.88, 1.1)),
        chest_width=float(rng.uniform(0.95, 1.12)),
        chest_depth=float(rng.uniform(0.95, 1.18)),
        spine_drop_mm=float(rng.uniform(4.0, 8.5)),
        spine_swing_z_mm=float(rng.uniform(2.0, 4.4)),
        spine_swing_over_mm=float(rng.uniform(2.0, 3.6)),
        vertebra_pitch_mm=float(rng.uniform(1.55, 1.95)),
        canal_radius_mm=canal,
        cord_radius_mm=canal - float(rng.uniform(0.1, 0.2)),
        rib_slope=float(rng.uniform(0.35, 0.75)),
        rib_radius_mm=float(rng.uniform(0.2, 0.32)),
        heart_volume_mm3=float(rng.uniform(140.0, 310.0)),
        heart_centre_xyz_mm=(
            float(rng.uniform(0.6, 1.5)),
            float(rng.uniform(-0.4, 0.4)),
            float(rng.uniform(-0.6, 0.6)),
        ),
        heart_axis_xyz=(
            float(rng.uniform(0.22, 0.7)),
            float(rng.uniform(-0.35, -0.05)),
            -1.0,
        ),
        heart_slenderness=float(rng.uniform(1.15, 1.8)),
        midline_mm=float(rng.uniform(0.1, 0.7)),
        accessory_mm=float(rng.uniform(1.4, 2.6)),
        lung_front_mm=float(rng.uniform(0.5, 4.5)),
        dome_z_mm=float(rng.uniform(-3.6, -2.0)),
        dome_depth_mm=float(rng.uniform(2.8, 4.4)),
        fat_mm=float(rng.uniform(0.2, 1.6)),
        belly=float(rng.uniform(0.9, 1.15)),
        shape_seed=int(rng.integers(1 << 30)),
    )


def _pose(rng: np.random.Generator) -> Pose:
    # Half of the animals are laid out with care, half at any roll angle.
    careful = rng.random() < 0.5
    roll_rad = 0.2 * rng.normal() if careful else rng.uniform(-MAX_ROLL_RAD, MAX_ROLL_RAD)
    return Pose(
        roll_rad=float(np.clip(roll_rad, -MAX_ROLL_RAD, MAX_ROLL_RAD)),
        pitch_rad=float(rng.normal(0.0, 0.1)),
        yaw_rad=float(rng.normal(0.0, 0.1)),
        bend_side_mm=float(rng.normal(0.0, 2.2)),
        bend_back_mm=float(rng.normal(0.0, 1.6)),
        bend_phase=float(rng.uniform(-0.8, 0.8)),
        arms_rad=(float(rng.uniform(-1.0, 1.5)), float(rng.uniform(-1.0, 1.5))),
        elbow_rad=(float(rng.uniform(-0.6, 1.6)), float(rng.uniform(-0.6, 1.6))),
        breath_mm=float(rng.uniform(-0.7, 0.7)),
        gas_seed=int(rng.integers(1 << 30)),
        wobble_seed=int(rng.integers(1 << 30)),
        wobble_mm=float(rng.uniform(0.1, 0.28)),
    )


def _tissue(rng: np.random.Generator) -> Tissue:
    soft = float(rng.uniform(-10.0, 70.0))
    bone = float(rng.uniform(650.0, 1900.0))
    return Tissue(
        air=float(rng.uniform(-1000.0, -960.0)),
        lung=float(rng.uniform(-640.0, -340.0)),
        lung_texture=float(rng.uniform(10.0, 70.0)),
        soft=soft,
        heart=soft + float(rng.uniform(-10.0, 35.0)),
        blood=soft + float(rng.uniform(-5.0, 40.0)),
        liver=soft + float(rng.uniform(0.0, 60.0)),
        spleen=soft + float(rng.uniform(0.0, 50.0)),
        kidney=soft + float(rng.uniform(-10.0, 30.0)),
        fat=float(rng.uniform(-170.0, -70.0)),
        cord=soft + float(rng.uniform(-30.0, 25.0)),
        csf=float(rng.uniform(-60.0, 10.0)),
        bone=bone,
        marrow=bone * float(rng.uniform(0.25, 0.6)),
        cartilage=soft + float(rng.uniform(20.0, 150.0)),
        food=soft + float(rng.uniform(0.0, 400.0)),
    )


def _with_contrast(tissue: Tissue, rng: np.random.Generator) -> Tissue:
    """Raise blood pool and liver by 100 to 600 HU."""
    blood = float(rng.uniform(100.0, 600.0))
    liver = float(rng.uniform(100.0, 600.0))
    return replace(
        tissue,
        blood=tissue.blood + blood,
        heart=tissue.heart + 0.2 * blood,
        liver=tissue.liver + liver,
        spleen=tissue.spleen + liver * float(rng.uniform(0.6, 1.4)),
        kidney=tissue.kidney + blood * float(rng.uniform(0.2, 0.8)),
        lung=tissue.lung + 0.08 * blood,
    )


def _surroundings(rng: np.random.Generator, prone: bool | None) -> Surroundings:
    lies_prone = bool(rng.random() < 0.5)
    if prone is not None:
        lies_prone = prone
    # One in eight lies on a side.
    on_side = prone is None and rng.random() < 0.125
    bed_rad = np.pi * lies_prone + rng.normal(0.0, 0.2)
    if on_side:
        bed_rad = float(rng.choice([-0.5, 0.5])) * np.pi
    return Surroundings(
        bed_rad=float(bed_rad),
        bed_radius_mm=float(rng.uniform(14.0, 40.0)) if rng.random() < 0.92 else None,
        bed_thick_mm=float(rng.uniform(0.4, 2.5)),
        bed_hu=float(rng.uniform(-850.0, 250.0)),
        nozzle=bool(rng.random() < 0.5),
        tubes=int(rng.integers(0, 5)),
        wires=int(rng.random() < 0.2) * int(rng.integers(1, 3)),
        neighbour_xyz_mm=None,
        seed=int(rng.integers(1 << 30)),
    )
