"""Air and soft tissue are found, and scans that are not in HU are mended or refused."""

import contextlib
import dataclasses
import functools

import numpy as np
import pytest

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Volume
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.draw.animals.choose import keep_one_animal
from limn.segment.draw.hounsfield import calibration, find_peaks
from limn.segment.engine.localisation.coarse import coarse

SPACING = SpacingMm(0.45, 0.45, 0.45)
# Soft tissue of the mice here lies within so much of 40 HU after a calibration.
NEAR_HU = 130.0


@functools.cache
def scanned(seed: int = 3, *, contrast: bool = False, truncated: bool = False) -> Volume:
    """A chest with air around, in HU."""
    scanner = Scanner(SPACING, (64, 56, 62), truncation_mm=12.0 if truncated else None)
    return scan(conceive(seed, prone=True, contrast=contrast), scanner, seed)[0]


def picture(hu):
    """The coarse picture of an array."""
    return coarse(np.asarray(hu, dtype=np.float32), SPACING)


def cropped(hu):
    """The middle of the chest, where there is no air outside the animal."""
    return hu[16:48, 17:39, 20:42]


def plain(hu):
    """The scan as it is."""
    return hu


def padded(value, radius):
    """A round field, whose outside has one value."""

    def pad(hu):
        y, x = np.ogrid[: hu.shape[1], : hu.shape[2]]
        outside = np.hypot(y - hu.shape[1] / 2, x - hu.shape[2] / 2) > radius
        return np.where(outside, np.float32(value), hu)

    return pad


def with_metal(hu):
    """A wire and a tag of 20000 HU."""
    hu = hu.copy()
    hu[:, 30, 40] = 20_000.0
    hu[30:34, 20:24, 20:24] = 20_000.0
    return hu


def with_bed(hu):
    """A thick trough of PVC below the animal, across the whole field."""
    return np.concatenate([hu, np.full((len(hu), 8, hu.shape[2]), 900.0, np.float32)], axis=1)


def with_shaded_air(hu):
    """A part of the air 130 HU lower than the rest, as beside metal."""
    hu = hu.copy()
    hu[:24, :24, :24] -= 130.0
    return hu


def in_lungs(hu):
    """A field that ends within the lungs."""
    return hu[24:44, 20:38, 21:40]


@pytest.mark.parametrize("seed", [3, 11, 122])
@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        plain,
        cropped,
        in_lungs,
        padded(-2000.0, 26),
        padded(0.0, 26),
        padded(0.0, 22),
        with_metal,
        with_bed,
        with_shaded_air,
    ],
)
def test_a_scan_in_hu_is_left_as_it_is(seed, contrast, change):
    """Contrast agents, metal, beds, padding and a field without air mislead nobody."""
    hu = change(scanned(seed, contrast=contrast).hu_zyx)
    assert calibration(find_peaks(picture(hu)), "auto") is None
    assert calibration(find_peaks(picture(hu)), "refuse") is None


def test_a_truncated_field_is_left_as_it_is():
    """Neither its bright rim nor the constant air outside counts."""
    assert calibration(find_peaks(picture(scanned(truncated=True).hu_zyx)), "auto") is None


@pytest.mark.parametrize("shift", [-200.0, -100.0, 100.0, 200.0])
def test_what_the_networks_bear_is_left_as_it_is(shift):
    """The very same voxels come back."""
    volume = scanned()
    moved = Volume(volume.hu_zyx + np.float32(shift), volume.grid)
    located = keep_one_animal(moved, "largest", "auto")
    assert located.calibration is None
    assert located.volume is moved


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        pytest.param(1.0, 1000.0, id="HU + 1000"),
        pytest.param(1.0, -1000.0, id="HU - 1000"),
        pytest.param(1.0, 500.0, id="HU + 500"),
        pytest.param(0.5, -500.0, id="half the density"),
        pytest.param(2.0, 1000.0, id="twice the density"),
        pytest.param(0.5, 0.0, id="half"),
        pytest.param(0.025, 25.0, id="attenuation in 1/mm x 1000"),
        pytest.param(8.0, 16000.0, id="raw"),
    ],
)
@pytest.mark.parametrize("seed", [3, 11])
def test_a_scan_that_is_not_in_hu_is_mended(seed, slope, intercept):
    """Air and soft tissue lie where they did; the scan's own array is in HU then."""
    volume = scanned(seed)
    numbers = np.round(volume.hu_zyx * np.float32(slope) + np.float32(intercept))
    before = numbers.copy()
    located = keep_one_animal(Volume(numbers, volume.grid), "largest", "auto")
    found = located.calibration
    assert found is not None
    for hu in (-1000.0, 40.0):
        assert found.slope * (slope * hu + intercept) + found.intercept == pytest.approx(
            hu, abs=NEAR_HU
        )
    assert located.animals == keep_one_animal(volume, "largest").animals
    box = (slice(20, 30), slice(20, 30), slice(20, 30))
    rounding = found.slope
    np.testing.assert_allclose(
        located.part(box).hu_zyx,
        found.slope * before[box] + found.intercept,
        atol=max(1.0, rounding),
    )
    assert located.scan.hu_zyx is numbers
    assert abs(float(np.median(located.part(box).hu_zyx - volume.hu_zyx[box]))) < NEAR_HU
    assert found.flag == f"calibrated:{found.air:.0f}..{found.tissue:.0f}"


@pytest.mark.parametrize("shift", [-1000.0, 500.0, 1000.0])
def test_without_air_to_compare_with_it_is_refused(shift):
    """The peaks, and who must act, are named."""
    hu = cropped(scanned().hu_zyx) + np.float32(shift)
    with pytest.raises(
        RefusedSeries, match=r"not in HU: air's peak .* soft tissue's .* scanner's calibration"
    ):
        calibration(find_peaks(picture(hu)), "auto")


def test_a_site_may_refuse_or_never_look():
    """The other two rules."""
    hu = picture(scanned().hu_zyx + np.float32(1000.0))
    with pytest.raises(RefusedSeries, match=r"air's peak -?\d+ .*model.calibrate to 'auto'"):
        calibration(find_peaks(hu), "refuse")
    assert calibration(find_peaks(hu), "never") is None


def test_padding_is_no_air():
    """Of HU + 1000 with padding of -1000, air is what lies between animal and padding."""
    hu = padded(-1000.0, 24)(scanned().hu_zyx + np.float32(1000.0))
    peaks = find_peaks(picture(hu))
    assert peaks.air is not None
    assert abs(peaks.air.at) < 60
    assert not peaks.in_hu


def test_dense_padding_is_no_tissue():
    """Corners of 0 HU are neither an animal nor a part of one."""
    volume = scanned()
    hu = padded(0.0, 26)(volume.hu_zyx)
    located = keep_one_animal(Volume(hu, volume.grid), "refuse", "auto")
    assert located.animals == 1
    assert located.coarse_spl[:, 0, 0].max() == -1000.0


def test_an_empty_field_is_left_to_the_search_for_animals():
    """Air alone is neither mended nor refused."""
    rng = np.random.default_rng(1)
    air = rng.normal(-1000.0, 30.0, (60, 60, 60)).astype(np.float32)
    assert calibration(find_peaks(picture(air)), "auto") is None
    volume = dataclasses.replace(scanned(), hu_zyx=np.full_like(scanned().hu_zyx, -1000.0))
    assert keep_one_animal(volume, "largest", "auto").animals == 0


@pytest.mark.parametrize("value", [0.0, 40.0, -1000.0, 30_000.0, 3e9])
def test_a_scan_of_one_number_ends_without_an_error_of_its_own(value: float) -> None:
    """Constant pixels have no two peaks: they are left alone, or refused in words."""
    numbers = np.full((20, 24, 32), value, dtype=np.float32)
    numbers[10, 12, 16] = np.nextafter(np.float32(value), np.float32(np.inf))
    with contextlib.suppress(RefusedSeries):
        assert calibration(find_peaks(numbers), "auto") is None
