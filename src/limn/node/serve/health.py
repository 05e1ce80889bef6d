"""Whether the next scan would be contoured and delivered, and what a person should look at.

A fault means that the next scan would not be contoured now: the node is not ready. A concern means
that the node works and something beside it does not: the node is degraded.
"""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

from limn.domain.errors import ConfigWrong
from limn.node import heartbeat
from limn.node.config import Config
from limn.node.host.expiry import expiry, given_certificates
from limn.node.serve.destinations import destination_states
from limn.node.store.disk import space
from limn.node.store.journal.edits.words import drift_words
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import JournalBusy, JournalError

# A query waits so long while another process writes.
PROBE_S = 2.0
# The check reads the whole journal.
INTEGRITY_EVERY_S = 600.0
# Certificates change by hand.
CERTIFICATES_EVERY_S = 600.0
# With less than so many times the space below which senders are refused, a person has time left.
SHORT_FACTOR = 2


class NodeState(StrEnum):
    """What `/health` says first."""

    READY = "ready"
    DEGRADED = "degraded"
    NOT_READY = "not ready"


class Cause(StrEnum):
    """Why a node is not ready or degraded: a stable word for programs."""

    PROCESS_DOWN = "process-down"
    PROCESS_SILENT = "process-silent"
    PROCESS_LOOPS = "process-loops"
    PORT_CLOSED = "port-closed"
    NO_WORKER = "no-worker"
    JOURNAL_DAMAGED = "journal-damaged"
    DISK_FULL = "disk-full"
    BOARD_DOWN = "board-down"
    SHADOW_DOWN = "shadow-down"
    THREAD_SILENT = "thread-silent"
    PROCESS_RESTARTS = "process-restarts"
    DESTINATION_DOWN = "destination-down"
    HELD_LONG = "held-long"
    DISK_SHORT = "disk-short"
    CERTIFICATE_ENDS = "certificate-ends"
    CONTOURS_DRIFT = "contours-drift"


# Nobody's scan waits for these processes.
NOT_WAITED_FOR = {"board": Cause.BOARD_DOWN, "shadow": Cause.SHADOW_DOWN}
# The causes with which a node still contours.
DEGRADING = frozenset(
    {
        Cause.BOARD_DOWN,
        Cause.SHADOW_DOWN,
        Cause.THREAD_SILENT,
        Cause.PROCESS_RESTARTS,
        Cause.DESTINATION_DOWN,
        Cause.HELD_LONG,
        Cause.DISK_SHORT,
        Cause.CERTIFICATE_ENDS,
        Cause.CONTOURS_DRIFT,
    }
)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong, as a word and as a sentence."""

    cause: Cause
    text: str

    @property
    def state(self) -> NodeState:
        """What the node is by this reason alone."""
        return NodeState.DEGRADED if self.cause in DEGRADING else NodeState.NOT_READY


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One child of the supervisor.

    Attributes
    ----------
    silence : says that it runs and its work stands still
    loop : says that it ends again and again soon after its start
    often : says that it ended often within the last hour
    pid : None if it does not run
    """

    name: str
    up: bool
    restarts: int
    silence: str = ""
    loop: str = ""
    often: str = ""
    pid: int | None = None


def state_of(reasons: Sequence[Reason]) -> NodeState:
    """What the node is by all its reasons."""
    states = {reason.state for reason in reasons}
    if NodeState.NOT_READY in states:
        return NodeState.NOT_READY
    return NodeState.DEGRADED if states else NodeState.READY


class Health:
    """Looks at this host's part of a node, at every request."""

    def __init__(self, config: Config, processes: Callable[[], Sequence[ProcessState]]) -> None:
        self._config = config
        self._processes = processes
        self._lock = threading.Lock()
        self._sound = True
        self._checked_s = float("-inf")
        self._certificates: tuple[float, tuple[Reason, ...]] = float("-inf"), ()

    def reasons(self) -> list[Reason]:
        """All that is wrong, what keeps scans from being contoured first; empty if all is well."""
        found = [*self._of_processes(), *self._of_threads()]
        if self.receives:
            found += [*self._of_door(), *self._of_disk(), *self._of_register()]
        found += self._of_certificates()
        return sorted(found, key=lambda reason: reason.cause in DEGRADING)

    @property
    def receives(self) -> bool:
        """Whether receiver and engine run on this host; one of workers alone can't lack them."""
        return any(each.name == "receiver" for each in self._processes())

    def workers(self) -> int:
        """How many warm workers the engine knows."""
        try:
            count = self._config.ready_path.read_text(encoding="utf-8").strip()
        except OSError:
            return 0
        return int(count) if count.isdigit() else 1

    def journal(self) -> JournalReader:
        """The journal, for a moment.

        Raises
        ------
        JournalError
            If it can't be opened or read.
        """
        return JournalReader(self._config.journal_path, PROBE_S)

    def journal_sound(self) -> bool:
        """Whether the journal is undamaged, as far as the last look shows."""
        with self._lock:
            now_s = time.monotonic()
            if not self._config.journal_path.exists():
                return True
            # A damaged journal stays so until the node starts again.
            if self._sound and now_s >= self._checked_s + INTEGRITY_EVERY_S:
                self._sound = self._quick_check()
                self._checked_s = now_s
            return self._sound

    def _quick_check(self) -> bool:
        try:
            with closing(self.journal()) as journal:
                return journal.is_sound()
        except JournalBusy:
            # Locked for a moment, or it can't be opened: that says nothing about its contents.
            return True
        except JournalError:
            return False

    def _of_processes(self) -> Iterator[Reason]:
        for each in self._processes():
            own = NOT_WAITED_FOR.get(each.name)
            if not each.up:
                yield Reason(own or Cause.PROCESS_DOWN, f"{each.name} does not run")
            if each.silence:
                yield Reason(own or Cause.PROCESS_SILENT, each.silence)
            if each.loop:
                yield Reason(own or Cause.PROCESS_LOOPS, each.loop)
            elif each.often:
                yield Reason(Cause.PROCESS_RESTARTS, each.often)

    def _of_threads(self) -> Iterator[Reason]:
        for name, silent_s in heartbeat.silent_now(self._config.heartbeats_dir).items():
            text = f"{name} has given no sign of life for {silent_s:.0f} s"
            yield Reason(Cause.THREAD_SILENT, text)

    def _of_door(self) -> Iterator[Reason]:
        receive = self._config.receive
        if not _is_taken(receive.host, receive.port):
            text = f"nothing listens on {receive.host}:{receive.port}"
            yield Reason(Cause.PORT_CLOSED, text)
        if not self.workers():
            yield Reason(Cause.NO_WORKER, "no warm worker")
        if not self.journal_sound():
            path = self._config.journal_path
            text = f"{path} is damaged; start limn again, which sets it aside"
            yield Reason(Cause.JOURNAL_DAMAGED, text)

    def _of_disk(self) -> Iterator[Reason]:
        """Only for a host that receives: one with workers alone needs no room for scans."""
        folder, refuse_mb = self._config.data_dir, self._config.receive.refuse_free_mb
        try:
            if short := space.shortage(self._config):
                yield Reason(Cause.DISK_FULL, short)
                return
            free_mb = shutil.disk_usage(folder).free // 2**20
        except OSError as error:
            yield Reason(Cause.DISK_FULL, f"{folder} can't be reached ({error.strerror})")
            return
        if free_mb < SHORT_FACTOR * refuse_mb:
            text = (
                f"{folder} has {free_mb} MB free; below {refuse_mb} new associations are refused "
                "(receive.refuse_below_mb): free some space"
            )
            yield Reason(Cause.DISK_SHORT, text)

    def _of_register(self) -> Iterator[Reason]:
        if not self._config.journal_path.exists():
            return
        now, limits = time.time(), self._config.health
        try:
            with closing(self.journal()) as journal:
                destinations = destination_states(self._config, journal)
                held_at = journal.oldest_held_at()
                drifts = [each for each in journal.drifts() if each.since is not None]
        except JournalError:
            # One that is damaged is named; a lock passes.
            return
        for each in destinations:
            if each.down_s(now) > limits.destination_limit_s:
                text = (
                    f"{each.name} has taken nothing for {minutes(each.down_s(now))}, and "
                    f"{each.waiting} structure set{'s wait' if each.waiting > 1 else ' waits'} for "
                    f"it; it last said: {each.contact.said}"
                )
                yield Reason(Cause.DESTINATION_DOWN, text)
        if held_at is not None and now - held_at > limits.held_limit_s:
            text = (
                f"a structure set has been held for {minutes(now - held_at)}: a person must look "
                "at it (limn release, or the board)"
            )
            yield Reason(Cause.HELD_LONG, text)

        for drift in drifts:
            yield Reason(Cause.CONTOURS_DRIFT, drift_words(drift))

    def _of_certificates(self) -> tuple[Reason, ...]:
        now_s = time.monotonic()
        if now_s >= self._certificates[0] + CERTIFICATES_EVERY_S:
            self._certificates = now_s, tuple(self._read_certificates())
        return self._certificates[1]

    def _read_certificates(self) -> Iterator[Reason]:
        for key, path in given_certificates(self._config):
            try:
                expiry(path)
            except (ConfigWrong, OSError) as error:
                yield Reason(Cause.CERTIFICATE_ENDS, f"{key}: {error}")


def minutes(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _is_taken(host: str, port: int) -> bool:
    """Whether a process listens there, without a connection.

    A receiver with TLS or with a list of networks would log a warning for each connection.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            # A closed connection may linger; on Windows this option would share the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
