"""The scans of a site's data set, each as it is and spoilt in its pixels, to teach a judge by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Labels
from limn.lab.data.dataset import read_dataset
from limn.lab.data.organs import DatasetOrgans, read_organs
from limn.lab.data.readers import read_ct
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
    organs: DatasetOrgans

    def make(self) -> SpoiltScan:
        """Read it, and spoil it."""
        volume = read_ct(self.ct, "")
        labels_zyx = read_ct(self.contours, "").hu_zyx.astype(np.uint8)
        truth = Labels(labels_zyx, volume.grid, self.organs.organs, self.organs.roles)
        return spoil(volume, truth, self.fault, self.seed)


def dataset_set(folder: Path) -> tuple[SpoiltCase, ...]:
    """Every scan of a data set on which all organs are contoured, as it is and spoilt.

    The truth is that of a phantom, else the first observer's.

    Raises
    ------
    ConfigWrong
        If the data set can't be read, or no scan of it can teach.
    """
    kinds = [fault for fault in PIXEL_FAULTS if fault not in UNSEEN]
    cases: list[SpoiltCase] = []
    organs = read_organs(folder)
    for entry in read_dataset(folder):
        drawn = entry.truth or entry.observer1
        if not drawn or not _whole(folder / drawn, organs):
            continue
        for turn in range(1 + SPOILT_EACH):
            k = len(cases)
            fault = "none" if turn == 0 else kinds[(k - k // (1 + SPOILT_EACH)) % len(kinds)]
            cases.append(SpoiltCase(folder / entry.ct, folder / drawn, fault, k, organs))
    if not cases:
        msg = (
            f"{folder}: no scan has contours of {' and '.join(organs.organs.values())}, each apart"
        )
        raise ConfigWrong(msg)
    return tuple(cases)


def _whole(path: Path, organs: DatasetOrgans) -> bool:
    """Whether every organ was drawn, and none of them as one with another."""
    labels = np.unique(read_ct(path, "").hu_zyx)
    return set(organs.organs) == {int(label) for label in labels if label}
