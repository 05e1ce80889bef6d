"""Reads an image file (NIfTI, NRRD, MetaImage) whose header says how its axes lie in space.

Only what the format itself says counts:

- NIfTI-1 has two transforms to RAS, qform and sform (nifti1.h, METHOD 2 and 3). A file in which
  both have a code and differ contradicts itself. One without a code for either says nothing.
- NRRD says it by ``space directions`` in a named ``space`` (nrrd format, section 5.2).
- MetaImage says it by ``TransformMatrix`` in LPS (ITK's MetaIO); ITK assumes the identity without.

Where a file says nothing, or contradicts itself, a person must give the directions of its axes: a
mirror image can't be told from the animal.
"""

from __future__ import annotations

import re
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
from limn.formats.axes import ASK, AxesUnknown, believable, turned
from limn.formats.label_files import grid_of

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
META = (".mhd", ".mha")
# Of a MetaImage header: how an element must look if it is there; the first two must be.
META_ELEMENTS = {
    "NDims": "3",
    "DimSize": r"[0-9]{1,6}(\s+[0-9]{1,6}){2}",
    "ElementNumberOfChannels": "1",
    "HeaderSize": r"-1|[0-9]{1,9}",
    "CompressedDataSize": r"[0-9]{1,11}",
    "ElementDataFile": r"LOCAL|[^%]*",
}
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
# NIfTI's units of length; without one they are mm, as programs take it.
_UNITS_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
# No voxel is smaller; ITK takes a step of 0 for none.
LEAST_STEP_MM = 1e-6
# NIfTI's numbers have seven digits: 0.3 mm is 0.30000001.
DECIMALS = 6
# NRRD's spaces whose axes are those of an animal.
ANATOMICAL = {
    *("ras", "las", "lps"),
    *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior"),
}


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
    if silence := _silence(path, image):
        msg = f"{one_line(path)}: {silence}"
        raise AxesUnknown(msg)
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
        if path.name.lower().endswith(META):
            _check_meta(path)
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetDimension() == 3:
            x, y, z = reader.GetSize()
            believable((z, y, x), path)
        image: SimpleITK.Image = reader.Execute()
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


def _silence(path: Path, image: SimpleITK.Image) -> str:
    """Why the file does not say how its axes lie; empty if it does."""
    name = path.name.lower()
    if name.endswith(NIFTI):
        return _nifti_silence(path)
    if name.endswith(NRRD) and not _nrrd_space(path):
        return "its header has no three space directions in RAS, LAS or LPS"
    if name.endswith(META) and not _has_transform(path):
        return "its header has no TransformMatrix"
    return "" if abs(np.linalg.det(_directions(image))) > 0.5 else "its directions are no axes"


def _unit_mm(header: Any) -> float:
    """The unit of length in which a NIfTI header gives its transforms."""
    return _UNITS_MM.get(header.get_xyzt_units()[0], 1.0)


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


def _nrrd_space(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1 << 16).replace(b"\r", b"").split(b"\n\n", 1)[0].lower()
    fields = {
        name.strip(): value.strip().decode("latin-1")
        for name, _, value in (line.partition(b":") for line in head.split(b"\n"))
    }
    named = fields.get(b"space", "") in ANATOMICAL
    return named and fields.get(b"space directions", "").count("(") == 3


def _check_meta(path: Path) -> None:
    """Check the numbers by which MetaIO takes memory, before it does: it trusts them.

    Raises
    ------
    ImageFileError
        Names the element and its value.
    """
    with path.open("rb") as file:
        lines = file.read(1 << 14).split(b"\n")
    elements: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition("=")
        elements.setdefault(name.strip().lower(), value.strip())
        if name.strip().lower() == "elementdatafile":
            break
    for name, pattern in META_ELEMENTS.items():
        value = elements.get(name.lower(), "")
        needed = name in ("NDims", "DimSize")
        if (value or needed) and re.fullmatch(pattern, value) is None:
            msg = f"{name} is {one_line(value)[:60]!r}: an image of three dimensions expected"
            raise ImageFileError(msg)
    x, y, z = map(int, elements["dimsize"].split())
    believable((z, y, x), path)


def _has_transform(path: Path) -> bool:
    with path.open("rb") as file:
        lines = file.read(1 << 14).lower().split(b"\n")
    # MetaIO knows three names for it.
    names = {line.partition(b"=")[0].strip() for line in lines}
    return bool(names & {b"transformmatrix", b"rotation", b"orientation"})


def _directions(image: SimpleITK.Image) -> npt.NDArray[np.float64]:
    return np.array(image.GetDirection()).reshape(3, 3)


def _rounded(image: SimpleITK.Image) -> SimpleITK.Image:
    """The image with a place in space of `DECIMALS`."""
    image.SetSpacing([round(mm, DECIMALS) for mm in image.GetSpacing()])
    image.SetOrigin([round(mm, DECIMALS) for mm in image.GetOrigin()])
    image.SetDirection([round(each, DECIMALS) for each in image.GetDirection()])
    return image
