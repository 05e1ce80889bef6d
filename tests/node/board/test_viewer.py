"""The viewer in a real Chromium: planes, contours, values at the pointer, and organs in 3D."""

import base64
import io
import os
import re
import shutil

import httpx
import numpy as np
import pytest
from PIL import Image

from limn.node.board.viewer import viewing
from limn.node.board.viewer.ct import Ct
from tests.node.board.conftest import give_accounts
from tests.node.board.test_browser import WIDTHS, page_of
from tests.support.node.parts import until
from tests.support.node.viewed import LIES, file_scan, packed, stack, voxel_at

pytestmark = [pytest.mark.slow, pytest.mark.peer]

HEART, LUNG = (255, 0, 0), (0, 128, 255)


@pytest.fixture(scope="module")
def drawing():
    """Chromium with a WebGL that needs no graphics card."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("LIMN_PEERS") == "required":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"],
        )
        yield browser
        browser.close()


def opened(drawing, served, row, width=1280, scheme="light"):
    """The page of a scan once all three planes show the CT."""
    page, errors = page_of(drawing, width, scheme)
    page.goto(f"{served}/{row.name}")
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_function(
        "() => [0, 1, 2].every((axis) => "
        "document.getElementById(`plane-${axis}`).dataset.state === 'CT')"
    )
    return page, errors


def index_of(page, axis, changed_from=None):
    """The plane that a canvas shows; waits until it is another one."""
    if changed_from is not None:
        page.wait_for_function(
            "([axis, index]) => document.getElementById(`plane-${axis}`).dataset.index !== index",
            arg=[axis, str(changed_from)],
        )
    return int(page.locator(f"#plane-{axis}").get_attribute("data-index"))


def rgb_of(page, axis):
    """What a canvas shows, (row, column, 3)."""
    url = page.locator(f"#plane-{axis}").evaluate("canvas => canvas.toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return np.array(picture.convert("RGB")).astype(int)


def coloured(page, axis, colour):
    """Pixels of nearly a colour."""
    return int((np.abs(rgb_of(page, axis) - np.array(colour)).max(axis=-1) < 30).sum())


def frames(page, count=3):
    """Wait until the page was drawn again."""
    for _ in range(count):
        page.evaluate("new Promise((done) => requestAnimationFrame(done))")


def test_wheel_keys_and_slider_change_the_plane(site, served, drawing):
    """The pixels change with it, and come back with it."""
    row = file_scan(site, 1)
    page, errors = opened(drawing, served, row)
    first = index_of(page, 0)
    before = rgb_of(page, 0)
    place = page.locator("#place-0").inner_text()
    assert re.fullmatch(rf"z \u2212?\d+\.\d\d mm, {first + 1} of 24", place)
    assert place.split()[1] == page.locator("#under").inner_text().split()[6]
    page.locator("#plane-0").hover()
    page.mouse.wheel(0, 100)
    assert index_of(page, 0, first) == first - 2
    assert page.locator("#place-0").inner_text().endswith(f" mm, {first - 1} of 24")
    assert np.abs(rgb_of(page, 0) - before).max() > 20
    page.locator("#plane-0").press("ArrowUp")
    page.locator("#plane-0").press("ArrowUp")
    page.wait_for_function(
        "index => document.getElementById('plane-0').dataset.index === index", arg=str(first)
    )
    np.testing.assert_array_equal(rgb_of(page, 0), before)
    page.locator("#plane-0").press("PageDown")
    assert index_of(page, 0, first) == first - 10
    second, third = index_of(page, 1), index_of(page, 2)
    page.locator("#plane-2").press("End")
    assert index_of(page, 2, third) == 37
    page.locator("#at-1").fill("3")
    assert index_of(page, 1, second) == 3
    assert errors == []


def test_a_click_moves_the_other_planes(site, served, drawing):
    """From the axial plane to the others, and a drag goes on."""
    row = file_scan(site, 1)
    page, errors = opened(drawing, served, row)
    page.locator("#plane-0").scroll_into_view_if_needed()
    box = page.locator("#plane-0").bounding_box()
    before = index_of(page, 1), index_of(page, 2)
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.62 * box["height"])
    page.mouse.down()
    after = index_of(page, 1, before[0]), index_of(page, 2, before[1])
    # 30 rows of 0.2 mm and 38 columns of 0.3 mm: the plane is 11.4 mm wide and 6 mm high.
    assert after == (int((0.5 * 6 + 0.12 * 11.4) / 0.2), int(0.25 * 38))
    page.mouse.move(box["x"] + 0.51 * box["width"], box["y"] + 0.62 * box["height"])
    page.mouse.up()
    assert index_of(page, 2, after[1]) == 19
    assert errors == []


def test_organs_window_and_disagreement(site, served, drawing):
    """A contour goes with its box; a preset changes the greys; the folds' disagreement is shown."""
    row = file_scan(site, 1)
    page, errors = opened(drawing, served, row)
    page.get_by_label("crosshair", exact=True).uncheck()
    frames(page)
    for axis in range(3):
        assert coloured(page, axis, HEART) > 30
    page.get_by_label("Heart").uncheck()
    frames(page)
    for axis in range(3):
        assert coloured(page, axis, HEART) == 0
    assert coloured(page, 0, LUNG) > 30
    plain = rgb_of(page, 0)
    page.get_by_label("where the folds disagree").check()
    frames(page)
    tinted = np.abs(rgb_of(page, 0) - plain).max(axis=-1) > 30
    assert tinted.any()
    red, green, blue = (rgb_of(page, 0)[tinted].mean(axis=0)[k] for k in range(3))
    assert min(red, blue) > green + 60
    page.get_by_label("where the folds disagree").uncheck()
    page.get_by_role("button", name="bone").click()
    frames(page)
    assert np.abs(rgb_of(page, 0) - plain).mean() > 5
    assert page.get_by_role("button", name="bone").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="whole range").click()
    assert float(page.get_by_label("from HU").input_value()) < -400
    page.locator("#plane-0").scroll_into_view_if_needed()
    box = page.locator("#plane-0").bounding_box()
    wide = float(page.get_by_label("to HU").input_value())
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 150, box["y"] + 100)
    page.mouse.up(button="right")
    assert float(page.get_by_label("to HU").input_value()) == wide + 200
    assert errors == []


@pytest.mark.parametrize("lie", LIES)
def test_the_pointer_reads_what_pydicom_reads(site, served, drawing, lie):
    """HU and millimetres in every plane of stacks that lie in several ways."""
    row = file_scan(site, 1, lie)
    page, errors = opened(drawing, served, row)
    for axis in range(3):
        canvas = page.locator(f"#plane-{axis}")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        for across, down in ((0.5, 0.5), (0.4, 0.55), (0.6, 0.48)):
            x, y = box["x"] + across * box["width"], box["y"] + down * box["height"]
            page.mouse.move(x, y)
            frames(page)
            text = page.locator("#under").inner_text().replace("\u2212", "-")
            found = re.match(r"x (\S+) y (\S+) z (\S+) mm\s+\u00b7\s+(\S+) HU", text)
            assert found, text
            point = np.array(found.groups()[:3], float)
            hu, place = voxel_at(site.data / "spool" / "series-1", point)
            np.testing.assert_allclose(point, place, atol=0.0051)
            assert float(found[4]) == hu
            shown = page.locator("#under").inner_text()
            assert ("Heart" in shown) + ("Lung_L" in shown) + ("no organ" in shown) == 1
    assert errors == []


def test_organs_in_3d_turn(site, served, drawing):
    """By keys and pointer, with letters; one that is not shown is gone there too."""
    row = file_scan(site, 1)
    page, errors = opened(drawing, served, row)
    page.get_by_role("button", name="organs in 3D").click()
    canvas = page.locator("#surfaces canvas").first
    canvas.wait_for()
    page.wait_for_function(
        "() => document.querySelector('#surfaces canvas').dataset.yaw === '0.000'"
    )
    canvas.scroll_into_view_if_needed()

    def shown():
        frames(page)
        picture = Image.open(io.BytesIO(page.locator("#surfaces").screenshot()))
        return np.array(picture.convert("RGB")).astype(int)

    front = shown()
    red = (front[..., 0] > 100) & (front[..., 2] < 60)
    blue = (front[..., 2] > 100) & (front[..., 0] < 60)
    assert min(red.sum(), blue.sum()) > 500
    # Seen from the front the left lung is at the viewer's right.
    assert np.nonzero(blue)[1].mean() > np.nonzero(red)[1].mean() + 30
    for _ in range(12):
        canvas.press("ArrowRight")
    side = shown()
    assert np.abs(side - front).max() > 100
    # From the animal's right side the heart hides a part of the lung.
    nearer = (side[..., 2] > 100) & (side[..., 0] < 60)
    assert nearer.sum() < 0.9 * blue.sum()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + 130)
    page.mouse.up()
    assert np.abs(shown() - side).max() > 100
    canvas.press("Home")
    assert np.abs(shown() - front).mean() < 0.5
    page.get_by_label("Heart").uncheck()
    left = shown()
    assert ((left[..., 0] > 100) & (left[..., 2] < 60)).sum() < 20
    assert errors == []


def test_labels_alone(site, served, drawing):
    """Without slices the contours are drawn, and the page says why there is no CT."""
    row = file_scan(site, 1)
    shutil.rmtree(site.data / "spool" / "series-1")
    page, errors = page_of(drawing)
    page.goto(f"{served}/{row.name}")
    page.get_by_text("the slices of this scan are not on disk any more").wait_for()
    page.wait_for_function(
        "() => document.getElementById('plane-2').dataset.state === 'labels alone'"
    )
    assert coloured(page, 2, HEART) > 30
    page.locator("#plane-0").hover()
    assert "no HU" in page.locator("#under").inner_text()
    assert errors == []


def asked_for(page, words):
    """Addresses with these words that a page asks for from now on."""
    found = []
    page.on("request", lambda request: found.append(request.url) if words in request.url else None)
    return found


def test_nothing_is_read_before_the_viewer_is_seen(site, served, drawing):
    """A page that is opened for its table costs the node no slice."""
    row = file_scan(site, 1)
    Image.new("RGB", (900, 3000)).save(site.data / "scans" / row.name / "picture.png")
    page, errors = page_of(drawing)
    asked = asked_for(page, "/view.json")
    page.goto(f"{served}/{row.name}")
    page.wait_for_load_state("networkidle")
    frames(page)
    assert asked == []
    page.locator("#viewer").scroll_into_view_if_needed()
    page.locator("#plane-0[data-state=CT]").wait_for()
    assert len(asked) == 1
    assert errors == []


def test_planes_that_do_not_come_are_asked_for_ever_more_rarely(site, served, drawing, monkeypatch):
    """After growing pauses, and not at each drawing."""
    monkeypatch.setattr(Ct, "write", lambda _: None)
    page, errors = page_of(drawing)
    asked = asked_for(page, "/plane/1/")
    page.goto(f"{served}/{file_scan(site, 1).name}")
    page.locator("#plane-1[data-state=coming]").wait_for()
    page.wait_for_timeout(3000)
    # Seven planes, and the one that is shown after 0.25, 0.6, 1.2, 2.0 and 3.3 s.
    assert 10 <= len(asked) < 20
    for _ in range(30):
        page.get_by_role("button", name="bone").click()
        page.get_by_role("button", name="lung", exact=True).click()
    # The 25th would come after a minute.
    assert len(asked) < 25
    assert errors == []


def test_the_page_says_that_others_are_looked_at(site, served, drawing, monkeypatch):
    """And gets in once nobody asks for one of them."""
    rows = [file_scan(site, number) for number in range(1, 5)]
    for row in rows[:3]:
        assert httpx.get(f"{served}/{row.name}/view.json").status_code == 200
    page, errors = page_of(drawing)
    page.goto(f"{served}/{rows[3].name}")
    page.get_by_text("3 scans are being looked at, and no more can be: close one").wait_for()
    monkeypatch.setattr(viewing, "IN_USE_S", 0.0)
    page.locator("#plane-0[data-state=CT]").wait_for()
    # Chromium says each answer of 503 in its console.
    assert [each for each in errors if "503" not in each] == []


def test_the_viewer_of_an_ended_session_goes_to_the_sign_in(site, served, drawing):
    """It does not say that the board is away."""
    page, errors = opened(drawing, served, file_scan(site, 1))
    give_accounts(site)
    page.locator("#plane-0").press("PageDown")
    page.get_by_role("heading", name="Sign in").wait_for()
    assert [each for each in errors if "401" not in each] == []


def test_contours_come_without_a_reload(site, served, drawing):
    """A page that was opened while its scan was contoured."""
    row = file_scan(site, 1)
    path = site.data / "scans" / row.name / "labels.npz"
    labels = path.read_bytes()
    path.unlink()
    page, errors = opened(drawing, served, row)
    assert page.get_by_label("Heart").count() == 0
    path.write_bytes(labels)
    page.get_by_label("Heart").wait_for()
    frames(page)
    page.wait_for_function("() => document.getElementById('notes').children.length === 0")
    assert errors == []


def test_no_plane_of_earlier_contours_is_shown_beside_new_ones(site, served, drawing):
    """The scan was contoured again while its page was open: planes that were seen come anew."""
    row = file_scan(site, 1)
    page, errors = opened(drawing, served, row)
    assert coloured(page, 0, HEART) > 0
    index = index_of(page, 0)
    page.locator("#plane-0").press("ArrowDown")
    index_of(page, 0, index)
    _, labels, rungs = stack("oblique")
    labels.labels_zyx[labels.labels_zyx == 1] = 0
    (site.data / "scans" / row.name / "labels.npz").write_bytes(packed(labels, rungs))
    # Far away, so that a plane is asked for; then back to one that was seen.
    page.locator("#plane-0").press("PageDown")
    page.get_by_text("the scan's files changed while this page was open").wait_for()
    page.locator("#plane-0").press("PageUp")
    page.locator("#plane-0[data-index='10'][data-state=CT]").wait_for()
    until(lambda: [coloured(page, axis, HEART) for axis in range(3)] == [0, 0, 0])
    frames(page, 30)
    assert [coloured(page, axis, HEART) for axis in range(3)] == [0, 0, 0]
    assert coloured(page, 0, LUNG) > 0
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_the_viewer_fits_and_is_accessible(site, served, drawing, tmp_path, device, scheme):
    """On a phone and across the room: nothing is too wide, and axe finds no serious fault."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    concern = {"light": "amber", "organ": "Heart", "reason": "the field of view cuts Heart"}
    record = {
        "light": "amber",
        "bundle": "phantom-7",
        "concerns": [concern],
        "rois": [{"roi": "Heart", "volume_mm3": 21.2, "mean_hu": 40.0, "light": "amber"}],
    }
    row = file_scan(site, 1, held="left and right are in doubt", record=record)
    header = "schema_version,scan_id,outcome,bundle,roi,volume_mm3\n"
    rows = (f"3,scan-{90 + k:05d},delivered,phantom-7,Heart,{22 + k}\n" for k in range(9))
    (site.data / "rois.csv").write_text(header + "".join(rows))
    page, errors = opened(drawing, served, row, WIDTHS[device], scheme)
    page.get_by_role("button", name="organs in 3D").click()
    page.wait_for_function(
        "() => document.querySelector('#surfaces canvas').dataset.yaw === '0.000'"
    )
    frames(page)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0
    folder = os.environ.get("LIMN_SCREENSHOTS", tmp_path)
    page.screenshot(path=f"{folder}/viewer-{device}-{scheme}.png", full_page=True)
    assert errors == []
    # What axe puts into the page the policy would stop.
    context = drawing.new_context(
        viewport={"width": WIDTHS[device], "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(f"{served}/{row.name}")
    page.get_by_label("Heart").wait_for()
    found = axe.Axe().run(page).response["violations"]
    bad = [
        (each["id"], [node["target"] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert bad == []
