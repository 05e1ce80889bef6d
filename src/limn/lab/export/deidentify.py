"""Takes the identity out of one DICOM file by the table of actions; coordinates keep their text."""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from pydicom import dcmwrite
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
)

from limn import __version__
from limn.dicom.bounded import read
from limn.domain.errors import StageFailed
from limn.lab.export.identities import (
    FREE_TEXT,
    Element,
    Identities,
    is_plain,
    is_standard,
    items_of,
    text_of,
    vr_of,
    without_pixels,
)
from limn.lab.export.profile import LABELS, METHODS, PUBLIC_SCHEMES, Action, action_for

PIXELS, CHARACTER_SET = Tag("PixelData"), Tag("SpecificCharacterSet")
NOT_READ = "emptied: no date or time as DICOM writes it"
NO_PUBLIC_CODE = "emptied: a code of a site's own scheme"
NAMED = "emptied: an identity of the input stood in it"
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})([0-9.]*)([+-]\d{4})?")


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """What an animal is called in the export, and by how many days its dates are moved back."""

    name: str
    shift_days: int


@dataclass(frozen=True, slots=True)
class ExportRules:
    """How the files of one animal are changed.

    Attributes
    ----------
    secret : by which new UIDs are derived; nobody who lacks it can derive them from the old ones
    keep_rois : names of ROIs that a person has read and lets pass
    organs : names of ROIs, to the organ that each is known to be
    """

    secret: bytes
    animal: Pseudonym
    identities: Identities
    keep_rois: Collection[str] = ()
    organs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """What was done to a file, or to many.

    Attributes
    ----------
    done : (attribute, what was done) to its number; the attribute is its tag, or a private group
    texts : (keyword, text that was kept) to its number, for a person to read
    """

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: HeaderChanges) -> None:
        """Count those of another file too."""
        self.done.update(other.done)
        self.texts.update(other.texts)


def new_uid(secret: bytes, uid: str) -> str:
    """The UID that stands for another: the same for the same secret; one of the standard stays."""
    if not uid or is_standard(uid):
        return uid
    digest = hmac.new(secret, uid.encode("latin-1"), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def shifted(text: str, days: int) -> str | None:
    """A date (DA) or a date with a time (DT) so many days earlier; None if it is neither."""
    match = _DATE.fullmatch(text.replace(".", "") if len(text) == len("2026.11.30") else text)
    if match is None:
        return None
    try:
        moved = date(int(match[1]), int(match[2]), int(match[3])) - timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}{match[4]}{match[5] or ''}"


def deidentified(ds: FileDataset, rules: ExportRules) -> tuple[bytes, HeaderChanges]:
    """The bytes of a file for others, and what was changed. The data set given is changed.

    Raises
    ------
    StageFailed
        If a name or UID of the input is still in it, or a coordinate would change.
    """
    changes = HeaderChanges()
    coordinates = list(contour_bytes(ds))
    pixels = ds.get_item(PIXELS).value if PIXELS in ds else None
    _walk(ds, rules, changes)
    _mark(ds)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    if meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        # Nothing can be looked for in deflated bytes.
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    ds.file_meta, ds.preamble = meta, b"\0" * 128
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    contents = buffer.getvalue()
    _prove(contents, coordinates, rules)
    bare = without_pixels(contents, pixels if isinstance(pixels, bytes) else b"")
    if found := rules.identities.survivors(bare):
        msg = (
            f"{found[0]!r} of the input is still in a file of {rules.animal.name}; nothing is "
            "exported: report this, with the name of the attribute (dcmdump) if you can"
        )
        raise StageFailed(msg)
    return contents, changes


def contour_bytes(ds: Dataset) -> Iterator[bytes]:
    """ContourData of every contour as its bytes stand in the file, in the file's order."""
    if "ROIContourSequence" not in ds:
        return
    for roi in ds.ROIContourSequence or []:
        for contour in (roi.ContourSequence or []) if "ContourSequence" in roi else []:
            element = contour.get_item("ContourData")
            if element is not None:
                value = element.value
                yield value if isinstance(value, bytes) else text_of(element).encode("latin-1")


def _prove(contents: bytes, coordinates: list[bytes], rules: ExportRules) -> None:
    if list(contour_bytes(read(contents))) != coordinates:
        msg = f"a structure set of {rules.animal.name} would get other coordinates; not exported"
        raise StageFailed(msg)


def _walk(ds: Dataset, rules: ExportRules, changes: HeaderChanges) -> None:
    """Change every element of a data set or an item."""
    for tag in list(ds.keys()):
        if tag.is_private:
            del ds[tag]
            changes.done[f"({tag.group:04X},xxxx) private", Action.REMOVE.words] += 1
            continue
        element = ds.get_item(tag)
        if element is None:
            continue
        words = _change(ds, tag, element, rules, changes)
        changes.done[f"({tag.group:04X},{tag.element:04X})", words] += 1


def _change(
    ds: Dataset, tag: BaseTag, element: Element, rules: ExportRules, changes: HeaderChanges
) -> str:
    """Do to an element what the table says; returns what was done."""
    action = action_for(tag)
    # Items where the standard has none, or text where it has items, would stay as they are.
    if action is Action.REMOVE or (vr_of(element) == "SQ") != (dictionary_VR(tag) == "SQ"):
        del ds[tag]
        return Action.REMOVE.words
    if action is Action.SEQUENCE:
        for item in items_of(ds, tag):
            _walk(item, rules, changes)
    elif action is Action.CLEAN:
        return _cleaned(ds, tag, element, rules, changes)
    elif action is Action.ROI_NAME:
        return _roi_name(ds, tag, element, rules, changes)
    elif action in _UNSEEN:
        _set(ds, tag, _UNSEEN[action](tag, rules))
    else:
        return _SEEN[action](ds, tag, element, rules)
    return action.words


# What depends on the attribute and the animal alone.
_UNSEEN: Mapping[Action, Callable[[BaseTag, ExportRules], str]] = {
    Action.ANIMAL: lambda _, rules: rules.animal.name,
    Action.LABEL: lambda tag, _: LABELS[keyword_for_tag(tag)],
    Action.EMPTY: lambda _, __: "",
}


def _with_new_uid(ds: Dataset, tag: BaseTag, element: Element, rules: ExportRules) -> str:
    uids = [new_uid(rules.secret, uid.strip("\0 ")) for uid in text_of(element).split("\\")]
    _set(ds, tag, "\\".join(uids))
    return Action.NEW_UID.words


def _with_date(ds: Dataset, tag: BaseTag, element: Element, rules: ExportRules) -> str:
    moved = [shifted(part, rules.animal.shift_days) for part in _values(element)]
    _set(ds, tag, "\\".join(each or "" for each in moved))
    return Action.DATE.words if all(moved) else NOT_READ


def _with_time(ds: Dataset, tag: BaseTag, element: Element, _: ExportRules) -> str:
    if not all(_TIME.fullmatch(part) for part in _values(element)):
        _set(ds, tag, "")
        return NOT_READ
    return Action.TIME.words


def _with_codes(ds: Dataset, tag: BaseTag, _: Element, rules: ExportRules) -> str:
    if not all(_is_public(item, rules) for item in items_of(ds, tag)):
        # It stays as an empty one: of an animal the breed's codes are Type 2 (PS3.3 C.7.1.1).
        _set(ds, tag, "")
        return NO_PUBLIC_CODE
    return Action.CODES.words


def _kept(ds: Dataset, tag: BaseTag, element: Element, rules: ExportRules) -> str:
    text = text_of(element)
    if tag == CHARACTER_SET and set(text.split("\\")) <= set(python_encoding):
        # A mouse may be called 100, as ISO_IR 100 is.
        return Action.KEEP.words
    if vr_of(element) in FREE_TEXT and rules.identities.named_in(text):
        _set(ds, tag, "")
        return NAMED
    return Action.KEEP.words


_SEEN: Mapping[Action, Callable[[Dataset, BaseTag, Element, ExportRules], str]] = {
    Action.KEEP: _kept,
    Action.NEW_UID: _with_new_uid,
    Action.DATE: _with_date,
    Action.TIME: _with_time,
    Action.CODES: _with_codes,
}


def _cleaned(
    ds: Dataset, tag: BaseTag, element: Element, rules: ExportRules, changes: HeaderChanges
) -> str:
    text = text_of(element)
    if rules.identities.found_in(text):
        _set(ds, tag, "")
        return NAMED
    if text:
        changes.texts[keyword_for_tag(tag), text] += 1
    return Action.CLEAN.words


def _roi_name(
    ds: Dataset, tag: BaseTag, element: Element, rules: ExportRules, changes: HeaderChanges
) -> str:
    text, words = text_of(element), Action.ROI_NAME.words
    if text not in rules.keep_rois and not is_plain(text) and text in rules.organs:
        text, words = rules.organs[text], "replaced by the name of its organ"
        _set(ds, tag, text)
    if (text not in rules.keep_rois and not is_plain(text)) or rules.identities.named_in(text):
        _set(ds, tag, f"ROI_{_text(ds, 'ROINumber')}")
        return "replaced by its number"
    changes.texts[keyword_for_tag(tag), text] += 1
    return words


def _is_public(item: Dataset, rules: ExportRules) -> bool:
    """Whether an item has a public code, and nothing else."""
    known = {"CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"}
    return (
        _text(item, "CodingSchemeDesignator") in PUBLIC_SCHEMES
        and not rules.identities.found_in(_text(item, "CodeMeaning"))
        and {keyword_for_tag(tag) for tag in item.keys()} <= known  # noqa: SIM118 - tags
    )


def _text(ds: Dataset, keyword: str) -> str:
    return text_of(ds.get_item(keyword)) if keyword in ds else ""


def _values(element: Element) -> list[str]:
    return [part.strip() for part in text_of(element).split("\\") if part.strip()]


def _set(ds: Dataset, tag: BaseTag, value: str) -> None:
    """Replace a value."""
    vr = dictionary_VR(tag)
    del ds[tag]
    if vr == "SQ":
        ds.add_new(tag, vr, [])
    else:
        ds.add_new(tag, vr, value.split("\\") if "\\" in value else value)


def _mark(ds: Dataset) -> None:
    """Say in the header what was done (PS3.3 C.7.1.1, C.12.1.1)."""
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = f"limn {__version__}, PS3.15 Annex E"
    codes = []
    for value, meaning in METHODS:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    ds.DeidentificationMethodCodeSequence = codes
    ds.LongitudinalTemporalInformationModified = "MODIFIED"
