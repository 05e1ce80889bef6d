"""A scan's runs with another bundle, as its page shows and orders them."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.operate.reruns.choices import choices_for
from limn.node.operate.reruns.rerun import ONE_AT_A_TIME, order_rerun
from limn.node.store.disk.rerun_notes import RerunNote, read_rerun_note
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.node.store.remedies import shown_time


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunView:
    """What a scan's page shows of runs with another bundle.

    Attributes
    ----------
    bundles : that may be chosen, by name and version
    why_not : why there is none; completes "this scan ..."
    state, words : of the last order; empty if there was none
    became : the scan that the last order gave; empty if it gave none
    """

    bundles: tuple[str, ...]
    why_not: str
    state: str
    words: str
    became: str


class Reruns:
    """Orders runs, one at a time, and keeps the process that carries it out until it has ended."""

    def __init__(self, config: Config, config_path: Path) -> None:
        self._config = config
        self._config_path = config_path
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def view(self, journal: JournalReader, row: ScanRow) -> RerunView:
        """What the page of a scan shows."""
        found = choices_for(self._config, journal, row)
        note = read_rerun_note(self._config.reruns_dir, row.name)
        order = row.record.get("rerun")
        words = _words(note) if note is not None else ""
        if isinstance(order, dict):
            own = (
                f"It is {order.get('of')} again, contoured with another bundle by order of "
                f"{order.get('by')}: {order.get('why')}."
            )
            words = f"{own} {words}".strip()
        return RerunView(
            bundles=tuple(found.bundles),
            why_not=found.why_not,
            state="" if note is None else note.state,
            words=words,
            became=note.words if note is not None and note.state == "done" else "",
        )

    def order(self, scan: str, bundle: str, *, by: str, why: str) -> None:
        """Have a scan contoured again; errors as `order_rerun`."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                # It may not have begun yet: a second click.
                raise ConfigWrong(ONE_AT_A_TIME)
            self._process = order_rerun(self._config_path, scan, bundle, by=by, why=why)


def _words(note: RerunNote) -> str:
    ordered = f"{note.by} ordered a run with {note.bundle} at {shown_time(note.at)} ({note.why})"
    if note.state == "done":
        return f"{ordered}:"
    if note.state == "failed":
        return f"{ordered}. It FAILED, nothing has changed: {note.words}"
    return f"{ordered}. It {note.words or 'begins'}; this page shows more when it is loaded again."
