"""Every way of lying and slicing, read back by programs that others wrote.

The suite runs every pair of position and stack, of reader and position, of reader and stack; the
other cases of the full product have the marker `soak`.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from limn.dicom import rtstruct
from limn.dicom.series import AXIAL_ORIENTATIONS, assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Labels, Volume, dice
from limn.lab.phantoms.orientation import STACKS, restack
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.draw.trace import trace
from tests.conftest import COLOURS, require_peer
from tests.support.dicom.stacks import squeezed, write
from tests.support.organs import Organ

pytestmark = pytest.mark.slow

STYLE = rtstruct.Style.of_organs(Organ, "Mus musculus", colours=COLOURS)
IDENTITY = rtstruct.Identity(
    "2.25.1", "2.25.2", "20260101", "120000", "limn", "0", "limn", algorithm_version="1"
)
UM = 0.001
READERS = ("plastimatch", "rt-utils", "OpenCV", "validators")


def positions_and_stacks(reader: str) -> pytest.MarkDecorator:
    """Every position and stack, for one reader; two of three stacks of a position only in a soak.

    Three readers take another stack of each position, so that together they see all of them.
    """
    number = READERS.index(reader)
    cases = [
        pytest.param(
            position, stack, marks=() if (p + number) % len(STACKS) == s else pytest.mark.soak
        )
        for p, position in enumerate(AXIAL_ORIENTATIONS)
        for s, stack in enumerate(STACKS)
    ]
    return pytest.mark.parametrize(("position", "stack"), cases)


@pytest.fixture(scope="module")
def anisotropic() -> tuple[Volume, Labels]:
    """A mouse of 45 x 42 x 48 voxels, each edge of a voxel another length."""
    volume, labels = scan(conceive(11), Scanner(SpacingMm(0.6, 0.6, 0.6), (45, 42, 48)), 11)
    return squeezed(volume, labels, SpacingMm(0.4, 0.3, 0.5))


@pytest.fixture(scope="module")
def cubic() -> tuple[Volume, Labels]:
    """A mouse of 48 cubic voxels a side: rt-utils' reader transposes other images."""
    return scan(conceive(11), Scanner(SpacingMm(0.6, 0.6, 0.6), (48, 48, 48)), 11)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Rows of the table that is printed when the module is done."""
    rows: list[str] = []
    yield rows
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        head = f"{'position':9}{'stack':10}{'reader':16}{'lowest DSC':>11}"
        print(f"\n{head}{'centroid um':>13}  left lung")  # noqa: T201
        print("\n".join(rows))  # noqa: T201


def build(volume: Volume, labels: Labels, folder: Path, position: str) -> tuple[Path, Path, Labels]:
    """Series and structure set on disk, by the pipeline's own stages, and the labels as read."""
    series_dir = write(volume, folder / "ct", position, str(abs(hash(folder)) % 10**12))
    series = assemble(read_headers(sorted(series_dir.iterdir(), reverse=True)))
    seen = read_volume(series)
    assert np.array_equal(seen.hu_zyx, volume.hu_zyx)
    drawn = Labels(labels.labels_zyx, series.grid, labels.organs)
    contours = trace(drawn).contours
    path = folder / "RS.dcm"
    path.write_bytes(rtstruct.build(series, contours, drawn.volumes_mm3(), IDENTITY, STYLE))
    ds = rtstruct.read(path.read_bytes())
    assert rtstruct.faults(ds, series) == []
    return series_dir, path, drawn


def centroid_xyz_mm(mask_zyx: np.ndarray, labels: Labels) -> np.ndarray:
    """Middle of a mask on the grid of the labels, patient coordinates."""
    found = np.argwhere(mask_zyx).astype(float)
    z, y, x = found.mean(axis=0)
    grid = labels.grid
    origin = np.array(
        [
            np.interp(z, np.arange(len(grid.slice_origins_xyz_mm)), grid.slice_origins_xyz_mm[:, i])
            for i in range(3)
        ]
    )
    return (
        origin + y * grid.spacing_y_mm * grid.along_y_xyz + x * grid.spacing_x_mm * grid.along_x_xyz
    )


def physical_centroid(image: SimpleITK.Image, array: np.ndarray) -> np.ndarray:
    """Middle of a mask by the geometry that the reader wrote."""
    z, y, x = np.argwhere(array).mean(axis=0)
    return np.array(image.TransformContinuousIndexToPhysicalPoint((float(x), float(y), float(z))))


def judge(
    found: dict[Organ, np.ndarray], centroids: dict[Organ, np.ndarray], labels: Labels
) -> tuple[float, float, bool]:
    """Lowest DSC, largest centroid error (mm), and whether left is left."""
    scores = [dice(found[organ], labels.mask(organ)) for organ in Organ]
    errors = [
        float(np.linalg.norm(centroids[organ] - centroid_xyz_mm(labels.mask(organ), labels)))
        for organ in Organ
    ]
    left = bool(centroids[Organ.LUNG_L][0] > centroids[Organ.LUNG_R][0] + 2.0)
    return min(scores), max(errors), left


@pytest.mark.peer
@positions_and_stacks("plastimatch")
def test_plastimatch_reads_back_every_voxel(
    position: str,
    stack: str,
    anisotropic: tuple[Volume, Labels],
    tmp_path: Path,
    table: list[str],
) -> None:
    """Anisotropic voxels, images that are not square: plastimatch sees what was labelled."""
    program = require_peer("plastimatch")
    volume, labels = restack(*anisotropic, position, stack)
    series_dir, path, drawn = build(volume, labels, tmp_path, position)
    subprocess.run(
        [
            *(program, "convert", "--input", str(path), "--referenced-ct", str(series_dir)),
            *("--output-prefix", str(tmp_path / "roi"), "--prefix-format", "nrrd"),
        ],
        check=True,
        capture_output=True,
    )
    found, centroids = {}, {}
    for organ in Organ:
        image = SimpleITK.ReadImage(str(tmp_path / "roi" / f"{organ.value}.nrrd"))
        array = SimpleITK.GetArrayFromImage(image).astype(bool)
        centroids[organ] = physical_centroid(image, array)
        found[organ] = onto(image, array, drawn)
    lowest, error_mm, left = judge(found, centroids, drawn)
    table.append(row(position, stack, "plastimatch", lowest, error_mm, left))
    assert lowest == 1.0
    assert error_mm < UM
    assert left


def onto(image: SimpleITK.Image, array: np.ndarray, labels: Labels) -> np.ndarray:
    """A reader's mask in the order of our array, by where its voxels lie."""
    grid = labels.grid
    mask = np.zeros(grid.shape_zyx, dtype=bool)
    found = np.argwhere(array)
    spacing, direction = np.array(image.GetSpacing()), np.array(image.GetDirection()).reshape(3, 3)
    points = np.array(image.GetOrigin()) + (found[:, ::-1] * spacing) @ direction.T
    offset = points - grid.slice_origins_xyz_mm[0]
    indices = np.column_stack(
        (
            offset @ grid.normal_xyz / grid.spacing_mm.z,
            offset @ grid.along_y_xyz / grid.spacing_y_mm,
            offset @ grid.along_x_xyz / grid.spacing_x_mm,
        )
    )
    assert np.abs(indices - np.round(indices)).max() < 0.01
    mask[tuple(np.round(indices).astype(int).T)] = True
    return mask


def row(position: str, stack: str, reader: str, lowest: float, error_mm: float, left: bool) -> str:
    """One line of the table."""
    side = "left" if left else "WRONG"
    return f"{position:9}{stack:10}{reader:16}{lowest:11.4f}{error_mm / UM:13.4f}  {side}"


@positions_and_stacks("rt-utils")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rt_utils_reads_back_every_voxel(
    position: str, stack: str, cubic: tuple[Volume, Labels], tmp_path: Path, table: list[str]
) -> None:
    """Cubic voxels and images, where rt-utils' reader is right itself."""
    from rt_utils import RTStructBuilder  # noqa: PLC0415

    volume, labels = restack(*cubic, position, stack)
    series_dir, path, drawn = build(volume, labels, tmp_path, position)
    reader = RTStructBuilder.create_from(str(series_dir), str(path))
    order = np.argsort(
        [
            drawn.grid.normal_xyz @ np.array(ds.ImagePositionPatient, dtype=float)
            for ds in reader.series_data
        ]
    )
    found = {
        organ: np.moveaxis(reader.get_roi_mask_by_name(organ.value), 2, 0)[order] for organ in Organ
    }
    centroids = {organ: centroid_xyz_mm(mask, drawn) for organ, mask in found.items()}
    lowest, error_mm, left = judge(found, centroids, drawn)
    table.append(row(position, stack, "rt-utils", lowest, error_mm, left))
    assert lowest == 1.0
    assert error_mm < UM
    assert left


@positions_and_stacks("OpenCV")
def test_opencv_fills_back_every_voxel(
    position: str,
    stack: str,
    anisotropic: tuple[Volume, Labels],
    tmp_path: Path,
    table: list[str],
) -> None:
    """OpenCV's point-in-polygon on coordinates that SimpleITK's geometry turns to indices."""
    import cv2  # noqa: PLC0415

    volume, labels = restack(*anisotropic, position, stack)
    series_dir, path, drawn = build(volume, labels, tmp_path, position)
    reader = SimpleITK.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(series_dir))
    reader.SetFileNames(names)
    image = reader.Execute()
    ds = pydicom.dcmread(path)
    number = {str(roi.ROIName): roi.ROINumber for roi in ds.StructureSetROISequence}
    found, centroids = {}, {}
    for organ in Organ:
        array = np.zeros(image.GetSize()[::-1], dtype=bool)
        (contours,) = [
            roi.ContourSequence
            for roi in ds.ROIContourSequence
            if roi.ReferencedROINumber == number[organ.value]
        ]
        for item in contours:
            points = np.array(item.ContourData, dtype=float).reshape(-1, 3)
            indices = np.array(
                [image.TransformPhysicalPointToContinuousIndex(point) for point in points.tolist()]
            )
            (z,) = set(np.round(indices[:, 2]).astype(int))
            ring = indices[:, :2].astype(np.float32)
            low = np.floor(ring.min(axis=0)).astype(int)
            high = np.ceil(ring.max(axis=0)).astype(int)
            for y in range(low[1], high[1] + 1):
                for x in range(low[0], high[0] + 1):
                    if cv2.pointPolygonTest(ring, (float(x), float(y)), False) >= 0:
                        array[z, y, x] = True
        centroids[organ] = physical_centroid(image, array)
        found[organ] = onto(image, array, drawn)
    lowest, error_mm, left = judge(found, centroids, drawn)
    table.append(row(position, stack, "OpenCV+SimpleITK", lowest, error_mm, left))
    assert lowest == 1.0
    assert error_mm < UM
    assert left


@pytest.mark.peer
@positions_and_stacks("validators")
def test_validators_find_no_fault(
    position: str, stack: str, anisotropic: tuple[Volume, Labels], tmp_path: Path
) -> None:
    """No error from dciodvfy, no error and no warning from drtdump, in any row."""
    volume, labels = restack(*anisotropic, position, stack)
    _, path, _ = build(volume, labels, tmp_path, position)
    for program in ("dciodvfy", "/usr/bin/drtdump"):
        said = subprocess.run(
            [require_peer(program), str(path)], capture_output=True, text=True, check=False
        )
        lines = (said.stdout + said.stderr).splitlines()
        assert not [ln for ln in lines if ln.startswith(("Error", "E:", "W:", "Warning"))]
