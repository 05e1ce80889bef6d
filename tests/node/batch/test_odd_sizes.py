"""`limn contour` refuses a scan of an impossible size before it loads a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limn.dicom.ct import CtIdentity
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.formats.label_files import image_of, write_image
from limn.node.batch import one_folder
from limn.node.batch.many_folders import contour_folders
from tests.conftest import BUNDLE, write_series

AIR_HU, WATER_HU = -1000.0, 40.0


@pytest.fixture(autouse=True)
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the networks fails the test."""
    monkeypatch.delattr(one_folder, "warm_up")


def sized(volume: Volume, zyx: tuple[float, float, float]) -> Volume:
    """A scan whose header gives its voxels other sides."""
    own = volume.grid.spacing_mm.zyx
    z, y, x = (mm * factor for mm, factor in zip(own, zyx, strict=True))
    grid = axial_grid(volume.hu_zyx.shape, SpacingMm(x=x, y=y, z=z), np.zeros(3))
    return Volume(volume.hu_zyx, grid)


def block(shape_zyx: tuple[int, int, int], voxel_mm: float, inside_mm: float) -> Volume:
    """A field of air with a block of water of so many mm in its middle."""
    hu = np.full(shape_zyx, AIR_HU, np.float32)
    half = round(inside_mm / voxel_mm / 2)
    middle = tuple(slice(n // 2 - half, n // 2 + half) for n in shape_zyx)
    hu[middle] = WATER_HU
    return Volume(hu, axial_grid(shape_zyx, SpacingMm(voxel_mm, voxel_mm, voxel_mm), np.zeros(3)))


ODD = {
    "two and a half times": ((2.5, 2.5, 2.5), "times too large"),
    "four times": ((4, 4, 4), "times too large"),
    "a thousand times": ((1000, 1000, 1000), "Perhaps micrometres were written as mm"),
    "a tenth": ((0.1, 0.1, 0.1), "Perhaps centimetres were written as mm"),
    "inches for mm": ((1 / 25.4,) * 3, "field is"),
    "mm for inches": ((25.4,) * 3, "no scan of a mouse is"),
    "slices ten times apart": ((10, 1, 1), "3 mm from slice to slice: at most 1.5 mm"),
    "pixels ten times as wide": ((1, 10, 10), "PixelSpacing 3 mm: at most 1.5 mm"),
    "slices a tenth apart": ((0.1, 1, 1), "too small"),
    "less than half": ((0.45, 0.45, 0.45), "times too small"),
}


@pytest.mark.parametrize(("factors", "said"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_a_size_that_no_mouse_has_is_refused_without_networks(
    mouse: tuple[Volume, Labels],
    tmp_path: Path,
    factors: tuple[float, float, float],
    said: str,
    form: str,
) -> None:
    """The refusal names the figure, whatever the file's format."""
    with pytest.raises(RefusedSeries, match=said):
        contour_folders(
            [written(sized(mouse[0], factors), tmp_path, form)], tmp_path / "out", BUNDLE, None
        )


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (block((200, 200, 200), 1.3, 150.0), "this is a person or an animal larger than a mouse"),
        (block((400, 400, 100), 1.25, 0.0), "no scan of a mouse is"),
        (block((100, 100, 100), 0.3, 0.0), "no animal in the field"),
        (block((60, 60, 60), 1.0, 45.0), "not for a larger animal or a person"),
    ],
    ids=["person", "empty 500 mm", "empty 30 mm", "a large rat"],
)
def test_what_is_no_mouse_is_refused_without_networks(
    tmp_path: Path, volume: Volume, said: str
) -> None:
    """A person, an empty bed and a rat cost no network either."""
    with pytest.raises(RefusedSeries, match=said):
        contour_folders([written(volume, tmp_path, "dicom")], tmp_path / "out", BUNDLE, None)


def written(volume: Volume, folder: Path, form: str) -> Path:
    """The scan as a folder of DICOM or a NIfTI file."""
    if form == "nifti":
        path = folder / "ct.nii.gz"
        write_image(path, image_of(np.rint(volume.hu_zyx).astype(np.int16), volume.grid))
        return path
    write_series(volume, folder / "ct", CtIdentity("odd", "2.25.78.1", ("20260101", "120000")))
    return folder / "ct"
