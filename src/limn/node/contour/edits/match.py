"""Which scan a structure set that came back is of (D-261).

UIDs only say where to look: its own, if the planning system kept it, or the series, images, study
and structure set that it names. The geometry decides: every contour must fit the slices of the
series, in its frame of reference, and the contours must overlap with those that limn drew. Its
animal must be that of the series. Among versions of a series, and animals in one field, the
contours say of which it is an edit: those that are most alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from limn.dicom.bounded import read
from limn.dicom.identity import animal_of
from limn.dicom.series import Series, assemble
from limn.dicom.structures import Structure, structures_of
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.segment.draw.rasterise import filled

Mask = npt.NDArray[np.bool_]

# Contours of a new UID must share so much with limn's, as DSC of all ROIs together: those of a
# neighbour in the field share nothing.
LEAST_ALIKE = 0.1
# So many scans are looked at whose study alone is named.
MOST_OF_STUDY = 20
# So many versions of one animal's scan are compared, the newest first.
MOST_VERSIONS = 6


class NoScan(Exception):
    """It is of no scan of this node; the text says why."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An ROI of limn's, and the same one as it came back; masks are made when they are needed.

    Attributes
    ----------
    after : None if it is not in the structure set that came back
    """

    before: Structure
    after: Structure | None
    series: Series

    @cached_property
    def slices(self) -> range:
        """The slices on which either has a contour."""
        both = (*self.before.polygons, *(self.after.polygons if self.after else ()))
        drawn = {each.slice_index for each in both}
        return range(min(drawn), max(drawn) + 1) if drawn else range(0)

    @property
    def masks(self) -> tuple[Mask, Mask]:
        """(z, y, x) of these slices, before and after."""
        return self._mask(self.before), self._mask(self.after)

    def _mask(self, structure: Structure | None) -> Mask:
        polygons = structure.polygons if structure else ()
        rings = ((each.slice_index, each.points_xyz_mm, each.xor) for each in polygons)
        return filled(rings, self.series.grid, self.slices)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A scan that a structure set is of.

    Attributes
    ----------
    alike : DSC of all ROIs together
    preview : it is of the scan's PREVIEW
    """

    row: ScanRow
    series: Series
    pairs: tuple[Pair, ...]
    alike: float
    preview: bool


def matches_of(ds: Dataset, journal: JournalReader, results_dir: Path) -> list[Match]:
    """The scans that a structure set is of: one, or each animal of a field that is in it.

    Raises
    ------
    NoScan
        If it is of none.
    """
    rows, is_own = _rows_of(ds, journal)
    if not rows:
        msg = "it names no series, image, study or structure set of a scan that limn contoured"
        raise NoScan(msg)
    found: dict[int, list[Match]] = {}
    refusals: list[str] = []
    opened: dict[tuple[str, tuple[str, ...]], Series] = {}
    for row in rows:
        try:
            files = row.folder, row.files
            if files not in opened:
                opened[files] = _series_of(row)
            series = opened[files]
            structures = _structures_on(ds, row, series)
            for path, preview in _drawn(row, journal, results_dir):
                pairs = pairs_of(structures_of(read(path), series), structures, series)
                match = Match(row, series, pairs, _alike(pairs), preview)
                found.setdefault(row.animal_number, []).append(match)
        except (RefusedSeries, NoScan) as why:
            refusals.append(f"{row.name}: {why}")
    best = [max(own, key=lambda each: (each.alike, each.row.id)) for own in found.values()]
    best = [each for each in best if any(pair.after for pair in each.pairs)]
    if is_own and best:
        return best
    best = [each for each in best if each.alike >= LEAST_ALIKE]
    if not best:
        msg = "; ".join(dict.fromkeys(refusals)) or (
            f"none of its contours overlaps with those that limn drew on {rows[0].name}"
        )
        raise NoScan(msg)
    return sorted(best, key=lambda each: each.row.animal_number)


def _rows_of(ds: Dataset, journal: JournalReader) -> tuple[list[ScanRow], bool]:
    """Scans that it may be of, the newest first, and whether its own UID says so."""
    uid = str(ds.get("SOPInstanceUID") or "").strip()
    if own := journal.scans_of_structure_set(uid):
        return own, True
    before = _items(ds, "PredecessorStructureSetSequence")
    frames = _items(ds, "ReferencedFrameOfReferenceSequence")
    studies = [each for frame in frames for each in _items(frame, "RTReferencedStudySequence")]
    series = [each for study in studies for each in _items(study, "RTReferencedSeriesSequence")]
    named = {
        row.id: row
        for row in (
            *(
                row
                for each in _uids(before, "ReferencedSOPInstanceUID")
                for row in journal.scans_of_structure_set(each)
            ),
            *journal.contoured_of_series(_uids(series, "SeriesInstanceUID")),
        )
    }
    if not named:
        uids = _uids(studies, "ReferencedSOPInstanceUID") | _uids([ds], "StudyInstanceUID")
        named = {row.id: row for row in journal.contoured_of_studies(uids, MOST_OF_STUDY)}
    newest = sorted(named.values(), key=lambda row: -row.id)
    counts: dict[tuple[str, int], int] = {}
    kept = []
    for row in newest:
        key = row.series_instance_uid, row.animal_number
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= MOST_VERSIONS:
            kept.append(row)
    return kept, False


def _series_of(row: ScanRow) -> Series:
    paths = [Path(row.folder) / name for name in row.files]
    gone = sum(not path.is_file() for path in paths)
    if gone or not paths:
        msg = f"{gone or 'all'} of its slices are not on disk any more (retention.spool_days)"
        raise NoScan(msg)
    return assemble(read_headers(paths), assume_hu=True)


def _structures_on(ds: Dataset, row: ScanRow, series: Series) -> tuple[Structure, ...]:
    """Its ROIs on the slices of a scan.

    Raises
    ------
    NoScan, RefusedSeries
        If it is of another animal or scan.
    """
    animal, scanned = animal_of(ds).strip(), row.animal.strip()
    if animal != scanned:
        msg = f"PatientID '{animal}', but '{scanned}' in the scan; never matched"
        raise NoScan(msg)
    if (named := _images_of(ds)) and not named & set(series.sop_instance_uids):
        msg = "it names images of another series alone"
        raise NoScan(msg)
    structures = structures_of(ds, series)
    placed = sum(len(each.polygons) for each in structures)
    left_out = sum(sum(each.left_out.values()) for each in structures)
    if left_out > placed:
        msg = f"{left_out} of its {left_out + placed} contours lie on no slice of the scan"
        raise NoScan(msg)
    return structures


def _images_of(ds: Dataset) -> set[str]:
    """The images that its contours name."""
    contours = (
        contour
        for roi in _items(ds, "ROIContourSequence")
        for contour in _items(roi, "ContourSequence")
    )
    images = (image for each in contours for image in _items(each, "ContourImageSequence"))
    return _uids(images, "ReferencedSOPInstanceUID")


def _drawn(row: ScanRow, journal: JournalReader, results_dir: Path) -> Iterator[tuple[Path, bool]]:
    """The files of what limn drew: the structure set, and the preview if there was one."""
    structure_set, preview = journal.structure_set_of(row.id), journal.preview_of(row.id)
    path = Path(structure_set.path)
    if not path.is_file():
        msg = "its structure set is not on disk any more (retention.results_days)"
        raise NoScan(msg)
    yield path, False
    if preview is not None and preview.path and Path(preview.path).is_file():
        yield Path(preview.path), True


def pairs_of(
    before: Sequence[Structure], after: Sequence[Structure], series: Series
) -> tuple[Pair, ...]:
    """Each ROI of limn's that has contours, with the one that came back.

    By its name; else the one that a person called so and something more, such as ``Heart_2``, with
    the largest overlap.
    """
    names = {each.name.strip().casefold(): each for each in after}
    own = {each.name.strip().casefold() for each in before}
    pairs = []
    for each in before:
        if not each.polygons:
            continue
        name = each.name.strip().casefold()
        if (same := names.get(name)) is None:
            longer = [
                other
                for known, other in names.items()
                if known not in own and known.startswith(name) and not known[len(name)].isalnum()
            ]
            tried = [Pair(each, other, series) for other in longer]
            alike = {pair: value for pair in tried if (value := _alike([pair])) > 0.0}
            best = max(alike, key=lambda pair: alike[pair], default=None)
            same = None if best is None else best.after
        pairs.append(Pair(each, same, series))
    return tuple(pairs)


def _alike(pairs: Iterable[Pair]) -> float:
    """DSC of all ROIs that came back, together."""
    shared = total = 0
    for pair in pairs:
        if pair.after is not None:
            before, after = pair.masks
            shared += 2 * int((before & after).sum())
            total += int(before.sum()) + int(after.sum())
    return shared / total if total else 0.0


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    return list(ds.get(keyword) or ())


def _uids(items: Iterable[Dataset], keyword: str) -> set[str]:
    return {str(each.get(keyword) or "").strip() for each in items} - {""}


def organs_of(row: ScanRow) -> Mapping[str, tuple[str, str]]:
    """Name of each ROI that a network drew, to its organ and role."""
    return {
        str(each["roi"]): (str(each["organ"]), str(each.get("role", "")))
        for each in row.record.get("rois", ())
        if each.get("organ")
    }
