"""Padding is air before anything is measured."""

import numpy as np
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from scipy import ndimage

from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume

SHAPE = (4, 40, 50)
CT = CtIdentity("M1", "2.25.77", ("20260101", "120000"))
# Outside of the reconstructed circle.
y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
OUTSIDE = np.hypot(y - 19.5, x - 24.5) > 19


def read(
    tmp_path,
    padding_hu,
    *,
    syntax=None,
    where=OUTSIDE,
    signed=True,
    noise_hu=200,
    inside_hu=None,
    full_slices=0,
    **header,
):
    """The volume that limn reads where noisy air and a ball have padding around them.

    Parameters
    ----------
    inside_hu : of all that is no padding; by default air and a ball
    full_slices : so many slices have tissue alone
    """
    noise = np.random.default_rng(5).normal(-1000, noise_hu, SHAPE)
    noise[:, 15:25, 20:30] += 1000
    noise[:full_slices] += 1000
    if inside_hu is not None:
        noise = np.random.default_rng(5).normal(inside_hu, 30, SHAPE)
    grid = axial_grid(SHAPE, SpacingMm(0.2, 0.2, 0.2), np.zeros(3))
    measured = np.round(noise)
    intercept = 0 if signed else -1024
    paths = []
    for k, ds in enumerate(ct_instances(Volume(measured.astype(np.float32), grid), CT)):
        stored = measured[k] - intercept
        stored = stored if signed else np.maximum(stored, 0)
        at = where[k] if where.ndim == 3 else where
        value = padding_hu[k][at] if np.ndim(padding_hu) == 3 else padding_hu
        stored[at] = value - intercept
        ds.PixelRepresentation, ds.RescaleIntercept = int(signed), str(intercept)
        ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
        for keyword, (vr, value) in header.items():
            ds.add_new(keyword, vr, value)
        if syntax is not None:
            ds.file_meta.TransferSyntaxUID = syntax
        paths.append(tmp_path / f"{k}.dcm")
        ds.save_as(paths[-1], implicit_vr=syntax is not None, little_endian=True)
    return read_volume(assemble(read_headers(paths))).hu_zyx, measured


@pytest.mark.parametrize(
    ("padding_hu", "header"),
    [
        (-3024, {}),
        (-32768, {}),
        (31000, {}),
        (-2400, {}),
        (-2048, {}),
        (-2000, {}),
        (-2000, {"PixelPaddingValue": ("SS", -2000)}),
        (0, {"PixelPaddingValue": ("SS", 0)}),
        (3071, {"PixelPaddingValue": ("SS", 3071)}),
        (-2000, {"PixelPaddingValue": ("US", 63536)}),
        (-32768, {"PixelPaddingValue": ("SS", -32768)}),
        (31000, {"PixelPaddingValue": ("SS", 31000)}),
        (
            -2100,
            {"PixelPaddingValue": ("SS", -2000), "PixelPaddingRangeLimit": ("SS", -2200)},
        ),
    ],
)
def test_padding_is_air(tmp_path, padding_hu, header):
    """Declared or not, in either sign, one value or a range; what was measured stays."""
    seen, measured = read(tmp_path, padding_hu, **header)
    assert (seen[:, OUTSIDE] == -1000).all()
    if "PixelPaddingRangeLimit" not in header:
        assert np.array_equal(seen[:, ~OUTSIDE], measured[:, ~OUTSIDE])


CORNERS = np.hypot(y - 19.5, x - 24.5) > 30.5


def test_padding_of_two_values_and_in_the_corners_alone_is_air(tmp_path):
    """A field within a field; and a round field that fills the image but for its corners."""
    inner = OUTSIDE & ~CORNERS
    padding_hu = np.where(CORNERS, -32768, -3024)[OUTSIDE]
    seen, measured = read(tmp_path, padding_hu)
    assert (seen[:, OUTSIDE] == -1000).all()
    assert inner.any()
    assert 0.0005 < CORNERS.mean() < 0.01
    seen, measured = read(tmp_path, -3024, where=CORNERS)
    assert (seen[:, CORNERS] == -1000).all()
    assert np.array_equal(seen[:, ~CORNERS], measured[:, ~CORNERS])


def test_padding_of_an_implicit_file_has_the_sign_of_its_pixels(tmp_path):
    """Implicit VR does not say whether the padding value is signed."""
    header = {"PixelPaddingValue": ("SS", -2000)}
    seen, _ = read(tmp_path, -2000, syntax=ImplicitVRLittleEndian, **header)
    assert (seen[:, OUTSIDE] == -1000).all()


def test_padding_of_unsigned_pixels(tmp_path):
    """PixelPaddingValue counts before the rescale."""
    seen, _ = read(tmp_path, 31000, signed=False, PixelPaddingValue=("US", 32024))
    assert (seen[:, OUTSIDE] == -1000).all()


INSIDE = np.zeros_like(OUTSIDE)
INSIDE[18:22, 23:27] = True


@pytest.mark.parametrize("shift", [1000, -1000])
@pytest.mark.parametrize("noise_hu", [0, 25])
@pytest.mark.parametrize("moves", [0, 1])
def test_air_that_lies_elsewhere_is_seen(tmp_path, shift, noise_hu, moves):
    """Air of 0 or of -2000 HU is a wrong rescale, even where noise is cut off to one value."""
    if shift < 0 and not noise_hu:
        # Soft tissue then lies at -1000 HU: only the animal's outline tells it from padding.
        moves = 1
    radius = 15 - moves * np.arange(SHAPE[0])[:, None, None]
    outside = np.hypot(y - 19.5, x - 24.5) > radius
    air = np.round(np.random.default_rng(6).normal(shift - 1000, noise_hu, SHAPE))
    header = {"PixelPaddingValue": ("SS", 0)} if shift > 0 else {}
    seen, _ = read(tmp_path, air, where=outside, inside_hu=shift, **header)
    assert (seen[outside] == air[outside]).all()


def test_a_declared_value_within_the_animal_stays(tmp_path):
    """Metal at the largest number of 12 bits; 0 where it is tissue."""
    for value in (3071, 0):
        where = OUTSIDE | INSIDE
        seen, measured = read(tmp_path, value, where=where, PixelPaddingValue=("SS", value))
        assert (seen[:, INSIDE] == value).all()
        assert (seen[:, OUTSIDE] == -1000).all()
        assert np.array_equal(seen[:, ~where], measured[:, ~where])
        seen, _ = read(tmp_path, value, where=INSIDE, PixelPaddingValue=("SS", value))
        assert (seen[:, INSIDE] == value).all()


def test_padding_that_a_resampling_mixed_with_air_is_air(tmp_path):
    """A voxel at the edge of padding lies between both."""
    edge = ndimage.binary_dilation(OUTSIDE) & ~OUTSIDE
    padding_hu = np.where(edge, -1600, -2000)[OUTSIDE | edge]
    seen, measured = read(tmp_path, padding_hu, where=OUTSIDE | edge, noise_hu=30)
    assert (seen[:, OUTSIDE | edge] == -1000).all()
    rest = ~(OUTSIDE | edge)
    assert np.array_equal(seen[:, rest], measured[:, rest])


def test_padding_beside_a_slice_that_fills_its_field_is_air(tmp_path):
    """Some slices have no air beside padding; the others show what it is."""
    seen, _ = read(tmp_path, -2000, noise_hu=30, full_slices=1)
    assert (seen[:, OUTSIDE] == -1000).all()


def test_metal_is_no_padding(tmp_path):
    """Saturated metal lies inside."""
    seen, _ = read(tmp_path, 30000, where=INSIDE)
    assert (seen[:, INSIDE] == 30000).all()
