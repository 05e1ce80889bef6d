"""A cohort on disk: whole scans, resumable runs, one cohort per folder."""

import csv
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from filelock import FileLock

from limn.cli.main import main
from limn.domain.errors import ConfigWrong, StageFailed
from limn.lab.phantoms.phantom_dataset import FILES, MANIFEST, UNFINISHED, manifest, write_cohort
from limn.lab.train.recipe import Recipe
from limn.phantom.cohort import Cohort, image

pytestmark = pytest.mark.slow

SMALL = Cohort(animals=2, time_points=2, contrast_animals=1, contrast_scans=1, spacing_mm=0.9)
OPTIONS = ["--animals", "2", "--time-points", "2", "--contrast-animals", "1"]
OPTIONS += ["--contrast-scans", "1", "--spacing", "0.9"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small cohort, written by two processes."""
    folder = tmp_path_factory.mktemp("cohort")
    assert write_cohort(folder, SMALL, workers=2) == 5
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the manifest."""
    with (folder / MANIFEST).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def times(folder: Path) -> dict[Path, int]:
    """The time of writing of each file."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}


def test_no_seed_is_one_of_training():
    """In no cohort is the seed of an animal or of a scan a seed of training."""
    recipe = Recipe()
    trained = {recipe.first_seed + k for k in range(recipe.phantoms)}
    trained |= {recipe.first_stem_seed + k for k in range(recipe.stem_phantoms)}
    for seed in range(5):
        used = {s for v in Cohort(seed=seed).visits for s in (v.seed, v.animal.seed)}
        assert not used & trained


def test_the_manifest_names_every_scan_and_its_files(made):
    """Splits by animal, files that exist, and the field of view of the scans."""
    found = rows(made)
    assert found == list(manifest(SMALL))
    assert [(r["scan"], r["split"], r["contrast"]) for r in found] == [
        ("native-00-t0", "train", "no"),
        ("native-00-t1", "train", "no"),
        ("native-01-t0", "test1", "no"),
        ("native-01-t1", "test1", "no"),
        ("contrast-00-t0", "test2", "yes"),
    ]
    for row in found:
        for name in FILES:
            read = SimpleITK.ReadImage(str(made / row[name]))
            assert read.GetSpacing() == pytest.approx([float(row["spacing_mm"])] * 3)
            assert " ".join(str(n) for n in read.GetSize()[::-1]) == row["voxels_zyx"]
            middle = read.TransformContinuousIndexToPhysicalPoint(
                [(n - 1) / 2 for n in read.GetSize()]
            )
            assert middle == pytest.approx(
                [float(mm) for mm in row["centre_xyz_mm"].split()], abs=0.002
            )
    assert not (made / UNFINISHED).exists()
    assert not list(made.rglob("*.part*"))


def test_files_hold_the_phantom(made):
    """HU rounded to whole numbers and the unchanged truth, whichever process wrote them."""
    visit = SMALL.visits[3]
    volume, truth = image(SMALL, visit)
    folder = made / "scans" / visit.name

    def stored(name):
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{name}.nii.gz")))

    np.testing.assert_array_equal(stored("ct"), volume.hu_zyx)
    np.testing.assert_array_equal(stored("truth"), truth.labels_zyx)
    assert stored("ct").dtype == np.int16
    assert set(np.unique(stored("observer3"))) <= {0, 1, 5}


def test_what_is_finished_is_kept(made):
    """A second run writes nothing; a scan that was removed is written again, bit for bit."""
    before = times(made)
    assert write_cohort(made, SMALL) == 0
    assert times(made) == before
    removed = made / "scans" / "native-01-t0"
    old = {path.name: path.read_bytes() for path in removed.iterdir()}
    for path in removed.iterdir():
        path.unlink()
    removed.rmdir()
    (made / MANIFEST).rename(made / UNFINISHED)
    reports = []
    assert write_cohort(made, SMALL, workers=1, report=lambda *line: reports.append(line)) == 1
    assert reports == [("native-01-t0", 5, 5)]
    assert {p: t for p, t in times(made).items() if p.parent != removed} == {
        p: t for p, t in before.items() if p.parent != removed
    }
    assert {path.name: path.read_bytes() for path in removed.iterdir()} == old


def test_half_a_scan_is_no_scan(tmp_path, monkeypatch):
    """A disk that fills up leaves neither half a scan nor a manifest."""
    whole = SimpleITK.WriteImage
    written = []

    def full(picture, path, **options):
        written.append(path)
        if len(written) == 8:
            Path(path).write_bytes(b"half")
            msg = "No space left on device"
            raise RuntimeError(msg)
        whole(picture, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(SimpleITK, "WriteImage", full)
        with pytest.raises(StageFailed, match=r"native-00-t1 can't be written: No space left"):
            write_cohort(tmp_path, SMALL, workers=1)
    finished = [p.name for p in (tmp_path / "scans").iterdir() if p.suffix != ".part"]
    assert finished == ["native-00-t0"]
    assert not list(tmp_path.rglob("*native-00-t1*"))
    assert not (tmp_path / MANIFEST).exists()
    assert write_cohort(tmp_path, SMALL, workers=1) == 4
    assert not list(tmp_path.rglob("*.part*"))
    assert rows(tmp_path) == list(manifest(SMALL))


def test_a_killed_run_is_resumed(tmp_path):
    """A killed run leaves no process behind; the next run writes the missing scans."""
    out = tmp_path / "c"
    command = [sys.executable, "-m", "limn.cli", "phantom", "cohort", str(out), *OPTIONS]
    run = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL)
    ends_at = time.monotonic() + 60
    while not list(out.glob("scans/*-t[0-9]")) and time.monotonic() < ends_at:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(1.0)
    finished = len(list(out.glob("scans/*-t[0-9]")))
    assert finished >= 1
    time.sleep(0.5)
    assert len(list(out.glob("scans/*-t[0-9]"))) == finished
    assert write_cohort(out, SMALL, workers=1) == 5 - finished
    assert all((out / row[name]).exists() for row in rows(out) for name in FILES)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, "seed of native-00-t0 is 700000, not 701000"),
        ({"spacing_mm": 0.8}, "spacing_mm of native-00-t0 is 0.9, not 0.8"),
        ({"animals": 3}, "split of native-01-t0 is test1, not train"),
        ({"contrast_scans": 2}, "5 scans, not 6"),
        ({"wide": True}, "native-00-t0"),
    ],
)
def test_two_cohorts_never_mix(other, message, made):
    """A folder is resumed only with the cohort that it holds."""
    before = times(made)
    with pytest.raises(ConfigWrong, match=f"another cohort.*{message}"):
        write_cohort(made, replace(SMALL, **other))
    assert times(made) == before


def test_two_runs_in_one_folder_are_refused(tmp_path):
    """The message of the second run names the first."""
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigWrong, match="another run is writing"):
        write_cohort(tmp_path, SMALL)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    """A folder with scans and no manifest is refused too."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigWrong, match=r"file.*give a folder"):
        write_cohort(tmp_path / "file", SMALL)
    (tmp_path / "c" / "scans" / "native-00-t0").mkdir(parents=True)
    with pytest.raises(ConfigWrong, match="belongs to no manifest"):
        write_cohort(tmp_path / "c", SMALL)


def test_the_command_reports_each_scan(tmp_path, capsys):
    """One line per scan with the remaining time; a second run keeps finished scans."""
    out = tmp_path / "c"
    assert main(["phantom", "cohort", str(out), *OPTIONS, "--workers", "1"]) == 0
    output = capsys.readouterr().out
    assert "native-00-t0  1/5, " in output
    assert " left" in output
    assert "5 scans made in " in output
    assert f"{out / MANIFEST} names 5 scans of 3 animals" in output
    assert main(["phantom", "cohort", str(out), *OPTIONS]) == 0
    assert "0 scans made, 5 were there" in capsys.readouterr().out
    assert main(["phantom", "cohort", str(out), *OPTIONS, "--seed", "2"]) == 1
    assert "limn: " in capsys.readouterr().err
    assert main(["phantom", "cohort", str(out), "--animals", "-3"]) == 1
    assert "limn: -3 animals" in capsys.readouterr().err


def test_a_folder_may_be_called_cohort(tmp_path, monkeypatch, capsys):
    """`limn phantom ./cohort` makes one phantom; `limn phantom cohort` is the other command."""
    monkeypatch.chdir(tmp_path)
    size = ["--spacing", "1.5", "--size", "27", "24", "27"]
    assert main(["phantom", "./cohort", *size]) == 0
    assert (tmp_path / "cohort" / "rtstruct.dcm").exists()
    with pytest.raises(SystemExit):
        main(["phantom", "cohort", "--help"])
    assert "usage: limn phantom cohort" in capsys.readouterr().out
