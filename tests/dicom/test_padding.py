"""Padding is air before anything is measured."""

import numpy as np
import pytest
from pydicom.uid import ImplicitVRLittleEndian

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


def read(tmp_path, padding_hu, *, syntax=None, where=OUTSIDE, signed=True, **header):
    """The volume that limn reads where noisy air and a ball have padding around them."""
    noise = np.random.default_rng(5).normal(-1000, 200, SHAPE)
    noise[:, 15:25, 20:30] += 1000
    grid = axial_grid(SHAPE, SpacingMm(0.2, 0.2, 0.2), np.zeros(3))
    measured = np.round(noise)
    intercept = 0 if signed else -1024
    paths = []
    for k, ds in enumerate(ct_instances(Volume(measured.astype(np.float32), grid), CT)):
        stored = measured[k] - intercept
        stored = stored if signed else np.maximum(stored, 0)
        stored[where] = padding_hu - intercept
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
        (-2000, {"PixelPaddingValue": ("SS", -2000)}),
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


def test_a_padding_value_that_tissue_has_changes_nothing(tmp_path):
    """Headers declare 0 wrongly; and air that reads as 0 HU must still be seen."""
    seen, measured = read(tmp_path, 0, PixelPaddingValue=("SS", 0))
    assert (seen[:, OUTSIDE] == 0).all()
    assert np.array_equal(seen[:, ~OUTSIDE], measured[:, ~OUTSIDE])


def test_metal_and_shifted_air_are_no_padding(tmp_path):
    """Saturated metal lies inside; air at -2000 HU is a wrong rescale, not padding."""
    inside = np.zeros_like(OUTSIDE)
    inside[18:22, 23:27] = True
    seen, _ = read(tmp_path, 30000, where=inside)
    assert (seen[:, inside] == 30000).all()
    seen, _ = read(tmp_path, -2000)
    assert (seen[:, OUTSIDE] == -2000).all()
