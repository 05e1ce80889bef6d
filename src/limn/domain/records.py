"""The records that a physicist reads: of a scan, of each ROI of it, and of two contours of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from limn.domain.scan import Organ

SCHEMA_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRecord:
    """The record of one scan for a physicist; one row of the scan log.

    Times are UTC (ISO 8601), durations are seconds. ``door_to_door_s`` runs from the arrival of
    the last slice to the acceptance by the planning system and is the sum of
    `DOOR_TO_DOOR_STAGES`. ``receive_s``, from the first slice to the last, lies before it.
    ``overhead_s`` belongs to no stage: hand-overs between processes. ``runtime_s`` is the paper's.
    A structure set that was held until a person released it has a flag such as ``held:5025s``;
    neither ``deliver_s`` nor ``door_to_door_s`` includes these seconds. ``*_fold_dsc`` is the
    agreement of the folds: the mean DSC over all pairs, before clean-up. ``light`` is that of the
    scan. The columns of heart, cord and lungs are of the organs with these roles; `RoiRecord` has
    every ROI. What was not measured is None, and empty in the log; so is what belongs to a role
    that no organ of the bundle has.
    """

    schema_version: int = SCHEMA_VERSION
    scan_id: str = ""
    version: int = 1
    outcome: str = ""
    animal: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    rtstruct_sop_instance_uid: str = ""
    sender: str = ""
    destination: str = ""
    destination_status: str = ""
    last_slice_utc: str = ""
    accepted_utc: str = ""
    limn_version: str = ""
    bundle: str = ""
    bundle_sha256: str = ""
    profile: str = ""
    device: str = ""
    ensemble_profile: str = ""
    grid: str = ""
    tries: int = 0
    receive_s: float = 0.0
    settle_s: float = 0.0
    queue_s: float | None = None
    transfer_s: float | None = None
    read_s: float | None = None
    preprocess_s: float | None = None
    inference_s: float | None = None
    clean_s: float | None = None
    judge_s: float | None = None
    trace_s: float | None = None
    rtstruct_s: float | None = None
    prove_s: float | None = None
    picture_s: float | None = None
    deliver_s: float | None = None
    overhead_s: float | None = None
    runtime_s: float | None = None
    door_to_door_s: float | None = None
    heart_mm3: float | None = None
    cord_mm3: float | None = None
    lung_r_mm3: float | None = None
    lung_l_mm3: float | None = None
    heart_removed_voxels: int | None = None
    cord_removed_voxels: int | None = None
    lung_r_removed_voxels: int | None = None
    lung_l_removed_voxels: int | None = None
    heart_fold_dsc: float | None = None
    cord_fold_dsc: float | None = None
    lung_r_fold_dsc: float | None = None
    lung_l_fold_dsc: float | None = None
    light: str = ""
    heart_light: str = ""
    cord_light: str = ""
    lung_r_light: str = ""
    lung_l_light: str = ""
    heart_predicted_dsc: float | None = None
    cord_predicted_dsc: float | None = None
    lung_r_predicted_dsc: float | None = None
    lung_l_predicted_dsc: float | None = None
    flags: str = ""
    reason: str = ""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(each.name for each in fields(cls))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoiRecord:
    """One ROI of a contoured scan; one row of the table of ROIs.

    A scan has as many rows as ROIs, so that a spreadsheet filters or pivots them and pandas groups
    them, whatever organs a bundle has. ``scan_id`` leads to the scan's own row. What is not known
    is None, and empty in the table.

    Attributes
    ----------
    organ : name of the bundle; empty for an ROI that no network drew
    role : a value of `Role`; empty for any other organ
    roi : name in the structure set
    derived : how it was made, of an ROI that no network drew
    removed_voxels : of islands
    fold_dsc : agreement of the folds
    predicted_* : DSC with the interval that holds nine of ten truths, and 95 % distance in mm
    """

    schema_version: int = SCHEMA_VERSION
    scan_id: str = ""
    version: int = 1
    outcome: str = ""
    animal: str = ""
    series_instance_uid: str = ""
    last_slice_utc: str = ""
    bundle: str = ""
    organ: str = ""
    role: str = ""
    roi: str = ""
    volume_mm3: float | None = None
    mean_hu: float | None = None
    derived: str = ""
    removed_voxels: int | None = None
    fold_dsc: float | None = None
    light: str = ""
    predicted_dsc: float | None = None
    predicted_dsc_low: float | None = None
    predicted_dsc_high: float | None = None
    predicted_hd95_mm: float | None = None

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(each.name for each in fields(cls))


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganDifference:
    """One organ as two bundles drew it.

    Attributes
    ----------
    dsc : Dice similarity coefficient; None if one bundle has no such organ
    hd95_mm : 95 % Hausdorff distance; None if either contour is absent or empty
    old_mm3, new_mm3 : volumes; None if that bundle has no such organ
    old_light, new_light : empty if that bundle's contour has none
    """

    organ: Organ
    dsc: float | None
    hd95_mm: float | None
    old_mm3: float | None
    new_mm3: float | None
    old_light: str = ""
    new_light: str = ""

    @property
    def change_percent(self) -> float | None:
        """Volume change from the old to the new contour; None if either has no volume."""
        if not self.old_mm3 or self.new_mm3 is None:
            return None
        return 100.0 * (self.new_mm3 - self.old_mm3) / self.old_mm3


def lights_of(record: Mapping[str, Any]) -> dict[Organ, str]:
    """The light of each organ in a scan's record, as a worker gives it."""
    return {
        Organ(str(roi["organ"])): str(roi.get("light") or "")
        for roi in record.get("rois", ())
        if roi.get("organ")
    }


def least_dsc(organs: Sequence[OrganDifference]) -> float:
    """The DSC of the organ that differs most; 1 if no organ is in both."""
    return min((each.dsc for each in organs if each.dsc is not None), default=1.0)
