"""``limn lab reproduce`` whose steps are forks of a process that has imported everything once.

Each step of a study is a fresh interpreter, and to import nnunetv2 takes longer than a step of a
small study. A step still has a process, a log and an end of its own.
"""

import multiprocessing
import os
import sys
from pathlib import Path

OUT = "-o"

get_context = multiprocessing.get_context


def _forking_context(method=None):
    """A step comes from the server, and the processes of its own pool are forks of the step."""
    if method == "spawn":
        method = "forkserver" if multiprocessing.parent_process() is None else "fork"
    return get_context(method)


# A step imports this module, too.
multiprocessing.get_context = _forking_context


def main():
    """Run the command with the arguments of this process."""
    from limn.cli.main import main as run  # noqa: PLC0415 - no step needs it
    from limn.lab.systems.nnunet import environment  # noqa: PLC0415

    # The server keeps the environment that it starts with, and nnunetv2 finds its folders there.
    os.environ.update(environment(Path(sys.argv[sys.argv.index(OUT) + 1]) / "nnunet"))
    multiprocessing.set_forkserver_preload(["limn.lab.study.steps"])
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
