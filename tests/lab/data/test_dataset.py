"""Data sets made of other people's folders: what comes in, and every bad case by its name."""

import gzip
import io
import math
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
from limn.domain.errors import ConfigWrong
from limn.lab.data import case_checks, dataset
from limn.lab.data.dataset import import_folder, read_dataset, refuse_leaks
from limn.lab.data.folder_layout import find_scans, read_layout
from limn.lab.phantoms import phantom_dataset
from limn.lab.phantoms.synthesize import PhantomRequest, synthesize
from limn.phantom.cohort import Cohort
from tests.conftest import REPOSITORY

CONFIG = REPOSITORY / "config"
LAYOUT, SPLIT = CONFIG / "rosenhain-zenodo.toml", CONFIG / "split-rosenhain.toml"
TIMES = ("-001h", "0.25h", "002h", "004h", "008h", "024h", "072h")
SHAPE = (16, 12, 18)


def drawn() -> np.ndarray:
    """Labels of a small animal, axes S, P, L: the larger right lung at low columns."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[4:12, 2:8, 6:12] = 1
    labels[2:14, 10, 8:10] = 2
    labels[2:14, 2:10, 0:6], labels[4:12, 2:10, 12:16] = 3, 4
    return labels


def hu(number: int) -> np.ndarray:
    """Air in the lungs, and one voxel that tells animals and days apart."""
    image = np.where(np.isin(drawn(), (3, 4)), -500, 40).astype(np.int16)
    image[0, 0, 0] = number
    return image


def stored(array_spl: np.ndarray) -> np.ndarray:
    """As the database has it, x y z: to the right, to the belly, to the head."""
    return array_spl[:, ::-1, ::-1].transpose(2, 1, 0)


def analyze(array_spl: np.ndarray, spacing_mm: float) -> dict[str, bytes]:
    """Header and image of Analyze 7.5, as the database does."""
    image = nibabel.AnalyzeImage(stored(array_spl), None)
    image.header.set_zooms((spacing_mm,) * 3)
    files = image.make_file_map({"image": io.BytesIO(), "header": io.BytesIO()})
    image.to_file_map(files)
    kinds = {"header": "hdr", "image": "img"}
    return {kinds[own]: files[own].fileobj.getvalue() for own in kinds}


def nifti(array_spl: np.ndarray, spacing_mm: float) -> bytes:
    """As somebody saved it again, the same axes under a header that does not tell them."""
    image = nibabel.Nifti1Image(stored(array_spl), np.diag([spacing_mm] * 3 + [1.0]))
    return gzip.compress(image.to_bytes())


@cache
def organs(lung: int, heart: int) -> dict[str, bytes]:
    """Every other voxel of every other slice: 0.28 mm in the same field."""
    coarse = drawn()[::2, ::2, ::2]
    labels = np.where(np.isin(coarse, (3, 4)), lung, np.where(coarse == 1, heart, 0))
    labels[0, 0, 0] = 9
    return analyze(labels.astype(np.uint8), 0.28)


@cache
def contoured() -> bytes:
    """What observers 1 and 2 drew."""
    return nifti(drawn(), 0.14)


def write_scan(folder: Path, group: str, scan: str, number: int, *, contours: bool = True) -> None:
    """A scan of the database and what three observers made of it."""
    own = folder / {"native": "1_nativeCTdata", "contrast": "2_CECTdata"}[group] / scan
    own.mkdir(parents=True)
    for suffix, contents in analyze(hu(number), 0.14).items():
        (own / f"CT140.{suffix}").write_bytes(contents)
    # Numbers differ from scan to scan, and some were drawn by two people.
    lung, heart = (4, 5) if number % 2 else (2, 1)
    name = "Organ1" if number % 3 == 0 else "Organ"
    for suffix, contents in organs(lung, heart).items():
        (own / f"{name}.{suffix}").write_bytes(contents)
    (own / f"{name}.cls").write_text(
        "ClassColors=0 0 0 255|1 1 1 255|2 2 2 255|3 3 3 255\n"
        f"ClassIndices=0|{heart}|{lung}|9\nClassNames=unclassified|Heart|Lung|Bone\n"
    )
    for observer in ("observer1", "observer2") if contours else ():
        path = folder / "zenodo" / group / observer / f"{scan}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contoured())


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The committed layout, content with few scans."""
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


def said_of(folder: Path, layout: Path, out: Path, split: Path = SPLIT) -> tuple[str, list[str]]:
    """The refusal of an import, and what was reported before it."""
    lines: list[str] = []
    with pytest.raises(ConfigWrong) as refused:
        import_folder(folder, out, layout, split, lines.append)
    assert not (out / dataset.MANIFEST).exists()
    return str(refused.value), lines


def bad_lines(lines: list[str]) -> list[str]:
    """What was named as bad."""
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
    told = capsys.readouterr().out
    assert "left out: contrast-M03--001h: not contoured by observer 1" in told
    assert "train 105 scans of 15 animals, test1 35 scans of 5 animals, test2 2 scans of 2" in told
    entries = read_dataset(out)
    assert Counter(own.split for own in entries) == {"train": 105, "test1": 35, "test2": 2}
    folds = Counter(own.fold for own in entries)
    assert folds == {"": 37} | {str(k): 21 for k in range(5)}
    for own in (entries[0], entries[77], entries[-1]):
        number = int(read(out / own.ct)[0, 0, 0])
        assert np.array_equal(read(out / own.ct), hu(number))
        assert np.array_equal(read(out / own.observer1), drawn())
        assert np.array_equal(read(out / own.observer2), drawn())
        third = np.where(np.isin(drawn(), (3, 4)), 5, np.where(drawn() == 1, 1, 0))
        assert np.array_equal(read(out / own.observer3), third)
        assert own.truth == ""
        assert own.spacing_mm == "0.14 0.14 0.14"


def test_a_split_for_other_animals_is_refused_before_anything_is_read(few, layout, tmp_path):
    """Not after an hour of reading."""
    split = tmp_path / "split.toml"
    split.write_text('test1 = ["native-M01"]\ntest2 = []\nfolds = [["native-M99"]]\n')
    said, lines = said_of(few, layout, tmp_path / "out", split)
    assert "no animal that the split trains on is here: it names native-M99; here are" in said
    assert not [line for line in lines if line.startswith("1/")]


def test_who_is_not_in_the_split_is_left_out_and_said(few, layout, tmp_path):
    """Without a word nobody is lost."""
    split = tmp_path / "split.toml"
    split.write_text('test1 = []\ntest2 = []\nfolds = [["native-M01"]]\n')
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, split, lines.append)
    assert {own.animal for own in read_dataset(tmp_path / "out")} == {"native-M01"}
    assert sum("the split does not name animal" in line for line in lines) == 3


def change(path: Path, edit) -> None:
    """Another array in the same NIfTI file."""
    image = nibabel.load(path)
    array = edit(np.asarray(image.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)


def lost(array):
    """Nobody drew the cord."""
    array[array == 2] = 0
    return array


def swapped(array):
    """The two lungs' labels exchanged."""
    return np.where(array == 3, 4, np.where(array == 4, 3, array)).astype(np.uint8)


BAD = {
    "missing label": (lost, "missing label: observer1 has no SpinalCord (2)"),
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
    """The scan, the observer and what is wrong; no manifest, and the good ones are not blamed."""
    edit, said = BAD[fault]
    change(few / "zenodo" / "native" / "observer1" / "M03_0.25h.nii.gz", edit)
    refusal, lines = said_of(few, layout, tmp_path / "out")
    assert said in bad_lines(lines)[0]
    assert bad_lines(lines)[0].startswith("BAD native-M03-0.25h: ")
    assert len(bad_lines(lines)) == 1
    assert refusal.startswith("1 of 5 scans can't be used")


def without_cord(layout):
    """Observer 1 never draws it."""
    all_four = "labels = { Heart = 1, SpinalCord = 2, Lung_R = 3, Lung_L = 4 }"
    layout.write_text(
        layout.read_text().replace(all_four, "labels = { Heart = 1, Lung_R = 3, Lung_L = 4 }")
    )


def test_an_organ_that_observer_1_never_draws_can_t_be_learnt(few, layout, tmp_path):
    """Every scan that trains is named; one that only tests does without."""
    without_cord(layout)
    refusal, lines = said_of(few, layout, tmp_path / "out")
    told = "observer1 drew no SpinalCord, and systems would learn that there is none"
    assert bad_lines(lines) == [f"BAD native-M01-{time}: {told}" for time in TIMES[:2]]
    assert "WARNING contrast-M03-024h: observer1 drew no SpinalCord; not scored there" in lines
    assert refusal.startswith("2 of 5 scans can't be used")


def test_sides_that_the_paper_kept_apart_are_told(few, layout, tmp_path):
    """A site may train on contrast-enhanced animals; it is said, at import and in the tables."""
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
    """Whoever edited the manifest."""
    out = tmp_path / "out"
    import_folder(few, out, layout, SPLIT, lambda _: None)
    path = out / dataset.MANIFEST
    path.write_text(path.read_text().replace(",train,3,", ",train,,", 1))
    with pytest.raises(ConfigWrong, match="native-M01--001h: fold '' of split 'train': mend"):
        read_dataset(out)


def test_contours_of_another_scan_are_named(few, layout, tmp_path):
    """Hearts that do not meet, and lungs that lie in muscle."""
    path = few / "zenodo" / "native" / "observer2" / "M01_-001h.nii.gz"
    change(path, lambda array: np.roll(array, 8, axis=2))
    for suffix, contents in analyze(np.full(SHAPE, 40, dtype=np.int16), 0.14).items():
        (few / "2_CECTdata" / "M03_024h" / f"CT140.{suffix}").write_bytes(contents)
    _, lines = said_of(few, layout, tmp_path / "out")
    first, second = bad_lines(lines)
    assert "observer2 drew the heart elsewhere than observer1 (DSC 0.00)" in first
    assert "observer1 does not lie on the CT: 40 HU in its lungs, 40 in its heart" in second


def test_lungs_that_were_drawn_as_one_and_mirrored_are_named(few, layout, tmp_path):
    """They have no sides to be exchanged: only observer 1's tell."""
    array = np.where(np.isin(drawn(), (3, 4)), 4, 0)[::2, ::2, ::-2].astype(np.uint8)
    array[0, 0, :2] = 5, 9
    for suffix, contents in analyze(array, 0.28).items():
        (few / "1_nativeCTdata" / "M01_0.25h" / f"Organ.{suffix}").write_bytes(contents)
    _, lines = said_of(few, layout, tmp_path / "out")
    (told,) = bad_lines(lines)
    assert told.startswith("BAD native-M01-0.25h: ")
    assert "left/right swapped: observer3's lungs fit observer1's better when mirrored" in told


def test_contours_without_a_ct_and_animals_of_the_split_that_are_not_here_are_told(
    few, layout, tmp_path
):
    """A name that somebody wrote otherwise would drop a scan without a word."""
    own = few / "zenodo" / "native" / "observer2"
    (own / "M01_0.25h.nii.gz").rename(own / "M1_0.25h.nii.gz")
    split = tmp_path / "split.toml"
    split.write_text(
        'test1 = ["native-M04"]\ntest2 = []\nfolds = [["native-M01"], ["native-M03"]]\n'
    )
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, split, lines.append)
    assert f"WARNING {own / 'M1_0.25h.nii.gz'}: no CT is here that it was drawn on" in lines
    assert "WARNING the split names animals that are not here: native-M04" in lines


def test_an_import_touches_nothing_that_it_did_not_make(few, layout, tmp_path):
    """Neither the scans that it reads nor a folder in which somebody keeps other things."""
    before = {path: path.read_bytes() for path in few.rglob("*") if path.is_file()}
    own = tmp_path / "own"
    (own / "scans" / "native-M01--001h").mkdir(parents=True)
    (own / "scans" / "native-M01--001h" / "mine.txt").write_text("mine")
    for out, said in (
        (few, "may not be"),
        (few / "out", "lie in it"),
        (tmp_path, "or hold it"),
        (own, "holds files that no import made"),
    ):
        with pytest.raises(ConfigWrong, match=said):
            import_folder(few, out, layout, SPLIT, print)
    assert {path: path.read_bytes() for path in few.rglob("*") if path.is_file()} == before
    assert (own / "scans" / "native-M01--001h" / "mine.txt").read_text() == "mine"
    with pytest.raises(ConfigWrong, match="nowhere is no folder; name the one that holds"):
        import_folder(tmp_path / "nowhere", tmp_path / "out", layout, SPLIT, print)


def test_two_imports_at_once_are_one_too_many(few, layout, tmp_path):
    """The second is told; again after the first is fine."""
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
def test_a_file_that_breaks_off_is_named(share, few, layout, tmp_path):
    """Readers fill what is missing by zeros: 0 HU is water, and 0 is no organ."""
    contours = few / "zenodo" / "native" / "observer1" / "M01_0.25h.nii.gz"
    image = few / "1_nativeCTdata" / "M03_0.25h" / "CT140.img"
    for path in (contours, image):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
    _, lines = said_of(few, layout, tmp_path / "out")
    first, second = bad_lines(lines)
    assert first.startswith(f"BAD native-M01-0.25h: observer1: {contours} can't be read")
    assert second.startswith(f"BAD native-M03-0.25h: {image} is not whole: ")
    assert f"{2 * math.prod(SHAPE)} of voxels promised; copy it again" in second


def test_numbers_that_are_not_hu_are_told(few, layout, tmp_path):
    """Stored values that somebody forgot to rescale; a person must look, for nobody can know."""
    for suffix, contents in analyze((hu(1) + 1024).astype(np.int16), 0.14).items():
        (few / "1_nativeCTdata" / "M03_0.25h" / f"CT140.{suffix}").write_bytes(contents)
    lines: list[str] = []
    import_folder(few, tmp_path / "out", layout, SPLIT, lines.append)
    told = "WARNING native-M03-0.25h: 524 HU in the lungs: are the CT's numbers Hounsfield units?"
    assert told in lines


def test_an_observer_whose_files_lie_elsewhere_is_told(few, layout, tmp_path):
    """By the pattern that nothing fits; and a split that has nobody to train on says why."""
    shutil.rmtree(few / "zenodo" / "native")
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="trains on no animal; here are contrast-M03, and one"):
        import_folder(few, tmp_path / "out", layout, None, lines.append)
    where = "zenodo/native/observer1/{animal}_{time}.nii.gz"
    assert f"WARNING nothing fits [native.observer1] files = {where}" in lines


def test_a_data_set_that_lacks_a_file_is_named(few, layout, tmp_path):
    """Somebody tidied up."""
    first = tmp_path / "first"
    import_folder(few, first, layout, SPLIT, lambda _: None)
    lost_file = first / "scans" / "native-M03-0.25h" / "observer2.nii.gz"
    lost_file.unlink()
    with pytest.raises(ConfigWrong, match=r"names scans/.*observer2\.nii\.gz, which is not there"):
        import_folder(first, tmp_path / "second", None, None, lambda _: None)


def test_a_ct_of_the_wrong_size_is_named(few, layout, tmp_path):
    """0.28 mm where 0.14 were promised, and the organs' field is another then."""
    for suffix, contents in analyze(hu(0), 0.28).items():
        (few / "1_nativeCTdata" / "M01_-001h" / f"CT140.{suffix}").write_bytes(contents)
    _, lines = said_of(few, layout, tmp_path / "out")
    assert "the CT's voxels are 0.28 x 0.28 x 0.28 mm, 0.14 expected" in bad_lines(lines)[0]
    assert "wrong grid: observer3 covers" in bad_lines(lines)[0]


def test_a_bad_scan_can_be_left_out_by_name(few, layout, tmp_path):
    """The layout says which; the others come in."""
    change(few / "zenodo" / "native" / "observer1" / "M03_0.25h.nii.gz", lost)
    layout.write_text(layout.read_text().replace("leave_out = []", 'leave_out = ["M03_0.25h"]'))
    import_folder(few, tmp_path / "out", layout, SPLIT, lambda _: None)
    assert len(read_dataset(tmp_path / "out")) == 4


def test_one_image_under_two_animals_names_is_a_leak(few, layout, tmp_path):
    """A copied folder would put an animal on both sides."""
    own = few / "1_nativeCTdata"
    for suffix in ("hdr", "img"):
        shutil.copy(own / "M01_0.25h" / f"CT140.{suffix}", own / "M03_0.25h")
    refusal, _ = said_of(few, layout, tmp_path / "out")
    assert refusal == "animals native-M01 and native-M03 have one and the same CT"


def test_an_animal_on_two_sides_is_refused_when_the_manifest_is_read(few, layout, tmp_path):
    """Whoever edited it."""
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
    """140 were promised; and a folder in which nothing fits."""
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
    """And the message says what to give."""
    with pytest.raises(ConfigWrong, match=r"give --layout, such as config/rosenhain-zenodo\.toml"):
        import_folder(few, tmp_path / "out", None, None, print)


@pytest.mark.parametrize(
    ("text", "said"),
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
            "labels = { Liver = 1 }\n",
            "'Liver': one of Heart",
        ),
        (
            "[a]\nct = '{animal}/{time}'\n[a.observer1]\nfiles = '{animal}/{time}'\n",
            "one of labels, classes, rois expected",
        ),
        (
            "[a]\nct = '{animal}/{time}'\n[a.observer1]\nfiles = '{animal}/{time}'\n"
            "labels = { Lungs = 1 }\n",
            "observer1 has both lungs as one (Lungs)",
        ),
        ("trainer = 'short'\n", "[trainer]: is no group of scans"),
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
def test_a_wrong_layout_is_refused(text, said, tmp_path):
    """With the file, the table and the key."""
    path = tmp_path / "layout.toml"
    path.write_text(text)
    with pytest.raises(ConfigWrong, match=re.escape(said)) as refused:
        read_layout(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("edge", ["nan", "inf", "-0.1"])
def test_an_edge_that_no_voxel_has_is_refused(edge, tmp_path):
    """With `nan` every size would have been the right one."""
    path = tmp_path / "layout.toml"
    path.write_text(LAYOUT.read_text().replace("spacing_mm = 0.14", f"spacing_mm = {edge}"))
    assert edge in path.read_text()
    with pytest.raises(ConfigWrong, match="spacing_mm"):
        read_layout(path)


def test_links_to_folders_are_followed_and_never_for_ever(few, layout, tmp_path):
    """Large data lies on another disk; a link to a folder above ends."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for own in few.iterdir():
        (linked / own.name).symlink_to(own, target_is_directory=True)
    (few / "1_nativeCTdata" / "up").symlink_to(few, target_is_directory=True)
    groups = read_layout(layout)
    found = [each.name for each in find_scans(linked, groups[0])]
    assert found == [each.name for each in find_scans(few, groups[0])]
    assert len(found) == 4


def test_the_committed_layouts_are_read():
    """Every key that they use is one."""
    groups = {path.name: read_layout(path) for path in (LAYOUT, CONFIG / "site-dicom.toml")}
    assert [own.name for own in groups["rosenhain-zenodo.toml"]] == ["native", "contrast"]
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
    """The committed layout reads ROIs onto the CT however the animal lies, by the header."""
    out = tmp_path / "out"
    import_folder(site, out, CONFIG / "site-dicom.toml", None, lambda _: None)
    entries = read_dataset(out)
    assert [own.animal for own in entries] == [f"site-mouse_{k}" for k in (4, 5)]
    assert Counter(own.split for own in entries) == {"train": 1, "test1": 1}
    assert (out / "split.toml").exists()
    for own in entries:
        truth = SimpleITK.ReadImage(str(site / f"{own.animal[-1]}.nii.gz"))
        ours = SimpleITK.ReadImage(str(out / own.observer1))
        there = SimpleITK.GetArrayFromImage(
            SimpleITK.Resample(truth, ours, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
        )
        found = SimpleITK.GetArrayFromImage(ours)
        for label in (1, 3, 4):
            both = ((found == label) & (there == label)).sum()
            assert 2 * both / ((found == label).sum() + (there == label).sum()) > 0.97


def test_what_file_managers_leave_beside_slices_is_passed_over(site, tmp_path):
    """A folder that somebody opened on a Mac or on Windows."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    for name in (".DS_Store", "Thumbs.db"):
        (folder / "mouse_4" / "day-1" / "CT" / name).write_bytes(b"no slice")
    import_folder(folder, tmp_path / "out", CONFIG / "site-dicom.toml", None, lambda _: None)
    assert len(read_dataset(tmp_path / "out")) == 2


def test_a_structure_set_without_an_organ_is_named(site, tmp_path):
    """With the names that it has."""
    layout = tmp_path / "layout.toml"
    layout.write_text(
        (CONFIG / "site-dicom.toml").read_text().replace('Heart = "Heart"', 'Heart = "Herz"')
    )
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="2 of 2 scans"):
        import_folder(site, tmp_path / "out", layout, None, lines.append)
    assert "no ROI for Heart: Herz expected; it has Heart, SpinalCord" in bad_lines(lines)[0]


def test_a_data_set_is_taken_over_as_it_is(few, layout, tmp_path):
    """Imported and looked at once, then studied: no layout, the same files, its own split."""
    first, second = tmp_path / "first", tmp_path / "second"
    import_folder(few, first, layout, SPLIT, lambda _: None)
    import_folder(first, second, None, None, lambda _: None)
    assert read_dataset(second) == read_dataset(first)
    for own in read_dataset(second):
        assert (second / own.ct).read_bytes() == (first / own.ct).read_bytes()
    import_folder(first, second, None, SPLIT, lambda _: None)
    other = tmp_path / "other.toml"
    other.write_text('test1 = ["native-M01"]\ntest2 = []\nfolds = [["native-M03"]]\n')
    with pytest.raises(ConfigWrong, match="imported with another split than"):
        import_folder(first, tmp_path / "third", None, other, lambda _: None)


def two_of_a_name(ds):
    """Another ROI is called like the heart."""
    ds.StructureSetROISequence[1].ROIName = " heart"


def every_second(ds):
    """Contours on every second slice, as people draw who interpolate later."""
    contours = ds.ROIContourSequence[0].ContourSequence
    heights = sorted({float(each.ContourData[2]) for each in contours})
    ds.ROIContourSequence[0].ContourSequence = [
        each for each in contours if heights.index(float(each.ContourData[2])) % 2
    ]


def open_lines(ds):
    """One contour was never closed."""
    ds.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"


def aslant(ds):
    """One contour was drawn on another plane."""
    contour = ds.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData[2] = float(contour.ContourData[2]) + 3.0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (two_of_a_name, "ROIs 1 and 2 are both called Heart"),
        (every_second, "slices from its first to its last; interpolate the others"),
        (
            open_lines,
            "contours of Heart fit no slice of the CT: 1 ContourGeometricType OPEN_PLANAR",
        ),
        (aslant, "contours of Heart fit no slice of the CT: 1 not parallel to the slices"),
    ],
)
def test_contours_that_are_not_whole_are_no_truth(fault, said, site, tmp_path):
    """Who learns from them would learn what nobody drew."""
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
    assert said in bad_lines(lines)[0]


def test_a_ct_that_lacks_a_slice_is_no_lesson(site, tmp_path):
    """The node bridges such a gap and flags it; training does not learn from what was made up."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    slices = sorted((folder / "mouse_4" / "day-1" / "CT").iterdir())
    slices[len(slices) // 2].unlink()
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="1 of 2 scans"):
        import_folder(folder, tmp_path / "out", CONFIG / "site-dicom.toml", None, lines.append)
    assert "lacks 1 slices (gap:" in bad_lines(lines)[0]


def test_back_and_belly_exchanged_is_named():
    """Half a turn about the animal's length keeps left and right lung apart, and shows here."""
    labels = drawn()
    assert case_checks.upside_down("observer1", labels) == []
    (said,) = case_checks.upside_down("observer1", labels[:, ::-1])
    assert said.startswith("back and belly exchanged: observer1's SpinalCord lies before the Heart")


def test_a_phantom_cohort_imports_as_it_is(tmp_path):
    """Its own split, its files not written again, its truth kept."""
    planned = Cohort(animals=2, time_points=1, contrast_animals=1, contrast_scans=1, spacing_mm=0.9)
    source, out = tmp_path / "cohort", tmp_path / "out"
    phantom_dataset.write_cohort(source, planned, workers=1)
    lines: list[str] = []
    import_folder(source, out, None, None, lines.append)
    entries = read_dataset(out)
    assert len(entries) == 3
    split_of = {visit.name: visit.animal.split for visit in planned.visits}
    assert {own.scan: own.split for own in entries} == split_of
    assert {own.fold for own in entries if own.split == "train"} == {"0"}
    for own in entries:
        for name in ("ct", *dataset.DRAWN):
            before = source / "scans" / own.scan / f"{name}.nii.gz"
            assert (out / getattr(own, name)).read_bytes() == before.read_bytes()
