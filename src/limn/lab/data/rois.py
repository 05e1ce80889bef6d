"""Shows the ROIs of a structure set on its series: volumes, and masks to write."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limn.dicom.bounded import DAMAGES, read
from limn.dicom.series import Series, assemble
from limn.dicom.structures import Structure, contours_of_no_roi, structures_of
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.domain.files import write_durably
from limn.domain.folders import files_below
from limn.domain.geometry import FloatArray
from limn.domain.one_line import one_line
from limn.formats.label_files import file_name, image_of, table_of, write_image
from limn.formats.surfaces import stl_of
from limn.segment.draw.rasterise import SAME_VOXELS, apart_voxels, filled

# Doubts about the contours of one slice, or between slices; a person counts the slices.
TWICE = "slices with two outlines less than half a voxel apart: taken as one"
THIN = "slices with two outlines close to each other all around: taken as an outline and its hole"
GAPS = "slices between the first and the last contour without one"
THIN_VOXELS = 2.0
# What ROIs are written as; they may overlap, so each has files of its own.
FORMS = ("nifti", "nrrd", "stl", "csv")


def mask_of(structure: Structure, series: Series) -> npt.NDArray[np.bool_]:
    """The voxels whose centre lies in the structure, (z, y, x) bool."""
    polygons = ((each.slice_index, each.points_xyz_mm, each.xor) for each in structure.polygons)
    return filled(polygons, series.grid)


def doubts_of(structure: Structure, series: Series) -> dict[str, int]:
    """What a person should look at in the contours as a whole, with the number of slices.

    Beside the doubts about single contours, which the structure has.
    """
    grid, rings = series.grid, defaultdict[int, list[FloatArray]](list)
    for polygon in structure.polygons:
        if not polygon.xor:
            k = polygon.slice_index
            rings[k].append(grid.plane_indices_yx(k, polygon.points_xyz_mm))
    found = Counter[str]()
    for on_slice in rings.values():
        apart = [apart_voxels(a, b) for a, b in combinations(on_slice, 2)]
        found[TWICE] += any(each <= SAME_VOXELS for each in apart)
        found[THIN] += any(SAME_VOXELS < each <= THIN_VOXELS for each in apart)
    drawn = {polygon.slice_index for polygon in structure.polygons}
    if drawn:
        found[GAPS] = max(drawn) - min(drawn) + 1 - len(drawn)
    return dict(+found)


def read_structure_set(path: Path) -> FileDataset:
    """Parse the file of a structure set.

    Raises
    ------
    RefusedSeries
        If it can't be read.
    """
    try:
        return read(path)
    except (InvalidDicomError, *DAMAGES) as error:
        msg = f"{one_line(path)} is not a readable DICOM file: {error}"
        raise RefusedSeries(msg) from error


def show_rois(
    structure_set: Path, series_dir: Path, out: Path | None, forms: Sequence[str] = ("nifti",)
) -> None:
    """Print every ROI with its volume; with ``out``, also write each in these `FORMS`.

    Contours that lie on no slice, that belong to no ROI, or whose placement is in doubt are
    counted below the table.

    Raises
    ------
    RefusedSeries
        If a file can't be read, or the two do not belong together.
    """
    console = Console(emoji=False)
    ds = read_structure_set(structure_set)
    headers = [
        instance
        for instance in read_headers(
            [path for path in files_below(series_dir) if path != structure_set]
        )
        if instance.header.get("Modality") == "CT"
    ]
    series = assemble(headers, assume_hu=True)
    table = Table(title=escape(one_line(ds.get("StructureSetLabel", structure_set.name))))
    for name in ("ROI", "type", "contours", "mm3", "left out", "in doubt"):
        table.add_column(name, justify="left" if name in {"ROI", "type"} else "right")
    try:
        # First: a file that is cut off must be seen before its sequences are.
        structures, no_roi = structures_of(ds, series), contours_of_no_roi(ds)
    except RefusedSeries as error:
        msg = f"{one_line(structure_set)}: {error}"
        raise RefusedSeries(msg) from error
    written = _Written(out, series) if out is not None else None
    lines = [f"of no ROI, left out: {count} x {why}" for why, count in no_roi.items()]
    for structure in structures:
        mask = mask_of(structure, series)
        doubts = {**structure.doubts, **doubts_of(structure, series)}
        table.add_row(
            escape(one_line(structure.name)),
            escape(one_line(structure.interpreted_type)),
            str(len(structure.polygons)),
            f"{int(mask.sum()) * series.grid.spacing_mm.voxel_mm3:.1f}",
            str(sum(structure.left_out.values()) or ""),
            str(sum(doubts.values()) or ""),
        )
        lines += [
            f"{structure.name}, left out: {count} x {reason}"
            for reason, count in structure.left_out.items()
        ]
        lines += [
            f"{structure.name}, in doubt: {count} x {doubt}" for doubt, count in doubts.items()
        ]
        if written is not None:
            written.write(structure, mask, forms)
    console.print(table)
    for line in lines:
        console.print(escape(one_line(line)), soft_wrap=True, highlight=False)
    if written is not None:
        names = ", ".join(written.close(forms)) or "nothing: it has no contours on this series"
        console.print(f"in {one_line(out)}: {names}", markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """The files of the ROIs, each called as its ROI is."""

    folder: Path
    series: Series
    names: list[str] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)

    def write(
        self, structure: Structure, mask: npt.NDArray[np.bool_], forms: Sequence[str]
    ) -> None:
        """Write one ROI; a name that was taken gets the ROI's number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = file_name(structure.name)
        if any(each.casefold().startswith(f"{name}.".casefold()) for each in self.names):
            name = f"{name}_{structure.number}"
        volume_mm3 = float(mask.sum()) * self.series.grid.spacing_mm.voxel_mm3
        self.rows.append(
            {
                "roi": structure.name,
                "number": structure.number,
                "type": structure.interpreted_type,
                "contours": len(structure.polygons),
                "volume_mm3": round(volume_mm3, 3),
            }
        )
        image = image_of(mask.astype(np.uint8), self.series.grid)
        for form, ending in (("nifti", "nii.gz"), ("nrrd", "nrrd")):
            if form in forms:
                self.names.append(f"{name}.{ending}")
                write_image(self.folder / self.names[-1], image)
        if "stl" in forms and mask.any():
            self.names.append(f"{name}.stl")
            write_durably(self.folder / self.names[-1], stl_of(mask, self.series.grid))

    def close(self, forms: Sequence[str]) -> list[str]:
        """Write the table, if it is wanted; returns the names of all files."""
        if "csv" in forms and self.rows:
            self.names.append("rois.csv")
            write_durably(self.folder / self.names[-1], table_of(self.rows))
        return self.names
