"""Makes a CT series of an image of another format: a structure set refers to one.

Its UIDs follow from all that the series says, so that the same image of the same animal gives the
same series, byte for byte, and another one gives another (D-237).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.rtstruct import LO_CHARACTERS
from limn.dicom.series import axial_position
from limn.dicom.uids import uid_from
from limn.domain.one_line import one_line
from limn.domain.scan import Volume

# Of the CT series that is made of an image.
SLICES = "ct_[0-9][0-9][0-9][0-9].dcm"


def write_image_series(
    volume: Volume, folder: Path, animal: str, description: str, when: tuple[str, str]
) -> Iterator[Path]:
    """Write one CT image for each slice of an image, in place of those of an earlier series.

    An image seldom tells of the animal, the tube and the bed, so the series never does.

    Parameters
    ----------
    when : DICOM date and time; empty if nobody knows them
    """
    grid = volume.grid
    identity = CtIdentity(
        animal=one_line(animal)[:LO_CHARACTERS],
        uid_root="",
        when=when,
        patient_position=axial_position([*grid.along_x_xyz, *grid.along_y_xyz]),
        description=one_line(description)[:LO_CHARACTERS],
        sex="",
        tube_kv="",
        model="image file",
    )
    # Whatever a file of the series says is in its UIDs.
    digest = hashlib.sha256(f"{identity}|{grid.spacing_mm}|{grid.shape_zyx}".encode())
    for array in (volume.hu_zyx, grid.slice_origins_xyz_mm, grid.along_x_xyz, grid.along_y_xyz):
        digest.update(np.ascontiguousarray(array).tobytes())
    identity = replace(identity, uid_root=uid_from(f"image file|{digest.hexdigest()}"))
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob(SLICES):
        earlier.unlink()
    for number, ds in enumerate(ct_instances(volume, identity), start=1):
        path = folder / f"ct_{number:04d}.dcm"
        # No link that others put here is followed.
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            ds.save_as(file, enforce_file_format=True)
        yield path
