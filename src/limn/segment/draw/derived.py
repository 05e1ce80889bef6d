"""Makes the ROIs that need no network: of the organs, of other such ROIs, or of the HU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import Grid, IntArray
from limn.domain.roi_rules import (
    Body,
    Difference,
    Margin,
    RoiRule,
    ThirdOfOrgan,
    Threshold,
    Union,
)
from limn.domain.scan import Box, Labels, Organ, Volume, occupied_box
from limn.segment.draw.body import body_mask
from limn.segment.draw.depth import MOST_DEPTH_MM, deeper_than
from limn.segment.engine.localisation.orient import Lie

Mask = npt.NDArray[np.bool_]
# Distances in a larger box are rounded to a thousandth of a mm2.
LARGE_VOXELS = 20_000_000


@dataclass(frozen=True, slots=True, eq=False)
class DerivedRoi:
    """An ROI that was derived.

    Attributes
    ----------
    mask_zyx : (z, y, x) in the box alone
    how : in words
    organs : of the bundle, from which it was made, and from which its sources were
    """

    name: Organ
    box: Box
    mask_zyx: Mask
    how: str
    organs: tuple[Organ, ...] = ()

    def on_slices(self, rungs: IntArray) -> DerivedRoi:
        """The same on the slices that exist; ``rungs`` are their places on the even grid."""
        z = self.box[0]
        kept = np.flatnonzero((rungs >= z.start) & (rungs < z.stop))
        if len(kept) == 0:
            nothing = (slice(0, 0), slice(0, 0), slice(0, 0))
            return replace(self, box=nothing, mask_zyx=self.mask_zyx[:0, :0, :0])
        rows = slice(int(kept[0]), int(kept[-1]) + 1)
        return replace(
            self, box=(rows, *self.box[1:]), mask_zyx=self.mask_zyx[rungs[kept] - z.start]
        )

    def whole(self, shape_zyx: tuple[int, int, int]) -> Mask:
        """(z, y, x) on the whole grid."""
        found = np.zeros(shape_zyx, dtype=np.bool_)
        found[self.box] = self.mask_zyx
        return found


class Scene:
    """What ROIs are derived from; a body that several need is sought once.

    Parameters
    ----------
    part : gives a box of the scan in HU, with air where other animals are
    labels, lie : the organs of the animal, on the scan's grid, and how it lies
    """

    def __init__(self, part: Callable[[Box], Volume], labels: Labels, lie: Lie) -> None:
        self.part = part
        self.labels = labels
        self.lie = lie
        self._made: dict[str, DerivedRoi] = {}
        self._body: Mask | None = None

    @property
    def grid(self) -> Grid:
        """The scan's."""
        return self.labels.grid

    @property
    def body(self) -> Mask:
        """The animal's body."""
        if self._body is None:
            self._body = body_mask(self.part, self.grid, self.labels.labels_zyx)
        return self._body

    def mask(self, name: str) -> Mask:
        """An organ, or an ROI that was made before."""
        if name not in self._made:
            return self.labels.mask(Organ(name))
        return self._made[name].whole(self.grid.shape_zyx)

    def organs_of(self, name: str) -> tuple[Organ, ...]:
        """The organs that an ROI was made of; an organ itself."""
        return self._made[name].organs if name in self._made else (Organ(name),)

    def keep(self, roi: DerivedRoi) -> None:
        """Let other rules name this ROI."""
        self._made[roi.name] = roi


@singledispatch
def make(rule: RoiRule, scene: Scene) -> Mask:
    """The voxels of an ROI, (z, y, x)."""
    msg = f"no ROI can be made by {rule!r}"
    raise TypeError(msg)


@make.register
def _(rule: Body, scene: Scene) -> Mask:
    del rule
    return scene.body


@make.register
def _(rule: Margin, scene: Scene) -> Mask:
    grown = grow(scene.mask(rule.of), rule.mm_xyz, scene.grid)
    return grown & scene.mask(rule.within) if rule.within else grown


@make.register
def _(rule: ThirdOfOrgan, scene: Scene) -> Mask:
    third = thirds(scene.mask(rule.of), scene.grid, head_zyx(scene.lie, scene.grid))
    return np.asarray(third == {"base": 1, "middle": 2, "apex": 3}[rule.third])


@make.register
def _(rule: Union, scene: Scene) -> Mask:
    mask = np.zeros(scene.grid.shape_zyx, dtype=np.bool_)
    for each in rule.of:
        mask |= scene.mask(each)
    return mask


@make.register
def _(rule: Difference, scene: Scene) -> Mask:
    mask = scene.mask(rule.of).copy()
    for each in rule.minus:
        mask &= ~scene.mask(each)
    return mask


@make.register
def _(rule: Threshold, scene: Scene) -> Mask:
    within = scene.mask(rule.within) if rule.within else scene.body
    mask = np.zeros(within.shape, dtype=np.bool_)
    box = occupied_box(within)
    # Slice by slice, for a scan may be large.
    for z in range(box[0].start, box[0].stop):
        place = (slice(z, z + 1), box[1], box[2])
        hu = scene.part(place).hu_zyx
        mask[place] = within[place] & (hu >= rule.hu[0]) & (hu <= rule.hu[1])
    voxels = rule.min_mm3 / scene.grid.spacing_mm.voxel_mm3
    return _without_dust(mask, voxels) if voxels > 1 else mask


def derive(rule: RoiRule, scene: Scene) -> DerivedRoi:
    """Make one ROI; its rule may name those that were made before."""
    mask = make(rule, scene)
    box = occupied_box(mask)
    organs = tuple(dict.fromkeys(organ for name in rule.sources for organ in scene.organs_of(name)))
    roi = DerivedRoi(Organ(rule.name), box, mask[box].copy(), rule.how, organs)
    scene.keep(roi)
    return roi


def grow(mask: Mask, mm_xyz: tuple[float, float, float], grid: Grid) -> Mask:
    """Voxels whose middle lies within an ellipsoid around that of a voxel of the mask.

    Parameters
    ----------
    mm_xyz : half axes along the patient's x, y and z; 0 for no growth along one
    """
    grown = np.zeros_like(mask)
    inner = occupied_box(mask)
    if inner[0].stop == 0:
        return grown
    axis_of = {"R": 0, "L": 0, "A": 1, "P": 1, "I": 2, "S": 2}
    reach = [mm_xyz[axis_of[letter]] for letter in grid.axis_letters]
    spacing = grid.spacing_mm.zyx
    z, y, x = (
        slice(max(0, span.start - int(far / mm) - 1), min(n, span.stop + int(far / mm) + 1))
        for span, far, mm, n in zip(inner, reach, spacing, mask.shape, strict=True)
    )
    if (mask[z, y, x].size > LARGE_VOXELS) and min(reach) == max(reach) <= MOST_DEPTH_MM:
        # The exact transform of a whole animal takes gigabytes.
        grown[z, y, x] = ~deeper_than(~mask[z, y, x], reach[0], spacing)
        return grown
    # In units of the reach; a hundredth of a voxel stands for none.
    scale = [mm / max(far, mm / 100.0) for far, mm in zip(reach, spacing, strict=True)]
    away = ndimage.distance_transform_edt(~mask[z, y, x], sampling=scale)
    grown[z, y, x] = away <= 1.0 + 1e-6
    return grown


def thirds(mask: Mask, grid: Grid, head: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """1, 2 and 3 in the thirds of the long axis, from the end towards the head; 0 outside.

    Parameters
    ----------
    head : (3,) direction of the animal's head along the array's axes
    """
    found = np.zeros(mask.shape, dtype=np.uint8)
    places = np.argwhere(mask)
    if len(places) == 0:
        return found
    mm = places * np.array(grid.spacing_mm.zyx)
    centred = mm - mm.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    # From the head's end to the other.
    along = centred @ (axis if axis @ head < 0 else -axis)
    share = (along - along.min()) / max(float(np.ptp(along)), 1e-9)
    found[tuple(places.T)] = 1 + np.minimum((share * 3).astype(np.uint8), 2)
    return found


def head_zyx(lie: Lie, grid: Grid) -> npt.NDArray[np.float64]:
    """The direction of the animal's head along the scan's array axes."""
    index = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    straight = lie.straightened(index, grid.axis_letters)
    ends = [np.unravel_index(int(straight[k, 1, 1]), (3, 3, 3)) for k in (0, 2)]
    return np.subtract(ends[1], ends[0]).astype(np.float64) / 2.0


def _without_dust(mask: Mask, voxels: float) -> Mask:
    """Without the pieces of fewer voxels."""
    kept = cc3d.dust(mask.astype(np.uint8), threshold=int(np.ceil(voxels)), connectivity=26)
    return np.asarray(kept, dtype=np.bool_)
