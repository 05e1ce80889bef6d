"""Doubts about text that is burnt into the pixels of a series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_nr_frames

from limn.dicom.bounded import is_encapsulated

# Noise changes every voxel of a CT from slice to slice. Fewer slices show nothing.
LEAST_SLICES = 5
# Letters of a legible word have more pixels than this.
LEAST_PIXELS = 30
# A value that fills more of a slice than this share is padding around the field.
FILL_SHARE = 0.1


@dataclass(slots=True)
class PixelDoubt:
    """Pixels that are the same in every slice of a series, and are neither air nor padding.

    Attributes
    ----------
    constant : (y, x) bool, the same in all slices so far
    """

    constant: npt.NDArray[np.bool_] | None = None
    first: npt.NDArray[np.int64] | None = None
    least: int = 0
    slices: int = 0
    unread: int = 0

    def add(self, ds: Dataset) -> None:
        """Look at one more slice; compressed ones are counted and not looked at."""
        pixels = _pixels(ds)
        if pixels is None or (self.first is not None and pixels.shape != self.first.shape):
            self.unread += 1
            return
        self.slices += 1
        if self.first is None or self.constant is None:
            self.first, self.constant = pixels, np.ones(pixels.shape, dtype=np.bool_)
            self.least = int(pixels.min())
            return
        self.constant &= pixels == self.first
        self.least = min(self.least, int(pixels.min()))

    @property
    def pixels(self) -> int:
        """How many such pixels there are; 0 if there are too few slices to say."""
        if self.slices < LEAST_SLICES or self.first is None or self.constant is None:
            return 0
        # Fields of fill around the reconstructed circle have one value, of air or below.
        values, counts = np.unique(self.first[self.constant], return_counts=True)
        fill = set(values[counts > FILL_SHARE * self.constant.size].tolist()) | {self.least}
        count = int(np.isin(self.first[self.constant], list(fill), invert=True).sum())
        return count if count >= LEAST_PIXELS else 0


def _pixels(ds: Dataset) -> npt.NDArray[np.int64] | None:
    """The stored values (y, x) of a slice that is not compressed."""
    if is_encapsulated(ds) or "PixelData" not in ds or get_nr_frames(ds) != 1:
        return None
    kind = ("i" if ds.get("PixelRepresentation") else "u") + str(int(ds.BitsAllocated) // 8)
    order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
    values = np.frombuffer(ds.PixelData, dtype=order + kind)
    count = int(ds.Rows) * int(ds.Columns)
    if int(ds.get("SamplesPerPixel") or 1) != 1 or len(values) < count:
        return None
    return values[:count].astype(np.int64).reshape(int(ds.Rows), int(ds.Columns))
