"""The rows of the journal as frozen dataclasses."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from limn.dicom.uids import uid_from
from limn.domain.scan import MOST_ANIMALS
from limn.node.store.journal.schema import LIVE

# In the input digest of a further animal's scan, before its number.
ANIMAL_MARK = "#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A settled series, as the receiver hands it over. Times are UTC seconds.

    Attributes
    ----------
    supersedes : it is whole, so that an earlier version needs no worker any more
    """

    series_instance_uid: str
    input_digest: str
    bundle_sha256: str
    profile: str
    study_instance_uid: str
    animal: str
    sender: str
    folder: str
    files: tuple[str, ...]
    receive_s: float
    settle_s: float
    last_slice_at: float
    ready_at: float
    date: str
    time: str
    refused: str = ""
    priority: int = LIVE
    supersedes: bool = False
    # In the seed of its UIDs, if a destination may have the first ones with contents that are lost.
    again: str = ""

    @property
    def structure_set_uids(self) -> tuple[str, str]:
        """SOP and Series Instance UID of its structure set; they follow from the input alone."""
        return structure_set_uids(self, self.again)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRow:
    """One scan of the journal.

    Attributes
    ----------
    started_at : when the worker that runs it began, UTC seconds; None while none runs it
    intervention_s : seconds from its failures until an operator let it run again
    dismissed : the reason of the person who dismissed it after it had ended badly
    dismissed_by : that person's name; empty if none was given
    dismissed_at : when that was, UTC seconds; None if nobody did
    field : the scan of the first animal in the field, if this is another one's; else None
    animal_number : which animal of the field it is
    animal_name : that a person gave it; empty if nobody did
    named_by : that person's name
    """

    id: int
    version: int
    predecessor: int | None
    series_instance_uid: str
    input_digest: str
    study_instance_uid: str
    animal: str
    sender: str
    folder: str
    files: tuple[str, ...]
    receive_s: float
    settle_s: float
    last_slice_at: float
    ready_at: float
    priority: int
    state: str
    tries: int
    reason: str
    profile: str
    bundle_sha256: str
    record: dict[str, Any]
    logged: bool
    started_at: float | None
    intervention_s: float
    dismissed: str
    dismissed_by: str
    dismissed_at: float | None
    field: int | None
    animal_number: int
    animal_name: str
    named_by: str

    @property
    def series_digest(self) -> str:
        """Digest of all files of the series."""
        return self.input_digest.partition(ANIMAL_MARK)[0]

    @property
    def name(self) -> str:
        """The scan's id as people see it."""
        return f"scan-{self.id:05d}"


def digest_of_animal(series_digest: str, number: int) -> str:
    """Input digest of the scan of an animal in the field; the first has that of the series."""
    return series_digest if number == 1 else f"{series_digest}{ANIMAL_MARK}{number}"


def structure_set_uids(scan: Arrived | ScanRow, again: str) -> tuple[str, str]:
    """SOP and Series Instance UID of a scan's structure set; ``again`` as in `Arrived`."""
    seed = "|".join((scan.series_instance_uid, scan.input_digest, scan.bundle_sha256, scan.profile))
    if again:
        seed = f"{seed}|{again}"
    return uid_from(f"structure set|{seed}"), uid_from(f"series|{seed}")


def uids_of_others(first: Arrived | ScanRow) -> tuple[tuple[str, str], ...]:
    """SOP and Series Instance UIDs for the second and further animals in a scan's field."""
    return tuple(
        structure_set_uids(
            replace(first, input_digest=digest_of_animal(first.input_digest, number)), again=""
        )
        for number in range(2, MOST_ANIMALS + 1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureSetRow:
    """The structure set of a scan.

    Attributes
    ----------
    held : why a person must look before it is delivered; None if that is not needed
    released_at : when a person released it, UTC seconds
    released_by, discarded_by : the name of that person; empty if none was given
    release_why : the reason that a person gave to release it; empty if none was given
    discarded : the reason that a person gave to discard it
    discarded_at : when a person discarded it, UTC seconds
    intervention_s : seconds from a destination's refusal until an operator sent it again
    contents_sha256 : of its file as the engine wrote it first; empty before
    replaces : SOP Instance UID of the structure set of this scan from before a person named the
        animal; empty if nobody did
    """

    id: int
    scan: int
    sop_instance_uid: str
    series_instance_uid: str
    date: str
    time: str
    path: str
    held: str | None
    released_at: float | None
    released_by: str
    release_why: str
    discarded: str | None
    discarded_at: float | None
    discarded_by: str
    intervention_s: float
    contents_sha256: str
    replaces: str

    @property
    def on_hold(self) -> bool:
        """Whether it still waits for a person."""
        return self.held is not None and self.released_at is None and self.discarded_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """One structure set on its way to one destination."""

    id: int
    structure_set: int
    destination: str
    state: str
    tries: int
    next_at: float
    status: str
    accepted_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewRow:
    """The preview of a scan: contours of one fold, which may go out before its structure set.

    Attributes
    ----------
    begun_at : when its job was given to a worker, UTC seconds
    reason : why it was dropped; empty if it was not
    """

    scan: int
    sop_instance_uid: str
    series_instance_uid: str
    state: str
    begun_at: float
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewDeliveryRow:
    """A preview on its way to one destination."""

    id: int
    scan: int
    destination: str
    state: str
    tries: int
    status: str
    accepted_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A person has looked at a scan's contours.

    Attributes
    ----------
    person : that person's name
    at : when, UTC seconds
    """

    person: str
    at: float


@dataclass(frozen=True, slots=True)
class CompanionRow:
    """Another form of a structure set's contours, on its way to a destination that has that one.

    Attributes
    ----------
    state : "waiting", "delivered" or "refused"
    """

    id: int
    structure_set: int
    destination: str
    form: str
    state: str
    tries: int
    status: str
    accepted_at: float | None


def preview_uids(structure_set: StructureSetRow) -> tuple[str, str]:
    """SOP and Series Instance UID of a scan's preview; they follow from its structure set's."""
    seed = structure_set.sop_instance_uid
    return uid_from(f"preview|{seed}"), uid_from(f"preview series|{seed}")


def structure_set_row(row: sqlite3.Row) -> StructureSetRow:
    """A row of SQLite as a value."""
    return StructureSetRow(**{name: row[name] for name in StructureSetRow.__dataclass_fields__})


def delivery_row(row: sqlite3.Row) -> DeliveryRow:
    """A row of SQLite as a value."""
    return DeliveryRow(**{name: row[name] for name in DeliveryRow.__dataclass_fields__})


def companion_row(row: sqlite3.Row) -> CompanionRow:
    """A row of SQLite as a value."""
    return CompanionRow(**{name: row[name] for name in CompanionRow.__dataclass_fields__})


def preview_row(row: sqlite3.Row) -> PreviewRow:
    """A row of SQLite as a value."""
    return PreviewRow(**{name: row[name] for name in PreviewRow.__dataclass_fields__})


def preview_delivery_row(row: sqlite3.Row) -> PreviewDeliveryRow:
    """A row of SQLite as a value."""
    names = PreviewDeliveryRow.__dataclass_fields__
    return PreviewDeliveryRow(**{name: row[name] for name in names})
