"""Elements are counted before a data set is parsed."""

import io
import struct
import time
import tracemalloc
import zlib

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from limn.dicom import elements
from limn.dicom.bounded import Overlarge, read
from limn.dicom.elements import FEW_ELEMENTS, check_elements, has_many_elements
from limn.dicom.instance import Unreadable, inspect
from tests.support.node.parts import encoded, slices


def swarm(count: int, syntax: str = "explicit") -> bytes:
    """A file of so many empty elements, eight bytes each, in front of a whole slice."""
    ds = slices()[0]
    if syntax == "implicit":
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    whole = encoded(ds)
    start = 144 + int.from_bytes(whole[140:144], "little")
    first = struct.pack("<HH", 8, 5) + (b"CS\0\0" if syntax == "explicit" else bytes(4))
    form, value = ("<HH2sH", (b"LO", 0)) if syntax == "explicit" else ("<HHI", (0,))
    many = (struct.pack(form, 9 + 2 * (k // 60000), k % 60000, *value) for k in range(count))
    return whole[:start] + first + b"".join(many) + whole[start:]


def in_sequence(count: int, *, defined: bool) -> bytes:
    """A slice with so many items of one empty element in a private sequence."""
    ds = slices()[0]
    items = []
    for _ in range(count):
        item = Dataset()
        item.add_new(0x00111001, "LO", "")
        items.append(item)
    ds.add_new(0x00110010, "LO", "X")
    ds.add_new(0x00111001, "SQ", items)
    ds[0x00111001].is_undefined_length = not defined
    return encoded(ds)


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_a_swarm_of_empty_elements_is_refused_before_it_is_parsed(monkeypatch, syntax):
    """690,000 of them have 5.5 MB in the file and took 190 MB in memory."""
    monkeypatch.setattr("limn.dicom.instance.read", None)
    with pytest.raises(Unreadable, match="more than 33024 elements, an image has at most 32768"):
        inspect(swarm(690_000, syntax))


def deflated(ds: Dataset, more: bytes = b"", *, in_front: bool = True) -> bytes:
    """A slice whose data set is deflated, with more bytes in it."""
    start = encoded(ds)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.file_meta.FileMetaInformationGroupLength = 0
    file = io.BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    whole = file.getvalue()
    offset = 144 + int.from_bytes(whole[140:144], "little")
    plain = start[144 + int.from_bytes(start[140:144], "little") :]
    zipper = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    both = more + plain if in_front else plain + more
    return whole[:offset] + zipper.compress(both) + zipper.flush()


def test_a_deflated_data_set_is_counted_before_it_is_inflated(monkeypatch):
    """Three million empty elements have 24 MB inflated and 24 kB deflated; parsed, far more."""
    whole = slices()[0]
    assert inspect(deflated(whole)).sop_instance_uid == whole.SOPInstanceUID
    monkeypatch.setattr("limn.dicom.instance.read", None)
    many = struct.pack("<HH2sH", 9, 1, b"LO", 0) * 3_000_000
    tracemalloc.start()
    for in_front in (True, False):
        with pytest.raises(Unreadable, match="more than 33024 elements"):
            inspect(deflated(slices()[0], many[: 8 * 40_000], in_front=in_front))
    zipped = deflated(slices()[0], many, in_front=False)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(Unreadable, match="more than 33024 elements"):
        inspect(zipped)
    assert tracemalloc.get_traced_memory()[1] - before < 2**21
    tracemalloc.stop()


def test_a_deflated_data_set_is_measured_before_it_is_inflated(monkeypatch):
    """One private element of 100 MB of zeros; the header announces 96 bytes of pixels."""
    monkeypatch.setattr("limn.dicom.instance.read", None)
    header = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 10**8)
    with pytest.raises(Unreadable, match="inflates to more than 4259936 bytes: 96 of pixels"):
        inspect(deflated(slices()[0], header + bytes(10**8)))


def test_a_swarm_behind_the_pixels_or_in_a_sequence_counts_too(monkeypatch):
    """The walk enters sequences of known and unknown length, and goes on behind the pixels."""
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 1000)
    whole = encoded(slices()[0])
    check_elements(whole)
    behind = b"".join(struct.pack("<HH2sH", 0x7FE1, k, b"LO", 0) for k in range(1500))
    for contents in (
        whole + behind,
        in_sequence(700, defined=True),
        in_sequence(700, defined=False),
    ):
        with pytest.raises(Overlarge, match="more than 1256 elements"):
            check_elements(contents)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_a_slice_is_counted_as_the_parser_reads_it(syntax):
    """The elements of meta, data set and sequences; compressed pixels have three more headers."""
    ds = slices()[0]
    if syntax == RLELossless:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(
        file,
        ds,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        enforce_file_format=True,
    )
    contents = file.getvalue()
    found = elements._count(contents)
    more = 3 if syntax == RLELossless else 0
    assert found.is_sure
    parsed = read(contents)
    assert found.elements == len(parsed) + len(parsed.file_meta) + more
    assert inspect(contents)


def test_an_enhanced_ct_may_have_more_elements():
    """By its frames, up to a limit that holds for any image."""
    assert elements._limit(b"1000 ") == 2**15 + 256_000
    assert elements._limit(b"999999999") == 2**19
    assert elements._limit(b"-1") == elements._limit(b"") == 2**15 + 2**8


def test_what_is_read_alone():
    """Many elements, or a walk that does not end at the last byte; never a usual slice."""
    ds = slices()[0]
    ds.Rows = ds.Columns = 512
    ds.PixelData = bytes(512 * 512 * 2)
    whole = encoded(ds)
    assert not has_many_elements(whole)
    assert has_many_elements(whole[:-2])
    assert has_many_elements(swarm(FEW_ELEMENTS))


def test_the_count_is_cheap():
    """An honest slice's takes a tenth of a millisecond."""
    whole = encoded(slices()[0])
    spent_s = []
    for _ in range(50):
        began_s = time.perf_counter()
        check_elements(whole)
        spent_s.append(time.perf_counter() - began_s)
    assert min(spent_s) < 0.002
