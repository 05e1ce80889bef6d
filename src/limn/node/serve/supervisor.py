"""The supervisor: every process of this host started, restarted when it dies, stopped in order."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from limn.domain.errors import ConfigWrong, LimnError
from limn.node import heartbeat, oplog
from limn.node.config import Config, load_config
from limn.node.contour.site_bundle import deliverable_bundle
from limn.node.dimse.tls import check_keys
from limn.node.host import engine_tls
from limn.node.host.lifetime import stop_on_signal
from limn.node.host.processes import Part, name_of, processes
from limn.node.permissions import make_private_folder
from limn.node.promotions import Promotion, end_wait
from limn.node.restarts import RestartLoop
from limn.node.serve.board_check import check_board_files
from limn.node.serve.child import ChildProcess
from limn.node.serve.health import ProcessState
from limn.node.serve.journal_watch import JournalWatch
from limn.node.serve.lock import only_node
from limn.node.serve.metrics import prometheus
from limn.node.serve.ports import check_ports
from limn.node.serve.switch import BundleSwitch, promoted_config
from limn.node.store.disk import space
from limn.node.store.journal.schema import JournalError, check_not_newer
from limn.node.store.salvage import replace_damaged
from limn.node.surprises import LONGEST_PAUSE_S

log = logging.getLogger(__name__)

# A process may take this long to end if it has no scan in hand, or has just got the last one back.
STOP_S = 60.0
# A process whose journal is gone has nothing to finish.
STOP_WITHOUT_JOURNAL_S = 2.0


class Supervisor:
    """Runs every process of this host for as long as it runs itself.

    Parameters
    ----------
    only : one part of a node whose other parts run on other hosts
    """

    def __init__(self, config_path: Path, only: Part | None = None) -> None:
        self._config_path = config_path.resolve()
        self._config = load_config(config_path)
        self._only = only
        self._switch = BundleSwitch(self._config, receives=name_of(only) == "limn")
        # A promotion that was taken up while no worker is warm with it yet.
        self._on_trial: Promotion | None = None

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then drain.

        Raises
        ------
        ConfigWrong
            If another node already uses this data folder, or a newer limn made its journal.
        BundleUnfit
            If the bundle can't be used here.
        """
        config = self._config
        name = name_of(self._only)
        children = self._children()
        space.try_writing(config)
        oplog.set_up(config.data_dir, name, config.log)
        with only_node(config, name):
            self._take_up_promotion(children)
            self._prepare(name)
            watch = JournalWatch(config.journal_path)
            signs = config.heartbeat_path(f"supervisor {name}{heartbeat.THREAD}")
            heart = heartbeat.Heart(signs, limit_s=heartbeat.SILENT_S)
            stopping = stop_on_signal()
            try:
                with prometheus.serving(config, lambda: [_state_of(child) for child in children]):
                    while not stopping.wait(0.1):
                        heart.beat()
                        if name == "limn" and watch.is_replaced():
                            heart.end()
                            self._restore_journal(children, watch)
                            continue
                        if self._switch.is_due():
                            self._take_up_promotion(children, name)
                        if self._on_trial is not None:
                            self._try_promoted(self._on_trial, children, name)
                        for child in children:
                            child.keep_alive()
            finally:
                heart.end()
                self._switch.close()
                watch.close()
                self._stop(children)
                self._clear_ready(name)
            log.info("stopped")

    def _children(self) -> list[ChildProcess]:
        found = processes(self._config, self._config_path, self._only)
        return [
            ChildProcess(
                each.name,
                each.command,
                each.environment,
                heartbeat.ProcessWatch(self._config.heartbeat_path(each.name)),
                RestartLoop(each.name, self._config.restarts_path(each.name)),
            )
            for each in found
        ]

    def _prepare(self, name: str) -> None:
        """Check bundle, keys, ports and disk, and leave nothing of an earlier run in the way."""
        config = self._config
        bundle = None if self._only == "scheduler" else deliverable_bundle(config)
        if name == "limn":
            check_keys(config)
            check_board_files(config)
        check_ports(config, self._only)
        if bundle is not None:
            log.info("bundle %s, %s", bundle.label, bundle.sha256[:12])
            if name == "limn":
                check_not_newer(config.journal_path)
                replace_damaged(config, bundle.sha256)
        if shortage := space.shortage(config):
            # It starts all the same: what is in the journal still goes out.
            log.error("%s", shortage)
        self._clear_ready(name)
        with suppress(OSError):
            # A start may need more room than there is; then nobody looks for signs of life.
            make_private_folder(config.heartbeats_dir)
            if name == "limn":
                heartbeat.clear(config.heartbeats_dir)
        engine_tls.prepare(config)

    def _restore_journal(self, children: list[ChildProcess], watch: JournalWatch) -> None:
        """Restore a journal that was deleted or replaced, while no process has it open."""
        log.critical(
            "%s was deleted or replaced while the node runs; receiver and engine are stopped, it "
            "is restored from the disk, and they are started again",
            self._config.journal_path,
        )
        for child in children:
            if child.name in ("receiver", "engine"):
                # One that closes its journal would write its log into a backup that was put there.
                child.stop(0.0 if watch.is_overwritten() else STOP_WITHOUT_JOURNAL_S)
        try:
            replace_damaged(self._config, deliverable_bundle(self._config).sha256)
        except (LimnError, OSError, JournalError) as error:
            log.error("the journal can't be restored (%s); it is tried again", error)
            time.sleep(1.0)
        except Exception:
            # What lies on the disk must not end the supervisor.
            log.exception("the journal can't be restored; it is tried again. Please report it")
            time.sleep(LONGEST_PAUSE_S)
        else:
            watch.accept()

    def _take_up_promotion(self, children: list[ChildProcess], name: str = "") -> None:
        """Let a promoted bundle deliver; every process starts again with it (D-273).

        Until then no process reads of it: one that is started again meanwhile has the same bundle
        as the others.

        Parameters
        ----------
        name : of this host's part, if its processes run
        """
        try:
            found = promoted_config(self._config_path, self._config.data_dir)
            if found is None:
                return
            promotion, config = found
            if name:
                if self._switch.lull_is_over():
                    # Slices came while every file of the bundle was verified.
                    return
                self._stop(children)
                self._clear_ready(name)
            taken = end_wait(config.data_dir, promotion, time.time())
        except (ConfigWrong, OSError) as error:
            # A full disk, or a file that was damaged meanwhile: the bundle before goes on.
            log.error("a promoted bundle waits: %s; it is tried again", error)
            self._switch.rest()
            return
        if taken is None:
            log.warning("%s was withdrawn while the processes stopped", promotion.label)
            return
        log.warning(
            "bundle %s, %s, delivers from now on in the place of %s: %s: %s",
            *(taken.label, taken.sha256[:12], taken.instead_label, taken.by, taken.why),
        )
        self._config = config
        children[:] = self._children()
        # A host of several has no workers, or can't see that they are warm.
        self._on_trial = taken if self._only is None else None

    def _try_promoted(self, promotion: Promotion, children: list[ChildProcess], name: str) -> None:
        """End the trial of a promoted bundle: it is warm, or no worker can load it.

        Then the bundle before delivers again, and the promotion says why (D-273).
        """
        if self._config.ready_path.exists():
            self._on_trial = None
            return
        loops = [each.loop.line for each in children if each.loop is not None]
        why = next((line for line in loops if line.startswith("worker")), "")
        if not why:
            return
        self._on_trial = None
        try:
            refused = f"given up: {why}"
            if end_wait(self._config.data_dir, promotion, time.time(), refused) is None:
                return
            config = load_config(self._config_path)
        except (ConfigWrong, OSError) as error:
            log.critical(
                "bundle %s can't be given up (%s): mend that, then limn models promote --back",
                *(promotion.label, error),
            )
            return
        log.critical(
            "bundle %s is given up and %s delivers again: %s",
            *(promotion.label, promotion.instead_label, why),
        )
        self._stop(children)
        self._clear_ready(name)
        self._config = config
        children[:] = self._children()

    def _clear_ready(self, name: str) -> None:
        if name == "limn":
            self._config.ready_path.unlink(missing_ok=True)

    def _stop(self, children: list[ChildProcess]) -> None:
        """Stop in the order of a scan: the receiver, dispatch and delivery, the workers."""
        log.info("stopping: no new scans; finishing what runs")
        for child in reversed(children):
            child.stop(drain_s(self._config, child.name))
            if child.loop is not None:
                child.loop.is_over()


def drain_s(config: Config, process: str) -> float:
    """How long a process may take to end; the engine as long as a scan that runs may take."""
    return STOP_S + (config.engine.deadline_s if process == "engine" else 0.0)


def _state_of(child: ChildProcess) -> ProcessState:
    loop, often = ("", "") if child.loop is None else (child.loop.line, child.loop.often)
    return ProcessState(
        child.name, child.runs, child.restarts, child.silence, loop, often, child.pid
    )
