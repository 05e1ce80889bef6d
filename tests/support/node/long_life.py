"""A node's data after years: thousands of scans in journal, scan log and table of ROIs."""

import random
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from limn.domain.scan import TG263_ROLES
from limn.domain.timing import DOOR_TO_DOOR_STAGES, RUNTIME_STAGES
from limn.node.config import Config
from limn.node.deliver.scan_record import closed_record, roi_records
from limn.node.store.disk import scanlog
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from tests.support.node.parts import arrived

DAY_S = 86400.0
SCANNERS = ("CT-EAST@10.0.0.1", "CT-WEST@10.0.0.2")
COHORTS = ("C57-A", "C57-B", "FVB-T", "NSG")
# Typical seconds of what a worker does; the whole is some 9 s.
USUAL_S = {
    "transfer_s": 0.02,
    "read_s": 0.5,
    "preprocess_s": 0.7,
    "inference_s": 4.4,
    "clean_s": 0.15,
    "judge_s": 0.1,
    "trace_s": 0.2,
    "rtstruct_s": 0.3,
    "prove_s": 0.3,
    "picture_s": 0.4,
}
VOLUMES_MM3 = {"heart": 190.0, "cord": 42.0, "lung_r": 310.0, "lung_l": 160.0}
HU = {"heart": 60.0, "cord": 45.0, "lung_r": -520.0, "lung_l": -530.0}


@dataclass(frozen=True)
class Life:
    """How many scans came in how many days until ``now`` (UTC s); every twentieth ended badly."""

    count: int
    days: float
    now: float
    slices: int = 400


def live_long(config: Config, life: Life, picture: Path | None = None) -> None:
    """Write a node's past through the store's own writers; without waiting for the disk each time.

    Parameters
    ----------
    picture : of every scan
    """
    dice = random.Random(7)  # noqa: S311 - made-up times
    names = tuple(f"CT.1.2.826.0.1.{k:06d}.dcm" for k in range(life.slices))
    records, rois = [], []
    with closing(Journal(config.journal_path)) as journal:
        journal._db.execute("pragma synchronous = off")
        for number in range(1, life.count + 1):
            row, record, table = _scan(journal, life, number, names, dice)
            records.append(record)
            rois += table
            if picture is not None:
                folder = config.results_dir / row.name
                folder.mkdir(parents=True)
                (folder / "picture.png").hardlink_to(picture)
    scanlog.append(scanlog.roi_table(config.scan_log_path), *rois)
    scanlog.append(config.scan_log_path, *records)


def _scan(journal, life, number, names, dice):
    """One scan from its last slice to its rows."""
    back_s = (life.count - number) / life.count * life.days * DAY_S
    last_slice_at = life.now - 300.0 - back_s
    settle_s, cohort = dice.uniform(2.0, 2.4), COHORTS[number % len(COHORTS)]
    row = journal.insert(
        arrived(
            series_instance_uid=f"2.25.{number}",
            input_digest=f"d{number}",
            study_instance_uid=f"2.25.9.{number // 4}",
            animal=f"{cohort}-{number // 4 % 40:02d}",
            sender=SCANNERS[number % 3 % 2],
            folder=f"/spool/{number}",
            files=names,
            receive_s=dice.uniform(20.0, 60.0),
            settle_s=settle_s,
            last_slice_at=last_slice_at,
            ready_at=last_slice_at + settle_s,
        ),
        ("tps", "export"),
    )
    journal.started(row.id)
    if number % 20 == 0:
        journal.end(row.id, "refused", "RescaleSlope absent in CT.1.2.826.0.1.000007.dcm", {})
        row = journal.scan(row.id)
        journal.mark_logged(row.id)
        return row, closed_record(row, None, None), []
    made = _record(number, row, dice)
    queue_s = float(made["queue_s"])
    contoured_at = row.ready_at + queue_s + sum(made[stage] for stage in USUAL_S)
    made["contoured_at"] = contoured_at
    journal.contoured(row.id, f"/rs/{number}.dcm", made, None, "c" * 64)
    accepted_at = contoured_at + dice.uniform(0.3, 0.6)
    for delivery in journal.deliveries(row.id):
        journal.delivered(delivery.id, "0x0000", accepted_at)
    journal.mark_logged(row.id)
    row, delivery = journal.scan(row.id), journal.deliveries(row.id)[0]
    record = closed_record(row, delivery, journal.structure_set_of(row.id))
    return row, record, roi_records(row, record)


def _record(number: int, row: ScanRow, dice: random.Random) -> dict[str, object]:
    """What a worker says of a scan; every 97th waited in the queue, every 131st was large."""
    large = 6.0 if number % 131 == 0 else 1.0
    spent = {
        stage: usual * large * dice.lognormvariate(0.0, 0.08) for stage, usual in USUAL_S.items()
    }
    spent["queue_s"] = dice.uniform(20.0, 90.0) if number % 97 == 0 else dice.uniform(0.02, 0.2)
    age = number / 4000.0
    organs = [
        {
            "organ": str(TG263_ROLES[role]),
            "role": str(role),
            "roi": str(TG263_ROLES[role]),
            "volume_mm3": VOLUMES_MM3[role] * dice.uniform(0.95, 1.05),
            "mean_hu": HU[role] * dice.uniform(0.97, 1.03) + 20.0 * age,
            "removed_voxels": 0,
            "fold_dsc": 0.97,
            "light": "green",
            "predicted_dsc": 0.95,
            "predicted_dsc_low": 0.91,
            "predicted_dsc_high": 0.98,
            "predicted_hd95_mm": 0.3,
        }
        for role in TG263_ROLES
    ]
    light = "amber" if number % 9 == 0 else "red" if number % 111 == 0 else "green"
    side = 400 if large > 1 else 224
    return {
        "limn_version": "0.1.0",
        "bundle": "phantom-7",
        "bundle_sha256": row.bundle_sha256,
        "device": "cpu openvino int8",
        "ensemble_profile": "fast",
        "grid": f"{side}x{side}x{side} 0.1400x0.1400x0.1400 mm",
        "flags": f"light:{light}" + (" cut:Lung_L" if number % 50 == 0 else ""),
        "light": light,
        "runtime_s": sum(spent[stage] for stage in RUNTIME_STAGES),
        "rois": organs,
        **{f"{each['role']}_mm3": each["volume_mm3"] for each in organs},
        **{stage: spent[stage] for stage in DOOR_TO_DOOR_STAGES if stage in spent},
    }
