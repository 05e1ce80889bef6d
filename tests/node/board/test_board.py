"""The board's pages: what they show, what a person may do, and what nobody may."""

import csv
import io
import mimetypes
import re
import time
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from limn.domain.records import ScanRecord
from limn.node.board import streams
from limn.node.board.app import Board
from limn.node.board.guard import COOKIE
from limn.node.config import load_config
from limn.node.store.disk import scanlog
from limn.node.store.disk.receiving import ReceivingSeries, write_receiving
from limn.node.store.disk.running import RunningScan, write_running
from tests.node.board.conftest import PORT, token_of, with_picture


def coming(site, animal="M1"):
    """A series that comes in."""
    series = ReceivingSeries(
        animal=animal,
        sender="CT@10.0.0.1",
        series_instance_uid="1.2",
        since_utc=datetime.now(UTC).isoformat(),
        slices=40,
        expected=200,
        waits_for="the end of its association",
        until_utc="",
    )
    write_receiving(load_config(site.config).receiving_path, [series], time.time())


def test_an_image_of_which_a_person_must_say_something_is_red(site, browser):
    """As a scan that is held is."""
    image = ReceivingSeries(
        animal="",
        sender="image /in/M7.nii",
        series_instance_uid="",
        since_utc="2026-11-30T10:00:00+00:00",
        slices=0,
        expected=None,
        waits_for="asked: a person must say which animal it is",
        until_utc="",
        light="red",
    )
    write_receiving(load_config(site.config).receiving_path, [image], time.time())
    page = browser.get("/").text
    assert '<span class="state">needs a person</span> <span class="light red">red</span>' in page
    assert "asked: a person must say which animal it is" in page
    assert "0 slices" not in page


def test_an_empty_node_says_that_it_is_stopped(browser):
    """Before anything has come."""
    page = browser.get("/")
    assert page.status_code == 200
    assert "the node is stopped" in page.text
    assert "Nothing comes in, runs or waits." in page.text


def test_the_live_page_shows_every_scan(site, browser):
    """The first slices, how far a scan is, why one is held, and what is done."""
    coming(site)
    running = site.scan(2)
    site.journal.started(running.id)
    now = time.time()
    write_running(
        load_config(site.config).running_path,
        [RunningScan(scan=running.id, stage="inference_s", share=0.43, ends_at=now + 9)],
        now,
    )
    site.contoured(3, held="mirrored image")
    done = site.contoured(4)
    for delivery in site.journal.deliveries(done.id):
        site.journal.delivered(delivery.id, "0x0000", now)
    text = " ".join(browser.get("/").text.split())
    assert "40 of 200 slices; waits for the end of its association" in text
    assert 'value="0.2"' in text
    assert "43 %" in text
    assert '<span class="stage">networks</span>' in text
    assert "contours about" in text
    assert "mirrored image" in text
    assert "tps has it since" in text
    assert text.count("data-since=") == 3


def test_each_line_says_what_a_person_does_about_it(site, browser):
    """With a link; and which destinations have a scan that another one refuses."""
    held = site.contoured(1, held="mirrored image")
    failed = site.scan(2)
    site.journal.end(failed.id, "failed", "a fault", {})
    refused = site.contoured(3)
    tps, export = site.journal.deliveries(refused.id)
    site.journal.delivered(export.id, "written", time.time())
    site.journal.refused(tps.id, "0xA700")
    page = " ".join(browser.get("/").text.split())
    assert f'href="/{held.name}">look at it, then release or discard it</a>' in page
    assert f'href="/{failed.name}">see why, then run it again or dismiss it</a>' in page
    assert f'href="/{refused.name}">see why, then send it again</a>' in page
    assert "export has it since" in page
    # The peer's answer in words, once.
    assert page.count("0xA700, out of resources") == 1
    assert "0xA700, out of resources" in browser.get(f"/{refused.name}").text


def test_no_clock_runs_for_an_animal_that_can_not_sleep_any_more(site, browser):
    """A scan that was refused five days ago has its age; one that waits has the clock."""
    now = time.time()
    old = site.scan(1, last_slice_at=now - 5 * 86400, ready_at=now - 5 * 86400)
    site.journal.end(old.id, "refused", "no HU", {})
    site.scan(2, last_slice_at=now, ready_at=now)
    page = browser.get("/").text
    assert '<td data-name="came">5 days ago</td>' in page
    assert page.count("data-since=") == 1


def test_a_scan_unlike_all_before_shows_what_its_worker_tells(site, browser):
    """And says why nobody knows how long it still runs."""
    running = site.scan(1)
    site.journal.started(running.id)
    waits = site.scan(2)
    now = time.time()
    shown = RunningScan(
        scan=running.id, stage="inference_s", share=None, ends_at=None, of_stage=0.4
    )
    queued = RunningScan(scan=waits.id, stage="queue_s", share=None, ends_at=now + 90)
    write_running(load_config(site.config).running_path, [shown, queued], now)
    page = " ".join(browser.get("/").text.split())
    assert '40 % of <span class="stage">networks</span>' in page
    assert "no scan of this size ran here with this bundle" in page
    assert page.count('class="ends" data-ends=') == 1
    assert "number 1 in the queue" in page


def test_what_others_wrote_stays_text(site, browser):
    """A PatientID, a sender, a reason and a file's name that are HTML."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    coming(site, evil)
    row = site.contoured(2, animal=evil, sender=evil, held=evil)
    with_picture(site, row)
    for page in ("/", f"/{row.name}", "/history?animal=" + evil):
        text = browser.get(page).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text


def test_a_held_scan_is_released_with_name_and_reason(site, browser):
    """Both stand in the journal; the deliveries go out."""
    row = site.contoured(1, held="mirrored image")
    with_picture(site, row)
    page = browser.get(f"/{row.name}")
    # In one place, with the way to what a person decides.
    assert page.text.count("mirrored image") == 1
    assert 'href="#acts">release or discard it</a>' in page.text
    assert f"/{row.name}/file/picture.png" in page.text
    form = {"token": token_of(page), "by": "Anna", "why": "looked at the picture"}
    answer = browser.post(f"/{row.name}/release", data=form)
    assert answer.status_code == 303
    structure_set = site.journal.structure_set_of(row.id)
    assert (structure_set.released_by, structure_set.release_why) == (
        "Anna",
        "looked at the picture",
    )
    assert site.states(row) == ["waiting", "waiting"]
    after = browser.get(answer.headers["location"]).text
    assert "release: done, by Anna" in after
    assert "send again" in after


@pytest.mark.parametrize(
    ("action", "state"), [("discard", ["discarded"] * 2), ("release", ["held"] * 2)]
)
def test_what_needs_words_is_not_done_without_them(site, browser, action, state):
    """A discard needs a reason, everything a name."""
    row = site.contoured(1, held="mirrored image")
    token = token_of(browser.get(f"/{row.name}"))
    nameless = browser.post(f"/{row.name}/{action}", data={"token": token, "by": " ", "why": "x"})
    assert (nameless.status_code, "give your name" in nameless.text) == (400, True)
    without = browser.post(f"/{row.name}/discard", data={"token": token, "by": "Anna", "why": ""})
    assert without.status_code == 409
    assert "is empty" in without.text
    assert site.states(row) == ["held", "held"]
    if action == "discard":
        form = {"token": token, "by": "Anna", "why": "wrong animal"}
        assert browser.post(f"/{row.name}/discard", data=form).status_code == 303
    assert site.states(row) == state


def test_a_failed_scan_runs_again_and_a_delivered_one_is_sent_again(site, browser):
    """As `limn retry` and `limn resend`."""
    failed = site.scan(1)
    site.journal.end(failed.id, "failed", "why", {})
    form = {"by": "Anna", "token": token_of(browser.get(f"/{failed.name}"))}
    assert browser.post(f"/{failed.name}/retry", data=form).status_code == 303
    assert site.journal.scan(failed.id).state == "ready"
    refused = browser.post(f"/{failed.name}/resend", data=form)
    assert (refused.status_code, "is not contoured yet" in refused.text) == (409, True)
    done = site.contoured(2)
    for delivery in site.journal.deliveries(done.id):
        site.journal.delivered(delivery.id, "0x0000", time.time())
    assert browser.post(f"/{done.name}/resend", data=form).status_code == 303
    assert site.states(done) == ["waiting", "waiting"]


def test_a_form_of_another_page_changes_nothing(site, browser):
    """Without the token, with another browser's, with a cookie alone, with a GET."""
    row = site.contoured(1, held="mirrored image")
    form = {"by": "Eve", "why": "x"}
    assert browser.post(f"/{row.name}/release", data=form).status_code == 403
    token = token_of(browser.get(f"/{row.name}"))
    browser.cookies.clear()
    for cookies in ({}, {COOKIE: "a" * 43}, {COOKIE: ""}):
        answer = browser.post(
            f"/{row.name}/release",
            data=form | {"token": token},
            headers={"cookie": f"{COOKIE}={cookies.get(COOKIE, '')}"},
        )
        assert answer.status_code == 403
    assert browser.get(f"/{row.name}/release").status_code in (404, 405)
    assert site.states(row) == ["held", "held"]


def test_the_cookie_stays_with_this_site(browser):
    """No script reads it, and no other site's page sends it."""
    header = browser.get("/").headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=strict" in header


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.7:8114", "localhost", "localhost:1"])
def test_another_name_than_this_computers_gets_nothing(site, browser, host):
    """A page of another site whose name was led here (DNS rebinding)."""
    site.contoured(1, held="mirrored image")
    for page in ("/", "/events", "/scan-00001", "/static/board.css"):
        answer = browser.get(page, headers={"host": host})
        assert answer.status_code == 421
        assert "M1" not in answer.text


def test_every_answer_forbids_what_a_page_does_not_need(site, browser):
    """Strict Content-Security-Policy, and no inline script or style in any page."""
    row = site.contoured(1, held="why")
    for page in ("/", "/history", f"/{row.name}", "/nothing", "/static/board.js"):
        answer = browser.get(page)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if "html" in answer.headers["content-type"]:
            assert " style=" not in answer.text
            assert not re.search(r"<script(?! src=\"/static/)", answer.text)
            assert not re.search(r"\son\w+=", answer.text)


@pytest.mark.parametrize(
    "name",
    [
        *("..%2f..%2fjournal.sqlite", "%2e%2e/limn.toml", "removed.json", "labels.npz"),
        *("../../journal.sqlite", "picture.png/../../../journal.sqlite", "%00", "RS..dcm"),
    ],
)
def test_only_the_files_of_a_scan_are_given(site, browser, name):
    """Whatever the path says."""
    row = site.contoured(1)
    folder = with_picture(site, row)
    (folder / "labels.npz").write_bytes(b"x")
    assert browser.get(f"/{row.name}/file/picture.png").headers["content-type"] == "image/png"
    assert browser.get(f"/{row.name}/file/{name}").status_code in (404, 405)


@pytest.mark.parametrize(
    "page", ["/scan-1", "/scan-00009", "/scan-0000a", "/%2e%2e", "/etc/passwd"]
)
def test_a_page_that_is_not_there(browser, page):
    """Says so."""
    assert browser.get(page).status_code in (404, 405)


def test_a_form_that_is_too_long_is_not_read(site, browser):
    """Nobody's name has a megabyte."""
    row = site.contoured(1, held="why")
    form = {"token": token_of(browser.get(f"/{row.name}")), "by": "A" * 2**20}
    assert browser.post(f"/{row.name}/release", data=form).status_code == 413


def test_so_many_pages_and_no_more_are_followed(browser, monkeypatch):
    """A thousand open streams would be a thousand tasks."""
    monkeypatch.setattr(streams, "MOST_STREAMS", 0)
    assert browser.get("/events").status_code == 503


def rows(count):
    """Rows of the scan log, as the courier writes them."""
    return [
        ScanRecord(
            scan_id=f"scan-{number:05d}",
            animal=f"M{number % 7}",
            sender=f"CT{number % 2}@10.0.0.1",
            outcome="delivered",
            last_slice_utc=f"2026-11-{1 + number % 28:02d}T10:00:00.000+00:00",
            accepted_utc="2026-11-30T10:00:10.000+00:00",
            door_to_door_s=float(number),
            light="amber" if number % 5 == 0 else "green",
            flags="light:green demo-bundle" + (" sides-unsure" if number == 7 else ""),
        )
        for number in range(1, count + 1)
    ]


def test_the_history_chooses_and_counts(site, browser):
    """By each of its fields; the CSV has the same rows as `limn log --csv`."""
    scanlog.append(site.log, *rows(20))
    whole = browser.get("/history").text
    assert "20 scans" in whole
    assert "half within 10.5 s, 95 % within 20.0 s" in whole
    for query, count in (
        ("animal=M3", 3),
        ("scanner=CT1", 10),
        ("light=amber", 4),
        ("flag=sides-unsure", 1),
        ("slower_s=18", 3),
        ("since=2026-11-15&until=2026-11-16", 2),
    ):
        shown = f"{count} scan" + ("" if count == 1 else "s")
        assert f"<p>{shown}" in browser.get(f"/history?{query}").text, query
    listed = list(csv.DictReader(io.StringIO(browser.get("/history.csv?animal=M3").text)))
    assert [row["scan_id"] for row in listed] == ["scan-00003", "scan-00010", "scan-00017"]
    assert browser.get("/history.csv").text == site.limn("log", "--csv")


@pytest.mark.parametrize("query", ["since=yesterday", "until=2026-13-01", "slower_s=fast"])
def test_a_choice_that_can_not_be_read_is_named(site, browser, query):
    """In the page, with what is expected."""
    page = browser.get(f"/history?{query}")
    assert page.status_code == 200
    assert "expected" in page.text
    assert browser.get(f"/history.csv?{query}").status_code == 400


def test_ten_thousand_scans_are_a_second(site, browser):
    """The log is followed, not read anew."""
    scanlog.append(site.log, *rows(10_000))
    browser.get("/history")
    began_s = time.perf_counter()
    assert "2000 scans" in browser.get("/history?light=amber").text
    assert "10000 scans" in browser.get("/history").text
    # Twice a second, and as much again for a busy machine.
    assert time.perf_counter() - began_s < 4.0


def test_scripts_and_styles_have_their_types_whatever_the_computer_says(site, monkeypatch):
    """A browser runs no script that a Windows registry calls plain text."""
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())
    for suffix in (".js", ".css", ".svg"):
        mimetypes.add_type("text/plain", suffix)
    board = Board(load_config(site.config), site.config, PORT)
    browser = TestClient(board.app, base_url=f"http://localhost:{PORT}")
    for name, kind in (
        ("viewer.js", "text/javascript"),
        ("board.css", "text/css"),
        ("limn.svg", "image/svg+xml"),
    ):
        assert browser.get(f"/static/{name}").headers["content-type"].split(";")[0] == kind
