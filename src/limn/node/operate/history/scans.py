"""A row of the scan log as a value: what a person chooses by, and where the time went."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from sys import intern

from limn.domain.timing import DOOR_TO_DOOR_STAGES


class Part(StrEnum):
    """What a stage is for the animal that sleeps meanwhile."""

    SLICES = "waiting for slices"
    QUEUE = "in the queue"
    NETWORKS = "networks"
    REST = "rest of the computing"
    DESTINATION = "until the destination has it"


WAITING = (Part.SLICES, Part.QUEUE, Part.DESTINATION)
# Each stage in words, to follow a number of seconds or to stand before it.
STAGE_WORDS: Mapping[str, str] = {
    "settle_s": "waiting for slices",
    "queue_s": "in the queue",
    "transfer_s": "on the way to the worker",
    "read_s": "reading the slices",
    "preprocess_s": "preparing the image",
    "inference_s": "networks",
    "clean_s": "cleaning the labels",
    "judge_s": "judging the contours",
    "trace_s": "drawing the contours",
    "rtstruct_s": "building the structure set",
    "prove_s": "proving the structure set",
    "picture_s": "the picture",
    "deliver_s": "until the destination has it",
    "overhead_s": "between the processes",
}
_PARTS = {
    "settle_s": Part.SLICES,
    "queue_s": Part.QUEUE,
    "inference_s": Part.NETWORKS,
    "deliver_s": Part.DESTINATION,
}
PART_OF: Mapping[str, Part] = {stage: _PARTS.get(stage, Part.REST) for stage in DOOR_TO_DOOR_STAGES}
_PLACE = {part: at for at, part in enumerate(Part)}
_PLACES = tuple(_PLACE[PART_OF[stage]] for stage in DOOR_TO_DOOR_STAGES)
# Seconds for which a scan waited for a person; door_to_door_s leaves them out (D-059).
_PERSON = re.compile(r"(?:held|again):(\d+)s")
# The number of an animal within its cohort, at the end of its PatientID.
_NUMBER = re.compile(r"[\s_.\-#]*\d+\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedScan:
    """One row of the scan log.

    Attributes
    ----------
    last_slice_utc : ISO 8601, as in the log; empty if it is not known
    at : the same as UTC seconds; None if it is not known
    door_to_door_s : None if no destination accepted it
    stages_s : seconds of each of `DOOR_TO_DOOR_STAGES`; None where it was not measured
    parts_s : seconds of each `Part`
    person_s : for which it waited for a person, beside ``door_to_door_s``
    voxels : of its grid; None if it was not contoured
    """

    name: str
    outcome: str
    animal: str
    sender: str
    bundle: str
    light: str
    flags: tuple[str, ...]
    last_slice_utc: str
    at: float | None
    door_to_door_s: float | None
    stages_s: tuple[float | None, ...]
    parts_s: tuple[float, ...]
    person_s: float
    voxels: float | None
    device: str
    tries: int

    @property
    def day(self) -> str:
        """The day of its last slice, UTC, as YYYY-MM-DD."""
        return self.last_slice_utc[:10]

    @property
    def scanner(self) -> str:
        """The scanner's AE title; the whole sender if that has none."""
        return self.sender.partition("@")[0]

    @property
    def cohort(self) -> str:
        """The animal's PatientID without the number at its end (D-250)."""
        return cohort_of(self.animal)

    @property
    def delivered_s(self) -> float | None:
        """Seconds from door to door of a scan that was delivered; else None."""
        return self.door_to_door_s if self.outcome == "delivered" else None

    def part_s(self, part: Part) -> float:
        """Seconds of all stages of a part."""
        return self.parts_s[_PLACE[part]]

    @property
    def waiting_s(self) -> float:
        """Seconds for which it waited for slices, in the queue and for the destination."""
        return sum(self.part_s(part) for part in WAITING)


def logged_scan(row: Mapping[str, str]) -> LoggedScan:
    """A row of the scan log, of this limn or an earlier one, as a value."""
    flags = row.get("flags", "")
    stages_s = tuple(number(row.get(stage, "")) for stage in DOOR_TO_DOOR_STAGES)
    parts_s = [0.0] * len(_PLACE)
    for place, seconds in zip(_PLACES, stages_s, strict=True):
        parts_s[place] += seconds or 0.0
    utc = row.get("last_slice_utc", "")
    return LoggedScan(
        name=row.get("scan_id", ""),
        outcome=intern(row.get("outcome", "")),
        animal=intern(row.get("animal", "")),
        sender=intern(row.get("sender", "")),
        bundle=intern(row.get("bundle", "")),
        light=intern(row.get("light", "")),
        flags=_split(flags),
        last_slice_utc=utc,
        at=_seconds_of(utc),
        door_to_door_s=number(row.get("door_to_door_s", "")),
        stages_s=stages_s,
        parts_s=tuple(parts_s),
        person_s=float(sum(map(int, _PERSON.findall(flags)))) if ":" in flags else 0.0,
        voxels=_voxels(row.get("grid", "")),
        device=intern(row.get("device", "")),
        tries=int(number(row.get("tries", "")) or 0),
    )


@lru_cache(maxsize=4096)
def cohort_of(animal: str) -> str:
    """A PatientID without the number at its end; the whole of one that has nothing else."""
    return _NUMBER.sub("", animal) or animal


def number(text: str) -> float | None:
    """A value of the log; None if it is empty or no number."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@lru_cache(maxsize=4096)
def _split(flags: str) -> tuple[str, ...]:
    return tuple(flags.split())


def _seconds_of(utc: str) -> float | None:
    try:
        return datetime.fromisoformat(utc).timestamp()
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _voxels(grid: str) -> float | None:
    """Voxels of a grid such as "288x208x224 0.1400x0.1400x0.1400 mm"."""
    counts = grid.partition(" ")[0].split("x")
    if len(counts) != 3 or not all(count.isdecimal() for count in counts):
        return None
    return math.prod(map(float, counts))
