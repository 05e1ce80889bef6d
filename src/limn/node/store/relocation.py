"""Follows a data folder that a person moved: the journal's paths are brought along.

The journal names files by whole paths, because hosts that share a folder read them. After a move
they would name a folder that is gone, and every scan would look as if retention had removed it.
"""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from limn.domain.one_line import one_line
from limn.node.config import Config
from limn.node.store.journal.journal import Journal

log = logging.getLogger(__name__)


def follow_data_dir(config: Config) -> None:
    """Bring the journal's paths to today's data_dir, before any process reads them.

    A former folder counts if its files lie below today's data_dir, whether it is still there or
    not. What lies nowhere stays as it is.

    Raises
    ------
    OSError, JournalError
        If the journal can't be written.
    """
    if not config.journal_path.exists():
        return
    with closing(Journal(config.journal_path)) as journal:
        for former in _former_folders(config, journal.paths()):
            count = journal.move_paths(former, str(config.data_dir))
            log.warning(
                "data_dir was moved from %s to %s: the journal names %d paths there now",
                one_line(former),
                one_line(config.data_dir),
                count,
            )


def _former_folders(config: Config, paths: set[str]) -> list[str]:
    """Folders that were data_dir, and whose files lie below today's."""
    found = set()
    for path in map(Path, paths):
        for own in (config.spool_dir, config.results_dir):
            # spool/SERIES, scans/SCAN or scans/SCAN/FILE
            for parent in path.parents[:2]:
                former = parent.parent
                within = parent.name == own.name and former != config.data_dir
                if within and (own / path.relative_to(parent)).exists():
                    found.add(str(former))
    return sorted(found)
