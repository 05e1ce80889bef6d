"""Images and contours that others wrote, each in our own numbers with array axes S, P, L."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK
from pydicom.errors import InvalidDicomError

from limn.dicom.series import Series, assemble
from limn.dicom.structures import Structure, structures_of
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import FloatArray, Grid, Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.lab.data.folder_layout import LABEL_OF, Contours, Kind
from limn.lab.data.rois import mask_of
from limn.lab.nifti import to_image

AXES = "SPL"
# Of the slices that an organ spans, so many may have no contour: an island, a forgotten slice.
MOST_EMPTY_SHARE = 0.1
LITTER = ("Thumbs.db", "desktop.ini")


def read_ct(path: Path, axes: str) -> Volume:
    """A CT from an image file (NIfTI, Analyze, ...) or a folder with one DICOM series.

    Parameters
    ----------
    axes : what the array's axes (z, y, x) grow towards, where a file's header can't be believed;
        the corner of the field is then put at the origin

    Raises
    ------
    RefusedSeries
        If it can't be read, lacks slices, or lies oblique to the animal.
    """
    if path.is_dir():
        series = read_series(path)
        if gaps := [flag for flag in series.flags if flag.startswith("gap:")]:
            # A node draws over a gap and says so; nobody should learn what was never scanned.
            missing = sum(int(flag.rsplit(":", 1)[1]) for flag in gaps)
            msg = f"{path} lacks {missing} slices ({', '.join(gaps)}); export the series whole"
            raise RefusedSeries(msg)
        volume = read_volume(series)
        array, grid = _turned(volume.hu_zyx, volume.grid, path)
        return Volume(array, grid)
    array, grid = _read_image(path, axes)
    return Volume(array.astype(np.float32), grid)


def read_series(folder: Path) -> Series:
    """The CT series of a folder; other modalities and what file managers leave are passed over."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    headers = read_headers([path for path in files if not _is_litter(path.name)])
    return assemble([own for own in headers if own.header.get("Modality") == "CT"], assume_hu=True)


def refuse_torn(path: Path) -> None:
    """Look whether a NIfTI or Analyze file is whole: readers fill up what is missing by zeros.

    Raises
    ------
    RefusedSeries
        If it has fewer bytes than its header promises, or its compressed stream breaks off.
    """
    if path.is_dir() or not path.name.endswith((".nii", ".nii.gz", ".hdr", ".img")):
        return
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        voxel = SimpleITK.Image([1] * reader.GetDimension(), reader.GetPixelID())
        promised = math.prod(reader.GetSize()) * voxel.GetSizeOfPixelComponent()
        data = path.with_suffix(".img") if path.suffix == ".hdr" else path
        found = _length(data)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        msg = f"{path} can't be read as an image: {_first_line(error)}; copy it again"
        raise RefusedSeries(msg) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
    if found < promised:
        msg = f"{data} is not whole: {found} bytes, {promised} of voxels promised; copy it again"
        raise RefusedSeries(msg)


def _length(path: Path) -> int:
    """Bytes of a file; of a compressed one those that come out of it, to its checksum."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with gzip.GzipFile(path) as file:
        return sum(len(part) for part in iter(lambda: file.read(1 << 24), b""))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1][:200] if str(error).strip() else "no image"


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def read_contours(path: Path, said: Contours, ct: Path) -> tuple[npt.NDArray[np.uint8], Grid]:
    """What an observer drew: (z, y, x) uint8 in the numbers of `layout.LABEL_OF`, and its grid.

    Parameters
    ----------
    ct : folder of the DICOM series that a structure set was drawn on

    Raises
    ------
    RefusedSeries
        If it can't be read, or a name of the layout is not in it.
    """
    if said.kind is Kind.ROIS:
        return _read_structure_set(path, said, ct)
    array, grid = _read_image(path, said.axes)
    if said.kind is Kind.CLASSES:
        numbers = _classes(path.with_suffix(".cls"))
        named = {
            organ: [numbers[name] for name in names if name in numbers]
            for organ, names in said.names.items()
        }
    else:
        named = {organ: [int(name) for name in names] for organ, names in said.names.items()}
    drawn = np.zeros(array.shape, dtype=np.uint8)
    for organ, own in named.items():
        drawn[np.isin(array, own)] = LABEL_OF[organ]
    return drawn, grid


def on_grid(labels_zyx: npt.NDArray[np.uint8], grid: Grid, wanted: Grid) -> npt.NDArray[np.uint8]:
    """Labels on another grid by nearest neighbour: every voxel takes what lies at its centre."""
    reference = to_image(np.zeros(wanted.shape_zyx, dtype=np.uint8), wanted)
    moved = SimpleITK.Resample(
        to_image(labels_zyx, grid),
        reference,
        SimpleITK.Transform(),
        SimpleITK.sitkNearestNeighbor,
        0,
        SimpleITK.sitkUInt8,
    )
    return np.asarray(SimpleITK.GetArrayFromImage(moved), dtype=np.uint8)


def corners_mm(grid: Grid) -> FloatArray:
    """(2, 3) float64: the outer corners of the first and the last voxel, x y z."""
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
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    # Twice for every file of Analyze: that nobody should write it any more.
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
        own = turn.apply(array)
        spacing = turn.spacing(SpacingMm(z, y, x))
        corner = np.array([spacing.x, spacing.y, spacing.z]) / 2
        return np.ascontiguousarray(own), axial_grid(own.shape, spacing, corner)
    return _turned(array, _grid_of(image), path)


def _grid_of(image: SimpleITK.Image) -> Grid:
    columns, rows, slices = image.GetSize()
    x, y, z = image.GetSpacing()
    directions = np.array(image.GetDirection()).reshape(3, 3)
    origin = np.array(image.GetOrigin())
    return Grid(
        slice_origins_xyz_mm=origin + np.outer(np.arange(slices) * z, directions[:, 2]),
        rows=rows,
        columns=columns,
        spacing_y_mm=y,
        spacing_x_mm=x,
        along_x_xyz=directions[:, 0],
        along_y_xyz=directions[:, 1],
    )


def _turned(array: npt.NDArray[Any], grid: Grid, path: Path) -> tuple[npt.NDArray[Any], Grid]:
    try:
        turn = Reorientation.between(grid.axis_letters, AXES)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise RefusedSeries(msg) from error
    return np.ascontiguousarray(turn.apply(array)), turn.grid(grid)


def _classes(path: Path) -> dict[str, int]:
    """Name to number of the ``.cls`` file beside a label image of Rosenhain's database."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        said = dict(line.split("=", 1) for line in lines if "=" in line)
        numbers = [int(part) for part in said["ClassIndices"].split("|") if part.strip()]
        names = [part.strip() for part in said["ClassNames"].split("|") if part.strip()]
        return dict(zip(names, numbers, strict=True))
    except (OSError, KeyError, ValueError) as error:
        msg = f"{path}: ClassIndices and ClassNames, equally many, expected ({error})"
        raise RefusedSeries(msg) from error


def _read_structure_set(path: Path, said: Contours, ct: Path) -> tuple[npt.NDArray[np.uint8], Grid]:
    series = read_series(ct)
    try:
        structures = structures_of(pydicom.dcmread(path), series)
    except (InvalidDicomError, OSError) as error:
        msg = f"{path} is not a readable DICOM file: {error}"
        raise RefusedSeries(msg) from error
    by_name: dict[str, list[Structure]] = {}
    for own in structures:
        by_name.setdefault(own.name.strip().casefold(), []).append(own)
    drawn = np.zeros(series.grid.shape_zyx, dtype=np.uint8)
    for organ, names in said.names.items():
        asked = [name for name in names if name.strip().casefold() in by_name]
        if not asked:
            has = ", ".join(own.name for own in structures) or "none"
            msg = f"{path}: no ROI for {organ}: {' or '.join(names)} expected; it has {has}"
            raise RefusedSeries(msg)
        own = _only(path, by_name[asked[0].strip().casefold()])
        mask = mask_of(own, series)
        # Organs do not overlap; where two ROIs do, the layout's first one has the voxel.
        drawn[mask & (drawn == 0)] = LABEL_OF[organ]
    turned, grid = _turned(drawn, series.grid, path)
    return turned.astype(np.uint8), grid


def _only(path: Path, same_name: list[Structure]) -> Structure:
    """The ROI of a name, whole: anyone who learns from it takes it for the truth.

    Raises
    ------
    RefusedSeries
        If there are two of the name, if contours of it fit no slice, or if slices between its
        first and its last have none.
    """
    own = same_name[0]
    if len(same_name) > 1:
        numbers = " and ".join(str(each.number) for each in same_name)
        msg = f"{path}: ROIs {numbers} are both called {own.name}; rename the one that is not meant"
        raise RefusedSeries(msg)
    unplaced = {why: n for why, n in own.left_out.items() if why != "ContourGeometricType POINT"}
    if unplaced:
        said = ", ".join(f"{count} {why}" for why, count in unplaced.items())
        msg = f"{path}: contours of {own.name} fit no slice of the CT: {said}; mend the export"
        raise RefusedSeries(msg)
    drawn = {polygon.slice_index for polygon in own.polygons}
    if not drawn:
        return own
    span = max(drawn) - min(drawn) + 1
    if span - len(drawn) > MOST_EMPTY_SHARE * span:
        msg = (
            f"{path}: {own.name} has contours on {len(drawn)} of the {span} slices from its first "
            "to its last; interpolate the others in the planning system and export again"
        )
        raise RefusedSeries(msg)
    return own
