"""Plans a phantom data set with the paper's numbers: animals, time points, scanners.

Malimban 2022, Methods, "Dataset": 20 animals at 7 time points, 15 of them (105 scans) to train
and 5 (35 scans) to test, divided at the animal level; 35 contrast-enhanced scans of 8 animals of
another strain, taken with other exposure settings, as a second test set. The paper does not state
how many scans each of the 8 had; here the numbers differ by one at most.

A cohort follows from its seed. Its native animals share one facility, its contrast-enhanced animals
another: one bed, one position, one scanner and its HU calibration. With `wide`, every scan comes
from its own facility.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np

from limn.domain.errors import ConfigWrong
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Labels, Volume
from limn.phantom.anatomy import Mouse, Pose, Surroundings, Tissue, conceive
from limn.phantom.scanner import Scanner, random_scanner, scan

# Far above every seed of training, so that no network has learnt from an animal of a cohort.
FIRST_SEED = 700_000
MAX_ANIMALS = 1000
# Each scan has its own noise; must exceed every time point.
NOISE_STEP = 10_000
# Share of the native animals that train (15 of 20).
TRAINING_SHARE = 0.75
# Spread between the animals of one facility, relative to that between all animals.
TISSUE_SPREAD = 0.35
POSE_SPREAD = 0.5
# Spread between the poses of one animal on different days, relative to that between animals.
DAY_SPREAD = 0.4
# The field contains T1 to T13 of the longest animal; so its middle lies caudal of the heart.
SIZE_ZYX_MM = (30.8, 25.2, 28.0)
CENTRE_XYZ_MM = (0.0, 1.0, -4.5)


class CohortSplit(StrEnum):
    """The use of a scan; test set 1 is native, test set 2 contrast-enhanced, as in the paper."""

    TRAIN = "train"
    TEST1 = "test1"
    TEST2 = "test2"


@dataclass(frozen=True, slots=True)
class Animal:
    """One phantom animal and the days on which it is scanned.

    Attributes
    ----------
    name : such as "native-03"
    seed : of `anatomy.conceive`
    time_points : number of its scans
    """

    name: str
    seed: int
    contrast: bool
    split: CohortSplit
    time_points: int


@dataclass(frozen=True, slots=True)
class Visit:
    """One scan of one animal.

    Attributes
    ----------
    name : such as "native-03-t2"; unique in the cohort
    time_point : from 0
    """

    animal: Animal
    time_point: int

    @property
    def name(self) -> str:
        """Animal and time point."""
        return f"{self.animal.name}-t{self.time_point}"

    @property
    def seed(self) -> int:
        """Seed of what differs from scan to scan: noise, centring, contours of the observers."""
        return self.animal.seed * NOISE_STEP + self.time_point


@dataclass(frozen=True, slots=True)
class Cohort:
    """The plan of a phantom data set; nothing is painted yet.

    Attributes
    ----------
    seed : int
        Equal seeds and numbers give equal cohorts; cohorts of two seeds share no animal.
    animals, time_points : native animals, and scans of each
    contrast_animals, contrast_scans : contrast-enhanced animals, and scans of all of them
    spacing_mm : isotropic voxels
    size_zyx_mm : field of view
    wide : every scan has its own scanner, bed and position, as in `random_scanner`
    """

    seed: int = 0
    animals: int = 20
    time_points: int = 7
    contrast_animals: int = 8
    contrast_scans: int = 35
    spacing_mm: float = 0.14
    size_zyx_mm: tuple[float, float, float] = SIZE_ZYX_MM
    wide: bool = False

    def __post_init__(self) -> None:
        _refuse_impossible(self)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels of every scan."""
        z, y, x = (round(mm / self.spacing_mm) for mm in self.size_zyx_mm)
        return (z, y, x)

    @property
    def all_animals(self) -> tuple[Animal, ...]:
        """Native animals that train, native ones that test, contrast-enhanced ones."""
        first = FIRST_SEED + MAX_ANIMALS * self.seed
        # Seeds do not correlate with animals: the last ones are a random choice.
        train = min(round(TRAINING_SHARE * self.animals), max(self.animals - 1, 0))
        native = [
            Animal(
                f"native-{k:02d}",
                first + k,
                contrast=False,
                split=CohortSplit.TRAIN if k < train else CohortSplit.TEST1,
                time_points=self.time_points,
            )
            for k in range(self.animals)
        ]
        return (*native, *self._enhanced(first + self.animals))

    def _enhanced(self, first_seed: int) -> list[Animal]:
        if not self.contrast_animals:
            return []
        each, more = divmod(self.contrast_scans, self.contrast_animals)
        return [
            Animal(
                f"contrast-{k:02d}",
                first_seed + k,
                contrast=True,
                split=CohortSplit.TEST2,
                time_points=each + (k < more),
            )
            for k in range(self.contrast_animals)
        ]

    @property
    def visits(self) -> tuple[Visit, ...]:
        """Every scan, animal by animal."""
        return tuple(
            Visit(animal, t) for animal in self.all_animals for t in range(animal.time_points)
        )


def image(cohort: Cohort, visit: Visit) -> tuple[Volume, Labels]:
    """Make one scan of the cohort and its truth, axes S, P, L."""
    return scan(mouse_of(cohort, visit), scanner_of(cohort, visit), visit.seed)


def mouse_of(cohort: Cohort, visit: Visit) -> Mouse:
    """The animal on the day of a scan."""
    animal, t = visit.animal, visit.time_point
    pose = _pose_of(animal.seed, t)
    if cohort.wide:
        return replace(conceive(animal.seed, time_point=t, contrast=animal.contrast), pose=pose)
    site = _site(cohort, animal.contrast)
    plain = conceive(animal.seed, time_point=t, prone=site.prone)
    tissue = _each(
        plain.tissue, site.tissue, lambda value, usual: usual + TISSUE_SPREAD * (value - usual)
    )
    if animal.contrast:
        given = conceive(animal.seed, time_point=t, prone=site.prone, contrast=True).tissue
        # The agent's full effect is added: only the tissue without it is made alike.
        gain = _each(given, plain.tissue, lambda with_agent, without: with_agent - without)
        tissue = _each(tissue, gain, lambda without, more: without + more)
    rng = np.random.default_rng([visit.seed, 22])
    around = replace(site.around, bed_rad=site.around.bed_rad + float(rng.normal(0.0, 0.05)))
    return replace(
        plain,
        pose=_laid_with_care(pose),
        tissue=tissue,
        around=around,
        contrast=animal.contrast,
    )


def scanner_of(cohort: Cohort, visit: Visit) -> Scanner:
    """The scanner of a scan: that of its facility on the day, or a random one if `wide`."""
    if cohort.wide:
        scanner = random_scanner(visit.seed, cohort.spacing_mm, cohort.shape_zyx)
        # The organs that the observers draw must lie in the field of view.
        return replace(scanner, centre_xyz_mm=CENTRE_XYZ_MM, truncation_mm=None)
    usual = _site(cohort, visit.animal.contrast).scanner
    rng = np.random.default_rng([visit.seed, 23])

    def about(value: float, share: float) -> float:
        return value * float(np.exp(rng.normal(0.0, share)))

    x, y, z = usual.centre_xyz_mm
    return replace(
        usual,
        centre_xyz_mm=(
            x + float(rng.uniform(-0.4, 0.4)),
            y + float(rng.uniform(-0.4, 0.4)),
            z + float(rng.uniform(-0.4, 0.4)),
        ),
        blur_mm=about(usual.blur_mm, 0.05),
        noise_hu=about(usual.noise_hu, 0.08),
        breathing_mm=about(usual.breathing_mm, 0.3),
        hardening_hu=about(usual.hardening_hu, 0.15),
        rings_hu=about(usual.rings_hu, 0.3),
        streaks_hu=about(usual.streaks_hu, 0.3),
        offset_hu=usual.offset_hu + float(rng.normal(0.0, 4.0)),
        scale=about(usual.scale, 0.005),
    )


@dataclass(frozen=True, slots=True)
class _Site:
    """The settings that all scans of one facility share."""

    prone: bool
    tissue: Tissue
    around: Surroundings
    scanner: Scanner


def _site(cohort: Cohort, contrast: bool) -> _Site:
    seed = FIRST_SEED + MAX_ANIMALS * cohort.seed
    rng = np.random.default_rng([seed, 21, int(contrast)])
    prone = bool(rng.random() < 0.5)
    # This animal is not in the cohort; the facility takes its bed and its calibration.
    donor = conceive(int(rng.integers(1 << 40)), prone=prone)
    spacing = cohort.spacing_mm
    scanner = Scanner(
        spacing_mm=SpacingMm(spacing, spacing, spacing),
        shape_zyx=cohort.shape_zyx,
        centre_xyz_mm=CENTRE_XYZ_MM,
        blur_mm=float(rng.uniform(0.1, 0.16)),
        noise_hu=float(rng.uniform(30.0, 60.0)),
        grain_mm=float(rng.uniform(0.08, 0.15)),
        breathing_mm=float(rng.uniform(0.2, 0.5)),
        hardening_hu=float(rng.uniform(10.0, 40.0)),
        rings_hu=float(rng.uniform(4.0, 12.0)),
        streaks_hu=float(rng.uniform(5.0, 20.0)),
        offset_hu=float(rng.normal(0.0, 12.0)),
        scale=float(np.exp(rng.normal(0.0, 0.02))),
    )
    bed_radius_mm = donor.around.bed_radius_mm or 25.0
    around = replace(donor.around, bed_radius_mm=bed_radius_mm, wires=0)
    return _Site(prone, donor.tissue, around, scanner)


def _each(first: Tissue, second: Tissue, joined: Callable[[float, float], float]) -> Tissue:
    """Combine two tissues value by value."""
    return Tissue(
        **{
            one.name: joined(getattr(first, one.name), getattr(second, one.name))
            for one in fields(Tissue)
        }
    )


def _pose_of(seed: int, time_point: int) -> Pose:
    """The pose of an animal on one day.

    The wobble is part of the animal's shape (it changes organs by a tenth) and stays the same.
    Limbs, bends and breath stay near those of day 0; the gas in the gut is new.
    """
    usual, day = (conceive(seed, time_point=t).pose for t in (0, time_point))

    def near(usual: float, day: float) -> float:
        return usual + DAY_SPREAD * (day - usual)

    return Pose(
        roll_rad=near(usual.roll_rad, day.roll_rad),
        pitch_rad=near(usual.pitch_rad, day.pitch_rad),
        yaw_rad=near(usual.yaw_rad, day.yaw_rad),
        bend_side_mm=near(usual.bend_side_mm, day.bend_side_mm),
        bend_back_mm=near(usual.bend_back_mm, day.bend_back_mm),
        bend_phase=near(usual.bend_phase, day.bend_phase),
        arms_rad=(
            near(usual.arms_rad[0], day.arms_rad[0]),
            near(usual.arms_rad[1], day.arms_rad[1]),
        ),
        elbow_rad=(
            near(usual.elbow_rad[0], day.elbow_rad[0]),
            near(usual.elbow_rad[1], day.elbow_rad[1]),
        ),
        breath_mm=near(usual.breath_mm, day.breath_mm),
        gas_seed=day.gas_seed,
        wobble_seed=usual.wobble_seed,
        wobble_mm=usual.wobble_mm,
    )


def _laid_with_care(pose: Pose) -> Pose:
    """A pose nearly straight, as one person lays out all animals of a facility."""
    return replace(
        pose,
        roll_rad=POSE_SPREAD * pose.roll_rad,
        pitch_rad=POSE_SPREAD * pose.pitch_rad,
        yaw_rad=POSE_SPREAD * pose.yaw_rad,
    )


def _refuse_impossible(cohort: Cohort) -> None:
    """Raise for numbers that no cohort can have."""
    total = cohort.animals + cohort.contrast_animals
    wrong = [
        (cohort.seed < 0, f"seed {cohort.seed}: 0 or more expected"),
        (cohort.animals < 0, f"{cohort.animals} animals: 0 or more expected"),
        (cohort.contrast_animals < 0, f"{cohort.contrast_animals} contrast-enhanced animals"),
        (not 0 < total <= MAX_ANIMALS, f"{total} animals: 1 to {MAX_ANIMALS} expected"),
        (
            not 0 < cohort.time_points < NOISE_STEP,
            f"{cohort.time_points} time points: 1 or more expected",
        ),
        (
            cohort.contrast_animals > 0 and cohort.contrast_scans < cohort.contrast_animals,
            f"{cohort.contrast_scans} contrast-enhanced scans of {cohort.contrast_animals} "
            "animals: at least one of each expected",
        ),
        (
            not cohort.spacing_mm > 0 or min(cohort.size_zyx_mm) < 16 * cohort.spacing_mm,
            f"spacing {cohort.spacing_mm} mm in a field of {cohort.size_zyx_mm} mm: "
            "at least 16 voxels a side expected",
        ),
    ]
    for is_wrong, message in wrong:
        if is_wrong:
            raise ConfigWrong(message)
