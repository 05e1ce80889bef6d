"""Labels for other programs, read back by others."""

import io
import multiprocessing
import os

import nibabel
import numpy as np
import pandas
import pytest
import SimpleITK

from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Organ
from limn.formats.label_files import table_of, write_nifti, write_slicer_segmentation
from limn.formats.surfaces import stl_of

SPACING = SpacingMm(0.4, 0.3, 0.2)
ORGANS = {1: Organ("Heart"), 3: Organ("Lung_R")}


def ball(shape: tuple[int, int, int]) -> np.ndarray:
    """A ball of 3 mm, nearer to one corner."""
    z, y, x = np.indices(shape)
    place = ((z - 20) * 0.4) ** 2 + ((y - 15) * 0.3) ** 2 + ((x - 30) * 0.2) ** 2
    return place < 9.0


@pytest.fixture
def grid() -> Grid:
    """Of 40 x 40 x 60 voxels."""
    return axial_grid((40, 40, 60), SPACING, np.array([-5.0, 2.0, 11.0]))


@pytest.fixture
def labels(grid: Grid) -> np.ndarray:
    """A ball of heart and a block of lung at the edge of the field."""
    found = np.where(ball(grid.shape_zyx), 1, 0).astype(np.uint8)
    found[:4, :5, :6] = 3
    return found


def triangles(stl: bytes) -> np.ndarray:
    """(n, 4, 3): normal and corners, of a binary STL."""
    count = int.from_bytes(stl[80:84], "little")
    assert len(stl) == 84 + 50 * count
    rows = np.frombuffer(stl[84:], dtype=[("vectors", "<f4", (4, 3)), ("bytes", "<u2")])
    return rows["vectors"].astype(np.float64)


@pytest.mark.parametrize("turned", [False, True])
def test_a_surface_has_the_volume_and_the_place_of_its_mask(grid, labels, turned):
    """Within 2 %, closed at the edge of the field too, normals outwards whatever the axes."""
    if turned:
        grid = Grid(
            grid.slice_origins_xyz_mm[::-1] * np.array([1.0, 1.0, 1.0]),
            grid.rows,
            grid.columns,
            grid.spacing_y_mm,
            grid.spacing_x_mm,
            -grid.along_x_xyz,
            grid.along_y_xyz,
        )
    for label in ORGANS:
        mask = labels == label
        vectors = triangles(stl_of(mask, grid))
        normals, corners = vectors[:, 0], vectors[:, 1:]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (np.einsum("ij,ij->i", cross, normals) >= -1e-9).all()
        mm3 = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        wanted_mm3 = mask.sum() * SPACING.voxel_mm3
        # Flat corners of a block are cut off; a ball is round.
        assert mm3 == pytest.approx(wanted_mm3, rel=0.02 if label == 1 else 0.25)
        z, y, x = np.argwhere(mask).mean(axis=0)
        middle = grid.plane_points_xyz_mm(round(z), np.array([[y, x]]))[0]
        assert corners.reshape(-1, 3).mean(axis=0) == pytest.approx(middle, abs=0.45)


def test_a_surface_follows_slices_whose_places_are_rounded():
    """0.155 mm in two decimals: no vertex lies half a slice off, however long the scan."""
    places = np.round(np.arange(200) * 0.155, 2)
    grid = Grid(
        np.column_stack([np.zeros(200), np.zeros(200), places]),
        12,
        12,
        0.2,
        0.2,
        np.array([1.0, 0.0, 0.0]),
        np.array([0.0, 1.0, 0.0]),
    )
    mask = np.zeros((200, 12, 12), dtype=bool)
    mask[190:, 3:9, 3:9] = True
    z_mm = triangles(stl_of(mask, grid))[:, 1:, 2]
    assert z_mm.min() == pytest.approx((places[189] + places[190]) / 2, abs=0.02)
    assert z_mm.max() == pytest.approx(places[199] + 0.0775, abs=0.02)


def test_nifti_is_read_by_nibabel_in_its_place(tmp_path, grid, labels):
    """And by SimpleITK: RAS in the file, where limn has LPS."""
    path = tmp_path / "labels.nii.gz"
    write_nifti(path, labels, grid)
    found = nibabel.load(path)
    assert np.array_equal(np.asarray(found.dataobj).T, labels)
    place = found.affine @ np.array([6.0, 5.0, 4.0, 1.0])
    mine = grid.plane_points_xyz_mm(4, np.array([[5.0, 6.0]]))[0]
    assert place[:3] == pytest.approx([-mine[0], -mine[1], mine[2]], abs=1e-4)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), labels)
    assert image.TransformIndexToPhysicalPoint((6, 5, 4)) == pytest.approx(mine, abs=1e-4)


def test_a_segmentation_for_slicer_has_names_and_colours(tmp_path, grid, labels):
    """In the fields that its reader looks for."""
    path = tmp_path / "labels.seg.nrrd"
    colours = {Organ("Heart"): (255, 0, 0), Organ("Lung_R"): (0, 128, 255)}
    write_slicer_segmentation(path, labels, grid, ORGANS, colours)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), labels)
    assert image.GetOrigin() == pytest.approx(tuple(grid.slice_origins_xyz_mm[0]))
    said = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert (said["Segment0_Name"], said["Segment0_LabelValue"]) == ("Heart", "1")
    assert (said["Segment1_Name"], said["Segment1_LabelValue"]) == ("Lung_R", "3")
    assert said["Segment1_Color"] == "0 0.501961 1"
    assert said["Segment1_Extent"] == "0 59 0 39 0 39"


@pytest.mark.parametrize("ending", ["nii.gz", "seg.nrrd"])
@pytest.mark.parametrize("name", ["labels", "labels_\udcfc", "Zunge_\u00e4"])
def test_a_link_or_a_fifo_at_the_name_is_replaced(tmp_path, grid, labels, ending, name):
    """Whoever else may write into the folder; whatever the name; in a process that may abort."""
    victim, path = tmp_path / "victim", tmp_path / f"{name}.{ending}"
    victim.write_text("mine")

    def write() -> None:
        if ending == "nii.gz":
            write_nifti(path, labels, grid)
        else:
            write_slicer_segmentation(path, labels, grid, {}, {})

    for stands_there in (lambda: path.symlink_to(victim), lambda: os.mkfifo(path)):
        stands_there()
        writer = multiprocessing.get_context("fork").Process(target=write)
        writer.start()
        writer.join(20)
        assert writer.exitcode == 0
        assert victim.read_text() == "mine"
        assert path.is_file()
        assert not path.is_symlink()
        path.rename(tmp_path / f"read.{ending}")
        image = SimpleITK.ReadImage(str(tmp_path / f"read.{ending}"))
        assert np.array_equal(SimpleITK.GetArrayFromImage(image), labels)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_table_has_the_columns_of_its_rows():
    """As pandas reads them, too; and none if there is no row."""
    rows = [
        {"roi": 'A, "B"\n', "mm3": 1.5, "light": ""},
        {"roi": "Zunge", "mm3": 2, "light": "red"},
    ]
    found = pandas.read_csv(io.BytesIO(table_of(rows)), keep_default_na=False)
    assert found.to_dict("records") == rows
    assert table_of([{"roi": "A, B", "mm3": 1.5}]) == b'roi,mm3\n"A, B",1.5\n'
    assert table_of([]) == b"\n"
