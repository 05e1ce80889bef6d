"""Estimates when a scan's structure set will be ready, from the node's own last scans."""

from __future__ import annotations

import heapq
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.errors import InvalidDicomError

from limn.dicom.bounded import DAMAGES, read
from limn.domain.timing import RUNTIME_STAGES
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow

# So many of the last scans are looked at, and so many of a like size decide.
LAST = 50
DECIDING = 5
# A scan of up to so many times more or fewer voxels is of a like size.
LIKE = 2.0
# A scan that a full GPU left to the CPU says nothing about the next one, and neither does one that
# every fold saw as a whole.
UNUSUAL = ("gpu-out-of-memory", "chest-unsure")
# In this order on a worker.
WORKER_STAGES = (*RUNTIME_STAGES, "picture_s")
_GRID = re.compile(r"(\d+)x(\d+)x(\d+) ")


def expected_s(records: Sequence[Mapping[str, Any]], voxels: int) -> float | None:
    """Seconds that a worker needs for a scan of so many voxels; None if no scan was like it.

    The median of the last scans of a like size, per voxel. Only scans count that ran as the last
    one did: same device and precision, same profile of the ensemble.

    Parameters
    ----------
    records : of scans with one bundle, newest first
    """
    per_voxel_s = [
        (float(each.get("runtime_s", 0.0)) + float(each.get("picture_s", 0.0))) / _voxels_of(each)
        for each in like(records, voxels)
    ]
    return statistics.median(per_voxel_s[:DECIDING]) * voxels if per_voxel_s else None


def like(records: Sequence[Mapping[str, Any]], voxels: int) -> list[Mapping[str, Any]]:
    """The scans of a like size that ran as the last one did, newest first."""
    usual = [
        each for each in records if not any(flag in str(each.get("flags", "")) for flag in UNUSUAL)
    ]
    if not voxels:
        return []
    return [
        each
        for each in usual
        if _way(each) == _way(usual[0]) and voxels / LIKE <= _voxels_of(each) <= voxels * LIKE
    ]


def how_far(
    records: Sequence[Mapping[str, Any]], stage: str, share_of_stage: float
) -> tuple[float, float] | None:
    """The share of a scan's work that is done, and the seconds that are left; None if unknown.

    Parameters
    ----------
    records : of scans with one bundle that ran in the same way, newest first
    stage : in which the scan is
    share_of_stage : of it that is done, 0 to 1
    """
    stages_s = {
        name: statistics.median(float(each.get(name) or 0.0) for each in records[:DECIDING])
        for name in WORKER_STAGES
        if records
    }
    whole_s = sum(stages_s.values())
    if stage not in stages_s or whole_s <= 0.0:
        return None
    before_s = sum(stages_s[name] for name in WORKER_STAGES[: WORKER_STAGES.index(stage)])
    done_s = before_s + share_of_stage * stages_s[stage]
    return done_s / whole_s, whole_s - done_s


def _way(record: Mapping[str, Any]) -> tuple[object, object]:
    return record.get("device"), record.get("ensemble_profile")


def _voxels_of(record: Mapping[str, Any]) -> int:
    found = _GRID.match(str(record.get("grid", "")))
    return int(found[1]) * int(found[2]) * int(found[3]) if found else 0


def waits_s(
    running_s: Iterable[float], runs_s: Sequence[float | None], workers: int
) -> list[float]:
    """Seconds until a worker is free for each of the scans that wait, in their order.

    Parameters
    ----------
    running_s : how long each worker that has a scan still needs
    runs_s : how long each waiting scan runs; None, which is not known, counts as no time
    workers : how many there are
    """
    busy = sorted(running_s)
    free = busy + [0.0] * max(0, workers - len(busy))
    heapq.heapify(free)
    waits = []
    for run_s in runs_s:
        at_s = heapq.heappop(free) if free else 0.0
        waits.append(at_s)
        heapq.heappush(free, at_s + (run_s or 0.0))
    return waits


class Estimator:
    """How long scans run on this node's workers, by its journal."""

    def __init__(self, journal: JournalReader, bundle_sha256: str) -> None:
        self._journal = journal
        self._bundle_sha256 = bundle_sha256
        self._records: list[dict[str, Any]] | None = None
        self._voxels: dict[int, int] = {}

    def forget(self) -> None:
        """Read the records anew at the next call: a scan has ended."""
        self._records = None
        self._voxels.clear()

    def run_s(self, row: ScanRow) -> float | None:
        """Seconds that a worker needs for a scan; None if that is not known."""
        if self._records is None:
            self._records = self._journal.last_records(self._bundle_sha256, LAST)
        if not self._records:
            return None
        return expected_s(self._records, self._voxels_of(row))

    def how_far(
        self, row: ScanRow, stage: str, share_of_stage: float
    ) -> tuple[float, float] | None:
        """As the function, by this node's last scans of a like size."""
        if self._records is None:
            self._records = self._journal.last_records(self._bundle_sha256, LAST)
        return how_far(like(self._records, self._voxels_of(row)), stage, share_of_stage)

    def _voxels_of(self, row: ScanRow) -> int:
        if row.id not in self._voxels:
            self._voxels[row.id] = voxels_in(row)
        return self._voxels[row.id]


def voxels_in(row: ScanRow) -> int:
    """Number of voxels of a scan, by the header of its first file; 0 if it can't be read."""
    try:
        header = read(Path(row.folder, row.files[0]), stop_before_pixels=True)
        frames = int(header.get("NumberOfFrames") or 1)
        return int(header.Rows) * int(header.Columns) * frames * len(row.files)
    except (InvalidDicomError, IndexError, *DAMAGES):
        return 0
