"""The shadow's part of a running node: begins the drawing in a lull, and kills it when that ends.

This process loads no network. What draws is a process of its own, which a kill ends within
milliseconds, in the middle of a tile, and whose memory is free then (D-272).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from limn.domain.errors import BundleUnfit, ConfigWrong
from limn.node import oplog
from limn.node.config import Config, load_config
from limn.node.heartbeat import HEART, PATH_VARIABLE
from limn.node.host import lifetime
from limn.node.shadow.backlog import due_scans
from limn.node.shadow.moment import Moment, Step
from limn.node.store.disk import space
from limn.node.store.disk.comparisons import Comparison, write_comparison
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import is_damaged
from limn.node.store.lull import Lull
from limn.node.store.remedies import fault_notice
from limn.node.surprises import Surprises
from limn.segment.bundle.bundle import Bundle, open_bundle

log = logging.getLogger(__name__)

# Between two looks: while the shadow draws a live scan must not wait for the next one.
LOOK_S, IDLE_LOOK_S = 0.05, 0.5
# Which scans are due is asked so often; a delivery takes seconds anyway.
DUE_S = 5.0
# So often the drawing may die by itself over one scan.
DEATHS = 2


def run_shadow(config_path: Path) -> None:
    """Draw delivered scans with the shadow bundle, until the supervisor stops this process.

    Raises
    ------
    ConfigWrong
        If the config names no shadow.
    """
    config = load_config(config_path)
    if config.model.shadow is None:
        raise ConfigWrong("the config has no model.shadow")
    oplog.set_up(config.data_dir, "shadow", config.log)
    stopping = lifetime.stop_on_signal()
    lifetime.end_with_supervisor()
    thread = threading.Thread(
        target=_work, args=(config, config_path, stopping), name="shadow", daemon=True
    )
    lifetime.run_until_stopped([thread], stopping)
    thread.join()


def _work(config: Config, config_path: Path, stopping: threading.Event) -> None:
    HEART.register()
    bundle = _shadow_of(config)
    while not stopping.is_set():
        HEART.moved()
        if bundle is None or not config.journal_path.exists():
            # A challenger that can't be used ends nothing: the node works without it.
            stopping.wait(1.0)
            continue
        with closing(JournalReader(config.journal_path)) as journal:
            _look_on(Shadow(config, config_path, journal, bundle), stopping)


def _look_on(shadow: Shadow, stopping: threading.Event) -> None:
    """Look until the node stops, or its journal is another file."""
    surprises = Surprises()
    try:
        while not stopping.wait(LOOK_S if shadow.draws else IDLE_LOOK_S):
            if shadow.journal.is_replaced():
                return
            try:
                shadow.look()
            except Exception as error:
                shadow.give_up("")
                if is_damaged(error):
                    raise
                if surprises.note(shadow, error):
                    why = fault_notice(error, shadow.journal.path)
                    log.error("the shadow draws nothing: %s", why, exc_info=error)
                stopping.wait(1.0)
            else:
                surprises.is_over(shadow)
                HEART.moved()
    finally:
        shadow.give_up("")


def _shadow_of(config: Config) -> Bundle | None:
    """The shadow bundle; None, with a line in the log, if there is nothing to compare."""
    try:
        bundle = open_bundle(config.model.shadow or config.model.bundle)
        delivers = open_bundle(config.model.bundle)
    except BundleUnfit as error:
        log.error("model.shadow draws nothing: %s", error)
        return None
    if bundle.sha256 == delivers.sha256:
        log.warning("model.shadow is the bundle that delivers: there is nothing to compare")
        return None
    log.info("shadow: bundle %s, %s, draws delivered scans too", bundle.label, bundle.sha256[:12])
    return bundle


def drawing_command(config_path: Path, scans: Sequence[int]) -> list[str]:
    """The command line of the process that draws."""
    return [
        *(sys.executable, "-m", "limn.node.shadow.drawing", str(config_path)),
        *map(str, scans),
    ]


@dataclass(slots=True, eq=False)
class Shadow:
    """Begins and ends the drawing; used by one thread.

    Attributes
    ----------
    command : makes the command line of the drawing
    """

    config: Config
    config_path: Path
    journal: JournalReader
    bundle: Bundle
    command: Callable[[Path, Sequence[int]], list[str]] = drawing_command
    clock: Callable[[], float] = time.monotonic
    _lull: Lull = field(init=False)
    _lull_since_s: float = field(init=False)
    _due: list[ScanRow] = field(default_factory=list)
    _asked_s: float = float("-inf")
    _drawing: subprocess.Popen[bytes] | None = None
    _deaths: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lull = Lull(self.config, self.journal, self.clock)
        self._lull_since_s = self.clock()

    @property
    def draws(self) -> bool:
        """Whether the drawing runs."""
        return self._drawing is not None and self._drawing.poll() is None

    def look(self) -> None:
        """Look once, and do what the moment asks for."""
        if self._drawing is not None and self._drawing.poll() is not None:
            self._after_end(self._drawing)
        broken_by, now_s = self._lull.broken_by() or self._unready(), self.clock()
        if broken_by:
            self._lull_since_s = now_s
        elif not self.draws and now_s - self._asked_s >= DUE_S:
            self._asked_s = now_s
            # What a full disk can't take would be drawn again and again.
            full = space.shortage(self.config)
            self._due = [] if full else due_scans(self.journal, self.config, self.bundle.sha256)
        moment = Moment(
            broken_by=broken_by,
            lull_s=now_s - self._lull_since_s,
            free_bytes=psutil.virtual_memory().available,
            due=len(self._due),
            draws=self.draws,
        )
        step = moment.step()
        if step is Step.GIVE_UP:
            self.give_up(moment.why_not)
        elif step is Step.BEGIN:
            self._begin()

    def _unready(self) -> str:
        """Why a live scan could not be contoured at once, which a shadow would prolong."""
        return "" if self.config.ready_path.exists() else "no worker is ready"

    def give_up(self, why: str) -> None:
        """Kill the drawing; what it has not written is drawn again."""
        drawing, self._drawing = self._drawing, None
        if drawing is None:
            return
        with drawing:
            drawing.kill()
        self._asked_s = float("-inf")
        if why:
            log.info("the shadow gives way: %s", why)

    def _begin(self) -> None:
        scans = [row.id for row in self._due]
        log.info("the shadow %s begins, %d scans are due", self.bundle.label, len(scans))
        self._drawing = subprocess.Popen(  # noqa: S603
            self.command(self.config_path, scans),
            # Its end tells the drawing that this process is gone.
            stdin=subprocess.PIPE,
            # The signs of life are this process's own.
            env={name: value for name, value in os.environ.items() if name != PATH_VARIABLE},
        )

    def _after_end(self, drawing: subprocess.Popen[bytes]) -> None:
        """After the drawing has ended by itself; one scan that ends it again and again is left."""
        self._drawing, self._asked_s = None, float("-inf")
        with drawing:
            # Closes the pipe to it.
            pass
        if drawing.returncode == 0:
            return
        left = due_scans(self.journal, self.config, self.bundle.sha256)
        if not left:
            return
        row = left[0]
        self._deaths[row.id] += 1
        log.error("the shadow's process ended (%s) over %s", drawing.returncode, row.name)
        if self._deaths[row.id] >= DEATHS:
            write_comparison(
                self.config.shadow_dir,
                Comparison(
                    scan=row.id,
                    animal=row.animal,
                    at=time.time(),
                    old=str(row.record.get("bundle", "")),
                    old_sha256=str(row.record.get("bundle_sha256", "")),
                    new=self.bundle.label,
                    new_sha256=self.bundle.sha256,
                    outcome="failed",
                    reason=f"its process ended {DEATHS} times over this scan",
                ),
            )
