"""limn as a library: what a script may use, and that its contours are those of a node."""

import ast
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from rich.console import Console

import limn
from limn.cli.main import main
from limn.dicom.ct import CtIdentity
from limn.dicom.series import AXIAL_ORIENTATIONS, assemble
from limn.domain.scan import Volume, dice
from limn.formats.label_files import image_of
from limn.node.batch.source import opened
from tests.conftest import one_fold, require_peer, write_series
from tests.support.scanner_files import write_inveon, write_sections

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(mouse, tmp_path_factory):
    """The mouse as a folder of DICOM."""
    folder = tmp_path_factory.mktemp("api") / "ct"
    write_series(mouse[0], folder, CtIdentity("M1", "2.25.44.31", ("20260101", "120000")))
    return folder


@pytest.fixture(scope="module")
def model():
    """One fold, warm."""
    return limn.Model(one_fold())


@pytest.fixture(scope="module")
def contours(model, folder):
    """Of the mouse."""
    return model.contour(folder)


def test_the_import_is_light():
    """No network library is loaded before it is used."""
    script = "import sys, limn; print(sorted({'torch', 'numpy', 'pydicom'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_what_is_public_is_listed():
    """And everything that is listed is there."""
    assert dir(limn) == sorted(limn.__all__)
    stub = ast.parse(Path(limn.__file__).with_suffix(".pyi").read_text())
    typed = {
        each.asname
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    assert typed | {"__version__"} == set(limn.__all__)
    told = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    assert [name for name in typed if f"`limn.{name}" not in told] == []
    for name in limn.__all__:
        assert getattr(limn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'ensemble'"):
        _ = limn.ensemble


def test_a_scan_is_contoured(contours, mouse, model):
    """Labels, ROIs with volumes and lights, flags, structure set, picture and times."""
    volume, truth = mouse
    assert contours.labels_zyx.shape == volume.hu_zyx.shape
    assert contours.names == dict(truth.organs)
    assert tuple(contours.rois) == model.organs == tuple(truth.organs.values())
    assert (contours.animal, contours.number, contours.of) == ("M1", 1, 1)
    for label, organ in truth.organs.items():
        own, real = contours.labels_zyx == label, truth.labels_zyx == label
        assert 2 * (own & real).sum() / (own.sum() + real.sum()) > 0.75
        mm3 = own.sum() * volume.grid.spacing_mm.voxel_mm3
        assert contours.rois[organ].volume_mm3 == pytest.approx(mm3)
        assert contours.rois[organ].light in ("", "green", "amber", "red")
    assert "demo-bundle" in contours.flags
    assert contours.picture.startswith(b"\x89PNG")
    assert contours.seconds["inference_s"] > 0
    assert model.bundle == "phantom-7"


def test_the_labels_lie_where_the_scan_does(contours, folder):
    """As SimpleITK and nibabel give them, and as limn reads the scan."""
    scan = limn.read(folder)
    assert scan.hu_zyx.shape == contours.labels_zyx.shape
    assert scan.image.GetOrigin() == contours.image.GetOrigin()
    assert scan.animal == "M1"
    place = contours.image.TransformIndexToPhysicalPoint((3, 4, 5))
    ras = contours.nifti().affine @ np.array([3.0, 4.0, 5.0, 1.0])
    assert ras[:3] == pytest.approx([-place[0], -place[1], place[2]])
    assert np.array_equal(np.asarray(contours.nifti().dataobj).T, contours.labels_zyx)


def test_it_is_saved_in_every_form(contours, tmp_path):
    """Each is read by a program of another maker in its own tests."""
    forms = ("rtstruct", "seg", "nifti", "nrrd", "stl", "csv")
    written = {path.name for path in contours.save(tmp_path, forms)}
    assert written == {
        *("RS.dcm", "SEG.dcm", "labels.nii.gz", "labels.csv", "labels.seg.nrrd", "volumes.csv"),
        *("Heart.stl", "SpinalCord.stl", "Lung_R.stl", "Lung_L.stl", "picture.png"),
    }
    assert {path.name for path in tmp_path.iterdir()} == written
    assert pydicom.dcmread(tmp_path / "RS.dcm").PatientID == "M1"


def door(name: str, folder: Path, volume: Volume, at: Path) -> Path:
    """The mouse in another form; ``folder`` has it as DICOM."""
    path, hu = at / name, np.round(volume.hu_zyx).astype("<i2")
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as packed:
            for each in sorted(folder.iterdir()):
                packed.write(each, f"../{each.name}")
    elif name.endswith(".img"):
        write_inveon(at, hu, volume.grid.spacing_mm.zyx)
    else:
        SimpleITK.WriteImage(image_of(hu, volume.grid), str(path))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_each_image_file_is_the_same_scan(mouse, folder, tmp_path, name):
    """As of DICOM, voxel by voxel on the same grid."""
    scan, expected = limn.read(door(name, folder, mouse[0], tmp_path)), limn.read(folder)
    assert np.array_equal(scan.hu_zyx, expected.hu_zyx)
    for told in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        numbers, wanted = getattr(scan.image, told)(), getattr(expected.image, told)()
        assert numbers == pytest.approx(wanted, abs=1e-4), told


@pytest.mark.parametrize("name", ["a.zip", "a.nii.gz", "a.nrrd", "a.mha", "mouse.ct.img"])
def test_each_door_gives_the_same_labels(contours, model, mouse, folder, tmp_path, name):
    """Every voxel on the same grid; what was no DICOM has its file's name for an animal."""
    path, asks = door(name, folder, mouse[0], tmp_path), name.endswith(".img")
    found = model.contour(path, lie="SPL" if asks else "")
    assert np.array_equal(found.labels_zyx, contours.labels_zyx)
    assert found.image.GetSpacing() == pytest.approx(contours.image.GetSpacing())
    assert found.image.GetDirection() == pytest.approx(contours.image.GetDirection())
    # Without a place in space the corner of the field is the origin.
    corner = np.array(found.image.GetSpacing()) / 2
    assert found.image.GetOrigin() == pytest.approx(
        corner if asks else contours.image.GetOrigin(), abs=1e-4
    )
    assert found.animal == {"a.zip": "M1", "mouse.ct.img": "mouse.ct"}.get(name, "a")


def test_skyscan_sections_of_each_kind_give_the_labels_of_their_numbers(model, mouse, tmp_path):
    """BMP, PNG and TIFF of 8 and 16 bits, every voxel as an NRRD file of the same numbers."""
    volume = mouse[0]
    grey = np.clip((volume.hu_zyx / 1000.0 + 1.0) * 63.0, 0, 255).round().astype(np.uint8)
    twin = image_of(grey.astype(np.int16) * 16, volume.grid)
    SimpleITK.WriteImage(twin, str(tmp_path / "a.nrrd"))
    expected = model.contour(tmp_path / "a.nrrd").labels_zyx
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4}
    pixel_um = volume.grid.spacing_mm.x * 1000.0
    scan = limn.read(tmp_path / "a.nrrd")
    for ending, numbers in (
        *(("png", grey), ("tif", grey), ("bmp", grey)),
        ("tif", grey.astype(np.uint16) * 256),
    ):
        folder = tmp_path / f"{ending}{numbers.itemsize}"
        write_sections(folder, numbers, pixel_um, ending)
        assert np.array_equal(limn.read(folder, lie="SPL").hu_zyx, scan.hu_zyx), folder
        if folder.name in ("bmp1", "tif2"):
            found = model.contour(folder, lie="SPL")
            assert np.array_equal(found.labels_zyx, expected), folder


@pytest.mark.parametrize("name", ["a.nii.gz", "mouse.ct.img", "sections"])
def test_the_mirrored_variant_of_each_door_is_named(model, mouse, folder, tmp_path, name):
    """A header, or a person, that takes left for right: red, and a node would hold it."""
    volume, lie = mouse[0], ""
    if name == "sections":
        grey = np.clip((volume.hu_zyx / 1000.0 + 1.0) * 63.0, 0, 255).round().astype(np.uint8)
        write_sections(tmp_path / name, grey, volume.grid.spacing_mm.x * 1000.0, "png")
        path, lie = tmp_path / name, "SPR"
    elif name.endswith(".img"):
        path, lie = door(name, folder, volume, tmp_path), "SPR"
    else:
        flipped = Volume(np.ascontiguousarray(volume.hu_zyx[:, :, ::-1]), volume.grid)
        path = door(name, folder, flipped, tmp_path)
    found = model.contour(path, lie=lie)
    assert found.light == "red"
    assert "mirror image" in found.held
    assert any(flag.startswith("mirrored:") for flag in found.flags)


@pytest.mark.parametrize(("ending", "top"), [("bmp", 255), ("tif", 65535)])
def test_skyscan_sections_are_brought_to_hu(contours, model, mouse, tmp_path, ending, top):
    """Grey values of attenuation are no HU: the contours say so, and lie where those of HU do."""
    volume = mouse[0]
    # As NRecon makes them of attenuation from 0 to four times water's.
    grey = np.clip((volume.hu_zyx[::-1] / 1000.0 + 1.0) / 4.0 * top, 0, top).round()
    pixel_um = volume.grid.spacing_mm.x * 1000.0
    folder = tmp_path / "mouse 8"
    write_sections(folder, grey.astype(np.uint8 if top == 255 else np.uint16), pixel_um, ending)
    with pytest.raises(limn.LimnError, match="does not say how the animal lay"):
        limn.read(folder)
    found = model.contour(folder, lie="IPL")
    assert found.animal == "mouse 8"
    assert found.light == "amber"
    assert any("not HU: brought to HU" in each for each in found.concerns)
    for label, name in contours.names.items():
        if label:
            assert dice(found.labels_zyx == label, contours.labels_zyx == label) > 0.97, name


def test_an_image_file_that_contradicts_itself_is_asked_about(mouse, tmp_path):
    """With the answer it is read."""
    volume = mouse[0]
    affine = np.diag([0.3, 0.3, 0.3, 1.0])
    made = nibabel.Nifti1Image(np.round(volume.hu_zyx).astype(np.int16).T, affine)
    made.set_qform(affine, 1)
    made.set_sform(np.diag([-0.3, 0.3, 0.3, 1.0]), 1)
    path = tmp_path / "a.nii"
    nibabel.save(made, path)
    with pytest.raises(limn.LimnError, match="contradict each other"):
        limn.read(path)
    assert limn.read(path, lie="SPL").hu_zyx.shape == volume.hu_zyx.shape


def test_what_a_series_lacks_is_empty_and_nothing_moves(model, folder, contours, tmp_path):
    """A slice above the organs is missing: every image and surface stays in its place."""
    files = sorted(folder.iterdir())
    organs = np.flatnonzero(contours.labels_zyx.any(axis=(1, 2)))
    gap = int(organs[-1]) + 2 if organs[-1] + 2 < len(files) - 1 else int(organs[0]) - 2
    lacking = tmp_path / "ct"
    lacking.mkdir()
    for k, path in enumerate(files):
        if k != gap:
            (lacking / path.name).write_bytes(path.read_bytes())
    found = model.contour(lacking)
    assert found.labels_zyx.shape == contours.labels_zyx.shape == limn.read(lacking).hu_zyx.shape
    assert not found.labels_zyx[gap].any()
    assert np.allclose(found.nifti().affine, contours.nifti().affine)
    found.save(tmp_path / "out", ["nifti"])
    written = nibabel.load(tmp_path / "out" / "labels.nii.gz")
    assert np.allclose(written.affine, contours.nifti().affine, atol=1e-4)
    assert written.shape[::-1] == contours.labels_zyx.shape


def test_the_series_of_an_image_file_is_saved_with_what_refers_to_it(model, mouse, tmp_path):
    """Another file has other UIDs, a mirror image above all; the same file has the same."""
    volume = mouse[0]
    made = image_of(np.round(volume.hu_zyx).astype(np.int16), volume.grid)
    uids = {}
    for name in ("a.nrrd", "mirrored.nrrd"):
        if name == "mirrored.nrrd":
            made.SetDirection((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
        SimpleITK.WriteImage(made, str(tmp_path / name))
    for run in ("a.nrrd", "a.nrrd ", "mirrored.nrrd"):
        out = tmp_path / run.replace(".", "-")
        model.contour(tmp_path / run.strip()).save(out)
        images = pydicom.dcmread(out / "RS.dcm").ReferencedFrameOfReferenceSequence[0]
        series = images.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        slices = [pydicom.dcmread(path) for path in (out / "ct").iterdir()]
        assert {each.SeriesInstanceUID for each in slices} == {series.SeriesInstanceUID}
        uids[run] = series.SeriesInstanceUID
    assert uids["a.nrrd"] == uids["a.nrrd "] != uids["mirrored.nrrd"]


@pytest.mark.peer
def test_a_series_made_from_an_image_file_claims_nothing_of_the_animal(mouse, tmp_path):
    """No sex, tube or scanner; the position that its axes say, and no flag. dciodvfy agrees."""
    volume = mouse[0]
    made = image_of(np.round(volume.hu_zyx).astype(np.int16), volume.grid)
    SimpleITK.WriteImage(made, str(tmp_path / "a.nii.gz"))
    with opened(tmp_path / "a.nii.gz", "", tmp_path / "out", Console()) as scan:
        found = assemble(scan.instances)
    path = sorted((tmp_path / "out").iterdir())[0]
    ds = pydicom.dcmread(path)
    assert [ds.PatientSex, ds.KVP, ds.ManufacturerModelName] == ["", None, "image file"]
    assert ds.PatientPosition in AXIAL_ORIENTATIONS
    assert not [flag for flag in found.flags if flag.startswith("position:")]
    checked = subprocess.run(
        [require_peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )
    assert not [line for line in checked.stderr.splitlines() if line.startswith("Error")]


def test_errors_say_what_to_do(folder, tmp_path):
    """A wrong bundle, no scan, a lie for DICOM, a zip that is none."""
    with pytest.raises(limn.LimnError, match="give the folder of a bundle"):
        limn.Model("no-such-bundle")
    with pytest.raises(limn.LimnError, match="a config says itself which bundle"):
        limn.Model("phantom-7", config=tmp_path / "site.toml")
    with pytest.raises(limn.LimnError, match="holds no CT image"):
        limn.read(tmp_path)
    with pytest.raises(limn.LimnError, match="is DICOM, whose headers say how its axes lie"):
        limn.read(folder, lie="SPL")
    with pytest.raises(limn.LimnError, match="--as niftii: any of rtstruct"):
        limn.contour(folder, one_fold()).save(tmp_path, ["niftii"])
    broken = tmp_path / "a.zip"
    broken.write_bytes(b"PK no zip")
    with pytest.raises(limn.LimnError, match="is no scan: a folder of DICOM, a zip of one"):
        limn.read(broken)


def test_the_command_takes_the_same_doors_and_forms(folder, mouse, tmp_path, capsys):
    """`limn contour FILE --as ...`; the CT series of an image file stays beside it."""
    volume = mouse[0]
    path = tmp_path / "mouse 7.nii.gz"
    hu = np.round(volume.hu_zyx).astype(np.int16)
    SimpleITK.WriteImage(image_of(hu, volume.grid), str(path))
    out = tmp_path / "out"
    command = ["contour", str(path), "-o", str(out), "--bundle", str(one_fold())]
    assert main([*command, "--as", "csv"]) == 0
    assert {each.name for each in out.iterdir()} == {"picture.png", "volumes.csv"}
    assert "CT series" not in capsys.readouterr().out
    assert main([*command, "--as", "nifti,rtstruct"]) == 0
    assert "to which the DICOM files refer" in " ".join(capsys.readouterr().out.split())
    structure_set = pydicom.dcmread(out / "RS.dcm")
    ct = pydicom.dcmread(next((out / "ct").iterdir()))
    assert structure_set.PatientID == ct.PatientID == "mouse 7"
    frame = structure_set.ReferencedFrameOfReferenceSequence[0]
    images = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert images.SeriesInstanceUID == ct.SeriesInstanceUID
    assert (out / "labels.nii.gz").exists()
    assert main([*command, "--as", "rtstruct,gif"]) == 1
    assert "--as gif: any of rtstruct, seg, nifti" in capsys.readouterr().err


def test_a_users_script_is_typed(tmp_path):
    """Mypy --strict on every name of the API."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from pathlib import Path

            import limn


            def volumes(folder: Path) -> dict[str, float]:
                model = limn.Model("phantom-7", device="cpu", animals="each")
                found: limn.Contours = next(model.contour_each(folder))
                scan: limn.Scan = limn.read(folder)
                rois: list[limn.Roi] = list(found.rois.values())
                print(scan.spacing_mm, found.light, model.organs, limn.__version__)
                try:
                    limn.contour(folder, lie="SPL", progress=lambda done, total: None)
                except limn.LimnError as error:
                    print(error)
                found.save("out", ["rtstruct", "seg"])
                field: bytes = limn.one_file([found])
                print(len(field), found.image.GetSize(), found.nifti(), found.held)
                return {roi.name: roi.volume_mm3 for roi in rois}
            """
        )
    )
    assert [name for name in limn.__all__ if f"limn.{name}" not in script.read_text()] == []
    # With the settings, and so the cache, of `make lint`.
    command = [sys.executable, "-m", "mypy", "--strict"]
    done = subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout
