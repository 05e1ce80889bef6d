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
from limn.domain.scan import Box, Volume, occupied_box
from limn.segment.draw.depth import deeper_than
from limn.segment.draw.hounsfield import (
    AIR_HU,
    BODY_HU,
    CalibrateRule,
    Calibration,
    Peaks,
    calibration,
    find_peaks,
    in_hu,
)
from limn.segment.engine.localisation.coarse import block_means, coarse
from limn.segment.engine.localisation.region import Region, ShapeZyx

ChoiceRule = Literal["largest", "central", "refuse"]

# Coarse enough to be quick, fine enough for the air between two mice that lie side by side.
BLOCK_MM = 0.6
# Beds, tubes and limbs are thinner than twice this; thorax and belly are thicker.
CORE_DEPTH_MM = 3.0
# So far around its cores an animal is looked at: its surface is 3 mm away, and the localiser learnt
# fields with air around the animal.
AROUND_MM = 12.0
# A core smaller than this share of the largest is no second animal.
MIN_SHARE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """A scan of which one animal counts.

    Attributes
    ----------
    scan : as it was scanned
    animals : how many are in the field
    coarse_spl : (z, y, x) HU of the whole scan turned to S, P, L by its header, on voxels of
        `coarse.COARSE_MM`; air where other animals are
    around : the box of the coarse picture that holds the animal that counts
    others_zyx : along the scan's own axes, which blocks of voxels belong to other animals; None if
        there are none
    peaks : of air and soft tissue in the scan's numbers
    calibration : how the scan's numbers become HU; None if they are HU
    """

    scan: Volume
    animals: int
    coarse_spl: npt.NDArray[np.float32]
    around: Region
    peaks: Peaks
    others_zyx: npt.NDArray[np.bool_] | None = None
    calibration: Calibration | None = None

    @property
    def volume(self) -> Volume:
        """The whole scan in HU with air where the other animals are; the scan itself if it can."""
        z, y, x = (slice(0, n) for n in self.scan.grid.shape_zyx)
        return self.part((z, y, x))

    def part(self, box: Box) -> Volume:
        """A box of the scan in HU with air where the other animals are."""
        grid = self.scan.grid.part(box)
        if self.others_zyx is None and self.calibration is None and grid is self.scan.grid:
            return self.scan
        hu = self.scan.hu_zyx[box]
        if self.calibration is not None:
            hu = self.calibration.apply(hu)
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


def keep_one_animal(
    volume: Volume, rule: ChoiceRule, calibrate: CalibrateRule = "never"
) -> Located:
    """Count the animals in the field, and find where all but one are.

    The scan is read once, to make it coarse.

    Parameters
    ----------
    rule : "largest" body, the "central" one, or "refuse" the series
    calibrate : what to do with a scan that is not in HU

    Raises
    ------
    RefusedSeries
        If there are several animals and the site's rule is to refuse, or if the scan is not in HU
        and can't or must not be brought to HU.
    """
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    numbers = coarse(volume.hu_zyx, volume.grid.spacing_mm)
    peaks = find_peaks(numbers)
    to_hu = calibration(peaks, calibrate)
    picture = turn.apply(in_hu(numbers, to_hu))
    blocks, block_mm = _blocks(volume, turn, to_hu)
    field = _shown(blocks)
    cores, count = _cores(blocks[field.slices], block_mm)
    animals = _side_by_side(cores, count)
    if len(animals) < 2:
        shown = _box(cores > 0, block_mm) if animals else Region.whole(cores.shape)
        around = _scaled(shown.moved(field.low), blocks.shape, picture.shape)
        return Located(volume, len(animals), picture, around, peaks, calibration=to_hu)
    if rule == "refuse":
        msg = (
            f"{len(animals)} animals in the field; set two_animals to "
            "'largest' or 'central' to contour one, or scan one at a time"
        )
        raise RefusedSeries(msg)
    chosen = _choose(cores, animals, rule, np.array(blocks.shape) / 2 - field.low)
    others = _nearer_to_others(cores, animals, chosen, block_mm)
    shown = _box((cores > 0) & ~others, block_mm).moved(field.low)
    outside = [
        (low, n - high) for low, high, n in zip(field.low, field.high, blocks.shape, strict=True)
    ]
    others = np.pad(others, outside, mode="edge")
    places = [
        ((np.arange(n) + 0.5) * own / n).astype(np.int64)
        for n, own in zip(picture.shape, others.shape, strict=True)
    ]
    picture = np.where(others[np.ix_(*places)], np.float32(AIR_HU), picture)
    around = _scaled(shown, blocks.shape, picture.shape)
    return Located(volume, len(animals), picture, around, peaks, turn.undo(others), to_hu)


def _blocks(
    volume: Volume, turn: Reorientation, to_hu: Calibration | None
) -> tuple[npt.NDArray[np.float32], tuple[float, ...]]:
    """Means of blocks of voxels turned to S, P, L, and the size of a block along each axis."""
    own_mm = volume.grid.spacing_mm.zyx
    factors = [
        max(1, min(n, round(BLOCK_MM / mm)))
        for n, mm in zip(volume.hu_zyx.shape, own_mm, strict=True)
    ]
    blocks = turn.apply(in_hu(block_means(volume.hu_zyx, factors), to_hu))
    return blocks, tuple(own_mm[axis] * factors[axis] for axis in turn.axes)


def _shown(picture: npt.NDArray[np.float32]) -> Region:
    """The box of everything that is no air, with air around it where there is some."""
    tissue = picture > BODY_HU
    # Closing reaches one voxel further.
    return _around(tissue, (2, 2, 2)) if tissue.any() else Region.whole(tissue.shape)


def _box(cores: npt.NDArray[np.bool_], spacing_mm: Sequence[float]) -> Region:
    """The box of an animal with these cores."""
    return _around(cores, [round(AROUND_MM / mm) for mm in spacing_mm])


def _around(mask: npt.NDArray[np.bool_], margin: Sequence[int]) -> Region:
    """The box of a mask with so many voxels around it, as far as the array goes."""
    spans = list(zip(occupied_box(mask), margin, mask.shape, strict=True))
    low = [max(0, span.start - more) for span, more, _ in spans]
    high = [min(n, span.stop + more) for span, more, n in spans]
    return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _scaled(box: Region, shape: ShapeZyx, wanted: ShapeZyx) -> Region:
    """A box of one grid on another one of the same field."""
    low = [first * new // old for first, old, new in zip(box.low, shape, wanted, strict=True)]
    high = [-(-last * new // old) for last, old, new in zip(box.high, shape, wanted, strict=True)]
    return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _cores(
    field: npt.NDArray[np.float32], spacing_mm: Sequence[float]
) -> tuple[npt.NDArray[np.int32], int]:
    """Numbered cores: tissue deeper below the surface than beds, tubes and limbs have any."""
    tissue = ndimage.binary_closing(field > BODY_HU, iterations=1)
    cores, count = ndimage.label(deeper_than(tissue, CORE_DEPTH_MM, spacing_mm))
    return np.asarray(cores, dtype=np.int32), int(count)


def _side_by_side(cores: npt.NDArray[np.int32], count: int) -> list[int]:
    """The cores that are separate animals: large, and beside the largest one, not behind it."""
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    sizes[0] = 0
    if count == 0:
        return []
    largest = int(sizes.argmax())
    spans = {n + 1: box[0] for n, box in enumerate(ndimage.find_objects(cores)) if box}
    first = spans[largest]
    animals = [largest]
    for n, span in spans.items():
        if n == largest or sizes[n] < MIN_SHARE * sizes[largest]:
            continue
        shared = min(span.stop, first.stop) - max(span.start, first.start)
        if shared >= 0.5 * min(span.stop - span.start, first.stop - first.start):
            animals.append(n)
    return animals


def _nearer_to_others(
    cores: npt.NDArray[np.int32], animals: list[int], chosen: int, spacing_mm: Sequence[float]
) -> npt.NDArray[np.bool_]:
    """Which voxels are nearer to another animal's core than to that of the chosen one.

    Pairs of voxels are one voxel: the plane between two animals lies in the middle between their
    cores, and half a voxel more or less cuts nothing off.
    """
    owner = np.where(np.isin(cores, animals), cores, 0)
    owner = np.pad(owner, [(0, n % 2) for n in owner.shape])
    z, y, x = (n // 2 for n in owner.shape)
    owner = owner.reshape(z, 2, y, 2, x, 2).max(axis=(1, 3, 5))
    nearest = ndimage.distance_transform_edt(
        owner == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    others = owner[tuple(nearest)] != chosen
    for axis in range(3):
        others = np.repeat(others, 2, axis)
    return np.asarray(others[tuple(slice(0, n) for n in cores.shape)])


def _choose(
    cores: npt.NDArray[np.int32],
    animals: list[int],
    rule: ChoiceRule,
    middle: npt.NDArray[np.float64],
) -> int:
    """The animal that counts.

    Parameters
    ----------
    middle : of the scan, in voxels of the cores' array
    """
    if rule == "largest":
        return max(animals, key=lambda n: int((cores == n).sum()))

    def off_centre(n: int) -> float:
        return float(np.linalg.norm(np.argwhere(cores == n).mean(axis=0)[1:] - middle[1:]))

    return min(animals, key=off_centre)
