"""``python -m tests.support.node.fake_node CONFIG [PART]``: ``limn serve`` whose workers threshold.

Every process is the real one; only the networks of the worker and of the shadow are replaced, and
torch, which would run them.
"""

import os
import sys
from pathlib import Path

from limn.domain.errors import LimnError
from limn.node.serve.supervisor import Supervisor

SHADOW = "tests.support.node.fake_shadow"
REAL, FAKE = "limn.node.contour.work.worker", "tests.support.node.fake_worker"
NO_NETWORKS = Path(__file__).with_name("no_networks")


class FakeNode(Supervisor):
    """A supervisor whose workers preload the fake worker."""

    def _children(self):
        children = super()._children()
        for child in children:
            child.command = [FAKE if part == REAL else part for part in child.command]
            if child.name == "shadow":
                child.command = [sys.executable, "-m", SHADOW, str(self._config_path)]
            if child.name == "shadow" or FAKE in child.command:
                path = os.pathsep.join((str(NO_NETWORKS), os.environ["PYTHONPATH"]))
                child.environment = {**child.environment, "PYTHONPATH": path}
        assert sum(FAKE in child.command for child in children) >= 1
        return children


if __name__ == "__main__":
    try:
        FakeNode(Path(sys.argv[1]), *sys.argv[2:]).run()
    except LimnError as error:
        raise SystemExit(str(error)) from error
