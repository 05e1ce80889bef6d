"""A phantom on disk, with a true or a false header, and its truth beside it."""

import argparse
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from limn.cli.main import command_parser, main
from limn.dicom import rtstruct
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import ConfigWrong
from limn.domain.scan import Labels, Volume, dice
from limn.formats.label_files import image_of
from limn.lab.phantoms import synthesize as module
from limn.lab.phantoms.orientation import POSITIONS, STACKS
from limn.lab.phantoms.quirks import QUIRKS
from limn.lab.phantoms.synthesize import (
    CHEST_XYZ_MM,
    STYLE,
    PhantomFiles,
    PhantomRequest,
    synthesize,
)
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.draw.rasterise import rasterise
from tests.conftest import require_peer
from tests.dicom.test_orientation_table import centroid_xyz_mm, onto, physical_centroid
from tests.support.organs import Organ

SPACING_MM = 0.75
SHAPE = (36, 32, 38)
SIZE_MM = (27.0, 24.0, 28.5)
UM = 0.001


@pytest.fixture(autouse=True)
def painted_once(monkeypatch: pytest.MonkeyPatch):
    """Paint each mouse once: these tests differ only in how it is written."""
    monkeypatch.setattr(module, "conceive", cached_conceive)
    monkeypatch.setattr(module, "scan", cached_scan)


cached_conceive = functools.lru_cache(conceive)
cached_scan = functools.lru_cache(scan)


def make(folder: Path, seed: int = 5, **options: object) -> PhantomFiles:
    """A coarse mouse of 36 x 32 x 38 voxels."""
    return synthesize(folder, PhantomRequest(seed, SPACING_MM, SIZE_MM, **options))


def truth_of(seed: int, *, prone: bool | None) -> tuple[Volume, Labels]:
    """The mouse on the scanner's grid, axes S, P, L."""
    scanner = Scanner(module.SpacingMm(SPACING_MM, SPACING_MM, SPACING_MM), SHAPE, CHEST_XYZ_MM)
    return cached_scan(
        cached_conceive(seed, prone=prone, neighbour=False, contrast=False), scanner, seed
    )


def prone(position: str) -> bool | None:
    """Whether the animal lies on its belly; None on its side."""
    return {"S": False, "P": True}.get(position[-1])


def series_image(folder: Path) -> SimpleITK.Image:
    """The series as SimpleITK reads it."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize(
    ("position", "stack"),
    [(position, "axial") for position in POSITIONS]
    + [(position, stack) for position in ("HFP", "FFDR") for stack in STACKS[1:]],
)
def test_simpleitk_finds_every_voxel_at_its_place(position: str, stack: str, tmp_path: Path):
    """Every position and stack gives the same HU at a point of the animal."""
    made = make(tmp_path / "p", position=position, stack=stack)
    volume, truth = truth_of(5, prone=prone(position))
    oriented = SimpleITK.DICOMOrient(series_image(made.series_dir), "LPS")
    wanted = image_of(volume.hu_zyx, volume.grid)
    assert np.allclose(oriented.GetOrigin(), wanted.GetOrigin(), atol=1e-5)
    assert np.allclose(oriented.GetSpacing(), wanted.GetSpacing(), atol=1e-6)
    assert np.array_equal(SimpleITK.GetArrayFromImage(oriented), volume.hu_zyx)
    labels = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(tmp_path / "p" / "truth.nii.gz")), "LPS")
    assert np.array_equal(SimpleITK.GetArrayFromImage(labels), truth.labels_zyx)
    assert {pydicom.dcmread(path).PatientPosition for path in made.series_dir.iterdir()} == {
        position
    }
    assert (made.flags, made.refusal) == ((), "")


@pytest.mark.peer
@pytest.mark.parametrize("position", POSITIONS)
def test_plastimatch_finds_the_truth_in_the_structure_set(position: str, tmp_path: Path):
    """Every voxel of every organ has its place in the animal; the left lung is on the left."""
    made = make(tmp_path / "p", position=position)
    program = require_peer("plastimatch")
    subprocess.run(
        [
            *(program, "convert", "--input", str(tmp_path / "p" / "rtstruct.dcm")),
            *("--referenced-ct", str(made.series_dir)),
            *("--output-prefix", str(tmp_path / "roi"), "--prefix-format", "nrrd"),
        ],
        check=True,
        capture_output=True,
    )
    _, truth = truth_of(5, prone=prone(position))
    middles = {}
    for organ in Organ:
        image = SimpleITK.ReadImage(str(tmp_path / "roi" / f"{organ.value}.nrrd"))
        array = SimpleITK.GetArrayFromImage(image).astype(bool)
        assert dice(onto(image, array, made.truth), made.truth.mask(organ)) == 1.0
        middles[organ] = physical_centroid(image, array)
        wanted = centroid_xyz_mm(truth.mask(organ), truth)
        assert np.linalg.norm(middles[organ] - wanted) < UM
    assert middles[Organ.LUNG_L][0] > middles[Organ.LUNG_R][0] + 2.0


@pytest.mark.parametrize(
    ("changes", "axes"),
    [
        ({"turned": "x"}, (0, 1)),
        ({"turned": "y"}, (0, 2)),
        ({"turned": "z"}, (1, 2)),
        ({"mirrored": "x"}, (2,)),
        ({"mirrored": "y"}, (1,)),
        ({"mirrored": "z"}, (0,)),
        ({"turned": "z", "mirrored": "z"}, (0, 1, 2)),
    ],
)
def test_a_false_header_moves_the_pixels_and_no_tag(
    changes: dict[str, str], axes: tuple[int, ...], tmp_path: Path
):
    """The geometry stays; voxels, labels and outlines move together."""
    unchanged = make(tmp_path / "true", position="HFS")
    changed = make(tmp_path / "false", position="HFS", **changes)
    first, second = (
        assemble(read_headers(sorted(made.series_dir.iterdir()))) for made in (unchanged, changed)
    )
    assert np.array_equal(first.grid.slice_origins_xyz_mm, second.grid.slice_origins_xyz_mm)
    for keyword in ("ImageOrientationPatient", "PatientPosition"):
        assert first.first[keyword].value == second.first[keyword].value
    assert np.array_equal(read_volume(second).hu_zyx, np.flip(read_volume(first).hu_zyx, axes))
    assert np.array_equal(changed.truth.labels_zyx, np.flip(unchanged.truth.labels_zyx, axes))
    assert first.first.SeriesInstanceUID != second.first.SeriesInstanceUID
    outlined(tmp_path / "false", changed)


def outlined(folder: Path, made: PhantomFiles) -> pydicom.FileDataset:
    """Check that the contours give the truth on the series that limn reads; return the file."""
    instances = {
        str(each.header.SOPInstanceUID): each
        for each in read_headers(sorted(made.series_dir.iterdir()))
        if each.header.Modality == "CT"
    }
    series = assemble(list(instances.values()))
    ds = rtstruct.read((folder / "rtstruct.dcm").read_bytes())
    assert rtstruct.faults(ds, series) == []
    contours = rtstruct.contours_of(ds, series, STYLE)
    for organ in Organ:
        assert made.truth.mask(organ).any()
        assert np.array_equal(rasterise(contours, series.grid, organ), made.truth.mask(organ))
    return ds


def test_a_scanner_that_confuses_head_and_feet_swaps_the_lungs(tmp_path: Path):
    """As by one real scanner: FFS in both tags, although the head lies at low z."""
    made = make(tmp_path / "p", position="FFS", turned="y")
    series = assemble(read_headers(sorted(made.series_dir.iterdir())))
    assert list(series.first.ImageOrientationPatient) == [-1, 0, 0, 0, 1, 0]
    assert made.flags == ()
    middle = {o: centroid_xyz_mm(made.truth.mask(o), made.truth) for o in Organ}
    assert middle[Organ.LUNG_L][0] < middle[Organ.LUNG_R][0]
    # The back stays the back: a reader sees a plausible animal with its sides exchanged.
    assert middle[Organ.CORD][1] > middle[Organ.HEART][1]


@pytest.mark.parametrize(("lies_prone", "position"), [(False, "HFS"), (True, "HFP")])
def test_by_default_the_header_follows_the_seed(lies_prone: bool, position: str, tmp_path: Path):
    """Supine and prone seeds have HFS and HFP, in PatientPosition and in the axes."""
    seed = next(seed for seed in range(1, 50) if cached_conceive(seed).prone is lies_prone)
    made = make(tmp_path / "p", seed)
    header = pydicom.dcmread(next(iter(made.series_dir.iterdir())))
    assert (header.PatientPosition, made.position, made.flags) == (position, position, ())


@pytest.mark.parametrize("name", list(QUIRKS))
def test_the_structure_set_fits_the_series_whatever_the_quirk(name: str, tmp_path: Path):
    """Every contour lies on a slice of the files and gives the truth there."""
    made = make(tmp_path / "p", position="FFP", quirks=(name,))
    files = [pydicom.dcmread(path) for path in made.series_dir.iterdir()]
    ds = rtstruct.read((tmp_path / "p" / "rtstruct.dcm").read_bytes())
    assert ds.StructureSetLabel == "TRUTH"
    named = {
        str(item.ContourImageSequence[0].ReferencedSOPInstanceUID)
        for roi in ds.ROIContourSequence
        for item in roi.ContourSequence
    }
    assert named <= {str(each.SOPInstanceUID) for each in files if each.Modality == "CT"}
    assert len(ds.ROIContourSequence) == len(Organ)
    if not made.refusal:
        outlined(tmp_path / "p", made)
    missing = 2 if name.startswith("gap") else 0
    assert made.slices == len(made.truth.labels_zyx) == SHAPE[0] - missing
    whole = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "p" / "truth.nii.gz")))
    assert len(whole) == SHAPE[0]


@pytest.mark.peer
def test_the_truth_is_a_valid_structure_set_that_claims_no_algorithm(tmp_path: Path):
    """It names no algorithm; dciodvfy and drtdump find no fault."""
    made = make(tmp_path / "p", position="HFP")
    ds = outlined(tmp_path / "p", made)
    assert {roi.ROIGenerationAlgorithm for roi in ds.StructureSetROISequence} == {""}
    assert "truth" in ds.StructureSetROISequence[0].ROIGenerationDescription
    for program in ("dciodvfy", "/usr/bin/drtdump"):
        result = subprocess.run(
            [require_peer(program), str(tmp_path / "p" / "rtstruct.dcm")],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = (result.stdout + result.stderr).splitlines()
        assert not [ln for ln in lines if ln.startswith(("Error", "E:", "W:", "Warning"))]


def test_equal_requests_give_equal_files_and_other_requests_other_uids(tmp_path: Path):
    """UIDs follow from the request; the order of the quirks does not matter."""
    first = make(tmp_path / "a", quirks=("signed", "monochrome1"))
    again = make(tmp_path / "b", quirks=("monochrome1", "signed"))
    other = make(tmp_path / "c", quirks=("signed",))
    for one, two in zip(
        sorted(first.series_dir.iterdir()), sorted(again.series_dir.iterdir()), strict=True
    ):
        assert one.read_bytes() == two.read_bytes()
    uids = {
        pydicom.dcmread(next(iter(made.series_dir.iterdir()))).SeriesInstanceUID
        for made in (first, other)
    }
    assert len(uids) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quirks": ("jpg",)}, "quirk 'jpg' is unknown"),
        ({"quirks": ("rle", "big-endian")}, "big-endian and rle both change the transfer syntax"),
        ({"position": "HFX"}, "position 'HFX': one of HFS, "),
        ({"turned": "w"}, "turned 'w': one of x, y, z expected"),
    ],
)
def test_an_impossible_request_is_refused_before_anything_is_written(
    options: dict[str, object], message: str, tmp_path: Path
):
    """No folder is made."""
    with pytest.raises(ConfigWrong, match=message):
        make(tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


def test_a_phantom_goes_into_a_folder_of_any_name_and_over_no_link(tmp_path: Path):
    """As a process: ITK aborts at a name that is no UTF-8."""
    folder, victim = tmp_path / "ph_\udcfc", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("mine")
    for name in ("ct.nii.gz", "truth.nii.gz", "rtstruct.dcm"):
        (folder / name).symlink_to(victim)
    command = [sys.executable, "-m", "limn.cli", "phantom", os.fsencode(folder)]
    sizes = ["--spacing", "1", "--size", "20", "20", "20"]
    done = subprocess.run([*command, *sizes], check=False, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert victim.read_text() == "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert len(list((folder / "dicom").iterdir())) == 20


def test_the_command_reports_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The files, the false header, and how limn reads the series."""
    common = ["--spacing", "0.75", "--size", "27", "24", "28.5", "--seed", "5"]
    wanted = ["--position", "HFDL", "--mirrored", "x", "--quirk", "gap", "--quirk", "no-rescale"]
    assert main(["phantom", str(tmp_path / "p"), *common, *wanted]) == 0
    output = capsys.readouterr().out
    assert f"34 axial slices, HFDL, in {tmp_path / 'p' / 'dicom'}" in output
    assert "the header is wrong on purpose: the pixels are mirrored along x" in output
    assert "limn refuses the series: RescaleSlope absent" in output
    assert main(["phantom", str(tmp_path / "q"), "--quirk", "no-such"]) == 1
    assert "quirk 'no-such' is unknown" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["phantom", "--quirks"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(QUIRKS)


def test_the_command_offers_every_position_and_stack():
    """The command line repeats them, because it must not import the lab."""
    (commands,) = [
        action
        for action in command_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    choices = {action.dest: action.choices for action in commands.choices["phantom"]._actions}
    assert tuple(choices["position"]) == POSITIONS
    assert tuple(choices["stack"]) == STACKS
