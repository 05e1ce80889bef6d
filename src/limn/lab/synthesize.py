"""Phantoms to DICOM series, NIfTI and truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.errors import ConfigWrong
from limn.domain.geometry import Grid, SpacingMm
from limn.domain.scan import Labels
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan

# UIDs of phantoms lie below this one; the seed and the field of view follow.
UID_ROOT = "2.25.282828282828282828"


@dataclass(frozen=True, slots=True, eq=False)
class Synthesized:
    """A phantom on disk.

    Attributes
    ----------
    series_dir : folder of DICOM files
    truth : labels on the grid of the series
    """

    series_dir: Path
    truth: Labels
    slices: int


def synthesize(
    folder: Path,
    seed: int,
    *,
    spacing_mm: float,
    size_mm: tuple[float, float, float],
    neighbour: bool = False,
) -> Synthesized:
    """Write ``dicom/``, ``ct.nii.gz`` and ``truth.nii.gz`` of one phantom mouse.

    Parameters
    ----------
    size_mm : field of view, z y x
    neighbour : a second animal lies beside the first
    """
    series_dir = folder / "dicom"
    if spacing_mm <= 0 or min(size_mm) < 4 * spacing_mm:
        msg = f"spacing {spacing_mm} mm, size {size_mm} mm: at least 4 voxels a side expected"
        raise ConfigWrong(msg)
    try:
        series_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: {error.strerror}; give a folder"
        raise ConfigWrong(msg) from error
    if any(series_dir.iterdir()):
        msg = f"{series_dir} is not empty; two animals would mix, give another folder"
        raise ConfigWrong(msg)
    z, y, x = (round(mm / spacing_mm) for mm in size_mm)
    shape = (z, y, x)
    mouse = conceive(seed, neighbour=neighbour)
    scanner = Scanner(SpacingMm(spacing_mm, spacing_mm, spacing_mm), shape)
    volume, truth = scan(mouse, scanner, seed)
    identity = CtIdentity(
        animal=f"PHANTOM-{seed}",
        uid_root=f"{UID_ROOT}.{seed}.{round(spacing_mm * 1000)}.{z}.{y}.{x}.{int(neighbour)}",
        when=("20260101", "120000"),
    )
    for k, ds in enumerate(ct_instances(volume, identity)):
        ds.save_as(series_dir / f"ct_{k + 1:04d}.dcm", enforce_file_format=True)
    SimpleITK.WriteImage(to_image(volume.hu_zyx, volume.grid), str(folder / "ct.nii.gz"))
    SimpleITK.WriteImage(to_image(truth.labels_zyx, truth.grid), str(folder / "truth.nii.gz"))
    return Synthesized(series_dir, truth, z)


def to_image(array_zyx: np.ndarray, grid: Grid) -> SimpleITK.Image:
    """An array on its grid, for NIfTI."""
    image = SimpleITK.GetImageFromArray(array_zyx)
    spacing = grid.spacing_mm
    image.SetSpacing((spacing.x, spacing.y, spacing.z))
    image.SetOrigin([float(v) for v in grid.slice_origins_xyz_mm[0]])
    directions = np.column_stack((grid.along_x_xyz, grid.along_y_xyz, grid.normal_xyz))
    image.SetDirection([float(v) for v in directions.ravel()])
    return image
