"""The board in a real Chromium: it follows the node, releases a held scan, and fits a phone."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from limn.node.config import load_config
from limn.node.store.disk.running import RunningScan, write_running
from tests.node.board.conftest import with_picture
from tests.support.node.viewed import file_scan, full_record

pytestmark = [pytest.mark.slow, pytest.mark.peer]

WIDTHS = {"phone": 390, "room": 1920}


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium, driven by Playwright."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("LIMN_PEERS") == "required":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def page_of(chromium, width=1280, scheme="light"):
    """A page that fails the test for any error of its script or its policy."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, locale="en-GB"
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    return page, errors


def show(site, row, share):
    """The worker is so far with a scan."""
    now = time.time()
    scan = RunningScan(scan=row.id, stage="inference_s", share=share, ends_at=now + 9)
    write_running(load_config(site.config).running_path, [scan], now)


def test_the_live_page_follows_the_node(site, served, chromium):
    """Bar, clock and state move without a reload; a server that is gone is said."""
    page, errors = page_of(chromium)
    page.goto(served)
    page.get_by_text("Nothing comes in, runs or waits.").wait_for()
    row = site.scan(1)
    site.journal.started(row.id)
    for share in (0.25, 0.75):
        show(site, row, share)
        page.get_by_text(f"{share:.0%}".replace("%", " %")).wait_for()
    still = re.fullmatch(
        r"still about (\d+) s, contours at \d\d:\d\d:\d\d", page.locator(".ends").inner_text()
    )
    assert 4 <= int(still[1]) <= 9
    clock = page.locator(".clock[data-since]")
    first = clock.inner_text()
    page.wait_for_function(
        "text => document.querySelector('.clock').textContent !== text", arg=first
    )
    assert page.locator("progress").get_attribute("value") == "0.75"
    assert errors == []


def test_a_held_scan_is_released_in_the_browser(site, served, chromium):
    """From the live page to the scan's page, its picture, name, reason, and back."""
    row = site.contoured(1, held="the image is mirrored")
    with_picture(site, row)
    page, errors = page_of(chromium)
    page.goto(served)
    page.get_by_text("the image is mirrored").first.wait_for()
    page.get_by_role("link", name="M1").click()
    page.wait_for_function("() => document.querySelector('img.cuts')?.naturalWidth === 1")
    form = page.locator("form[action$='/release']")
    form.get_by_label("your name").fill("Anna")
    form.get_by_label("reason").fill("looked at it")
    form.get_by_role("button").click()
    page.get_by_text("release: done, by Anna").wait_for()
    assert site.journal.structure_set_of(row.id).released_by == "Anna"
    assert site.states(row) == ["waiting", "waiting"]
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_no_page_is_wider_than_the_screen(site, served, chromium, tmp_path, device, scheme):
    """On a phone and across the room; pictures of the pages stay for people to look at."""
    running = site.scan(1)
    site.journal.started(running.id)
    show(site, running, 0.43)
    why = "left and right are in doubt: look at the picture"
    held = file_scan(site, 2, held=why, record=full_record())
    folder = with_picture(site, held)
    (folder / f"RS.{site.journal.structure_set_of(held.id).sop_instance_uid}.dcm").touch()
    site.contoured(3, animal="M" * 64)
    page, errors = page_of(chromium, WIDTHS[device], scheme)
    folder = Path(os.environ.get("LIMN_SCREENSHOTS", tmp_path))
    for name, path in (("live", "/"), ("scan", f"/{held.name}"), ("history", "/history")):
        page.goto(served + path)
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, (name, wide)
        if name != "history":
            # Nor is any table cut off, or a word broken in two.
            cut = "each => each.some((one) => one.scrollWidth > one.clientWidth)"
            assert not page.locator(".wide").evaluate_all(cut), name
            heights = page.locator(".state, .light").evaluate_all(
                "each => each.map((one) => one.getClientRects().length)"
            )
            assert set(heights) == {1}, name
        page.screenshot(path=str(folder / f"{name}-{device}-{scheme}.png"), full_page=True)
    assert errors == []
