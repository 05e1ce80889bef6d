"""A process that writes the voxels of a series to files, twice: each plane is then read at once.

``python -m limn.node.board.viewer.write_ct FOLDER``. It has the lowest priority, so that a worker
never waits for it, and ends with the board.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.dicom.series import Series, assemble
from limn.dicom.volume import read_headers, read_slices
from limn.domain.errors import LimnError
from limn.node.host.lifetime import end_with_supervisor
from limn.node.host.step_back import step_back

# Planes that are written at once in the order of columns.
BLOCK = 16
# Files in the folder: voxels slice by slice, voxels column by column, and that all are there.
BY_SLICE, BY_COLUMN, WHOLE = "hu_zyx.i2", "hu_xzy.i2", "whole"
# What the process is to do: the series' files, and whether their values are HU.
ORDER = "order.json"


def rounded(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """HU as whole numbers of 16 bits, little endian."""
    return np.clip(np.rint(hu), -32768, 32767).astype("<i2")


def write_ct(series: Series, folder: Path) -> None:
    """Write every slice of the even ladder; missing ones are interpolated.

    Raises
    ------
    RefusedSeries
        If a slice can't be decoded.
    OSError
        If the disk has no room.
    """
    count = int(series.rungs[-1]) + 1
    rows, columns = series.grid.rows, series.grid.columns
    with (folder / BY_SLICE).open("wb") as by_slice, (folder / BY_COLUMN).open("wb") as by_column:
        block: list[npt.NDArray[np.int16]] = []
        for k, hu_yx in enumerate(_evened(series)):
            block.append(rounded(hu_yx))
            by_slice.write(block[-1].tobytes())
            if len(block) == BLOCK or k == count - 1:
                first, turned = k + 1 - len(block), np.stack(block).transpose(2, 0, 1)
                for x in range(columns):
                    by_column.seek((x * count + first) * rows * 2)
                    by_column.write(turned[x].tobytes())
                block = []
    (folder / WHOLE).touch()


def _evened(series: Series) -> Iterator[npt.NDArray[np.float32]]:
    """The slices of the even ladder in their order."""
    before: npt.NDArray[np.float32] | None = None
    at = -1
    slices = read_slices(series, range(len(series.slices)))
    for rung, hu_yx in zip(series.rungs.tolist(), slices, strict=True):
        for place in range(at + 1, rung):
            if before is not None:
                yield between(before, hu_yx, (place - at) / (rung - at))
        yield hu_yx
        before, at = hu_yx, rung


def between(
    below: npt.NDArray[np.float32], above: npt.NDArray[np.float32], share: float
) -> npt.NDArray[np.float32]:
    """A slice that the series lacks, as `limn.dicom.volume` interpolates it."""
    part = np.float32(share)
    return below * (1 - part) + above * part


def main(folder: Path) -> None:
    """Write the voxels of the series that the order in a folder names."""
    step_back()
    end_with_supervisor()
    order = json.loads((folder / ORDER).read_bytes())
    paths = [Path(path) for path in order["paths"]]
    try:
        write_ct(assemble(read_headers(paths), assume_hu=order["assume_hu"]), folder)
    except (LimnError, OSError) as error:
        sys.exit(f"the board's viewer has no planes of {folder.name}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
