"""A cohort of beds: each animal of each field has its own file, its own rows and its own organs."""

import csv

import numpy as np
import pydicom
import pytest

from limn.cli import main
from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.node.batch import here, many_folders
from limn.node.contour.work.warm import Warm, options_of
from tests.conftest import BUNDLE
from tests.node.batch.test_one_file import GAP, two_mice
from tests.node.contour.test_any_organs import MM, PLACES, SHAPE, Painter, bundle_of, painted
from tests.support.node.parts import write_slices

ORGANS = ("Heart", "Lung_R", "Lung_L")
# A toy has too few numbers for a guess at HU.
CONFIG = f"""
data_dir = "data"
[model]
bundle = '{BUNDLE}'
allow_demo_bundle = true
two_animals = "each"
calibrate = "never"
[[destination]]
kind = "folder"
name = "out"
folder = "sent"
"""


def stacked() -> np.ndarray:
    """HU of two animals, one above the other."""
    one, gap = painted(PLACES), np.full((SHAPE[0], GAP, SHAPE[2]), -1000.0, np.float32)
    return np.concatenate([gap, one, gap, one, gap], axis=1)


@pytest.fixture
def beds(tmp_path, monkeypatch):
    """Three series: one animal, two side by side, and two stacked."""
    bundle = bundle_of(ORGANS)

    def warm_up(config):
        return Warm(Painter(bundle), options_of(config, bundle))

    monkeypatch.setattr(here, "warm_up", warm_up)
    monkeypatch.setattr(many_folders, "open_bundle", lambda folder: bundle)
    for number, (name, hu) in enumerate(
        {"alone": painted(PLACES), "beside": two_mice(), "stacked": stacked()}.items()
    ):
        volume = Volume(hu, axial_grid(hu.shape, SpacingMm(MM, MM, MM), np.zeros(3)))
        identity = CtIdentity(name, f"2.25.8{number}", ("20260101", "120000"))
        write_slices(tmp_path / "ct" / name, ct_instances(volume, identity))
    return tmp_path


def rows(path) -> list[dict[str, str]]:
    """Of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_animal_of_a_cohort_is_as_when_scanned_alone(beds, capsys):
    """Its volumes are those of the animal that lies alone, and its contours lie on itself."""
    out = beds / "out"
    config = beds / "limn.toml"
    config.write_text(CONFIG)
    code = main.main(["contour", str(beds / "ct"), "-o", str(out), "--config", str(config)])
    streams = capsys.readouterr()
    assert code == 0, streams.out + streams.err
    table = rows(out / "cohort-rois.csv")
    by_animal = {}
    for row in table:
        by_animal.setdefault((row["series"], row["animal"]), {})[row["organ"]] = row["volume_mm3"]
    assert len(by_animal) == 5, sorted(by_animal)
    (alone,) = (mm3 for (series, _), mm3 in by_animal.items() if series == "alone")
    assert all(mm3 == alone for mm3 in by_animal.values()), by_animal
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("RS.dcm"))
    assert files == [
        *("alone/RS.dcm", "beside/RS.dcm", "beside/animal-2/RS.dcm"),
        *("stacked/RS.dcm", "stacked/animal-2/RS.dcm"),
    ]
    for series, axis in (("beside", 0), ("stacked", 1)):
        spans = [span(out / series / own / "RS.dcm", axis) for own in (".", "animal-2")]
        assert spans[0][1] < spans[1][0], (series, spans)


def span(path, axis: int) -> tuple[float, float]:
    """Least and largest coordinate of all contours along x (0) or y (1)."""
    ds = pydicom.dcmread(path)
    found = [
        float(value)
        for roi in ds.ROIContourSequence
        for contour in roi.ContourSequence
        for value in contour.ContourData[axis::3]
    ]
    return min(found), max(found)
