"""Shows a person the scans that wait for a decision, and asks before anything is done."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from limn.domain.errors import ConfigWrong
from limn.domain.one_line import one_line
from limn.node.config import Config
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.node.store.remedies import (
    discard_command,
    end_reason,
    flags_of,
    picture_path,
    release_command,
    shown_time,
    signature_reason,
)

ENDED_BADLY = ("refused", "failed", "quarantined")
# Longer words make a line of the log, or a cell of a spreadsheet, unreadable.
LONGEST_TEXT = 500


def given_text(option: str, text: str | None, placeholder: str) -> str:
    """What a person gave with an option, in one line; empty if the option was not given.

    Raises
    ------
    ConfigWrong
        If it has no words or too many, or is the placeholder of a command that limn printed.
    """
    if text is None:
        return ""
    words = one_line(" ".join(text.split()))
    if len(words) > LONGEST_TEXT:
        msg = f"{option} has {len(words)} characters, at most {LONGEST_TEXT} fit into the scan log"
        raise ConfigWrong(msg)
    if not any(letter.isalnum() for letter in text):
        msg = f"{option} is empty; give it words, for readers of the scan log"
        raise ConfigWrong(msg)
    if words == placeholder:
        msg = f"{option} {placeholder}: write your own words in place of {placeholder}"
        raise ConfigWrong(msg)
    return words


def unsigned(row: ScanRow, by: str, config_path: Path) -> str:
    """Why a scan can't be released without a name, with the command; empty if it can."""
    why = signature_reason(flags_of(row))
    if by or not why:
        return ""
    return (
        f"{row.name} needs the name of the person who releases it, because {why}: "
        f"{release_command(row, config_path)}"
    )


def print_scan(journal: JournalReader, row: ScanRow, config: Config, console: Console) -> None:
    """Print what a person must know of a scan before the decision."""
    held = row.state not in ENDED_BADLY
    state, since_at = ("held", row.record["contoured_at"]) if held else (row.state, row.ready_at)
    why = journal.structure_set_of(row.id).held if held else end_reason(row)
    since = shown_time(since_at)
    console.print(f"{row.name} animal {row.animal}, {state} since {since}: {why}")
    if flags := flags_of(row):
        console.print(f"  flags    {flags}")
    if held:
        console.print(f"  look at  {picture_path(row, config)}")
    if newer := journal.newer_versions().get(row.id):
        console.print(f"  mind     {newer} is a newer version of the same series")


def print_held(journal: JournalReader, config: Config, config_path: Path, console: Console) -> None:
    """Print each held scan, with the commands that send and discard it."""
    for row in journal.on_hold():
        print_scan(journal, row, config, console)
        console.print(f"  send it  {release_command(row, config_path)}")
        console.print(f"  drop it  {discard_command(row, config_path)}")


def agreed(question: str, *, yes: bool) -> bool:
    """Whether a person at a terminal says yes; true without a question for ``yes`` or a script."""
    if yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        sys.stdout.write("\n")
        return False
    return answer.strip().lower() in ("y", "yes")
