"""The process that draws: ``python -m limn.node.shadow.drawing CONFIG SCAN...``, then it ends.

It has the lowest priority, writes one comparison after the other, and may be killed at any time:
a scan without a comparison is drawn again (D-272).
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from limn.dicom.uids import uid_from
from limn.domain.errors import LimnError
from limn.domain.records import OrganDifference, lights_of
from limn.domain.scan import Labels, labels_of
from limn.node import oplog
from limn.node.config import Config, load_config, with_bundle
from limn.node.contour.job import Job, Result
from limn.node.contour.site_bundle import label_of
from limn.node.contour.work.warm import Warm, warm_up
from limn.node.contour.work.worker import contour_here
from limn.node.host import lifetime
from limn.node.host.step_back import step_back
from limn.node.shadow.backlog import labels_path
from limn.node.store.disk.comparisons import Comparison, write_comparison
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow

log = logging.getLogger(__name__)


def draw(config_path: Path, scans: Sequence[int]) -> None:
    """Draw the scans with the shadow bundle, and write how they differ from what was delivered."""
    config = with_shadow(load_config(config_path))
    oplog.set_up(config.data_dir, "shadow", config.log)
    lifetime.end_with_supervisor()
    step_back()
    warm = warm_up(config, [config.verdicts_dir])
    with closing(JournalReader(config.journal_path)) as journal:
        for scan in scans:
            row = journal.scan(scan)
            job = job_of(journal, row, config)
            # One that hangs is killed, as a worker is.
            faulthandler.dump_traceback_later(job.deadline_s, exit=True)
            comparison, picture = compared(row, job, config, warm)
            faulthandler.cancel_dump_traceback_later()
            write_comparison(config.shadow_dir, comparison, picture)
            with oplog.about(scan=row.name, animal=row.animal):
                log.info("%s", _words(comparison))


def with_shadow(config: Config) -> Config:
    """The config with the shadow bundle in the place of the one that delivers."""
    return with_bundle(config, config.model.shadow or config.model.bundle)


def job_of(journal: JournalReader, row: ScanRow, config: Config) -> Job:
    """The job of a scan's animal, under UIDs of its own: nothing of it is sent or kept."""
    seed = f"shadow|{row.series_instance_uid}|{row.input_digest}"
    structure_set = journal.structure_set_of(row.id)
    return Job(
        scan=row.id,
        animal=row.animal,
        paths=tuple(str(Path(row.folder) / name) for name in row.files),
        model=config.model,
        planning_system=config.planning_system,
        sop_instance_uid=uid_from(seed),
        series_instance_uid=uid_from(f"series|{seed}"),
        date=structure_set.date,
        time=structure_set.time,
        predecessor_uid="",
        deadline_s=config.engine.deadline_s,
        judge=config.judge,
        roi=config.roi,
        input_digest=row.series_digest,
        received_at=row.last_slice_at + row.settle_s,
        delivered=False,
        animal_number=row.animal_number,
        animal_name=row.animal_name,
        one_of_several=len(journal.animals_of(row.id)) > 1,
    )


def compared(row: ScanRow, job: Job, config: Config, warm: Warm) -> tuple[Comparison, bytes]:
    """Draw one scan: the comparison, and the picture of where the two differ most."""
    bundle = warm.ensemble.bundle
    known: dict[str, Any] = {
        "scan": row.id,
        "animal": row.animal,
        "at": time.time(),
        "old": str(row.record.get("bundle", "")),
        "old_sha256": str(row.record.get("bundle_sha256", row.bundle_sha256)),
        "new": bundle.label,
        "new_sha256": bundle.sha256,
    }
    try:
        result = contour_here(job, label_of(config, bundle), warm)
        if result.ended:
            return Comparison(**known, outcome="failed", reason=_last_line(result.reason)), b""
        old, new = labels_of(labels_path(config, row).read_bytes()), labels_of(result.labels)
        organs = _organs(row, result, old, new)
        picture = _picture(job, old, new, organs)
    except (LimnError, OSError, KeyError, ValueError) as error:
        # Retention may have removed the files meanwhile, or an earlier limn drawn the scan.
        return Comparison(**known, outcome="failed", reason=_last_line(str(error))), b""
    timed = known | {
        "at": time.time(),
        "old_light": str(row.record.get("light", "")),
        "new_light": str(result.record.get("light", "")),
        "old_s": row.record.get("runtime_s"),
        "new_s": result.record.get("runtime_s"),
    }
    return Comparison(**timed, organs=organs), picture


def _organs(row: ScanRow, result: Result, old: Labels, new: Labels) -> tuple[OrganDifference, ...]:
    from limn.segment.compare.difference import differences  # noqa: PLC0415

    return differences(old, new, lights_of(row.record), lights_of(result.record))


def _picture(job: Job, old: Labels, new: Labels, organs: Sequence[OrganDifference]) -> bytes:
    from limn.dicom.series import assemble  # noqa: PLC0415
    from limn.dicom.volume import read_headers, read_volume  # noqa: PLC0415
    from limn.segment.draw.picture.difference_sheet import draw_difference  # noqa: PLC0415

    series = assemble(read_headers([Path(path) for path in job.paths]), assume_hu=True)
    return draw_difference(read_volume(series), old, new, organs)


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")


def _words(comparison: Comparison) -> str:
    if comparison.outcome == "failed":
        return f"the shadow {comparison.new} drew nothing: {comparison.reason}"
    return (
        f"drawn by the shadow {comparison.new} too: least DSC to {comparison.old} "
        f"{comparison.least_dsc:.3f}"
    )


if __name__ == "__main__":
    draw(Path(sys.argv[1]), [int(number) for number in sys.argv[2:]])
