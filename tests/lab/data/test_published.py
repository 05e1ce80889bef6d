"""Published data sets on made-up files of their layout, with the faults they are known for."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from limn.domain.errors import ConfigWrong
from limn.domain.geometry import SpacingMm, axial_grid
from limn.formats.label_files import image_of
from limn.lab.data.dataset import import_folder, read_dataset
from limn.lab.data.folder_layout import read_layout
from limn.lab.data.organs import read_organs
from tests.conftest import REPOSITORY
from tests.lab.data.test_dataset import LAYOUT, analyze, drawn, hu, nifti, organs

TUMSEG = REPOSITORY / "config" / "tumseg.toml"
GRID = axial_grid((14, 10, 12), SpacingMm(0.2, 0.2, 0.2), np.zeros(3))


def mouse(folder: Path, name: str, number: int, shift: int = 0, label: int = 1) -> None:
    """A mouse of TumSeg, with the tumour of each annotator a voxel further along the animal."""
    folder.mkdir(parents=True)
    ct = np.full(GRID.shape_zyx, 30, np.int16)
    ct[0, 0, 0] = number
    SimpleITK.WriteImage(image_of(ct, GRID), str(folder / f"CT_{name}.nii.gz"))
    for k, annotator in enumerate("ABC"):
        tumour = np.zeros(GRID.shape_zyx, np.uint8)
        tumour[3 + k + shift : 8 + k + shift, 2:6, 2:6] = label
        path = folder / f"Annotator_{annotator}_{name}.nii.gz"
        SimpleITK.WriteImage(image_of(tumour, GRID), str(path))


@pytest.fixture
def tumseg(tmp_path) -> Path:
    """Two studies whose mice have the same names; two mice in the scanner at once."""
    folder = tmp_path / "tumseg"
    for k, study in enumerate(("Study 1", "Study 10")):
        mouse(folder / study / "M01_M02_8d" / "M01_8d", "M01_8d", 10 * k)
        mouse(folder / study / "M01_M02_8d" / "M02_8d", "M02_8d", 10 * k + 1)
        mouse(folder / study / "M01_M02_11d" / "M01_11d", "M01_11d", 10 * k + 2)
    return folder


def test_tumseg_as_published_imports_without_edits(tumseg, tmp_path):
    """One organ, three annotators; a mouse of one study is not the mouse of another."""
    lines: list[str] = []
    import_folder(tumseg, tmp_path / "out", TUMSEG, None, lines.append)
    entries = read_dataset(tmp_path / "out")
    assert {entry.animal for entry in entries} == {
        f"tumseg-Study-{study}-{name}" for study in (1, 10) for name in ("M01", "M02")
    }
    assert len(entries) == 6
    assert {entry.time_point for entry in entries} == {"8d", "11d"}
    assert all(entry.observer1 and entry.observer2 and entry.observer3 for entry in entries)
    assert dict(read_organs(tmp_path / "out").organs) == {1: "Tumor"}
    assert sum(line.startswith("not checked: ") for line in lines) == 4


def test_a_tumour_of_another_number_is_named(tumseg, tmp_path):
    """The number is assumed; the layout says where to mend it."""
    folder = tumseg / "Study 1" / "M03_8d" / "M03_8d"
    mouse(folder, "M03_8d", 99, label=2)
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="1 of 7 scans can't be used"):
        import_folder(tumseg, tmp_path / "out", TUMSEG, None, lines.append)
    (bad,) = [line for line in lines if line.startswith("BAD")]
    assert "missing label: observer1 has no Tumor (1)" in bad


def write_mouse(
    folder: Path, group: str, scan: str, annotation: np.ndarray, number: int, place: str
) -> None:
    """A scan of Rosenhain's database below the folder of its kind, and one annotation of it."""
    here = folder / place / scan
    here.mkdir(parents=True)
    for suffix, contents in analyze(hu(number), 0.14).items():
        (here / f"CT140.{suffix}").write_bytes(contents)
    for suffix, contents in organs(4, 5).items():
        (here / f"Organ1.{suffix}").write_bytes(contents)
    # Both lists end with a bar, as in the database.
    (here / "Organ1.cls").write_text(
        "ClassColors=0 0 0 255|1 1 1 255|2 2 2 255|3 3 3 255|\n"
        "ClassIndices=0|5|4|9|\nClassNames=unclassified|Heart|Lung|Bone|\n"
    )
    for observer in ("observer1", "observer2"):
        path = folder / "zenodo" / group / observer / f"{scan}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(nifti(annotation, 0.14))


@pytest.fixture
def layout(tmp_path) -> Path:
    """The committed layout for a few scans, and a split for them."""
    path = tmp_path / "layout.toml"
    path.write_text(LAYOUT.read_text().replace("scans = 140", "scans = 0"))
    (tmp_path / "split.toml").write_text(
        'test1 = ["native-M02"]\ntest2 = ["contrast-M01"]\nfolds = [["native-M01"]]\n'
    )
    return path


PLACES = {"native": "1_nativeCTdata", "contrast": "2_contrast-enhancedCTdata"}


def write_few(folder: Path, annotation: np.ndarray) -> None:
    """Two native mice and one with contrast agent, the first of them with this annotation."""
    for number, (group, scan) in enumerate(
        (("native", "M01_024h"), ("native", "M02_-001h"), ("contrast", "M01_024h"))
    ):
        own = annotation if number == 0 else drawn()
        write_mouse(folder, group, scan, own, number, PLACES[group])


def test_rosenhains_folders_under_their_own_names(layout, tmp_path):
    """The folder of contrast-enhanced scans, and class lists that end with a bar."""
    write_few(tmp_path / "published", drawn())
    import_folder(
        tmp_path / "published", tmp_path / "out", layout, tmp_path / "split.toml", lambda line: None
    )
    entries = read_dataset(tmp_path / "out")
    assert [entry.contrast for entry in entries] == ["no", "no", "yes"]
    third = SimpleITK.GetArrayFromImage(
        SimpleITK.ReadImage(str(tmp_path / "out" / entries[2].observer3))
    )
    assert set(np.unique(third)) == {0, 1, 5}
    assert list(read_organs(tmp_path / "out").label_of) == [
        "Heart",
        "SpinalCord",
        "Lung_R",
        "Lung_L",
        "Lungs",
    ]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        # The annotations' numbers are known from one program only, their axes from none.
        (lambda a: np.array([0, 1, 2, 4, 3], np.uint8)[a], "the two labels are exchanged"),
        (lambda a: a[:, :, ::-1], "the image is mirrored, or its axes"),
        (lambda a: a[:, ::-1], "back and belly exchanged"),
        (lambda a: np.array([0, 3, 2, 1, 4], np.uint8)[a], "does not lie on the CT"),
        (lambda a: np.where(a == 2, 0, a).astype(np.uint8), "has no SpinalCord (2)"),
        (lambda a: a[::2, ::2, ::2], "wrong grid: observer1 has"),
    ],
    ids=["sides", "mirrored", "turned", "numbers", "no cord", "coarse"],
)
def test_annotations_unlike_what_is_assumed_are_named(turn, message, layout, tmp_path):
    """Each assumption of the layout that turns out wrong is a fault in words, not a guess."""
    write_few(tmp_path / "published", turn(drawn()))
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="1 of 3 scans can't be used"):
        import_folder(
            tmp_path / "published",
            tmp_path / "out",
            layout,
            tmp_path / "split.toml",
            lines.append,
        )
    (bad,) = [line for line in lines if line.startswith("BAD native-M01-024h")]
    assert re.search(re.escape(message), bad)


def test_a_study_stands_before_its_animals_and_is_no_scan_by_itself(tmp_path):
    """A pattern with a study needs animal and time as well."""
    path = tmp_path / "layout.toml"
    path.write_text("[a]\nct = '{study}/{animal}/ct'\n")
    with pytest.raises(ConfigWrong, match=r"lacks \{time\}|observer1 is missing"):
        read_layout(path)
