"""`limn contour --one-file`, and `limn.one_file`: all animals of a field in one structure set."""

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest

import limn
from limn.api import Model
from limn.cli import main
from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.node.batch import one_folder
from limn.node.contour.work import warm as warm_module
from limn.node.contour.work.warm import Warm, options_of
from tests.node.contour.test_any_organs import MM, PLACES, SHAPE, Painter, bundle_of, painted
from tests.support.node.parts import write_slices

GAP = 8


def two_mice(*, cut_second: bool = False) -> np.ndarray:
    """HU of two animals side by side; the second may be without any organ."""
    one, gap = painted(PLACES), np.full((SHAPE[0], SHAPE[1], GAP), -1000.0, np.float32)
    other = painted({} if cut_second else PLACES)
    return np.concatenate([gap, one, gap, other, gap], axis=2)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run limn contour with a network that thresholds."""
    bundle = bundle_of(("Heart", "Lung_R", "Lung_L"))

    def toy_options(config, bundle):
        # A toy has too few numbers for a guess at HU.
        return replace(options_of(config, bundle), calibrate="never")

    def warm_up(config, kept_in=()):
        return Warm(Painter(bundle), toy_options(config, bundle))

    monkeypatch.setattr(one_folder, "open_bundle", lambda folder: bundle)
    monkeypatch.setattr(one_folder, "options_of", toy_options)
    monkeypatch.setattr(one_folder, "warm_up", warm_up)
    monkeypatch.setattr(warm_module, "warm_up", warm_up)
    monkeypatch.setenv("COLUMNS", "200")

    def run(hu, *arguments):
        volume = Volume(hu, axial_grid(hu.shape, SpacingMm(MM, MM, MM), np.zeros(3)))
        identity = CtIdentity("M1", "2.25.72", ("20260101", "120000"))
        write_slices(tmp_path / "ct", ct_instances(volume, identity))
        code = main.main(["contour", str(tmp_path / "ct"), "-o", str(tmp_path / "out"), *arguments])
        streams = capsys.readouterr()
        return code, streams.out + streams.err

    return run


def rois(path_or_bytes) -> list[str]:
    """Names of the ROIs of a structure set."""
    ds = pydicom.dcmread(path_or_bytes)
    return [str(roi.ROIName) for roi in ds.StructureSetROISequence]


def test_all_animals_are_in_one_file(run, tmp_path):
    """Each has its picture; no other folder has a structure set."""
    code, output = run(two_mice(), "--two-animals", "each", "--one-file")
    assert code == 0, output
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in _files(tmp_path))
    assert found == ["RS.dcm", "animal-2/picture.png", "picture.png"]
    assert rois(tmp_path / "out/RS.dcm") == [
        *("Heart^1", "Lung_R^1", "Lung_L^1", "Heart^2", "Lung_R^2", "Lung_L^2")
    ]
    assert output.count("structure set") == 1


def test_an_animal_that_could_not_be_contoured_is_named_in_the_file(run, tmp_path):
    """The command fails, and the file of the other is there."""
    code, output = run(two_mice(cut_second=True), "--two-animals", "each", "--one-file")
    assert code != 0
    assert "NOT CONTOURED" in output
    ds = pydicom.dcmread(tmp_path / "out/RS.dcm")
    assert "1 of 2 animals in one file, WITHOUT animal 2, not contoured" in str(
        ds.StructureSetDescription
    )
    assert rois(tmp_path / "out/RS.dcm") == ["Heart^1", "Lung_R^1", "Lung_L^1"]


def test_it_needs_each_animal(run):
    """Else there is nothing to join."""
    code, output = run(two_mice(), "--one-file")
    assert code != 0
    assert "add --two-animals each" in output


def test_one_animal_keeps_its_names(run, tmp_path):
    """There is nothing to tell apart."""
    code, _ = run(painted(PLACES), "--two-animals", "each", "--one-file")
    assert code == 0
    assert rois(tmp_path / "out/RS.dcm") == ["Heart", "Lung_R", "Lung_L"]


def test_a_script_joins_the_animals_it_has(run, tmp_path):
    """Of `Model.contour_each`; of none it is an error."""
    run(two_mice(), "--two-animals", "each")
    animals = list(Model(animals="each").contour_each(tmp_path / "ct"))
    assert len(animals) == 2
    assert rois(io.BytesIO(limn.one_file(animals)))[3:] == ["Heart^2", "Lung_R^2", "Lung_L^2"]
    assert limn.one_file(animals) == limn.one_file(animals)
    with pytest.raises(limn.LimnError, match="no animal was given"):
        limn.one_file([])


def _files(folder):
    return [path for path in (folder / "out").rglob("*") if path.is_file()]
