"""The board's pages of contours that came back, as values, as HTML and in a real Chromium."""

import os
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from limn.node.board.edits.view import edit_marks, edits_page
from limn.node.contour.edits.drifts import drifts_of
from limn.node.store.journal.edits.rows import Change, EditedRoi, ReturnedState
from limn.node.store.journal.edits.words import picture_of
from tests.node.board.conftest import PNG
from tests.node.board.test_browser import WIDTHS, chromium, page_of  # noqa: F401 - a fixture

DAY_S = 86400.0
ORGANS = {"Heart": "heart", "SpinalCord": "cord", "Lung_L": "lung_l", "Lung_R": "lung_r"}
SERIOUS = ("serious", "critical")


def roi(name, dsc):
    """An ROI as it came back; its caudal side was moved inwards."""
    if dsc == 1.0:
        return EditedRoi(roi=name, organ=name, came_as=name, change=Change.SAME, dsc=1.0)
    return EditedRoi(
        roi=name,
        organ=name,
        role=ORGANS[name],
        came_as=name,
        change=Change.EDITED,
        dsc=dsc,
        hd95_mm=0.42,
        added_path_mm=61.0,
        volume_before_mm3=210.0,
        volume_mm3=198.0,
        caudal_mm=-0.38,
        cranial_mm=0.02,
    )


def came_back(site, number, dsc, *, editor="Weber", sender="CT-ROOM-1@192.168.1.20", day=None):
    """A scan of a day whose structure set came back, with the DSC of its first organs."""
    at = 1.77e9 + DAY_S * (number if day is None else day)
    row = site.contoured(number, sender=sender, last_slice_at=at)
    site.journal.enter_returned({f"{number}.dcm": at + 7200})
    waits = site.journal.returned_files(ReturnedState.WAITING)[-1]
    rois = [roi(name, each) for name, each in zip(ORGANS, dsc, strict=False)]
    site.journal.measured(waits.id, ReturnedState.MEASURED, "", editor, "TPS 5", {row.id: rois})
    return row


def a_year(site):
    """Two scanners; on the first the heart is corrected more and more."""
    rng = np.random.default_rng(3)
    for number in range(1, 41):
        worse = 0.09 if number > 22 else 0.0
        sender = "folder /in/M1" if number % 4 == 0 else "CT-ROOM-1@192.168.1.20"
        heart = 1.0 if rng.random() < (0.1 if worse else 0.5) else 0.95 - worse * rng.random()
        others = [1.0 if rng.random() < 0.6 else round(float(rng.normal(0.95, 0.01)), 3)] * 3
        came_back(site, number, (round(heart, 3), *others), sender=sender)
    site.journal.enter_returned({"foreign-1.dcm": 1.78e9})
    (waits,) = site.journal.returned_files(ReturnedState.WAITING)
    why = "scan-00001: PatientID 'M2', but 'M1' in the scan; never matched"
    site.journal.measured(waits.id, ReturnedState.UNMATCHED, why)
    site.journal.enter_drifts(drifts_of(site.journal.edits(), 10, {}, 5.0))


def test_the_chart_has_each_scan_at_its_place(site):
    """A line for each ROI, a dot for each edit, the newest structure set first."""
    came_back(site, 1, (1.0, 0.9), day=0)
    came_back(site, 2, (0.8, 1.0), day=2)
    came_back(site, 3, (0.95, 0.95), day=1, sender="CT2@10.0.0.9")
    page = edits_page(site.journal)
    assert page.counts == (("edited", 3),)
    first, second = page.charts
    assert first.title.startswith("CT-ROOM-1: ")
    assert second.title.startswith("CT2: ")
    assert [key.words for key in first.keys] == ["Heart", "SpinalCord"]
    assert [mark.words for mark in first.marks] == [
        "Heart, scan-00002: DSC 0.800",
        "SpinalCord, scan-00001: DSC 0.900",
    ]
    heart, cord = first.marks
    assert heart.x > cord.x
    assert heart.y > cord.y
    assert first.rows == (("Heart", "2", "0.900", "0.900"), ("SpinalCord", "2", "0.950", "0.950"))
    assert [line.scan for line in page.lines] == ["scan-00002", "scan-00003", "scan-00001"]
    assert edit_marks(site.journal, ["scan-00002", "scan-00099"]) == {
        "scan-00002": "edited: Heart 0.800"
    }


def test_the_page_says_what_was_changed(site, browser):
    """Of an edit, an accepted one, one that is nobody's, and a drift."""
    a_year(site)
    text = " ".join(browser.get("/edits").text.split())
    assert (
        "scanner CT-ROOM-1, Heart: the last 10 contours that came back were corrected more" in text
    )
    assert (
        "95 % HD 0.42 mm, 61 mm of contour added, volume -5.7 %, caudal side 0.4 mm inwards" in text
    )
    assert "1 unmatched" in text
    assert "PatientID &#39;M2&#39;, but &#39;M1&#39; in the scan; never matched" in text
    assert "watched folder" in text
    assert "/in/M1" not in text
    assert "<td>accepted</td>" in text


def test_a_page_without_any(browser):
    """It says what to do."""
    assert "None was measured yet" in browser.get("/edits").text


def test_a_scans_page_has_its_edits_and_the_picture(site, browser):
    """Who corrected it, what, and the picture, which is a file of the scan."""
    row = came_back(site, 1, (0.9, 1.0))
    folder = site.data / "scans" / row.name
    folder.mkdir(parents=True, exist_ok=True)
    name = picture_of("1.dcm")
    page = browser.get(f"/{row.name}").text
    assert "by Weber: edited" in page
    assert "<strong>unchanged</strong>: SpinalCord" in page
    assert name not in page
    (folder / name).write_bytes(PNG)
    assert f'src="/{row.name}/file/{name}"' in browser.get(f"/{row.name}").text
    answer = browser.get(f"/{row.name}/file/{name}")
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize(("device", "scheme"), [("phone", "dark"), ("room", "light")])
def test_the_page_fits_and_axe_finds_nothing_serious(
    site,
    served,
    chromium,  # noqa: F811 - the fixture comes by an import
    tmp_path,
    device,
    scheme,
):
    """On a phone and across the room, light and dark."""
    a_year(site)
    page, errors = page_of(chromium, WIDTHS[device], scheme)
    page.goto(f"{served}/edits")
    page.wait_for_load_state("load")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    folder = Path(os.environ.get("LIMN_SCREENSHOTS", tmp_path))
    page.screenshot(path=str(folder / f"edits-{device}-{scheme}.png"), full_page=True)
    found = Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in SERIOUS] == []
    page.goto(f"{served}/scan-00031")
    page.wait_for_load_state("load")
    page.screenshot(path=str(folder / f"scan-edits-{device}-{scheme}.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert errors == []
