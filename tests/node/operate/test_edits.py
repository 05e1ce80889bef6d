"""What an operator sees of edits, and which scans a data set may have."""

import csv
import io

import pytest

from limn.cli import main
from limn.domain.errors import ConfigWrong
from limn.node.board.edits.view import edits_page
from limn.node.operate.history.edits import COLUMNS, corrected_scans
from limn.node.store.journal.edits.rows import Change, DriftRow, EditedRoi, ReturnedState

HEART = EditedRoi(
    roi="Heart",
    organ="Heart",
    role="heart",
    came_as="Heart",
    change=Change.EDITED,
    dsc=0.912,
    hd95_mm=0.6,
    added_path_mm=34.2,
    volume_before_mm3=200.0,
    volume_mm3=190.0,
    cranial_mm=0.01,
    caudal_mm=-0.42,
    dorsal_mm=0.3,
    ventral_mm=-0.31,
    centre_dorsal_mm=0.34,
    left_mm=0.0,
    right_mm=0.0,
)
LUNG = EditedRoi(roi="Lung_L", organ="Lung_L", came_as="Lung_L", change=Change.SAME, dsc=1.0)


@pytest.fixture
def scans(site):
    """An edited scan, an accepted one, and files that belong to nobody."""
    rows = [site.contoured(1), site.contoured(2, sender="CT2@10.0.0.2")]
    journal = site.journal
    journal.enter_returned({f"{name}.dcm": 1.77e9 + k for k, name in enumerate("abcd")})
    a, b, c, _ = journal.returned_files()
    edits = {rows[0].id: [HEART, LUNG]}
    journal.measured(a.id, ReturnedState.MEASURED, "", "=Weber", "TPS 5", edits)
    journal.measured(b.id, ReturnedState.MEASURED, edits={rows[1].id: [LUNG]})
    journal.measured(c.id, ReturnedState.UNMATCHED, "of no scan")
    return rows


def test_the_edits_are_listed(site, scans, monkeypatch):
    """What was changed, where it moved, what was not measured; in words if there is no room."""
    monkeypatch.setenv("COLUMNS", "80")
    narrow = " ".join(site.limn("log", "--edits").split())
    assert f"{scans[0].name} Heart DSC 0.912, 95 % HD 0.60 mm, 34 mm of contour added" in narrow
    monkeypatch.setenv("COLUMNS", "200")
    said = site.limn("log", "--edits")
    assert "2 structure sets came back" in said
    heart = next(line for line in said.splitlines() if "Heart" in line)
    for each in (scans[0].name, "M1", "=Weber", "0.912", "0.60", "34.2", "-5.0"):
        assert each in heart
    assert heart.rstrip().endswith("caudal side 0.4 mm inwards, moved dorsally 0.3 mm")
    assert said.count("unchanged") == 1, "of the edited one; the accepted one has one line"
    accepted = next(line for line in said.splitlines() if scans[1].name in line)
    assert accepted.split()[-5:] == ["all", "accepted", "as", "it", "was"]
    assert "returned/c.dcm unmatched: of no scan" in said
    assert "returned/d.dcm waits until no scan runs" in said
    assert "DRIFT" not in said


def test_a_drift_stands_below(site, scans):
    """In the words of the health page."""
    values = {"bundle_sha256": "b", "count": 20, "first_dsc": 1.0, "last_dsc": 0.9, "p": 0.001}
    site.journal.enter_drifts([DriftRow(scanner="CT1", roi="Heart", since=5.0, **values)])
    assert "DRIFT scanner CT1, Heart: the last 20 contours" in site.limn("log", "--edits")


def test_they_are_chosen_as_scans_are(site, scans):
    """By animal, scanner and day; what only the scan log knows is refused."""
    assert "1 structure set came back" in site.limn("log", "--edits", "--animal", "M2")
    assert "1 structure set came back" in site.limn("log", "--edits", "--scanner", "CT2")
    assert "0 structure sets" in site.limn("log", "--edits", "--until", "2020-01-01")
    assert "1 structure set came back" in site.limn("log", "--edits", "--last", "1")
    assert "--edits and --light" in site.refused("log", "--edits", "--light", "red")
    assert "--edits and --without" in site.refused("log", "--edits", "--without", "cut")


def test_phantoms_of_a_commissioning_bury_nothing(site, scans):
    """They are counted, and listed where somebody asks for them."""
    row = site.contoured(3, animal="COMMISSIONING-1-a")
    (waits,) = site.journal.returned_files(ReturnedState.WAITING)
    site.journal.measured(waits.id, ReturnedState.MEASURED, edits={row.id: [LUNG]})
    said = site.limn("log", "--edits")
    assert "2 structure sets came back" in said
    assert row.name not in said
    assert '1 of phantoms that commissioned the node left out; --animal "COMMISSIONING-*"' in said
    asked = site.limn("log", "--edits", "--animal", "COMMISSIONING-*")
    assert "1 structure set came back" in asked
    assert row.name in asked
    assert row.name not in site.limn("log", "--edits", "--csv")
    page = edits_page(site.journal)
    assert [line.scan for line in page.lines] == [scans[1].name, scans[0].name]


def test_an_roi_that_is_absent_is_said_of_an_accepted_one(site, scans, monkeypatch):
    """Nobody changed what came back, and a heart did not come back."""
    monkeypatch.setenv("COLUMNS", "200")
    row = site.contoured(3, animal="M3")
    (waits,) = site.journal.returned_files(ReturnedState.WAITING)
    absent = EditedRoi(roi="Heart", organ="Heart", came_as="", change=Change.ABSENT)
    site.journal.measured(waits.id, ReturnedState.MEASURED, edits={row.id: [LUNG, absent]})
    said = site.limn("log", "--edits", "--animal", "M3")
    assert "not in the file: deleted, or never sent there" in said


def test_every_column_is_a_csv(site, scans):
    """A row for each ROI; what a spreadsheet would compute is text."""
    rows = list(csv.DictReader(io.StringIO(site.limn("log", "--edits", "--csv"))))
    assert [row["roi"] for row in rows] == ["Heart", "Lung_L", "Lung_L"]
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["editor"] == "'=Weber"
    assert (rows[0]["outcome"], rows[2]["outcome"]) == ("edited", "accepted")
    assert float(rows[0]["caudal_mm"]) == -0.42
    assert rows[1]["hd95_mm"] == ""


def test_nothing_came_back(site):
    """A new site."""
    assert "0 structure sets came back" in site.limn("log", "--edits")


def test_corrected_scans_are_for_a_data_set(site, scans):
    """The last of each scan, with where its files lie; not if the site keeps them private."""
    first, second = corrected_scans(site.config)
    assert (first.scan, first.animal, first.editor) == (scans[0].name, "M1", "=Weber")
    assert first.organs == {"Heart": "Heart", "Lung_L": "Lung_L"}
    assert first.structure_set == site.data / "returned" / "a.dcm"
    assert [path.name for path in first.slices] == ["a.dcm", "b.dcm"]
    assert (first.accepted, second.accepted, second.dsc) == (False, True, {"Lung_L": 1.0})
    with site.config.open("a") as file:
        file.write('[returned]\nkeep = "figures"\n')
    with pytest.raises(ConfigWrong, match="gives no contours that came back to a data set"):
        corrected_scans(site.config)


def test_no_phantom_of_a_commissioning_is_learnt_from(site, scans):
    """Its contours are not those of an animal."""
    row = site.contoured(3, animal="COMMISSIONING-1-a")
    (waits,) = site.journal.returned_files(ReturnedState.WAITING)
    site.journal.measured(waits.id, ReturnedState.MEASURED, edits={row.id: [LUNG]})
    assert [each.scan for each in corrected_scans(site.config)] == [each.name for each in scans]


def test_no_data_set_of_nothing(site, tmp_path, capsys):
    """By the command, with what to look at."""
    out = str(tmp_path / "out")
    assert main.main(["lab", "import", "--returned", str(site.config), out]) == 1
    assert "has come back; limn log --edits" in capsys.readouterr().err
