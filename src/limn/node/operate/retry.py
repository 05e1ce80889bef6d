"""Lets a scan that ended badly run again, and offers a structure set again.

Both commands change the journal alone, so that they work with a running and a stopped node. A scan
that runs again keeps the UIDs of its structure set. A structure set that is offered again is the
same file, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, load_config
from limn.node.host.doorbell import engine_runs, send_wake
from limn.node.operate.journal_access import journal_to_change, plain_console
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow, StructureSetRow
from limn.node.store.journal.schema import LIVE
from limn.node.store.remedies import (
    address,
    decision_notice,
    end_reason,
    release_command,
    resend_command,
)


def retry(config_path: Path, names: Sequence[str]) -> None:
    """Let scans that were refused, failed or quarantined run again, with all tries.

    Raises
    ------
    ConfigWrong
        If any scan can't: names each such scan and why, and no scan runs again.
    """
    config = load_config(config_path)
    console = plain_console()
    with journal_to_change(config, names) as journal:
        known = journal.named(names)
        obstacles = {
            name: _why_no_retry(journal, known.get(name), config_path)
            for name in dict.fromkeys(names)
        }
        _raise_on_obstacle(obstacles, "nothing runs again")
        newer = journal.newer_versions()
        for name in obstacles:
            row = known[name]
            dismissed = decision_notice(row, None)
            if not journal.retry(row.id, time.time()):
                console.print(f"{name} animal {row.animal} runs again already")
                continue
            console.print(
                f"{name} animal {row.animal} runs again; it was {row.state}: {end_reason(row)}"
            )
            if dismissed:
                console.print(f"  mind it was {dismissed}")
            if row.id in newer:
                console.print(f"  mind {newer[row.id]} is a newer version of the same series")
    _wake_node(config, console, "starts")


def resend(config_path: Path, names: Sequence[str], to: str | None) -> None:
    """Offer written structure sets again: to every destination they had, or to one.

    Raises
    ------
    ConfigWrong
        If any scan can't be sent: names each such scan and why, and none is sent.
    """
    config = load_config(config_path)
    peers = {destination.name: destination for destination in config.destination}
    if to is not None and to not in peers:
        msg = f"--to {to}: no such destination; the config names {', '.join(peers)}"
        raise ConfigWrong(msg)
    console = plain_console()
    with journal_to_change(config, names) as journal:
        known = journal.named(names)
        obstacles = {
            name: _why_no_resend(journal, known.get(name), config_path)
            for name in dict.fromkeys(names)
        }
        _raise_on_obstacle(obstacles, "nothing is sent again")
        for name in obstacles:
            row = known[name]
            had = [delivery.destination for delivery in journal.deliveries(row.id)]
            path = journal.structure_set_of(row.id).path
            offered = journal.resend(
                row.id, [to] if to else [n for n in had if n in peers], time.time()
            )
            console.print(f"{name} animal {row.animal} is offered again")
            for destination in offered:
                console.print(f"  {path} -> {destination}, {address(peers[destination])}")
            for each in journal.deliveries(row.id):
                if each.state == "discarded" and to in (None, each.destination):
                    console.print(f"  not to {each.destination}: {each.status}")
            if to is None:
                for gone in sorted(set(had) - peers.keys()):
                    console.print(f"  {gone} is not in the config any more; nothing goes there")
    _wake_node(config, console, "sends")


def _raise_on_obstacle(obstacles: dict[str, str], consequence: str) -> None:
    lines = [f"{name} {why}" for name, why in obstacles.items() if why]
    if lines:
        raise ConfigWrong("; ".join((*lines, consequence)))


def _why_no_retry(journal: JournalReader, row: ScanRow | None, config_path: Path) -> str:
    """Why a scan can't run again; empty if it can."""
    if row is None:
        return "is unknown; `limn queue` and `limn log` list the scans"
    if row.state == "ready":
        return "waits for a worker" if row.started_at is None else f"runs, try {row.tries}"
    if row.state == "contoured":
        if obstacle := _why_no_resend(journal, row, config_path):
            return f"is contoured already and {obstacle}"
        return f"is contoured already; to send it once more: {resend_command(row, config_path)}"
    if journal.find_structure_set(row.id) is None:
        return f"was never complete ({row.reason}); send the series again from the scanner"
    gone = [name for name in row.files if not (Path(row.folder) / name).is_file()]
    lost = f"has lost {len(gone)} of its {len(row.files)} files in {row.folder}; send the series"
    return f"{lost} again from the scanner" if gone else ""


def _why_no_resend(journal: JournalReader, row: ScanRow | None, config_path: Path) -> str:
    """Why a structure set can't be offered again; empty if it can."""
    if row is None:
        return "is unknown; `limn queue` and `limn log` list the scans"
    if row.state == "ready":
        return "is not contoured yet"
    if row.state != "contoured":
        return f"was {row.state}, so there is nothing to send: {end_reason(row)}"
    if row.priority < LIVE:
        return "was contoured for a folder and has no destination; send the series to the node"
    return _why_not_sent(journal.structure_set_of(row.id), row, config_path)


def _why_not_sent(structure_set: StructureSetRow, row: ScanRow, config_path: Path) -> str:
    if structure_set.discarded_at is not None:
        return f"was {decision_notice(row, structure_set)}"
    if structure_set.on_hold:
        return (
            f"is held until a person has looked: {structure_set.held}; then: "
            f"{release_command(row, config_path)}"
        )
    if not Path(structure_set.path).is_file():
        return (
            f"has lost its structure set: {structure_set.path} is gone; send the series again from "
            "the scanner, and it is contoured again"
        )
    return ""


def _wake_node(config: Config, console: Console, does: str) -> None:
    """Wake a running node, and print when it acts."""
    if engine_runs(config):
        send_wake(config)
        console.print(f"the node runs and {does} within a second")
    else:
        console.print(f"the node is stopped and {does} when it runs")
