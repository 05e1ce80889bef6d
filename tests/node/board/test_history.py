"""The pages of the history: charts' values, an animal, pictures, who has looked."""

import io
import re
import struct
from datetime import UTC, datetime, timedelta
from zlib import compress, crc32

import pytest
from PIL import Image

from limn.domain.records import RoiRecord, ScanRecord
from limn.node.board.history import thumbnails as thumbnails_module
from limn.node.board.history.charts import frame_of, stacked
from limn.node.board.history.thumbnails import SIDE, Thumbnails
from limn.node.board.history.view import Shown, history_of
from limn.node.operate.history.choice import Choice
from limn.node.operate.history.scans import Part, logged_scan
from limn.node.operate.history.summary import Usual
from limn.node.store.disk import scanlog
from tests.node.board.conftest import with_picture
from tests.node.board.test_board import token_of

STAGES = {"settle_s": 2.0, "queue_s": 0.5, "inference_s": 5.0, "read_s": 2.0, "deliver_s": 0.5}
TODAY = datetime.now(UTC)


def record(number, days_ago=0.0, **changes):
    """A delivered scan of some days ago."""
    values = {
        "scan_id": f"scan-{number:05d}",
        "animal": f"C57-{number % 3}",
        "sender": f"CT{number % 2}@10.0.0.1",
        "outcome": "delivered",
        "last_slice_utc": (TODAY - timedelta(days=days_ago)).isoformat(timespec="milliseconds"),
        "accepted_utc": TODAY.isoformat(timespec="milliseconds"),
        "bundle": "phantom-7",
        "light": "green",
        "flags": "light:green",
        "door_to_door_s": 10.0,
        **STAGES,
    }
    return ScanRecord(**(values | changes))


def roi(of, name="Lung_L", role="lung_l", **changes):
    """An ROI of a scan."""
    values = {
        **{key: getattr(of, key) for key in ("scan_id", "animal", "outcome", "last_slice_utc")},
        **{"roi": name, "role": role, "volume_mm3": 150.0, "mean_hu": -520.0, "light": "green"},
    }
    return RoiRecord(**(values | changes))


def scans_of(site, *records):
    """Scans of the site's log as values."""
    scanlog.append(site.log, *records)
    return [logged_scan(row) for row in scanlog.rows(site.log)]


def test_last_weeks_slowest_scan_and_why(site, browser):
    """One click from the history's page, in words."""
    scanlog.append(
        site.log,
        record(1, 20, queue_s=300.0, door_to_door_s=309.5),
        *(record(number, 6 - number / 4) for number in range(2, 22)),
        record(22, 3, queue_s=71.0, door_to_door_s=80.5),
    )
    page = browser.get("/history").text
    query = re.search(r'the last <a href="(/history\?[^"]+)">7 days', page)[1]
    week = " ".join(browser.get(query.replace("&amp;", "&")).text.split())
    assert "21 scans" in week
    said = re.search(r'<p class="said">(.*?)</p>', week)[1]
    assert "scan-00022" in said
    assert "<strong>80.5 s</strong>: in the queue 71.0 s, usually 0.50 s" in said
    assert "slow: in the queue 71.0 s, usually 0.50 s" in week
    assert "networks 5.00 s, as usual" in week
    slowest = browser.get("/history?sort=slowest").text
    assert slowest.index('<a href="/scan-00022">', slowest.index("<tbody><tr><th")) > 0
    assert re.findall(r'<th scope="row"><a href="/(scan-\d+)">', slowest)[:2] == [
        "scan-00001",
        "scan-00022",
    ]


def test_the_charts_follow_the_choice(site):
    """Points, p50 and p95 where the values lie; the parts add up; the table has the same."""
    records = [
        record(number, 30 - number, door_to_door_s=10.0 + number % 2) for number in range(1, 21)
    ]
    scans = scans_of(site, *records, record(21, 1, light="red", door_to_door_s=90.0))
    found = history_of(scans, Usual(scans), Choice(), Shown())
    times, parts = found.charts
    assert "each day" in times.title
    assert [key.words for key in times.keys] == ["green", "red", "half of a day", "95 % of a day"]
    assert sum(each.path.count("M") for each in times.dots) == 21
    assert times.rows[0] == (records[0].last_slice_utc[:10], "1", "11.00", "11.00", "11.00")
    slowest = times.marks[0]
    assert (slowest.href, slowest.words) == (
        "/scan-00021",
        f"scan-00021, animal {scans[-1].animal}: 90.0 s",
    )
    assert slowest.y == min(mark.y for mark in times.marks)
    heights = [bar.height for bar in parts.bars[: len(Part)]]
    assert heights[2] / sum(heights) == pytest.approx(0.5, abs=0.01), "the networks took half"
    assert parts.rows[0][2:] == ("2.00", "0.50", "5.00", "2.00", "0.50", "0")
    few = history_of(scans, Usual(scans), Choice(light="red"), Shown(what="queue_s"))
    assert few.charts[0].rows[0][1:] == ("1", "0.50", "0.50", "0.50")
    assert "In the queue of each scan" in few.charts[0].title


def test_lines_apart_by_scanner_and_cohort(site):
    """A pair of lines for each of the largest six, the others in the table."""
    scans = scans_of(
        site,
        *(
            record(number, 30 - number, animal=f"{'ABCDEFGH'[number % 8]}-1")
            for number in range(24)
        ),
    )
    two = history_of(scans, Usual(scans), Choice(), Shown(by="scanner"))
    assert [group.name for group in two.groups] == ["CT0", "CT1"]
    assert len(two.charts[0].lines) == 4
    many = history_of(scans, Usual(scans), Choice(), Shown(by="cohort"))
    assert [group.name for group in many.groups] == list("ABCDEFGH")
    assert len(many.charts[0].lines) == 12
    assert many.charts[0].keys[-2].words == "and 2 more, in the table"


def test_axes_have_round_numbers_and_hold_every_value():
    """Linear, logarithmic, of one value, of none."""
    frame = frame_of([0.0, 1e6], [3.0, 9.0], size=(720.0, 300.0))
    assert not frame.log
    assert [tick.label for tick in frame.y_ticks()] == ["4", "6", "8"]
    log = frame_of([0.0, 1e6], [0.3, 500.0], size=(720.0, 300.0))
    assert log.log
    labels = [tick.label for tick in log.y_ticks()]
    assert labels == ["0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500"]
    assert 0.0 < log.y(500.0) < log.y(0.3) < 300.0
    assert log.y(0.0) == log.y(log.low), "nothing lies on the axis"
    for values in ([7.0], [0.0, 0.0], []):
        alone = frame_of([1e9] * bool(values), values, size=(720.0, 300.0))
        assert alone.y_ticks()
        for value in values:
            assert 0.0 <= alone.y(value) <= 300.0
    assert len(frame.dots("", [(5.0, 5.0)] * 1000).path.split("M")) == 2, "one dot for one place"
    bars = list(stacked(frame, 0.0, 1e6, {"a": 4.0, "b": 2.0}, lambda css, value: f"{css} {value}"))
    assert bars[1].y + bars[1].height == pytest.approx(bars[0].y, abs=0.02)
    assert [bar.words for bar in bars] == ["a 4.0", "b 2.0"]


def test_time_has_a_few_ticks():
    """Of an hour, a week, a year and ten years."""
    for days in (0.04, 7, 365, 3650):
        frame = frame_of([1.7e9, 1.7e9 + days * 86400], [1.0], size=(720.0, 300.0))
        ticks = frame.x_ticks()
        assert 1 <= len(ticks) <= 9, days
        assert len({tick.label for tick in ticks}) == len(ticks)


def test_an_animals_page(site, browser):
    """Volumes, lung density and pictures; another animal's stay away."""
    first, second = record(3, 9), record(6, 2)
    scanlog.append(site.log, first, record(4, 5), second)
    scanlog.append(
        scanlog.roi_table(site.log),
        roi(first, mean_hu=-530.0),
        roi(first, "Heart", "heart", volume_mm3=188.0),
        roi(record(4, 5), volume_mm3=999.0),
        roi(second, mean_hu=-480.0, volume_mm3=161.5),
    )
    with_picture(site, site.scan(1, series_instance_uid="2.25.4"))
    page = browser.get("/animal?id=C57-0").text
    assert "2 scans in the log" in page
    assert "Lung density over time: mean HU" in page
    assert 'aria-label="Lung_L, scan-00006: -480.0 HU"' in page
    assert "Heart: volume" in page
    assert '<td class="number">161.5</td>' in page
    assert "999.0" not in page
    assert "no picture" in page
    missing = browser.get("/animal?id=<b>x")
    assert (missing.status_code, "<b>x" in missing.text) == (404, False)


def test_pictures_of_chosen_scans(site, browser, monkeypatch):
    """Newest first, a page at a time, by the same choice."""
    monkeypatch.setattr("limn.node.board.history.pages.SHEET", 4)
    scanlog.append(site.log, *(record(number, 30 - number) for number in range(1, 11)))
    with_picture(site, site.scan(1))
    shown = [
        re.findall(r'<li><a href="/(scan-\d+)">', browser.get(f"/contacts{query}").text)
        for query in ("", "?page=3", "?animal=C57-1", "?page=x", "?page=" + "9" * 5000)
    ]
    assert shown[0] == [f"scan-{number:05d}" for number in (10, 9, 8, 7)]
    assert shown[1] == ["scan-00002", "scan-00001"]
    assert shown[2] == [f"scan-{number:05d}" for number in (10, 7, 4, 1)]
    assert (shown[3], shown[4]) == (shown[0], [])
    last = browser.get("/contacts?page=3").text
    assert '<img src="/thumbnail/scan-00001"' in last
    assert "page=2" in last
    assert "expected" in browser.get("/contacts?light=blue").text


def test_a_small_picture(site, browser):
    """Made of the scan's own; nothing else is read, whatever the path says."""
    row = site.scan(1)
    folder = with_picture(site, row)
    Image.new("RGB", (1500, 825), "white").save(folder / "picture.png")
    answer = browser.get(f"/thumbnail/{row.name}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (SIDE, 264)
    (folder / "picture.png").write_bytes(b"no picture")
    for name in (row.name, "scan-00009", "scan-x", "%2e%2e%2fx", "scan-1%2f..", "scan-٣"):
        assert browser.get(f"/thumbnail/{name}").status_code == 404, name


def png(*chunks):
    """A PNG of these chunks, each a kind and its contents."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(contents))
        + kind
        + contents
        + struct.pack(">I", crc32(kind + contents))
        for kind, contents in chunks
    )


def header(side):
    """The first chunk of a square grey picture."""
    return b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "contents",
    [
        # Pillow calls it a bomb, a value that is wrong, and a file that is broken.
        png(header(60_000), (b"IDAT", b"")),
        png(header(4), (b"iCCP", b"name\0\0" + compress(b"a" * 2**21)), (b"IDAT", b"")),
        png(header(4), (b"IDAT", b"nothing")),
        png((b"IHDR", b"")),
    ],
    ids=["bomb", "long text", "no data", "no header"],
)
def test_a_damaged_picture_is_not_there(site, browser, contents):
    """Whatever the decoder says of it; the board itself has no fault then."""
    row = site.scan(1)
    (with_picture(site, row) / "picture.png").write_bytes(contents)
    assert browser.get(f"/thumbnail/{row.name}").status_code == 404


def test_a_small_picture_follows_no_link(site, browser, tmp_path):
    """As the whole one does not."""
    row = site.scan(1)
    folder = with_picture(site, row)
    Image.new("RGB", (40, 30)).save(tmp_path / "other.png")
    (folder / "picture.png").unlink()
    (folder / "picture.png").symlink_to(tmp_path / "other.png")
    assert browser.get(f"/{row.name}/file/picture.png").status_code == 404
    assert browser.get(f"/thumbnail/{row.name}").status_code == 404


def test_so_many_small_pictures_are_kept(tmp_path, monkeypatch):
    """Each made once; the one that nobody looked at for longest is let go."""
    monkeypatch.setattr(thumbnails_module, "MOST", 2)
    made = []
    small = thumbnails_module._small
    monkeypatch.setattr(
        thumbnails_module, "_small", lambda path: made.append(path.name) or small(path)
    )
    for name in "abc":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    kept = Thumbnails()
    for name in "abacabc":
        kept.of(tmp_path / f"{name}.png")
    assert made == ["a.png", "b.png", "c.png", "b.png", "c.png"]
    monkeypatch.setattr(thumbnails_module, "MOST_PIXELS", 1000)
    with pytest.raises(OSError, match="40 x 30"):
        Thumbnails().of(tmp_path / "a.png")


def test_a_person_has_looked(site, browser):
    """With a name, on the scan's page, in the history and in `limn log`; every look stays."""
    row = site.contoured(1)
    scanlog.append(site.log, record(1))
    form = {"token": token_of(browser.get(f"/{row.name}"))}
    assert browser.post(f"/{row.name}/look", data=form | {"by": "  "}).status_code == 400
    assert browser.post(f"/{row.name}/look", data=form | {"by": "???"}).status_code == 409
    for by in ("Anna", "<b>Ben"):
        assert browser.post(f"/{row.name}/look", data=form | {"by": by}).status_code == 303
    assert browser.post("/scan-00009/look", data=form | {"by": "Anna"}).status_code == 409
    page = browser.get(f"/{row.name}").text
    assert re.search(r"looked at by Anna, \d{4}-\d\d-\d\d [\d:]+ UTC; &lt;b&gt;Ben", page)
    assert " by Anna, " in browser.get("/history").text
    log = site.limn("log")
    assert re.search(r"scan-00001 looked at by Anna, .* UTC, by <b>Ben, ", log)
    assert "Anna" not in site.limn("log", "--csv"), "the columns stay as they are"


@pytest.mark.parametrize(
    "query", ["what=weather", "by=moon", "sort=x", "light=blue", "since=20260101"]
)
def test_what_can_not_be_shown_is_named(site, browser, query):
    """And the page is there."""
    scanlog.append(site.log, record(1))
    page = browser.get(f"/history?{query}")
    assert page.status_code == 200
    assert " expected" in page.text
    assert "0 scans" in page.text


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("animal=C57-*&since=2026-01-01", ("--animal", "C57-*", "--since", "2026-01-01")),
        ("scanner=CT1&light=green", ("--scanner", "CT1", "--light", "green")),
        ("slower_s=10.5", ("--slower-than", "10.5")),
        ("flag=cut&until=2030-01-01", ("--flag", "cut", "--until", "2030-01-01")),
        ("bundle=phantom-7", ("--bundle", "phantom-7")),
    ],
)
def test_board_and_command_choose_alike(site, browser, query, options):
    """The CSV is that of `limn log --csv` to the last byte, whatever stands in the log."""
    scanlog.append(
        site.log,
        *(
            record(number, 30 - number % 7, door_to_door_s=9.0 + number % 3)
            for number in range(1, 9)
        ),
        record(9, 2, animal='=1+1 "x"', reason="two\nlines", flags="cut:Lung_L"),
    )
    with site.log.open("ab") as log:
        log.write(b'3,scan-00010,1,"cut off')
    answer = browser.get(f"/history.csv?{query}")
    assert answer.text == site.limn("log", "--csv", *options)
    assert 1 < answer.text.count("\n") < 12
