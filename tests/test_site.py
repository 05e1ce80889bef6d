"""The documentation builds as a site: every link leads somewhere, nothing comes from elsewhere."""

import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

import limn
from tests.conftest import require_peer

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


class Silent(SimpleHTTPRequestHandler):
    """Serves files and writes nothing to the terminal."""

    def log_message(self, *_: object) -> None:
        """No line for a request."""


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
    for name in set(limn.__all__) - {"LimnError", "__version__"}:
        assert f'id="limn.api.{name}"' in shown, name
    assert 'id="limn.domain.errors.LimnError"' in shown
    (row,) = re.findall(
        r"<tr[^>]*>(?:(?!</tr>).)*letters that the axes z, y, x.*?</tr>", shown, re.S
    )[:1]
    cells = [re.sub(r"<[^>]+>", "", cell).split() for cell in re.findall(r"<td.*?</td>", row, re.S)]
    assert [cells[0], cells[1]] == [["lie"], ["str"]]
    assert " ".join(cells[2]).startswith("letters that the axes z, y, x of an image grow towards")


def test_each_page_is_on_a_path(site):
    """But the rooms of the decisions, which their index leads to, and the study's tables."""
    nav = (ROOT / "docs" / "site.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    tracked = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    pages = {path.relative_to(ROOT).as_posix() for path in tracked}
    listed = set(re.findall(r"(\S+\.md)$", nav, re.MULTILINE))
    below = ("docs/decisions/", "docs/study/tables.md")
    assert {page for page in pages - listed if not page.startswith(below)} == set()


@pytest.mark.peer
def test_the_search_finds_a_command(site):
    """In Chromium, from a plain server; whatever it asks for is on that server."""
    chromium, asked = require_peer("/usr/bin/chromium"), []
    handler = partial(Silent, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.locator(".md-search__input").fill("limn release")
        page.locator(".md-search-result__link").first.wait_for()
        found = page.locator(".md-search-result__link").first.get_attribute("href")
        browser.close()
        server.shutdown()
    assert "docs/" in found
    assert {urlsplit(url).netloc for url in asked} == {f"127.0.0.1:{server.server_port}"}
