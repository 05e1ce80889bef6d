"""The scans of a site's data set, each as it is and spoilt in its pixels, to teach a judge by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Labels
from limn.lab.data.dataset import read_dataset
from limn.lab.data.readers import read_ct
from limn.phantom.anatomy import TRUTH_LABELS
from limn.phantom.faults import PIXEL_FAULTS, UNSEEN, SpoiltScan, spoil

# Of each scan, so many spoilt ones for one as it is.
SPOILT_EACH = 3


@dataclass(frozen=True, slots=True)
class SpoiltCase:
    """A scan of a data set with a fault; "none" for the scan as it is."""

    ct: Path
    contours: Path
    fault: str
    seed: int

    def make(self) -> SpoiltScan:
        """Read it, and spoil it."""
        volume = read_ct(self.ct, "")
        labels_zyx = read_ct(self.contours, "").hu_zyx.astype(np.uint8)
        return spoil(volume, Labels(labels_zyx, volume.grid, TRUTH_LABELS), self.fault, self.seed)


def dataset_set(folder: Path) -> tuple[SpoiltCase, ...]:
    """Every contoured scan of a data set whose lungs are apart, as it is and spoilt.

    The truth is that of a phantom, else the first observer's.

    Raises
    ------
    ConfigWrong
        If the data set can't be read, or no scan of it can teach.
    """
    kinds = [fault for fault in PIXEL_FAULTS if fault not in UNSEEN]
    cases: list[SpoiltCase] = []
    for entry in read_dataset(folder):
        drawn = entry.truth or entry.observer1
        if not drawn or not _lungs_apart(folder / drawn):
            continue
        for turn in range(1 + SPOILT_EACH):
            k = len(cases)
            fault = "none" if turn == 0 else kinds[(k - k // (1 + SPOILT_EACH)) % len(kinds)]
            cases.append(SpoiltCase(folder / entry.ct, folder / drawn, fault, k))
    if not cases:
        msg = f"{folder}: no scan has contours of heart, cord and both lungs apart"
        raise ConfigWrong(msg)
    return tuple(cases)


def _lungs_apart(path: Path) -> bool:
    labels = np.unique(read_ct(path, "").hu_zyx)
    return set(TRUTH_LABELS) == {int(label) for label in labels if label}
