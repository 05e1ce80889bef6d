"""The console and the journal, as the commands on scans open them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from rich.console import Console

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader

# Characters of the longest line, where no terminal bounds it.
UNBOUNDED = 10_000


def plain_console(*, soft_wrap: bool = True) -> Console:
    """A console for text without markup; ``soft_wrap`` keeps a command whole, to be copied."""
    console = Console(emoji=False, markup=False, highlight=False, soft_wrap=soft_wrap)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # No line of a table is cut or folded for the program or the file that reads it.
        console.width = UNBOUNDED
    return console


@contextmanager
def journal_to_read(config: Config) -> Iterator[JournalReader | None]:
    """The journal, to read; None if no scan has come yet."""
    if not config.journal_path.exists():
        yield None
        return
    with closing(JournalReader(config.journal_path)) as journal:
        yield journal


@contextmanager
def journal_to_change(config: Config, names: Sequence[str]) -> Iterator[Journal]:
    """The journal, to change the scans of these names; ConfigWrong if no scan has come yet."""
    if not config.journal_path.exists():
        msg = f"{', '.join(names)}: unknown; no scan has come to {config.data_dir} yet"
        raise ConfigWrong(msg)
    with closing(Journal(config.journal_path)) as journal:
        yield journal
