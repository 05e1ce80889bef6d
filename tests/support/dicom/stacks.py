"""The same mouse lying and sliced in every way, for tests of geometry."""

from pathlib import Path

import numpy as np

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import Grid, SpacingMm
from limn.domain.scan import Labels, Volume


def write(volume: Volume, folder: Path, position: str, number: str) -> Path:
    """The stack as a DICOM series."""
    folder.mkdir(parents=True)
    identity = CtIdentity(
        "M1", f"2.25.88.{number}", ("20260101", "120000"), patient_position=position
    )
    for k, ds in enumerate(ct_instances(volume, identity)):
        ds.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)
    return folder


def squeezed(volume: Volume, labels: Labels, spacing_mm: SpacingMm) -> tuple[Volume, Labels]:
    """The same voxels with another spacing: an anisotropic mouse."""
    grid = volume.grid
    origins = grid.slice_origins_xyz_mm.copy()
    origins[:, 2] = origins[0, 2] + np.arange(len(origins)) * spacing_mm.z
    other = Grid(
        slice_origins_xyz_mm=origins,
        rows=grid.rows,
        columns=grid.columns,
        spacing_y_mm=spacing_mm.y,
        spacing_x_mm=spacing_mm.x,
        along_x_xyz=grid.along_x_xyz,
        along_y_xyz=grid.along_y_xyz,
    )
    return Volume(volume.hu_zyx, other), Labels(labels.labels_zyx, other, labels.organs)
