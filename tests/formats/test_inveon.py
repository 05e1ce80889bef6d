"""Inveon images: numbers and sizes from the header, the lie from a person."""

import numpy as np
import pytest

from limn.domain.errors import RefusedSeries
from limn.formats.inveon import is_inveon, read_inveon
from tests.support.scanner_files import write_inveon

SHAPE_ZYX = (5, 6, 7)
SPACING_ZYX_MM = (0.1, 0.09, 0.08)
TYPES = {2: "<i2", 3: "<i4", 4: "<f4", 5: ">f4", 6: ">i2", 7: ">i4"}


def numbers(dtype: str) -> np.ndarray:
    """No two voxels are alike."""
    return (np.arange(np.prod(SHAPE_ZYX)).reshape(SHAPE_ZYX) - 100).astype(dtype)


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("named", ["mouse.ct.img", "mouse.ct.img.hdr"])
def test_each_number_lies_where_a_person_says(tmp_path, data_type, named):
    """In every type that the format has, by either file of the pair."""
    stored = numbers(TYPES[data_type])
    write_inveon(tmp_path, stored, SPACING_ZYX_MM, data_type, scale=0.5)
    path = tmp_path / named
    assert is_inveon(path)
    volume = read_inveon(path, "SPL")
    assert np.array_equal(volume.hu_zyx, stored.astype(float) * 0.5)
    assert volume.grid.spacing_mm.zyx == pytest.approx(SPACING_ZYX_MM)
    assert np.array_equal(read_inveon(path, "SPR").hu_zyx, volume.hu_zyx[:, :, ::-1])


def test_the_axes_are_asked_for_with_what_the_header_says(tmp_path):
    """Where the animal lies is not how the array runs to it."""
    image = write_inveon(tmp_path, numbers("<i2"), SPACING_ZYX_MM)
    with pytest.raises(RefusedSeries, match=r"'head first, prone', but not how.*--lie LETTERS"):
        read_inveon(image, "")


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ("modality 1", "modality 0", r"modality is '0', 1 \(CT\) expected"),
        ("total_frames 1", "total_frames 3", "total_frames is '3'"),
        ("data_type 2", "data_type 9", "data_type is '9', one of 2, 3"),
        ("x_dimension 7", "", "x_dimension is missing, a number expected"),
        ("x_dimension 7", "x_dimension 6.5", "x_dimension is '6.5', a whole number"),
        ("x_dimension 7", "x_dimension 8", r"has 420 bytes, and by its header 480 \(8 x 6 x 5"),
        ("x_dimension 7", "x_dimension 99999999999", "99999999999 x 6 x 5 voxels"),
        ("pixel_size_z 0.1", "pixel_size_z 0", "pixel_size_z is '0', millimetres expected"),
        ("scale_factor 1.0", "scale_factor nan", "scale_factor is 'nan', a number"),
    ],
)
def test_what_contradicts_itself_is_named(tmp_path, line, instead, words):
    """With the element, its value and what is expected."""
    image = write_inveon(tmp_path, numbers("<i2"), SPACING_ZYX_MM)
    header = tmp_path / "mouse.ct.img.hdr"
    assert line in header.read_text()
    header.write_text(header.read_text().replace(line, instead, 1))
    with pytest.raises(RefusedSeries, match=words):
        read_inveon(image, "SPL")


def test_a_header_without_its_image_and_an_image_without_its_header(tmp_path):
    """The first is named; the second is no Inveon image."""
    image = write_inveon(tmp_path, numbers("<i2"), SPACING_ZYX_MM)
    image.unlink()
    with pytest.raises(RefusedSeries, match=r"can't be read .*belongs beside its header"):
        read_inveon(tmp_path / "mouse.ct.img.hdr", "SPL")
    other = write_inveon(tmp_path / "other", numbers("<i2"), SPACING_ZYX_MM)
    (tmp_path / "other" / "mouse.ct.img.hdr").unlink()
    assert not is_inveon(other)


def test_an_analyze_pair_is_none(tmp_path):
    """Its header has the same name, and is binary."""
    (tmp_path / "a.hdr").write_bytes(b"\x5c\x01\0\0x_dimension data_type")
    (tmp_path / "a.img").write_bytes(b"")
    assert not is_inveon(tmp_path / "a.hdr")
    assert not is_inveon(tmp_path / "a.img")
