"""Exports a node's scans with the structure sets that persons sent back (D-293)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from limn.domain.edits.corrections import CorrectedScan, usable_scans
from limn.domain.errors import ConfigWrong
from limn.lab.export.export import export_files


def export_returned(
    corrected: Sequence[CorrectedScan],
    data_dir: Path,
    out: Path,
    key_file: Path | None,
    keep_rois: Collection[str],
    report: Callable[[str], None],
) -> None:
    """De-identify the scans that `limn lab import --returned` takes, and what came back of each.

    Parameters
    ----------
    data_dir : of the node, in which nothing is written
    out, key_file, keep_rois : as of `export_folder`

    Raises
    ------
    ConfigWrong, StageFailed
        As `export_folder`, or if no scan can be used.
    """
    usable = list(usable_scans(corrected, report))
    if not usable:
        msg = "no corrected scan can be used; each is named above with the reason"
        raise ConfigWrong(msg)
    files = [path for each in usable for path in (*each.slices, each.structure_set)]
    organs = {
        each.structure_set: {roi: organ for organ, roi in each.organs.items()} for each in usable
    }
    export_files(files, data_dir, out, key_file, keep_rois, report, organs)
