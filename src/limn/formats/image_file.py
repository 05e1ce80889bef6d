"""Reads an image file (NIfTI, NRRD, MetaImage) whose header says how its axes lie in space.

Only what the format itself says counts:

- NIfTI-1 has two transforms to RAS, qform and sform (nifti1.h, METHOD 2 and 3). A file in which
  both have a code and differ contradicts itself. One without a code for either says nothing.
- NRRD says it by ``space directions`` in a named ``space`` (`nrrd_header`).
- MetaImage says it by ``TransformMatrix`` in LPS (`meta_header`).

Where a file says nothing, or contradicts itself, a person must give the directions of its axes: a
mirror image can't be told from the animal.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm
from limn.domain.one_line import one_line
from limn.domain.scan import Volume
from limn.formats.axes import ASK, UNITS_MM, AxesUnknown, HeaderWrong, believable, turned
from limn.formats.label_files import grid_of
from limn.formats.meta_header import read_meta_header
from limn.formats.nrrd_header import read_nrrd_header

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
META = (".mhd", ".mha")
SUFFIXES = (*NIFTI, *NRRD, *META)
# What nibabel raises for damaged headers.
HEADER_DAMAGES = (
    AttributeError,
    HeaderDataError,
    ImageFileError,
    KeyError,
    OSError,
    OverflowError,
    ValueError,
    zlib.error,
    EOFError,
    MemoryError,
    TypeError,
)
# Transforms that differ by less than this at any corner of the field are the same.
SAME_MM = 0.01
# No voxel is smaller; ITK takes a step of 0 for none.
LEAST_STEP_MM = 1e-6
# NIfTI's numbers have seven digits: 0.3 mm is 0.30000001.
DECIMALS = 6


def is_image_file(path: Path) -> bool:
    """Whether a file has the name of an image file that is read here."""
    return path.name.lower().endswith(SUFFIXES)


def read_image_file(path: Path, lie: str = "") -> Volume:
    """Read an image file in its own axes.

    Parameters
    ----------
    lie : letters that the array's axes (z, y, x) grow towards, for a file that does not say so or
        is not to be trusted; the corner of the field is then the origin

    Raises
    ------
    RefusedSeries
        If it can't be read, has other than three dimensions, or contradicts itself.
    AxesUnknown
        If it does not say how its axes lie.
    """
    image = _image(path)
    hu_zyx = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    if not np.isfinite(hu_zyx).all():
        msg = f"{one_line(path)}: {int((~np.isfinite(hu_zyx)).sum())} voxels are no numbers"
        raise RefusedSeries(msg)
    if lie:
        x, y, z = image.GetSpacing()
        return turned(hu_zyx, SpacingMm(z, y, x), lie)
    _check_axes(path, image)
    try:
        return Volume(hu_zyx, grid_of(_rounded(image)))
    except ValueError as error:
        msg = f"{one_line(path)}: its axes are no grid of voxels ({error}); resample it first"
        raise RefusedSeries(msg) from error


def _image(path: Path) -> SimpleITK.Image:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        # SimpleITK ends the process at a name that is no UTF-8.
        msg = f"{one_line(path)}: a letter of this path is no UTF-8; rename it"
        raise RefusedSeries(msg) from error
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if path.name.lower().endswith(NIFTI):
            return _nifti(path)
        unit_mm = _checked_unit(path)
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetDimension() == 3:
            x, y, z = reader.GetSize()
            believable((z, y, x), path)
        image = _in_mm(reader.Execute(), unit_mm)
    except (RuntimeError, *HEADER_DAMAGES) as error:
        why = one_line(error)
        if isinstance(error, RuntimeError):
            # Of ITK's many lines the last has the reason; this is MetaIO's for too few voxels.
            why = one_line((str(error).strip().splitlines() or ["it is no image"])[-1])
            if "No such file" in why and path.is_file():
                why = "it is cut off, or the file of its voxels is"
        msg = f"{one_line(path)} can't be read as an image: {why[:200]}"
        raise RefusedSeries(msg) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
    parts = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() != 3 or parts != 1:
        raise _no_volume(path, image.GetDimension(), parts)
    return image


def _no_volume(path: Path, dimensions: int, parts: int) -> RefusedSeries:
    return RefusedSeries(
        f"{one_line(path)} has {dimensions} dimensions and {parts} values for each voxel, 3 and 1 "
        "expected"
    )


def _nifti(path: Path) -> SimpleITK.Image:
    """A NIfTI image by nibabel: where a file is cut off, ITK takes zeros for what is missing."""
    stored: Any = nibabel.load(path)
    shape = stored.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    parts = len(stored.get_data_dtype().names or (1,))
    if len(shape) != 3 or parts != 1:
        raise _no_volume(path, len(shape), parts)
    believable((shape[2], shape[1], shape[0]), path)
    # The affine leads to RAS.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stored.affine
    affine[:3] *= _unit_mm(stored.header)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or steps.min() < LEAST_STEP_MM:
        raise ImageFileError("its transform has no axes")
    numbers = np.asarray(stored.dataobj, dtype=np.float32).reshape(shape, order="F")
    image: SimpleITK.Image = SimpleITK.GetImageFromArray(np.ascontiguousarray(numbers.T))
    image.SetSpacing(steps.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    directions = affine[:3, :3] / steps
    if abs(np.linalg.det(directions)) < 0.5:
        raise ImageFileError("its axes lie almost in one plane")
    image.SetDirection(directions.ravel().tolist())
    return image


def _checked_unit(path: Path) -> float:
    """The unit of the lengths of a file that ITK reads, whose header is whole."""
    if path.name.lower().endswith(META):
        meta = read_meta_header(path)
        meta.check()
        return meta.unit_mm()
    nrrd = read_nrrd_header(path)
    nrrd.check_sizes()
    return nrrd.unit_mm()


def _in_mm(image: SimpleITK.Image, unit_mm: float) -> SimpleITK.Image:
    """The image, whose lengths are in this unit, in mm."""
    steps_mm = [step * unit_mm for step in image.GetSpacing()]
    if not np.isfinite(steps_mm).all() or min(steps_mm) < LEAST_STEP_MM:
        sizes = " x ".join(f"{step:.3g}" for step in steps_mm)
        msg = f"a voxel measures {sizes} mm by its header"
        raise HeaderWrong(msg)
    image.SetSpacing(steps_mm)
    image.SetOrigin([place * unit_mm for place in image.GetOrigin()])
    return image


def _check_axes(path: Path, image: SimpleITK.Image) -> None:
    """Check that the file says how its axes lie, and says one thing.

    Raises
    ------
    AxesUnknown
        If it does not say so.
    RefusedSeries
        If it contradicts itself.
    """
    name, silence = path.name.lower(), ""
    directions = np.array(image.GetDirection()).reshape(3, 3)
    if name.endswith(NIFTI):
        silence = _nifti_silence(path)
    elif name.endswith(META):
        read_meta_header(path).check_axes(directions)
    elif not read_nrrd_header(path).says_axes():
        silence = "its header has no three space directions in RAS, LAS or LPS"
    if not silence and abs(np.linalg.det(directions)) <= 0.5:
        silence = "its directions are no axes"
    if silence:
        msg = f"{one_line(path)}: {silence}"
        raise AxesUnknown(msg)


def _unit_mm(header: Any) -> float:
    """The unit of length in which a NIfTI header gives its transforms."""
    return UNITS_MM.get(header.get_xyzt_units()[0], 1.0)


def _nifti_silence(path: Path) -> str:
    try:
        # The class of a NIfTI image, which also reads the pair of files.
        header: Any = nibabel.load(path).header
        qform, q_code = header.get_qform(coded=True)
        sform, s_code = header.get_sform(coded=True)
        shape = np.array(header.get_data_shape()[:3])
    except HEADER_DAMAGES as error:
        return f"its header can't be read ({one_line(error)[:120]})"
    if not q_code and not s_code:
        return "neither qform nor sform has a code"
    if q_code and s_code:
        corners = np.array(np.meshgrid(*[[0, n] for n in shape])).reshape(3, -1)
        ends = [form[:3, :3] @ corners + form[:3, 3:] for form in (qform, sform)]
        apart_mm = float(np.abs(ends[0] - ends[1]).max()) * _unit_mm(header)
        if apart_mm > SAME_MM:
            letters = [_letters(form) for form in (qform, sform)]
            msg = (
                f"{one_line(path)}: its two transforms contradict each other by up to "
                f"{apart_mm:.1f} mm: the axes x, y, z grow towards {letters[0]} by qform and "
                f"towards {letters[1]} by sform; {ASK}"
            )
            raise RefusedSeries(msg)
    return ""


def _letters(affine: npt.NDArray[np.float64]) -> str:
    """The directions that the axes x, y, z grow towards."""
    return "".join(str(letter) for letter in nibabel.orientations.aff2axcodes(affine))


def _rounded(image: SimpleITK.Image) -> SimpleITK.Image:
    """The image with a place in space of `DECIMALS`."""
    image.SetSpacing([round(mm, DECIMALS) for mm in image.GetSpacing()])
    image.SetOrigin([round(mm, DECIMALS) for mm in image.GetOrigin()])
    image.SetDirection([round(each, DECIMALS) for each in image.GetDirection()])
    return image
