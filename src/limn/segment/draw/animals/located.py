"""One animal of a scan, and the scan as it would be with that animal alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limn.domain.scan import Box, Volume
from limn.segment.draw.hounsfield import AIR_HU, Calibration, Peaks
from limn.segment.engine.localisation.region import Region


@dataclass(frozen=True, slots=True)
class Place:
    """Which animal of a field it is.

    Attributes
    ----------
    number : from 1, along z, then y, then x in patient coordinates; see `Field.in_order`
    of : how many whole animals are in the field
    middle_xyz_mm : middle of its trunk, patient coordinates
    cut : how many more animals the field's edge cuts off
    """

    number: int
    of: int
    middle_xyz_mm: tuple[float, float, float]
    cut: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """A scan of which one animal counts.

    Attributes
    ----------
    scan : in HU, with every animal
    animals : how many are in the field
    coarse_spl : (z, y, x) HU of the whole scan turned to S, P, L by its header, on voxels of
        `coarse.COARSE_MM`; air where other animals are
    around : the box of the coarse picture that holds the animal that counts
    others_zyx : along the scan's own axes, which blocks of voxels belong to other animals; None if
        there are none
    peaks : of air and soft tissue in the scan's own numbers
    calibration : how the scan's numbers became HU; None if they were HU
    place : which of several it is; None if nobody asked
    """

    scan: Volume
    animals: int
    coarse_spl: npt.NDArray[np.float32]
    around: Region
    peaks: Peaks
    others_zyx: npt.NDArray[np.bool_] | None = None
    calibration: Calibration | None = None
    place: Place | None = None

    @property
    def volume(self) -> Volume:
        """The whole scan in HU with air where the other animals are; the scan itself if it can."""
        z, y, x = (slice(0, n) for n in self.scan.grid.shape_zyx)
        return self.part((z, y, x))

    def part(self, box: Box) -> Volume:
        """A box of the scan in HU with air where the other animals are."""
        grid = self.scan.grid.part(box)
        if self.others_zyx is None and grid is self.scan.grid:
            return self.scan
        hu = self.scan.hu_zyx[box]
        if self.others_zyx is None:
            return Volume(hu, grid)
        places = [
            np.arange(span.start, span.stop) * blocks // voxels
            for span, blocks, voxels in zip(
                box, self.others_zyx.shape, self.scan.grid.shape_zyx, strict=True
            )
        ]
        blank = self.others_zyx[np.ix_(*places)]
        return Volume(np.where(blank, np.float32(AIR_HU), hu), grid)
