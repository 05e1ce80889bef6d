"""Toy mice: very small series; organs differ by density, animals by the shape of the organs."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import Grid
from limn.domain.scan import Volume
from tests.support.node.parts import encoded, write_slices
from tests.support.organs import Organ

SHAPE_ZYX = (20, 24, 32)
SPACING_MM = 0.75
# Centre (z, y, x) and radius of an organ in voxels, and its density in HU.
ORGANS = {
    Organ.HEART: ((9.5, 8, 18), 3.0, 300.0),
    Organ.CORD: ((9.5, 19, 16), 2.0, 500.0),
    Organ.LUNG_R: ((9.5, 12, 8), 4.6, -500.0),
    Organ.LUNG_L: ((9.5, 12, 25), 3.8, -600.0),
}
BAND_HU = 40.0


@dataclass(frozen=True)
class Toy:
    """One animal's series."""

    animal: str
    datasets: tuple[FileDataset, ...]

    @property
    def uids(self) -> set[str]:
        """SOP Instance UIDs of its slices."""
        return {str(ds.SOPInstanceUID) for ds in self.datasets}


def toy(number: int, *, root: str = "2.25.90") -> Toy:
    """The mouse of this number, the same to the last bit at every call."""
    rng = np.random.default_rng(number)
    z, y, x = np.ogrid[: SHAPE_ZYX[0], : SHAPE_ZYX[1], : SHAPE_ZYX[2]]
    hu_zyx = np.full(SHAPE_ZYX, -1000.0, dtype=np.float32)
    hu_zyx[:, 2:-2, 2:-2] = 40.0
    for organ, ((cz, cy, cx), radius, hu) in ORGANS.items():
        dz, dr = rng.uniform(-1, 1), rng.uniform(-0.8, 0.8)
        if "Lung" in organ:
            # The right lung stays the larger one, as in mice: limn looks at it.
            dr *= 0.3
        # No organ reaches the field's edge, where limn would say that it is cut.
        far = ((z - cz - dz) ** 2) / 3 + (y - cy) ** 2 + (x - cx) ** 2
        hu_zyx[far < (radius + dr) ** 2] = hu
    grid = Grid(
        slice_origins_xyz_mm=np.array([(0.0, 0.0, SPACING_MM * k) for k in range(SHAPE_ZYX[0])]),
        rows=SHAPE_ZYX[1],
        columns=SHAPE_ZYX[2],
        spacing_y_mm=SPACING_MM,
        spacing_x_mm=SPACING_MM,
        along_x_xyz=np.array([1.0, 0.0, 0.0]),
        along_y_xyz=np.array([0.0, 1.0, 0.0]),
    )
    animal = f"T{number:04d}"
    identity = CtIdentity(animal, f"{root}.{number + 1}", ("20260101", "120000"))
    made = ct_instances(Volume(hu_zyx, grid), identity)
    # As read from files, so that a sender has nothing to convert.
    return Toy(animal, tuple(pydicom.dcmread(io.BytesIO(encoded(ds))) for ds in made))


def write_toy(made: Toy, folder: Path) -> list[Path]:
    """Write its slices as files."""
    return write_slices(folder / made.animal, made.datasets)


def labelled(hu_zyx: np.ndarray, organs: dict[int, Organ]) -> np.ndarray:
    """(z, y, x) uint8 labels of a toy as a perfect network would give them."""
    labels = np.zeros(hu_zyx.shape, dtype=np.uint8)
    for label, organ in organs.items():
        labels[np.abs(hu_zyx - ORGANS[organ][2]) < BAND_HU] = label
    return labels


def slices_named_by(structure_set: Path) -> set[str]:
    """SOP Instance UIDs of every slice that a structure set's contours lie on."""
    ds = pydicom.dcmread(structure_set)
    return {
        str(image.ReferencedSOPInstanceUID)
        for roi in ds.ROIContourSequence
        for contour in roi.ContourSequence
        for image in contour.ContourImageSequence
    }


def slices_referenced_by(structure_set: Path) -> set[str]:
    """SOP Instance UIDs of every slice of the series that a structure set was drawn on."""
    ds = pydicom.dcmread(structure_set)
    return {
        str(image.ReferencedSOPInstanceUID)
        for frame in ds.ReferencedFrameOfReferenceSequence
        for study in frame.RTReferencedStudySequence
        for series in study.RTReferencedSeriesSequence
        for image in series.ContourImageSequence
    }
