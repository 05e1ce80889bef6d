"""The final record of a scan and its times, from the journal's rows alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from limn import __version__
from limn.domain.records import RoiRecord, ScanRecord
from limn.domain.scan import TG263_ROLES
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.commissioning import KEPT_FOR_PHANTOMS, is_commissioning
from limn.node.deliver.clock_history import ClockHistory
from limn.node.store.journal.rows import DeliveryRow, ScanRow, StructureSetRow
from limn.node.store.journal.states import DeliveryState
from limn.node.store.remedies import by_whom, end_reason, release_words

# Until a courier has it.
_WORKER_STAGES = tuple(
    stage for stage in DOOR_TO_DOOR_STAGES if stage not in ("deliver_s", "overhead_s")
)
# A difference of the clocks that is a step, and no rounding.
_STEP_S = 1.0
# In the scan log "refused" is a scan that limn refused.
_OUTCOMES = {state: state.value for state in DeliveryState} | {
    DeliveryState.REFUSED: "refused by peer"
}


def closed_record(
    row: ScanRow,
    delivery: DeliveryRow | None,
    structure_set: StructureSetRow | None,
    clock: ClockHistory | None = None,
    preview_at: float | None = None,
) -> ScanRecord:
    """The scan's final record; ``overhead_s`` is the time that belongs to no stage.

    Parameters
    ----------
    clock : knows the steps of the wall clock since this process began; None if none is known
    preview_at : when a destination took the scan's preview (UTC s); None if none did
    """
    clock = clock or ClockHistory()
    held_s = _held_s(row, structure_set, clock)
    resent_s = max(0.0, structure_set.intervention_s) if structure_set is not None else 0.0
    known = _known(row, delivery, structure_set, clock)
    known.setdefault("limn_version", __version__)
    known.setdefault("bundle_sha256", row.bundle_sha256)
    if delivery is not None:
        known |= {"destination": delivery.destination, "destination_status": delivery.status}
        if delivery.accepted_at is not None:
            excluded_s = max(0.0, row.intervention_s) + held_s + resent_s
            known |= _door_to_door(row, known, delivery.accepted_at, excluded_s, clock)
    if intervention_s := max(0.0, row.intervention_s) + resent_s:
        known["flags"] = f"{known.get('flags', '')} again:{intervention_s:.0f}s".strip()
    if preview_at is not None and preview_at >= row.last_slice_at:
        preview_s = max(0.0, clock.elapsed_s(row.last_slice_at, preview_at))
        known["flags"] = f"{known.get('flags', '')} preview:{preview_s:.0f}s".strip()
    if is_commissioning(row.animal) and row.reason != KEPT_FOR_PHANTOMS:
        known["flags"] = f"{known.get('flags', '')} commissioning".strip()
    if structure_set is not None:
        known |= _decision(structure_set, held_s, str(known.get("flags", "")))
    return ScanRecord(**known)


def roi_records(row: ScanRow, record: ScanRecord) -> list[RoiRecord]:
    """The ROIs of a contoured scan; an earlier limn recorded volumes by role alone."""
    if not row.record.get("bundle"):
        return []
    listed: list[dict[str, Any]] = row.record.get("rois") or [
        {
            "organ": organ,
            "role": role.value,
            "volume_mm3": row.record[f"{role}_mm3"],
            "removed_voxels": row.record.get(f"{role}_removed_voxels"),
            "fold_dsc": row.record.get(f"{role}_fold_dsc"),
            "light": row.record.get(f"{role}_light", ""),
        }
        for role, organ in TG263_ROLES.items()
        if f"{role}_mm3" in row.record
    ]
    known = RoiRecord.columns()
    return [
        RoiRecord(
            scan_id=record.scan_id,
            version=record.version,
            outcome=record.outcome,
            animal=record.animal,
            series_instance_uid=record.series_instance_uid,
            last_slice_utc=record.last_slice_utc,
            bundle=record.bundle,
            **{name: value for name, value in each.items() if name in known},
        )
        for each in listed
    ]


def _known(
    row: ScanRow,
    delivery: DeliveryRow | None,
    structure_set: StructureSetRow | None,
    clock: ClockHistory,
) -> dict[str, Any]:
    """What the worker recorded, and what the journal's rows say of themselves."""
    known: dict[str, Any] = {
        name: value for name, value in row.record.items() if name in ScanRecord.columns()
    }
    if row.state == "contoured":
        # A stage that had nothing to do took no time; of a scan that failed it is not known.
        known = dict.fromkeys(_WORKER_STAGES, 0.0) | known
    if row.record.get("bundle"):
        known |= _not_sought(row.record)
    if "queue_s" in known:
        known["queue_s"] = _queue_s(row, float(known["queue_s"]), clock)
    return known | {
        "scan_id": row.name,
        "version": row.version,
        "outcome": row.state if delivery is None else _OUTCOMES[DeliveryState(delivery.state)],
        "animal": row.animal,
        "study_instance_uid": row.study_instance_uid,
        "series_instance_uid": row.series_instance_uid,
        "rtstruct_sop_instance_uid": structure_set.sop_instance_uid if structure_set else "",
        "sender": row.sender,
        "last_slice_utc": _utc(row.last_slice_at),
        "profile": row.profile,
        "tries": row.tries,
        "receive_s": row.receive_s,
        "settle_s": row.settle_s,
        "reason": _reason(row),
    }


def _not_sought(record: dict[str, Any]) -> dict[str, None]:
    """The columns of roles that no organ of the scan's bundle has: a 0 would say "not found"."""
    absent = [role for role in TG263_ROLES if f"{role}_mm3" not in record]
    kinds = ("mm3", "removed_voxels", "fold_dsc", "predicted_dsc")
    return {f"{role}_{kind}": None for role in absent for kind in kinds}


def _reason(row: ScanRow) -> str:
    """Why the scan ended; for one that a person dismissed, first who did, when and why."""
    if row.dismissed_at is None:
        return row.reason
    return (
        f"dismissed at {_utc(row.dismissed_at)}{by_whom(row.dismissed_by)}: {row.dismissed}; "
        f"it was {row.state}: {end_reason(row)}"
    )


def _decision(structure_set: StructureSetRow, held_s: float, flags: str) -> dict[str, str]:
    """What a person's release or discard changes in the record."""
    changed: dict[str, str] = {}
    if structure_set.released_at is not None:
        changed["flags"] = f"{flags} held:{held_s:.0f}s".strip()
        signed = structure_set.released_by or structure_set.release_why
        released = f", {release_words(structure_set)}" if signed else ""
        until = _utc(structure_set.released_at)
        changed["reason"] = f"held until {until}{released}: {structure_set.held}"
    if structure_set.discarded_at is not None:
        changed |= {
            "outcome": "discarded",
            # No destination was offered it.
            "destination": "",
            "destination_status": "",
            "reason": f"discarded at {_utc(structure_set.discarded_at)}"
            f"{by_whom(structure_set.discarded_by)}: {structure_set.discarded}; "
            f"it was held: {structure_set.held}",
        }
    return changed


def _queue_s(row: ScanRow, queue_s: float, clock: ClockHistory) -> float:
    """The one stage that is a difference of wall-clock times, without a step of the clock."""
    true_s = clock.elapsed_s(row.ready_at, row.ready_at + queue_s)
    return max(0.0, true_s if abs(true_s - queue_s) >= _STEP_S else queue_s)


def _held_s(row: ScanRow, structure_set: StructureSetRow | None, clock: ClockHistory) -> float:
    """Seconds for which the structure set was held until a person released it."""
    if structure_set is None or structure_set.released_at is None:
        return 0.0
    contoured_at = float(row.record["contoured_at"])
    return max(0.0, clock.elapsed_s(contoured_at, structure_set.released_at))


def _door_to_door(
    row: ScanRow, known: dict[str, Any], accepted_at: float, excluded_s: float, clock: ClockHistory
) -> dict[str, Any]:
    """Times up to the acceptance, without the ``excluded_s`` in which limn waited for a person.

    The stages are measured on monotonic clocks. A sum that is longer than the whole shows a step
    back that came before this process; a step forward at that time looks like a node that was off.
    """
    intervened_s = max(0.0, row.intervention_s)
    contoured_at = float(row.record["contoured_at"])
    whole_s = clock.elapsed_s(row.last_slice_at, accepted_at)
    delivered_s = clock.elapsed_s(contoured_at, accepted_at) - (excluded_s - intervened_s)
    deliver_s = max(0.0, delivered_s)
    stages_s = deliver_s + sum(float(known.get(stage, 0.0)) for stage in DOOR_TO_DOOR_STAGES)
    door_to_door_s = max(stages_s, whole_s - excluded_s)
    found = {
        "accepted_utc": _utc(accepted_at),
        "deliver_s": deliver_s,
        "door_to_door_s": door_to_door_s,
        "overhead_s": door_to_door_s - stages_s,
    }
    step_s = (accepted_at - row.last_slice_at - excluded_s) - door_to_door_s
    if abs(step_s) >= _STEP_S:
        found["flags"] = f"{known.get('flags', '')} clock-stepped:{step_s:.0f}s".strip()
    return found


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
