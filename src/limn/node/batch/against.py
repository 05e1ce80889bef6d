"""A cohort's new contours against those of an earlier run: a table, and the worst scans drawn."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from limn.dicom.rtstruct import read
from limn.dicom.series import Series, assemble
from limn.dicom.structures import Structure, structures_of
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import LimnError
from limn.domain.files import write_durably
from limn.domain.records import OrganDifference, least_dsc, lights_of
from limn.domain.scan import Labels, Organ
from limn.domain.spreadsheet import neutral_cell
from limn.node.batch.find_series import FoundSeries
from limn.node.batch.notes import NOTE, Notes
from limn.segment.compare.difference import differences
from limn.segment.draw.picture.difference_sheet import draw_difference, line_of
from limn.segment.draw.rasterise import fill

TABLE = "differences.csv"
COLUMNS = (
    *("series", "animal", "old", "new", "reason", "organ", "dsc", "hd95_mm", "old_mm3"),
    *("new_mm3", "change_percent", "old_light", "new_light"),
)
FOLDER = "differences"
# So many scans are drawn: those that differ most.
DRAWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesDifference:
    """One scan of the cohort. ``reason`` says why it has no organs."""

    series: str
    animal: str
    old: str
    new: str
    reason: str = ""
    organs: tuple[OrganDifference, ...] = ()


def write_differences(
    found: Sequence[FoundSeries], notes: Notes, old: Path, out: Path, console: Console
) -> None:
    """Compare each scan with the one of the same name below ``old``; write table and pictures.

    Organs are compared voxel by voxel, as both structure sets say them on the scan's slices.
    """
    every = []
    for note in notes.of(found):
        name = note.series
        if note.outcome == "contoured":
            source = _slices_of(name, found)
            every.append(_compared(name, note.animal, source, old / name, notes.folder(name)))
        else:
            reason = f"now {note.outcome}: {note.reason}"
            every.append(
                SeriesDifference(series=name, animal=note.animal, old="", new="", reason=reason)
            )
    _write_table(every, out / TABLE)
    worst = sorted((each for each in every if each.organs), key=lambda each: least_dsc(each.organs))
    for rank, each in enumerate(worst[:DRAWN], 1):
        source = _slices_of(each.series, found)
        picture = _drawn(source, old / each.series, notes.folder(each.series), each)
        path = out / FOLDER / f"{rank:02d}-{each.series.replace('/', '-')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, picture)
    _print(every, worst, out, console)


def _slices_of(name: str, found: Sequence[FoundSeries]) -> Sequence[Path]:
    """The slices of a series, or of the one in which an animal lies beside others."""
    paths = {each.name: each.paths for each in found}
    return paths.get(name) or paths[name.rpartition("/animal-")[0]]


def _compared(
    name: str, animal: str, paths: Sequence[Path], old: Path, new: Path
) -> SeriesDifference:
    if not (old / "RS.dcm").is_file():
        reason = f"the earlier run has no structure set of it ({old / 'RS.dcm'})"
        return SeriesDifference(series=name, animal=animal, old="", new="", reason=reason)
    records = [_record(folder) for folder in (old, new)]
    # Two bundles of one name differ by their hash.
    bundles = [
        f"{each.get('bundle', '')} {str(each.get('bundle_sha256', ''))[:12]}".strip()
        for each in records
    ]
    known: dict[str, Any] = {"series": name, "animal": animal, "old": bundles[0], "new": bundles[1]}
    try:
        series = assemble(read_headers(paths), assume_hu=True)
        labels = [
            _labels(folder, series, record)
            for folder, record in zip((old, new), records, strict=True)
        ]
        lights = [lights_of(each) for each in records]
        organs = differences(labels[0], labels[1], lights[0], lights[1])
    except (LimnError, OSError) as error:
        return SeriesDifference(**known, reason=str(error))
    except (KeyError, ValueError) as error:
        reason = f"what a run noted of it can't be used ({error!r}); was {old} written by limn?"
        return SeriesDifference(**known, reason=reason)
    return SeriesDifference(**known, organs=organs)


def _record(folder: Path) -> Mapping[str, Any]:
    """What the run that wrote the folder noted; nothing if it is of no run of limn."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))["record"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _labels(folder: Path, series: Series, record: Mapping[str, Any]) -> Labels:
    """The organs of a structure set, on the slices of its series; what is derived is left out."""
    organs = {roi["roi"]: roi["organ"] for roi in record.get("rois", ()) if roi.get("organ")}
    zyx = np.zeros(series.grid.shape_zyx, dtype=np.uint8)
    names: dict[int, Organ] = {}
    for structure in structures_of(read((folder / "RS.dcm").read_bytes()), series):
        if organs and structure.name not in organs:
            continue
        names[len(names) + 1] = Organ(str(organs.get(structure.name, structure.name)))
        _fill(zyx, len(names), structure, series)
    return Labels(zyx, series.grid, names)


def _fill(zyx: npt.NDArray[np.uint8], number: int, structure: Structure, series: Series) -> None:
    for k in sorted({each.slice_index for each in structure.polygons}):
        rings = [
            (series.grid.plane_indices_yx(k, each.points_xyz_mm), each.xor)
            for each in structure.polygons
            if each.slice_index == k
        ]
        zyx[k][fill(rings, zyx.shape[1:])] = number


def _drawn(paths: Sequence[Path], old: Path, new: Path, each: SeriesDifference) -> bytes:
    series = assemble(read_headers(paths), assume_hu=True)
    labels = [_labels(folder, series, _record(folder)) for folder in (old, new)]
    return draw_difference(read_volume(series), labels[0], labels[1], each.organs)


def _write_table(every: Sequence[SeriesDifference], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for each in every:
        head = {name: getattr(each, name) for name in ("series", "animal", "old", "new", "reason")}
        organs = [asdict(organ) | {"change_percent": organ.change_percent} for organ in each.organs]
        for row in organs or [{}]:
            writer.writerow({name: neutral_cell(value) for name, value in (head | row).items()})
    write_durably(path, text.getvalue().encode())


def _print(
    every: Sequence[SeriesDifference],
    worst: Sequence[SeriesDifference],
    out: Path,
    console: Console,
) -> None:
    for each in every:
        if each.reason:
            console.print(f"{each.series}: not compared: {each.reason}", soft_wrap=True)
    for each in worst[:DRAWN]:
        organ = min(each.organs, key=lambda organ: 2.0 if organ.dsc is None else organ.dsc)
        console.print(f"{each.series}: {line_of(organ)}", soft_wrap=True)
    console.print(
        f"{len(worst)} of {len(every)} scans compared; table in {out / TABLE}, the "
        f"{min(DRAWN, len(worst))} that differ most in {out / FOLDER}",
        soft_wrap=True,
    )
