"""Trainings of one organ, of seven, and without heart, cord or lungs, through every command."""

import zipfile

import numpy as np
import pytest

from limn.cli import main
from limn.dicom.ct import CtIdentity
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import TG263_ROLES, Volume
from limn.segment.bundle.bundle import open_bundle
from tests.conftest import free_port, write_series
from tests.node.contour.test_any_organs import COMBINATIONS
from tests.node.operate.test_check import CONFIG
from tests.support.segment.v1_format import Net, plans_of, write_v1

TASK = "nnUNet/3d_fullres/Task501_Mouse/nnUNetTrainerV2__nnUNetPlansv2.1"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("names", COMBINATIONS.values(), ids=list(COMBINATIONS))
def test_such_a_training_goes_through_every_command(names, tmp_path, monkeypatch, capsys):
    """It is imported, verified, packed, installed elsewhere, tried by `--check`, and checked."""
    monkeypatch.setenv("LIMN_MODELS", str(tmp_path / "shelf"))
    monkeypatch.setenv("COLUMNS", "200")

    def limn(*arguments):
        code = main.main(list(map(str, arguments)))
        streams = capsys.readouterr()
        return code, streams.out + streams.err

    net = Net([[3, 3, 3]] * 3, [[2, 2, 2]] * 2, classes=len(names) + 1)
    plans = plans_of(net, (16, 16, 24), spacing=(0.6, 0.6, 0.6), classes=len(names))
    v1 = write_v1(tmp_path / "results" / TASK, [net], plans)
    labels = ",".join(f"{label}={name}" for label, name in enumerate(names, 1))
    given = ("--labels", labels, "--name", "other")
    code, output = limn("models", "import", v1, *given, "--orientation", "SPL")
    assert code == 0, output
    bundle = open_bundle(tmp_path / "shelf/other-1")
    assert list(bundle.organs.values()) == list(names)
    assert dict(bundle.roles) == {role: name for role, name in TG263_ROLES.items() if name in names}
    assert limn("models", "verify", "other-1")[0] == 0
    code, output = limn("models", "pack", tmp_path / "shelf/other-1", "-o", tmp_path / "o.zip")
    assert code == 0, output
    assert zipfile.ZipFile(tmp_path / "o.zip").testzip() is None
    code, output = limn("models", "install", tmp_path / "o.zip", "--models-dir", tmp_path / "two")
    assert code == 0, output
    assert open_bundle(tmp_path / "two/other-1").sha256 == bundle.sha256
    z, y, x = np.ogrid[:40, :34, :34]
    body = (y - 17) ** 2 + (x - 17) ** 2 < 14**2
    hu = np.where(body & (z >= 0), 40.0, -1000.0).astype(np.float32)
    volume = Volume(hu, axial_grid(hu.shape, SpacingMm(0.6, 0.6, 0.6), np.zeros(3)))
    write_series(volume, tmp_path / "ct", CtIdentity("M1", "2.25.7", ("20260101", "120000")))
    _, output = limn("models", "import", v1, *given, "--version", "2", "--check", tmp_path / "ct")
    # A network at random draws nothing plausible, or the same in several directions.
    if bundle.roles:
        assert "ways are plausible" in output, output
        assert all(f"{name} mm3" in output for name in names)
    else:
        assert "no label is one of these; give --orientation, and leave --check out" in output
    config = tmp_path / "limn.toml"
    ports = {name: free_port() for name in ("receive", "engine", "wake", "metrics")}
    head, _, _ = CONFIG.format(bundle="other-1", tps=1, **ports).partition("[[destination]]")
    folder = '[[destination]]\nkind = "folder"\nname = "out"\nfolder = "out"\n'
    config.write_text(head + folder)
    code, output = limn("check", "--config", config)
    assert code == 0, output
    assert "other-1, every file matches its sha256" in output
