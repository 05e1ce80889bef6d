"""What the header of a scan's first slice says of scanner and animal, for its page."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from limn.dicom.bounded import DAMAGES, read
from limn.domain.one_line import one_line
from limn.node.store.journal.rows import ScanRow

# Name on the page, keyword, unit (PS3.3 C.7.5.1, C.8.2.1).
_FACTS = (
    ("made by", "Manufacturer", ""),
    ("model", "ManufacturerModelName", ""),
    ("acquired", "AcquisitionDateTime", ""),
    ("lies", "PatientPosition", ""),
    ("species", "PatientSpeciesDescription", ""),
    ("tube voltage", "KVP", "kV"),
    ("tube current", "XRayTubeCurrent", "mA"),
    ("exposure time", "ExposureTime", "ms"),
    ("kernel", "ConvolutionKernel", ""),
    ("slice thickness", "SliceThickness", "mm"),
)
# People write names of animals here.
_FREE_TEXT = (("series", "SeriesDescription", ""), ("study", "StudyDescription", ""))
MOST_CHARACTERS = 120
Facts = tuple[tuple[str, str], ...]


def header_facts(row: ScanRow, *, names_shown: bool) -> Facts:
    """Names and values; none once the slices are removed, or if the first can't be read.

    Parameters
    ----------
    names_shown : also what people typed into the header
    """
    if not row.files:
        return ()
    try:
        header = read(Path(row.folder, row.files[0]), stop_before_pixels=True)
        wanted = (*_FREE_TEXT, *_FACTS) if names_shown else _FACTS
        found = [(name, _value(header, keyword), unit) for name, keyword, unit in wanted]
    except (InvalidDicomError, *DAMAGES):
        return ()
    return tuple((name, f"{value} {unit}".strip()) for name, value, unit in found if value)


def _value(header: Dataset, keyword: str) -> str:
    """The value as text; of the time of acquisition, whichever attribute has it."""
    if keyword == "AcquisitionDateTime" and not header.get(keyword):
        digits = f"{header.get('AcquisitionDate') or ''}{header.get('AcquisitionTime') or ''}"
    else:
        digits = str(header.get(keyword) or "")
    if keyword == "AcquisitionDateTime":
        return _date_time(digits)
    return one_line(digits)[:MOST_CHARACTERS]


def _date_time(digits: str) -> str:
    """20260101120000.5 for people; empty if it is no date (PS3.5 6.2, DT)."""
    if not digits[:8].isdecimal() or len(digits) < 8:
        return ""
    day = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
    return f"{day} {digits[8:10]}:{digits[10:12]}" if digits[8:12].isdecimal() else day
