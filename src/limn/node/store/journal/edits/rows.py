"""Structure sets that came back, what was changed in them, and drift, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WATCHED_FOLDER = "watched folder"
_ON_DISK = ("folder", "image")


class ReturnedState(StrEnum):
    """What is known of a structure set that came back.

    ``measured``: it is of a scan, and compared with what limn drew. ``preview``: it is of a
    scan's PREVIEW. ``unmatched``: it is of no scan of this node. ``failed``: it can't be measured.
    """

    WAITING = "waiting"
    MEASURED = "measured"
    PREVIEW = "preview"
    UNMATCHED = "unmatched"
    FAILED = "failed"


class Change(StrEnum):
    """What a person did with an ROI.

    ``absent`` says nothing: the destination may never have had it.
    """

    SAME = "same"
    EDITED = "edited"
    EMPTIED = "emptied"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnedRow:
    """A structure set that came back.

    Attributes
    ----------
    file : its name in ``data_dir/returned``
    came_at : UTC seconds
    tries : how often a process began to measure it
    reason : why it was not measured; empty if it was
    """

    id: int
    file: str
    came_at: float
    state: ReturnedState
    tries: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedRoi:
    """One ROI of limn's, as a person sent it back; mm, mm3, None where there is no number.

    Attributes
    ----------
    organ, role : of the bundle; empty for an ROI that no network drew
    came_as : its name in the file that came back; empty if it is not in it
    dsc, hd95_mm, added_path_mm : against limn's own; see `limn.segment.compare.edit`
    cranial_mm, ... : by how much the surface that looks this way was moved outwards
    centre_cranial_mm, ... : by how much its centre was moved this way
    """

    roi: str
    organ: str = ""
    role: str = ""
    came_as: str = ""
    change: Change
    dsc: float | None = None
    hd95_mm: float | None = None
    added_path_mm: float | None = None
    volume_before_mm3: float | None = None
    volume_mm3: float | None = None
    cranial_mm: float | None = None
    caudal_mm: float | None = None
    dorsal_mm: float | None = None
    ventral_mm: float | None = None
    left_mm: float | None = None
    right_mm: float | None = None
    centre_cranial_mm: float | None = None
    centre_dorsal_mm: float | None = None
    centre_left_mm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanEdit:
    """A scan's structure set as it came back.

    Attributes
    ----------
    scan : its number
    file : in ``data_dir/returned``; the site may have had it removed after it was measured
    editor : who corrected it, if the file says so and the site keeps names; else empty
    software : that wrote it
    rois : of limn's structure set, in its order
    """

    id: int
    scan: int
    animal: str
    sender: str
    bundle_sha256: str
    last_slice_at: float
    file: str
    came_at: float
    editor: str
    software: str
    rois: tuple[EditedRoi, ...]

    @property
    def name(self) -> str:
        """The scan's id as people see it."""
        return f"scan-{self.scan:05d}"

    @property
    def scanner(self) -> str:
        """The scanner's AE title; of files in the watched folder, whose paths differ, its name."""
        kind = self.sender.partition(" ")[0]
        return WATCHED_FOLDER if kind in _ON_DISK else self.sender.partition("@")[0]

    @property
    def accepted(self) -> bool:
        """Whether no ROI that came back was changed."""
        back = [each for each in self.rois if each.change is not Change.ABSENT]
        return bool(back) and all(each.change is Change.SAME for each in back)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRow:
    """The first and the last contours of an ROI on a scanner, by how much they were changed.

    Attributes
    ----------
    count : structure sets on each side
    first_dsc, last_dsc : medians
    p : see `limn.domain.edits.drift`
    since : when it was first found worse, UTC seconds; None if it is not
    """

    scanner: str
    roi: str
    bundle_sha256: str
    count: int
    first_dsc: float
    last_dsc: float
    p: float
    since: float | None
