"""One node on a data folder, also after a sweeper has deleted its lock file."""

import subprocess
import sys
from pathlib import Path

import pytest

from limn.domain.errors import ConfigWrong
from limn.node.config import load_config
from limn.node.serve.lock import only_node

SECOND = """
import sys
from pathlib import Path
from limn.node.config import load_config
from limn.node.serve.lock import only_node
with only_node(load_config(Path(sys.argv[1])), "limn"):
    pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no open file")
def test_a_deleted_lock_file_lets_no_second_node_start(tmp_path: Path) -> None:
    """A second process is refused while the first runs, and starts after it."""
    config_path = tmp_path / "limn.toml"
    config_path.write_text(
        'data_dir = "data"\nmodel.bundle = "b"\n'
        '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "out"\n'
    )
    config = load_config(config_path)
    config.data_dir.mkdir(mode=0o700)
    second = [sys.executable, "-c", SECOND, str(config_path)]
    with only_node(config, "limn"):
        (config.data_dir / "limn.lock").unlink()
        refused = subprocess.run(second, capture_output=True, text=True, check=False)
        assert "another limn runs on" in refused.stderr
        with pytest.raises(ConfigWrong, match="another limn runs"), only_node(config, "limn"):
            pass
    with only_node(config, "limn"):
        pass
