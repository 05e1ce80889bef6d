"""Keeps what names an animal as the sender wrote it, whatever character set the header declares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import STR_VR, TEXT_VR_DELIMS

# PatientID is a Long String of at most 64 characters (PS3.5 6.2).
MAX_TEXT = 64
# Groups of the patient, the study and the acquisition; pixels are far behind them.
LAST_GROUP = 0x0040
ESCAPE = 0x1B
# Only the character sets of this standard have escape sequences (PS3.3 C.12.1.1.2).
CODE_EXTENSIONS = "2022"
CHARACTER_SET = 0x00080005


def animal_of(header: Dataset) -> str:
    r"""PatientID for the journal, the log and tables: one line, and never a guess.

    The node tells animals apart by this name. Two PatientIDs share one if they are the same text
    but for spaces at its end (in two character sets, say), or if neither can be decoded and their
    bytes are the same. In the name of one that can't be decoded a byte beyond ASCII is written
    ``\xfc``; an unprintable character beyond ASCII is written ``\u00a0`` or ``\U000e0001``, so that
    none of these stands for another. PatientID itself can't contain a backslash (PS3.5 6.2).
    """
    return decoded_text(header, "PatientID")


def decoded_text(header: Dataset, keyword: str) -> str:
    """A text element as `animal_of` gives it; empty if it is absent."""
    element: Any = header.get_item(keyword) if keyword in header else None
    value = None if element is None else element.value
    if isinstance(value, bytes):
        decoded = _decoded(value, header)
        if decoded is None:
            return _shown(value.rstrip(b"\0 ").decode("latin-1"), of_bytes=True)
        value = decoded.rstrip("\0 ")
    if value is not None and not isinstance(value, str):
        value = "\\".join(str(part) for part in value)
    return _shown(value or "")


def _shown(text: str, *, of_bytes: bool = False) -> str:
    """At most `MAX_TEXT` characters, escaped; two texts that are longer stay different.

    Parameters
    ----------
    of_bytes : each letter stands for the byte of its number
    """
    whole = _escaped(text, of_bytes=of_bytes)
    if len(text) <= MAX_TEXT:
        return whole
    mark = "~" + hashlib.sha256(whole.encode()).hexdigest()[:8]
    return _escaped(text[: MAX_TEXT - len(mark)], of_bytes=of_bytes) + mark


def _decoded(value: bytes, header: Dataset) -> str | None:
    """The text, or None if the declared character set lacks one of the bytes."""
    declared = header.get("SpecificCharacterSet")
    encodings = convert_encodings(declared)
    try:
        if ESCAPE not in value:
            return value.decode(encodings[0])
        if CODE_EXTENSIONS not in str(declared):
            return None
        text = decode_bytes(value, encodings, TEXT_VR_DELIMS)
    except (LookupError, UnicodeError):
        return None
    # pydicom leaves an escape sequence in that the declared sets do not have.
    return None if "\ufffd" in text or chr(ESCAPE) in text else text


def _escaped(text: str, *, of_bytes: bool = False) -> str:
    def shown(letter: str) -> str:
        code = ord(letter)
        if letter.isprintable() and letter != "\\" and (not of_bytes or letter.isascii()):
            return letter
        if of_bytes or letter.isascii():
            return f"\\x{code:02x}"
        return f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"

    return "".join(shown(letter) for letter in text)


def unread_elements(header: Dataset) -> dict[BaseTag, RawDataElement]:
    """The elements that nobody has decoded yet, with the bytes of their sender.

    Without SpecificCharacterSet, which pydicom must be able to read when it writes.
    """
    return {
        each.tag: each
        for each in header.values()
        if isinstance(each, RawDataElement)
        and each.tag.group <= LAST_GROUP
        and each.tag != CHARACTER_SET
    }


def copy_of(element: DataElement | RawDataElement) -> DataElement | None:
    """A text element that pydicom writes byte for byte; None if it isn't text as it came.

    pydicom encodes a text again when it writes it, and replaces what it could not decode. It
    writes bytes as they are, so the copy has no text. An odd length is padded (PS3.5 7.1.1).
    """
    value: Any = element.value
    if not isinstance(element, RawDataElement) or not isinstance(value, bytes):
        return None
    vr = _vr(element)
    if vr not in STR_VR:
        return None
    padding = b"\0" if vr == "UI" else b" "
    value += padding * (len(value) % 2)
    # OB, because pydicom turns UN into the VR of its dictionary.
    return DataElement(element.tag, "OB", value, already_converted=True)


def copy_into(
    target: Dataset, source: Dataset, tag: BaseTag, unread: Mapping[BaseTag, RawDataElement]
) -> None:
    """Copy an element, its items included, as the sender wrote it.

    ``target`` must be written in an implicit VR, since the copies have no VR of their own.
    """
    if tag not in unread or (copied := copy_of(unread[tag])) is None:
        copied = source[tag]
        if copied.VR == "SQ":
            items = []
            for item in copied.value or ():
                inner = Dataset()
                for own in list(item.keys()):
                    copy_into(inner, item, own, unread_elements(item))
                items.append(inner)
            copied = DataElement(tag, "SQ", items)
    target[tag] = copied


def _vr(element: RawDataElement) -> str:
    if element.VR is not None and element.VR != "UN":
        return str(element.VR)
    try:
        return dictionary_VR(element.tag)
    except KeyError:
        return "UN"
