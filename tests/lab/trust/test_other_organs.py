"""Bundles of seven organs, of one, and without lungs or cord: data set, scores, judge, contours."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

from limn.cli import main
from limn.dicom.ct import CtIdentity
from limn.domain.scan import Labels
from limn.lab.data.dataset import read_dataset
from limn.lab.data.readers import read_ct
from limn.lab.phantoms.other_site import FIRST_SEED, GROUP, SEVEN, OtherSite, split_toml, write_site
from limn.lab.trust import judge_study, spoilt_set, teach
from limn.lab.trust.trial import try_scan
from limn.lab.trust.trial_row import read_rows
from limn.segment.bundle.bundle import open_bundle
from limn.segment.judge.judge_of_bundle import judge_of
from tests.conftest import write_series
from tests.support.lab.tiny_site import tiny_bundle
from tests.support.node.fake_worker import FakeEnsemble

COMBINATIONS = {
    "seven": tuple(map(str, SEVEN)),
    "one": ("Liver",),
    "no lungs or cord": ("Heart", "Kidney_R", "Kidney_L"),
}
ANIMALS = 8
SITE = OtherSite(SEVEN, spacing_mm=0.9, size_mm=(43.2, 27.0, 28.8))
pytestmark = pytest.mark.trains


class Knower(FakeEnsemble):
    """Draws the truth of its scan, moved by some voxels in most of them, as networks err."""

    scan: spoilt_set.SpoiltScan

    def label(self, prepared, inferred):
        """Moved by none to two voxels along the animal."""
        truth, organs = self.scan.truth, self.bundle.organs
        drawn = np.zeros(prepared.hu_zyx.shape, dtype=np.uint8)
        if truth is not None and truth.labels_zyx.shape == drawn.shape:
            named = {organ: label for label, organ in truth.organs.items()}
            for label, organ in organs.items():
                drawn[truth.labels_zyx == named[organ]] = label
        drawn = np.roll(drawn, self.scan.seed % 3, axis=0)
        return Labels(drawn, prepared.grid, organs, self.bundle.roles)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """The phantoms of a site, painted once; the layout numbers all seven organs."""
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, SITE, {f"P{k}": FIRST_SEED + 200 + k for k in range(ANIMALS)})
    return folder


@dataclass
class Bundled:
    """A bundle, a data set of its organs, and what commands print."""

    folder: Path
    names: tuple[str, ...]
    capsys: pytest.CaptureFixture[str]

    @property
    def bundle(self) -> Path:
        """Untrained networks."""
        return self.folder / "bundle"

    def limn(self, *arguments: object) -> str:
        """What a command prints; it must succeed."""
        code = main.main(list(map(str, arguments)))
        streams = self.capsys.readouterr()
        assert code == 0, streams.out + streams.err
        return streams.out + streams.err


@pytest.fixture(params=COMBINATIONS.values(), ids=list(COMBINATIONS))
def site(request, scans, tmp_path, capsys, monkeypatch) -> Bundled:
    """The data set has the organs of the bundle alone."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LIMN_MODELS", str(tmp_path / "shelf"))
    made = Bundled(tmp_path, request.param, capsys)
    tiny_bundle(made.bundle, request.param, folds=1)
    text = (scans / "layout.toml").read_text()
    labels = ", ".join(f"{name} = {1 + SEVEN.index(name)}" for name in request.param)
    head = text[: text.index("labels = ")]
    (tmp_path / "layout.toml").write_text(f"{head}labels = {{ {labels} }}\n")
    animals = [f"{GROUP}-P{k}" for k in range(ANIMALS)]
    split = split_toml([animals[:3], animals[3:6]], animals[6:])
    (tmp_path / "split.toml").write_text(split)
    options = ("--layout", tmp_path / "layout.toml", "--split", tmp_path / "split.toml")
    made.limn("lab", "import", scans / "scans", tmp_path / "data", *options)
    assert len(read_dataset(tmp_path / "data")) == ANIMALS
    return made


def judged(site: Bundled, monkeypatch) -> str:
    """Let `limn lab judge` teach the bundle by its data set, in this process and with few trees."""
    monkeypatch.setattr(teach, "TREES", 8)
    # Half of the spoilt scans are refused.
    monkeypatch.setattr(teach, "FEWEST_ROWS", 15)
    monkeypatch.setattr(judge_study, "FEWEST_ROWS", 15)

    def row(bundle, threads, scan):
        knower, made = Knower(open_bundle(bundle)), scan.make()
        knower.inference_s, knower.scan = 0.0, made
        return try_scan(made, knower)

    monkeypatch.setattr(spoilt_set, "_row", row)
    here = lambda work, items, workers, doing: map(work, items)  # noqa: E731
    monkeypatch.setattr(spoilt_set, "in_processes", here)
    out = site.folder / "judged"
    return site.limn("lab", "judge", site.bundle, site.folder / "data", "-o", out)


def test_a_judge_learns_from_the_data_set_of_such_a_bundle(site, monkeypatch):
    """Every organ is predicted, also by the bundle that was packed and installed."""
    printed = judged(site, monkeypatch)
    rows = read_rows(site.folder / "judged/teach.jsonl")
    contoured = [row for row in rows if not row.refused]
    assert len(rows) == 4 * ANIMALS
    assert {name for row in contoured for name in row.dsc} == set(site.names)
    assert all(f"{name} dsc: " in printed for name in site.names), printed
    assert "phantom-organs-1 sealed with a judge" in printed
    bundle = open_bundle(site.bundle)
    judge = judge_of(bundle)
    quality = judge.predict(contoured[0].signs)
    assert list(quality) == list(site.names)
    assert all(0.0 <= each.dsc.low <= each.dsc.high <= 1.0 for each in quality.values())
    packed = site.folder / "o.zip"
    site.limn("models", "pack", site.bundle, "-o", packed)
    site.limn("models", "install", packed)
    assert judge_of(open_bundle(site.folder / "shelf/phantom-organs-1")).about == judge.about


@pytest.mark.parametrize("site", [COMBINATIONS["no lungs or cord"]], indirect=True)
def test_such_a_bundle_is_scored_and_tabulated(site):
    """By `limn lab score` and `limn lab tables`: rows of its organs, none of the paper's others."""
    data, out = site.folder / "data", site.folder / "scored"
    site.limn("lab", "score", site.bundle, data, "-o", out)
    site.limn("lab", "tables", out / "scores.csv", site.folder / "tables")
    with (out / "scores.csv").open(newline="") as file:
        assert {row["organ"] for row in csv.DictReader(file)} >= set(site.names)
    page = (out / "tables.md").read_text()
    words = {"SpinalCord": "Spinal Cord", "Lung_R": "Right Lung", "Lung_L": "Left Lung"}
    for name in SEVEN:
        shown = f"| {words.get(name, name)} |" in page
        assert shown == (name in site.names), (name, page)


@pytest.mark.parametrize("site", [COMBINATIONS["one"]], indirect=True)
def test_such_a_bundle_contours_a_scan(site, scans):
    """By `limn contour`, in every form; the table has its organs and no others."""
    volume = read_ct(next((scans / "scans").glob("P0_*/ct.nii.gz")), "")
    identity = CtIdentity("M1", "2.25.77", ("20260101", "120000"))
    write_series(volume, site.folder / "ct", identity)
    out = site.folder / "out"
    command = ("contour", site.folder / "ct", "-o", out, "--bundle", site.bundle)
    printed = site.limn(*command, "--as", "rtstruct,seg,nifti,nrrd,stl,csv")
    assert "Liver" in printed
    assert not [name for name in SEVEN if name != "Liver" and name in printed], printed
    rois = pydicom.dcmread(out / "RS.dcm").StructureSetROISequence
    assert [str(roi.ROIName) for roi in rois] == ["Liver"]
