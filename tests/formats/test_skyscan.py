"""SkyScan sections: sizes from the log, the lie from a person, and nothing missing."""

import numpy as np
import pytest
from PIL import Image

from limn.domain.errors import RefusedSeries
from limn.formats.axes import ASK
from limn.formats.skyscan import read_skyscan, skyscan_log
from tests.support.scanner_files import write_sections

SHAPE_ZYX = (5, 6, 7)


def grey(dtype: type) -> np.ndarray:
    """No two voxels are alike."""
    return np.arange(np.prod(SHAPE_ZYX), dtype=dtype).reshape(SHAPE_ZYX)


@pytest.mark.parametrize(
    ("ending", "dtype", "factor"),
    [
        ("tif", np.uint16, 1 / 16),
        ("tif", np.uint8, 16),
        ("bmp", np.uint8, 16),
        ("png", np.uint8, 16),
        ("png", np.uint16, 1 / 16),
    ],
)
def test_each_grey_value_lies_where_a_person_says(tmp_path, ending, dtype, factor):
    """The section number is the array's z; a scale of 12 bits takes both depths."""
    stored = grey(dtype)
    log = write_sections(tmp_path, stored, 51.423, ending)
    assert skyscan_log(tmp_path) == log
    volume = read_skyscan(log, "SPL")
    assert np.allclose(volume.hu_zyx, stored.astype(float) * factor)
    assert volume.grid.spacing_mm.zyx == pytest.approx((0.051423,) * 3)
    # Sections that grow to the tail, rows to the belly: a turn, no mirror image.
    turned = read_skyscan(log, "IAL")
    assert np.allclose(turned.hu_zyx, (stored.astype(float) * factor)[::-1, ::-1])


def test_sections_further_apart_than_their_pixels(tmp_path):
    """By the step in the log, whether the files have the number of the section or not."""
    log = write_sections(tmp_path, grey(np.uint16), 50.0, step=2)
    assert read_skyscan(log, "SPL").grid.spacing_mm.zyx == pytest.approx((0.1, 0.05, 0.05))


def test_the_lie_of_an_animal_is_asked_for(tmp_path):
    """No log says it."""
    log = write_sections(tmp_path, grey(np.uint8), 50.0)
    with pytest.raises(RefusedSeries) as refused:
        read_skyscan(log, "")
    assert ASK in str(refused.value)
    assert "section number" in str(refused.value)
    with pytest.raises(RefusedSeries, match="--lie SPP: three letters"):
        read_skyscan(log, "SPP")


def test_a_missing_section_is_named(tmp_path):
    """In the middle and at an end."""
    log = write_sections(tmp_path, grey(np.uint8), 50.0)
    (tmp_path / "mouse_rec00000022.tif").unlink()
    with pytest.raises(RefusedSeries, match=r"4 sections.*1 are missing.*first 22.*log says 5"):
        read_skyscan(log, "SPL")
    write_sections(tmp_path, grey(np.uint8), 50.0)
    (tmp_path / "mouse_rec00000024.tif").unlink()
    with pytest.raises(RefusedSeries, match=r"4 sections, 20 to 23; its log says 5"):
        read_skyscan(log, "SPL")


@pytest.mark.parametrize("ending", ["tif", "bmp", "png", "jpg"])
def test_half_a_section_is_no_section(tmp_path, ending):
    """No grey value is made up for those that are missing."""
    log = write_sections(
        tmp_path, np.full((3, 60, 70), 7, np.uint8) + grey(np.uint8)[0, 0, 1], 50.0, ending
    )
    path = tmp_path / f"mouse_rec00000021.{ending}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(RefusedSeries, match=r"21.* can't be read as an image"):
        read_skyscan(log, "SPL")


@pytest.mark.parametrize("ending", ["tif", "png", "jpg"])
def test_a_section_that_is_to_be_shown_mirrored_is_refused(tmp_path, ending):
    """Nobody knows whether a person's letters are for the rows as stored, or as shown."""
    log = write_sections(tmp_path, grey(np.uint8), 50.0, ending)
    path = tmp_path / f"mouse_rec00000021.{ending}"
    section, exif = Image.fromarray(grey(np.uint8)[1]), Image.Exif()
    for turn in (1, 2):
        exif[0x0112] = turn
        section.save(path, exif=exif)
        if turn == 1:
            assert read_skyscan(log, "SPL").hu_zyx.shape == SHAPE_ZYX
    with pytest.raises(RefusedSeries, match=rf"21.{ending}: its Orientation is 2, .* 1 expected"):
        read_skyscan(log, "SPL")


def test_what_does_not_fit_the_log_is_named(tmp_path):
    """A section of another size, two files of one section, a log without a pixel size."""
    log = write_sections(tmp_path, grey(np.uint8), 50.0)
    other = write_sections(tmp_path / "other", grey(np.uint8)[:, :4], 50.0)
    wrong = tmp_path / "mouse_rec00000021.tif"
    wrong.write_bytes((other.parent / wrong.name).read_bytes())
    with pytest.raises(RefusedSeries, match=r"21.tif has 7 x 4 pixels, by its log 7 x 6 grey ones"):
        read_skyscan(log, "SPL")
    (tmp_path / "mouse_rec0021.tif").write_bytes(wrong.read_bytes())
    with pytest.raises(RefusedSeries, match="are one section"):
        read_skyscan(log, "SPL")
    log.write_text(log.read_text("latin-1").replace("Pixel Size (um)=50", "Pixel Size (um)=-50"))
    with pytest.raises(RefusedSeries, match=r"Pixel Size \(um\) is '-50.00000'"):
        read_skyscan(log, "SPL")


def test_a_size_that_nobody_believes_asks_for_no_memory(tmp_path):
    """Before any section is opened."""
    log = write_sections(tmp_path, grey(np.uint8), 50.0)
    text = log.read_text("latin-1").replace("(pixels)=7", "(pixels)=70000000000")
    log.write_text(text, "latin-1")
    with pytest.raises(RefusedSeries, match="70000000000 x 6 x 5 voxels"):
        read_skyscan(log, "SPL")


def test_a_folder_with_two_reconstructions_or_without_sections(tmp_path):
    """DICOM that NRecon wrote has a log beside it too."""
    write_sections(tmp_path / "a", grey(np.uint8), 50.0)
    (tmp_path / "a" / "second.log").write_text("[Reconstruction]\nSections Count=5\n")
    with pytest.raises(RefusedSeries, match="2 reconstructions"):
        skyscan_log(tmp_path / "a")
    log = write_sections(tmp_path / "b", grey(np.uint8), 50.0)
    for path in log.parent.glob("*.tif"):
        path.rename(path.with_suffix(".dcm"))
    assert skyscan_log(log.parent) is None
    (tmp_path / "projections").mkdir()
    (tmp_path / "projections" / "mouse.log").write_text("[Acquisition]\n")
    (tmp_path / "projections" / "mouse0001.tif").touch()
    assert skyscan_log(tmp_path / "projections") is None
