"""Signs of life of a process: a small file that its working threads keep writing.

The supervisor gives each child the path of a file. The child writes it every second, and only
while each of its registered threads moves: no thread that outlives the work writes it. The file
says how long the process may be silent.

A thread whose silence must not end its process has a file of its own (`for_thread`), and so has
the supervisor: people are told of their silence, and nobody ends them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from limn.domain.files import OWNER_ONLY_FILE
from limn.domain.one_line import name_from

PATH_VARIABLE = "LIMN_HEARTBEAT"
EVERY_S = 1.0
# After this silence the health page and `limn queue` name the process.
SILENT_S = 5.0
# After this silence it is started again, unless the process itself allows another time.
LIMIT_S = 60.0
# A start may read a spool of many scans, or load and rehearse networks on a processor.
START_LIMIT_S = 1800.0
NOT_BEGUN = 0.0
# Ending of the file of a thread, or of the supervisor.
THREAD = ".thread"
# After a step of the clock a thread that moves has written its file anew within this time.
LOOK_AGAIN_S = 1.5 * EVERY_S
_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Heart:
    """Writes the file of this process while all its registered threads move.

    Parameters
    ----------
    path : None if no supervisor looks; then nothing is written
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.monotonic,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._path = path
        self._clock = clock
        self._limit_s = limit_s
        self._moved_s: dict[int, float] = {}
        self._written_s = float("-inf")

    def register(self) -> None:
        """From now on this thread must move, or the process counts as silent."""
        self._moved_s[threading.get_ident()] = self._clock()

    def moved(self) -> None:
        """Note that this thread moves; without effect if it is not registered."""
        thread = threading.get_ident()
        if thread in self._moved_s:
            self._moved_s[thread] = self._clock()

    def allow(self, limit_s: float) -> None:
        """Let the process be silent for so long before it is started again."""
        self._limit_s = limit_s
        self._write()

    @contextmanager
    def allowing(self, limit_s: float) -> Iterator[None]:
        """Allow a longer silence within the ``with`` block."""
        before = self._limit_s
        self.allow(limit_s)
        try:
            yield
        finally:
            self.allow(before)

    def beat(self) -> None:
        """Write the file if every registered thread has moved since it was last written."""
        now_s = self._clock()
        if min(self._moved_s.values(), default=now_s) > self._written_s and (
            now_s >= self._written_s + EVERY_S
        ):
            self._written_s = now_s
            self._write()

    def end(self) -> None:
        """Give no more signs, and let nobody wait for them."""
        if self._path is not None:
            _remove(self._path)

    def _write(self) -> None:
        if self._path is not None:
            _write(self._path, self._limit_s)


def _write(path: Path, limit_s: float) -> bool:
    """Write the file; False if the disk does not take it."""
    # Without a file a process is never judged.
    with suppress(OSError):
        # Always as many bytes in the same place: most full disks take them too.
        file = os.open(path, _FLAGS, OWNER_ONLY_FILE)
        try:
            os.write(file, b"%09.1f\n" % limit_s)
        finally:
            os.close(file)
        return True
    return False


_given = os.environ.get(PATH_VARIABLE)
# The heart of this process.
HEART = Heart(Path(_given) if _given else None)


def for_thread(name: str, limit_s: float = SILENT_S) -> Heart:
    """A heart for one thread of this process, which is named after ``limit_s``, never ended."""
    path = Path(_given).with_name(name_from(name.replace("/", "_")) + THREAD) if _given else None
    return Heart(path, limit_s=limit_s)


def clear(folder: Path) -> None:
    """Remove what an earlier run of the node left: it says nothing of this one."""
    with suppress(OSError):
        for path in folder.iterdir():
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


@dataclass(slots=True)
class ProcessWatch:
    """How long one process has been silent, as its supervisor sees it.

    Its own pauses don't count: it may be stopped, or the machine asleep, together with the child.
    """

    path: Path
    silent_s: float = 0.0
    _limit_s: float | None = None
    _seen: tuple[int, bytes] | None = None
    _looked_s: float = 0.0

    def begin(self, now_s: float) -> None:
        """The process starts now: it is judged from its first beat on."""
        self.silent_s, self._limit_s, self._looked_s = 0.0, None, now_s
        _write(self.path, NOT_BEGUN)
        self._seen = _read(self.path)

    def end(self) -> None:
        """The process ends or has ended: it is judged no more."""
        self.silent_s, self._limit_s = 0.0, None
        _remove(self.path)

    def look(self, now_s: float) -> None:
        """Read the file; called again and again. Times are of a monotonic clock."""
        found = _read(self.path)
        if found is None or found != self._seen:
            self.silent_s = 0.0
            self._seen = found
            self._limit_s = None if found is None else allowed_s(found[1])
        else:
            self.silent_s += min(now_s - self._looked_s, EVERY_S)
            if self.silent_s > self.limit_s and not _write(self.path, self._limit_s or NOT_BEGUN):
                # A full disk that copies on writing (Btrfs, ZFS), or one that went read-only, takes
                # nobody's signs of life: silence says nothing.
                self.silent_s = 0.0
        self._looked_s = now_s

    @property
    def is_silent(self) -> bool:
        """Whether its work stands still; never before its first beat."""
        return self._limit_s is not None and self.silent_s > SILENT_S

    @property
    def limit_s(self) -> float:
        """After this silence the process is started again."""
        return START_LIMIT_S if self._limit_s is None else self._limit_s


def silent_now(folder: Path, processes: Iterable[str] = ()) -> dict[str, float]:
    """The threads with a file of their own, and of these processes those, that are silent.

    They are looked at twice, so that a step of the clock makes nobody silent. For other processes
    than the supervisor.

    Returns
    -------
    The seconds of silence by name.
    """
    found = _silent(folder, processes)
    if found:
        time.sleep(LOOK_AGAIN_S)
        found = {name: s for name, s in _silent(folder, processes).items() if name in found}
    return found


def _silent(folder: Path, processes: Iterable[str]) -> dict[str, float]:
    now, found = time.time(), {}
    allowed = dict.fromkeys(processes, SILENT_S)
    for path in sorted(folder.glob(f"*{THREAD}")):
        read = _read(path)
        allowed[path.name] = (allowed_s(read[1]) if read else None) or SILENT_S
    for name, limit_s in allowed.items():
        silent_s = silent_since(folder / name, now)
        if silent_s is not None and silent_s > max(limit_s, SILENT_S):
            found[name.removesuffix(THREAD)] = silent_s
    return found


def silent_since(path: Path, now: float) -> float | None:
    """Seconds since the last beat, by the wall clock; None if the process is not judged.

    For other processes than the supervisor. If the clock was set, this is right within a second.
    """
    found = _read(path)
    if found is None or allowed_s(found[1]) is None:
        return None
    return abs(now - found[0] / 1e9)


def allowed_s(contents: bytes) -> float | None:
    """The silence that the file allows, in seconds; None before the first beat."""
    try:
        limit_s = float(contents)
    except ValueError:
        return None
    return None if limit_s == NOT_BEGUN else limit_s


def _read(path: Path) -> tuple[int, bytes] | None:
    """When the file was written (ns, wall clock) and its contents; None if it can't be read."""
    try:
        return path.stat().st_mtime_ns, path.read_bytes()
    except OSError:
        return None
