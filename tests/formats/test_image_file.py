"""Image files of other programs: where they lie is what their format says, or it is asked for."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from limn.domain.errors import RefusedSeries
from limn.formats.image_file import is_image_file, read_image_file

SHAPE_ZYX = (5, 6, 7)
SPACING_XYZ = (0.3, 0.25, 0.2)
# From RAS to LPS.
LPS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def hu_zyx() -> np.ndarray:
    """No two voxels are alike."""
    return np.arange(np.prod(SHAPE_ZYX), dtype=np.int16).reshape(SHAPE_ZYX) - 100


def image(hu_zyx: np.ndarray, directions: np.ndarray | None = None) -> SimpleITK.Image:
    """The voxels with spacing, origin and directions."""
    made = SimpleITK.GetImageFromArray(hu_zyx)
    made.SetSpacing(SPACING_XYZ)
    made.SetOrigin((1.0, -2.0, 3.5))
    if directions is not None:
        made.SetDirection(directions.ravel().tolist())
    return made


TURNS = {
    "as a scanner writes it": np.eye(3),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "turned": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mhd", "a.mha", "A.NRRD"])
@pytest.mark.parametrize("turn", TURNS)
def test_each_voxel_lies_where_its_header_says(tmp_path, hu_zyx, name, turn):
    """As SimpleITK, which wrote the file, places it; a mirror image stays one."""
    written = image(hu_zyx, TURNS[turn])
    path = tmp_path / name
    SimpleITK.WriteImage(written, str(path))
    assert is_image_file(path)
    volume = read_image_file(path)
    assert np.array_equal(volume.hu_zyx, hu_zyx)
    assert volume.hu_zyx.dtype == np.float32
    for z, y, x in ((0, 0, 0), (4, 5, 6), (2, 0, 3)):
        place = volume.grid.plane_points_xyz_mm(z, np.array([[y, x]], dtype=float))[0]
        assert place == pytest.approx(written.TransformIndexToPhysicalPoint((x, y, z)), abs=1e-5)


def test_the_seven_digits_of_a_nifti_file_change_no_grid(tmp_path, hu_zyx):
    """0.3 mm is 0.30000001 there; the grid is that of the same scan in DICOM."""
    path = tmp_path / "a.nii"
    SimpleITK.WriteImage(image(hu_zyx), str(path))
    spacing = read_image_file(path).grid.spacing_mm
    assert (spacing.x, spacing.y) == (0.3, 0.25)
    assert spacing.z == pytest.approx(0.2, abs=1e-12)


def nifti(path: Path, hu_zyx: np.ndarray, qform: int, sform: int, other: np.ndarray) -> Path:
    """A NIfTI file by nibabel, with these codes; sform is ``other``."""
    affine = np.diag([*SPACING_XYZ, 1.0])
    made = nibabel.Nifti1Image(hu_zyx.T, affine)
    made.set_qform(affine, qform)
    made.set_sform(other, sform)
    nibabel.save(made, path)
    return path


@pytest.mark.parametrize(("unit", "per_mm"), [("mm", 1.0), ("micron", 1000.0), ("meter", 0.001)])
def test_a_nifti_files_unit_of_length_counts(tmp_path, hu_zyx, unit, per_mm):
    """Micro-CT programs write microns; the fourth axis of one image says nothing."""
    affine = np.diag([*(per_mm * step for step in SPACING_XYZ), 1.0])
    made = nibabel.Nifti1Image(hu_zyx.T[..., None], affine)
    made.header.set_xyzt_units(unit)
    # Less than a micron apart.
    affine[0, 3] += 0.0005 * per_mm
    made.set_qform(affine, 1)
    path = tmp_path / "a.nii"
    nibabel.save(made, path)
    found = read_image_file(path)
    assert found.grid.spacing_mm.x == pytest.approx(SPACING_XYZ[0])
    assert found.grid.spacing_mm.z == pytest.approx(SPACING_XYZ[2])
    np.testing.assert_array_equal(found.hu_zyx, hu_zyx)


def test_nifti_axes_in_one_plane_are_refused(tmp_path, hu_zyx):
    """A step of each length, but no volume between them."""
    affine = np.diag([*SPACING_XYZ, 1.0])
    affine[:3, 1] = affine[:3, 0] + [0.0, 0.05, 0.0]
    path = nifti(tmp_path / "a.nii", hu_zyx, 0, 1, affine)
    with pytest.raises(RefusedSeries, match="its axes lie almost in one plane"):
        read_image_file(path)


def test_a_nifti_file_that_contradicts_itself_is_named(tmp_path, hu_zyx):
    """As those with an identity beside the right transform, or with one side exchanged."""
    for other in (np.eye(4), np.diag([-0.3, 0.25, 0.2, 1.0])):
        path = nifti(tmp_path / "a.nii", hu_zyx, 1, 1, other)
        with pytest.raises(RefusedSeries, match=r"two transforms contradict each other.*--lie"):
            read_image_file(path)
        assert read_image_file(path, "SAR").hu_zyx.shape == SHAPE_ZYX


def test_a_transform_without_a_code_says_nothing(tmp_path, hu_zyx):
    """One with a code counts alone."""
    affine = np.diag([*SPACING_XYZ, 1.0])
    path = nifti(tmp_path / "a.nii", hu_zyx, 0, 0, affine)
    with pytest.raises(RefusedSeries, match="neither qform nor sform has a code"):
        read_image_file(path)
    alone = nifti(tmp_path / "b.nii", hu_zyx, 1, 0, np.eye(4))
    assert read_image_file(alone).grid.spacing_mm.x == 0.3


def test_a_metaimage_or_nrrd_file_without_directions_is_asked_about(tmp_path, hu_zyx):
    """ITK would assume the identity."""
    meta = tmp_path / "a.mhd"
    SimpleITK.WriteImage(image(hu_zyx), str(meta))
    lines = [
        each
        for each in meta.read_text().splitlines()
        if not each.startswith(("TransformMatrix", "AnatomicalOrientation"))
    ]
    meta.write_text("\n".join(lines) + "\n")
    with pytest.raises(RefusedSeries, match="no TransformMatrix; give the directions"):
        read_image_file(meta)
    plain = nrrd(tmp_path / "a.nrrd", hu_zyx, "spacings: 0.3 0.25 0.2")
    with pytest.raises(RefusedSeries, match="no three space directions in RAS, LAS or LPS"):
        read_image_file(plain)
    assert np.array_equal(read_image_file(plain, "SPL").hu_zyx, hu_zyx)


def nrrd(path: Path, hu_zyx: np.ndarray, *fields: str) -> Path:
    """An NRRD file whose header has these fields."""
    head = ("NRRD0004", "type: int16", "dimension: 3", "sizes: 7 6 5", *fields)
    text = "\n".join((*head, "encoding: raw", "endian: little", "", ""))
    path.write_bytes(text.encode() + hu_zyx.tobytes())
    return path


DIRECTIONS = "space directions: (0.3,0,0) (0,0.25,0) (0,0,0.2)"


@pytest.mark.parametrize(
    ("space", "to_lps"),
    [
        ("left-posterior-superior", (1.0, 1.0, 1.0)),
        ("RAS", (-1.0, -1.0, 1.0)),
        ("left-anterior-superior", (1.0, -1.0, 1.0)),
    ],
)
def test_each_space_of_an_nrrd_file_is_its_own(tmp_path, hu_zyx, space, to_lps):
    """The same numbers mean another place; LAS beside LPS is a mirror image."""
    fields = (f"space: {space}", DIRECTIONS, "space origin: (1,-2,3.5)")
    volume = read_image_file(nrrd(tmp_path / "a.nrrd", hu_zyx, *fields))
    assert np.array_equal(volume.hu_zyx, hu_zyx)
    for z, y, x in ((0, 0, 0), (4, 5, 6)):
        place = volume.grid.plane_points_xyz_mm(z, np.array([[y, x]], dtype=float))[0]
        told = np.array([1.0 + 0.3 * x, -2.0 + 0.25 * y, 3.5 + 0.2 * z])
        assert place == pytest.approx(told * to_lps, abs=1e-5)


def meta(path: Path, hu_zyx: np.ndarray, *, without: str = "", more: str = "") -> Path:
    """A MetaImage by SimpleITK without one element, and with another."""
    SimpleITK.WriteImage(image(hu_zyx), str(path))
    lines = [
        line
        for line in path.read_text().splitlines()
        if not without or not line.startswith(without)
    ]
    path.write_text("\n".join((lines[0], lines[1], *filter(None, (more,)), *lines[2:])) + "\n")
    return path


@pytest.mark.parametrize(
    ("without", "more", "words"),
    [
        ("AnatomicalOrientation", "AnatomicalOrientation = LAI", "is LAI.*otherwise of x"),
        ("AnatomicalOrientation", "AnatomicalOrientation = RAS", "is RAS.*otherwise of z"),
        ("AnatomicalOrientation", "AnatomicalOrientation = ARI", "is ARI.*otherwise of x"),
        ("", "Rotation = -1 0 0 0 1 0 0 0 1", "one matrix of its axes is 1 0 .* another -1 0 "),
    ],
)
def test_a_metaimage_that_contradicts_itself_is_named(tmp_path, hu_zyx, without, more, words):
    """ITK believes the last matrix, and never the letters."""
    path = meta(tmp_path / "a.mhd", hu_zyx, without=without, more=more)
    with pytest.raises(RefusedSeries, match=f"contradicts itself: .*{words}.*--lie"):
        read_image_file(path)
    assert np.array_equal(read_image_file(path, "SPL").hu_zyx, hu_zyx)


@pytest.mark.parametrize("letters", ["RAI", "???", "rai"])
def test_letters_that_agree_or_say_nothing_are_no_contradiction(tmp_path, hu_zyx, letters):
    """As ITK and MetaIO write them; an axis that is a little askew keeps its letter."""
    more = f"AnatomicalOrientation = {letters}"
    path = meta(tmp_path / "a.mhd", hu_zyx, without="AnatomicalOrientation", more=more)
    assert np.array_equal(read_image_file(path).hu_zyx, hu_zyx)
    turn = np.deg2rad(20)
    askew = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    SimpleITK.WriteImage(image(hu_zyx, np.array(askew)), str(path))
    assert np.array_equal(read_image_file(path).hu_zyx, hu_zyx)


def test_a_file_without_the_size_of_a_voxel_is_refused(tmp_path, hu_zyx):
    """ITK takes 1 mm for it; no letters of a person help."""
    metaimage = meta(tmp_path / "a.mhd", hu_zyx, without="ElementSpacing")
    lacking = [metaimage, nrrd(tmp_path / "a.nrrd", hu_zyx)]
    lacking.append(nrrd(tmp_path / "b.nrrd", hu_zyx, "spacings: 0.3 nan 0.2"))
    for path in lacking:
        with pytest.raises(RefusedSeries, match=r"how large a voxel is|no length of each axis"):
            read_image_file(path, "SPL")
    spaced = nrrd(tmp_path / "c.nrrd", hu_zyx, "spacings: 0.3 0.25 0.2")
    assert read_image_file(spaced, "SPL").grid.spacing_mm.zyx == pytest.approx((0.2, 0.25, 0.3))


@pytest.mark.parametrize(
    ("unit", "mm"), [("um", 0.001), ("mm", 1.0), ("cm", 10.0), ("\u00b5m", 0.001)]
)
def test_an_nrrd_or_metaimage_files_unit_of_length_counts(tmp_path, hu_zyx, unit, mm):
    """Of axes in a space, of axes in none, and of a MetaImage; ITK takes all for mm."""
    sizes = np.array([0.2, 0.25, 0.3]) * mm
    space = ("space: LPS", DIRECTIONS, f'space units: "{unit}" "{unit}" "{unit}"')
    found = read_image_file(nrrd(tmp_path / "a.nrrd", hu_zyx, *space))
    assert found.grid.spacing_mm.zyx == pytest.approx(sizes, rel=1e-2)
    none = ("spacings: 0.3 0.25 0.2", f'units: "{unit}" "{unit}" "{unit}"')
    found = read_image_file(nrrd(tmp_path / "b.nrrd", hu_zyx, *none), "SPL")
    assert found.grid.spacing_mm.zyx == pytest.approx(sizes)
    if unit.isascii():
        path = meta(tmp_path / "a.mhd", hu_zyx, more=f"DistanceUnits = {unit}")
        assert read_image_file(path, "SPL").grid.spacing_mm.zyx == pytest.approx(sizes)


def test_a_unit_that_nobody_knows_is_named(tmp_path, hu_zyx):
    """Furlongs, or two units in one file."""
    for units in ('"furlong" "furlong" "furlong"', '"mm" "mm" "um"'):
        path = nrrd(tmp_path / "a.nrrd", hu_zyx, "space: LPS", DIRECTIONS, f"space units: {units}")
        with pytest.raises(RefusedSeries, match=r"a.nrrd .* space units is .* expected"):
            read_image_file(path)
    path = meta(tmp_path / "a.mhd", hu_zyx, more="DistanceUnits = furlong")
    with pytest.raises(RefusedSeries, match=r"DistanceUnits is 'furlong', one of m, "):
        read_image_file(path)


@pytest.mark.parametrize("lie", ["", "SPL"])
def test_a_voxel_of_no_length_is_refused(tmp_path, hu_zyx, lie):
    """In each format that ITK reads: a step that is rounded to 0 ended limn."""
    thin = "space directions: (1e-7,0,0) (0,0.25,0) (0,0,0.2)"
    paths = [nrrd(tmp_path / "a.nrrd", hu_zyx, "space: LPS", thin), tmp_path / "a.mhd"]
    meta(paths[1], hu_zyx, without="ElementSpacing", more="ElementSpacing = 1e-7 0.25 0.2")
    for path in paths:
        with pytest.raises(RefusedSeries, match=f"{path.name} .*a voxel measures 1e-07 x 0.25"):
            read_image_file(path, lie)


@pytest.mark.parametrize(
    ("space", "directions"),
    [
        ("space dimension: 3", "(0.3,0,0) (0,0.25,0) (0,0,0.2)"),
        ("space: 3D-left-handed", "(0.3,0,0) (0,0.25,0) (0,0,0.2)"),
        ("space: scanner-xyz", "(0.3,0,0) (0,0.25,0) (0,0,0.2)"),
        ("space: left-posterior-superior", "none (0,0.25,0) (0,0,0.2)"),
    ],
)
def test_a_space_that_is_no_animals_says_nothing(tmp_path, hu_zyx, space, directions):
    """ITK takes each of them for LPS."""
    path = nrrd(tmp_path / "a.nrrd", hu_zyx, space, f"space directions: {directions}")
    with pytest.raises(RefusedSeries, match=r"--lie|can't be read"):
        read_image_file(path)


def test_axes_that_are_no_grid_are_refused(tmp_path, hu_zyx):
    """A sheared image is no scan."""
    sheared = "space directions: (0.3,0,0) (0.02,0.25,0) (0,0,0.2)"
    path = nrrd(tmp_path / "a.nrrd", hu_zyx, "space: left-posterior-superior", sheared)
    assert said(path) == "3 dimensions" or path.name in said(path)


def test_a_person_may_say_how_the_axes_lie(tmp_path, hu_zyx):
    """The array is turned to S, P, L; a mirror image is another array."""
    path = tmp_path / "a.nii"
    SimpleITK.WriteImage(image(hu_zyx), str(path))
    assert np.array_equal(read_image_file(path, "ial").hu_zyx, hu_zyx[::-1, ::-1])
    assert np.array_equal(read_image_file(path, "SPR").hu_zyx, hu_zyx[:, :, ::-1])
    for wrong in ("SP", "SPX", "SSL", "SPLL"):
        with pytest.raises(RefusedSeries, match=f"--lie {wrong}: three letters"):
            read_image_file(path, wrong)


def test_what_is_no_volume_of_numbers_is_refused(tmp_path, hu_zyx):
    """Four dimensions, colours, no number, a name that is no UTF-8, no image at all."""
    cases = {
        "four.nii": SimpleITK.GetImageFromArray(np.zeros((2, 3, 4, 5), np.int16)),
        "colours.nrrd": SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), True),
    }
    for name, made in cases.items():
        SimpleITK.WriteImage(made, str(tmp_path / name))
        with pytest.raises(RefusedSeries, match="3 and 1 expected"):
            read_image_file(tmp_path / name)
    holes = hu_zyx.astype(np.float32)
    holes[1, 1, 1] = np.nan
    SimpleITK.WriteImage(image(holes), str(tmp_path / "nan.nrrd"))
    with pytest.raises(RefusedSeries, match="1 voxels are no numbers"):
        read_image_file(tmp_path / "nan.nrrd")
    with pytest.raises(RefusedSeries, match="no UTF-8"):
        read_image_file(tmp_path / "a\udcff.nii")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(RefusedSeries, match="can't be read as an image"):
        read_image_file(tmp_path / "text.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_half_a_file_is_no_scan(tmp_path, hu_zyx, name):
    """No voxel is made up for those that are missing."""
    noise = np.random.default_rng(3).integers(-1000, 1000, SHAPE_ZYX).astype(np.int16)
    path = tmp_path / name
    SimpleITK.WriteImage(image(noise), str(path))
    contents = path.read_bytes()
    for share in (0.6, 0.9, 0.98):
        path.write_bytes(contents[: int(share * len(contents))])
        with pytest.raises(RefusedSeries, match="can't be read as an image"):
            read_image_file(path)


def said(path: Path) -> str:
    """What came of reading a file: its dimensions, or the error's text."""
    try:
        return f"{read_image_file(path).hu_zyx.ndim} dimensions"
    except RefusedSeries as error:
        return str(error)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_a_damaged_file_is_refused_or_read_and_ends_no_process(tmp_path, hu_zyx, name):
    """Cut off or with changed bytes: an error that names the file, or a volume."""
    path = tmp_path / name
    SimpleITK.WriteImage(image(hu_zyx), str(path))
    contents = path.read_bytes()
    rng = np.random.default_rng(24)
    damaged = tmp_path / f"damaged-{name}"
    for _ in range(60):
        changed = bytearray(contents)
        for at in rng.integers(0, len(contents), 3):
            changed[at] = int(rng.integers(0, 256))
        damaged.write_bytes(bytes(changed[: int(rng.integers(1, len(contents) + 1))]))
        answer = said(damaged)
        assert answer == "3 dimensions" or damaged.name in answer, answer
