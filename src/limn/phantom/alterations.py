"""Alters a painted phantom before image formation: diseased lungs, metal, movement, a limb.

Each function returns an `Alter`, which changes ideal attenuation and truth in place. What it draws
by chance follows from the generator that it is given.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import Grid
from limn.domain.scan import Box, occupied_box
from limn.phantom.anatomy import CORD, HEART, LUNG_L, LUNG_R
from limn.phantom.canvas import Field, PointXyzMm
from limn.phantom.scanner import AIR_HU, Alter
from limn.phantom.skeleton import paint_rod
from limn.phantom.surroundings import scanner_canvas

Shares: TypeAlias = npt.NDArray[np.uint8]

LUNGS = (LUNG_R, LUNG_L)
# Lung that has lost its air.
AIRLESS_HU = 40.0
# Gaps of this width within a lung are vessels and bronchi.
GAP_MM = 0.9
METAL_HU = 5000.0
# How far along the animal the streaks of metal spread.
CONE_MM = 0.6


def pneumothorax(label: int, lost: float, air_hu: float) -> Alter:
    """Air between one lung and the chest wall; the lung has shrunk towards its hilum.

    Parameters
    ----------
    label : LUNG_R or LUNG_L
    lost : share of the lung's volume that it has lost
    """

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        hilum = _middle(shares[HEART - 1])
        _shrink(hu, shares, grid, label, lost, air_hu, hilum, nearest=True)

    return alter


def effusion(label: int, lost: float, fluid_hu: float) -> Alter:
    """Fluid between one lung and the chest wall at the back; the lung floats to the front."""

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        back = _middle(shares[CORD - 1])
        _shrink(hu, shares, grid, label, lost, fluid_hu, back, nearest=False)

    return alter


def _shrink(
    hu: Field,
    shares: Shares,
    grid: Grid,
    label: int,
    lost: float,
    filling_hu: float,
    towards_zyx: npt.NDArray[np.float64] | None,
    *,
    nearest: bool,
) -> None:
    """Shrink a lung about one of its voxels, and fill the room that it leaves.

    Parameters
    ----------
    towards_zyx : the lung's voxel nearest to this point stays in place, or the farthest one
    """
    box = _around(shares[label - 1], grid, GAP_MM)
    if box is None:
        return
    share = shares[label - 1][box].astype(np.float32) / 255.0
    steps = max(1, round(GAP_MM / 2 / grid.spacing_mm.y))
    whole = np.maximum(share, ndimage.binary_closing(share >= 0.5, iterations=steps))
    places = np.argwhere(share >= 0.5)
    if towards_zyx is None:
        fixed = places.mean(axis=0)
    else:
        away = places + [span.start for span in box] - towards_zyx
        # In one slice the farthest voxel would be an end of the lung.
        away[:, 0] *= 1.0 if nearest else 0.0
        distance = (away**2).sum(axis=1)
        fixed = places[distance.argmin() if nearest else distance.argmax()]
        if not nearest:
            fixed = np.array([places[:, 0].mean(), *fixed[1:]])
    scale = (1.0 - lost) ** (1 / 3)
    offset = fixed * (1.0 - 1.0 / scale)

    def shrunk(values: Field) -> Field:
        moved = ndimage.affine_transform(values, [1.0 / scale] * 3, offset, order=1)
        return np.asarray(moved, dtype=np.float32)

    lung = hu[box]
    there = shrunk(whole)
    tissue = np.where(share > 0.0, lung, AIRLESS_HU).astype(np.float32)
    squeezed = np.minimum((shrunk(tissue) + 1000.0) / np.float32(1.0 - lost) - 1000.0, AIRLESS_HU)
    content = there * squeezed + (1.0 - there) * np.float32(filling_hu)
    lung += whole * (content - lung)
    shares[label - 1][box] = np.rint(255.0 * np.minimum(shrunk(share), whole))


def collapse(label: int, portion: float, rng: np.random.Generator) -> Alter:
    """A part of one lung without air, on one side of a plane; it is still lung.

    Parameters
    ----------
    portion : share of the lung's volume
    """
    normal_zyx = rng.normal(0.0, 1.0, 3)
    normal_zyx /= np.linalg.norm(normal_zyx)
    airless_hu = float(rng.uniform(0.0, AIRLESS_HU))

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        box = _around(shares[label - 1], grid, 0.0)
        if box is None:
            return
        share = shares[label - 1][box].astype(np.float32) / 255.0
        z, y, x = (
            np.arange(n) * mm * part
            for n, mm, part in zip(share.shape, grid.spacing_mm.zyx, normal_zyx, strict=True)
        )
        height = z[:, None, None] + y[None, :, None] + x[None, None, :]
        level = np.quantile(height[share >= 0.5], 1.0 - portion)
        lobe = np.clip(0.5 + (height - level) / grid.spacing_mm.y, 0.0, 1.0).astype(np.float32)
        _mix(hu[box], lobe * share, np.float32(airless_hu))

    return alter


def tumours(diameters_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Alter:
    """Uneven balls of soft tissue in the lungs; they are still lung."""
    where = rng.random(len(diameters_mm))
    density_hu = rng.uniform(-20.0, 60.0, len(diameters_mm))
    waves = rng.normal(0.0, 1.0, (4, 3))

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        lungs = np.maximum(shares[LUNG_R - 1], shares[LUNG_L - 1])
        places = np.argwhere(lungs >= 200)
        if not len(places):
            return
        mm = np.array(grid.spacing_mm.zyx)
        for diameter_mm, at, value in zip(diameters_mm, where, density_hu, strict=True):
            middle = places[int(at * len(places))]
            reach = np.ceil(0.75 * diameter_mm / mm).astype(int) + 1
            low = np.maximum(middle - reach, 0)
            high = np.minimum(middle + reach + 1, lungs.shape)
            box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
            axes = np.ogrid[box]
            off = [(axis - m) * step for axis, m, step in zip(axes, middle, mm, strict=True)]
            uneven = sum(
                np.sin(4.0 / diameter_mm * sum(w * d for w, d in zip(wave, off, strict=True)))
                for wave in waves
            )
            distance = np.sqrt(sum(d * d for d in off)) - diameter_mm / 2 * (1.0 + 0.08 * uneven)
            ball = np.clip(0.5 - distance / mm[1], 0.0, 1.0) * (lungs[box] / 255.0)
            _mix(hu[box], ball.astype(np.float32), np.float32(value))

    return alter


def consolidation(lung_hu: float, rng: np.random.Generator) -> Alter:
    """Both lungs diffusely denser, in patches, with the given mean."""
    seed = int(rng.integers(1 << 30))

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        lungs = np.maximum(shares[LUNG_R - 1], shares[LUNG_L - 1])
        box = _around(lungs, grid, 0.0)
        if box is None:
            return
        share = lungs[box].astype(np.float32) / 255.0
        coarse = np.random.default_rng(seed).standard_normal([max(3, n // 5) for n in share.shape])
        factors = [n / m for n, m in zip(share.shape, coarse.shape, strict=True)]
        patches = ndimage.zoom(
            ndimage.gaussian_filter(coarse, 0.8).astype(np.float32),
            factors,
            order=1,
            grid_mode=True,
            mode="nearest",
        )
        patches *= 90.0 / max(float(patches.std()), 1e-6)
        _mix(hu[box], share, np.minimum(lung_hu + patches, AIRLESS_HU).astype(np.float32))

    return alter


def metal(
    rods: list[tuple[PointXyzMm, PointXyzMm, float, float]],
    streaks_hu: float,
    rng: np.random.Generator,
) -> Alter:
    """Pins, tags or screws, and the streaks that radiate from them in their slices.

    Parameters
    ----------
    rods : start and end (LPS mm from the heart), radius (mm) and HU of each
    streaks_hu : amplitude 2 mm away from the metal
    """
    rays = ndimage.gaussian_filter1d(rng.standard_normal((2, 720)), 3.0, axis=1, mode="wrap")
    rays *= streaks_hu / rays.std()

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        canvas = scanner_canvas(grid, hu, (0.0, 0.0, 0.0))
        for start, end, radius_mm, value in rods:
            paint_rod(canvas, start, end, radius_mm, value)
        solid = hu > METAL_HU
        streaks = np.zeros_like(hu)
        for k in np.flatnonzero(solid.any(axis=(1, 2))):
            found, _ = ndimage.label(solid[k])
            for number in range(1, int(found.max()) + 1):
                row, column = np.argwhere(found == number).mean(axis=0)
                y = (np.arange(grid.rows)[:, None] - row) * grid.spacing_y_mm
                x = (np.arange(grid.columns)[None, :] - column) * grid.spacing_x_mm
                angle = ((np.arctan2(y, x) / np.pi + 1.0) * 359.9).astype(int)
                turn = (k % 24) / 24.0
                ray = (1.0 - turn) * rays[0] + turn * rays[1]
                streaks[k] += (ray[angle] * 4.0 / (np.hypot(y, x) + 2.0)).astype(np.float32)
        # A cone of rays carries them into the slices beside.
        spread = ndimage.gaussian_filter1d(streaks, CONE_MM / grid.spacing_mm.z, axis=0)
        hu += np.where(solid, np.float32(0.0), streaks + spread)
        np.maximum(hu, AIR_HU, out=hu)
        shares[:, solid] = 0

    return alter


def doubled(moved_zyx_mm: npt.NDArray[np.float64], portion: float) -> Alter:
    """A second picture of the animal, moved, laid over the first, which is the truth."""

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        del shares
        steps = [way / mm for way, mm in zip(moved_zyx_mm, grid.spacing_mm.zyx, strict=True)]
        _mix(hu, np.float32(portion), ndimage.shift(hu, steps, order=1, mode="nearest"))

    return alter


def limb(radius_mm: float, bones: int, rng: np.random.Generator) -> Alter:
    """A person's forearm or thigh in place of everything: skin, fat, muscle, one or two bones."""
    tilt = rng.normal(0.0, 0.12, 2)
    fat_mm = float(rng.uniform(2.0, 7.0))
    bone_hu = float(rng.uniform(900.0, 1700.0))
    aside = float(rng.uniform(0.3, 0.42)) if bones > 1 else float(rng.uniform(0.0, 0.2))
    turn = float(rng.uniform(0.0, 2 * np.pi))

    def alter(hu: Field, shares: Shares, grid: Grid) -> None:
        z, y, x = (
            (np.arange(n) - (n - 1) / 2) * mm
            for n, mm in zip(grid.shape_zyx, grid.spacing_mm.zyx, strict=True)
        )
        across = x[None, None, :] - tilt[0] * z[:, None, None]
        down = y[None, :, None] - tilt[1] * z[:, None, None]
        shares[...] = 0
        hu[...] = AIR_HU

        def fill(at: tuple[float, float], radius: float, value: float) -> None:
            distance = np.hypot(across - at[0], 1.1 * (down - at[1])) - radius
            share = np.clip(0.5 - distance / grid.spacing_mm.y, 0.0, 1.0)
            _mix(hu, share.astype(np.float32), np.float32(value))

        fill((0.0, 0.0), radius_mm, 20.0)
        fill((0.0, 0.0), radius_mm - 1.5, -100.0)
        fill((0.0, 0.0), radius_mm - 1.5 - fat_mm, 55.0)
        for side in range(bones):
            angle = turn + np.pi * side
            at = (aside * radius_mm * np.cos(angle), aside * radius_mm * np.sin(angle))
            thick = radius_mm * (0.24 if bones > 1 else 0.4)
            fill(at, thick, bone_hu)
            fill(at, 0.55 * thick, -30.0)

    return alter


def _mix(hu: Field, share: Field | np.float32, value: Field | np.float32) -> None:
    """Let a share of each voxel have another value."""
    hu += share * (value - hu)


def _middle(share: Shares) -> npt.NDArray[np.float64] | None:
    """The mean place of an organ's voxels (z, y, x), if the field shows it."""
    box = occupied_box(share)
    places = np.argwhere(share[box] >= 128)
    if not len(places):
        return None
    return np.asarray(places.mean(axis=0) + [span.start for span in box])


def _around(share: Shares, grid: Grid, margin_mm: float) -> Box | None:
    """The box of an organ with a margin, if the field shows it."""
    box = occupied_box(share)
    if box[0].stop == 0:
        return None
    spans = [
        slice(max(0, span.start - round(margin_mm / mm)), min(n, span.stop + round(margin_mm / mm)))
        for span, n, mm in zip(box, share.shape, grid.spacing_mm.zyx, strict=True)
    ]
    return (spans[0], spans[1], spans[2])
