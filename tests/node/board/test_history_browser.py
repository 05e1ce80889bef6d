"""The history in a real Chromium: filters, CSV, print; no serious fault by axe-core."""

import os
import re
from pathlib import Path

import pytest

from limn.node.store.disk import scanlog
from tests.node.board.conftest import with_picture
from tests.node.board.test_browser import WIDTHS, chromium, page_of, show  # noqa: F401 - a fixture
from tests.node.board.test_history import record, roi
from tests.support.node.viewed import file_scan, full_record

pytestmark = [pytest.mark.slow, pytest.mark.peer]


@pytest.fixture
def past(site):
    """A site with thirty scans; the last one slow."""
    records = [record(number, 40 - number) for number in range(1, 30)]
    records.append(record(30, 2, queue_s=71.0, door_to_door_s=80.5, light="amber"))
    scanlog.append(site.log, *records)
    scanlog.append(
        scanlog.roi_table(site.log),
        *(roi(each, mean_hu=-540.0 + number) for number, each in enumerate(records)),
    )
    with_picture(site, site.contoured(1))
    return site


def test_filters_and_csv(past, served, chromium):  # noqa: F811 - a fixture
    """A person fills in the form; the file is that of the command."""
    page, errors = page_of(chromium)
    page.goto(f"{served}/history")
    page.get_by_role("link", name="7 days").click()
    page.get_by_text("in the queue 71.0 s, usually 0.50 s").first.wait_for()
    page.get_by_label("since").fill("")
    page.get_by_role("combobox", name="animal").fill("C57-1")
    page.get_by_label("apart by").select_option("scanner")
    page.get_by_role("button", name="show").click()
    page.get_by_text("10 scans; last slice").wait_for()
    assert page.locator("svg .line.group1").count() >= 2
    with page.expect_download() as download:
        page.get_by_role("link", name="all of them as CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text == past.limn("log", "--csv", "--animal", "C57-1")
    page.locator("svg a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/scan-\d+$"))
    # The journal of this test knows one scan; the others are in the log alone.
    assert [each for each in errors if "404" not in each] == []


def test_a_new_user_finds_four_things_from_the_live_page(past, served, chromium):  # noqa: F811
    """How long still and why it is held at once; the heart's place, and the slowest, by a click."""
    running = past.scan(50)
    past.journal.started(running.id)
    show(past, running, 0.4)
    with_picture(past, file_scan(past, 51, held="mirror image", record=full_record()))
    page, errors = page_of(chromium)
    page.goto(served)
    page.get_by_text(re.compile(r"still about \d+ s")).wait_for()
    assert page.get_by_text("mirror image").is_visible()
    page.get_by_role("link", name="look at it, then release or discard it").click()
    page.locator("#viewer").scroll_into_view_if_needed()
    page.get_by_text(re.compile(r"z \u2212?\d+\.\d\d mm, \d+ of 24")).wait_for()
    page.locator("#under", has_text="Heart").wait_for()
    page.get_by_role("link", name="now", exact=True).click()
    page.get_by_role("link", name="the last 7 days").click()
    slowest = page.get_by_text("Slowest:").inner_text()
    assert "scan-00030" in slowest
    assert "in the queue 71.0 s, usually 0.50 s" in slowest
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_axe_finds_no_serious_fault(past, served, chromium, tmp_path, device, scheme):  # noqa: F811
    """And no page is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    # The test puts axe.min.js into the page, which the board's policy forbids to every page.
    context = chromium.new_context(
        viewport={"width": WIDTHS[device], "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    folder = Path(os.environ.get("LIMN_SCREENSHOTS", tmp_path))
    for name, path in (
        ("past", "/history?by=cohort"),
        ("animal", "/animal?id=C57-1"),
        ("contacts", "/contacts"),
        ("scan-past", "/scan-00001"),
    ):
        page.goto(served + path)
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, (name, wide)
        if name == "past":
            # Nor is the table of scans cut off.
            fits = "one => one.scrollWidth <= one.parentElement.clientWidth"
            assert page.locator("table.scans").evaluate(fits)
        page.screenshot(path=str(folder / f"{name}-{device}-{scheme}.png"), full_page=True)
        faults = [
            (fault["id"], fault["impact"], [node["html"][:120] for node in fault["nodes"][:3]])
            for fault in axe.Axe().run(page).response["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert faults == [], name
    context.close()


def test_a_scan_on_one_sheet_of_paper(past, served, chromium):  # noqa: F811 - a fixture
    """Black on white also from a dark screen, without a button, on one A4 page."""
    why = "mirror image: left and right are exchanged in this export; look at the signs. "
    row = file_scan(past, 2, held=4 * why, record=full_record())
    with_picture(past, row)
    page, _ = page_of(chromium, 1280, "dark")
    page.goto(f"{served}/{row.name}")
    page.emulate_media(media="print")
    for gone in ("header", "form", "button"):
        assert not any(each.is_visible() for each in page.locator(gone).all()), gone
    assert page.locator("img.cuts").is_visible()
    assert page.get_by_text("SeriesInstanceUID").is_visible()
    # A sheet is as narrow as a phone, and has a table's columns nevertheless.
    page.set_viewport_size({"width": 703, "height": 1032})
    assert page.get_by_role("columnheader", name="predicted DSC").is_visible()
    rows = page.get_by_role("row", name="Lung_R").first.bounding_box()
    assert rows["height"] < 30
    colours = page.evaluate(
        "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
    )
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    pdf = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    box = [float(each) for each in re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups()]
    assert box == pytest.approx([595, 842], abs=1.5)
