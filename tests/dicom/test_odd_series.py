"""Series as real scanners write them: multi-frame, gaps, rounding, odd pixels, odd headers."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRLittleEndian

from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity
from limn.dicom.instance import Unreadable, inspect
from limn.dicom.series import Instance, assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.segment.draw.trace import trace
from tests.conftest import COLOURS, require_peer, write_series
from tests.support.dicom.enhanced import enhance
from tests.support.organs import Organ

SHAPE = (24, 20, 28)
IDENTITY = CtIdentity("M1", "2.25.99.1", ("20260101", "120000"))
STYLE = rtstruct.Style.of_organs(Organ, "Mus musculus", colours=COLOURS)


@pytest.fixture(scope="module")
def volume() -> Volume:
    """A gradient in every direction, so that no swap goes unnoticed."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    grid = axial_grid(SHAPE, SpacingMm(0.14, 0.2, 0.1), np.array([-1.4, -2.0, 3.5]))
    return Volume((z * 37 + y * 11 - x * 5 - 900).astype(np.float32), grid)


@pytest.fixture(scope="module")
def written(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gradient as a series, which nobody changes."""
    folder = tmp_path_factory.mktemp("gradient") / "ct"
    write_series(volume, folder, IDENTITY)
    return folder


@pytest.fixture
def paths(written: Path, tmp_path: Path) -> list[Path]:
    """The gradient as a series of this test alone."""
    return sorted(shutil.copytree(written, tmp_path / "ct").iterdir())


def edit(paths: list[Path], change: Callable[[pydicom.Dataset, int], None]) -> list[Instance]:
    """The series with every header changed, read back."""
    for k, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        change(ds, k)
        ds.save_as(path, enforce_file_format=True)
    return read_headers(paths)


def ball(grid_shape: tuple[int, int, int]) -> np.ndarray:
    """A ball of label 1 in the middle."""
    axes = np.ogrid[tuple(slice(0, n) for n in grid_shape)]
    away = sum(((axis - n / 2) / (n / 3)) ** 2 for axis, n in zip(axes, grid_shape, strict=True))
    return (away < 1).astype(np.uint8)


@pytest.mark.parametrize("shared_rescale", [True, False])
def test_enhanced_multi_frame_equals_its_single_frames(
    paths: list[Path], volume: Volume, tmp_path: Path, shared_rescale: bool
) -> None:
    """Frames in reversed order: the same voxels at the same millimetres."""
    path = enhance(paths[::-1], tmp_path / "enhanced.dcm", shared_rescale=shared_rescale)
    series = assemble(read_headers([path]))
    seen = read_volume(series)
    assert np.array_equal(seen.hu_zyx, volume.hu_zyx)
    assert np.allclose(
        series.grid.slice_origins_xyz_mm, volume.grid.slice_origins_xyz_mm, atol=1e-9
    )
    assert [each.frame for each in series.slices] == list(range(SHAPE[0], 0, -1))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("/usr/bin/dcmcjpls", []),
        ("/usr/bin/dcmcjpeg", []),
        ("/usr/bin/dcmcrle", []),
    ],
)
def test_compressed_multi_frame(
    program: str, options: list[str], paths: list[Path], volume: Volume, tmp_path: Path
) -> None:
    """JPEG-LS, JPEG Lossless and RLE frames decode to the same HU."""
    compressed = []
    for path in paths:
        compressed.append(tmp_path / f"c_{path.name}")
        subprocess.run([require_peer(program), *options, path, compressed[-1]], check=True)
    path = enhance(compressed, tmp_path / "enhanced.dcm")
    assert np.array_equal(read_volume(assemble(read_headers([path]))).hu_zyx, volume.hu_zyx)


@pytest.mark.peer
def test_contours_on_a_multi_frame_instance_name_their_frame(
    paths: list[Path], tmp_path: Path
) -> None:
    """ReferencedFrameNumber in each contour, the instance once for the series; dciodvfy agrees."""
    series = assemble(read_headers([enhance(paths, tmp_path / "enhanced.dcm")]))
    labels = Labels(ball(SHAPE), series.grid, {1: Organ.HEART})
    contours = trace(labels).contours
    contents = rtstruct.build(
        series,
        contours,
        labels.volumes_mm3(),
        rtstruct.Identity("2.25.1", "2.25.2", "20260101", "120000", "limn", "0", "limn"),
        STYLE,
    )
    ds = rtstruct.read(contents)
    assert rtstruct.faults(ds, series) == []
    (item, *_) = ds.ROIContourSequence[0].ContourSequence
    image = item.ContourImageSequence[0]
    assert image.ReferencedFrameNumber == contours[0].slice_index + 1
    frame_of_reference = ds.ReferencedFrameOfReferenceSequence[0]
    referenced = frame_of_reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert len(referenced.ContourImageSequence) == 1
    read_back = rtstruct.contours_of(ds, series, STYLE)
    assert [c.slice_index for c in read_back] == [c.slice_index for c in contours]
    path = tmp_path / "RS.dcm"
    path.write_bytes(contents)
    done = subprocess.run(
        [require_peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )
    assert "Error" not in done.stdout + done.stderr


def as_text(path: Path, keyword: str, vr: str, text: str) -> None:
    """Write a number of the header as a text."""
    ds = pydicom.dcmread(path)
    ds[keyword] = DataElement(tag_for_keyword(keyword), vr, text)
    ds.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("vr", ["UT", "LO", "DS"])
def test_the_size_of_the_pixels_is_read_in_any_vr_of_text(
    paths: list[Path], volume: Volume, vr: str
) -> None:
    """As the other numbers are; by the receiver and by the worker."""
    sizes = pydicom.dcmread(paths[0])
    for path in paths:
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
            as_text(path, keyword, vr, str(sizes[keyword].value))
        for keyword in ("SamplesPerPixel", "PixelRepresentation"):
            as_text(path, keyword, vr, str(sizes[keyword].value))
        as_text(path, "NumberOfFrames", vr, "1")
    assert inspect(paths[0].read_bytes()).places[0] is not None
    assert np.array_equal(read_volume(assemble(read_headers(paths))).hu_zyx, volume.hu_zyx)


@pytest.mark.parametrize(
    ("keyword", "vr"), [("Rows", "UT"), ("BitsAllocated", "LO"), ("NumberOfFrames", "IS")]
)
def test_a_size_of_the_pixels_that_is_no_number_is_named(
    paths: list[Path], keyword: str, vr: str
) -> None:
    """With its value, at both doors."""
    as_text(paths[0], keyword, "LO" if vr == "IS" else vr, "20x1")
    if vr == "IS":
        # pydicom writes no such text in this VR.
        contents = paths[0].read_bytes()
        paths[0].write_bytes(contents.replace(b"LO\x04\x0020x1", b"IS\x04\x0020x1"))
    why = rf"{keyword} '20x1' \(VR {vr}\), a whole number expected"
    with pytest.raises(Unreadable, match=why):
        inspect(paths[0].read_bytes())
    with pytest.raises(RefusedSeries, match=why):
        read_headers(paths)


def test_frames_without_positions_are_refused(paths: list[Path], tmp_path: Path) -> None:
    """Two frames without functional groups have no position."""
    ds = pydicom.dcmread(paths[0])
    ds.NumberOfFrames = 2
    ds.save_as(tmp_path / "two.dcm")
    with pytest.raises(RefusedSeries, match=r"NumberOfFrames 2.*PerFrameFunctionalGroups"):
        assemble(read_headers([tmp_path / "two.dcm"]))


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (8, True), (16, False), (16, True)])
def test_every_kind_of_stored_value(bits: int, signed: bool, paths: list[Path]) -> None:
    """8 and 16 bit, signed and unsigned: HU is stored value times slope plus intercept."""
    low = -(2 ** (bits - 1)) if signed else 0
    stored = (np.arange(SHAPE[1] * SHAPE[2]).reshape(SHAPE[1:]) % 200) + low
    kind = np.dtype(f"{'i' if signed else 'u'}{bits // 8}").newbyteorder("<")

    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.BitsAllocated = ds.BitsStored = bits
        ds.HighBit, ds.PixelRepresentation = bits - 1, int(signed)
        ds.RescaleSlope, ds.RescaleIntercept = "1.5", "-1000.25"
        ds.PixelData = (stored + k % 3).astype(kind).tobytes()
        ds["PixelData"].VR = "OW"

    seen = read_volume(assemble(edit(paths, change))).hu_zyx
    wanted = [(stored + k % 3) * 1.5 - 1000.25 for k in range(len(paths))]
    assert np.array_equal(seen, np.array(wanted, dtype=np.float32))


def test_monochrome1_is_a_matter_of_display(paths: list[Path], volume: Volume) -> None:
    """The photometric interpretation changes no HU (PS3.3 C.11.1 comes before it)."""

    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"

    assert np.array_equal(read_volume(assemble(edit(paths, change))).hu_zyx, volume.hu_zyx)


@pytest.mark.peer
def test_monochrome1_compressed_too(paths: list[Path], volume: Volume, tmp_path: Path) -> None:
    """GDCM would invert it, so limn passes it as MONOCHROME2."""
    edit(paths, lambda ds, k: setattr(ds, "PhotometricInterpretation", "MONOCHROME1"))
    compressed = []
    for path in paths:
        compressed.append(tmp_path / f"c_{path.name}")
        subprocess.run([require_peer("/usr/bin/dcmcjpls"), path, compressed[-1]], check=True)
    assert np.array_equal(read_volume(assemble(read_headers(compressed))).hu_zyx, volume.hu_zyx)


def test_numbers_in_exponent_notation(paths: list[Path], volume: Volume) -> None:
    """1.4E-01 is 0.14: spacing and positions as some scanners write them."""

    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.PixelSpacing = ["2.0E-01", "1.0e-1"]
        position = volume.grid.slice_origins_xyz_mm[k]
        ds.ImagePositionPatient = [f"{value:.5E}" for value in position]

    grid = assemble(edit(paths, change)).grid
    assert (grid.spacing_y_mm, grid.spacing_x_mm) == (0.2, 0.1)
    assert np.allclose(grid.slice_origins_xyz_mm, volume.grid.slice_origins_xyz_mm, atol=1e-9)


@pytest.mark.parametrize("spacing_mm", [0.05, 0.14, 0.4])
def test_positions_rounded_to_a_tenth(spacing_mm: float, tmp_path: Path) -> None:
    """Steps of 0.1 and 0.2 mm are one even stack of 0.14 mm, and every slice keeps its z."""
    count = 60
    grid = axial_grid((count, 8, 8), SpacingMm(spacing_mm, 0.2, 0.2), np.zeros(3))
    paths = write_series(
        Volume(np.zeros((count, 8, 8), dtype=np.float32), grid), tmp_path / "ct", IDENTITY
    )

    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.ImagePositionPatient = ["0", "0", f"{k * spacing_mm:.1f}"]

    if spacing_mm < 0.1:
        with pytest.raises(RefusedSeries, match=r"ImagePositionPatient .* twice"):
            assemble(edit(paths, change))
        return
    series = assemble(edit(paths, change))
    wanted = [round(k * spacing_mm, 1) for k in range(count)]
    assert np.allclose(series.grid.slice_origins_xyz_mm[:, 2], wanted, atol=1e-9)
    assert series.rungs.tolist() == list(range(count))
    assert series.flags == ()


def test_a_gap_shifts_nothing(paths: list[Path], volume: Volume) -> None:
    """Two slices missing: the others keep their positions and their places on the ladder."""
    kept = [k for k in range(SHAPE[0]) if k not in (9, 10)]
    series = assemble(read_headers([paths[k] for k in kept]))
    assert series.rungs.tolist() == kept
    assert series.flags == ("gap:9-10:2",)
    assert np.allclose(
        series.grid.slice_origins_xyz_mm, volume.grid.slice_origins_xyz_mm[kept], atol=1e-9
    )


def test_half_a_series_is_no_gap(paths: list[Path]) -> None:
    """More than a tenth missing: refused, with the slices and the distance."""
    kept = [*paths[:8], *paths[16:]]
    with pytest.raises(RefusedSeries, match=r"slices 8 and 9 of 16 are 1\.2600 mm apart"):
        assemble(read_headers(kept))


@pytest.mark.parametrize(
    ("position", "flag"), [("HFS", ()), ("HFP", ("position:HFP-but-axes-say-HFS",)), ("", ())]
)
def test_patient_position_is_only_held_against_the_axes(
    position: str, flag: tuple[str, ...], paths: list[Path], volume: Volume
) -> None:
    """A header that contradicts its own axes is flagged; the axes are believed."""
    series = assemble(edit(paths, lambda ds, k: setattr(ds, "PatientPosition", position)))
    assert series.flags == flag
    assert np.allclose(series.grid.along_x_xyz, volume.grid.along_x_xyz)


def test_lossy_compression_is_flagged(paths: list[Path]) -> None:
    """LossyImageCompression 01 is accepted and flagged."""
    assert assemble(
        edit(paths, lambda ds, k: setattr(ds, "LossyImageCompression", "01"))
    ).flags == ("lossy",)


def test_a_missing_frame_of_reference_is_made_up_the_same_every_time(paths: list[Path]) -> None:
    """No FrameOfReferenceUID: a flag, and one UID that follows from the series."""

    def change(ds: pydicom.Dataset, k: int) -> None:
        del ds.FrameOfReferenceUID

    series = assemble(edit(paths, change))
    assert series.flags == ("no-frame-of-reference",)
    labels = Labels(ball(SHAPE), series.grid, {1: Organ.HEART})
    made = [
        rtstruct.read(
            rtstruct.build(
                series,
                trace(labels).contours,
                labels.volumes_mm3(),
                rtstruct.Identity(uid, "2.25.2", "20260101", "120000", "limn", "0", "limn"),
                STYLE,
            )
        ).FrameOfReferenceUID
        for uid in ("2.25.1", "2.25.3")
    ]
    assert made[0] == made[1] != series.first.SeriesInstanceUID


def test_tiny_differences_in_orientation_are_no_other_orientation(paths: list[Path]) -> None:
    """The last decimal of ImageOrientationPatient wobbles in some headers."""

    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.ImageOrientationPatient = [1, 1e-9 * k, 0, 0, 1, 0]

    assert len(assemble(edit(paths, change)).slices) == SHAPE[0]


@pytest.mark.parametrize(
    ("keyword", "even", "odd"),
    [
        ("PixelSpacing", [0.2000004, 0.1], [0.2000006, 0.1]),
        ("PixelSpacing", [0.2, 0.09999949], [0.2, 0.09999951]),
        ("ImageOrientationPatient", [1, 4.9e-5, 0, 0, 1, 0], [1, 5.1e-5, 0, 0, 1, 0]),
        ("ImageOrientationPatient", [0.9999999, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1e-7]),
    ],
)
def test_a_last_digit_decides_nothing_wherever_it_is_rounded(
    keyword: str, even: list[float], odd: list[float], paths: list[Path]
) -> None:
    """Writers differ in the seventh digit; the grid is one, in whatever order the slices came."""

    def change(ds: pydicom.Dataset, k: int) -> None:
        setattr(ds, keyword, odd if k % 2 else even)

    instances = edit(paths, change)
    grid, again = assemble(instances).grid, assemble(instances[::-1]).grid
    assert grid.spacing_mm == again.spacing_mm
    assert np.array_equal(grid.along_x_xyz, again.along_x_xyz)
    assert np.allclose([grid.spacing_y_mm, grid.spacing_x_mm], [0.2, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", [0.2, 0.10002]),
        ("ImageOrientationPatient", [1, 2e-4, 0, -2e-4, 1, 0]),
    ],
)
def test_a_geometry_that_moves_a_voxel_is_another(
    keyword: str, value: list[float], paths: list[Path]
) -> None:
    """A fifth of a voxel over a thousand is more than last digits explain."""

    def change(ds: pydicom.Dataset, k: int) -> None:
        if k == 5:
            setattr(ds, keyword, value)

    with pytest.raises(RefusedSeries, match=rf"{keyword} differs .* in 1 instances, first .*\.6"):
        assemble(edit(paths, change))


def test_predecessor_strain_and_codes(paths: list[Path]) -> None:
    """A new version names the one it replaces; organs and algorithm are coded."""
    series = assemble(read_headers(paths))
    labels = Labels(ball(SHAPE), series.grid, {1: Organ.LUNG_L})
    identity = rtstruct.Identity(
        "2.25.1",
        "2.25.2",
        "20260101",
        "120000",
        "limn",
        "0",
        "limn bundle",
        algorithm_version="a" * 64,
        predecessor_uid="2.25.7",
    )
    style = replace(STYLE, strain="C57BL/6J")
    ds = rtstruct.read(
        rtstruct.build(series, trace(labels).contours, labels.volumes_mm3(), identity, style)
    )
    assert ds.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == "2.25.7"
    assert ds.StrainDescription == "C57BL/6J"
    (roi,) = ds.StructureSetROISequence
    (algorithm,) = roi.ROIDerivationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmVersion == "a" * 64
    assert roi.ROIGenerationAlgorithm == "AUTOMATIC"
    (observation,) = ds.RTROIObservationsSequence
    (code,) = observation.RTROIIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("44029006", "SCT")
    assert observation.RTROIInterpretedType == "ORGAN"
    assert ds.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian


def test_a_slight_obliquity_and_other_units_are_flagged(paths: list[Path]) -> None:
    """Half a degree is contoured and flagged; so is a RescaleType that is not HU."""
    sine = float(np.sin(np.radians(0.5)))
    cosine = float(np.cos(np.radians(0.5)))

    def change(ds: pydicom.Dataset, k: int) -> None:
        ds.ImageOrientationPatient = [f"{v:.9f}" for v in (1, 0, 0, 0, cosine, sine)]
        ds.ImagePositionPatient = [f"{v:.6f}" for v in (0, -sine * k * 0.14, cosine * k * 0.14)]
        ds.RescaleType = "US"

    assert assemble(edit(paths, change)).flags == ("rescale-type:US", "oblique:0.50deg")


@pytest.mark.parametrize(
    ("keyword", "value", "complaint"),
    [
        ("RescaleSlope", "0", r"RescaleSlope 0"),
        ("HighBit", 12, r"HighBit 12, 15 expected"),
        ("StudyInstanceUID", "2.25.4242", r"StudyInstanceUID differs"),
        ("SOPInstanceUID", "2.25.99.1.3.2", r"SOPInstanceUID 2\.25\.99\.1\.3\.2 names 2 files"),
        ("ImageType", "LOCALIZER", r"ImageType LOCALIZER: the series has a scout"),
    ],
)
def test_one_odd_slice_is_refused_by_its_keyword(
    keyword: str, value: object, complaint: str, paths: list[Path]
) -> None:
    """If only the first slice is odd, the refusal names its keyword and no other."""

    def change(ds: pydicom.Dataset, k: int) -> None:
        if k == 0:
            setattr(ds, keyword, value)

    with pytest.raises(RefusedSeries, match=complaint):
        assemble(edit(paths, change))


@pytest.mark.parametrize("kind", ["US held", "HU\x1b[31m\nx", "a\tb"])
def test_a_rescale_type_is_one_flag_in_one_line(paths: list[Path], kind: str) -> None:
    """A space stands between two flags, and the log and scans.csv show them to people."""

    def change(ds: pydicom.Dataset, _k: int) -> None:
        ds["RescaleType"] = pydicom.DataElement(0x00281054, "LT", kind)

    (flag,) = assemble(edit(paths, change)).flags
    assert flag.startswith("rescale-type:")
    assert flag.isprintable()
    assert not any(letter.isspace() for letter in flag)


@pytest.mark.parametrize("keyword", ["ImageOrientationPatient", "PixelSpacing"])
def test_slices_that_are_off_to_both_sides_are_one_series(paths: list[Path], keyword: str) -> None:
    """Noise of 1e-4: two slices differ by more than the tolerance, and none from the median."""
    chance = np.random.default_rng(1)

    def change(ds: pydicom.Dataset, _k: int) -> None:
        plain = np.array(ds[keyword].value, dtype=float)
        noise = chance.uniform(-1e-4, 1e-4, plain.shape)
        scale = plain if keyword == "PixelSpacing" else 1.0
        ds[keyword].value = [f"{v:.8f}" for v in plain + noise * scale]

    grid = assemble(edit(paths, change)).grid
    assert grid.spacing_mm.x == pytest.approx(0.1, rel=2e-4)
    assert grid.along_x_xyz == pytest.approx([1, 0, 0], abs=2e-4)


@pytest.mark.parametrize("text", ["0", "-1", "abc", "inf", "-inf", "nan", "1e999", "2\\3", ""])
def test_a_count_in_the_header_that_is_none_is_no_count(paths: list[Path], text: str) -> None:
    """ImagesInAcquisition is for information: nothing of it refuses a slice or is waited for."""
    ds = pydicom.dcmread(paths[0])
    ds["ImagesInAcquisition"] = pydicom.DataElement(0x00201002, "LT", text)
    ds.save_as(paths[0], enforce_file_format=True)
    # As an IS, of which pydicom itself would write no such value.
    contents = paths[0].read_bytes().replace(b"\x20\x00\x02\x10LT", b"\x20\x00\x02\x10IS")
    assert inspect(contents).announced_slices is None
