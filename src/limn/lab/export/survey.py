"""Looks through a folder for what an export takes: series, structure sets, identities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, CTImageStorage

from limn.dicom.bounded import DAMAGES, read
from limn.lab.export.identities import Identities, is_standard, text_of
from limn.lab.export.profile import SOP_CLASSES

_DATES = ("SeriesDate", "AcquisitionDate", "StudyDate", "ContentDate")


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """A file that the export takes.

    Attributes
    ----------
    animal : PatientID, PatientName where that is empty, or the study's UID
    taken : (date, time) by which the animal's series are ordered; None without a date
    references : UIDs of the series that a structure set was drawn on
    instance : the number in the series
    """

    path: Path
    is_ct: bool
    animal: str
    series: str
    sop_instance: str
    taken: tuple[date, str] | None
    references: tuple[str, ...]
    instance: int
    burnt_in: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds.

    Attributes
    ----------
    left_out : (path, reason) of each file that the export does not take
    """

    files: tuple[SurveyedFile, ...]
    identities: Identities
    left_out: tuple[tuple[Path, str], ...]

    @property
    def animals(self) -> tuple[str, ...]:
        """Every animal once, sorted."""
        return tuple(sorted({each.animal for each in self.files}))

    @property
    def days(self) -> int:
        """From the first to the last date."""
        dates = [each.taken[0] for each in self.files if each.taken]
        return (max(dates) - min(dates)).days if dates else 0


def look_through(paths: Iterable[Path]) -> Survey:
    """Read the header of every file."""
    files: list[SurveyedFile] = []
    identities = Identities()
    left_out: list[tuple[Path, str]] = []
    seen: set[str] = set()
    for path in paths:
        try:
            ds = read(path, stop_before_pixels=True)
            sop_class = _text(ds, "SOPClassUID")
            if sop_class not in SOP_CLASSES:
                # A UID of the site's own, or whatever stands in its place, would leave in the page.
                known = UID(sop_class).name if is_standard(sop_class) else ""
                name = known or "no image of a class of the standard"
                left_out.append((path, f"{name}: only CT images and structure sets are exported"))
                continue
            identities.add(ds)
            found = _found(path, ds, is_ct=sop_class == str(CTImageStorage))
        except (InvalidDicomError, *DAMAGES) as error:
            left_out.append((path, f"no readable DICOM file ({str(error)[:80]})"))
            continue
        if found.sop_instance in seen:
            left_out.append((path, "the same instance as another file"))
            continue
        seen.add(found.sop_instance)
        files.append(found)
    return Survey(tuple(files), identities, tuple(left_out))


def places(files: Sequence[SurveyedFile]) -> Mapping[str, str]:
    """Series UID to the folder of its scan below the animal's: ``d007``, days since the first.

    A second series of a day is ``d007b``; one without a date is ``u1``.
    """
    first: dict[str, SurveyedFile] = {}
    for each in files:
        if each.is_ct:
            kept = first.setdefault(each.series, each)
            if each.taken and (kept.taken is None or each.taken < kept.taken):
                first[each.series] = each
    by_animal: dict[str, list[SurveyedFile]] = {}
    for each in first.values():
        by_animal.setdefault(each.animal, []).append(each)
    found: dict[str, str] = {}
    for own in by_animal.values():
        dated = sorted(
            ((each.taken, each.series) for each in own if each.taken), key=lambda pair: pair
        )
        taken = Counter[int]()
        for (day, _), series in dated:
            number = (day - dated[0][0][0]).days
            found[series] = f"d{number:03d}{_letter(taken[number])}"
            taken[number] += 1
        undated = sorted(each.series for each in own if not each.taken)
        found |= {series: f"u{k}" for k, series in enumerate(undated, start=1)}
    return found


def _letter(k: int) -> str:
    return "" if k == 0 else chr(ord("a") + k) if k < 26 else f"-{k + 1}"


def _found(path: Path, ds: Dataset, *, is_ct: bool) -> SurveyedFile:
    animal = _text(ds, "PatientID") or _text(ds, "PatientName") or _text(ds, "StudyInstanceUID")
    number = _text(ds, "InstanceNumber")
    return SurveyedFile(
        path=path,
        is_ct=is_ct,
        animal=animal,
        series=_text(ds, "SeriesInstanceUID"),
        sop_instance=_text(ds, "SOPInstanceUID"),
        taken=_taken(ds),
        references=() if is_ct else tuple(_references(ds)),
        instance=int(number) if number.lstrip("-").isdecimal() else 0,
        burnt_in=_text(ds, "BurnedInAnnotation") == "YES",
    )


def _taken(ds: Dataset) -> tuple[date, str] | None:
    for keyword in _DATES:
        text = _text(ds, keyword)
        try:
            day = date(int(text[:4]), int(text[4:6]), int(text[6:8]))
        except ValueError:
            continue
        return day, _text(ds, keyword.replace("Date", "Time"))
    return None


def _references(ds: Dataset) -> Iterable[str]:
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield _text(series, "SeriesInstanceUID")


def _text(ds: Dataset, keyword: str) -> str:
    element = ds.get_item(keyword) if keyword in ds else None
    return "" if element is None else text_of(element)
