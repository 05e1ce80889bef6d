"""Image formation: from ideal tissue to what a micro-CT writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.phantom.anatomy import TRUTH_LABELS, Mouse, paint

# Tissue is painted this much finer than the scanner's voxel along each axis.
FINER = 2


@dataclass(frozen=True, slots=True)
class Scanner:
    """One micro-CT and its settings.

    Attributes
    ----------
    spacing_mm : voxel spacing
    shape_zyx : voxels of the field of view
    centre_xyz_mm : where its middle lies in the animal; 0 0 0 is the middle of the thorax
    blur_mm : standard deviation of the point spread function
    noise_hu : standard deviation of the noise in soft tissue
    offset_hu, scale : how far its HU are from calibrated ones
    """

    spacing_mm: SpacingMm
    shape_zyx: tuple[int, int, int]
    centre_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    blur_mm: float = 0.12
    noise_hu: float = 45.0
    offset_hu: float = 0.0
    scale: float = 1.0


def random_scanner(seed: int, spacing_mm: float, shape_zyx: tuple[int, int, int]) -> Scanner:
    """Settings as they differ between sites and days."""
    rng = np.random.default_rng([seed, 2])
    return Scanner(
        spacing_mm=SpacingMm(spacing_mm, spacing_mm, spacing_mm),
        shape_zyx=shape_zyx,
        centre_xyz_mm=(
            float(rng.uniform(-2.0, 2.0)),
            float(rng.uniform(-2.0, 2.0)),
            float(rng.uniform(-4.0, 4.0)),
        ),
        blur_mm=float(rng.uniform(0.08, 0.22)),
        noise_hu=float(rng.uniform(25.0, 85.0)),
        offset_hu=float(rng.uniform(-60.0, 40.0)),
        scale=float(rng.uniform(0.92, 1.06)),
    )


def scan(mouse: Mouse, scanner: Scanner, seed: int) -> tuple[Volume, Labels]:
    """A CT volume of the mouse and its truth, on the scanner's grid (axes S, P, L)."""
    fine_spacing = SpacingMm(*(mm / FINER for mm in scanner.spacing_mm.zyx))
    fine_shape = (
        scanner.shape_zyx[0] * FINER,
        scanner.shape_zyx[1] * FINER,
        scanner.shape_zyx[2] * FINER,
    )
    hu_fine, labels_fine = paint(mouse, _field(fine_shape, fine_spacing, scanner.centre_xyz_mm))
    grid = _field(scanner.shape_zyx, scanner.spacing_mm, scanner.centre_xyz_mm)
    hu = _coarsen(hu_fine)
    rng = np.random.default_rng([seed, 3])
    blur = [scanner.blur_mm / mm for mm in scanner.spacing_mm.zyx]
    ndimage.gaussian_filter(hu, blur, output=hu)
    hu += _noise(rng, hu.shape, scanner.noise_hu)
    hu = (hu + 1000.0) * np.float32(scanner.scale) - 1000.0 + np.float32(scanner.offset_hu)
    return (
        Volume(np.round(hu).astype(np.float32), grid),
        Labels(_majority(labels_fine), grid, TRUTH_LABELS),
    )


def _field(
    shape_zyx: tuple[int, int, int],
    spacing_mm: SpacingMm,
    centre_xyz_mm: tuple[float, float, float],
) -> Grid:
    half = [(n - 1) * mm / 2 for n, mm in zip(shape_zyx, spacing_mm.zyx, strict=True)]
    first_voxel_xyz_mm = np.array(centre_xyz_mm) - np.array(half[::-1])
    return axial_grid(shape_zyx, spacing_mm, first_voxel_xyz_mm)


def _blocks(array_zyx: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    z, y, x = (n // FINER for n in array_zyx.shape)
    return array_zyx.reshape(z, FINER, y, FINER, x, FINER)


def _coarsen(hu_fine: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Partial volume: the mean of the finer voxels."""
    return np.asarray(_blocks(hu_fine).mean(axis=(1, 3, 5)), dtype=np.float32)


def _majority(labels_fine: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The organ that fills at least half of a voxel."""
    z, y, x = (n // FINER for n in labels_fine.shape)
    labels = np.zeros((z, y, x), dtype=np.uint8)
    for label in TRUTH_LABELS:
        share = _blocks((labels_fine == label).astype(np.float32)).mean(axis=(1, 3, 5))
        labels[share >= 0.5] = label
    return labels


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], noise_hu: float
) -> npt.NDArray[np.float32]:
    """Noise with the short-range correlation that reconstruction leaves."""
    white = rng.standard_normal(shape, dtype=np.float32)
    grainy = ndimage.gaussian_filter(white, 0.6)
    return np.asarray(grainy * (noise_hu / float(grainy.std())), dtype=np.float32)
