"""Finds the animals in the field, so that all organs come from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import Reorientation
from limn.domain.scan import Volume

ChoiceRule = Literal["largest", "central", "refuse"]

# Coarse enough to be quick, fine enough for a mouse.
COARSE_MM = 0.6
# Everything denser than this counts as animal or bed, lung (-620 HU) included.
TISSUE_HU = -750.0
# Beds, tubes and limbs are thinner than twice this; thorax and belly are thicker.
CORE_DEPTH_MM = 3.0
# A core smaller than this share of the largest is no second animal.
MIN_SHARE = 0.2
AIR_HU = -1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """A volume that shows one animal.

    Attributes
    ----------
    animals : how many were in the field
    """

    volume: Volume
    animals: int


def keep_one_animal(volume: Volume, rule: ChoiceRule) -> Located:
    """Fill every animal but one with air.

    Parameters
    ----------
    rule : "largest" body, the "central" one, or "refuse" the series

    Raises
    ------
    RefusedSeries
        If there are several animals and the site's rule is to refuse.
    """
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    spacing = turn.spacing(volume.grid.spacing_mm).zyx
    turned = turn.apply(volume.hu_zyx)
    factors = [
        max(1, min(n, round(COARSE_MM / mm))) for n, mm in zip(turned.shape, spacing, strict=True)
    ]
    coarse = _block_mean(turned, factors)
    coarse_mm = [mm * factor for mm, factor in zip(spacing, factors, strict=True)]
    cores, count = _cores(coarse, coarse_mm)
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
        ~np.isin(cores, animals), sampling=coarse_mm, return_indices=True
    )
    others = cores[tuple(nearest)] != chosen
    blank = others
    for axis, factor in enumerate(factors):
        blank = np.repeat(blank, factor, axis=axis)
    fill = [(0, n - m) for n, m in zip(turned.shape, blank.shape, strict=True)]
    blank = np.pad(blank, fill, mode="edge")
    hu = np.where(turn.undo(blank), np.float32(AIR_HU), volume.hu_zyx)
    return Located(Volume(hu, volume.grid), len(animals))


def _block_mean(array: npt.NDArray[np.float32], factors: list[int]) -> npt.NDArray[np.float32]:
    whole = [n // f for n, f in zip(array.shape, factors, strict=True)]
    trimmed = array[: whole[0] * factors[0], : whole[1] * factors[1], : whole[2] * factors[2]]
    blocks = trimmed.reshape(whole[0], factors[0], whole[1], factors[1], whole[2], factors[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


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
