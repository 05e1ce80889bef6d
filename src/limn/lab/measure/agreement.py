"""How far observers agree: the generalised conformity index, and what most of them drew.

Malimban 2022, Methods, "Interobserver variability": the index is "the ratio of the sum of the
intersecting volumes between all pairs of observers and the sum of union of volumes between the
same pairs" (Kouwenhoven, Phys Med Biol 54:2859, 2009). The consensus holds the voxels that two
of three observers drew; of the cord, which observer 3 did not draw, those of both others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from limn.domain.scan import Organ
from limn.lab.words import ComparedStructure

Mask: TypeAlias = npt.NDArray[np.bool_]

# How many must have drawn a voxel of the consensus, of two observers and of three.
NEEDED = 2


ORGANS_OF: Mapping[ComparedStructure, tuple[Organ, ...]] = {
    ComparedStructure.HEART: (Organ.HEART,),
    ComparedStructure.LUNGS: (Organ.LUNG_R, Organ.LUNG_L),
    ComparedStructure.CORD: (Organ.CORD,),
}


def conformity_index(masks: Sequence[Mask]) -> float:
    """Generalised conformity index of two or more masks; of two, their Jaccard coefficient.

    Parameters
    ----------
    masks : (z, y, x) bool each

    Returns
    -------
    0 (no pair shares a voxel) to 1 (all the same); NaN if every mask is empty

    Raises
    ------
    ValueError
        For fewer than two masks, or masks of several shapes.
    """
    drawn = _how_many_drew(masks)
    count = len(masks)
    # Of voxels that k observers drew, k (k - 1) / 2 pairs share each; the pairs that have none
    # of it are those among the other count - k.
    voxels = np.bincount(drawn.ravel(), minlength=count + 1)
    shared = sum(int(n) * (k * (k - 1) // 2) for k, n in enumerate(voxels))
    others = [(count - k) * (count - k - 1) // 2 for k in range(count + 1)]
    joined = sum(int(n) * (others[0] - without) for n, without in zip(voxels, others, strict=True))
    return shared / joined if joined else float("nan")


def consensus(masks: Sequence[Mask]) -> Mask:
    """Voxels that at least two of the observers drew: 2 of 3, or both of 2.

    Raises
    ------
    ValueError
        For fewer than two masks, or masks of several shapes.
    """
    return np.asarray(_how_many_drew(masks) >= NEEDED, dtype=np.bool_)


def structures(
    labels_zyx: npt.NDArray[np.uint8], organs: Mapping[int, Organ], lungs_label: int
) -> dict[ComparedStructure, Mask]:
    """What an observer drew, by what all observers can be compared by.

    Parameters
    ----------
    organs : which label is which organ
    lungs_label : the label of an observer who drew both lungs as one organ

    Returns
    -------
    (z, y, x) bool of every structure of which a voxel was drawn
    """
    drawn = {}
    for structure, parts in ORGANS_OF.items():
        labels = [label for label, organ in organs.items() if organ in parts]
        if structure is ComparedStructure.LUNGS:
            labels.append(lungs_label)
        mask = np.asarray(np.isin(labels_zyx, labels), dtype=np.bool_)
        if mask.any():
            drawn[structure] = mask
    return drawn


def _how_many_drew(masks: Sequence[Mask]) -> npt.NDArray[np.uint8]:
    if len(masks) < 2:
        msg = f"{len(masks)} observer can't agree; at least 2 expected"
        raise ValueError(msg)
    if len({mask.shape for mask in masks}) > 1:
        msg = f"masks of {', '.join(str(mask.shape) for mask in masks)} voxels can't be compared"
        raise ValueError(msg)
    drawn = np.zeros(masks[0].shape, dtype=np.uint8)
    for mask in masks:
        drawn += mask
    return drawn
