"""Measures the stages of a scan, and defines its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

SCHEMA_VERSION = 3

# The stages whose sum is door_to_door_s, in their order.
DOOR_TO_DOOR_STAGES = (
    "settle_s",
    "queue_s",
    "transfer_s",
    "read_s",
    "preprocess_s",
    "inference_s",
    "clean_s",
    "judge_s",
    "trace_s",
    "rtstruct_s",
    "prove_s",
    "picture_s",
    "deliver_s",
    "overhead_s",
)
# The paper's runtime: "from data preparation up to exportation of the automated contours".
RUNTIME_STAGES = (
    "read_s",
    "preprocess_s",
    "inference_s",
    "clean_s",
    "judge_s",
    "trace_s",
    "rtstruct_s",
    "prove_s",
)


@dataclass(slots=True)
class Stopwatch:
    """Seconds per stage, from a monotonic clock that tests can replace."""

    clock: Callable[[], float] = time.perf_counter
    elapsed_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage such as ``read_s``."""
        started = self.clock()
        try:
            yield
        finally:
            self.elapsed_s[name] = self.elapsed_s.get(name, 0.0) + self.clock() - started


def in_words(seconds: float) -> str:
    """A duration for a person who waits."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


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
    scan; ``*_predicted_dsc`` is 0 where nothing was predicted.
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
    queue_s: float = 0.0
    transfer_s: float = 0.0
    read_s: float = 0.0
    preprocess_s: float = 0.0
    inference_s: float = 0.0
    clean_s: float = 0.0
    judge_s: float = 0.0
    trace_s: float = 0.0
    rtstruct_s: float = 0.0
    prove_s: float = 0.0
    picture_s: float = 0.0
    deliver_s: float = 0.0
    overhead_s: float = 0.0
    runtime_s: float = 0.0
    door_to_door_s: float = 0.0
    heart_mm3: float = 0.0
    cord_mm3: float = 0.0
    lung_r_mm3: float = 0.0
    lung_l_mm3: float = 0.0
    heart_removed_voxels: int = 0
    cord_removed_voxels: int = 0
    lung_r_removed_voxels: int = 0
    lung_l_removed_voxels: int = 0
    heart_fold_dsc: float = 0.0
    cord_fold_dsc: float = 0.0
    lung_r_fold_dsc: float = 0.0
    lung_l_fold_dsc: float = 0.0
    light: str = ""
    heart_light: str = ""
    cord_light: str = ""
    lung_r_light: str = ""
    lung_l_light: str = ""
    heart_predicted_dsc: float = 0.0
    cord_predicted_dsc: float = 0.0
    lung_r_predicted_dsc: float = 0.0
    lung_l_predicted_dsc: float = 0.0
    flags: str = ""
    reason: str = ""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(each.name for each in fields(cls))
