"""The documentation builds as a site: every link leads somewhere, nothing comes from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, str(ROOT / "docs" / "build_site.py"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Loaded(HTMLParser):
    """What a browser loads for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Scripts, styles, pictures and frames; links are only followed by a person."""
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.urls.append(values.get("href") or "")
        self.urls.append(values.get("src") or "")


def test_nothing_is_loaded_from_elsewhere(site):
    """A site may read it without a network."""
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in loaded.urls if re.match(r"(https?:)?//", url)], page


def test_each_reader_has_a_path(site):
    """The tabs, and the first page of each."""
    front = (site / "index.html").read_text(encoding="utf-8")
    for reader in ("Operator", "Physicist", "Python", "Trainer", "Administrator", "Developer"):
        assert reader in front
    for page in ("docs/commands", "docs/trust", "docs/python", "docs/models", "deploy/index"):
        assert (site / f"{page}.html").is_file(), page


def test_every_command_is_in_the_generated_help(site):
    """As `limn --help` lists them."""
    shown = (site / "docs" / "help.html").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "limn.cli", "--help"], capture_output=True, text=True, check=True
    )
    names = re.findall(r"^    ([a-z]+)  ", done.stdout, re.MULTILINE)
    assert len(names) > 15
    for name in names:
        assert f"limn {name}" in shown


def test_the_api_is_in_its_reference(site):
    """With parameters and errors from the docstrings."""
    shown = (site / "docs" / "api.html").read_text(encoding="utf-8")
    for name in ("contour", "Model", "Contours", "Roi", "read", "Scan", "LimnError"):
        assert 'id="limn.' in shown
        assert name in shown
    assert "letters that the axes z, y, x of an image grow towards" in " ".join(shown.split())
