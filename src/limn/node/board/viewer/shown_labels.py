"""The labels of a scan's results, mapped from files so that a plane costs no memory."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid, IntArray
from limn.domain.scan import occupied_box

Colour = tuple[int, int, int]

# Unpacked: of labels, and of the disagreement of the folds.
_BOXES = ("box_zyx", "disagreement_zyx")
_SHOWN_BEFORE = "labels.npz of an earlier limn: it has no grid and no names"


class LabelsUnreadable(Exception):
    """The labels of a scan can't be shown; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class ShownLabels:
    """Labels and disagreement of the folds, on the slices that the series has.

    Attributes
    ----------
    folder : of the two unpacked boxes
    low_zyx : first voxel of the box
    rungs : (n,) index of every slice on the even ladder
    organs : names and colours by label
    """

    folder: Path
    grid: Grid
    low_zyx: tuple[int, int, int]
    shape_zyx: tuple[int, int, int]
    rungs: IntArray
    organs: Mapping[int, tuple[str, Colour]]

    @classmethod
    def unpack(cls, path: Path, folder: Path) -> ShownLabels:
        """Unpack ``labels.npz`` into a folder.

        Raises
        ------
        LabelsUnreadable
            If it is no such file, or an earlier limn wrote it.
        """
        try:
            with zipfile.ZipFile(path) as packed:
                for name in _BOXES:
                    with packed.open(f"{name}.npy") as source, _file(folder, name).open("wb") as to:
                        shutil.copyfileobj(source, to)
            with np.load(path, allow_pickle=False) as stored:
                if "rungs" not in stored:
                    raise LabelsUnreadable(_SHOWN_BEFORE)
                return cls._of(stored, folder)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            msg = f"labels.npz can't be read: {error}"
            raise LabelsUnreadable(msg) from error

    @classmethod
    def _of(cls, stored: Mapping[str, npt.NDArray[Any]], folder: Path) -> ShownLabels:
        shape, low = ([int(n) for n in stored[name]] for name in ("shape_zyx", "low_zyx"))
        y_mm, x_mm = (float(mm) for mm in stored["spacing_yx_mm"])
        along_x, along_y = stored["along_xy_xyz"]
        grid = Grid(
            stored["slice_origins_xyz_mm"], shape[1], shape[2], y_mm, x_mm, along_x, along_y
        )
        organs = {
            int(number): (str(name), (int(red), int(green), int(blue)))
            for number, name, (red, green, blue) in zip(
                stored["numbers"], stored["names"], stored["colours"], strict=True
            )
        }
        return cls(
            folder,
            grid,
            (low[0], low[1], low[2]),
            (shape[0], shape[1], shape[2]),
            stored["rungs"],
            organs,
        )

    def fits(self, grid: Grid, rungs: IntArray) -> bool:
        """Whether they are of the slices of a CT on its even ladder."""
        same = grid.shape_zyx[1:] == self.shape_zyx[1:]
        return same and np.array_equal(rungs, self.rungs)

    def middle(self) -> tuple[int, int, int] | None:
        """Where half of the first organ that is there lies on either side, on the even ladder.

        ``picture.png`` cuts it there too.
        """
        box_zyx = self.box(_BOXES[0])
        for number in self.organs:
            inner = occupied_box(box_zyx == number)
            if inner[0].stop:
                mask = box_zyx[inner] == number
                counts = (
                    np.count_nonzero(mask, axis=others) for others in ((1, 2), (0, 2), (0, 1))
                )
                z, y, x = (
                    low + span.start + int(np.searchsorted(np.cumsum(count), count.sum() / 2))
                    for low, span, count in zip(self.low_zyx, inner, counts, strict=True)
                )
                return int(self.rungs[z]), y, x
        return None

    def box(self, name: str) -> npt.NDArray[np.uint8]:
        """``box_zyx`` or ``disagreement_zyx``, mapped read-only."""
        return np.asarray(np.load(_file(self.folder, name), mmap_mode="r"))

    def plane(self, name: str, axis: int, index: int) -> npt.NDArray[np.uint8] | None:
        """A plane of the even ladder across an array axis; None if nothing lies in it.

        Parameters
        ----------
        name : as of `box`
        index : for axis 0, on the even ladder; slices that the series lacks are empty
        """
        box = self.box(name)
        at = index
        if axis == 0:
            found = np.flatnonzero(self.rungs == index)
            at = int(found[0]) if len(found) else -1
        at -= self.low_zyx[axis]
        if not 0 <= at < box.shape[axis]:
            return None
        part = np.take(box, at, axis=axis)
        rows, columns = (other for other in range(3) if other != axis)
        whole = np.zeros((self._length(rows), self.shape_zyx[columns]), np.uint8)
        low_row, low_column = self.low_zyx[rows], self.low_zyx[columns]
        where = np.arange(low_row, low_row + part.shape[0])
        if rows == 0:
            where = self.rungs[where]
        whole[where, low_column : low_column + part.shape[1]] = part
        return whole

    def _length(self, axis: int) -> int:
        return int(self.rungs[-1]) + 1 if axis == 0 else self.shape_zyx[axis]


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"
