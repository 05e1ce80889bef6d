"""Bundles of one organ, of seven, and without heart, cord or lungs: the whole way of a scan."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from rich.console import Console

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.errors import ConfigWrong
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.roi_rules import Margin, Union
from limn.domain.scan import TG263_ROLES, Labels, Organ, Volume
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.node.batch import here, many_folders
from limn.node.batch.find_series import find_series
from limn.node.batch.many_folders import _contour_series
from limn.node.board.views import scan_page
from limn.node.config import FolderDestination, PlanningSystem
from limn.node.contour.site_bundle import style_of
from limn.node.contour.work import worker
from limn.node.contour.work.warm import Warm, options_of
from limn.node.deliver.courier import Courier
from limn.node.operate import log as log_command
from limn.node.operate import queue as queue_command
from limn.node.operate.history.choice import Choice
from limn.node.store.disk import scanlog
from limn.node.store.disk.contacts import DestinationContacts
from limn.segment.bundle.bundle import Bundle, CleanRule, open_bundle
from tests.node.contour.test_results import Desk
from tests.support.node.fake_worker import FakeEnsemble
from tests.support.node.parts import write_slices

MM = 0.75
SHAPE = (26, 30, 36)
# Where each organ lies (z, y, x), its radius in voxels and its HU. The right lung is the larger.
PLACES = {
    "Heart": ((12, 9, 20), 3.0, 300.0),
    "SpinalCord": ((12, 24, 18), 1.8, 500.0),
    "Lung_R": ((12, 13, 10), 4.4, -500.0),
    "Lung_L": ((12, 13, 27), 3.6, -600.0),
    "Liver": ((12, 18, 18), 2.4, 120.0),
    "Kidney_L": ((12, 22, 26), 2.0, 180.0),
    "Kidney_R": ((12, 22, 10), 2.0, 240.0),
}
COMBINATIONS = {
    "heart only": ("Heart",),
    "liver only": ("Liver",),
    "lungs only": ("Lung_R", "Lung_L"),
    "cord and liver": ("SpinalCord", "Liver"),
    "seven": tuple(PLACES),
}


class Painter(FakeEnsemble):
    """Labels each organ of its bundle by its HU."""

    def label(self, prepared, inferred):
        """As a perfect network would."""
        labels = np.zeros(prepared.hu_zyx.shape, dtype=np.uint8)
        for label, organ in self.bundle.organs.items():
            labels[np.abs(prepared.hu_zyx - PLACES[organ][2]) < 20.0] = label
        return Labels(labels, prepared.grid, self.bundle.organs, self.bundle.roles)


def bundle_of(names: tuple[str, ...]) -> Bundle:
    """The embedded bundle with other organs; a role for each that has TG-263's name."""
    organs = {label: Organ(name) for label, name in enumerate(names, 1)}
    return replace(
        open_bundle(EMBEDDED_BUNDLE),
        organs=organs,
        roles={role: name for role, name in TG263_ROLES.items() if name in names},
        clean=dict.fromkeys(organs.values(), CleanRule("largest")),
        colours={},
        codes={},
        judge=None,
    )


def painted(places: Mapping[str, tuple[tuple[int, int, int], float, float]]) -> np.ndarray:
    """HU of a mouse with these organs."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    hu = np.full(SHAPE, -1000.0, dtype=np.float32)
    hu[:, 2:-2, 2:-2] = 40.0
    for (cz, cy, cx), radius, value in places.values():
        hu[((z - cz) ** 2) / 3 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2] = value
    return hu


def write_mouse(folder: Path) -> list[Path]:
    """A series with all seven organs."""
    volume = Volume(painted(PLACES), axial_grid(SHAPE, SpacingMm(MM, MM, MM), np.zeros(3)))
    made = ct_instances(volume, CtIdentity("M1", "2.25.71", ("20260101", "120000")))
    return write_slices(folder, made)


@dataclass
class Site:
    """A node of a bundle, without processes."""

    desk: Desk
    bundle: Bundle
    warm: Warm
    ct: list[Path]


@pytest.fixture(params=COMBINATIONS.values(), ids=list(COMBINATIONS))
def site(request, tmp_path):
    """With a derived ROI of the bundle's first organ."""
    desk = Desk(tmp_path)
    bundle = bundle_of(request.param)
    rois = (Margin(name="Ring", of=request.param[0], mm=1.0),)
    # A toy has too few numbers for a guess at HU.
    model = desk.config.model.model_copy(update={"calibrate": "never"})
    config = desk.config.model_copy(update={"roi": rois, "model": model})
    desk.config = desk.results._config = desk.dispatcher._flights._config = config
    warm = Warm(Painter(bundle), options_of(config, bundle))
    yield Site(desk, bundle, warm, write_mouse(tmp_path / "ct"))
    desk.journal.close()


def contoured(site: Site):
    """The scan, after its worker and the dispatcher had it."""
    folder = str(site.ct[0].parent)
    files = tuple(path.name for path in site.ct)
    row = site.desk.began(folder=folder, files=files, bundle_sha256=site.bundle.sha256)
    job = replace(site.desk.dispatcher._flights._job_of(row), input_digest="")
    result = worker.contour_here(job, "limn", site.warm)
    assert result.ended == "", result.reason
    return site.desk.lands(row, "finished", result)


def test_a_scan_goes_the_whole_way(site, tmp_path, capsys):
    """Structure set, picture, both tables, `limn log`, `limn queue` and the board's page."""
    names = [*site.bundle.organs.values()]
    row = contoured(site)
    assert row.state == "contoured"
    journal = site.desk.journal
    structure_set = journal.structure_set_of(row.id)
    assert structure_set.held is None
    ds = pydicom.dcmread(structure_set.path)
    assert [str(roi.ROIName) for roi in ds.StructureSetROISequence] == [*names, "Ring"]
    colours = [tuple(roi.ROIDisplayColor) for roi in ds.ROIContourSequence]
    assert len(set(colours)) == len(colours)
    assert ds.PatientSpeciesDescription == "Mus musculus"
    picture = site.desk.config.results_dir / row.name / "picture.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    page = scan_page(journal, row, site.desk.config)
    assert [roi["roi"] for roi in page.rois] == [*names, "Ring"]
    queue_command.show(site.desk.path, as_json=False)
    assert row.name in capsys.readouterr().out
    log = tmp_path / "data" / "scans.csv"
    to = FolderDestination(kind="folder", name="tps", folder=tmp_path / "out")
    contacts = DestinationContacts(log.with_name("destinations.json"))
    Courier(to, journal, log, "LIMN", keeps_scan_log=True, contacts=contacts).work()
    (scan,) = scanlog.rows(log)
    assert scan["outcome"] == "delivered"
    for role, organ in TG263_ROLES.items():
        for kind in ("mm3", "removed_voxels", "fold_dsc"):
            value = scan[f"{role}_{kind}"]
            assert (value != "") == (organ in names), (role, kind, value)
        # The bundle has no judge.
        assert scan[f"{role}_predicted_dsc"] == ""
    with scanlog.roi_table(log).open(newline="") as file:
        rois = list(csv.DictReader(file))
    assert [each["roi"] for each in rois] == [*names, "Ring"]
    assert all(float(each["volume_mm3"]) > 0 and each["mean_hu"] for each in rois)
    hu = {each["organ"]: float(each["mean_hu"]) for each in rois if each["organ"]}
    assert hu == pytest.approx({name: PLACES[name][2] for name in names}, abs=20)
    assert [each["role"] for each in rois if each["role"]] == [
        role for name in names for role, organ in TG263_ROLES.items() if organ == name
    ]
    log_command.show(site.desk.path, Choice(), as_csv=False)
    assert row.name in capsys.readouterr().out


def test_what_does_not_run_is_not_claimed(site):
    """No flag, light or predicted DSC of an organ that the bundle lacks."""
    row = contoured(site)
    absent = set(PLACES) - set(site.bundle.organs.values())
    text = str(row.record)
    assert [name for name in absent if name in text] == []
    has_sides = {"Heart", "Lung_R", "Lung_L"} <= set(site.bundle.organs.values())
    flags = row.record["flags"].split()
    assert has_sides or not [flag for flag in flags if flag.startswith(("mirrored", "sides"))]


def test_a_cohort_has_them_too(site, tmp_path, monkeypatch):
    """Its table has volumes by role, and every series is contoured."""
    monkeypatch.setattr(here, "warm_up", lambda config: site.warm)
    found = find_series([tmp_path / "ct"], tmp_path / "cohort", Console(file=io.StringIO()))
    monkeypatch.setattr(many_folders, "open_bundle", lambda folder: site.bundle)
    console = Console(file=io.StringIO())
    assert _contour_series(found, tmp_path / "cohort", site.desk.config, None, console, None)
    with (tmp_path / "cohort" / "cohort.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["outcome"] == "contoured"
    for role, organ in TG263_ROLES.items():
        assert (line[f"{role}_mm3"] != "") == (organ in site.bundle.organs.values())
    with (tmp_path / "cohort" / "cohort-rois.csv").open(newline="") as file:
        rois = list(csv.DictReader(file))
    assert [each["roi"] for each in rois] == [*site.bundle.organs.values(), "Ring"]
    assert {(each["series"], each["animal"]) for each in rois} == {("ct", "M1")}
    assert all(float(each["volume_mm3"]) > 0 for each in rois)


@pytest.mark.parametrize("names", COMBINATIONS.values(), ids=list(COMBINATIONS))
def test_a_site_can_only_name_what_there_is(names):
    """At the start, in colours, names and derived ROIs, with what there is instead."""
    bundle = bundle_of(names)
    known = ", ".join(names)
    for key in ({"roi_names": {"Spleen": "spleen"}}, {"colours": {"Spleen": (1, 2, 3)}}):
        with pytest.raises(ConfigWrong, match=f"names Spleen; the ROIs of .* are {known}$"):
            style_of(PlanningSystem(**key), bundle)
    rule = Union(name="Both", of=(names[0], "Spleen"))
    with pytest.raises(ConfigWrong, match=f"roi Both: 'Spleen' is neither .*; known are {known}$"):
        style_of(PlanningSystem(), bundle, [rule])
    own = {names[0]: "mine"}
    style = style_of(PlanningSystem(roi_names=own, colours={names[0]: (1, 2, 3)}), bundle)
    assert (style.roi_names[names[0]], style.colours[names[0]]) == ("mine", (1, 2, 3))
