import pytest

from tests.support.node.came_back import CameBack


@pytest.fixture
def node(tmp_path):
    """A data folder of a node, with contoured scans."""
    (tmp_path / "data").mkdir()
    made = CameBack(tmp_path / "data")
    yield made
    made.journal.close()
