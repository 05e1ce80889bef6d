"""The scripts of examples/ run as they are."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from limn.dicom.ct import CtIdentity
from tests.conftest import one_fold, write_series

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scans(mouse, tmp_path_factory):
    """A folder with one scan, and something that is none."""
    folder = tmp_path_factory.mktemp("examples") / "scans"
    write_series(mouse[0], folder / "m1", CtIdentity("M1", "2.25.44.32", ("20260101", "120000")))
    (folder / "notes.txt").write_text("no scan")
    return folder


def run(name: str, *arguments: Path) -> str:
    """The output of an example with one fold."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments), str(one_fold())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_scan(scans, tmp_path):
    """Its light, its organs and its files are printed."""
    said = run("one_scan.py", scans / "m1", tmp_path / "out")
    assert said.startswith("animal M1: ")
    assert "Heart " in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("RS.dcm", "labels.nii.gz", "labels.csv", "volumes.csv", "picture.png")
    }


def test_a_cohort(scans, tmp_path):
    """A row for each scan; what is none is named."""
    said = run("cohort.py", scans, tmp_path)
    assert "notes.txt: " in said
    with (tmp_path / "volumes.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["scan"], float(row["Heart"]) > 50) == ("m1", True)
    assert (tmp_path / "volumes.png").read_bytes().startswith(b"\x89PNG")


def test_two_models(scans):
    """A model agrees with itself in every voxel."""
    said = run("own_model.py", scans / "m1", Path("--"), one_fold())
    _, row = said.splitlines()
    assert row.split()[1:] == ["1.000"] * 4


def test_slicers_files(scans, tmp_path, monkeypatch):
    """Scan and segmentation lie on the same voxels; Slicer is started with both if it is there."""
    program = tmp_path / "bin" / "Slicer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/started\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    run("slicer.py", scans / "m1", tmp_path / "out")
    files = [tmp_path / "out" / name for name in ("scan.nrrd", "labels.seg.nrrd")]
    scan, segmentation = (SimpleITK.ReadImage(str(path)) for path in files)
    assert scan.GetSize() == segmentation.GetSize()
    assert np.allclose(scan.GetOrigin(), segmentation.GetOrigin())
    assert (tmp_path / "started").read_text().split() == [str(path) for path in files]
