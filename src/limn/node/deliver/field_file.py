"""Several animals of a field in one file, for a destination that wants it so.

The file is made of the structure sets of the animals when it is offered. It waits for every animal:
what is held or still contoured holds it (D-254). An animal that ended otherwise is not in it, and
the file says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from pydicom.errors import InvalidDicomError

from limn.dicom.bounded import DAMAGES
from limn.dicom.for_destination import AnimalFile, choose_rois, join_animals
from limn.domain.errors import ConfigWrong, StageFailed
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver.destinations import DeliveryAnswer, Outcome, contents_of, deliver, offer
from limn.node.deliver.export_place import ExportPlace
from limn.node.store.disk.spool import REMOVED
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.peer_reader import WAITS_FOR
from limn.node.store.journal.rows import DeliveryRow, ScanRow, StructureSetRow
from limn.node.store.remedies import flags_of

# The flag by which the record of a scan names its animal.
NAME_FLAG = "animal-name:"


@dataclass(frozen=True, slots=True)
class FieldFile:
    """The animals of a field on their way to one destination.

    Attributes
    ----------
    animals : that are in the file, by their numbers
    of : how many the field has
    absent : which are not in it and why; empty if all are
    waits_for : the animal that nobody has decided about yet, and why; empty if there is none
    replaced : by which newer version of the field, so that this one never goes; empty if by none
    waiting : deliveries of the animals to this destination that the file answers
    """

    animals: tuple[tuple[ScanRow, StructureSetRow], ...]
    of: int
    absent: str
    waits_for: str
    replaced: str
    waiting: tuple[DeliveryRow, ...]


def field_file(
    journal: Journal, destination: DicomDestination | FolderDestination, row: ScanRow
) -> FieldFile | None:
    """What the destination gets of a scan's field; None if the scan has a file of its own."""
    if not destination.one_file:
        return None
    rows = journal.animals_of(row.id)
    if len(rows) < 2:
        return None
    waits_for, replaced = _newer(journal, rows[0])
    animals, absent, waiting = [], [], []
    for each in rows:
        called = f"animal {each.animal_number} ({each.name})"
        structure_set = journal.find_structure_set(each.id)
        if each.state == "ready":
            waits_for = waits_for or f"{WAITS_FOR}{called}, which is not contoured yet"
        elif structure_set is None or each.state != "contoured":
            absent.append(f"{called}, which was {each.state}")
        elif structure_set.on_hold:
            waits_for = waits_for or f"{WAITS_FOR}{called}, which is held until a person looks"
        elif structure_set.discarded_at is not None:
            absent.append(f"{called}, which was discarded")
        else:
            animals.append((each, structure_set))
            waiting += [
                delivery
                for delivery in journal.deliveries(each.id)
                if delivery.destination == destination.name and delivery.state == "waiting"
            ]
    return FieldFile(
        tuple(animals), len(rows), "; ".join(absent), waits_for, replaced, tuple(waiting)
    )


def _newer(journal: Journal, first: ScanRow) -> tuple[str, str]:
    """For which newer version of a field an older one waits, and which goes in its place.

    While a scan of a newer one is held or not contoured, nobody knows whether that goes.
    """
    waits_for = replaced = ""
    for each in journal.newer_of(first):
        called = f"{each.name}, of a newer version of its series"
        structure_set = journal.find_structure_set(each.id)
        if each.state == "ready":
            waits_for = waits_for or f"{WAITS_FOR}{called}, which is not contoured yet"
        elif structure_set is None or structure_set.discarded_at is not None:
            continue
        elif structure_set.on_hold:
            waits_for = waits_for or f"{WAITS_FOR}{called}, which is held until a person looks"
        else:
            replaced = replaced or f"replaced by {called} with all its slices"
    return waits_for, "" if waits_for else replaced


@dataclass(frozen=True, slots=True)
class Offered:
    """A destination's answer, and the deliveries of other scans that it answers too."""

    answer: DeliveryAnswer
    waiting: tuple[DeliveryRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Replaced:
    """A newer version of the field goes; why this one never does, and the deliveries that end."""

    why: str
    waiting: tuple[DeliveryRow, ...]


def offer_scan(
    destination: DicomDestination | FolderDestination,
    journal: Journal,
    scan: tuple[ScanRow, StructureSetRow],
    calling_ae_title: str,
    stopping: Event | None = None,
    place: ExportPlace | None = None,
) -> Offered | Replaced | str:
    """Offer a scan's structure set, or the file of its field; in words what that waits for.

    An older version of a field is not offered once a newer one goes.
    """
    row, structure_set = scan
    field = field_file(journal, destination, row)
    if field is None:
        path, known = Path(structure_set.path), structure_set.contents_sha256
        return Offered(deliver(destination, path, calling_ae_title, stopping, known, place))
    if field.replaced:
        return Replaced(field.replaced, field.waiting)
    if field.waits_for:
        return field.waits_for
    field = _without_removed(field, row, journal, destination)
    answer = deliver_field(destination, field, journal, calling_ae_title, stopping, place)
    return Offered(answer, field.waiting)


def deliver_field(
    destination: DicomDestination | FolderDestination,
    field: FieldFile,
    journal: Journal,
    calling_ae_title: str,
    stopping: Event | None = None,
    place: ExportPlace | None = None,
) -> DeliveryAnswer:
    """Offer the animals of a field as one structure set.

    If it is taken, its status names the file's UID: the scan log has those of the animals' own
    structure sets.
    """
    parts, paths = [], []
    for row, structure_set in field.animals:
        path = Path(structure_set.path)
        contents = contents_of(path, structure_set.contents_sha256)
        if isinstance(contents, DeliveryAnswer):
            return contents
        parts.append(AnimalFile(row.animal_number, _name(row), contents))
        paths.append(path)
    first = field.animals[0][0]
    uid, predecessor = journal.join_animals(
        first.field or first.id, destination.name, _known(field, destination)
    )
    try:
        chosen = _chosen(parts, destination)
        joined = join_animals(chosen, uid, field.of, predecessor, field.absent)
    except (ConfigWrong, StageFailed) as error:
        why = f"{error}; see destination {destination.name}"
        return DeliveryAnswer(Outcome.REFUSED, why, time.time())
    except (InvalidDicomError, *DAMAGES) as error:
        why = f"a structure set of the field is damaged on this disk: {error!r}"
        return DeliveryAnswer(Outcome.REFUSED, why, time.time())
    answer = offer(destination, paths, f"RS.{uid}.dcm", joined, calling_ae_title, stopping, place)
    if answer.outcome is not Outcome.DELIVERED:
        return answer
    return replace(answer, status=f"{answer.status} as {uid}")


def _known(field: FieldFile, destination: DicomDestination | FolderDestination) -> str:
    """Names everything that is in the file of a field."""
    known = [
        *((each.sop_instance_uid, _name(row)) for row, each in field.animals),
        (destination.rois, field.absent),
    ]
    return json.dumps(known)


def _without_removed(
    field: FieldFile,
    asked: ScanRow,
    journal: Journal,
    destination: DicomDestination | FolderDestination,
) -> FieldFile:
    """Without the animals whose structure sets retention has removed, so that the others go.

    A file that was made before is not sent again with less in it, and an animal that is asked for
    is not left out.
    """
    gone = [row for row, each in field.animals if _was_removed(Path(each.path))]
    first = field.animals[0][0]
    if (
        not gone
        or asked.id in {row.id for row in gone}
        or journal.was_joined(first.field or first.id, destination.name, _known(field, destination))
    ):
        return field
    animals = tuple((row, each) for row, each in field.animals if row not in gone)
    there = {each.id for _, each in animals}
    absent = [
        f"animal {row.animal_number} ({row.name}), whose structure set was removed from this disk"
        for row in gone
    ]
    return replace(
        field,
        animals=animals,
        absent="; ".join(filter(None, (field.absent, *absent))),
        waiting=tuple(each for each in field.waiting if each.structure_set in there),
    )


def _was_removed(path: Path) -> bool:
    """Whether retention has removed a structure set, as the note beside it says."""
    return not path.exists() and (path.parent / REMOVED).exists()


def _name(row: ScanRow) -> str:
    """The animal's name as its structure set has it."""
    named = (flag for flag in flags_of(row).split() if flag.startswith(NAME_FLAG))
    return next(named, "").removeprefix(NAME_FLAG)


def _chosen(
    parts: Sequence[AnimalFile], destination: DicomDestination | FolderDestination
) -> list[AnimalFile]:
    """The same with the ROIs alone that the destination wants, without animals that have none."""
    if destination.rois is None:
        return list(parts)
    found = []
    for part in parts:
        try:
            contents = choose_rois(part.contents, destination.rois, destination.name)
        except ConfigWrong:
            continue
        found.append(AnimalFile(part.number, part.name, contents))
    if not found:
        msg = f"none of its ROIs is {', '.join(destination.rois)}"
        raise ConfigWrong(msg)
    return found
