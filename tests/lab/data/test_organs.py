"""Data sets of any organs: labels and roles, what is checked, judged, scored, tabulated."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from limn.cli import main
from limn.domain.errors import ConfigWrong
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ, Role, Volume
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.formats.label_files import image_of
from limn.lab.data import case_checks
from limn.lab.data.dataset import import_folder, read_dataset
from limn.lab.data.organs import (
    ORGANS,
    PHANTOM_ORGANS,
    as_toml,
    numbered,
    organs_in,
    read_organs,
)
from limn.lab.measure.scores import Scan, observer_scores, system_scores, write_scores
from limn.lab.report.tables import write_tables
from limn.lab.trust.spoilt_dataset import dataset_set
from limn.phantom.anatomy import TRUTH_LABELS
from limn.phantom.observers import LUNGS
from limn.segment.bundle.bundle import open_bundle
from limn.segment.importing.trained import usual_clean

SHAPE = (20, 16, 24)
GRID = axial_grid(SHAPE, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
ABDOMEN = (Organ("Liver"), Organ("Kidney_R"), Organ("Kidney_L"))
LAYOUT = """
[site]
contrast = false
ct = "{animal}/{time}/ct.nii.gz"
[site.observer1]
files = "{animal}/{time}/organs.nii.gz"
labels = { Liver = 7, Kidney_R = 8, Kidney_L = 9 }
[site.observer2]
files = "{animal}/{time}/others.nii.gz"
labels = { Liver = 7, Kidneys = [8, 9] }
[joined]
Kidneys = ["Kidney_R", "Kidney_L"]
"""


def abdomen() -> np.ndarray:
    """A liver and two kidneys as a site numbers them, axes S, P, L; the right has low columns."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:18, 2:8, 6:16] = 7
    labels[2:8, 8:14, 2:7], labels[2:8, 8:14, 15:20] = 8, 9
    return labels


def write_site(folder: Path, organs: np.ndarray, others: np.ndarray | None = None) -> Path:
    """Three animals with these labels by observer 1, and by observer 2."""
    for number in range(3):
        day = folder / f"M{number}" / "day1"
        day.mkdir(parents=True)
        hu = np.where(organs > 0, 60, -50).astype(np.int16)
        hu[0, 0, 0] = number
        for name, array in (("ct", hu), ("organs", organs), ("others", others)):
            if array is not None:
                SimpleITK.WriteImage(image_of(array, GRID), str(day / f"{name}.nii.gz"))
    (folder / "layout.toml").write_text(LAYOUT)
    return folder


def imported(source: Path, out: Path, *options: str) -> int:
    """The exit status of an import by the command."""
    return main.main(
        ["lab", "import", str(source), str(out), "--layout", str(source / "layout.toml"), *options]
    )


def test_organs_are_numbered_by_their_roles_and_then_as_given():
    """The paper's four keep their numbers in any order, and both lungs as one theirs."""
    given = [Organ(name) for name in ("Lung_L", "Liver", "Heart", "SpinalCord", "Lung_R")]
    four = [name for name in given if name != "Liver"]
    assert numbered(four, None, None) == PHANTOM_ORGANS
    assert PHANTOM_ORGANS.label_of["Lungs"] == LUNGS
    five = numbered(given, None, None)
    assert dict(five.organs) == {**TRUTH_LABELS, 5: "Liver"}
    assert five.label_of["Lungs"] == 6
    assert list(five.structures) == ["Heart", "Lungs", "SpinalCord", "Liver"]
    own = numbered([Organ("Cor"), Organ("Liver")], {"heart": "Cor"}, None)
    assert own.roles == {Role.HEART: "Cor"}
    assert own.labels_of(Role.HEART, Role.CORD) == [1]
    assert not own.joined


def test_a_file_of_organs_is_read_back(tmp_path):
    """That of a data set, of a bundle, and none in the folder of an older data set."""
    made = numbered(list(ABDOMEN), None, {"Kidneys": ["Kidney_R", "Kidney_L"]})
    (tmp_path / ORGANS).write_text(as_toml(made))
    assert organs_in(tmp_path) == organs_in(tmp_path / ORGANS) == read_organs(tmp_path) == made
    assert read_organs(tmp_path / "older") == PHANTOM_ORGANS
    bundle = open_bundle(EMBEDDED_BUNDLE)
    assert organs_in(bundle.folder).organs == bundle.organs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a table [labels]"),
        ("[labels]\n1 = 'Heart'\n3 = 'Liver'\n", "1, 2, 3 ... and every organ once expected"),
        ("[labels]\n1 = 'Heart'\n2 = 'Heart'\n", "every organ once expected"),
        ("[labels]\n1 = 'a heart'\n", "without blanks"),
        ("[labels]\n1 = 'Heart'\n[roles]\ncord = 'Cord'\n", "roles.cord"),
        ("[labels]\n1 = 'Heart'\n[joined]\nBoth = ['Heart']\n", "two or more of Heart"),
        ("[labels]\n1 = 'A'\n2 = 'B'\n[joined]\nA = ['A', 'B']\n", "no organ has"),
        ("[labels]\n1 = 'A'\n2 = 'B'\n[joined]\nC = ['A', 'B']\nD = ['A', 'B']\n", "two names"),
    ],
)
def test_wrong_organs_are_refused(text, message, tmp_path):
    """The message names the file and what is wrong."""
    path = tmp_path / "organs.toml"
    path.write_text(text)
    with pytest.raises(ConfigWrong, match=re.escape(message)) as refused:
        organs_in(path)
    assert str(path) in str(refused.value)


def test_a_data_set_names_its_own_organs(tmp_path, capsys):
    """Labels of the site become 1, 2, 3; what can't be checked is said; kidneys count as one."""
    source = write_site(tmp_path / "site", abdomen(), abdomen())
    out = tmp_path / "out"
    assert imported(source, out) == 0
    said = capsys.readouterr().out
    assert "organs: 1 Liver, 2 Kidney_R, 3 Kidney_L" in said
    assert "not checked: left and right of the lungs (no lung_r and no lung_l)" in said
    assert "not checked: back and belly (no heart and no cord)" in said
    organs = read_organs(out)
    assert dict(organs.organs) == dict(enumerate(ABDOMEN, start=1))
    assert organs.structures == {"Liver": (1,), "Kidneys": (2, 3, 4)}
    entry = read_dataset(out)[0]
    first, second = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / path)))
        for path in (entry.observer1, entry.observer2)
    )
    assert np.array_equal(first, np.maximum(abdomen(), 6) - 6)
    assert np.array_equal(second, np.isin(abdomen(), (8, 9)) * 4 + (abdomen() == 7))
    again = tmp_path / "again"
    import_folder(out, again, None, None, lambda line: None)
    assert (again / ORGANS).read_bytes() == (out / ORGANS).read_bytes()


def test_labels_are_those_of_a_bundle_where_one_is_given(tmp_path):
    """A data set for a bundle has its numbers; an organ that nobody drew is refused."""
    source = write_site(tmp_path / "site", abdomen())
    wanted = tmp_path / "wanted.toml"
    text = '[labels]\n1 = "Kidney_L"\n2 = "Liver"\n3 = "Kidney_R"\n'
    wanted.write_text(text + '[joined]\nKidneys = ["Kidney_L", "Kidney_R"]\n')
    assert imported(source, tmp_path / "out", "--organs", str(wanted)) == 0
    assert read_organs(tmp_path / "out").label_of["Kidney_L"] == 1
    with pytest.raises(ConfigWrong, match=r"leave --organs out"):
        import_folder(
            tmp_path / "out",
            tmp_path / "copy",
            None,
            None,
            lambda line: None,
            EMBEDDED_BUNDLE,
        )
    wanted.write_text(text + '4 = "Spleen"\n[joined]\nKidneys = ["Kidney_L", "Kidney_R"]\n')
    with pytest.raises(ConfigWrong, match="observer1 draws no Spleen"):
        import_folder(source, tmp_path / "b", source / "layout.toml", None, print, wanted)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda a: np.where(a == 8, 9, np.where(a == 9, 8, a)), "Kidney_R lies left of Kidney_L"),
        (lambda a: a[:, :, ::-1], "Kidney_R lies left of Kidney_L"),
    ],
    ids=["exchanged", "mirrored"],
)
def test_exchanged_pairs_are_named_without_any_role(turn, message, tmp_path):
    """TG-263 ends the name of an organ of the right with _R."""
    source = write_site(tmp_path / "site", turn(abdomen()).astype(np.uint8))
    lines: list[str] = []
    with pytest.raises(ConfigWrong, match="3 of 3 scans"):
        import_folder(source, tmp_path / "out", source / "layout.toml", None, lines.append)
    assert sum(message in line for line in lines if line.startswith("BAD")) == 3


def test_another_observers_drawing_elsewhere_or_mirrored_is_named():
    """Without heart and lungs the drawings are compared as a whole."""
    organs = numbered(list(ABDOMEN), None, None)
    first = np.maximum(abdomen(), 6) - 6
    volume = Volume(np.zeros(SHAPE, np.float32), GRID)
    liver = np.where(first == 1, 1, 0).astype(np.uint8)
    apart = np.roll(liver, 10, axis=0)
    lopsided = np.zeros(SHAPE, np.uint8)
    lopsided[10:18, 2:8, 2:12] = 1
    for second, message in (
        (first, None),
        (apart, "none of them at the same place"),
        (lopsided[:, :, ::-1], "fit observer1's better when mirrored"),
    ):
        given = {"observer1": lopsided if message and "mirr" in message else first}
        faults = case_checks.misplaced_contours({**given, "observer2": second}, volume, organs)
        assert len(faults) == (message is not None)
        assert message is None or message in faults[0]


def test_a_scan_without_one_of_the_organs_teaches_no_judge(tmp_path):
    """The truth of a judge's scans has the data set's own organs and roles."""
    source = write_site(tmp_path / "site", abdomen())
    out = tmp_path / "out"
    import_folder(source, out, source / "layout.toml", None, lambda line: None)
    cases = dataset_set(out)
    assert {case.contours.parent.name for case in cases} == {f"site-M{k}-day1" for k in range(3)}
    made = next(case for case in cases if case.fault == "none").make()
    assert dict(made.truth.organs) == dict(enumerate(ABDOMEN, start=1))
    assert not made.truth.roles


def test_any_organs_are_scored_and_tabulated(tmp_path):
    """Table 1 has a line for each, Table 3 a column for each structure of the observers."""
    organs = numbered(list(ABDOMEN), None, {"Kidneys": ["Kidney_R", "Kidney_L"]})
    first = np.maximum(abdomen(), 6) - 6
    second = np.where(first > 1, 4, first).astype(np.uint8)
    rules = usual_clean(organs.organs.values(), organs.roles)
    scores = []
    for number in range(3):
        scan = Scan("test1", f"s{number}", f"a{number}")
        drawn = Labels(np.roll(first, number % 2, axis=0), GRID, organs.organs, organs.roles)
        observers = {"observer1": first, "observer2": second}
        scores += observer_scores(scan, list(observers.values()), organs.structures)
        for system in ("3d_fullres", "2d"):
            scores += system_scores(scan, system, drawn, observers, organs.structures, rules)
    write_scores(tmp_path / "scores.csv", scores)
    write_tables(tmp_path / "scores.csv", tmp_path / "out", lambda line: None)
    table1 = (tmp_path / "out" / "table1.csv").read_text()
    assert all(f"\n{organ}," in table1 for organ in ABDOMEN)
    assert "Heart" not in table1
    table3 = (tmp_path / "out" / "table3.csv").read_text().splitlines()
    assert table3[0].endswith(
        "Native CT Kidneys,Native CT Liver,Contrast-enhanced CT Kidneys,Contrast-enhanced CT Liver"
    )
    assert not any("paper" in line for line in table3)
    assert "Spinal" not in (tmp_path / "out" / "tables.md").read_text()
    assert (tmp_path / "out" / "boxplot-ci-test1.png").exists()
