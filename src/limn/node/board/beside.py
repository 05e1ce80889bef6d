"""What stands beside one scan: reasons of its lights, usual volumes, its lines of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from limn.node import oplog
from limn.node.config import Config
from limn.node.store.disk import scanlog
from limn.node.store.disk.comparisons import Comparison, read_comparisons
from limn.node.store.journal.rows import ScanRow

# Of the table of ROIs, some thousand scans; of the running log, some ten thousand lines.
TABLE_BYTES, LOG_BYTES = 2**21, 2**22
MOST_LINES = 200
# Fewer scans show no range.
LEAST_SCANS = 5


@dataclass(frozen=True, slots=True)
class Usual:
    """Volumes of an ROI in the delivered scans of one bundle: 5th to 95th percentile."""

    low_mm3: float
    high_mm3: float
    count: int

    def holds(self, volume_mm3: object) -> bool:
        """Whether a volume lies in the range; one that nobody knows is not outside."""
        if not isinstance(volume_mm3, int | float):
            return True
        return self.low_mm3 <= volume_mm3 <= self.high_mm3


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What stands beside one scan.

    Attributes
    ----------
    concerns : light, organ and reason, the most important first
    usual : by name of the ROI; empty if too few scans of its bundle are known
    lines : of the running log, oldest first
    shadows : what a shadow bundle drew of it
    """

    concerns: tuple[Mapping[str, str], ...]
    usual: Mapping[str, Usual]
    lines: tuple[oplog.Line, ...]
    shadows: tuple[Comparison, ...] = ()


def beside(config: Config, row: ScanRow) -> Beside:
    """Read it, within bounds; what can't be read is left out."""
    concerns: Sequence[Mapping[str, str]] = row.record.get("concerns", ())
    try:
        rows = scanlog.rows_at_end(scanlog.roi_table(config.scan_log_path), TABLE_BYTES)
    except OSError:
        rows = []
    try:
        lines = oplog.lines_about(config.data_dir, row.name, LOG_BYTES)
    except OSError:
        lines = []
    return Beside(
        concerns=tuple(concerns),
        usual=usual_of(rows, str(row.record.get("bundle", "")), row.name),
        lines=tuple(lines[-MOST_LINES:]),
        shadows=tuple(read_comparisons(config.shadow_dir, scan=row.id)),
    )


def usual_of(rows: Sequence[Mapping[str, str]], bundle: str, scan: str) -> dict[str, Usual]:
    """The range of each ROI's volume in the other delivered scans of a bundle.

    A scan that was delivered several times counts once, with its last row.

    Parameters
    ----------
    rows : of the table of ROIs, oldest first
    """
    volumes_mm3: dict[str, dict[str, float]] = {}
    for row in rows:
        of_others = row.get("bundle") == bundle and row.get("scan_id") != scan
        if of_others and row.get("outcome") == "delivered":
            with suppress(KeyError, ValueError):
                volumes_mm3.setdefault(row["roi"], {})[row["scan_id"]] = float(row["volume_mm3"])
    found = {}
    for roi, by_scan in volumes_mm3.items():
        if len(by_scan) >= LEAST_SCANS:
            low, high = np.percentile(list(by_scan.values()), (5, 95))
            found[roi] = Usual(float(low), float(high), len(by_scan))
    return found
