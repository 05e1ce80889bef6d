"""Counts the elements of a data set before it is parsed: parsed, each takes some 300 bytes.

An empty element has 8 bytes, so a few megabytes may become gigabytes in the parser.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from limn.dicom.bounded import PIXEL_DATA, UNDEFINED_LENGTH, Overlarge

# A CT slice has some hundred elements, and an Enhanced CT about a hundred for each frame.
MAX_ELEMENTS = 2**15
MAX_ELEMENTS_PER_FRAME = 2**8
MAX_ELEMENTS_OF_ANY = 2**19
# So many may be parsed by every thread at once: some 3 MB each.
FEW_ELEMENTS = 2**13

_NUMBER_OF_FRAMES, _TRANSFER_SYNTAX = 0x00280008, 0x00020010
_ITEMS_GROUP, _ITEM, _SEQUENCE_END = 0xFFFE, 0xE000, 0xE0DD
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
# PS3.5 table 7.1-1.
_LONG_VRS = frozenset(each.encode() for each in EXPLICIT_VR_LENGTH_32)
_VRS_WITH_ITEMS = frozenset((b"SQ", b"UN"))


class _Order:
    """A byte order: how the first eight bytes of an element are read.

    They are group, number, VR and length of 16 bits; the last four are a length of 32 bits too.
    """

    def __init__(self, name: Literal["little", "big"]) -> None:
        self.name = name
        sign = "<" if name == "little" else ">"
        self._header = struct.Struct(f"{sign}HH2sH")
        self._length = struct.Struct(f"{sign}I")
        self.item = struct.pack(f"{sign}HH", _ITEMS_GROUP, _ITEM)

    def unpack(self, contents: bytes, at: int) -> tuple[int, int, bytes, int, int]:
        """Group, number, VR, short length and long length at a place."""
        return *self._header.unpack_from(contents, at), *self._length.unpack_from(contents, at + 4)


_ORDERS = {"little": _Order("little"), "big": _Order("big")}


@dataclass(frozen=True, slots=True)
class _Count:
    """How many elements there are, up to one more than the limit for the number of frames.

    Attributes
    ----------
    is_sure : whether the walk ended at the last byte
    """

    elements: int
    limit: int
    is_sure: bool


def _count(contents: bytes) -> _Count:
    """Walk over the headers of elements; skip values, enter sequences."""
    limit = MAX_ELEMENTS + MAX_ELEMENTS_PER_FRAME
    elements, at = 0, _start(contents)
    in_meta, in_fragments, explicit, order = True, False, True, _ORDERS["little"]
    syntax = b""
    last = len(contents) - 8
    while at <= last and elements <= limit:
        elements += 1
        group, number, vr, short, long = order.unpack(contents, at)
        if in_meta and group != 2:
            in_meta = False
            order = _ORDERS["big" if syntax == _BIG_ENDIAN else "little"]
            group, number, vr, short, long = order.unpack(contents, at)
            # As pydicom: the first element decides, whatever the file meta says.
            explicit = b"AA" <= vr <= b"ZZ"
        if group == _ITEMS_GROUP:
            at += 8
            if in_fragments:
                at += long if number == _ITEM else 0
                in_fragments = number != _SEQUENCE_END
            continue
        tag = group << 16 | number
        at += 8
        length, may_hold_items = short, False
        if not explicit or not b"AA" <= vr <= b"ZZ":
            length, may_hold_items = long, tag != PIXEL_DATA
        elif vr in _LONG_VRS:
            at += 4
            length = int.from_bytes(contents[at - 4 : at], order.name)
            may_hold_items = vr in _VRS_WITH_ITEMS
        if tag == _NUMBER_OF_FRAMES:
            limit = _limit(contents[at : at + min(length, 16)])
        elif tag == _TRANSFER_SYNTAX:
            syntax = contents[at : at + length].rstrip(b"\0 ")
        if length == UNDEFINED_LENGTH:
            in_fragments = tag == PIXEL_DATA
        elif not (may_hold_items and contents[at : at + 4] == order.item):
            at += length
    return _Count(elements, limit, at == len(contents))


def _limit(frames: bytes) -> int:
    """The limit for an image whose NumberOfFrames has this value."""
    count = int(frames) if frames.strip().isdigit() else 1
    return min(MAX_ELEMENTS + MAX_ELEMENTS_PER_FRAME * count, MAX_ELEMENTS_OF_ANY)


def _start(contents: bytes) -> int:
    if contents[128:132] == b"DICM":
        return 132
    return 4 if contents[:4] == b"DICM" else 0


def check_elements(contents: bytes) -> None:
    """Compare the number of elements of an image with the limit for its frames.

    A deflated data set can't be counted before it is inflated.

    Raises
    ------
    Overlarge
        Names the limit.
    """
    found = _count(contents)
    if found.elements > found.limit:
        msg = (
            f"more than {found.limit} elements, an image has at most {MAX_ELEMENTS} and "
            f"{MAX_ELEMENTS_PER_FRAME} for each frame"
        )
        raise Overlarge(msg)


def has_many_elements(contents: bytes) -> bool:
    """Whether a parse may take more memory than many threads can take at once."""
    if len(contents) <= 8 * FEW_ELEMENTS:
        return False
    found = _count(contents)
    return found.elements > FEW_ELEMENTS or not found.is_sure
