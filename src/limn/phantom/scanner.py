"""Simulates image formation: from ideal attenuation to the CT of a micro-CT scanner.

`canvas` has applied the partial volume. This module adds the artefacts in the order in which they
arise: breathing, beam hardening, point spread, streaks, rings, noise, truncation, and errors of the
HU calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ, Volume
from limn.phantom.anatomy import LUNG_L, LUNG_R, TRUTH_LABELS, Mouse
from limn.phantom.body import labels_of, paint
from limn.phantom.canvas import Field

# Changes ideal attenuation (z, y, x) and shares (organ, z, y, x), see `body.paint`, in place.
Alter: TypeAlias = Callable[[Field, npt.NDArray[np.uint8], Grid], None]

AIR_HU = -1000.0
BONE_HU = 350.0
# Width of the low-pass filter for the broad shading of beam hardening.
SHADE_MM = 1.2


@dataclass(frozen=True, slots=True)
class Scanner:
    """One micro-CT and its settings.

    Attributes
    ----------
    spacing_mm : voxel spacing
    shape_zyx : voxels of the field of view
    centre_xyz_mm : middle of the field of view; 0 0 0 is the middle of the heart
    blur_mm : standard deviation of the point spread function
    noise_hu : standard deviation of the noise in soft tissue
    grain_mm : correlation length of the noise
    breathing_mm : travel of the diaphragm during the scan
    hardening_hu : amplitude of cupping, and of shadows between bones
    rings_hu, streaks_hu : amplitudes
    truncation_mm : radius of the reconstructed cylinder; None if it covers the field of view
    offset_hu, scale : deviation of its HU from calibrated ones
    """

    spacing_mm: SpacingMm
    shape_zyx: tuple[int, int, int]
    centre_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    blur_mm: float = 0.12
    noise_hu: float = 45.0
    grain_mm: float = 0.1
    breathing_mm: float = 0.0
    hardening_hu: float = 0.0
    rings_hu: float = 0.0
    streaks_hu: float = 0.0
    truncation_mm: float | None = None
    offset_hu: float = 0.0
    scale: float = 1.0


def random_scanner(seed: int, spacing_mm: float, shape_zyx: tuple[int, int, int]) -> Scanner:
    """Random settings, as they vary between makes, sites and days."""
    rng = np.random.default_rng([seed, 12])
    cut = rng.random() < 0.12

    def sometimes(chance: float, low: float, high: float) -> float:
        return float(rng.uniform(low, high)) if rng.random() < chance else 0.0

    return Scanner(
        spacing_mm=SpacingMm(spacing_mm, spacing_mm, spacing_mm),
        shape_zyx=shape_zyx,
        centre_xyz_mm=(
            float(rng.uniform(-2.0, 2.0)),
            float(rng.uniform(-2.0, 2.0)),
            float(rng.uniform(-4.0, 2.0)),
        ),
        blur_mm=float(rng.uniform(0.06, 0.22)),
        noise_hu=float(np.exp(rng.uniform(np.log(12.0), np.log(110.0)))),
        grain_mm=float(rng.uniform(0.03, 0.25)),
        breathing_mm=sometimes(0.7, 0.1, 1.0),
        hardening_hu=sometimes(0.6, 10.0, 90.0),
        rings_hu=sometimes(0.4, 5.0, 60.0),
        streaks_hu=sometimes(0.4, 10.0, 80.0),
        truncation_mm=float(rng.uniform(11.0, 15.0)) if cut else None,
        offset_hu=float(np.clip(rng.normal(-20.0, 70.0), -200.0, 200.0)),
        scale=float(np.exp(rng.normal(0.0, 0.08))),
    )


def scan(
    mouse: Mouse, scanner: Scanner, seed: int, organs: Mapping[int, Organ] = TRUTH_LABELS
) -> tuple[Volume, Labels]:
    """Simulate a CT volume of the mouse and its truth, on the scanner's grid (axes S, P, L).

    Parameters
    ----------
    organs : `anatomy.TRUTH_LABELS`, or `anatomy.WHOLE_LABELS` for those of the whole body
    """
    volume, shares = expose(mouse, scanner, seed, organs=len(organs))
    return volume, Labels(labels_of(shares), volume.grid, organs)


def expose(
    mouse: Mouse,
    scanner: Scanner,
    seed: int,
    alter: Alter | None = None,
    organs: int = len(TRUTH_LABELS),
) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """Like `scan`, with the truth as shares of voxels (see `body.paint`).

    Parameters
    ----------
    alter : changes the painted animal before breathing, blur and noise
    organs : how many of `anatomy.WHOLE_LABELS` the truth has
    """
    grid = _field(scanner)
    hu, shares = paint(mouse, grid, organs)
    if alter is not None:
        alter(hu, shares, grid)
    rng = np.random.default_rng([seed, 13])
    spacing = scanner.spacing_mm.zyx
    if scanner.breathing_mm:
        _breathe(hu, shares, scanner, rng)
    if scanner.hardening_hu:
        hu += _hardening(hu, spacing, scanner.hardening_hu)
    ndimage.gaussian_filter(hu, [scanner.blur_mm / mm for mm in spacing], output=hu)
    if scanner.streaks_hu:
        hu += streaks(hu, scanner.streaks_hu, rng)
    if scanner.rings_hu:
        hu += _rings(hu.shape, spacing, scanner.rings_hu, rng)
    hu += _noise(rng, hu, scanner)
    hu = (hu + 1000.0) * np.float32(scanner.scale) - 1000.0 + np.float32(scanner.offset_hu)
    if scanner.truncation_mm is not None:
        _truncate(hu, spacing, scanner.truncation_mm)
    return Volume(np.round(hu).astype(np.float32), grid), shares


def _field(scanner: Scanner) -> Grid:
    half = [
        (n - 1) * mm / 2 for n, mm in zip(scanner.shape_zyx, scanner.spacing_mm.zyx, strict=True)
    ]
    first_voxel_xyz_mm = np.array(scanner.centre_xyz_mm) - np.array(half[::-1])
    return axial_grid(scanner.shape_zyx, scanner.spacing_mm, first_voxel_xyz_mm)


def _breathe(
    hu: Field, shares: npt.NDArray[np.uint8], scanner: Scanner, rng: np.random.Generator
) -> None:
    """Blur along the body near diaphragm and lungs: both ends of a breath in one image.

    The truth is the state that dominates the reconstruction: the end of expiration.
    """
    lung_z = np.flatnonzero(shares[LUNG_R - 1 : LUNG_L].any(axis=(0, 2, 3)))
    if not len(lung_z):
        return
    mm = scanner.spacing_mm.z
    low, high = max(0, lung_z[0] - round(3 / mm)), lung_z[-1]
    weight = np.zeros(hu.shape[0], dtype=np.float32)
    ramp = np.linspace(1.0, 0.0, max(2, high - low))
    weight[low : low + len(ramp)] = ramp[: len(weight) - low]
    shift = max(1, round(scanner.breathing_mm / mm))
    other = np.roll(hu, -shift, axis=0)
    other[-shift:] = hu[-shift:]
    share = np.float32(rng.uniform(0.1, 0.35))
    hu += share * weight[:, None, None] * (other - hu)


def _hardening(hu: Field, spacing: tuple[float, float, float], amplitude_hu: float) -> Field:
    """Cupping within the animal, and dark bands between the bones of a slice, HU."""
    body = ndimage.gaussian_filter(
        (hu > -300.0).astype(np.float32), [0, *(5.0 / mm for mm in spacing[1:])]
    )
    bone = np.clip((hu - BONE_HU) / 1000.0, 0.0, 2.0)
    sigma = [SHADE_MM / mm for mm in spacing[1:]]
    across = ndimage.gaussian_filter1d(bone.mean(axis=2), sigma[0], axis=1)[:, :, None]
    down = ndimage.gaussian_filter1d(bone.mean(axis=1), sigma[1], axis=1)[:, None, :]
    shadow = across + down
    shadow = shadow / max(float(np.percentile(shadow, 99)), 1e-6)
    inside = np.clip((hu + 1000.0) / 1000.0, 0.0, 1.0)
    return np.asarray(
        -np.float32(amplitude_hu) * inside * (0.6 * body + 0.4 * shadow), dtype=np.float32
    )


def streaks(hu: Field, amplitude_hu: float, rng: np.random.Generator) -> Field:
    """Lines through the densest voxels, over a few slices each: (z, y, x) HU to be added."""
    depth, rows, columns = hu.shape
    out = np.zeros_like(hu)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    for _ in range(int(rng.integers(2, 8))):
        k = int(rng.integers(depth))
        flat = hu[k]
        dense = np.argwhere(flat >= np.percentile(flat, 99.7))
        row, column = dense[int(rng.integers(len(dense)))]
        for _ in range(int(rng.integers(1, 5))):
            angle = float(rng.uniform(0, np.pi))
            off = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
            line = np.exp(-((off / float(rng.uniform(0.8, 2.5))) ** 2) / 2)
            sign = float(rng.choice([-1.0, 1.0])) * amplitude_hu * float(rng.uniform(0.4, 1.0))
            long = int(rng.integers(1, 9))
            out[max(0, k - long) : k + long + 1] += (sign * line).astype(np.float32)
    return out


def _rings(
    shape: tuple[int, ...],
    spacing: tuple[float, float, float],
    amplitude_hu: float,
    rng: np.random.Generator,
) -> Field:
    """Rings about the axis of rotation, whose amplitude varies along it, HU."""
    rows, columns = shape[1:]
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    centre = np.array([rows, columns]) / 2 + rng.normal(0.0, 2.0, 2) / np.array(spacing[1:])
    radius = np.hypot(y - centre[0], x - centre[1])
    profile = np.zeros(int(radius.max()) + 2, dtype=np.float32)
    for _ in range(int(rng.integers(3, 20))):
        profile[int(rng.integers(len(profile)))] += float(rng.normal(0.0, 1.0))
    profile = ndimage.gaussian_filter1d(profile, 0.5)
    peak = max(float(np.abs(profile).max()), 1e-6)
    low = radius.astype(int)
    part = radius - low
    flat = profile[low] * (1 - part) + profile[np.minimum(low + 1, len(profile) - 1)] * part
    along = ndimage.gaussian_filter1d(rng.standard_normal(shape[0]), 8.0)
    along = 1.0 + 0.5 * along / max(float(np.abs(along).max()), 1e-6)
    return np.asarray((amplitude_hu / peak * along[:, None, None] * flat[None]), dtype=np.float32)


def _noise(rng: np.random.Generator, hu: Field, scanner: Scanner) -> Field:
    """Band-pass noise, stronger in denser surroundings, HU."""
    white = rng.standard_normal(hu.shape, dtype=np.float32)
    sigma = [scanner.grain_mm / mm for mm in scanner.spacing_mm.zyx]
    grainy = ndimage.gaussian_filter(white, sigma)
    grainy -= ndimage.gaussian_filter(grainy, [2.0 + 2.5 * s for s in sigma])
    grainy *= scanner.noise_hu / max(float(grainy.std()), 1e-9)
    dense = ndimage.uniform_filter(np.clip((hu + 1000.0) / 1000.0, 0.0, 1.3), 9)
    return np.asarray(grainy * (0.55 + 0.45 * dense), dtype=np.float32)


def _truncate(hu: Field, spacing: tuple[float, float, float], radius_mm: float) -> None:
    """Keep a reconstructed cylinder: brighter at its rim, air outside."""
    rows, columns = hu.shape[1:]
    y = (np.arange(rows) - rows / 2) * spacing[1]
    x = (np.arange(columns) - columns / 2) * spacing[2]
    radius = np.hypot(y[:, None], x[None, :])
    rim = 250.0 * np.exp(-np.maximum(radius_mm - radius, 0.0) / 0.8)
    hu += (rim * (hu.mean(axis=0) > -700.0)).astype(np.float32)
    hu[:, radius > radius_mm] = AIR_HU
