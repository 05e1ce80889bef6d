import csv
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pydicom.uid import UID
from rich.console import Console

from limn.cli import exits, main
from limn.node.batch import here, many_folders, notes, on_node
from limn.node.batch.find_series import find_series, read_series
from limn.node.contour.job import Job, Result
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import COHORT
from tests.conftest import BUNDLE, free_port
from tests.support.node.parts import arrived, encoded, slices, structure_set, write_slices

CONFIG = """
data_dir = "data"
[model]
bundle = "{bundle}"
allow_demo_bundle = true
[engine]
wake_port = {wake}
[[destination]]
kind = "folder"
name = "tps"
folder = "tps"
"""


class Ensemble:
    """In place of the networks: records its jobs, and refuses or dies where a test wants that."""

    def __init__(self) -> None:
        self.loaded = 0
        self.jobs: list[Job] = []
        self.refused: set[str] = set()
        self.deadly: set[str] = set()

    def warm_up(self, config: object) -> "Ensemble":
        """Count the loads; there should be one."""
        del config
        self.loaded += 1
        return self

    def contour(self, job: Job, label: str, warm: object) -> Result:
        """Contour one scan."""
        del label, warm
        self.jobs.append(job)
        if job.animal in self.deadly:
            # As if the process had been killed: nothing is caught on the way out.
            raise SystemExit
        if job.animal in self.refused:
            return Result(scan=0, started_at=0.0, ended="refused", reason="RescaleSlope absent")
        return Result(
            scan=0,
            started_at=0.0,
            structure_set=encoded(structure_set(job.sop_instance_uid)),
            picture=b"\x89PNG",
            record={"runtime_s": 12.5, "heart_mm3": 100.0, "flags": "DEMO"},
            held="mirrored [image]" if job.animal == "M9" else None,
        )

    @property
    def animals(self) -> list[str]:
        """The animals of its jobs."""
        return [job.animal for job in self.jobs]


@pytest.fixture
def ensemble(monkeypatch):
    """Stand in for every network."""
    made = Ensemble()
    monkeypatch.setattr(here, "warm_up", made.warm_up)
    monkeypatch.setattr(here, "contour_here", made.contour)
    monkeypatch.setenv("COLUMNS", "300")
    return made


@pytest.fixture
def data(tmp_path):
    """A folder of series folders, two levels deep, with other files beside the slices."""
    folder = tmp_path / "data set"
    for number, place in ((1, "day 1/a"), (2, "day 1/b"), (3, "day 2/a"), (9, "day 2/b")):
        write_slices(folder / place, slices(str(number)))
    (folder / "day 1" / "a" / "notes.txt").write_text("the left mouse is bigger")
    (folder / "day 2" / "b" / "rs.dcm").write_bytes(encoded(structure_set()))
    return folder


def contour(out: Path, *folders: object, config: Path | None = None) -> int:
    """``limn contour`` as a person types it."""
    options = ["--config", str(config)] if config else ["--bundle", str(BUNDLE)]
    return main.main(["contour", *map(str, folders), "-o", str(out), *options])


def outcomes(out: Path) -> dict[str, str]:
    """The outcome in the note of each series."""
    return {
        path.parent.relative_to(out).as_posix(): json.loads(path.read_text())["outcome"]
        for path in out.rglob("limn.json")
    }


EACH = ("day 1/a", "day 1/b", "day 2/a", "day 2/b")


def test_a_folder_of_series_folders(data, ensemble, tmp_path, capsys):
    """Every series on one warm ensemble, into the same tree; the summary says what to look at."""
    out = tmp_path / "out"
    assert contour(out, data) == 0
    assert ensemble.loaded == 1
    assert ensemble.animals == ["M1", "M2", "M3", "M9"]
    assert outcomes(out) == dict.fromkeys(EACH, "contoured")
    for name in EACH:
        assert (out / name / "RS.dcm").stat().st_size > 0
        assert (out / name / "picture.png").read_bytes() == b"\x89PNG"
    rows = list(csv.DictReader((out / "cohort.csv").open()))
    assert [(row["series"], row["animal"], row["heart_mm3"]) for row in rows] == [
        ("day 1/a", "M1", "100.0"),
        ("day 1/b", "M2", "100.0"),
        ("day 2/a", "M3", "100.0"),
        ("day 2/b", "M9", "100.0"),
    ]
    said = capsys.readouterr().out
    assert "day 2/b: LOOK at picture.png: mirrored [image]\n" in said
    assert said.endswith(f"4 of 4 series contoured; table in {out}/cohort.csv\n")


def test_a_bad_series_never_stops_the_rest(data, ensemble, tmp_path, capsys):
    """Refused, two contents under one UID, a file cut short: named at the end, exit code 1."""
    ensemble.refused = {"M2"}
    twice = slices("4")
    twice[1].SOPInstanceUID = twice[0].SOPInstanceUID
    write_slices(data / "day 3", twice)
    cut = write_slices(data / "day 4", slices("5"))[3]
    cut.write_bytes(cut.read_bytes()[:-50])
    out = tmp_path / "out"
    assert contour(out, data) == exits.EXIT_WRONG
    assert ensemble.animals == ["M1", "M2", "M3", "M9", "M5"]
    assert outcomes(out)["day 1/b"] == outcomes(out)["day 3"] == "refused"
    said = capsys.readouterr().out
    assert "day 1/b: REFUSED: RescaleSlope absent\n" in said
    assert "day 3: REFUSED: SOPInstanceUID 2.25.88.4" in said
    assert f"day 4: left out {cut}: PixelData has " in said
    assert said.endswith(f"4 of 6 series contoured, 2 not; table in {out}/cohort.csv\n")


@pytest.mark.parametrize(
    "name",
    [b"M\xe4use", b"a\n\x1b[2Jb", b"n" * 251, b"[red]", "\u202e".encode()],
    ids=["no UTF-8", "control characters", "251 bytes", "markup", "right to left"],
)
def test_series_are_contoured_whatever_their_files_are_called(
    data, ensemble, tmp_path, capsys, name
):
    """Names are escaped where they are shown; the series get folders that every system takes."""
    odd = data / os.fsdecode(name)
    odd.mkdir()
    for number, ds in enumerate(slices("5")):
        (odd / os.fsdecode(name + b".%02d" % number)).write_bytes(encoded(ds))
    (odd / os.fsdecode(name + b".dcm")).write_bytes(encoded(slices("5", 30)[-1])[:-50])
    out = tmp_path / "out"
    assert contour(out, data) == 0
    assert sorted(ensemble.animals) == ["M1", "M2", "M3", "M5", "M9"]
    assert all(path.isprintable() for path in outcomes(out))
    assert len(list(csv.DictReader((out / "cohort.csv").open(newline="")))) == 5
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()
    assert "PixelData has" in said


def test_a_series_in_a_folder_of_an_odd_name_goes_to_a_node(tmp_path):
    """The journal takes no text that is no UTF-8: the odd name stands with the files' names."""
    odd = tmp_path / os.fsdecode(b"M\xe4use")
    write_slices(odd, slices("5"))
    (series,) = find_series([odd], tmp_path / "out", Console(quiet=True))
    scan = read_series(series).arrived("profile", "0" * 64)
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        row = journal.insert(scan, ())
        assert row is not None
        row = journal.scan(row.id)
    assert Path(row.folder) == tmp_path
    assert all((Path(row.folder) / name).is_file() for name in row.files)


def test_a_second_run_does_what_is_left(data, ensemble, tmp_path, capsys):
    """Done series are skipped; refused ones, new ones and changed ones run."""
    out = tmp_path / "out"
    ensemble.refused = {"M2"}
    contour(out, data)
    first = {path: path.stat().st_mtime_ns for path in out.rglob("RS.dcm")}
    ensemble.refused, ensemble.jobs = set(), []
    assert contour(out, data) == 0
    assert ensemble.animals == ["M2"]
    assert {path: path.stat().st_mtime_ns for path in first} == first
    said = capsys.readouterr().out
    assert f"4 of 4 series contoured, 3 of them before; table in {out}/cohort.csv\n" in said
    ensemble.jobs = []
    assert contour(out, data) == 0
    assert ensemble.jobs == []
    assert ensemble.loaded == 2, "nothing to do, nothing to load"
    write_slices(data / "day 3", slices("6"))
    late = slices("1", 21)[-1]
    (data / "day 1" / "a" / "late.dcm").write_bytes(encoded(late))
    (out / "day 2" / "a" / "RS.dcm").unlink()
    assert contour(out, data) == 0
    assert ensemble.animals == ["M1", "M3", "M6"]
    assert len(list(csv.DictReader((out / "cohort.csv").open()))) == 5


def test_the_same_input_gives_the_same_uids(data, ensemble, tmp_path):
    """Two runs give the same UIDs."""
    for name in ("one", "two"):
        contour(tmp_path / name, data)
    uids = [(job.sop_instance_uid, job.series_instance_uid) for job in ensemble.jobs]
    assert uids[:4] == uids[4:]
    assert len(set(uids)) == 4


def test_a_series_that_kills_limn_is_left_out_at_last(data, ensemble, tmp_path, capsys):
    """After three deaths over one series the rest runs, and the summary names that series."""
    out = tmp_path / "out"
    ensemble.deadly = {"M2"}
    for _ in range(3):
        with pytest.raises(SystemExit):
            contour(out, data)
    ensemble.jobs = []
    assert contour(out, data) == exits.EXIT_WRONG
    assert ensemble.animals == ["M3", "M9"]
    assert "day 1/b: QUARANTINED: limn died 3 times while it ran this series" in (
        capsys.readouterr().out
    )
    ensemble.deadly, ensemble.jobs = set(), []
    assert contour(out, data) == exits.EXIT_WRONG
    assert ensemble.jobs == []
    (out / "day 1" / "b" / "limn.json").unlink()
    assert contour(out, data) == 0
    assert ensemble.animals == ["M2"]


def test_ctrl_c_is_no_death(data, ensemble, tmp_path, monkeypatch):
    """However often a person stops limn, no series is left out for it."""
    out = tmp_path / "out"

    def stopped(*_: object) -> Result:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(here, "contour_here", stopped)
        for _ in range(4):
            assert contour(out, data) == 130
    assert contour(out, data) == 0
    assert len(ensemble.jobs) == 4


def test_several_folders(data, ensemble, tmp_path):
    """Each series has its folder's name; equal names get a suffix; a series runs once."""
    other = tmp_path / "elsewhere" / "a"
    write_slices(other, slices("7"))
    write_slices(tmp_path / "copy", slices("1"))
    out = tmp_path / "out"
    folders = (data / "day 1" / "a", other, data / "day 2", tmp_path / "copy")
    assert contour(out, *folders) == 0
    names = sorted(outcomes(out))
    assert sorted(ensemble.animals) == ["M1", "M3", "M7", "M9"]
    assert {"day 2/a", "day 2/b"} < set(names)
    assert len([name for name in names if name.startswith("a-")]) == 2
    assert contour(out, *folders) == 0
    assert len(ensemble.jobs) == 4


def test_the_output_may_lie_within(data, ensemble):
    """A second run does not take its own structure sets for input."""
    for _ in range(2):
        assert contour(data / "out", data) == 0
    assert len(ensemble.jobs) == 4


def test_one_folder_is_contoured_as_ever(tmp_path, monkeypatch, ensemble):
    """One series in a folder or below it: RS.dcm lies in the output folder itself."""
    asked = []
    monkeypatch.setattr(many_folders, "contour_folder", lambda *given, **_: asked.append(given[:2]))
    write_slices(tmp_path / "flat", slices("1"))
    write_slices(tmp_path / "deep" / "study" / "series", slices("1"))
    write_slices(tmp_path / "mixed", [*slices("1"), *slices("2", 21)])
    out = tmp_path / "out"
    for name in ("flat", "deep"):
        assert contour(out, tmp_path / name) == 0
    assert contour(out, tmp_path / "mixed") == 0, "contour_folder refuses it: it holds two"
    assert asked == [(tmp_path / name, out) for name in ("flat", "deep", "mixed")]
    assert ensemble.jobs == []


def test_nothing_to_contour(tmp_path, capsys):
    """The error names the wrong folder."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    out = tmp_path / "out"
    assert contour(out, tmp_path / "a", tmp_path / "b") == exits.EXIT_WRONG
    assert f"no CT image below {tmp_path}/a, {tmp_path}/b" in capsys.readouterr().err
    assert contour(out, tmp_path / "a", tmp_path / "c") == exits.EXIT_WRONG
    assert f"{tmp_path}/c is no folder" in capsys.readouterr().err


class Engine:
    """The engine of a node, as far as the journal sees it."""

    def __init__(self, folder: Path, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.config = folder / "node.toml"
        self.port = free_port()
        self.config.write_text(CONFIG.format(bundle=BUNDLE, wake=self.port))
        self.data = folder / "data"
        self.order: list[str] = []
        self.most_waiting = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Contours in the order of the journal, one at a time."""
        stopping = threading.Event()
        thread = threading.Thread(target=self._run, args=(stopping,))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
            listening.bind(("127.0.0.1", self.port))
            thread.start()
            try:
                yield
            finally:
                stopping.set()
                thread.join()

    def _run(self, stopping: threading.Event) -> None:
        with closing(Journal(self.data / "journal.sqlite")) as journal:
            while not stopping.wait(0.02):
                ready = journal.ready()
                self.most_waiting = max(self.most_waiting, len(ready))
                if not ready:
                    continue
                row = ready[0]
                self.order.append(row.animal)
                journal.started(row.id)
                if row.animal in self.ensemble.deadly:
                    journal.end(row.id, "quarantined", "the worker died 3 times", {})
                    continue
                uids = journal.structure_set_of(row.id)
                if row.animal in self.ensemble.refused:
                    journal.end(row.id, "refused", "RescaleSlope absent", {})
                    continue
                folder = self.data / "scans" / row.name
                folder.mkdir(parents=True)
                path = folder / f"RS.{uids.sop_instance_uid}.dcm"
                path.write_bytes(encoded(structure_set(uids.sop_instance_uid)))
                record = {"runtime_s": 12.5, "heart_mm3": 100.0, "contoured_at": time.time()}
                journal.contoured(row.id, str(path), record)
                (folder / "picture.png").write_bytes(b"\x89PNG")


@pytest.fixture
def engine(tmp_path, ensemble):
    """A node's engine that does not run yet."""
    return Engine(tmp_path, ensemble)


@pytest.mark.slow
def test_a_running_node_contours_them_behind_live_scans(data, engine, tmp_path, capsys):
    """Its journal has them below every live scan, with no delivery; nothing is loaded here."""
    for number in range(30, 44):
        write_slices(data / f"more {number}", slices(str(number)))
    out = tmp_path / "out"
    with closing(Journal(engine.data / "journal.sqlite")) as journal:
        live = journal.insert(arrived(animal="LIVE"), ["tps"])
        with engine.running():
            assert contour(out, data, config=engine.config) == 0
        rows = [row for row in journal.scans() if row.id != live.id]
        assert len(rows) == 18
        assert {row.priority for row in rows} == {COHORT}
        assert [journal.deliveries(row.id) for row in rows] == [[]] * 18
        assert journal.unlogged_ends("tps") == []
    assert engine.order[0] == "LIVE"
    assert engine.most_waiting <= on_node.AHEAD + 1
    assert engine.ensemble.loaded == 0
    assert set(outcomes(out).values()) == {"contoured"}
    assert (out / "day 1" / "a" / "picture.png").read_bytes() == b"\x89PNG"
    assert "18 of 18 series contoured" in capsys.readouterr().out


def test_a_node_and_this_process_go_on_where_the_other_was(data, engine, tmp_path):
    """A series that one of them contoured is done for the other; the UIDs are the same."""
    out = tmp_path / "out"
    engine.ensemble.refused = {"M3", "M9"}
    with engine.running():
        assert contour(out, data, config=engine.config) == exits.EXIT_WRONG
    by_node = outcomes(out)
    assert by_node["day 2/a"] == by_node["day 2/b"] == "refused"
    engine.ensemble.refused = {"M9"}
    assert contour(out, data, config=engine.config) == exits.EXIT_WRONG
    assert engine.ensemble.animals == ["M3", "M9"]
    engine.ensemble.refused, engine.order = set(), []
    with engine.running():
        assert contour(out, data, config=engine.config) == 0
    assert engine.order == ["M9"]
    with closing(Journal(engine.data / "journal.sqlite")) as journal:
        (m3,) = [row for row in journal.scans() if row.animal == "M3"]
        uid = journal.structure_set_of(m3.id).sop_instance_uid
    assert engine.ensemble.jobs[0].sop_instance_uid == uid


def test_a_series_that_kills_the_nodes_worker(data, engine, tmp_path, capsys):
    """Quarantined by the node: left out until a person has run the command that is printed."""
    out = tmp_path / "out"
    engine.ensemble.deadly = {"M2"}
    with engine.running():
        assert contour(out, data, config=engine.config) == exits.EXIT_WRONG
        said = capsys.readouterr().out
        command = f"limn retry --config {engine.config} scan-00002"
        assert f"day 1/b: QUARANTINED: the worker died 3 times; then: {command}\n" in said
        assert contour(out, data, config=engine.config) == exits.EXIT_WRONG
        assert engine.order.count("M2") == 1
        engine.ensemble.deadly = set()
        assert main.main([*command.split()[1:]]) == 0
        assert contour(out, data, config=engine.config) == 0


def test_a_series_that_a_lost_journal_quarantined_runs_again(data, engine, tmp_path):
    """The node has begun a new journal: no command could let the series run again."""
    out = tmp_path / "out"
    engine.ensemble.deadly = {"M2"}
    with engine.running():
        assert contour(out, data, config=engine.config) == exits.EXIT_WRONG
    for path in engine.data.glob("journal.sqlite*"):
        path.unlink()
    Journal(engine.data / "journal.sqlite").close()
    engine.ensemble.deadly = set()
    assert contour(out, data, config=engine.config) == 0
    assert engine.ensemble.animals == ["M2"]


def test_a_live_scan_of_the_same_series_is_its_own(data, engine, tmp_path):
    """Contoured for a folder, then sent to the node: the planning system gets it all the same."""
    with engine.running():
        contour(tmp_path / "out", data, config=engine.config)
    with closing(Journal(engine.data / "journal.sqlite")) as journal:
        row = journal.scans()[0]
        (digest,) = journal._db.execute("select input_digest from scan where id = 1").fetchone()
        sent = journal.insert(
            arrived(
                series_instance_uid=row.series_instance_uid,
                input_digest=digest,
                bundle_sha256=row.bundle_sha256,
            ),
            ["tps"],
        )
        assert (sent.state, sent.version) == ("ready", 1)
        uids = {journal.structure_set_of(each).sop_instance_uid for each in (row.id, sent.id)}
        assert len(uids) == 2


def test_a_full_disk_is_named(data, ensemble, tmp_path, monkeypatch, capsys):
    """The error names the file and says that the same command goes on; no traceback."""
    del ensemble

    def full(path: Path, contents: bytes) -> None:
        del contents
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(notes, "write_durably", full)
    assert contour(tmp_path / "out", data) == exits.EXIT_WRONG
    said = capsys.readouterr().err
    assert "No space left on device; mend that and give the same command again" in said


def test_uids_of_series_are_no_paths(tmp_path, ensemble):
    """Names come from folders; two series in one folder get the hash of their UID."""
    both = slices("1")
    other = slices("2", 21)
    for ds in other:
        ds.SeriesInstanceUID = UID("2.25.88.4040")
    write_slices(tmp_path / "a" / "x", both)
    for number, ds in enumerate(other):
        (tmp_path / "a" / "x" / f"other{number}.dcm").write_bytes(encoded(ds))
    out = tmp_path / "out"
    assert contour(out, tmp_path / "a") == 0
    names = sorted(outcomes(out))
    assert len(names) == 2
    assert all(name.startswith("x-") and len(name) == 10 for name in names)
    assert len(ensemble.jobs) == 2


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_what_others_link_in_the_output_is_not_written_through(data, ensemble, tmp_path):
    """The table and a picture replace a link; the file that it names stays."""
    del ensemble
    out, precious = tmp_path / "out", tmp_path / "precious"
    precious.write_bytes(b"precious")
    series = out / "day 2" / "b"
    series.mkdir(parents=True)
    for link in (out / notes.TABLE, series / "picture.png"):
        link.symlink_to(precious)
    contour(out, data)
    assert precious.read_bytes() == b"precious"
    assert not (out / notes.TABLE).is_symlink()
    assert not (series / "picture.png").is_symlink()
