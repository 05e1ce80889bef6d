"""What the viewer's script gets: planes as they hang, labels, surfaces, and what is not there."""

import json
import shutil
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import psutil
import pydicom
import pytest

from limn.node.board.app import Board
from limn.node.board.beside import usual_of
from limn.node.board.viewer import ct as ct_module
from limn.node.board.viewer import routes, viewing
from limn.node.board.viewer.header_facts import header_facts
from limn.node.board.viewer.shown_labels import ShownLabels
from limn.node.config import load_config
from limn.node.store.disk.scanlog import rows_at_end
from limn.segment.draw.picture.cuts import halves
from tests.node.board.conftest import PORT
from tests.support.node.parts import until
from tests.support.node.viewed import LIES, SHAPE_ZYX, file_scan, packed, stack, voxel_at

ROWS_COLUMNS = ((1, 2), (0, 2), (0, 1))


@pytest.fixture(autouse=True)
def closed(board):
    """No process outlives its test."""
    yield
    board.viewer.viewing.close()


def frame_of(browser, row):
    """What the script knows of a scan."""
    return browser.get(f"/{row.name}/view.json").json()


def plane_of(browser, row, frame, axis, index):
    """State, HU, labels and disagreement of a plane."""
    contents = browser.get(f"/{row.name}/plane/{axis}/{index}").content
    shape = tuple(frame["shape"][each] for each in ROWS_COLUMNS[axis])
    size, offset, parts = shape[0] * shape[1], 8, []
    for there, kind in zip((contents[0] == 1, *contents[1:3]), ("<i2", "u1", "u1"), strict=True):
        part = np.frombuffer(contents, kind, size, offset).reshape(shape) if there else None
        offset += size * np.dtype(kind).itemsize if there else 0
        parts.append(part)
    assert offset == len(contents)
    return contents[0], *parts


def whole(browser, row, frame):
    """Wait until every plane is there."""
    until(lambda: all(plane_of(browser, row, frame, axis, 0)[0] == 1 for axis in range(3)))


def point_of(frame, spl):
    """Millimetres of a voxel by head, back and left, as the script computes them."""
    zyx = [0, 0, 0]
    for axis, index in enumerate(spl):
        count = frame["shape"][axis]
        zyx[frame["axes"][axis]] = count - 1 - index if frame["flipped"][axis] else index
    steps = zyx[1] * np.array(frame["step_y"]) + zyx[2] * np.array(frame["step_x"])
    return np.array(frame["origins"][zyx[0]]) + steps


def voxel_of(frame, axis, index, row, column):
    """Indices towards head, back and left of a pixel, as planes hang."""
    spl = [0, 0, 0]
    spl[axis] = index
    spl[ROWS_COLUMNS[axis][0]] = frame["shape"][0] - 1 - row if axis else row
    spl[ROWS_COLUMNS[axis][1]] = column
    return spl


@pytest.mark.parametrize("lie", LIES)
def test_every_pixel_is_where_pydicom_has_it(site, browser, lie):
    """HU and place of pixels of all planes of stacks that lie in several ways."""
    row = file_scan(site, 1, lie)
    frame = frame_of(browser, row)
    whole(browser, row, frame)
    rng = np.random.default_rng(1)
    for axis in range(3):
        index = int(rng.integers(frame["shape"][axis]))
        _, hu, _, _ = plane_of(browser, row, frame, axis, index)
        for _ in range(3):
            at = [int(rng.integers(n)) for n in hu.shape]
            point = point_of(frame, voxel_of(frame, axis, index, *at))
            expected, place = voxel_at(site.data / "spool" / "series-1", point)
            np.testing.assert_allclose(point, place, atol=1e-6)
            assert hu[*at] == expected
        down, right = (
            point_of(frame, voxel_of(frame, axis, index, *other))
            - point_of(frame, voxel_of(frame, axis, index, 1, 1))
            for other in ((2, 1), (1, 2))
        )
        # Down is to the back or the feet; right is to the left side, or to the back.
        assert int(np.argmax(np.abs(down))) == (1 if axis == 0 else 2)
        assert (down[1] > 0) if axis == 0 else (down[2] < 0)
        assert right[1 if axis == 2 else 0] > 0


@pytest.mark.parametrize("lie", ["oblique", "sagittal stack"])
def test_labels_lie_on_their_voxels(site, browser, lie):
    """In every plane a voxel has the label of its place; so has the disagreement."""
    row = file_scan(site, 1, lie)
    frame = frame_of(browser, row)
    whole(browser, row, frame)
    volume, labels, _ = stack(lie)
    seen = 0
    for axis in range(3):
        index = frame["start"][axis]
        _, hu, found, disagreement = plane_of(browser, row, frame, axis, index)
        for label in (1, 2):
            inside = found == label
            seen += inside.sum()
            if not inside.any():
                continue
            middle = tuple(int(np.median(each)) for each in np.nonzero(inside))
            point = point_of(frame, voxel_of(frame, axis, index, *middle))
            at = np.abs(points_of(labels.grid) - point).max(axis=-1)
            z, y, x = np.unravel_index(np.argmin(at), SHAPE_ZYX)
            assert labels.labels_zyx[z, y, x] == label
            assert hu[middle] == volume.hu_zyx[z, y, x]
            there = 0 if disagreement is None else disagreement[middle]
            assert there == (150 if label == 1 and y < 13 else 0)
    assert seen > 200


def points_of(grid):
    """(z, y, x, 3) mm of every voxel's middle."""
    y, x = np.mgrid[: grid.rows, : grid.columns]
    points = np.column_stack([y.ravel(), x.ravel()]).astype(float)
    each = [grid.plane_points_xyz_mm(k, points) for k in range(grid.shape_zyx[0])]
    return np.array(each).reshape(*grid.shape_zyx, 3)


def test_the_first_planes_cut_the_first_organ_as_its_picture_does(tmp_path):
    """Where half of its voxels lie on either side, and not in the middle of its box."""
    _, labels, rungs = stack("oblique")
    labels.labels_zyx[5:23, 13, 14] = 1
    (tmp_path / "labels.npz").write_bytes(packed(labels, rungs))
    shown = ShownLabels.unpack(tmp_path / "labels.npz", tmp_path)
    wanted = halves(labels.labels_zyx, labels.organs)[labels.organs[1]]
    assert shown.middle() == wanted
    assert wanted[0] < (5 + 22) // 2


def test_a_missing_slice_is_interpolated_and_named(site, browser):
    """The planes are evenly spaced; nothing is labelled where no slice is."""
    row = file_scan(site, 1, without=(11,))
    frame = frame_of(browser, row)
    assert (frame["shape"][0], frame["missing"]) == (24, [11])
    state, hu, labels, _ = plane_of(browser, row, frame, 0, 11)
    assert (state, labels) == (1, None)
    full, _, _ = stack("oblique")
    np.testing.assert_allclose(hu, full.hu_zyx[11], atol=1)
    whole(browser, row, frame)
    np.testing.assert_array_equal(plane_of(browser, row, frame, 0, 11)[1], hu)
    coronal = plane_of(browser, row, frame, 1, 14)
    assert not coronal[2][24 - 1 - 11].any()
    assert coronal[2][24 - 1 - 12].any()


def test_a_series_in_one_file_waits_for_its_planes(site, browser):
    """An enhanced CT is decoded as a whole, by the other process alone."""
    row = file_scan(site, 1, enhanced=True)
    frame = frame_of(browser, row)
    assert plane_of(browser, row, frame, 0, 5)[0] in (1, 2)
    whole(browser, row, frame)
    full, _, _ = stack("oblique")
    np.testing.assert_array_equal(plane_of(browser, row, frame, 0, 5)[1], full.hu_zyx[5])


def test_axial_planes_need_no_other_process(site, browser, board):
    """They are decoded at once; the others say that they follow."""
    row = file_scan(site, 1)
    frame = frame_of(browser, row)
    began_s = time.perf_counter()
    (ct,) = [view.ct for view in board.viewer.viewing._views.values()]
    first = plane_of(browser, row, frame, 0, 3)
    other = plane_of(browser, row, frame, 2, 3)
    if not ct.is_written:
        assert other[0] in (1, 2)
    assert first[0] == 1
    assert time.perf_counter() - began_s < 1.0


def test_labels_alone_are_shown_once_the_slices_are_gone(site, browser):
    """Retention removed the slices: the same frame, labels, and a word on it."""
    row = file_scan(site, 1, "feet first")
    before = frame_of(browser, row)
    whole(browser, row, before)
    axial = plane_of(browser, row, before, 0, before["start"][0])
    shutil.rmtree(site.data / "spool" / "series-1")
    frame = frame_of(browser, row)
    assert frame["notes"] == ["the slices of this scan are not on disk any more"]
    for key in ("shape", "axes", "flipped", "organs", "start", "missing"):
        assert frame[key] == before[key]
    np.testing.assert_allclose(frame["origins"], before["origins"], atol=1e-6)
    alone = plane_of(browser, row, frame, 0, frame["start"][0])
    assert (alone[0], alone[1]) == (0, None)
    np.testing.assert_array_equal(alone[2], axial[2])
    shutil.rmtree(site.data / "scans" / row.name)
    assert "there are no labels on disk" in frame_of(browser, row)["nothing"]
    assert browser.get(f"/{row.name}/plane/0/0").status_code == 404


def test_a_slice_that_was_written_anew_is_shown_as_it_is(site, browser):
    """Its planes were written before; the page learns by the frame's state that they are old."""
    row = file_scan(site, 1, "feet first")
    before = frame_of(browser, row)
    whole(browser, row, before)
    path = sorted((site.data / "spool" / "series-1").glob("*.dcm"))[9]
    ds = pydicom.dcmread(path)
    ds.PixelData = (ds.pixel_array + 50).tobytes()
    ds.save_as(path)
    frame = frame_of(browser, row)
    assert frame["state"] != before["state"]
    whole(browser, row, frame)
    shown = [plane_of(browser, row, frame, 0, k)[1] for k in range(24)]
    full, _, _ = stack("feet first")
    hu = full.hu_zyx.copy()
    hu[9] += 50
    assert sorted(int(each.sum()) for each in shown) == sorted(int(each.sum()) for each in hu)
    raw = browser.get(f"/{row.name}/plane/0/9").content
    assert int.from_bytes(raw[4:8], "little") == frame["state"]


def test_a_scan_without_labels_shows_its_slices(site, browser):
    """A scan that was refused, or one from an earlier limn."""
    row = file_scan(site, 1)
    path = site.data / "scans" / row.name / "labels.npz"
    path.unlink()
    assert frame_of(browser, row)["notes"] == ["there are no labels on disk"]
    np.savez_compressed(path, box_zyx=np.ones((1, 1, 1), np.uint8), disagreement_zyx=np.ones(1))
    frame = frame_of(browser, row)
    assert "of an earlier limn" in frame["notes"][0]
    assert frame["organs"] == []
    path.write_bytes(b"PK nothing")
    assert "can't be read" in frame_of(browser, row)["notes"][0]
    assert plane_of(browser, row, frame, 0, 5)[0] == 1


@pytest.mark.parametrize("path", ["plane/3/0", "plane/0/24", "plane/1/-1", "plane/0/x"])
def test_no_other_plane_is_answered(site, browser, path):
    """Nor any of a scan that is not there."""
    row = file_scan(site, 1)
    assert browser.get(f"/{row.name}/{path}").status_code == 404
    assert browser.get("/scan-00099/plane/0/0").status_code == 404
    assert browser.get("/scan-00099/surfaces").status_code == 404


def test_surfaces_enclose_the_organs(site, browser):
    """Millimetres of the patient, closed, normals outwards, of the volume of the voxels."""
    row = file_scan(site, 1)
    contents = browser.get(f"/{row.name}/surfaces").content
    (length,) = struct.unpack_from("<I", contents)
    organs = json.loads(contents[4 : 4 + length])
    assert [(each["name"], each["colour"]) for each in organs] == [
        ("Heart", [255, 0, 0]),
        ("Lung_L", [0, 128, 255]),
    ]
    offset = 4 + length
    _, labels, _ = stack("oblique")
    voxels = points_of(labels.grid)
    for each in organs:
        points = np.frombuffer(contents, "<f4", 3 * each["points"], offset).reshape(-1, 3)
        offset += points.nbytes
        faces = np.frombuffer(contents, "<u4", 3 * each["faces"], offset).reshape(-1, 3)
        offset += faces.nbytes
        mask = labels.labels_zyx == each["label"]
        a, b, c = (points[faces[:, k]].astype(float) for k in range(3))
        volume_mm3 = float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)
        assert volume_mm3 == pytest.approx(mask.sum() * 0.5 * 0.2 * 0.3, rel=0.1)
        np.testing.assert_allclose(points.min(0), voxels[mask].min(0), atol=0.3)
        np.testing.assert_allclose(points.max(0), voxels[mask].max(0), atol=0.3)
    assert offset == len(contents)


def idle(board):
    """Nobody asked for any scan in the last seconds."""
    for view in board.viewer.viewing._views.values():
        view.asked_s -= viewing.IN_USE_S


def seen_in(folder):
    """Scans of which files lie there."""
    return sorted(path.name.rpartition("-")[0] for path in folder.iterdir())


def test_what_people_look_at_is_bounded(site, browser, board, monkeypatch):
    """In number, in bytes and in time; the files go with it."""
    folder = load_config(site.config).viewed_dir
    rows = [file_scan(site, number) for number in range(1, 6)]
    for row in rows:
        frame_of(browser, row)
        idle(board)
    assert seen_in(folder) == [row.name for row in rows[2:]]
    each_bytes = 4 * int(np.prod(SHAPE_ZYX))
    monkeypatch.setattr(viewing, "MOST_BYTES", each_bytes)
    frame_of(browser, rows[0])
    assert seen_in(folder) == [rows[0].name]
    monkeypatch.setattr(viewing, "MOST_BYTES", each_bytes - 1)
    frame = frame_of(browser, rows[1])
    assert frame["notes"] == ["this scan is too large for other planes than axial ones"]
    assert plane_of(browser, rows[1], frame, 0, 3)[0] == 1
    assert plane_of(browser, rows[1], frame, 1, 3)[0] == 0
    board.viewer.viewing.forget_idle(time.monotonic() + viewing.IDLE_S + 1)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ({"MOST_SCANS": 2}, "2 scans are being looked at, and no more can be: close one"),
        ({"MOST_BYTES": 8 * 24 * 30 * 38}, "leave no room for this one: close one"),
    ],
)
def test_a_scan_that_is_looked_at_makes_way_for_none(
    site, browser, board, monkeypatch, bound, words
):
    """Two pages more than there is room for would else open their scans by turns without an end."""
    for name, value in bound.items():
        monkeypatch.setattr(viewing, name, value)
    folder = load_config(site.config).viewed_dir
    rows = [file_scan(site, number) for number in (1, 2, 3)]
    frame = frame_of(browser, rows[0])
    frame_of(browser, rows[1])
    for path in ("view.json", "plane/0/3", "surfaces"):
        answer = browser.get(f"/{rows[2].name}/{path}")
        assert answer.status_code == 503
        assert words in answer.text
    assert seen_in(folder) == [rows[0].name, rows[1].name]
    idle(board)
    assert plane_of(browser, rows[0], frame, 0, 3)[0] == 1
    assert frame_of(browser, rows[2])["has_ct"]
    assert seen_in(folder) == [rows[0].name, rows[2].name]


def test_a_share_that_hangs_stops_no_other_page(site, served, monkeypatch):
    """Neither the live page nor the viewer of another scan, however many wait for the first."""
    hung, other = file_scan(site, 1), file_scan(site, 2)
    going = threading.Event()
    headers = ct_module.read_headers

    def read_headers(paths):
        if "series-1" in str(paths[0]):
            going.wait(30)
        return headers(paths)

    monkeypatch.setattr(ct_module, "read_headers", read_headers)
    monkeypatch.setattr(routes, "TURN_S", 0.5)
    with (
        ThreadPoolExecutor(60) as people,
        httpx.Client(base_url=served, timeout=10) as client,
        ExitStack() as stack,
    ):
        # Also if something fails: nobody waits for the end of the share.
        stack.callback(going.set)
        asked = [
            people.submit(httpx.get, f"{served}/{hung.name}/plane/0/{k % 20}", timeout=30)
            for k in range(60)
        ]
        until(lambda: any(each.done() for each in asked))
        for path in ("/", "/history", f"/{other.name}/view.json", f"/{other.name}/plane/0/3"):
            began_s = time.monotonic()
            assert client.get(path).status_code == 200, path
            assert time.monotonic() - began_s < 5
        until(lambda: sum(each.done() for each in asked) == 59)
        going.set()
        codes = [each.result().status_code for each in asked]
    assert codes.count(200) == 1, "the one that opened it"
    assert codes.count(503) == 59


def test_surfaces_are_made_once(site, browser, monkeypatch):
    """However often they are asked for; anew for other labels."""
    row = file_scan(site, 1)
    made = []
    surfaces = routes.surfaces
    monkeypatch.setattr(routes, "surfaces", lambda labels: made.append(1) or surfaces(labels))
    first, second = (browser.get(f"/{row.name}/surfaces").content for _ in range(2))
    assert first == second
    assert len(made) == 1
    (site.data / "scans" / row.name / "labels.npz").touch()
    assert browser.get(f"/{row.name}/surfaces").content == first
    assert len(made) == 2


def test_surfaces_are_made_one_at_a_time(site, served, monkeypatch):
    """Of all scans: the processors are the workers'."""
    rows = [file_scan(site, number) for number in (1, 2, 3)]
    running, most = [], []

    def slow(_):
        running.append(1)
        most.append(len(running))
        time.sleep(0.2)
        running.pop()
        return b"mesh"

    monkeypatch.setattr(routes, "surfaces", slow)
    with ThreadPoolExecutor(6) as people:
        answers = people.map(lambda row: httpx.get(f"{served}/{row.name}/surfaces"), rows * 2)
        assert {each.content for each in answers} == {b"mesh"}
    assert most == [1, 1, 1]


def test_a_writer_that_does_not_end_keeps_no_files(site, browser, board, monkeypatch, caplog):
    """A process that waits for a disk can't be killed; its scan is closed all the same."""
    frame_of(browser, file_scan(site, 1))

    def hang(self, *_, timeout):
        raise subprocess.TimeoutExpired(self.args, timeout)

    with monkeypatch.context() as hanging:
        hanging.setattr(subprocess.Popen, "communicate", hang)
        board.viewer.viewing.forget_idle(time.monotonic() + viewing.IDLE_S + 1)
    assert "does not end; a disk or a share hangs" in caplog.text
    assert list(load_config(site.config).viewed_dir.iterdir()) == []


def test_the_sweeper_goes_on_after_a_fault(site, browser, board, monkeypatch, caplog):
    """Else no scan would be closed any more; the files of each go all the same."""
    closed = []

    own = load_config(site.config).viewed_dir
    close = ct_module.Ct.close

    def fail(self):
        # Boards of other tests sweep in this process too.
        if own not in self._folder.parents:
            close(self)
            return
        closed.append(self)
        raise OSError("a fault")

    monkeypatch.setattr(viewing, "SWEEP_S", 0.01)
    with monkeypatch.context() as failing:
        failing.setattr(ct_module.Ct, "close", fail)
        for number in (1, 2):
            frame_of(browser, file_scan(site, number))
            failing.setattr(viewing, "IDLE_S", -1.0)
            until(lambda number=number: len(closed) == number)
            failing.setattr(viewing, "IDLE_S", 600.0)
    folder = load_config(site.config).viewed_dir
    until(lambda: list(folder.iterdir()) == [])
    assert "could not be closed" in caplog.text
    monkeypatch.setattr(viewing, "SWEEP_S", 15.0)
    for ct in closed:
        ct.close()


def test_what_a_killed_board_left_is_removed(site):
    """At the start of the next one."""
    config = load_config(site.config)
    (config.viewed_dir / "scan-00001-1").mkdir(parents=True)
    Board(config, site.config, PORT)
    assert not config.viewed_dir.exists()


def test_a_full_disk_is_left_to_the_node(site, browser, monkeypatch):
    """The viewer writes nothing that would make the node refuse a scan."""
    row = file_scan(site, 1)
    usage = shutil.disk_usage(site.data)
    free_bytes = load_config(site.config).receive.refuse_free_mb * 2**20
    monkeypatch.setattr(
        viewing.shutil, "disk_usage", lambda _: usage._replace(free=free_bytes), raising=True
    )
    frame = frame_of(browser, row)
    assert "too little for other planes than axial ones" in frame["notes"][0]
    assert plane_of(browser, row, frame, 0, 3)[0] == 1


def test_the_planes_are_written_at_the_lowest_priority(site, browser, board, monkeypatch):
    """And its process ends with the view."""
    row = file_scan(site, 1)
    started = []
    popen = subprocess.Popen

    def watched(*arguments, **options):
        process = popen(*arguments, **options)
        started.append(psutil.Process(process.pid))
        return process

    monkeypatch.setattr("limn.node.board.viewer.ct.subprocess.Popen", watched)
    frame = frame_of(browser, row)
    (process,) = started
    seen = []

    def nice():
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            seen.append(process.nice())
        return 19 in seen

    until(nice)
    whole(browser, row, frame)
    board.viewer.viewing.close()
    assert not process.is_running()


def test_the_usual_volumes_are_of_other_delivered_scans():
    """Of the same bundle, each scan once with its last row; too few show nothing."""

    def roi(scan, mm3, **changes):
        row = {"scan_id": scan, "roi": "Heart", "volume_mm3": mm3, "bundle": "b", "outcome": ""}
        return row | {"outcome": "delivered"} | changes

    rows = [roi(f"scan-{k:05d}", str(100.0 + k)) for k in range(21)]
    rows += [roi("scan-00000", "100.0"), roi("scan-00099", "9999")]
    rows += [roi("x", "5", bundle="other"), roi("y", "5", outcome="refused"), roi("z", "")]
    found = usual_of(rows, "b", "scan-00099")["Heart"]
    assert (found.low_mm3, found.high_mm3, found.count) == (101.0, 119.0, 21)
    assert found.holds(101.0)
    assert not found.holds(120.0)
    assert found.holds(None)
    assert usual_of(rows[:4], "b", "") == {}


def test_the_end_of_a_table_is_read_row_by_row(tmp_path):
    """Only whole rows of what is read."""
    path = tmp_path / "rois.csv"
    rows = "".join(f"3,scan-{k:05d},Heart {k}\n" for k in range(1000))
    path.write_text("schema_version,scan_id,roi\n" + rows)
    assert [row["roi"] for row in rows_at_end(path, 60)] == ["Heart 998", "Heart 999"]
    assert len(rows_at_end(path, 10**6)) == 1000


def test_the_page_has_reasons_range_and_log(site, browser):
    """Beside the lights, the volumes and at the end."""
    concern = {"light": "amber", "organ": "Heart", "reason": "the field cuts <b>Heart</b>"}
    record = {
        "bundle": "b",
        "light": "amber",
        "concerns": [concern],
        "rois": [{"roi": "Heart", "volume_mm3": 300.0, "mean_hu": 40.0, "light": "amber"}],
    }
    row = file_scan(site, 1, record=record)
    header = "schema_version,scan_id,outcome,bundle,roi,volume_mm3\n"
    rows = (f"3,scan-{90 + k:05d},delivered,b,Heart,{200 + k}\n" for k in range(9))
    (site.data / "rois.csv").write_text(header + "".join(rows))
    said = {"process": "engine", "level": "INFO", "animal": "", "series": "", "exception": ""}
    lines = (
        {"time": "2026-11-30T10:00:00.000+00:00", "scan": scan, "message": text, **said}
        for scan, text in ((row.name, "contoured in 3.0 s"), ("scan-00077", "of another"))
    )
    (site.data / "limn.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = browser.get(f"/{row.name}").text
    assert "the field cuts &lt;b&gt;Heart" in page
    assert "200.4 to 207.6" in page
    assert "outside" in page
    assert "contoured in 3.0 s" in page
    assert "of another" not in page


def test_the_page_has_facts_of_the_header(site, browser):
    """Text of others stays text; nothing is said once the slices are gone or damaged."""
    row = file_scan(site, 1)
    first = Path(row.folder, row.files[0])
    header = pydicom.dcmread(first)
    header.update(
        {"Manufacturer": "<b>Maker", "KVP": "55", "PatientPosition": "FFS", "XRayTubeCurrent": None}
    )
    header.AcquisitionDate, header.AcquisitionTime = "20261130", "191502.250"
    header.SeriesDescription = "M1 at noon"
    header.save_as(first)
    page = browser.get(f"/{row.name}").text
    for name, value in (
        ("made by", "&lt;b&gt;Maker"),
        ("tube voltage", "55 kV"),
        ("acquired", "2026-11-30 19:15"),
        ("lies", "FFS"),
        ("series", "M1 at noon"),
    ):
        assert f'<th scope="row">{name}</th><td>{value}</td>' in page
    assert "tube current" not in page
    assert "M1 at noon" not in str(header_facts(row, names_shown=False))
    first.write_bytes(first.read_bytes()[:200])
    assert header_facts(row, names_shown=True) == ()
    first.unlink()
    assert "from the header" not in browser.get(f"/{row.name}").text
