"""Reads images and contours of any origin, with the data set's labels and array axes S, P, L."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from limn.dicom.series import Series, assemble
from limn.dicom.structures import NO_NUMBER, Structure, contours_of_no_roi, structures_of
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.domain.folders import files_below
from limn.domain.geometry import FloatArray, Grid, Reorientation, SpacingMm, axial_grid
from limn.domain.one_line import one_line
from limn.domain.scan import Volume
from limn.formats.label_files import grid_of, image_of
from limn.lab.data.folder_layout import Kind, ObserverLayout
from limn.lab.data.rois import GAPS, doubts_of, mask_of, read_structure_set

AXES = "SPL"
# Share of the slices within an organ that may lack a contour: an island, a forgotten slice.
MAX_EMPTY_SHARE = 0.1
# Share of a ROI's voxels that may lie in a ROI read before it: two outlines of one border, drawn by
# hand. With half of them the two are the same ROI, or one holds the other.
MAX_OVERLAP_SHARE = 0.5
REPORTED_OVERLAP_SHARE = 0.05
FILE_MANAGER_FILES = ("Thumbs.db", "desktop.ini")


def read_ct(path: Path, axes: str) -> Volume:
    """Read a CT from an image file (NIfTI, Analyze, ...) or a folder with one DICOM series.

    Parameters
    ----------
    axes : the directions of the array's axes (z, y, x), for a file whose header is not to be
        trusted; the corner of the field of view is then at the origin

    Raises
    ------
    RefusedSeries
        If it can't be read, lacks slices, or lies oblique to the animal.
    """
    if path.is_dir():
        series = read_series(path)
        if gaps := [flag for flag in series.flags if flag.startswith("gap:")]:
            # A node contours over a gap and flags it; a system must not learn what was not scanned.
            missing = sum(int(flag.rsplit(":", 1)[1]) for flag in gaps)
            msg = f"{path} lacks {missing} slices ({', '.join(gaps)}); export the series whole"
            raise RefusedSeries(msg)
        volume = read_volume(series)
        array, grid = _reoriented(volume.hu_zyx, volume.grid, path)
        return Volume(array, grid)
    array, grid = _read_image(path, axes)
    return Volume(array.astype(np.float32), grid)


def read_series(folder: Path) -> Series:
    """Read the CT series of a folder; skips other modalities and files of file managers."""
    headers = read_headers(
        [path for path in files_below(folder) if not _is_of_file_manager(path.name)]
    )
    return assemble(
        [each for each in headers if each.header.get("Modality") == "CT"], assume_hu=True
    )


def refuse_truncated(path: Path) -> None:
    """Check that a NIfTI or Analyze file is whole: readers replace missing bytes by zeros.

    Raises
    ------
    RefusedSeries
        If it has fewer bytes than its header requires, or its compressed stream is cut off.
    """
    if path.is_dir() or not path.name.endswith((".nii", ".nii.gz", ".hdr", ".img")):
        return
    _refuse_odd_name(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        voxel = SimpleITK.Image([1] * reader.GetDimension(), reader.GetPixelID())
        required = math.prod(reader.GetSize()) * voxel.GetSizeOfPixelComponent()
        data = path.with_suffix(".img") if path.suffix == ".hdr" else path
        length = _length(data)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        msg = f"{path} can't be read as an image: {_first_line(error)}; copy it again"
        raise RefusedSeries(msg) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
    if length < required:
        msg = f"{data} is not whole: {length} bytes, its voxels need {required}; copy it again"
        raise RefusedSeries(msg)


def _refuse_odd_name(path: Path) -> None:
    """SimpleITK ends the process at a name that is no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        msg = f"{one_line(path)}: a letter of this path is no UTF-8; rename it"
        raise RefusedSeries(msg) from error


def _length(path: Path) -> int:
    """Bytes of a file, uncompressed; for a compressed file the checksum is verified too."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with gzip.GzipFile(path) as file:
        return sum(len(part) for part in iter(lambda: file.read(1 << 24), b""))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1][:200] if str(error).strip() else "no image"


def _is_of_file_manager(name: str) -> bool:
    return name.startswith(".") or name in FILE_MANAGER_FILES


def read_contours(
    path: Path, layout: ObserverLayout, ct: Path, label_of: Mapping[str, int]
) -> tuple[npt.NDArray[np.uint8], Grid, tuple[str, ...]]:
    """Read an observer's contours: (z, y, x) uint8, their grid, and doubts.

    Doubts are what a person should look at, such as contours that name another slice than theirs.

    Parameters
    ----------
    ct : folder of the DICOM series that a structure set was drawn on
    label_of : organ to its label in the data set

    Raises
    ------
    RefusedSeries
        If the file can't be read or lacks a name of the layout.
    """
    if layout.kind is Kind.ROIS:
        return _read_structure_set(path, layout, ct, label_of)
    array, grid = _read_image(path, layout.axes)
    if layout.kind is Kind.CLASSES:
        numbers = _classes(path.with_suffix(".cls"))
        numbers_of = {
            organ: [number for name in names for number in numbers.get(name, ())]
            for organ, names in layout.names.items()
        }
    else:
        numbers_of = {organ: [int(name) for name in names] for organ, names in layout.names.items()}
    labels_zyx = np.zeros(array.shape, dtype=np.uint8)
    for organ, values in numbers_of.items():
        labels_zyx[np.isin(array, values)] = label_of[organ]
    return labels_zyx, grid, ()


def on_grid(labels_zyx: npt.NDArray[np.uint8], grid: Grid, target: Grid) -> npt.NDArray[np.uint8]:
    """Labels resampled to another grid by nearest neighbour: the label at each voxel's centre."""
    reference = image_of(np.zeros(target.shape_zyx, dtype=np.uint8), target)
    moved = SimpleITK.Resample(
        image_of(labels_zyx, grid),
        reference,
        SimpleITK.Transform(),
        SimpleITK.sitkNearestNeighbor,
        0,
        SimpleITK.sitkUInt8,
    )
    return np.asarray(SimpleITK.GetArrayFromImage(moved), dtype=np.uint8)


def corners_mm(grid: Grid) -> FloatArray:
    """Outer corners of the first and the last voxel: (2, 3) float64, x y z, mm."""
    rows, columns = float(grid.rows), float(grid.columns)
    ends = np.array([[-0.5, -0.5], [rows - 0.5, columns - 0.5]])
    half = (
        0.5
        * grid.spacing_mm.z
        * np.sign(grid.slice_positions_mm[-1] - grid.slice_positions_mm[0])
        * grid.normal_xyz
    )
    first = grid.plane_points_xyz_mm(0, ends[:1])[0] - half
    last = grid.plane_points_xyz_mm(-1, ends[1:])[0] + half
    return np.array([first, last])


def _read_image(path: Path, axes: str) -> tuple[npt.NDArray[Any], Grid]:
    _refuse_odd_name(path)
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    # ITK warns twice for every Analyze file that the format is deprecated.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        msg = f"{path} can't be read as an image"
        raise RefusedSeries(msg) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        msg = f"{path} has {image.GetDimension()} dimensions, 3 expected"
        raise RefusedSeries(msg)
    array = SimpleITK.GetArrayFromImage(image)
    if axes:
        x, y, z = image.GetSpacing()
        turn = Reorientation.between(axes, AXES)
        reoriented = turn.apply(array)
        spacing = turn.spacing(SpacingMm(z, y, x))
        corner = np.array([spacing.x, spacing.y, spacing.z]) / 2
        return np.ascontiguousarray(reoriented), axial_grid(reoriented.shape, spacing, corner)
    return _reoriented(array, grid_of(image), path)


def _reoriented(array: npt.NDArray[Any], grid: Grid, path: Path) -> tuple[npt.NDArray[Any], Grid]:
    try:
        turn = Reorientation.between(grid.axis_letters, AXES)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise RefusedSeries(msg) from error
    return np.ascontiguousarray(turn.apply(array)), turn.grid(grid)


def _classes(path: Path) -> dict[str, list[int]]:
    """Class name to its label numbers, from the ``.cls`` file of Rosenhain's database."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        fields = dict(line.split("=", 1) for line in lines if "=" in line)
        numbers = [int(part) for part in fields["ClassIndices"].split("|") if part.strip()]
        names = [part.strip() for part in fields["ClassNames"].split("|") if part.strip()]
        pairs = set(zip(names, numbers, strict=True))
    except (OSError, KeyError, ValueError) as error:
        msg = f"{path}: as many ClassIndices as ClassNames expected ({error})"
        raise RefusedSeries(msg) from error
    owners = {number: sorted(name for name, own in pairs if own == number) for _, number in pairs}
    if shared := [number for number, names in owners.items() if len(names) > 1]:
        msg = f"{path}: ClassIndices {shared[0]} is that of {' and of '.join(owners[shared[0]])}"
        raise RefusedSeries(msg)
    numbers_of: dict[str, list[int]] = {}
    for name, number in sorted(pairs):
        numbers_of.setdefault(name, []).append(number)
    return numbers_of


def _read_structure_set(
    path: Path, layout: ObserverLayout, ct: Path, label_of: Mapping[str, int]
) -> tuple[npt.NDArray[np.uint8], Grid, tuple[str, ...]]:
    series = read_series(ct)
    ds = read_structure_set(path)
    try:
        structures, no_roi = structures_of(ds, series), contours_of_no_roi(ds)
    except RefusedSeries as error:
        msg = f"{path}: {error}"
        raise RefusedSeries(msg) from error
    if NO_NUMBER in no_roi:
        # They may be of any organ.
        msg = f"{path}: contours of no ROI: {no_roi[NO_NUMBER]} {NO_NUMBER}; mend the export"
        raise RefusedSeries(msg)
    doubts = [f"{count} left out, of no ROI: {why}" for why, count in no_roi.items()]
    by_name: dict[str, list[Structure]] = {}
    for structure in structures:
        by_name.setdefault(structure.name.strip().casefold(), []).append(structure)
    labels_zyx = np.zeros(series.grid.shape_zyx, dtype=np.uint8)
    for organ, names in layout.names.items():
        present = [name for name in names if name.strip().casefold() in by_name]
        if not present:
            has = ", ".join(structure.name for structure in structures) or "none"
            msg = f"{path}: no ROI for {organ}: {' or '.join(names)} expected; it has {has}"
            raise RefusedSeries(msg)
        roi = _whole_roi(path, by_name[present[0].strip().casefold()])
        keys = {name.strip().casefold() for name in present}
        if len(keys) > 1:
            others = " and ".join(sorted(keys - {roi.name.strip().casefold()}))
            doubts.append(f"{organ} is read from ROI {roi.name}, not from {others}")
        doubts += [
            f"contours of {roi.name}: {count} left out: {why}"
            for why, count in roi.left_out.items()
        ]
        doubts += [
            f"contours of {roi.name}: {count} {why}"
            for why, count in {**roi.doubts, **doubts_of(roi, series)}.items()
            if why != GAPS
        ]
        mask = mask_of(roi, series)
        doubts += _overlap(path, roi.name, mask, labels_zyx, label_of)
        # Organs do not overlap; where two ROIs do, the first one of the layout gets the voxel.
        labels_zyx[mask & (labels_zyx == 0)] = label_of[organ]
    labels_zyx, grid = _reoriented(labels_zyx, series.grid, path)
    return labels_zyx.astype(np.uint8), grid, tuple(doubts)


def _overlap(
    path: Path,
    name: str,
    mask: npt.NDArray[np.bool_],
    labels_zyx: npt.NDArray[np.uint8],
    label_of: Mapping[str, int],
) -> list[str]:
    """A doubt about a ROI that shares voxels with those before it.

    Raises
    ------
    RefusedSeries
        If it shares most of them: it has the contours of another ROI, or holds another organ.
    """
    shared = np.bincount(labels_zyx[mask], minlength=256)[1:]
    share = float(shared.sum()) / max(int(mask.sum()), 1)
    if share <= REPORTED_OVERLAP_SHARE:
        return []
    other = next(word for word, label in label_of.items() if label == shared.argmax() + 1)
    text = f"contours of {name}: {share:.0%} of their voxels lie in ROIs of the layout before it"
    if share > MAX_OVERLAP_SHARE:
        msg = f"{path}: {text}, most in that for {other}; one of the two has the other's contours"
        raise RefusedSeries(msg)
    return [f"{text}, most in that for {other}; they stay {other}"]


def _whole_roi(path: Path, same_name: list[Structure]) -> Structure:
    """The only ROI of a name; it must be complete, because systems learn from it.

    Raises
    ------
    RefusedSeries
        If two ROIs have the name, if a contour fits no slice, or if too many slices between the
        first and the last contour have none.
    """
    roi = same_name[0]
    if len(same_name) > 1:
        numbers = " and ".join(str(each.number) for each in same_name)
        msg = f"{path}: ROIs {numbers} are both called {roi.name}; rename all but the one to use"
        raise RefusedSeries(msg)
    unplaced = {
        reason: count
        for reason, count in roi.left_out.items()
        if reason != "ContourGeometricType POINT"
    }
    if unplaced:
        counts = ", ".join(f"{count} {reason}" for reason, count in unplaced.items())
        msg = f"{path}: contours of {roi.name} fit no slice of the CT: {counts}; mend the export"
        raise RefusedSeries(msg)
    slices = {polygon.slice_index for polygon in roi.polygons}
    if not slices:
        return roi
    span = max(slices) - min(slices) + 1
    if span - len(slices) > MAX_EMPTY_SHARE * span:
        msg = (
            f"{path}: {roi.name} has contours on {len(slices)} of the {span} slices from its first "
            "to its last; interpolate the others in the planning system and export again"
        )
        raise RefusedSeries(msg)
    return roi
