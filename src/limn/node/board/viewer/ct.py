"""The CT of one scan for its viewer: one slice at once, every plane once a process wrote them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.dicom.series import Series, assemble
from limn.dicom.volume import read_headers, read_slice
from limn.domain.errors import LimnError
from limn.domain.geometry import Grid, even_grid
from limn.node.board.viewer.write_ct import (
    BY_COLUMN,
    BY_SLICE,
    ORDER,
    WHOLE,
    between,
    rounded,
)

log = logging.getLogger(__name__)

_END_S = 5.0


class CtUnreadable(Exception):
    """The CT of a scan can't be shown; the text says why."""


class Ct:
    """The CT of one scan.

    Parameters
    ----------
    paths : of its files
    folder : an own one for the files of its voxels

    Raises
    ------
    CtUnreadable
        If the files are gone or are no series.
    """

    def __init__(self, paths: Sequence[Path], folder: Path, *, assume_hu: bool) -> None:
        self.paths = tuple(paths)
        self._folder = folder
        self._assume_hu = assume_hu
        self._writer: subprocess.Popen[bytes] | None = None
        self._slices = threading.Lock()
        try:
            self._series: Series = assemble(read_headers(paths), assume_hu=assume_hu)
        except (OSError, LimnError) as error:
            msg = "the slices of this scan are not on disk any more"
            if all(path.is_file() for path in paths):
                msg = f"its slices can't be shown: {error}"
            raise CtUnreadable(msg) from error
        self.grid: Grid = even_grid(self._series.grid, self._series.rungs)
        self.rungs = self._series.rungs

    @property
    def bytes_on_disk(self) -> int:
        """That the files of its voxels take."""
        return 2 * 2 * int(np.prod(self.grid.shape_zyx, dtype=np.int64))

    @property
    def is_written(self) -> bool:
        """Whether every plane is there."""
        return (self._folder / WHOLE).exists()

    @property
    def failed(self) -> bool:
        """Whether the process that writes the planes ended without them."""
        ended = self._writer is not None and self._writer.poll() is not None
        return ended and not self.is_written

    def write(self) -> None:
        """Have every plane written by a process of the lowest priority, unless one does."""
        if self._writer is not None:
            return
        order = {"paths": [str(path) for path in self.paths], "assume_hu": self._assume_hu}
        (self._folder / ORDER).write_text(json.dumps(order), encoding="utf-8")
        command = [sys.executable, "-m", "limn.node.board.viewer.write_ct", str(self._folder)]
        # The process ends when this pipe does.
        self._writer = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603

    def close(self) -> None:
        """End the process that writes; one that waits for a share that hangs is left to it."""
        writer = self._writer
        if writer is None:
            return
        writer.kill()
        try:
            writer.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            log.warning("viewer: process %d does not end; a disk or a share hangs", writer.pid)

    def plane(self, axis: int, index: int) -> npt.NDArray[np.int16] | None:
        """HU of a plane across an array axis on the even ladder; None if it is not there yet.

        Raises
        ------
        CtUnreadable
            If a file is gone or damaged.
        """
        one_file = any(each.frame is not None for each in self._series.slices)
        try:
            if self.is_written:
                return self._written(axis, index)
            if axis != 0 or one_file:
                return None
            # One at a time: a wheel that turns fast must not start forty decoders.
            with self._slices:
                return rounded(self._axial(index))
        except (OSError, ValueError, LimnError) as error:
            msg = f"a plane can't be read: {error}"
            raise CtUnreadable(msg) from error

    def _written(self, axis: int, index: int) -> npt.NDArray[np.int16]:
        """A plane out of the files; a mapped file would count as memory of the board."""
        count, rows, columns = self.grid.shape_zyx
        if axis == 2:
            path, size = self._folder / BY_COLUMN, count * rows
            return np.fromfile(path, "<i2", size, offset=2 * index * size).reshape(count, rows)
        path, size = self._folder / BY_SLICE, rows * columns
        if axis == 0:
            return np.fromfile(path, "<i2", size, offset=2 * index * size).reshape(rows, columns)
        plane = np.empty((count, columns), "<i2")
        with path.open("rb", buffering=0) as file:
            for k in range(count):
                file.seek(2 * (k * size + index * columns))
                file.readinto(plane[k])
        return plane

    def _axial(self, place: int) -> npt.NDArray[np.float32]:
        after = int(np.searchsorted(self.rungs, place))
        above = read_slice(self._series, after)
        if self.rungs[after] == place:
            return above
        low, high = (int(self.rungs[k]) for k in (after - 1, after))
        return between(read_slice(self._series, after - 1), above, (place - low) / (high - low))
