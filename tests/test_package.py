"""The wheel that a user installs: it has bundle and example config, and runs without a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LARGEST_BYTES = 60_000_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the sdist, as an installer without wheels does."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run([*build, "-t", "sdist"], cwd=REPOSITORY, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    subprocess.run(["tar", "-xf", str(sdist), "-C", str(folder)], check=True)
    source = folder / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*build, "-t", "wheel"], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_it_has_what_limn_needs(wheel):
    """And fits on a package index."""
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert wheel.stat().st_size < LARGEST_BYTES
    for name in (
        "limn/shipped/models/phantom-7/bundle.toml",
        "limn/shipped/models/phantom-7/fold_4/checkpoint_final.pth",
        "limn/shipped/config/node.toml",
        "limn/py.typed",
        "limn/__init__.pyi",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests", "bench", "limn/tests"))]


def test_it_runs_in_an_empty_folder(wheel, tmp_path):
    """Beside the packages that are installed here, and without a checkout."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site), "LIMN_MODELS": str(tmp_path / "none")}

    def limn(*arguments: str) -> str:
        command = [sys.executable, "-m", "limn.cli", *arguments]
        done = subprocess.run(
            command, cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import limn; print(limn.__file__)"]
    found = subprocess.run(
        where, cwd=empty, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(site))
    assert "phantom-7" in limn("models", "list")
    assert "limn check --config site.toml" in limn("init", "site.toml")
    assert (empty / "site.toml").exists()
