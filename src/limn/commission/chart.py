"""Where the middles of the organs lie against the truth: values in, places in an SVG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The widest offset that the chart shows; what is beyond it is drawn at its edge.
REACH_MM = 2.5
LEFT, WIDTH, ROW, TOP = 130.0, 480.0, 22.0, 10.0
AXES = ("x  left-right", "y  belly-back", "z  tail-head")


@dataclass(frozen=True, slots=True)
class OffsetDot:
    """One organ of one phantom; far if it lies beyond the chart."""

    x: float
    far: bool
    words: str


@dataclass(frozen=True, slots=True)
class OffsetRow:
    """One organ along one axis of the patient."""

    y: float
    label: str
    dots: tuple[OffsetDot, ...]


@dataclass(frozen=True, slots=True)
class OffsetChart:
    """The rows, and the ticks of their common axis in mm."""

    rows: tuple[OffsetRow, ...]
    ticks: tuple[tuple[float, str], ...]
    width: float
    height: float


def offsets_chart(entries: Sequence[Mapping[str, Any]]) -> OffsetChart | None:
    """Of every delivered phantom; None if there is none."""
    organs: dict[str, list[tuple[str, Sequence[float]]]] = {}
    for each in entries:
        if each["outcome"] == "delivered" and each["group"] != "faults":
            for organ in each["organs"]:
                if organ["offset_xyz_mm"] is not None:
                    found = each["name"], organ["offset_xyz_mm"]
                    organs.setdefault(organ["roi"], []).append(found)
    if not organs:
        return None
    rows: list[OffsetRow] = []
    for roi, offsets in organs.items():
        for axis, words in enumerate(AXES):
            y = TOP + ROW * (len(rows) + 0.5)
            dots = tuple(_dot(name, xyz[axis]) for name, xyz in offsets)
            rows.append(OffsetRow(y, f"{roi}  {words[0]}", dots))
    ticks = tuple((_x(mm), f"{mm:+g}" if mm else "0") for mm in (-2.0, -1.0, 0.0, 1.0, 2.0))
    return OffsetChart(tuple(rows), ticks, LEFT + WIDTH + 20, TOP + ROW * len(rows) + 34)


def _dot(name: str, mm: float) -> OffsetDot:
    return OffsetDot(_x(mm), abs(mm) > REACH_MM, f"{name}: {mm:+.2f} mm")


def _x(mm: float) -> float:
    bounded = max(-REACH_MM, min(REACH_MM, mm))
    return round(LEFT + WIDTH * (bounded + REACH_MM) / (2 * REACH_MM), 1)
