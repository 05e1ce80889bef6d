"""What the engine sends to a worker, and what the worker returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from limn.domain.forms import Form
from limn.domain.roi_rules import RoiRule
from limn.node.config import Judging, Model, PlanningSystem

# How a job ended that this worker could not begin; another worker may be able to.
UNFIT = "unfit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One scan to contour; UIDs and dates come with it, so a second run gives the same file.

    The receiving site's settings come with it too, for its workers may serve other sites.
    """

    scan: int
    animal: str
    paths: tuple[str, ...]
    model: Model
    planning_system: PlanningSystem
    sop_instance_uid: str
    series_instance_uid: str
    date: str
    time: str
    predecessor_uid: str
    deadline_s: float
    judge: Judging = field(default_factory=Judging)
    # Of the whole series (`limn.dicom.instance.input_digest`); empty if nobody knows it.
    input_digest: str = ""
    # When the series had come, UTC seconds.
    received_at: float = 0.0
    # Bytes of each file, if the contents travel with the job.
    sizes: tuple[int, ...] = ()
    # Contours of the first fold alone, marked as a preview; the scan's own job follows.
    preview: bool = False
    # Whether the structure set is for a planning system; that of a cohort stays in its folder.
    delivered: bool = True
    # What the site derives from the organs.
    roi: tuple[RoiRule, ...] = ()
    # What the site's folders want beside the structure set.
    forms: tuple[Form, ...] = ()
    # Which animal of the field it is, if the site wants each.
    animal_number: int = 1
    # SOP and Series Instance UID for each animal after it, and the SOP Instance UID that it
    # replaces; none if it is contoured alone.
    others: tuple[tuple[str, str, str], ...] = ()
    # That a person gave it, before any other name.
    animal_name: str = ""
    # Other animals of the field have scans of their own, whatever the site wants by now.
    one_of_several: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a job. Times are UTC seconds.

    Attributes
    ----------
    ended : empty when contoured, else "refused", "failed" or `UNFIT`, with the reason
    forms : files that the site's folders want beside the structure set, by their names
    record : columns of the `ScanRecord` that the worker knows
    held : why a person must look before the structure set is delivered; None if nobody must
    sop_instance_uid : of the structure set
    animal_number : which animal of the field it is
    others : of the other animals in the field; their ``scan`` is that of the first
    """

    scan: int
    started_at: float
    ended: str = ""
    reason: str = ""
    structure_set: bytes = b""
    picture: bytes = b""
    labels: bytes = b""
    forms: Mapping[str, bytes] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    held: str | None = None
    sop_instance_uid: str = ""
    animal_number: int = 1
    others: tuple[Result, ...] = ()
