"""Processes of the lab as forks of a server that has imported everything once.

Each is a fresh interpreter otherwise, and to import torch and nnunetv2 takes seconds of a core:
longer than the work of a small training. A fork still has a process and an end of its own.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# As in Python; a process of the server imports this module, too.
get_context = multiprocessing.get_context


@contextmanager
def forking(modules: Sequence[str]) -> Iterator[None]:
    """Within the block ``get_context("spawn")`` gives forks of a server with these modules.

    The server of an earlier block stays, with the modules of that block. Windows has no forks.
    """

    def forking_context(method=None):
        return get_context("forkserver" if method == "spawn" and can_fork else method)

    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    if can_fork:
        multiprocessing.set_forkserver_preload(list(modules))
    multiprocessing.get_context = forking_context
    try:
        yield
    finally:
        multiprocessing.get_context = get_context
