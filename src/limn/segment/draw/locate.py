"""Finds the animals in the field, so that all organs come from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import Reorientation
from limn.domain.scan import Box, Volume
from limn.segment.engine.localisation.coarse import block_means, coarse

ChoiceRule = Literal["largest", "central", "refuse"]

# Coarse enough to be quick, fine enough for a mouse.
BLOCK_MM = 0.6
# Everything denser than this counts as animal or bed, lung (-620 HU) included.
TISSUE_HU = -750.0
# Beds, tubes and limbs are thinner than twice this; thorax and belly are thicker.
CORE_DEPTH_MM = 3.0
# A core smaller than this share of the largest is no second animal.
MIN_SHARE = 0.2
AIR_HU = -1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Others:
    """Where the other animals are: blocks of voxels that count as air.

    Attributes
    ----------
    blocks_zyx : (z, y, x) bool, along the scan's own axes
    factors : voxels of a block along each axis; a rest at the end belongs to the last block
    """

    blocks_zyx: npt.NDArray[np.bool_]
    factors: tuple[int, ...]

    def at(self, places: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
        """Whether voxels with these indices along z, y, x belong to another animal."""
        return np.asarray(
            self.blocks_zyx[
                np.ix_(
                    *(
                        np.minimum(own // factor, count - 1)
                        for own, factor, count in zip(
                            places, self.factors, self.blocks_zyx.shape, strict=True
                        )
                    )
                )
            ]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """A scan of which one animal counts.

    Attributes
    ----------
    scan : as it was scanned
    animals : how many are in the field
    others : where the animals are that don't count; None if there are none
    """

    scan: Volume
    animals: int
    others: Others | None = None

    @property
    def volume(self) -> Volume:
        """The whole scan with air where the other animals are; a copy if there are some."""
        z, y, x = (slice(0, n) for n in self.scan.grid.shape_zyx)
        return self.part((z, y, x))

    def part(self, box: Box) -> Volume:
        """A box of the scan with air where the other animals are."""
        grid = self.scan.grid.part(box)
        if self.others is None:
            return self.scan if grid is self.scan.grid else Volume(self.scan.hu_zyx[box], grid)
        blank = self.others.at([np.arange(span.start, span.stop) for span in box])
        hu = np.where(blank, np.float32(AIR_HU), self.scan.hu_zyx[box])
        return Volume(hu, grid)

    def coarse(self) -> npt.NDArray[np.float32]:
        """The scan turned to S, P, L on voxels of `COARSE_MM`, air where other animals are."""
        grid = self.scan.grid
        picture = coarse(self.scan.hu_zyx, grid.spacing_mm)
        if self.others is not None:
            places = [
                ((np.arange(n) + 0.5) / n * own).astype(np.int64)
                for n, own in zip(picture.shape, grid.shape_zyx, strict=True)
            ]
            picture[self.others.at(places)] = AIR_HU
        return Reorientation.between(grid.axis_letters, "SPL").apply(picture)


def keep_one_animal(volume: Volume, rule: ChoiceRule) -> Located:
    """Count the animals in the field, and find where all but one are.

    Parameters
    ----------
    rule : "largest" body, the "central" one, or "refuse" the series

    Raises
    ------
    RefusedSeries
        If there are several animals and the site's rule is to refuse.
    """
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    own_mm = volume.grid.spacing_mm.zyx
    factors = tuple(
        max(1, min(n, round(BLOCK_MM / mm)))
        for n, mm in zip(volume.hu_zyx.shape, own_mm, strict=True)
    )
    blocks = turn.apply(block_means(volume.hu_zyx, factors))
    block_mm = [own_mm[axis] * factors[axis] for axis in turn.axes]
    cores, count = _cores(blocks, block_mm)
    animals = _side_by_side(cores, count)
    if len(animals) < 2:
        return Located(volume, len(animals))
    if rule == "refuse":
        msg = (
            f"{len(animals)} animals in the field; set two_animals to "
            "'largest' or 'central' to contour one, or scan one at a time"
        )
        raise RefusedSeries(msg)
    chosen = _choose(cores, animals, rule)
    _, nearest = ndimage.distance_transform_edt(
        ~np.isin(cores, animals), sampling=block_mm, return_indices=True
    )
    others = cores[tuple(nearest)] != chosen
    return Located(volume, len(animals), Others(turn.undo(others), factors))


def _cores(
    coarse: npt.NDArray[np.float32], spacing_mm: list[float]
) -> tuple[npt.NDArray[np.int32], int]:
    """Numbered cores: tissue deeper below the surface than beds, tubes and limbs have any."""
    tissue = ndimage.binary_closing(coarse > TISSUE_HU, iterations=1)
    # Padding keeps the depth of an animal that the edge of the field cuts.
    depth = ndimage.distance_transform_edt(np.pad(tissue, 8, mode="edge"), sampling=spacing_mm)
    deep = depth[8:-8, 8:-8, 8:-8] > CORE_DEPTH_MM
    cores, count = ndimage.label(deep)
    return np.asarray(cores, dtype=np.int32), int(count)


def _side_by_side(cores: npt.NDArray[np.int32], count: int) -> list[int]:
    """The cores that are separate animals: large, and beside the largest one, not behind it."""
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    sizes[0] = 0
    if count == 0:
        return []
    largest = int(sizes.argmax())
    extent = {n: np.flatnonzero((cores == n).any(axis=(1, 2))) for n in range(1, count + 1)}
    animals = [largest]
    for n in range(1, count + 1):
        if n == largest or sizes[n] < MIN_SHARE * sizes[largest]:
            continue
        shared = len(np.intersect1d(extent[n], extent[largest]))
        if shared >= 0.5 * min(len(extent[n]), len(extent[largest])):
            animals.append(n)
    return animals


def _choose(cores: npt.NDArray[np.int32], animals: list[int], rule: ChoiceRule) -> int:
    if rule == "largest":
        return max(animals, key=lambda n: int((cores == n).sum()))
    middle = np.array(cores.shape) / 2

    def off_centre(n: int) -> float:
        return float(np.linalg.norm(np.argwhere(cores == n).mean(axis=0)[1:] - middle[1:]))

    return min(animals, key=off_centre)
