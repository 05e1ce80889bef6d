import pytest

from tests.support.node.site import Site


@pytest.fixture
def site(tmp_path, capsys, monkeypatch):
    """A site with a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "60")
    site = Site(tmp_path, capsys)
    yield site
    site.journal.close()
