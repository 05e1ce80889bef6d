"""Volumes and densities of each animal over time, from the table of ROIs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from sys import intern

from limn.domain.scan import Role
from limn.node.operate.history.scans import number

LUNGS = (Role.LUNG_R.value, Role.LUNG_L.value)
# Of a scan that was sent again, whose row counts: the later one of the better outcome.
_DELIVERED = "delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoiMeasure:
    """One ROI of one scan: a row of the table of ROIs.

    Attributes
    ----------
    role : a value of `Role`, or empty
    mean_hu : of a lung it is the density
    """

    scan: str
    animal: str
    outcome: str
    last_slice_utc: str
    roi: str
    role: str
    light: str
    volume_mm3: float | None
    mean_hu: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One ROI of an animal over its scans, oldest first."""

    roi: str
    role: str
    measures: tuple[RoiMeasure, ...]


def roi_measure(row: Mapping[str, str]) -> RoiMeasure:
    """A row of the table of ROIs as a value."""
    return RoiMeasure(
        scan=intern(row.get("scan_id", "")),
        animal=intern(row.get("animal", "")),
        outcome=intern(row.get("outcome", "")),
        last_slice_utc=intern(row.get("last_slice_utc", "")),
        roi=intern(row.get("roi", "") or row.get("organ", "")),
        role=intern(row.get("role", "")),
        light=intern(row.get("light", "")),
        volume_mm3=number(row.get("volume_mm3", "")),
        mean_hu=number(row.get("mean_hu", "")),
    )


def courses_of(animal: str, measures: Iterable[RoiMeasure]) -> tuple[Course, ...]:
    """An animal's ROIs over time, in the order in which they came.

    A scan that was logged again counts once: with the last row that was delivered, or the last. One
    that a person discarded does not count.
    """
    chosen: dict[tuple[str, str], RoiMeasure] = {}
    for each in measures:
        if each.animal != animal:
            continue
        known = chosen.get((each.roi, each.scan))
        if known is None or known.outcome != _DELIVERED or each.outcome == _DELIVERED:
            chosen[each.roi, each.scan] = each
    by_roi: dict[str, list[RoiMeasure]] = {}
    for each in chosen.values():
        if each.outcome != "discarded":
            by_roi.setdefault(each.roi, []).append(each)
    return tuple(
        Course(
            roi=roi,
            role=own[-1].role,
            measures=tuple(sorted(own, key=lambda each: (each.last_slice_utc, each.scan))),
        )
        for roi, own in by_roi.items()
    )
