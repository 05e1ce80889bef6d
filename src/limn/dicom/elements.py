"""Counts the elements of a data set before it is parsed: parsed, each takes some 300 bytes.

An empty element has 8 bytes, so a few megabytes may become gigabytes in the parser.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Literal

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from limn.dicom.bounded import (
    MAX_HEADER_BYTES,
    MAX_HEADER_BYTES_PER_FRAME,
    MAX_INFLATED_BYTES,
    PIXEL_DATA,
    UNDEFINED_LENGTH,
    Overlarge,
)

# A CT slice has some hundred elements, and an Enhanced CT about a hundred for each frame.
MAX_ELEMENTS = 2**15
MAX_ELEMENTS_PER_FRAME = 2**8
MAX_ELEMENTS_OF_ANY = 2**19
# So many may be parsed by every thread at once: some 3 MB each.
FEW_ELEMENTS = 2**13

_NUMBER_OF_FRAMES, _TRANSFER_SYNTAX = 0x00280008, 0x00020010
# What says how many bytes the pixels have, besides the number of frames: rows, columns, samples and
# bits of each pixel.
_SIZES = {0x00280010: 0, 0x00280011: 0, 0x00280002: 1, 0x00280100: 16}
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


class _Inflated:
    """A deflated data set, of which only the part that is looked at is in memory."""

    PIECE = 2**16
    # The walk looks so far ahead of the header of an element.
    AHEAD = 32

    def __init__(self, zipped: bytes) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._rest = zipped
        self.total = 0

    def window(self, contents: bytes, at: int) -> bytes:
        """The bytes from ``at`` on, at least those that a walk needs; fewer at the end.

        Raises
        ------
        Overlarge
            If it has inflated to too much by then.
        zlib.error
            If it is damaged.
        """
        skip, contents = max(0, at - len(contents)), contents[at:]
        while len(contents) < 2 * self.AHEAD and not self._inflater.eof:
            piece = self._inflater.decompress(self._rest, self.PIECE)
            self._rest = self._inflater.unconsumed_tail
            if not piece and not self._rest:
                break
            self.total += len(piece)
            if self.total > MAX_INFLATED_BYTES:
                msg = f"the deflated data set has more than {MAX_INFLATED_BYTES} bytes"
                raise Overlarge(msg)
            contents += piece[skip:]
            skip = max(0, skip - len(piece))
        return contents


@dataclass(frozen=True, slots=True)
class _Count:
    """How many elements there are, up to one more than the limit for the number of frames.

    Attributes
    ----------
    is_sure : whether the walk ended at the last byte
    sizes : the largest value of each of `_SIZES`
    """

    elements: int
    limit: int
    is_sure: bool
    sizes: dict[int, int] = field(default_factory=dict)


def _count(  # noqa: PLR0912 - one walk, for each slice that a scanner waits for
    contents: bytes, inflated: _Inflated | None = None
) -> _Count:
    """Walk over the headers of elements; skip values, enter sequences.

    Parameters
    ----------
    inflated : gives more of a data set that is deflated, of which nothing is in ``contents``
    """
    limit = MAX_ELEMENTS + MAX_ELEMENTS_PER_FRAME
    elements, at, sizes = 0, _start(contents), dict(_SIZES)
    in_meta, in_fragments, explicit, order = True, False, True, _ORDERS["little"]
    syntax = b""
    last = len(contents) - 8
    while elements <= limit:
        if inflated is not None and at > last - inflated.AHEAD:
            contents, at = inflated.window(contents, at), 0
            last = len(contents) - 8
        if at > last:
            break
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
        elif tag in sizes:
            value = int.from_bytes(contents[at : at + min(length, 2)], order.name)
            sizes[tag] = max(sizes[tag], value)
        elif tag == _TRANSFER_SYNTAX:
            syntax = contents[at : at + length].rstrip(b"\0 ")
        if length == UNDEFINED_LENGTH:
            in_fragments = tag == PIXEL_DATA
        elif not (may_hold_items and contents[at : at + 4] == order.item):
            at += length
    return _Count(elements, limit, at == len(contents), sizes)


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

    Raises
    ------
    Overlarge
        Names the limit.
    """
    _check_count(_count(contents))


def check_deflated(zipped: bytes) -> None:
    """As `check_elements`, and the size, of a deflated data set; it is never whole in memory.

    Raises
    ------
    Overlarge
        Names the limit: of elements, or of bytes besides the pixels that the header announces.
    zlib.error
        If it is damaged.
    """
    inflated = _Inflated(zipped)
    found = _count(b"", inflated)
    _check_count(found)
    rows, columns, samples, bits = found.sizes.values()
    frames = (found.limit - MAX_ELEMENTS) // MAX_ELEMENTS_PER_FRAME
    pixels = rows * columns * samples * frames * -(-bits // 8)
    allowed = pixels + MAX_HEADER_BYTES + MAX_HEADER_BYTES_PER_FRAME * frames
    # The walk has inflated all but what lies behind the last header.
    if found.limit < MAX_ELEMENTS_OF_ANY and inflated.total > allowed:
        msg = (
            f"it inflates to more than {allowed} bytes: {pixels} of pixels, by its header, and "
            f"{allowed - pixels} for the rest"
        )
        raise Overlarge(msg)


def _check_count(found: _Count) -> None:
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
