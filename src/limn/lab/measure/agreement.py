"""How far observers agree: the generalised conformity index, and their consensus.

Malimban 2022, Methods, "Interobserver variability": the index is "the ratio of the sum of the
intersecting volumes between all pairs of observers and the sum of union of volumes between the
same pairs" (Kouwenhoven, Phys Med Biol 54:2859, 2009). The consensus is the voxels that two of
three observers drew; for the cord, which observer 3 did not draw, those of both others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]

# How many of two or three observers must have drawn a voxel of the consensus.
CONSENSUS_VOTES = 2


def conformity_index(masks: Sequence[Mask]) -> float:
    """Generalised conformity index of two or more masks; for two, their Jaccard coefficient.

    Parameters
    ----------
    masks : (z, y, x) bool each

    Returns
    -------
    0 (no pair shares a voxel) to 1 (all masks are equal); NaN if every mask is empty

    Raises
    ------
    ValueError
        For fewer than two masks, or masks of several shapes.
    """
    count = len(masks)
    # A voxel that k observers drew is shared by k (k - 1) / 2 pairs and absent from the pairs
    # among the other count - k observers.
    voxels = np.bincount(_votes(masks).ravel(), minlength=count + 1)
    shared = sum(int(n) * (k * (k - 1) // 2) for k, n in enumerate(voxels))
    absent = [(count - k) * (count - k - 1) // 2 for k in range(count + 1)]
    joined = sum(int(n) * (absent[0] - pairs) for n, pairs in zip(voxels, absent, strict=True))
    return shared / joined if joined else float("nan")


def consensus(masks: Sequence[Mask]) -> Mask:
    """Voxels that at least two of the observers drew: 2 of 3, or both of 2.

    Raises
    ------
    ValueError
        For fewer than two masks, or masks of several shapes.
    """
    return np.asarray(_votes(masks) >= CONSENSUS_VOTES, dtype=np.bool_)


def structure_masks(
    labels_zyx: npt.NDArray[np.uint8], structures: Mapping[str, Sequence[int]]
) -> dict[str, Mask]:
    """An observer's labels as masks of the structures that all observers can be compared on.

    Parameters
    ----------
    structures : name to its labels: those of its organs, and that of all of them as one

    Returns
    -------
    (z, y, x) bool of every structure that is not empty
    """
    masks = {}
    for structure, labels in structures.items():
        mask = np.asarray(np.isin(labels_zyx, labels), dtype=np.bool_)
        if mask.any():
            masks[structure] = mask
    return masks


def _votes(masks: Sequence[Mask]) -> npt.NDArray[np.uint8]:
    """How many observers drew each voxel: (z, y, x) uint8."""
    if len(masks) < 2:
        msg = f"masks of {len(masks)} observers; at least 2 expected"
        raise ValueError(msg)
    if len({mask.shape for mask in masks}) > 1:
        msg = f"masks of {', '.join(str(mask.shape) for mask in masks)} voxels can't be compared"
        raise ValueError(msg)
    votes = np.zeros(masks[0].shape, dtype=np.uint8)
    for mask in masks:
        votes += mask
    return votes
