"""The data of a scan: organ, volume, labels, contour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import FloatArray, Grid, IntArray

Box: TypeAlias = tuple[slice, slice, slice]
_Value = TypeVar("_Value")


# An organ by the name that its bundle or data set gives it; TG-263's, where that has one.
Organ = NewType("Organ", str)


class Role(StrEnum):
    """What an organ is to the checks that must know it, whatever its name."""

    HEART = "heart"
    CORD = "cord"
    LUNG_R = "lung_r"
    LUNG_L = "lung_l"


# More animals than this lie in no bed.
MOST_ANIMALS = 4
# Organs of these names have these roles, unless a bundle says otherwise.
TG263_ROLES: Mapping[Role, Organ] = {
    Role.HEART: Organ("Heart"),
    Role.CORD: Organ("SpinalCord"),
    Role.LUNG_R: Organ("Lung_R"),
    Role.LUNG_L: Organ("Lung_L"),
}


# PS3.5 6.2: of ROIName (LO), in every character set. Flags and tables divide their words by blanks.
_ORGAN_NAME = re.compile(r"[!#-\[\]-~]{1,64}")


def named_organ(name: object) -> Organ:
    """An organ of this name.

    Raises
    ------
    ValueError
        If a table, a flag or an RTSTRUCT can't hold it.
    """
    text = str(name)
    if not _ORGAN_NAME.fullmatch(text):
        msg = f"{text!r}: 1 to 64 ASCII letters without blanks, quotes and backslashes expected"
        raise ValueError(msg)
    return Organ(text)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Hounsfield units on their grid.

    Attributes
    ----------
    hu_zyx : (z, y, x) float32
    """

    hu_zyx: npt.NDArray[np.float32]
    grid: Grid

    def __post_init__(self) -> None:
        if self.hu_zyx.shape != self.grid.shape_zyx:
            msg = f"voxels {self.hu_zyx.shape} do not fit the grid {self.grid.shape_zyx}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Which organ each voxel belongs to.

    Attributes
    ----------
    labels_zyx : (z, y, x) uint8
        0 is background.
    organs : mapping of label to organ
    roles : the organ of each role; it may name organs that have no label
    """

    labels_zyx: npt.NDArray[np.uint8]
    grid: Grid
    organs: Mapping[int, Organ]
    roles: Mapping[Role, Organ] = field(default_factory=lambda: TG263_ROLES)

    def __post_init__(self) -> None:
        if self.labels_zyx.shape != self.grid.shape_zyx:
            msg = f"labels {self.labels_zyx.shape} do not fit the grid {self.grid.shape_zyx}"
            raise ValueError(msg)

    def mask(self, organ: Organ) -> npt.NDArray[np.bool_]:
        """(z, y, x) bool, true inside the organ."""
        label = next(label for label, own in self.organs.items() if own == organ)
        return np.asarray(self.labels_zyx == label, dtype=np.bool_)

    def organ_of(self, role: Role) -> Organ | None:
        """The organ of a role; None if these labels have none."""
        organ = self.roles.get(role)
        return organ if organ in self.organs.values() else None

    def on_voxels(self, labels_zyx: npt.NDArray[np.uint8], grid: Grid) -> Labels:
        """The same organs on other voxels."""
        return Labels(labels_zyx, grid, self.organs, self.roles)

    @property
    def box(self) -> Box:
        """The smallest box that contains every organ; empty if there is none."""
        return occupied_box(self.labels_zyx)

    def volumes_mm3(self) -> dict[Organ, float]:
        """Volume of every organ of the labels, 0.0 for an absent one."""
        counts = np.bincount(self.labels_zyx[self.box].ravel(), minlength=256)
        voxel_mm3 = self.grid.spacing_mm.voxel_mm3
        return {organ: float(counts[label]) * voxel_mm3 for label, organ in self.organs.items()}


def by_role(values: Mapping[Organ, _Value], roles: Mapping[Role, Organ]) -> dict[Role, _Value]:
    """The values of the organs that have a role."""
    return {role: values[organ] for role, organ in roles.items() if organ in values}


def occupied_box(array_zyx: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> Box:
    """The smallest box that contains every nonzero voxel; empty if there is none."""
    nothing = (slice(0, 0), slice(0, 0), slice(0, 0))
    if array_zyx.size == 0:
        return nothing
    box = list(nothing)
    rest = array_zyx
    for axis in range(3):
        # The maximum of bytes is many times faster than any().
        found = np.flatnonzero(rest.max(axis=tuple({0, 1, 2} - {axis})))
        if len(found) == 0:
            return nothing
        box[axis] = slice(int(found[0]), int(found[-1]) + 1)
        rest = rest[(slice(None),) * axis + (box[axis],)]
    return (box[0], box[1], box[2])


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """One closed planar polygon of one organ on one slice.

    Attributes
    ----------
    points_xyz_mm : (n, 3) float64
        Patient coordinates; the last point joins the first. All lie in the slice's plane.
    """

    organ: Organ
    slice_index: int
    points_xyz_mm: FloatArray


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Dice similarity coefficient of two masks; 1.0 when both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 1.0 if total == 0 else 2.0 * int((first & second).sum()) / total


def pack_labels(
    labels: Labels,
    disagreement_zyx: npt.NDArray[np.uint8],
    rungs: IntArray,
    colours: Mapping[Organ, tuple[int, int, int]],
) -> bytes:
    """Labels as a small compressed file (NumPy ``.npz``): the organs' box and its position.

    The file also has the disagreement of the folds in the same box, 255 where all contradict, and
    what shows the labels without their images: grid, names and colours.

    Parameters
    ----------
    rungs : (n,) index of every slice on the even ladder, see `limn.domain.geometry.ladder`
    """
    box, grid, organs = occupied_box(labels.labels_zyx), labels.grid, labels.organs
    file = io.BytesIO()
    np.savez_compressed(
        file,
        box_zyx=labels.labels_zyx[box],
        disagreement_zyx=disagreement_zyx[box],
        low_zyx=np.array([span.start for span in box]),
        shape_zyx=np.array(labels.labels_zyx.shape),
        rungs=rungs,
        slice_origins_xyz_mm=grid.slice_origins_xyz_mm,
        spacing_yx_mm=np.array([grid.spacing_y_mm, grid.spacing_x_mm]),
        along_xy_xyz=np.array([grid.along_x_xyz, grid.along_y_xyz]),
        numbers=np.array(list(organs), dtype=np.uint8),
        names=np.array([str(organ) for organ in organs.values()], dtype=np.str_),
        colours=np.array([colours[organ] for organ in organs.values()], dtype=np.uint8),
    )
    return file.getvalue()


def unpack_labels(packed: bytes) -> npt.NDArray[np.uint8]:
    """Undo `pack_labels`: (z, y, x) uint8 of the whole grid."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        box, low, shape = stored["box_zyx"], stored["low_zyx"], stored["shape_zyx"]
    labels_zyx = np.zeros(tuple(int(n) for n in shape), dtype=np.uint8)
    high = low + box.shape
    labels_zyx[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = box
    return labels_zyx


def labels_of(packed: bytes) -> Labels:
    """Undo `pack_labels` with grid and names; roles are those of TG-263's names.

    Raises
    ------
    KeyError
        If an earlier limn packed them: they have no grid and no names.
    """
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        y_mm, x_mm = (float(mm) for mm in stored["spacing_yx_mm"])
        _, rows, columns = (int(n) for n in stored["shape_zyx"])
        along_x, along_y = stored["along_xy_xyz"]
        origins = stored["slice_origins_xyz_mm"]
        grid = Grid(origins, rows, columns, y_mm, x_mm, along_x, along_y)
        organs = {
            int(number): Organ(str(name))
            for number, name in zip(stored["numbers"], stored["names"], strict=True)
        }
    return Labels(unpack_labels(packed), grid, organs)
