"""The command line: parse, call one function, exit.

Nothing heavy is imported at the top, so that ``limn --help`` answers at once.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from limn import __version__
from limn.cli import board, commission, lab, models, node, phantom
from limn.cli.exits import EXIT_WRONG
from limn.cli.phantom import COHORT
from limn.domain.errors import LimnError
from limn.domain.one_line import plain_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; limn's own errors are printed, not raised."""
    for stream in (sys.stdout, sys.stderr):
        # A file's name may be no UTF-8, and no terminal needs to show every letter.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = command_parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        return int(parsed.run(parsed) or 0)
    except LimnError as error:
        print(f"limn: {plain_lines(str(error))}", file=sys.stderr)
        return EXIT_WRONG
    except sqlite3.DatabaseError as error:
        print(f"limn: {_journal_unusable(error)}", file=sys.stderr)
        return EXIT_WRONG
    except PermissionError as error:
        print(f"limn: {_not_permitted(error)}", file=sys.stderr)
        return EXIT_WRONG
    except KeyboardInterrupt:
        return 130


def _journal_unusable(error: sqlite3.Error) -> str:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return (
            "another program holds a lock on the journal; close it (a database browser, a backup) "
            "and run this again. Nothing was changed"
        )
    return (
        f"the journal can't be read ({error}); `limn check` says more, and `limn serve` sets a "
        "damaged one aside when it starts"
    )


def _not_permitted(error: PermissionError) -> str:
    return (
        f"{error.filename}: {error.strerror}; did limn run as another user (root) before? Give its "
        "data_dir to the user that runs it: chown -R USER data_dir"
    )


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``phantom cohort`` joined to one command.

    argparse can't tell a folder from a command in the same place. A folder of that name is given
    as ``./cohort`` (D-030).
    """
    if list(arguments[:2]) == COHORT.split():
        return [COHORT, *arguments[2:]]
    return list(arguments)


def command_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="limn", description="A DICOM node that contours a mouse while it sleeps."
    )
    parser.add_argument("--version", action="version", version=f"limn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    node.add_commands(commands)
    node.add_scan_commands(commands)
    board.add_commands(commands)
    commission.add_command(commands)
    models.add_commands(commands)
    phantom.add_commands(commands)
    lab.add_commands(commands)
    node.add_demo(commands)
    return parser
