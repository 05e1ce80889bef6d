"""Texts of an input that may say who, where or what animal it is, and a search for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from limn.domain.organ_codes import ORGAN_CODES
from limn.lab.export.profile import LABELS, METHODS, Action, action_for

Element = DataElement | RawDataElement
# Value representations of text that a person or a program may have filled with anything.
FREE_TEXT = frozenset({"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"})
# Attributes other than names of persons (PN) whose values name an animal, a place or a machine.
_NAMING = """
    PatientID OtherPatientIDs IssuerOfPatientID AccessionNumber StudyID AdmissionID
    InstitutionName InstitutionAddress InstitutionalDepartmentName StationName DeviceSerialNumber
    PerformedStationName PerformedProcedureStepID ScheduledProcedureStepID RequestedProcedureID
    ClinicalTrialSubjectID ClinicalTrialProtocolID ClinicalTrialSiteID ResponsibleOrganization
    PerformedLocation CurrentPatientLocation PatientAddress RetrieveAETitle
"""
NAMING = frozenset(_NAMING.split())
# Shorter texts are in every file by chance.
LEAST_NAME, LEAST_TEXT = 3, 6
_UIDS = re.compile(rb"[0-9]+(?:\.[0-9]+){3,}")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NUMBER = re.compile(r"\d+")
# "PRV 2mm", "GTV1 5 mm"; a date has three numbers or a long one.
MOST_NUMBERS, MOST_DIGITS = 2, 2
# What structure sets call ROIs, beside the organs that limn has codes for.
_PLAIN_WORDS = """
    lung lungs left right l r both total whole body external outline skin gtv ctv ptv prv roi oar
    target tumor tumour muscle rib ribs spine spinal cord vertebra bowel gut intestine thymus node
    lymph testis ovary lens tail leg head neck chest thorax abdomen upper lower base middle apex
    margin mm cm minus plus and or of the air bed couch blood vessel artery vein fat marrow
"""


# Words that limn writes into each file: a patient called Test^Patient is not known by the second.
_OWN_WORDS = frozenset(
    word.casefold()
    for text in (
        *(meaning for _, meaning in METHODS),
        *LABELS.values(),
        "limn PS Annex DCM MODIFIED",
    )
    for word in text.split()
)


def is_standard(uid: str) -> bool:
    """Whether the standard's list of UIDs (PS3.6 Annex A) has it: it names no animal."""
    return bool(UID(uid, validation_mode=IGNORE).type)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORDS.findall(text)]


VOCABULARY = frozenset(_PLAIN_WORDS.split()) | {
    word for organ in ORGAN_CODES for word in _words(organ)
}


def is_plain(text: str) -> bool:
    """Whether a text is made of words for organs and ROIs alone, and no number like a date's.

    A text with bytes beyond printable ASCII is not: they may be a name in any script.
    """
    words, numbers = _words(text), _NUMBER.findall(text)
    return (
        text.isascii()
        and text.isprintable()
        and bool(words)
        and set(words) <= VOCABULARY
        and len(numbers) <= MOST_NUMBERS
        and all(len(number) <= MOST_DIGITS for number in numbers)
    )


def vr_of(element: Element) -> str:
    """The value representation, by the dictionary where the file does not say it, or UN."""
    if element.VR is not None and element.VR != "UN":
        return str(element.VR)
    try:
        return dictionary_VR(element.tag)
    except KeyError:
        return "UN"


def text_of(element: Element) -> str:
    """The text of an element as its bytes stand; byte by byte where they are beyond ASCII."""
    value = element.value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1").strip("\0 ")
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value).strip("\0 ")
    return "\\".join(str(part) for part in value).strip("\0 ")


def items_of(ds: Dataset, tag: BaseTag) -> list[Dataset]:
    """The items of a sequence."""
    return list(ds[tag].value or [])


def elements(ds: Dataset) -> Iterator[tuple[Element, bool]]:
    """Every element at every depth, as it stands in the file; and whether a sequence may stay."""
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        if element is None:
            continue
        kept = not tag.is_private and action_for(tag) is not Action.REMOVE
        if vr_of(element) == "SQ":
            for item in items_of(ds, tag):
                yield from ((each, kept and own) for each, own in elements(item))
        else:
            yield element, kept


@dataclass(frozen=True, slots=False)
class Identities:
    """What must not be found in an export.

    Attributes
    ----------
    names : of persons, animals, places and machines
    texts : every other text that is removed
    uids : every UID but the standard's own
    """

    names: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)

    def add(self, ds: Dataset) -> None:
        """Collect those of a file."""
        for element, kept in elements(ds):
            vr, tag = vr_of(element), element.tag
            value = text_of(element) if vr in FREE_TEXT or vr == "UI" else ""
            if not value or tag.is_private_creator:
                continue
            if vr == "UI":
                self.uids.update(part for part in value.split("\\") if not is_standard(part))
            elif vr == "PN" or keyword_for_tag(tag) in NAMING:
                self._add_names(value, is_person=vr == "PN")
            elif not kept or action_for(tag) in {Action.EMPTY, Action.LABEL}:
                self.texts.update(
                    part for part in _parts(value) if len(part) >= LEAST_TEXT and not is_plain(part)
                )

    def _add_names(self, value: str, *, is_person: bool) -> None:
        found = _parts(value)
        if is_person:
            found += [part.strip() for part in re.split(r"[\\^=, ]+", value)]
        self.names.update(
            part
            for part in found
            if len(part) >= LEAST_NAME and part.casefold() not in _OWN_WORDS and not is_plain(part)
        )

    @cached_property
    def _name_pattern(self) -> re.Pattern[str] | None:
        return _any_of(self.names)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return _any_of(self.names | self.texts)

    def named_in(self, text: str) -> bool:
        """Whether a name of the input stands in a text as a word, in any case."""
        return self._name_pattern is not None and bool(self._name_pattern.search(text))

    def found_in(self, text: str) -> bool:
        """Whether a name or a removed text of the input stands in a text."""
        return self._pattern is not None and bool(self._pattern.search(text))

    def survivors(self, contents: bytes) -> list[str]:
        """Names and UIDs of the input that are in the bytes of a file; to be empty.

        Names without a letter may be digits of a coordinate; they are looked for in texts alone
        (`named_in`).
        """
        uids = {match.decode("ascii") for match in _UIDS.findall(contents)} & self.uids
        found = _letters(self._name_pattern, contents) if self._name_pattern else set()
        return sorted(uids | found)


def _letters(pattern: re.Pattern[str], contents: bytes) -> set[str]:
    text = contents.decode("latin-1")
    return {
        match[0] for match in pattern.finditer(text) if any(letter.isalpha() for letter in match[0])
    }


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split("\\") if part.strip()]


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    words = sorted(texts, key=len, reverse=True)
    if not words:
        return None
    joined = "|".join(re.escape(word) for word in words)
    return re.compile(rf"(?<![A-Za-z0-9])(?:{joined})(?![A-Za-z0-9])", re.IGNORECASE)


def without_pixels(contents: bytes, pixels: bytes) -> bytes:
    """The bytes of a file but those of its pixels, in which any short word may stand by chance."""
    return contents.replace(pixels, b"", 1) if pixels else contents
