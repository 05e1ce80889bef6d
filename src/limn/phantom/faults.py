"""A table of faults: what spoils a scan for contouring, from a mirror image to a collapsed lung.

A fault changes what is scanned (`before`: animal, scanner, field of view, tissue), or the picture
that came out (`after`), or both. Each is a small pure function. A seed fixes the animal, the
scanner and how severe the fault is, from mild to useless. The truth is what an expert would draw in
what the field shows.

With these scans one can teach and judge a model that predicts how far contours may be trusted.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.errors import ConfigWrong
from limn.domain.geometry import FloatArray, Grid, Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ, Volume, occupied_box
from limn.phantom import alterations
from limn.phantom.anatomy import CORD, TRUTH_LABELS, WHOLE_LABELS, Build, Mouse, conceive
from limn.phantom.body import labels_of, paint
from limn.phantom.canvas import PointXyzMm
from limn.phantom.cohort import (
    CENTRE_XYZ_MM,
    Animal,
    Cohort,
    CohortSplit,
    Visit,
    mouse_of,
    scanner_of,
)
from limn.phantom.scanner import AIR_HU, Alter, Scanner, expose, random_scanner, streaks

# Kinds that no judge may be taught, so that what it says of them shows how it does on a fault that
# nobody thought of. They are of three families, each leaves some contours good and spoils others,
# and no other kind looks like them: something dense between lung and chest wall, streaks from a
# point, a hole in the middle of the field.
UNSEEN = ("pleural-fluid", "metal", "missing-slices-blank")

SIZE_ZYX_MM = (30.0, 26.0, 30.0)
LONG_MM = 55.0
LONG_SHARE, CONTRAST_SHARE = 0.25, 1 / 3
SPACINGS_MM = (0.14, 0.25)
# The grid on which the chest is looked for before the field is laid across it.
COARSE_MM = 0.6
# Nothing of an animal or its limbs is painted here; only the bed goes on.
BEYOND_THE_ANIMAL_MM = 90.0
LIMB_FIELD_MM = 80.0
# Photons that are missing along a row blur together over this distance.
ROW_MM = 2.5

LabelsZyx: TypeAlias = npt.NDArray[np.uint8]
Rng: TypeAlias = np.random.Generator


@dataclass(frozen=True, slots=True)
class Severities:
    """How severe a fault can be, and in which unit.

    Attributes
    ----------
    ends : the mildest and the worst, between which it is drawn; or None
    listed : the only values, if there are no ends
    either_sign : whether it may also be negative
    """

    unit: str
    ends: tuple[float, float] | None = None
    listed: tuple[float, ...] = (1.0,)
    either_sign: bool = False

    def draw(self, rng: Rng) -> float:
        """One severity."""
        sign = float(rng.choice([-1.0, 1.0])) if self.either_sign else 1.0
        if self.ends is None:
            return sign * float(rng.choice(self.listed))
        return sign * float(rng.uniform(*self.ends))


@dataclass(frozen=True, slots=True)
class Setup:
    """What is scanned, and with what."""

    mouse: Mouse
    scanner: Scanner
    alter: Alter | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A scan with its truth: (z, y, x) each."""

    hu_zyx: npt.NDArray[np.float32]
    labels_zyx: LabelsZyx
    grid: Grid


Before: TypeAlias = Callable[[Setup, float, Rng], Setup]
After: TypeAlias = Callable[[Picture, float, Rng], Picture]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to spoil a scan.

    Attributes
    ----------
    meaning : one line of explanation
    family : sides, lie, hu, size, cut, noise, disease, field or none
    severities : how severe it can be
    before, after : what it does to the setup and to the picture; None for nothing
    """

    name: str
    meaning: str
    family: str
    severities: Severities
    before: Before | None = None
    after: After | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SpoiltScan:
    """A scan that was spoilt on purpose.

    Attributes
    ----------
    volume : axes S, P, L
    truth : on the same grid; None if the field shows no organ of a mouse's chest
    sides : "exchanged" if the pixels are a mirror image of what the grid says, so that Lung_L of
        the truth lies on the header's right
    severity : in the unit of the fault's severities
    """

    volume: Volume
    truth: Labels | None
    sides: Literal["kept", "exchanged"]
    fault: str
    severity: float
    seed: int


def spoilt_scan(
    fault: str, seed: int, *, spacing_mm: float | None = None, whole_body: bool = False
) -> SpoiltScan:
    """Scan the animal of a seed with a fault.

    Parameters
    ----------
    fault : a name of `FAULTS`
    seed : fixes animal, scanner and severity; equal seeds give equal scans
    spacing_mm : of the scanner; by default the seed draws it from `SPACINGS_MM`. Faults of size
        have another spacing in the end.
    whole_body : the truth has the organs of `anatomy.WHOLE_LABELS`, and every field is long

    Raises
    ------
    ConfigWrong
        For a fault that is not in the table.
    """
    if fault not in FAULTS:
        msg = f"fault {fault!r} is unknown; known: {', '.join(FAULTS)}"
        raise ConfigWrong(msg)
    kind = FAULTS[fault]
    rng = _rng(seed, fault)
    severity = kind.severities.draw(rng)
    organs = WHOLE_LABELS if whole_body else TRUTH_LABELS
    setup = _usual_setup(seed, spacing_mm, always_long=whole_body)
    if kind.before is not None:
        setup = kind.before(setup, severity, rng)
    volume, shares = expose(setup.mouse, setup.scanner, seed, setup.alter, len(organs))
    picture = Picture(volume.hu_zyx, labels_of(shares), volume.grid)
    return _ended(kind, picture, organs, severity, rng, seed)


def spoil(volume: Volume, truth: Labels, fault: str, seed: int) -> SpoiltScan:
    """Spoil the pixels of a scan that somebody else took, and its truth with them.

    Parameters
    ----------
    volume, truth : axes S, P, L, with any organs
    fault : one of `PIXEL_FAULTS`
    """
    kind = FAULTS[fault]
    rng = _rng(seed, fault)
    severity = kind.severities.draw(rng)
    picture = Picture(volume.hu_zyx, truth.labels_zyx, volume.grid)
    spoilt = _ended(kind, picture, truth.organs, severity, rng, seed)
    own = spoilt.truth
    return replace(spoilt, truth=own and truth.on_voxels(own.labels_zyx, own.grid))


def _rng(seed: int, fault: str) -> Rng:
    return np.random.default_rng([seed, 32, zlib.crc32(fault.encode())])


def _ended(
    kind: Fault,
    picture: Picture,
    organs: Mapping[int, Organ],
    severity: float,
    rng: Rng,
    seed: int,
) -> SpoiltScan:
    """The scan after what the fault does to its picture."""
    if kind.after is not None:
        picture = kind.after(picture, severity, rng)
    hu_zyx = np.round(picture.hu_zyx).astype(np.float32)
    labels = Labels(picture.labels_zyx, picture.grid, organs)
    return SpoiltScan(
        volume=Volume(hu_zyx, picture.grid),
        truth=labels if labels.labels_zyx.any() else None,
        sides="exchanged" if kind.family == "sides" else "kept",
        fault=kind.name,
        severity=severity,
        seed=seed,
    )


def _usual_setup(seed: int, spacing_mm: float | None, *, always_long: bool = False) -> Setup:
    """A random scanner whose field shows the chest; a quarter of the fields are long."""
    rng = np.random.default_rng([seed, 31])
    drawn_mm = float(rng.uniform(*SPACINGS_MM))
    mouse = conceive(seed, contrast=bool(rng.random() < CONTRAST_SHARE))
    long = rng.random() < LONG_SHARE or always_long
    x, y, z = CENTRE_XYZ_MM + rng.uniform(-1.0, 1.0, 3)
    z -= float(rng.uniform(-6.0, 10.0)) if long else 0.0
    mm = spacing_mm or drawn_mm
    scanner = replace(
        random_scanner(seed, mm, (1, 1, 1)),
        centre_xyz_mm=(float(x), float(y), float(z)),
        truncation_mm=None,
    )
    size_mm = (LONG_MM if long else SIZE_ZYX_MM[0], *SIZE_ZYX_MM[1:])
    return Setup(mouse, _with_field(scanner, size_mm))


def _with_field(scanner: Scanner, size_zyx_mm: tuple[float, float, float]) -> Scanner:
    z, y, x = (
        round(mm / step) for mm, step in zip(size_zyx_mm, scanner.spacing_mm.zyx, strict=True)
    )
    return replace(scanner, shape_zyx=(z, y, x))


def _size_zyx_mm(scanner: Scanner) -> tuple[float, float, float]:
    z, y, x = (n * mm for n, mm in zip(scanner.shape_zyx, scanner.spacing_mm.zyx, strict=True))
    return (z, y, x)


# No fault.


def _at_home(setup: Setup, severity: float, rng: Rng) -> Setup:
    """One of a thousand facilities with careful people and a plain scanner."""
    del severity
    mm, contrast = setup.scanner.spacing_mm.x, setup.mouse.contrast
    site = Cohort(seed=int(rng.integers(1, 1000)), spacing_mm=mm)
    split = CohortSplit.TEST2 if contrast else CohortSplit.TRAIN
    visit = Visit(Animal("", setup.mouse.seed, contrast=contrast, split=split, time_points=1), 0)
    scanner = scanner_of(site, visit)
    long = setup.scanner.shape_zyx[0] * mm > SIZE_ZYX_MM[0] + 1.0
    if long:
        scanner = _with_field(scanner, _size_zyx_mm(setup.scanner))
    return Setup(mouse_of(site, visit), scanner)


# Sides and lie: the pixels are not as the header says.


def _turns(determinant: int) -> list[Reorientation]:
    """The ways to exchange and flip axes that keep the sides (1) or exchange them (-1).

    Without leaving all as it is, and without a flip of one axis alone.
    """
    found = []
    for axes in itertools.permutations(range(3)):
        order = round(float(np.linalg.det(np.eye(3)[list(axes)])))
        for z, y, x in itertools.product((False, True), repeat=3):
            plain = axes == (0, 1, 2) and z + y + x < 2
            if order * (-1) ** (z + y + x) == determinant and not plain:
                found.append(Reorientation((axes[0], axes[1], axes[2]), (z, y, x)))
    return found


_TURNS, _MIRROR_TURNS = _turns(1), _turns(-1)


def _mirrored(picture: Picture, severity: float, rng: Rng, *, axis: int) -> Picture:
    del severity, rng
    hu, labels = np.flip(picture.hu_zyx, axis), np.flip(picture.labels_zyx, axis)
    return Picture(np.ascontiguousarray(hu), np.ascontiguousarray(labels), picture.grid)


def _turned(picture: Picture, severity: float, rng: Rng, *, ways: list[Reorientation]) -> Picture:
    """Turn the pixels, and no mark of it in the grid; the field keeps its middle."""
    del severity
    # Most animals lie along the scanner: three of four turns keep the long axis.
    along = [turn for turn in ways if turn.axes[0] == 0]
    ways = along if rng.random() < 0.75 else ways
    turn = ways[int(rng.integers(len(ways)))]
    hu, labels = turn.apply(picture.hu_zyx), turn.apply(picture.labels_zyx)
    spacing = turn.spacing(picture.grid.spacing_mm)
    first = picture.grid.slice_origins_xyz_mm[0][::-1]
    middle = first + (np.array(picture.hu_zyx.shape) - 1) * picture.grid.spacing_mm.zyx / 2
    first = middle - (np.array(hu.shape) - 1) * spacing.zyx / 2
    grid = axial_grid((hu.shape[0], hu.shape[1], hu.shape[2]), spacing, first[::-1])
    return Picture(np.ascontiguousarray(hu), np.ascontiguousarray(labels), grid)


# Numbers.


def _calibrated(setup: Setup, severity: float, rng: Rng) -> Setup:
    """A scanner whose HU are right, so that the fault alone is wrong."""
    del severity, rng
    return replace(setup, scanner=replace(setup.scanner, offset_hu=0.0, scale=1.0))


def _shifted(picture: Picture, severity: float, rng: Rng) -> Picture:
    del rng
    return replace(picture, hu_zyx=picture.hu_zyx + np.float32(severity))


def _scaled(picture: Picture, severity: float, rng: Rng) -> Picture:
    """Scale about air, so that only tissue changes, or about water."""
    fixed = np.float32(AIR_HU if rng.random() < 0.7 else 0.0)
    return replace(picture, hu_zyx=(picture.hu_zyx - fixed) * np.float32(severity) + fixed)


def _clipped(picture: Picture, severity: float, rng: Rng) -> Picture:
    middle = float(rng.uniform(-400.0, 100.0))
    low, high = middle - severity / 2, middle + severity / 2
    return replace(picture, hu_zyx=np.clip(picture.hu_zyx, low, high))


def _inverted(picture: Picture, severity: float, rng: Rng) -> Picture:
    del severity, rng
    return replace(picture, hu_zyx=-picture.hu_zyx)


def _bright_blood(setup: Setup, severity: float, rng: Rng) -> Setup:
    """Far more contrast agent than usual, or soft tissues that are all alike."""
    tissue = conceive(setup.mouse.seed).tissue
    if severity == 0.0:
        same = dict.fromkeys(("heart", "blood", "liver", "spleen", "kidney", "cord"), tissue.soft)
        tissue = replace(tissue, csf=tissue.soft, **same)
    else:
        liver = severity * float(rng.uniform(0.2, 0.9))
        tissue = replace(
            tissue,
            blood=tissue.blood + severity,
            heart=tissue.heart + 0.25 * severity,
            liver=tissue.liver + liver,
            spleen=tissue.spleen + liver,
            kidney=tissue.kidney + severity * float(rng.uniform(0.2, 1.2)),
            lung=tissue.lung + 0.08 * severity,
        )
    return replace(setup, mouse=replace(setup.mouse, tissue=tissue))


# Size.


def _wrong_size(picture: Picture, severity: float, rng: Rng) -> Picture:
    del rng
    grid = picture.grid
    spacing = SpacingMm(*(severity * mm for mm in grid.spacing_mm.zyx))
    first_mm = severity * grid.slice_origins_xyz_mm[0]
    return replace(picture, grid=axial_grid(grid.shape_zyx, spacing, first_mm))


def _grown(setup: Setup, severity: float, rng: Rng) -> Setup:
    """An animal of another size, its heart with it."""
    del rng
    build = setup.mouse.build
    heart_mm3 = build.heart_volume_mm3 * (severity / build.size) ** 3
    grown = replace(build, size=severity, heart_volume_mm3=heart_mm3)
    return replace(setup, mouse=replace(setup.mouse, build=grown))


def _rat(setup: Setup, severity: float, rng: Rng) -> Setup:
    """A rat in a field as much larger, with as many voxels."""
    scanner = setup.scanner
    spacing = SpacingMm(*(severity * mm for mm in scanner.spacing_mm.zyx))
    x, y, z = (severity * mm for mm in scanner.centre_xyz_mm)
    larger = replace(scanner, spacing_mm=spacing, centre_xyz_mm=(x, y, z))
    return _grown(replace(setup, scanner=larger), severity, rng)


# Cuts: the field, or what was reconstructed of it, ends in the chest.


def _cut(setup: Setup, severity: float, rng: Rng, *, axis_xyz: int, high: bool) -> Setup:
    """Move the field of view so that a face of it cuts off a share of heart and lungs."""
    del rng
    low_mm, high_mm = _chest_xyz_mm(setup.mouse)
    length_mm = high_mm[axis_xyz] - low_mm[axis_xyz]
    half_mm = _size_zyx_mm(setup.scanner)[2 - axis_xyz] / 2
    centre = list(setup.scanner.centre_xyz_mm)
    if high:
        centre[axis_xyz] = high_mm[axis_xyz] - severity * length_mm - half_mm
    else:
        centre[axis_xyz] = low_mm[axis_xyz] + severity * length_mm + half_mm
    scanner = replace(setup.scanner, centre_xyz_mm=(centre[0], centre[1], centre[2]))
    return replace(setup, scanner=scanner)


def _chest_xyz_mm(mouse: Mouse) -> tuple[FloatArray, FloatArray]:
    """The lowest and the highest x, y, z of heart and lungs."""
    shape = (60, 50, 50)
    first_zyx_mm = np.array((-3.0, 0.0, 0.0)) - (np.array(shape) - 1) * COARSE_MM / 2
    spacing = SpacingMm(COARSE_MM, COARSE_MM, COARSE_MM)
    labels = labels_of(paint(mouse, axial_grid(shape, spacing, first_zyx_mm[::-1]))[1])
    labels[labels == CORD] = 0
    ends = np.array([(span.start, span.stop) for span in occupied_box(labels)])
    low, high = (first_zyx_mm[::-1] + (ends[::-1, end] - 0.5) * COARSE_MM for end in (0, 1))
    return low, high


def _truncated(setup: Setup, severity: float, rng: Rng) -> Setup:
    del rng
    return replace(setup, scanner=replace(setup.scanner, truncation_mm=severity))


def _outside(picture: Picture, radius_mm: float) -> npt.NDArray[np.bool_]:
    """(y, x) bool: outside a cylinder in the middle of the field."""
    grid = picture.grid
    y = (np.arange(grid.rows) - grid.rows / 2) * grid.spacing_y_mm
    x = (np.arange(grid.columns) - grid.columns / 2) * grid.spacing_x_mm
    return np.asarray(np.hypot(y[:, None], x[None, :]) > radius_mm)


def _nothing_outside(picture: Picture, severity: float, rng: Rng) -> Picture:
    """Nothing to draw where nothing was reconstructed."""
    del rng
    labels = np.where(_outside(picture, severity), 0, picture.labels_zyx).astype(np.uint8)
    return replace(picture, labels_zyx=labels)


def _padded(picture: Picture, severity: float, rng: Rng) -> Picture:
    padding = np.float32(rng.choice([-2000.0, 0.0]))
    hu = np.where(_outside(picture, severity), padding, picture.hu_zyx)
    return _nothing_outside(replace(picture, hu_zyx=hu), severity, rng)


# Noise: everything in image formation that hides an edge.


def _with_scanner(setup: Setup, severity: float, rng: Rng, *, setting: str) -> Setup:
    """Another value of one setting of the scanner."""
    del rng
    changed: dict[str, float] = {setting: severity}
    return replace(setup, scanner=replace(setup.scanner, **changed))  # type: ignore[arg-type]


def _streaky(picture: Picture, severity: float, rng: Rng) -> Picture:
    hu = picture.hu_zyx.copy()
    for _ in range(int(rng.integers(2, 10))):
        hu += streaks(hu, severity, rng)
    return replace(picture, hu_zyx=np.maximum(hu, -1500.0))


def _doubled(setup: Setup, severity: float, rng: Rng) -> Setup:
    way = rng.normal(0.0, 1.0, 3)
    moved = severity * way / np.linalg.norm(way)
    return replace(setup, alter=alterations.doubled(moved, float(rng.uniform(0.3, 0.5))))


def _pinned(setup: Setup, severity: float, rng: Rng) -> Setup:
    """One to four pins, screws or ear tags in the chest or near it."""
    rods: list[tuple[PointXyzMm, PointXyzMm, float, float]] = []
    for _ in range(int(rng.integers(1, 5))):
        start = rng.uniform((-10.0, -8.0, -12.0), (10.0, 9.0, 9.0))
        long_mm = float(rng.choice([0.8, 2.5, 8.0]))
        way = rng.normal(0.0, 1.0, 3)
        end = start + long_mm * way / np.linalg.norm(way)
        radius_mm, value = float(rng.uniform(0.2, 0.7)), float(rng.uniform(8000.0, 20000.0))
        rods.append((_point(start), _point(end), radius_mm, value))
    return replace(setup, alter=alterations.metal(rods, severity, rng))


def _point(xyz: npt.NDArray[np.float64]) -> PointXyzMm:
    return (float(xyz[0]), float(xyz[1]), float(xyz[2]))


def _starved(picture: Picture, severity: float, rng: Rng) -> Picture:
    """Noise along rows, stronger where rays along them pass more tissue; nothing below -1024."""
    hu = picture.hu_zyx
    rough = rng.standard_normal(hu.shape, dtype=np.float32)
    rows = ndimage.gaussian_filter1d(rough, ROW_MM / picture.grid.spacing_x_mm, axis=2)
    rows /= max(float(rows.std()), 1e-6)
    path = np.clip(hu + 1000.0, 0.0, 2500.0).mean(axis=2, keepdims=True)
    path /= max(float(np.percentile(path, 99)), 1.0)
    rough *= np.float32(0.5)
    return replace(picture, hu_zyx=np.maximum(hu + severity * path * (rows + rough), -1024.0))


# Disease and build.


def _side(rng: Rng) -> int:
    return int(rng.choice(alterations.LUNGS))


def _pneumothorax(setup: Setup, severity: float, rng: Rng) -> Setup:
    alter = alterations.pneumothorax(_side(rng), severity, setup.mouse.tissue.air)
    return replace(setup, alter=alter)


def _pleural_fluid(setup: Setup, severity: float, rng: Rng) -> Setup:
    alter = alterations.effusion(_side(rng), severity, float(rng.uniform(0.0, 30.0)))
    return replace(setup, alter=alter)


def _collapsed(setup: Setup, severity: float, rng: Rng) -> Setup:
    return replace(setup, alter=alterations.collapse(_side(rng), severity, rng))


def _tumour(setup: Setup, severity: float, rng: Rng) -> Setup:
    return replace(setup, alter=alterations.tumours(np.array([severity]), rng))


def _nodules(setup: Setup, severity: float, rng: Rng) -> Setup:
    diameters_mm = rng.uniform(0.6, 2.2, round(severity))
    return replace(setup, alter=alterations.tumours(diameters_mm, rng))


def _consolidated(setup: Setup, severity: float, rng: Rng) -> Setup:
    return replace(setup, alter=alterations.consolidation(severity, rng))


def _large_heart(setup: Setup, severity: float, rng: Rng) -> Setup:
    """A heart of several times its volume, pushed to a side."""
    build = setup.mouse.build
    moved = build.heart_centre_xyz_mm + rng.uniform((-1.5, -0.2, -1.5), (1.5, 0.6, 1.0))
    return _with_build(
        setup, heart_volume_mm3=severity * build.heart_volume_mm3, heart_centre_xyz_mm=_point(moved)
    )


def _fat(setup: Setup, severity: float, rng: Rng) -> Setup:
    return _with_build(
        setup, fat_mm=severity, belly=1.05 + 0.08 * severity + float(rng.uniform(0.0, 0.1))
    )


def _thin(setup: Setup, severity: float, rng: Rng) -> Setup:
    return _with_build(setup, belly=severity, fat_mm=float(rng.uniform(0.0, 0.15)))


def _with_build(setup: Setup, **changed: object) -> Setup:
    build: Build = replace(setup.mouse.build, **changed)  # type: ignore[arg-type]
    return replace(setup, mouse=replace(setup.mouse, build=build))


# Field: something else is in it.


def _elsewhere(setup: Setup, severity: float, rng: Rng) -> Setup:
    """A field of the usual length, its middle so many mm towards the head."""
    del rng
    x, y, _ = setup.scanner.centre_xyz_mm
    scanner = replace(setup.scanner, centre_xyz_mm=(x, y, severity))
    return replace(setup, scanner=_with_field(scanner, SIZE_ZYX_MM))


def _empty(setup: Setup, severity: float, rng: Rng) -> Setup:
    setup = _elsewhere(setup, BEYOND_THE_ANIMAL_MM, rng)
    around = setup.mouse.around
    if severity:
        around = replace(around, bed_radius_mm=around.bed_radius_mm or 25.0)
    else:
        around = replace(around, bed_radius_mm=None, nozzle=False, tubes=0, wires=0)
    return replace(setup, mouse=replace(setup.mouse, around=around))


def _two_animals(setup: Setup, severity: float, rng: Rng) -> Setup:
    """A second animal on the bed, and a field wide enough to show a share of it."""
    del rng
    mouse = conceive(setup.mouse.seed, contrast=setup.mouse.contrast, neighbour=True)
    beside = mouse.around.neighbour_xyz_mm
    aside_mm = beside[0] if beside is not None else 0.0
    x, y, z = setup.scanner.centre_xyz_mm
    centre = (x + np.sign(aside_mm) * severity / 2, y, z)
    wider = _with_field(setup.scanner, (*SIZE_ZYX_MM[:2], SIZE_ZYX_MM[2] + severity))
    return Setup(mouse, replace(wider, centre_xyz_mm=centre))


def _blank_slices(picture: Picture, severity: float, rng: Rng) -> Picture:
    """A band of slices of one value without organs, or all like the slice before it."""
    hu, labels = picture.hu_zyx.copy(), picture.labels_zyx.copy()
    shown = np.flatnonzero(labels.any(axis=(1, 2)))
    count = max(1, round(severity * len(shown)))
    start = int(shown[0]) + int(rng.integers(1, max(2, len(shown) - count)))
    band = slice(start, start + count)
    if rng.random() < 0.3:
        hu[band], labels[band] = hu[start - 1], labels[start - 1]
    else:
        hu[band], labels[band] = np.float32(rng.choice([-1000.0, -2000.0, 0.0])), 0
    return replace(picture, hu_zyx=hu, labels_zyx=labels)


def _limb(setup: Setup, severity: float, rng: Rng) -> Setup:
    """A person's limb in a field of its size, with as many voxels as one of a mouse."""
    scanner = _elsewhere(setup, BEYOND_THE_ANIMAL_MM, rng).scanner
    spacing = SpacingMm(*(mm * LIMB_FIELD_MM / SIZE_ZYX_MM[2] for mm in scanner.spacing_mm.zyx))
    alter = alterations.limb(severity / 2, int(rng.integers(1, 3)), rng)
    return Setup(setup.mouse, replace(scanner, spacing_mm=spacing), alter)


_NEVER, _ALWAYS = Severities("", listed=(0.0,)), Severities("")
_LOST = "share of the lung's volume"
_CUT = Severities("share of the length of heart and lungs", (0.05, 0.65))
_TOWARDS_HEAD = "mm from the heart towards the head"
_RADIUS = "mm, radius of the cylinder"
_NOISE_HU = "HU, amplitude"


def _cut_fault(side: str, axis_xyz: int, *, high: bool) -> Fault:
    before = partial(_cut, axis_xyz=axis_xyz, high=high)
    return Fault(f"cut-{side}", f"The field ends in the chest, {side}.", "cut", _CUT, before)


def _mirror_fault(letter: str, axis: int) -> Fault:
    meaning = f"The pixels are flipped along {letter} and the header does not say so."
    after = partial(_mirrored, axis=axis)
    return Fault(f"mirrored-{letter}", meaning, "sides", _ALWAYS, after=after)


def _setting_fault(
    name: str, meaning: str, setting: str, unit: str, ends: tuple[float, float]
) -> Fault:
    before = partial(_with_scanner, setting=setting)
    return Fault(name, meaning, "noise", Severities(unit, ends), before)


_TABLE = (
    Fault("none", "A good scan by careful people.", "none", _NEVER, _at_home),
    Fault("wide", "A good animal, any scanner.", "none", _NEVER),
    _mirror_fault("x", 2),
    _mirror_fault("y", 1),
    _mirror_fault("z", 0),
    Fault(
        "mirrored-turned",
        "The pixels are flipped and turned and the header does not say so.",
        "sides",
        _ALWAYS,
        after=partial(_turned, ways=_MIRROR_TURNS),
    ),
    Fault(
        "turned",
        "The pixels are turned by 90 or 180 degrees and the header does not say so.",
        "lie",
        _ALWAYS,
        after=partial(_turned, ways=_TURNS),
    ),
    Fault(
        "hu-shifted",
        "All HU are too high or too low.",
        "hu",
        Severities("HU", (50.0, 400.0), either_sign=True),
        _calibrated,
        _shifted,
    ),
    Fault(
        "hu-shifted-far",
        "The numbers are HU with a wrong intercept.",
        "hu",
        Severities("HU", listed=(-3024.0, -1000.0, 1000.0, 1024.0, 3000.0, 8478.0, 32768.0)),
        _calibrated,
        _shifted,
    ),
    Fault(
        "hu-scaled",
        "HU with a wrong slope.",
        "hu",
        Severities("factor", (0.6, 1.6)),
        _calibrated,
        _scaled,
    ),
    Fault(
        "hu-scaled-far",
        "The numbers are hardly HU: a slope that is far off.",
        "hu",
        Severities("factor", listed=(0.2, 0.3, 0.4, 0.5, 2.0, 2.5, 3.0, 4.0)),
        _calibrated,
        _scaled,
    ),
    Fault(
        "clipped",
        "The numbers are clipped at a narrow window.",
        "hu",
        Severities("HU, width of the window", (150.0, 1400.0)),
        _calibrated,
        _clipped,
    ),
    Fault("inverted", "The numbers are negated.", "hu", _ALWAYS, _calibrated, _inverted),
    Fault(
        "contrast-extreme",
        "Blood far brighter than any agent makes it, or soft tissues all alike (0).",
        "hu",
        Severities("HU", listed=(0.0, 0.0, 600.0, 900.0, 1300.0, 1700.0, 2100.0, 2500.0)),
        _bright_blood,
    ),
    Fault(
        "size-wrong",
        "The voxel spacing in the header is wrong by a factor.",
        "size",
        Severities("factor", listed=(0.1, 0.25, 0.5, 0.7, 1.4, 2.0, 4.0, 10.0)),
        after=_wrong_size,
    ),
    Fault("rat", "A rat in a larger field.", "size", Severities("sizes", (2.0, 2.6)), _rat),
    Fault("pup", "A young mouse.", "size", Severities("sizes", (0.35, 0.6)), _grown),
    _cut_fault("cranial", 2, high=True),
    _cut_fault("caudal", 2, high=False),
    _cut_fault("left", 0, high=True),
    _cut_fault("right", 0, high=False),
    _cut_fault("dorsal", 1, high=True),
    _cut_fault("ventral", 1, high=False),
    Fault(
        "truncated",
        "Only a cylinder was reconstructed, and it cuts the body.",
        "cut",
        Severities(_RADIUS, (4.0, 11.0)),
        _truncated,
        _nothing_outside,
    ),
    Fault(
        "padded",
        "The corners outside a cylinder are padded with -2000 or 0.",
        "cut",
        Severities(_RADIUS, (7.0, 15.0)),
        after=_padded,
    ),
    _setting_fault("noisy", "Much noise.", "noise_hu", "HU, deviation", (60.0, 900.0)),
    _setting_fault("ringed", "Rings around the axis.", "rings_hu", _NOISE_HU, (100.0, 2500.0)),
    _setting_fault("blurred", "Out of focus, or in motion.", "blur_mm", "mm, sigma", (0.2, 1.2)),
    _setting_fault("breathing", "Deep breaths.", "breathing_mm", "mm, travel", (1.0, 4.0)),
    Fault(
        "doubled",
        "The animal moved once: two pictures in one, the stronger is the truth.",
        "noise",
        Severities("mm, movement", (0.5, 3.0)),
        _doubled,
    ),
    Fault(
        "streaky",
        "Streaks from dense bone in many slices.",
        "noise",
        Severities(_NOISE_HU, (100.0, 900.0)),
        after=_streaky,
    ),
    Fault(
        "metal",
        "Pins, screws or ear tags, from which streaks radiate.",
        "noise",
        Severities("HU, streaks 2 mm away", (100.0, 2500.0)),
        _pinned,
    ),
    Fault(
        "photon-starved",
        "Too low a dose: noise along the rows where the body is thick.",
        "noise",
        Severities("HU, deviation", (80.0, 900.0)),
        after=_starved,
    ),
    Fault(
        "pneumothorax",
        "Air between one lung and the chest wall; the truth is the shrunken lung.",
        "disease",
        Severities(_LOST, (0.1, 0.85)),
        _pneumothorax,
    ),
    Fault(
        "pleural-fluid",
        "Fluid between one lung and the back; it is not lung.",
        "disease",
        Severities(_LOST, (0.1, 0.8)),
        _pleural_fluid,
    ),
    Fault(
        "collapsed-lobe",
        "A part of one lung without air; it is still lung.",
        "disease",
        Severities(_LOST, (0.1, 0.9)),
        _collapsed,
    ),
    Fault(
        "tumour",
        "One tumour in a lung; it is still lung.",
        "disease",
        Severities("mm, diameter", (2.0, 8.0)),
        _tumour,
    ),
    Fault(
        "nodules",
        "Many nodules in the lungs; they are still lung.",
        "disease",
        Severities("nodules", (5.0, 80.0)),
        _nodules,
    ),
    Fault(
        "consolidated-lungs",
        "Both lungs diffusely dense.",
        "disease",
        Severities("HU of the lung", (-300.0, 0.0)),
        _consolidated,
    ),
    Fault(
        "enlarged-heart",
        "A large heart, displaced.",
        "disease",
        Severities("times its volume", (1.4, 2.4)),
        _large_heart,
    ),
    Fault("fat-animal", "A fat animal.", "disease", Severities("mm of fat", (1.8, 4.5)), _fat),
    Fault(
        "thin-animal",
        "A starved animal.",
        "disease",
        Severities("times the usual width", (0.82, 0.92)),
        _thin,
    ),
    Fault(
        "abdomen-only",
        "The field shows the belly.",
        "field",
        Severities(_TOWARDS_HEAD, (-44.0, -27.0)),
        _elsewhere,
    ),
    Fault(
        "head-only",
        "The field shows head and neck.",
        "field",
        Severities(_TOWARDS_HEAD, (22.0, 34.0)),
        _elsewhere,
    ),
    Fault(
        "empty",
        "No animal: the bed alone (1), or only air (0).",
        "field",
        Severities("", listed=(0.0, 1.0)),
        _empty,
    ),
    Fault(
        "two-animals",
        "A second animal beside the first, which has the truth.",
        "field",
        Severities("mm by which the field is wider", (2.0, 26.0)),
        _two_animals,
    ),
    Fault(
        "missing-slices-blank",
        "A band of slices is blank, or repeats the slice before it.",
        "field",
        Severities("share of the slices with organs", (0.03, 0.5)),
        after=_blank_slices,
    ),
    Fault(
        "body-another",
        "A person's limb in a larger field.",
        "field",
        Severities("mm, thickness", (45.0, 70.0)),
        _limb,
    ),
)

FAULTS: Mapping[str, Fault] = MappingProxyType({fault.name: fault for fault in _TABLE})
# They change the picture alone, so that they can spoil a scan of an animal too.
PIXEL_FAULTS = tuple(
    fault.name for fault in _TABLE if fault.after and fault.before in (None, _calibrated)
)
