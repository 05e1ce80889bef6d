"""Finds the animals in a field by their cores: thick tissue with air between one and the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import Reorientation
from limn.domain.scan import Volume, occupied_box
from limn.segment.draw.animals.located import Located
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
from limn.segment.draw.neighbours import closed
from limn.segment.engine.localisation.coarse import block_means, coarse
from limn.segment.engine.localisation.region import Region, ShapeZyx

# Coarse enough to be quick, fine enough for the air between two mice that lie side by side.
BLOCK_MM = 0.6
# Beds, tubes and limbs are thinner than twice this; thorax and belly are thicker.
CORE_DEPTH_MM = 3.0
# So far around its cores an animal is looked at: its surface is 3 mm away, and the localiser learnt
# fields with air around the animal.
AROUND_MM = 12.0
# A core smaller than this share of the largest is no second animal.
MIN_SHARE = 0.2
# One of this share near a side of the field is what the field shows of another animal.
MIN_CUT_SHARE = 0.005
# Beyond the depth of a core, for the blocks of its surface.
SIDE_MM = 1.2
# Of the length of the shorter one. Side by side are two that share more of an axis than the first,
# one behind the other two that share less of it than the second.
BESIDE_SHARE, BEHIND_SHARE = 0.5, 0.2

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A scan, and the cores of the animals in it, on blocks of voxels turned to S, P, L.

    Attributes
    ----------
    coarse_spl : as in `Located`, with every animal
    blocks : how many blocks the scan has along S, P, L
    shown : the box of everything that is no air; the cores are of this part alone
    cores : (z, y, x) number of the core at each block, 0 outside
    boxes : of each core, by its number
    sizes : blocks of each core, by its number
    """

    scan: Volume
    coarse_spl: npt.NDArray[np.float32]
    peaks: Peaks
    calibration: Calibration | None
    turn: Reorientation
    blocks: ShapeZyx
    block_mm: tuple[float, ...]
    shown: Region
    cores: npt.NDArray[np.int32]
    boxes: dict[int, tuple[slice, slice, slice]]
    sizes: dict[int, int]

    def large(self) -> list[int]:
        """The cores of a size that animals have beside the largest of them, which is the first."""
        if not self.sizes:
            return []
        ranked = sorted(self.sizes, key=lambda n: -self.sizes[n])
        return [n for n in ranked if self.sizes[n] >= MIN_SHARE * self.sizes[ranked[0]]]

    def side_by_side(self) -> list[int]:
        """The large cores beside the largest one, not behind it: head and belly are behind."""
        large = self.large()
        return [n for n in large if n == large[0] or self.beside(n, large[0])]

    def cut_off(self) -> list[int]:
        """Small cores beside the largest one and near a side of the field: what it shows of others.

        A core that the side cuts lies as deep below it as below skin.
        """
        large = self.large()
        margin = [(CORE_DEPTH_MM + SIDE_MM) / mm for mm in self.block_mm]
        found = []
        for core, size in self.sizes.items():
            if core in large or size < MIN_CUT_SHARE * self.sizes[large[0]]:
                continue
            at_side = any(
                span.start + low <= more or span.stop + low >= n - more
                for span, low, n, more in list(
                    zip(self.boxes[core], self.shown.low, self.blocks, margin, strict=True)
                )[1:]
            )
            if at_side and self.beside(core, large[0]):
                found.append(core)
        return found

    def beside(self, one: int, other: int) -> bool:
        """Whether two cores lie side by side along the animals."""
        return _shared(self.boxes[one][0], self.boxes[other][0]) >= BESIDE_SHARE

    def behind(self, one: int, other: int) -> bool:
        """Whether a core lies before or behind another one, as the head before the trunk."""
        across = [
            _shared(a, b) for a, b in zip(self.boxes[one][1:], self.boxes[other][1:], strict=True)
        ]
        apart = _shared(self.boxes[one][0], self.boxes[other][0]) < BEHIND_SHARE
        return apart and min(across) >= BESIDE_SHARE

    def in_order(self, cores: Sequence[int]) -> list[int]:
        """Cores as people count them: along z, then y, then x in patient coordinates.

        Animals that lie one behind the other along an axis are counted along it.
        """
        return _in_order(list(cores), self.boxes)

    def middle_xyz_mm(self, core: int) -> tuple[float, float, float]:
        """The middle of a core, patient coordinates."""
        box = self.boxes[core]
        middle = np.argwhere(self.cores[box] == core).mean(axis=0) + [span.start for span in box]
        shares = (middle + np.array(self.shown.low) + 0.5) / np.array(self.blocks)
        grid = self.scan.grid
        own = np.empty(3)
        for share, axis, flipped in zip(shares, self.turn.axes, self.turn.flipped, strict=True):
            n = grid.shape_zyx[axis]
            own[axis] = (1.0 - share if flipped else share) * n - 0.5
        z = int(np.clip(round(own[0]), 0, grid.shape_zyx[0] - 1))
        point = grid.plane_points_xyz_mm(z, own[None, 1:])[0]
        return (float(point[0]), float(point[1]), float(point[2]))

    def undivided(self) -> Located:
        """The scan as that of one animal; of none if it has no core."""
        empty = not self.sizes
        shown = self.shown if empty else self._around(self.cores > 0)
        around = _scaled(shown, self.blocks, _shape(self.coarse_spl))
        count = 0 if empty else 1
        return Located(
            self.scan, count, self.coarse_spl, around, self.peaks, calibration=self.calibration
        )

    def parted(self, animals: Sequence[int]) -> Callable[[int], Located]:
        """Part the field among animals; the result gives the scan as that of one of them."""
        owner = _nearest(np.where(np.isin(self.cores, animals), self.cores, 0), self.block_mm)

        def located(core: int) -> Located:
            others = owner != core
            around = self._around((self.cores > 0) & ~others)
            outside = [
                (low, n - high)
                for low, high, n in zip(self.shown.low, self.shown.high, self.blocks, strict=True)
            ]
            others = np.pad(others, outside, mode="edge")
            picture = self.coarse_spl
            places = [
                ((np.arange(n) + 0.5) * own / n).astype(np.int64)
                for n, own in zip(picture.shape, others.shape, strict=True)
            ]
            picture = np.where(others[np.ix_(*places)], np.float32(AIR_HU), picture)
            return replace(
                self.undivided(),
                animals=len(animals),
                coarse_spl=picture,
                around=_scaled(around, self.blocks, _shape(picture)),
                others_zyx=self.turn.undo(others),
            )

        return located

    def _around(self, cores: Mask) -> Region:
        """The box of an animal with these cores, in blocks of the scan."""
        margin = [round(AROUND_MM / mm) for mm in self.block_mm]
        return _around(cores, margin).moved(self.shown.low)


def survey(volume: Volume, calibrate: CalibrateRule = "never") -> Field:
    """Find the cores of the animals. The scan is read once, to make it coarse.

    Parameters
    ----------
    volume : its numbers are brought to HU in place if they are not HU
    calibrate : what to do with a scan that is not in HU

    Raises
    ------
    RefusedSeries
        If the scan is not in HU and can't or must not be brought to HU.
    """
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    factors = _block_factors(volume)
    # Each keeps one core alone busy for half of its time, and neither needs the other.
    with ThreadPoolExecutor(1, thread_name_prefix="blocks") as beside:
        means = beside.submit(block_means, volume.hu_zyx, factors)
        numbers = coarse(volume.hu_zyx, volume.grid.spacing_mm)
        peaks = find_peaks(numbers)
    to_hu = calibration(peaks, calibrate)
    blocks = turn.apply(in_hu(means.result(), to_hu))
    block_mm = tuple(volume.grid.spacing_mm.zyx[axis] * factors[axis] for axis in turn.axes)
    shown = _shown(blocks)
    cores = _cores(blocks[shown.slices], block_mm)
    boxes = {
        n: (box[0], box[1], box[2])
        for n, box in enumerate(ndimage.find_objects(cores), start=1)
        if box
    }
    if to_hu is not None:
        to_hu.apply(volume.hu_zyx, out=volume.hu_zyx)
    return Field(
        volume,
        turn.apply(in_hu(numbers, to_hu)),
        peaks,
        to_hu,
        turn,
        _shape(blocks),
        block_mm,
        shown,
        cores,
        boxes,
        {n: int(np.count_nonzero(cores[box] == n)) for n, box in boxes.items()},
    )


def _shape(array: npt.NDArray[np.generic]) -> ShapeZyx:
    z, y, x = array.shape
    return (z, y, x)


def _block_factors(volume: Volume) -> list[int]:
    """Voxels of a block along each axis of the scan."""
    return [
        max(1, min(n, round(BLOCK_MM / mm)))
        for n, mm in zip(volume.hu_zyx.shape, volume.grid.spacing_mm.zyx, strict=True)
    ]


def _shown(picture: npt.NDArray[np.float32]) -> Region:
    """The box of everything that is no air, with air around it where there is some."""
    tissue = picture > BODY_HU
    # Closing reaches one voxel further.
    return _around(tissue, (2, 2, 2)) if tissue.any() else Region.whole(_shape(tissue))


def _around(mask: Mask, margin: Sequence[int]) -> Region:
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


def _cores(field: npt.NDArray[np.float32], spacing_mm: Sequence[float]) -> npt.NDArray[np.int32]:
    """Numbered cores: tissue deeper below the surface than beds, tubes and limbs have any."""
    tissue = closed(field > BODY_HU)
    cores, _ = ndimage.label(deeper_than(tissue, CORE_DEPTH_MM, spacing_mm))
    return np.asarray(cores, dtype=np.int32)


def _shared(one: slice, other: slice) -> float:
    """How much of the shorter span lies within the other one; negative if there is air between."""
    common: int = min(one.stop, other.stop) - max(one.start, other.start)
    shorter: int = min(one.stop - one.start, other.stop - other.start)
    return common / shorter


def _in_order(cores: list[int], boxes: dict[int, tuple[slice, slice, slice]]) -> list[int]:
    for axis in range(3):
        groups: list[list[int]] = []
        for core in sorted(cores, key=lambda n: boxes[n][axis].start):
            spans = [boxes[n][axis] for n in groups[-1]] if groups else []
            if any(_shared(span, boxes[core][axis]) >= BEHIND_SHARE for span in spans):
                groups[-1].append(core)
            else:
                groups.append([core])
        if len(groups) > 1:
            return [core for group in groups for core in _in_order(group, boxes)]
    return sorted(cores, key=lambda n: boxes[n][2].start)


def _nearest(owner: npt.NDArray[np.int32], spacing_mm: Sequence[float]) -> npt.NDArray[np.int32]:
    """The number of the nearest core for each voxel.

    Pairs of voxels are one voxel: the plane between two animals lies in the middle between their
    cores, and half a voxel more or less cuts nothing off.
    """
    shape = owner.shape
    owner = np.pad(owner, [(0, n % 2) for n in shape])
    z, y, x = (n // 2 for n in owner.shape)
    owner = owner.reshape(z, 2, y, 2, x, 2).max(axis=(1, 3, 5))
    places = ndimage.distance_transform_edt(
        owner == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    nearest = owner[tuple(places)]
    for axis in range(3):
        nearest = np.repeat(nearest, 2, axis)
    return np.asarray(nearest[tuple(slice(0, n) for n in shape)])
