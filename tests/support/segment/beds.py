"""Beds with several phantoms: each was scanned alone, and its body is laid into one field."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan

MM = 0.3
# From the neck to the pelvis.
SHAPE_ZYX = (240, 108, 116)
BODY_HU = -700.0
# For each arrangement the place of each seed, the voxel z, y, x where its own field begins, and the
# shape of the bed's field; the field may cut an animal.
BEDS: dict[str, tuple[dict[int, tuple[int, int, int]], tuple[int, int, int]]] = {
    "side by side": ({901: (0, 0, 0), 904: (16, 4, 108)}, (262, 116, 226)),
    "stacked": ({901: (0, 0, 0), 904: (8, 96, 4)}, (256, 206, 124)),
    "head to tail": ({901: (0, 0, 0), 904: (236, 2, 3)}, (480, 112, 124)),
    "three, one cut": ({901: (0, 0, 0), 904: (12, 4, 108), 905: (4, 0, 218)}, (262, 116, 272)),
    "four": (
        {901: (0, 0, 0), 904: (12, 4, 108), 905: (4, 100, 0), 906: (20, 98, 110)},
        (268, 212, 230),
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Bed:
    """A field with animals.

    Attributes
    ----------
    truths_zyx : labels of each animal on the field's grid
    """

    volume: Volume
    truths_zyx: tuple[npt.NDArray[np.uint8], ...]


@cache
def animal(seed: int) -> tuple[Volume, Labels]:
    """A phantom in a field of its own."""
    scanner = Scanner(SpacingMm(MM, MM, MM), SHAPE_ZYX, (0.0, 0.0, -12.0), breathing_mm=0.5)
    return scan(conceive(seed), scanner, seed)


def bed(places: dict[int, tuple[int, int, int]], shape: tuple[int, int, int]) -> Bed:
    """Lay phantoms into one field; places and shape as in `BEDS`."""
    hu = np.random.default_rng(0).normal(-1000.0, 20.0, shape).astype(np.float32)
    truths = []
    for seed, place in places.items():
        volume, labels = animal(seed)
        own, there = [], []
        for at, length, end in zip(place, volume.hu_zyx.shape, shape, strict=True):
            own.append(slice(max(0, -at), min(length, end - at)))
            there.append(slice(max(0, at), min(end, at + length)))
        body = volume.hu_zyx[tuple(own)]
        hu[tuple(there)] = np.where(body > BODY_HU, body, hu[tuple(there)])
        truth = np.zeros(shape, dtype=np.uint8)
        truth[tuple(there)] = labels.labels_zyx[tuple(own)]
        truths.append(truth)
    grid = axial_grid(shape, SpacingMm(MM, MM, MM), np.array([-60.0, -20.0, 5.0]))
    return Bed(Volume(hu, grid), tuple(truths))
