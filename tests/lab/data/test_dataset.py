"""Data sets imported from a site's folder: what they hold, and how each bad scan is named."""

import copy
import gzip
import io
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from filelock import FileLock

from limn.cli import main
from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.lab.data import case_checks, dataset
from limn.lab.data.dataset import import_folder, read_dataset, refuse_leaks
from limn.lab.data.folder_layout import find_scans, read_layout
from limn.lab.data.organs import PHANTOM_ORGANS, read_organs
from limn.lab.data.readers import read_ct, refuse_truncated
from limn.lab.phantoms import phantom_dataset
from limn.lab.phantoms.synthesize import PhantomRequest, synthesize
from limn.phantom.cohort import Cohort
from tests.conftest import REPOSITORY

CONFIG = REPOSITORY / "config"
LAYOUT, SPLIT = CONFIG / "rosenhain-zenodo.toml", CONFIG / "split-rosenhain.toml"
TIMES = ("-001h", "0.25h", "002h", "004h", "008h", "024h", "072h")
SHAPE = (16, 12, 18)


def drawn() -> np.ndarray:
    """Labels of a small animal, axes S, P, L; the right lung, the larger, has the low columns."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[4:12, 2:8, 6:12] = 1
    labels[2:14, 10, 8:10] = 2
    labels[2:14, 2:10, 0:6], labels[4:12, 2:10, 12:16] = 3, 4
    return labels


def hu(number: int) -> np.ndarray:
    """HU with air in the lungs; the first voxel holds the number of the scan."""
    image = np.where(np.isin(drawn(), (3, 4)), -500, 40).astype(np.int16)
    image[0, 0, 0] = number
    return image


def stored(array_spl: np.ndarray) -> np.ndarray:
    """The array as the database stores it: x y z to the right, to the belly, to the head."""
    return array_spl[:, ::-1, ::-1].transpose(2, 1, 0)


def analyze(array_spl: np.ndarray, spacing_mm: float) -> dict[str, bytes]:
    """Header and image of Analyze 7.5, the format of the database."""
    image = nibabel.AnalyzeImage(stored(array_spl), None)
    image.header.set_zooms((spacing_mm,) * 3)
    files = image.make_file_map({"image": io.BytesIO(), "header": io.BytesIO()})
    image.to_file_map(files)
    kinds = {"header": "hdr", "image": "img"}
    return {kinds[role]: files[role].fileobj.getvalue() for role in kinds}


def nifti(array_spl: np.ndarray, spacing_mm: float) -> bytes:
    """The same axes saved as NIfTI, whose header does not state them."""
    image = nibabel.Nifti1Image(stored(array_spl), np.diag([spacing_mm] * 3 + [1.0]))
    return gzip.compress(image.to_bytes())


@cache
def organs(lung: int, heart: int) -> dict[str, bytes]:
    """Labels of observer 3 on voxels of 0.28 mm in the same field of view."""
    coarse = drawn()[::2, ::2, ::2]
    labels = np.where(np.isin(coarse, (3, 4)), lung, np.where(coarse == 1, heart, 0))
    labels[0, 0, 0] = 9
    return analyze(labels.astype(np.uint8), 0.28)


@cache
def contoured() -> bytes:
    """The labels of observers 1 and 2."""
    return nifti(drawn(), 0.14)


def write_scan(folder: Path, group: str, scan: str, number: int, *, contours: bool = True) -> None:
    """Write a scan of the database and the contours of three observers."""
    scan_folder = folder / {"native": "1_nativeCTdata", "contrast": "2_CECTdata"}[group] / scan
    scan_folder.mkdir(parents=True)
    for suffix, contents in analyze(hu(number), 0.14).items():
        (scan_folder / f"CT140.{suffix}").write_bytes(contents)
    # Label numbers and file names differ from scan to scan, as in the database.
    lung, heart = (4, 5) if number % 2 else (2, 1)
    name = "Organ1" if number % 3 == 0 else "Organ"
    for suffix, contents in organs(lung, heart).items():
        (scan_folder / f"{name}.{suffix}").write_bytes(contents)
    (scan_folder / f"{name}.cls").write_text(
        "ClassColors=0 0 0 255|1 1 1 255|2 2 2 255|3 3 3 255\n"
        f"ClassIndices=0|{heart}|{lung}|9\nClassNames=unclassified|Heart|Lung|Bone\n"
    )
    for observer in ("observer1", "observer2") if contours else ():
        path = folder / "zenodo" / group / observer / f"{scan}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contoured())


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The committed layout, but with any number of scans allowed."""
    path = tmp_path / "layout.toml"
    path.write_text(LAYOUT.read_text().replace("scans = 140", "scans = 0"))
    return path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two native animals on two days, and one with a contrast agent."""
    folder = tmp_path / "published"
    scans = [("native", f"M0{a}_{t}") for a in (1, 3) for t in TIMES[:2]] + [
        ("contrast", "M03_024h")
    ]
    for number, (group, scan) in enumerate(scans):
        write_scan(folder, group, scan, number)
    return folder


def refused_import(
    folder: Path, layout: Path, out: Path, split: Path = SPLIT
) -> tuple[str, list[str]]:
    """The error message of an import, and the lines that it reported before."""
    lines: list[str] = []
    with pytest.raises(ConfigWrong) as refused:
        import_folder(folder, out, layout, split, lines.append)
    assert not (out / dataset.MANIFEST).exists()
    return str(refused.value), lines


def bad_lines(lines: list[str]) -> list[str]:
    """The lines that name a bad scan."""
    return [line for line in lines if line.startswith("BAD")]


def read(path: Path) -> np.ndarray:
    """An image of the data set."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_the_database_as_published_imports_without_edits(tmp_path, capsys):
    """140 native scans, 3 with contrast agent of which 2 are contoured, the committed layout."""
    folder, out = tmp_path / "published", tmp_path / "out"
    for number in range(140):
        write_scan(folder, "native", f"M{number // 7 + 1:02d}_{TIMES[number % 7]}", number)
    for number, scan in enumerate(("M03_-001h", "M03_024h", "M10_0.25h")):
        write_scan(folder, "contrast", scan, 200 + number, contours=number > 0)
    argv = ["lab", "import", str(folder), str(out), "--layout", str(LAYOUT), "--split", str(SPLIT)]
    assert main.main(argv) == 0
    output = capsys.readouterr().out
    assert "left out: contrast-M03--001h: not contoured by observer 1" in output
    assert (
        "train 105 scans of 15 animals, test1 35 scans of 5 animals, test2 2 scans of 2" in output
    )
    entries = read_dataset(out)
    assert Counter(entry.split for entry in entries) == {"train": 105, "test1": 35, "test2": 2}
    folds = Counter(entry.fold for entry in entries)
    assert folds == {"": 37} | {str(k): 21 for k in range(5)}
    for entry in (entries[0], entries[77], entries[-1]):
        number = int(read(out / entry.ct)[0, 0, 0])
        assert np.array_equal(read(out / entry.ct), hu(number))
        assert np.array_equal(read(out / entry.observer1), drawn())
        assert np.array_equal(read(out / entry.observer2), drawn())
        third = np.where(np.isin(drawn(), (3, 4)), 5, np.where(drawn() == 1, 1, 0))
        assert np.array_equal(read(out / entry.observer3), third)
        assert entry.truth == ""
        assert entry.spacing_mm == "0.14 0.14 0.14"


def test_a_split_for_other_animals_is_refused_before_anything_is_read(few, layout, tmp_path):
    """The refusal comes before the first scan is read."""
    split = tmp_path / "split.toml"
    split.write_text('test1 = ["native-M01"]\ntest2 = []\nfolds = [["native-M99"]]\n')
    message, lines = refused_import(few, layout, tmp_path / "out", split)
    assert "no animal that the split trains on is here: it names native-M99; here are" in message
    assert not [line for line in lines if line.startswith("1/")]


def test_names_that_no_table_takes_are_named_once_and_passed_over(few, layout, tmp_path):
    """A file that is no UTF-8 beside the scans, and a copy of a group under an odd name."""
    odd = few / "zenodo" / "native" / "observer1" / os.fsdecode(b"M\xe403_002h.nii.gz")
    odd.write_bytes(contoured())
    shutil.copytree(few / "zenodo", few / "a\nb")
    split = tmp_path / "split.toml"
    split.write_text('test1 = []\ntest2 = []\nfolds = [["native-M01"]]\n')
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, split, lines.append)
    assert {entry.animal for entry in read_dataset(tmp_path / "out")} == {"native-M01"}
    named = [line for line in lines if "rename it" in line]
    assert len(named) == 2
    assert any(r"observer1/M\xe403_002h.nii.gz: " in line for line in named)
    assert any(r"/a\nb: " in line for line in named)


def test_an_image_whose_name_is_no_utf8_is_refused_and_ends_no_process(tmp_path):
    """SimpleITK would abort the process."""
    path = tmp_path / os.fsdecode(b"M\xe4use.nii.gz")
    path.write_bytes(contoured())
    with pytest.raises(RefusedSeries, match=r"M\\xe4use.nii.gz: a letter .* rename it"):
        read_ct(path, "")
    with pytest.raises(RefusedSeries, match="rename it"):
        refuse_truncated(path)


def test_an_animal_that_the_split_does_not_name_is_left_out_and_reported(few, layout, tmp_path):
    """Each of its scans has a line in the report."""
    split = tmp_path / "split.toml"
    split.write_text('test1 = []\ntest2 = []\nfolds = [["native-M01"]]\n')
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, split, lines.append)
    assert {entry.animal for entry in read_dataset(tmp_path / "out")} == {"native-M01"}
    assert sum("the split does not name animal" in line for line in lines) == 3


def change(path: Path, edit) -> None:
    """Replace the array of a NIfTI file."""
    image = nibabel.load(path)
    array = edit(np.asarray(image.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)


def without_cord_labels(array):
    """Remove the cord."""
    array[array == 2] = 0
    return array


def swapped(array):
    """Exchange the labels of the two lungs."""
    return np.where(array == 3, 4, np.where(array == 4, 3, array)).astype(np.uint8)


BAD = {
    "missing label": (without_cord_labels, "missing label: observer1 has no SpinalCord (2)"),
    "wrong grid": (
        lambda array: array[:, :, :-1],
        "wrong grid: observer1 has 15 x 12 x 18 voxels (z y x), the CT 16 x 12 x 18",
    ),
    "labels swapped": (
        swapped,
        "Lung_R lies left of Lung_L and is the smaller (0.31 of both): the "
        "two labels are exchanged",
    ),
    "mirrored": (lambda array: array[::-1], "Lung_R lies left of Lung_L and is the larger"),
    "moved": (
        lambda array: np.roll(array, 6, axis=2),
        "observer2 drew the heart elsewhere than observer1 (DSC 0.25)",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_case_is_named(fault, few, layout, tmp_path):
    """The line names scan, observer and fault; good scans have none, and no manifest is written."""
    edit, message = BAD[fault]
    change(few / "zenodo" / "native" / "observer1" / "M03_0.25h.nii.gz", edit)
    refusal, lines = refused_import(few, layout, tmp_path / "out")
    assert message in bad_lines(lines)[0]
    assert bad_lines(lines)[0].startswith("BAD native-M03-0.25h: ")
    assert len(bad_lines(lines)) == 1
    assert refusal.startswith("1 of 5 scans can't be used")


def without_cord(layout, tables):
    """Change the layout so that observers draw no cord, in the first tables of the file."""
    all_four = "labels = { Heart = 1, SpinalCord = 2, Lung_R = 3, Lung_L = 4 }"
    three = "labels = { Heart = 1, Lung_R = 3, Lung_L = 4 }"
    layout.write_text(layout.read_text().replace(all_four, three, tables))


def test_an_organ_that_observer_1_does_not_draw_can_not_be_learnt(few, layout, tmp_path):
    """Every native scan that trains is refused; one that only tests is imported with a warning."""
    without_cord(layout, 1)
    refusal, lines = refused_import(few, layout, tmp_path / "out")
    fault = "observer1 drew no SpinalCord, and systems would learn that there is none"
    assert bad_lines(lines) == [f"BAD native-M01-{time}: {fault}" for time in TIMES[:2]]
    assert "WARNING native-M03-0.25h: observer1 drew no SpinalCord; it is not scored there" in lines
    assert refusal.startswith("2 of 5 scans can't be used")


def test_an_organ_that_nobody_draws_is_no_organ_of_the_data_set(few, layout, tmp_path):
    """Three organs are a data set too; where the layout says that there are four, it is refused."""
    without_cord(layout, 4)
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, SPLIT, lines.append)
    assert list(read_organs(tmp_path / "out").organs.values()) == ["Heart", "Lung_R", "Lung_L"]
    assert "not checked: back and belly (no cord)" in lines
    four = "[labels]\n1 = 'Heart'\n2 = 'SpinalCord'\n3 = 'Lung_R'\n4 = 'Lung_L'\n"
    layout.write_text(layout.read_text() + four)
    with pytest.raises(ConfigWrong, match="observer1 draws no SpinalCord"):
        import_folder(few, tmp_path / "four", layout, SPLIT, print)


def test_a_split_unlike_the_papers_is_reported(few, layout, tmp_path):
    """A site may train on contrast-enhanced animals; the import warns."""
    split = tmp_path / "split.toml"
    split.write_text(
        'test1 = []\ntest2 = ["native-M01"]\nfolds = [["native-M03"], ["contrast-M03"]]\n'
    )
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, split, lines.append)
    assert [line for line in lines if line.startswith("WARNING")] == [
        "WARNING contrast-enhanced animals train, in the paper none did: contrast-M03",
        "WARNING native animals in test set 2, which tables call contrast-enhanced: native-M01",
    ]


def test_a_scan_that_trains_in_no_fold_is_refused(few, layout, tmp_path):
    """The manifest was edited by hand."""
    out = tmp_path / "out"
    import_folder(few, out, layout, SPLIT, lambda _: None)
    path = out / dataset.MANIFEST
    path.write_text(path.read_text().replace(",train,3,", ",train,,", 1))
    with pytest.raises(ConfigWrong, match="native-M01--001h: fold '' of split 'train': mend"):
        read_dataset(out)


def test_contours_of_another_scan_are_named(few, layout, tmp_path):
    """Hearts that do not overlap, and lungs that lie in muscle."""
    path = few / "zenodo" / "native" / "observer2" / "M01_-001h.nii.gz"
    change(path, lambda array: np.roll(array, 8, axis=2))
    for suffix, contents in analyze(np.full(SHAPE, 40, dtype=np.int16), 0.14).items():
        (few / "2_CECTdata" / "M03_024h" / f"CT140.{suffix}").write_bytes(contents)
    _, lines = refused_import(few, layout, tmp_path / "out")
    first, second = bad_lines(lines)
    assert "observer2 drew the heart elsewhere than observer1 (DSC 0.00)" in first
    assert "observer1 does not lie on the CT: 40 HU in its lungs, 40 in its heart" in second


def test_lungs_that_were_drawn_as_one_and_mirrored_are_named(few, layout, tmp_path):
    """Joined lungs have no sides: only the comparison with observer 1 shows the mirroring."""
    array = np.where(np.isin(drawn(), (3, 4)), 4, 0)[::2, ::2, ::-2].astype(np.uint8)
    array[0, 0, :2] = 5, 9
    for suffix, contents in analyze(array, 0.28).items():
        (few / "1_nativeCTdata" / "M01_0.25h" / f"Organ.{suffix}").write_bytes(contents)
    _, lines = refused_import(few, layout, tmp_path / "out")
    (line,) = bad_lines(lines)
    assert line.startswith("BAD native-M01-0.25h: ")
    assert "left/right swapped: observer3's lungs fit observer1's better when mirrored" in line


def test_contours_without_a_ct_and_absent_animals_of_the_split_are_reported(few, layout, tmp_path):
    """Otherwise a misspelt name would drop a scan silently."""
    drawings = few / "zenodo" / "native" / "observer2"
    (drawings / "M01_0.25h.nii.gz").rename(drawings / "M1_0.25h.nii.gz")
    split = tmp_path / "split.toml"
    split.write_text(
        'test1 = ["native-M04"]\ntest2 = []\nfolds = [["native-M01"], ["native-M03"]]\n'
    )
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, split, lines.append)
    assert (
        f"WARNING {drawings / 'M1_0.25h.nii.gz'}: the CT that it was drawn on is not here" in lines
    )
    assert "WARNING the split names animals that are not here: native-M04" in lines


def test_an_import_touches_nothing_that_it_did_not_make(few, layout, tmp_path):
    """Neither the scans that it reads nor a folder with other files is changed."""
    before = {path: path.read_bytes() for path in few.rglob("*") if path.is_file()}
    other = tmp_path / "own"
    (other / "scans" / "native-M01--001h").mkdir(parents=True)
    (other / "scans" / "native-M01--001h" / "mine.txt").write_text("mine")
    for out, message in (
        (few, "may not be"),
        (few / "out", "lie in it"),
        (tmp_path, "or hold it"),
        (other, "holds files that no import wrote"),
    ):
        with pytest.raises(ConfigWrong, match=message):
            import_folder(few, out, layout, SPLIT, print)
    assert {path: path.read_bytes() for path in few.rglob("*") if path.is_file()} == before
    assert (other / "scans" / "native-M01--001h" / "mine.txt").read_text() == "mine"
    with pytest.raises(ConfigWrong, match="nowhere is not a folder; give the folder that holds"):
        import_folder(tmp_path / "nowhere", tmp_path / "out", layout, SPLIT, print)


def test_a_second_import_at_the_same_time_is_refused(few, layout, tmp_path):
    """The message names the first; once it has ended, importing again works."""
    out = tmp_path / "out"
    out.mkdir()
    with (
        FileLock(out / dataset.LOCK),
        pytest.raises(ConfigWrong, match="another import is at work there"),
    ):
        import_folder(few, out, layout, SPLIT, print)
    for _ in range(2):
        import_folder(few, out, layout, SPLIT, lambda _: None)
    assert len(read_dataset(out)) == 5


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_a_truncated_file_is_named(share, few, layout, tmp_path):
    """Readers would replace missing bytes by zeros: 0 HU is water, label 0 is no organ."""
    contours = few / "zenodo" / "native" / "observer1" / "M01_0.25h.nii.gz"
    image = few / "1_nativeCTdata" / "M03_0.25h" / "CT140.img"
    for path in (contours, image):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
    _, lines = refused_import(few, layout, tmp_path / "out")
    first, second = bad_lines(lines)
    assert first.startswith(f"BAD native-M01-0.25h: observer1: {contours} can't be read")
    assert second.startswith(f"BAD native-M03-0.25h: {image} is not whole: ")
    assert f"its voxels need {2 * math.prod(SHAPE)}; copy it again" in second


def test_values_that_are_not_hu_are_reported(few, layout, tmp_path):
    """Stored values without their rescale: a warning, because only a person can decide."""
    for suffix, contents in analyze((hu(1) + 1024).astype(np.int16), 0.14).items():
        (few / "1_nativeCTdata" / "M03_0.25h" / f"CT140.{suffix}").write_bytes(contents)
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, SPLIT, lines.append)
    warning = "WARNING native-M03-0.25h: 524 HU in the lungs: are the CT's values Hounsfield units?"
    assert warning in lines


def test_an_observer_without_files_is_reported(few, layout, tmp_path):
    """The warning names the pattern; a split without an animal to train on is refused."""
    shutil.rmtree(few / "zenodo" / "native")
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="trains on no animal; here are contrast-M03, and one"):
        import_folder(few, tmp_path / "out", layout, None, lines.append)
    where = "zenodo/native/observer1/{animal}_{time}.nii.gz"
    assert f"WARNING nothing fits [native.observer1] files = {where}" in lines


def test_a_data_set_that_lacks_a_file_is_named(few, layout, tmp_path):
    """A file of the data set was deleted."""
    first = tmp_path / "first"
    import_folder(few, first, layout, SPLIT, lambda _: None)
    lost_file = first / "scans" / "native-M03-0.25h" / "observer2.nii.gz"
    lost_file.unlink()
    with pytest.raises(ConfigWrong, match=r"names scans/.*observer2\.nii\.gz, which is missing"):
        import_folder(first, tmp_path / "second", None, None, lambda _: None)


def test_a_ct_of_the_wrong_size_is_named(few, layout, tmp_path):
    """0.28 mm where the layout states 0.14; the fields of view then differ too."""
    for suffix, contents in analyze(hu(0), 0.28).items():
        (few / "1_nativeCTdata" / "M01_-001h" / f"CT140.{suffix}").write_bytes(contents)
    _, lines = refused_import(few, layout, tmp_path / "out")
    assert "the CT's voxels are 0.28 x 0.28 x 0.28 mm, 0.14 expected" in bad_lines(lines)[0]
    assert "wrong grid: observer3 covers" in bad_lines(lines)[0]


def test_a_bad_scan_can_be_left_out_by_name(few, layout, tmp_path):
    """The layout names it; the other scans are imported."""
    change(few / "zenodo" / "native" / "observer1" / "M03_0.25h.nii.gz", without_cord_labels)
    layout.write_text(layout.read_text().replace("leave_out = []", 'leave_out = ["M03_0.25h"]'))
    import_folder(few, tmp_path / "out", layout, SPLIT, lambda _: None)
    assert len(read_dataset(tmp_path / "out")) == 4


def test_one_image_under_two_animals_names_is_a_leak(few, layout, tmp_path):
    """A folder that was copied would put one animal on both sides."""
    cts = few / "1_nativeCTdata"
    for suffix in ("hdr", "img"):
        shutil.copy(cts / "M01_0.25h" / f"CT140.{suffix}", cts / "M03_0.25h")
    refusal, _ = refused_import(few, layout, tmp_path / "out")
    assert refusal == "animals native-M01 and native-M03 have the same CT"


def test_an_animal_on_two_sides_is_refused_when_the_manifest_is_read(few, layout, tmp_path):
    """The manifest was edited by hand."""
    out = tmp_path / "out"
    import_folder(few, out, layout, SPLIT, lambda _: None)
    entries = read_dataset(out)
    refuse_leaks(entries)
    with pytest.raises(ConfigWrong, match=r"animal native-M01 is in test1 and train fold 3"):
        refuse_leaks([replace(entries[0], split="test1", fold=""), *entries[1:]])
    path = out / dataset.MANIFEST
    path.write_text(path.read_text().replace(",train,3,", ",train,2,", 1))
    with pytest.raises(ConfigWrong, match="animal native-M01 is in train fold 2 and train fold 3"):
        read_dataset(out)


def test_too_few_scans_and_none_are_named(few, tmp_path):
    """Fewer than the 140 that the layout states, and a folder in which nothing fits."""
    with pytest.raises(ConfigWrong, match=r"4 scans fit \[native\] ct, 140 expected"):
        import_folder(few, tmp_path / "out", LAYOUT, SPLIT, print)
    layout = tmp_path / "other.toml"
    layout.write_text(
        LAYOUT.read_text()
        .replace("1_nativeCTdata", "elsewhere")
        .replace("scans = 140", "scans = 0")
    )
    with pytest.raises(ConfigWrong, match=r"nothing fits \[native\] ct = .*mend the layout"):
        import_folder(few, tmp_path / "out", layout, SPLIT, print)


def test_without_a_layout_only_a_cohort_is_known(few, tmp_path):
    """The message states the option to give."""
    with pytest.raises(ConfigWrong, match=r"give --layout, such as config/rosenhain-zenodo\.toml"):
        import_folder(few, tmp_path / "out", None, None, print)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no group of scans"),
        ("[a]\nct = 'x'\n", "observer1 is missing"),
        ("[a]\ncts = 'x'\n", "cts: one of"),
        (
            "[a]\nct = '{animal}/ct'\n[a.observer1]\nfiles = '{animal}/{time}'\nlabels = {}\n",
            "lacks {time}",
        ),
        ("[a]\nct = '{animal}/{time}*'\n[a.observer1]\nfiles = ''\n", "something must stand"),
        (
            "[a]\nct = '{animal}/{time}'\naxes = 'SPX'\n[a.observer1]\nfiles = '{animal}/{time}'\n"
            "labels = {}\n",
            "axes 'SPX'",
        ),
        (
            "[a]\nct = '{animal}/{time}'\n[a.observer1]\nfiles = '{animal}/{time}'\n"
            "labels = { Heart = 1 }\n[a.observer2]\nfiles = '{animal}/{time}'\n"
            "labels = { Haert = 1 }\n",
            "[a.observer2] labels: 'Haert': one of Heart expected",
        ),
        (
            "[a]\nct = '{animal}/{time}'\n[a.observer1]\nfiles = '{animal}/{time}'\n",
            "one of labels, classes, rois expected",
        ),
        (
            "[a]\nct = '{animal}/{time}'\n[a.observer1]\nfiles = '{animal}/{time}'\n"
            "labels = { Lung_R = 1, Lung_L = 2, Lungs = 3 }\n",
            "observer1 has Lung_R and Lung_L as one (Lungs)",
        ),
        ("trainer = 'short'\n", "[trainer]: is not a group of scans"),
        (
            "[a]\nct = '{animal}/{time}'\n[a.observer1]\nfiles = '{animal}/{time}'\n"
            "rois = { Lung_R = 'Lung', Lung_L = ['L', 'lung '] }\n",
            "Lung_R and Lung_L are both called 'lung'",
        ),
    ],
    ids=[
        "empty",
        "observer",
        "key",
        "pattern",
        "open pattern",
        "axes",
        "organ",
        "kind",
        "lungs",
        "study",
        "one name",
    ],
)
def test_a_wrong_layout_is_refused(text, message, tmp_path):
    """The message names the file, the table and the key."""
    path = tmp_path / "layout.toml"
    path.write_text(text)
    with pytest.raises(ConfigWrong, match=re.escape(message)) as refused:
        read_layout(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("edge", ["nan", "inf", "-0.1"])
def test_an_edge_that_no_voxel_has_is_refused(edge, tmp_path):
    """With `nan` every voxel size would have passed."""
    path = tmp_path / "layout.toml"
    path.write_text(LAYOUT.read_text().replace("spacing_mm = 0.14", f"spacing_mm = {edge}"))
    assert edge in path.read_text()
    with pytest.raises(ConfigWrong, match="spacing_mm"):
        read_layout(path)


def test_links_to_folders_are_followed_without_loops(few, layout, tmp_path):
    """Large data may lie on another disk; a link to a folder above is not followed."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for child in few.iterdir():
        (linked / child.name).symlink_to(child, target_is_directory=True)
    (few / "1_nativeCTdata" / "up").symlink_to(few, target_is_directory=True)
    groups = read_layout(layout).groups
    found = [each.name for each in find_scans(linked, groups[0])]
    assert found == [each.name for each in find_scans(few, groups[0])]
    assert len(found) == 4


def test_the_committed_layouts_are_read():
    """Every key in them is known."""
    groups = {path.name: read_layout(path).groups for path in (LAYOUT, CONFIG / "site-dicom.toml")}
    assert [group.name for group in groups["rosenhain-zenodo.toml"]] == ["native", "contrast"]
    assert set(groups["rosenhain-zenodo.toml"][0].observers) == set(dataset.OBSERVERS)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Two animals as DICOM with structure sets, one of them prone and one feet first."""
    folder = tmp_path_factory.mktemp("site")
    for seed, position in ((4, "HFP"), (5, "FFS")):
        made = tmp_path_factory.mktemp(f"phantom-{seed}")
        synthesize(made, PhantomRequest(seed, 0.7, (28.0, 26.0, 28.0), position=position))
        day = folder / f"mouse_{seed}" / "day-1"
        shutil.copytree(made / "dicom", day / "CT")
        shutil.copy(made / "rtstruct.dcm", day / "RS.1.2.3.dcm")
        shutil.copy(made / "truth.nii.gz", folder / f"{seed}.nii.gz")
    return folder


def test_a_sites_dicom_with_structure_sets(site, tmp_path):
    """The committed layout reads ROIs onto the CT for every position in the header."""
    out = tmp_path / "out"
    import_folder(site, out, CONFIG / "site-dicom.toml", None, lambda _: None)
    entries = read_dataset(out)
    assert [entry.animal for entry in entries] == [f"site-mouse_{k}" for k in (4, 5)]
    assert Counter(entry.split for entry in entries) == {"train": 1, "test1": 1}
    assert (out / "split.toml").exists()
    for entry in entries:
        truth = SimpleITK.ReadImage(str(site / f"{entry.animal[-1]}.nii.gz"))
        ours = SimpleITK.ReadImage(str(out / entry.observer1))
        there = SimpleITK.GetArrayFromImage(
            SimpleITK.Resample(truth, ours, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
        )
        found = SimpleITK.GetArrayFromImage(ours)
        for label in (1, 3, 4):
            both = ((found == label) & (there == label)).sum()
            assert 2 * both / ((found == label).sum() + (there == label).sum()) > 0.97


def test_files_of_file_managers_are_skipped(site, tmp_path):
    """The folder was opened on a Mac and on Windows."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    for name in (".DS_Store", "Thumbs.db"):
        (folder / "mouse_4" / "day-1" / "CT" / name).write_bytes(b"no slice")
    import_folder(folder, tmp_path / "out", CONFIG / "site-dicom.toml", None, lambda _: None)
    assert len(read_dataset(tmp_path / "out")) == 2


def test_a_structure_set_without_an_organ_is_named(site, tmp_path):
    """The message lists the ROI names of the file."""
    layout = tmp_path / "layout.toml"
    layout.write_text(
        (CONFIG / "site-dicom.toml").read_text().replace('Heart = "Heart"', 'Heart = "Herz"')
    )
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="2 of 2 scans"):
        import_folder(site, tmp_path / "out", layout, None, lines.append)
    assert "no ROI for Heart: Herz expected; it has Heart, SpinalCord" in bad_lines(lines)[0]


def test_a_data_set_is_imported_unchanged(few, layout, tmp_path):
    """A data set needs no layout: the same files and the same split; another split is refused."""
    first, second = tmp_path / "first", tmp_path / "second"
    import_folder(few, first, layout, SPLIT, lambda _: None)
    import_folder(first, second, None, None, lambda _: None)
    assert read_dataset(second) == read_dataset(first)
    for entry in read_dataset(second):
        assert (second / entry.ct).read_bytes() == (first / entry.ct).read_bytes()
    import_folder(first, second, None, SPLIT, lambda _: None)
    other = tmp_path / "other.toml"
    other.write_text('test1 = ["native-M01"]\ntest2 = []\nfolds = [["native-M03"]]\n')
    with pytest.raises(ConfigWrong, match="imported with another split than"):
        import_folder(first, tmp_path / "third", None, other, lambda _: None)


def two_of_a_name(ds):
    """Give another ROI the name of the heart."""
    ds.StructureSetROISequence[1].ROIName = " heart"


def every_second(ds):
    """Keep the contours of every second slice, as before an interpolation."""
    contours = ds.ROIContourSequence[0].ContourSequence
    heights = sorted({float(each.ContourData[2]) for each in contours})
    ds.ROIContourSequence[0].ContourSequence = [
        each for each in contours if heights.index(float(each.ContourData[2])) % 2
    ]


def open_lines(ds):
    """Leave one contour open."""
    ds.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"


def aslant(ds):
    """Tilt one contour out of its slice."""
    contour = ds.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData[2] = float(contour.ContourData[2]) + 3.0


def one_number(ds):
    """Give the heart's number to another ROI."""
    ds.StructureSetROISequence[1].ROINumber = ds.StructureSetROISequence[0].ROINumber


def no_number(ds):
    """Half of the heart's contours stand in an item that names no ROI."""
    roi = ds.ROIContourSequence[0]
    rest = copy.deepcopy(roi)
    del rest.ReferencedROINumber
    rest.ContourSequence, roi.ContourSequence = roi.ContourSequence[:3], roi.ContourSequence[3:]
    ds.ROIContourSequence.append(rest)


def lost_points(ds):
    """One contour has fewer points than it says."""
    ds.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints += 40


def another_frame(ds):
    """The heart was drawn on another scan than the other organs."""
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "2.25.4711"


def one_roi_twice(ds):
    """The cord has the heart's contours."""
    ds.ROIContourSequence[1].ContourSequence = ds.ROIContourSequence[0].ContourSequence


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            one_roi_twice,
            "SpinalCord: 100% of their voxels lie in ROIs of the layout before it, most",
        ),
        (two_of_a_name, "ROIs 1 and 2 are both called Heart"),
        (one_number, "ROINumber 1 is that of Heart and of SpinalCord: contours name their ROI"),
        (no_number, "contours of no ROI: 3 without ReferencedROINumber; mend the export"),
        (lost_points, "the CT: 1 NumberOfContourPoints differs from ContourData; mend"),
        (another_frame, "drawn in another frame of reference; mend the export"),
        (every_second, "slices from its first to its last; interpolate the others"),
        (
            open_lines,
            "contours of Heart fit no slice of the CT: 1 ContourGeometricType OPEN_PLANAR",
        ),
        (aslant, "contours of Heart fit no slice of the CT: 1 not parallel to the slices"),
    ],
)
def test_incomplete_contours_are_refused(fault, message, site, tmp_path):
    """A system must not learn from them."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    (path,) = folder.glob("mouse_4/day-1/RS*.dcm")
    ds = pydicom.dcmread(path)
    assert str(ds.StructureSetROISequence[0].ROIName) == "Heart"
    fault(ds)
    ds.save_as(path)
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="1 of 2 scans"):
        import_folder(folder, tmp_path / "out", CONFIG / "site-dicom.toml", None, lines.append)
    assert message in bad_lines(lines)[0]


def test_contours_that_name_other_slices_are_reported(site, tmp_path):
    """The points decide: the labels are as before, and a line for each ROI says what was wrong."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    (path,) = folder.glob("mouse_4/day-1/RS*.dcm")
    ds = pydicom.dcmread(path)
    contours = ds.ROIContourSequence[0].ContourSequence
    uids = [item.ContourImageSequence[0].ReferencedSOPInstanceUID for item in contours]
    for item, uid in zip(contours, reversed(uids), strict=True):
        item.ContourImageSequence[0].ReferencedSOPInstanceUID = uid
    other = copy.deepcopy(ds.StructureSetROISequence[0])
    other.ROINumber, other.ROIName = 50, "Heart_old"
    ds.StructureSetROISequence.append(other)
    layout = tmp_path / "layout.toml"
    text = (CONFIG / "site-dicom.toml").read_text()
    layout.write_text(text.replace('Heart = "Heart"', 'Heart = ["Heart", "Heart_old"]'))
    point = copy.deepcopy(contours[0])
    point.ContourGeometricType = "POINT"
    contours.append(point)
    stray = copy.deepcopy(ds.ROIContourSequence[0])
    stray.ReferencedROINumber = 77
    ds.ROIContourSequence.append(stray)
    ds.save_as(path)
    lines: list[str] = []
    import_folder(folder, tmp_path / "out", layout, None, lines.append)
    import_folder(site, tmp_path / "as-it-was", CONFIG / "site-dicom.toml", None, lambda _: None)
    (entry,) = [e for e in read_dataset(tmp_path / "out") if e.animal == "site-mouse_4"]
    before = read(tmp_path / "as-it-was" / entry.observer1)
    assert np.array_equal(read(tmp_path / "out" / entry.observer1), before)
    warnings = "\n".join(line for line in lines if line.startswith(f"WARNING {entry.scan}"))
    assert "observer1: contours of Heart: " in warnings
    assert "ContourImageSequence names another slice than the points lie on" in warnings
    assert "contours of Heart: 1 left out: ContourGeometricType POINT" in warnings
    assert "Heart is read from ROI Heart, not from heart_old" in warnings
    assert f"{len(contours)} left out, of no ROI: with ReferencedROINumber 77" in warnings


def test_one_label_of_two_classes_is_named(few, layout, tmp_path):
    """A class list gives one number to two organs; one name with two numbers is one organ."""
    path = few / "1_nativeCTdata" / "M01_0.25h" / "Organ.cls"
    text = path.read_text()
    path.write_text(text.replace("|9\n", "|1\n").replace("|Bone", "|Lung"))
    path.write_text(re.sub(r"ClassIndices=.*", "ClassIndices=0|1|2|1", path.read_text()))
    _, lines = refused_import(few, layout, tmp_path / "out")
    assert "ClassIndices 1 is that of Heart and of Lung" in bad_lines(lines)[0]
    path.write_text(text.replace("|Bone", "|Lung"))
    import_folder(few, tmp_path / "out", layout, SPLIT, lambda _: None)


def test_a_ct_that_lacks_a_slice_is_refused(site, tmp_path):
    """The node bridges such a gap and flags it; training must not learn them."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    slices = sorted((folder / "mouse_4" / "day-1" / "CT").iterdir())
    slices[len(slices) // 2].unlink()
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="1 of 2 scans"):
        import_folder(folder, tmp_path / "out", CONFIG / "site-dicom.toml", None, lines.append)
    assert "lacks 1 slices (gap:" in bad_lines(lines)[0]


def test_back_and_belly_exchanged_is_named():
    """Half a turn about the long axis of the animal: the cord lies before the heart."""
    labels = drawn()
    assert case_checks.upside_down("observer1", labels, PHANTOM_ORGANS) == []
    (message,) = case_checks.upside_down("observer1", labels[:, ::-1], PHANTOM_ORGANS)
    assert message.startswith(
        "back and belly exchanged: observer1's SpinalCord lies before the Heart"
    )


def test_a_phantom_cohort_is_imported_unchanged(tmp_path):
    """Its own split, byte-identical files, and its truth."""
    planned = Cohort(animals=2, time_points=1, contrast_animals=1, contrast_scans=1, spacing_mm=0.9)
    source, out = tmp_path / "cohort", tmp_path / "out"
    phantom_dataset.write_cohort(source, planned, workers=1)
    lines: list[str] = []
    import_folder(source, out, None, None, lines.append)
    entries = read_dataset(out)
    assert len(entries) == 3
    split_of = {visit.name: visit.animal.split for visit in planned.visits}
    assert {entry.scan: entry.split for entry in entries} == split_of
    assert {entry.fold for entry in entries if entry.split == "train"} == {"0"}
    for entry in entries:
        for name in ("ct", *dataset.LABEL_SETS):
            before = source / "scans" / entry.scan / f"{name}.nii.gz"
            assert (out / getattr(entry, name)).read_bytes() == before.read_bytes()
