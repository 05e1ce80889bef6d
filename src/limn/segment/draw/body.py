"""Finds the animal's body, for dose calculation: without bed, tubes and other animals.

A coarse picture says which tissue belongs to the animal: the thick piece that has the organs, and
its limbs. The fine picture says where the skin is.
"""

from __future__ import annotations

from collections.abc import Callable

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import Grid
from limn.domain.scan import Box, Volume
from limn.segment.draw.depth import deeper_than
from limn.segment.engine.localisation.coarse import block_means

Mask = npt.NDArray[np.bool_]

# Half-way between air and soft tissue: the skin lies where voxels are denser.
SKIN_HU = -500.0
# Coarse enough for a whole animal in a second, fine enough for its legs.
BLOCK_MM = 0.4
# A ball of the first radius that fits into the trunk around the organs: beds are thinner than twice
# it, and the larger the ball, the less of a bed that touches the trunk is taken for trunk.
TRUNK_DEPTHS_MM = (4.6, 4.0, 3.0, 2.0)
# The ball fits if so large a share of the organs lies in what it opens.
LEAST_OPENED = 0.9
# A limb, or a head that is cut off by the field, is smaller than this share of the trunk.
MOST_LIMB = 0.5
# Then what hangs on the trunk, the thick before the thin: a head that lies on a bed is thicker than
# the bed, a leg is thicker than tubes and sheets.
LIMB_DEPTHS_MM = (3.0, 2.0, 1.2)
# The skin is looked for so far beyond the opening by a ball, which rounds corners off.
SKIN_MM = 0.4
# The same of limbs, which are less round.
LIMB_SKIN_MM = 0.8
# A hole in a slice that is gas in an animal; air between an animal and its bed is more.
MOST_GAS_MM2 = 80.0
WALL_MM = 0.8
# Deeper than this the fine picture is not asked: lungs and gas are body.
INNER_MM = 1.0
# A bed or a tube lies in the same place in so large a share of the slices, and in a share of them
# apart from the animal: elsewhere the animal may touch it. Flanks and arms never lie so.
BED_SHARE, BED_FREE_SHARE = 0.95, 0.15
# There so much of it goes straight on, and it is thinner than twice the radius.
STRAIGHT_SHARE = 0.9
BED_RADIUS_MM = 1.6
# Air is so near to every part of it.
BED_MM = 3.6
# So far it may be from its own HU where nothing touches it.
BED_HU = 150.0
# A shorter field does not tell a bed from a limb that lies along the animal.
BED_FIELD_MM = 15.0


def body_mask(part: Callable[[Box], Volume], grid: Grid, organs_zyx: npt.NDArray[np.uint8]) -> Mask:
    """The voxels of the body of the animal that has the organs, (z, y, x).

    Parameters
    ----------
    part : gives a box of the scan in HU, with air where other animals are
    organs_zyx : labels on the scan's grid; not empty
    """
    factors = [
        max(1, min(n, round(BLOCK_MM / mm)))
        for n, mm in zip(grid.shape_zyx, grid.spacing_mm.zyx, strict=True)
    ]
    block_mm = [f * mm for f, mm in zip(factors, grid.spacing_mm.zyx, strict=True)]
    hu = _blocks(part, grid, factors)
    tissue = hu > SKIN_HU
    organs = _any_in_blocks(organs_zyx > 0, factors, tissue.shape)
    along = next(k for k, letter in enumerate(grid.axis_letters) if letter in "SI")
    bed = _bed(hu, along, block_mm) & ~organs
    tissue = _without_gas((tissue & ~bed) | organs, block_mm)
    outer = _outer(tissue, organs, block_mm) & ~bed
    filled = _filled(outer & tissue)
    inner = deeper_than(filled, INNER_MM, block_mm)
    return _with_skin(part, grid, factors, outer | filled, inner) | (organs_zyx > 0)


def _bed(hu: npt.NDArray[np.float32], along: int, spacing_mm: list[float]) -> Mask:
    """What goes straight through the field along the animal and is thin across it: beds, tubes.

    Parameters
    ----------
    along : the array's axis that runs from head to tail
    """
    hu = np.moveaxis(hu, along, 0)
    slices = hu > SKIN_HU
    found = np.zeros_like(slices)
    if len(slices) * spacing_mm[along] >= BED_FIELD_MM:
        across_mm = [mm for axis, mm in enumerate(spacing_mm) if axis != along]
        # Slice by slice: what lies before and behind is too far away to count.
        apart_mm = [2 * BED_MM, *across_mm]
        thick = _grown(deeper_than(slices, BED_RADIUS_MM, apart_mm), BED_RADIUS_MM, apart_mm)
        straight = slices.mean(axis=0) >= BED_SHARE
        free = np.stack([_apart(*each, straight) for each in zip(slices, thick, strict=True)])
        straight &= free.mean(axis=0) >= BED_FREE_SHARE
        # Where an animal lies in a soft bed's place, the HU are its own.
        own_hu = np.where(free, hu, 0.0).sum(axis=0) / np.maximum(free.sum(axis=0), 1)
        alike = np.abs(hu - own_hu) <= BED_HU
        # What has an animal on both sides is left in it.
        found |= slices & straight & alike & ~deeper_than(slices, BED_MM, apart_mm)
    return np.moveaxis(found, 0, along)


def _apart(row: Mask, thick: Mask, straight: Mask) -> Mask:
    """The pieces of a slice that are thin everywhere and go straight on, as no animal does."""
    pieces, count = cc3d.connected_components(row, connectivity=8, return_N=True)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    apart = np.bincount(pieces[straight], minlength=count + 1) >= STRAIGHT_SHARE * sizes
    apart[np.unique(pieces[thick])] = False
    apart[0] = False
    return np.asarray(apart[pieces])


def _outer(tissue: Mask, organs: Mask, spacing_mm: list[float]) -> Mask:
    """Trunk, head and limbs, with a little more around.

    What is thinner than the trunk, hangs on it and ends in the field on one side at least is a limb
    or the head; what goes on at two sides is a bed or a tube.
    """
    body = _trunk(tissue, organs, spacing_mm)
    most = MOST_LIMB * body.sum()
    for depth_mm in LIMB_DEPTHS_MM:
        thin = deeper_than(tissue, depth_mm, spacing_mm) & ~body
        # The thinnest are not cut free of a bed.
        far_mm = depth_mm if depth_mm > LIMB_DEPTHS_MM[-1] else 0.0
        limbs = _hanging(thin, body, far_mm, spacing_mm, most)
        body |= _grown(limbs, depth_mm + LIMB_SKIN_MM, spacing_mm)
    return body


def _hanging(thin: Mask, body: Mask, far_mm: float, spacing_mm: list[float], most: float) -> Mask:
    """The pieces that hang on a body, reach far beyond it, are not too large and end in the field.

    What does not reach far is a bed under the place where both touch.
    """
    beside, near = _grown(body, max(spacing_mm), spacing_mm), _grown(body, far_mm, spacing_mm)
    pieces, count = cc3d.connected_components(thin, connectivity=26, return_N=True)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    faces = np.zeros(count + 1, dtype=np.int64)
    for axis in range(3):
        for end in (0, -1):
            faces[np.unique(np.take(pieces, end, axis))] += 1
    touching = np.zeros(count + 1, dtype=np.bool_)
    touching[np.unique(pieces[beside & thin])] = True
    reaching = np.zeros(count + 1, dtype=np.bool_)
    reaching[np.unique(pieces[thin & ~near])] = True
    kept = touching & reaching & (faces < 2) & (sizes < most)
    kept[0] = False
    return np.asarray(kept[pieces])


def _trunk(tissue: Mask, organs: Mask, spacing_mm: list[float]) -> Mask:
    """The piece with the organs, opened by the largest ball that fits into it."""
    opened = organs
    for depth_mm in TRUNK_DEPTHS_MM:
        deep = _piece_with(deeper_than(tissue, depth_mm, spacing_mm), organs)
        opened = _grown(deep, depth_mm + SKIN_MM, spacing_mm)
        if opened[organs].mean() >= LEAST_OPENED:
            return opened
    return opened


def _blocks(
    part: Callable[[Box], Volume], grid: Grid, factors: list[int]
) -> npt.NDArray[np.float32]:
    """Means of blocks, slab by slab: the scan is never copied whole."""
    slabs = []
    count = grid.shape_zyx[0] // factors[0]
    for k in range(count):
        rows = slice(k * factors[0], (k + 1) * factors[0])
        hu = part((rows, slice(0, grid.shape_zyx[1]), slice(0, grid.shape_zyx[2]))).hu_zyx
        slabs.append(block_means(hu, factors))
    return np.concatenate(slabs)


def _any_in_blocks(mask: Mask, factors: list[int], shape: tuple[int, ...]) -> Mask:
    found = np.zeros(shape, dtype=np.bool_)
    places = np.argwhere(mask) // factors
    inside = (places < shape).all(axis=1)
    found[tuple(places[inside].T)] = True
    return found


def _piece_with(cores: Mask, organs: Mask) -> Mask:
    """The connected piece that holds most of the organs; the organs themselves if none does."""
    pieces, _ = cc3d.connected_components(cores, connectivity=26, return_N=True)
    held = np.bincount(pieces[organs & cores].ravel(), minlength=1)
    if held.sum() == 0:
        return organs
    return np.asarray(pieces == int(held.argmax()))


def _grown(mask: Mask, by_mm: float, spacing_mm: list[float]) -> Mask:
    """Voxels whose distance to the mask is at most ``by_mm``."""
    return ~deeper_than(~mask, by_mm, spacing_mm)


def _without_gas(tissue: Mask, spacing_mm: list[float]) -> Mask:
    """With holes filled that are too small to lie between an animal and its bed.

    A hole behind a thinner wall than the animal's own lies in a tube, such as a mask.
    """
    most = MOST_GAS_MM2 / (spacing_mm[1] * spacing_mm[2])
    filled = np.stack([ndimage.binary_fill_holes(row) for row in tissue])
    walled = deeper_than(filled, WALL_MM, [2 * WALL_MM, *spacing_mm[1:]])
    found = tissue.copy()
    for row, whole, inside in zip(found, filled, walled, strict=True):
        holes, _ = cc3d.connected_components(whole & ~row, return_N=True)
        sizes = np.bincount(holes.ravel())
        gas = sizes <= most
        gas[np.unique(holes[~inside])] = False
        row[gas[holes] & (holes > 0)] = True
    return found


def _filled(mask: Mask) -> Mask:
    """With lungs and gas: what no slice of any axis connects with its border."""
    filled = mask.copy()
    for axis in range(3):
        for k in range(mask.shape[axis]):
            place = (slice(None),) * axis + (k,)
            filled[place] |= ndimage.binary_fill_holes(mask[place])
    return filled


def _with_skin(
    part: Callable[[Box], Volume], grid: Grid, factors: list[int], outer: Mask, inner: Mask
) -> Mask:
    """Everything inside, and near the surface what is denser than the skin."""
    body = np.zeros(grid.shape_zyx, dtype=np.bool_)
    places = [
        np.minimum(np.arange(n) // f, m - 1)
        for n, f, m in zip(grid.shape_zyx, factors, outer.shape, strict=True)
    ]
    _, height, width = grid.shape_zyx
    for z, k in enumerate(places[0]):
        if not outer[k].any():
            continue
        across = np.ix_(places[1], places[2])
        hu = part((slice(z, z + 1), slice(0, height), slice(0, width))).hu_zyx[0]
        body[z] = inner[k][across] | (outer[k][across] & (hu > SKIN_HU))
    return body
