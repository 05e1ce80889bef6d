"""One series that is coming in: its instances, its associations, its versions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from limn.dicom.instance import ReceivedInstance


@dataclass(frozen=True, slots=True)
class Source:
    """Where an instance comes from.

    Attributes
    ----------
    key : one association, or one watched folder
    sender : for people
    settle_s : how long this door must be quiet
    """

    key: str
    sender: str
    settle_s: float


@dataclass(slots=True)
class Gathering:
    """One series that is coming in. Times: ``_s`` monotonic, ``_at`` UTC.

    Attributes
    ----------
    open_sources : associations that brought a slice, and when each brought its first
    aborted_s : when one broke off; healed by the release of one that began after it
    handed : SOP Instance UIDs that some version was contoured from
    newest : those of the newest version
    came : those that came since the last hand-over, known or not
    sources : the keys of all that brought something since then
    takers : threads that hold it to take an instance into it
    """

    folder: Path
    study_instance_uid: str
    animal: str
    first_s: float
    last_s: float
    last_at: float
    sender: str = ""
    settle_s: float = 0.0
    instances: dict[str, ReceivedInstance] = field(default_factory=dict)
    open_sources: dict[str, float] = field(default_factory=dict)
    aborted_s: float | None = None
    handed: set[str] = field(default_factory=set)
    newest: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)
    changed: bool = True
    writing: threading.Lock = field(default_factory=threading.Lock)
    sources: set[str] = field(default_factory=set)
    takers: int = 0

    @property
    def pending(self) -> bool:
        """Whether something of it is not in the journal yet; a slice that no disk took is not."""
        return self.changed and bool(self.instances)


def note(
    gathering: Gathering, instance: ReceivedInstance, source: Source, arrived_s: float | None
) -> None:
    """An instance of the series has come."""
    now_s = time.monotonic()
    arrived_s = now_s if arrived_s is None else arrived_s
    if not gathering.instances:
        gathering.first_s = arrived_s
    gathering.first_s = min(gathering.first_s, arrived_s)
    gathering.instances[instance.sop_instance_uid] = instance
    gathering.came.add(instance.sop_instance_uid)
    gathering.sources.add(source.key)
    if arrived_s >= gathering.last_s or len(gathering.instances) == 1:
        gathering.last_s = arrived_s
        gathering.last_at = time.time() - (now_s - arrived_s)
    gathering.open_sources.setdefault(source.key, now_s)
    gathering.sender = source.sender
    gathering.settle_s = source.settle_s
    gathering.changed = True


def positions_mm(instances: Iterable[ReceivedInstance]) -> list[float | None]:
    """Where every slice of some instances lies along the stack."""
    return [position for instance in instances for position in instance.positions_mm]


def rounding_mm(instances: Iterable[ReceivedInstance]) -> float:
    """How finely the headers give their positions."""
    return min((instance.rounding_mm for instance in instances), default=0.0)


def announced(instances: Iterable[ReceivedInstance]) -> int | None:
    """How many slices the headers announce, if they agree."""
    counts = {instance.announced_slices for instance in instances}
    return counts.pop() if len(counts) == 1 else None
