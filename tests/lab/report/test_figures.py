"""The sheets of `docs/phantom.md`, drawn small."""

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from limn.cli import exits, main
from limn.domain.errors import ConfigWrong
from limn.lab.report import figures
from limn.lab.report.figures import draw_sheets

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    """Coarse phantoms, quick to paint."""
    monkeypatch.setattr(figures, "SPACING_MM", 0.8)


@pytest.fixture
def unpainted(monkeypatch):
    """Painting a phantom fails the test."""

    def painted(*_):
        pytest.fail("a phantom was painted")

    monkeypatch.setattr(figures, "scan", painted)


def organs(folder, labels):
    """Write labels as NIfTI."""
    image = SimpleITK.GetImageFromArray(labels.astype(np.uint8))
    image.SetSpacing([0.8] * labels.ndim)
    path = folder / "labels.nii.gz"
    SimpleITK.WriteImage(image, str(path))
    return path


def test_every_sheet_is_drawn(small, tmp_path):
    """Native phantoms, with contrast and of other scanners; each sheet shows its pictures.

    Takes more than 10 s: every phantom of the docs is painted, though small.
    """
    written = draw_sheets(tmp_path / "docs", None)
    assert [path.name for path in written] == [
        "phantom-native.png",
        "phantom-contrast.png",
        "phantom-hard.png",
    ]
    heights = []
    for path in written:
        with Image.open(path) as sheet:
            heights.append(sheet.height)
            # Grey tissue and coloured contours.
            pixels = np.asarray(sheet).astype(int)
            assert pixels.std() > 10
            assert (np.ptp(pixels, axis=2) > 60).sum() > 100
    assert heights[0] > heights[1]


def test_a_real_mouse_has_its_own_sheet(small, tmp_path):
    """Its heart is outlined on the image made from its labels."""
    labels = np.zeros((30, 30, 34))
    labels[5:25, 5:25, 6:28] = 10
    labels[8:20, 8:22, 8:16] = 4
    labels[8:20, 8:22, 18:26] = 1
    written = draw_sheets(tmp_path, organs(tmp_path, labels))
    assert written[-1].name == "phantom-real.png"
    with Image.open(written[-1]) as sheet:
        pixels = np.asarray(sheet).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1:].max(axis=2) < 90)
    assert red.sum() > 20


def test_the_wide_sheet_has_room_for_two_animals():
    """At the spacing of the docs its field of view has these voxels."""
    assert figures._voxels(figures.WIDE_FIELD_MM) == (200, 186, 320)


def test_wrong_labels_are_refused_before_anything_is_painted(unpainted, tmp_path, capsys):
    """A missing file, a file of another format, labels without a heart."""
    out = tmp_path / "out"
    missing = tmp_path / "missing.nii.gz"
    assert main.main(["lab", "figures", str(out), "--real", str(missing)]) == exits.EXIT_WRONG
    output = capsys.readouterr().err
    assert output == (
        f"limn: {missing} can't be read as NIfTI; give the organ labels of a real mouse\n"
    )
    text = tmp_path / "text.nii.gz"
    text.write_text("labels")
    with pytest.raises(ConfigWrong, match=r"text.nii.gz can't be read as NIfTI"):
        draw_sheets(out, text)
    with pytest.raises(ConfigWrong, match="holds no heart"):
        draw_sheets(out, organs(tmp_path, np.full((5, 5, 5), 4)))
    with pytest.raises(ConfigWrong, match="holds no heart"):
        draw_sheets(out, organs(tmp_path, np.ones((9, 9))))
